/**
 * Reading and writing of GGUF, the file format of llama.cpp, and what such a file says about memory.
 *
 * <p>Everything here is plain Java and works without the native library.
 *
 * @see <a href="https://github.com/ggml-org/ggml/blob/master/docs/gguf.md">the format</a>
 */
@NullMarked
package io.kvfold.gguf;

import org.jspecify.annotations.NullMarked;
