/**
 * Makes GGUF files from Hugging Face model folders.
 *
 * <p>The facts about Hugging Face's formats are taken from transformers and from llama.cpp's own converter; what a folder
 * says and this package does not know is an error that names it, never ignored.
 */
@NullMarked
package io.kvfold.convert;

import org.jspecify.annotations.NullMarked;
