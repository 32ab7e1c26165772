"""Conversations: their form in text, the same as a chat template for model files, and their tokens for training."""

# As transformers and llama.cpp render it. A system message is text before the first turn; the end-of-text token ends an
# answer, and so a turn.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{{ message['content'] | trim + '\\n' }}
{%- elif message['role'] == 'user' -%}{{ 'User: ' + message['content'] | trim + '\\n' }}
{%- else -%}{{ 'Assistant: ' + message['content'] | trim + eos_token }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}
"""


def messages_of(record):
    """The messages of one line of a .jsonl file: a dialogue, a question with its answer, or an instruction. None for
    what is no conversation."""
    if "messages" in record:
        return record["messages"]
    if "question" in record:
        return [message("user", record["question"]), message("assistant", record["answer"])]
    if "instances" in record:
        instance = record["instances"][0]
        request = "\n".join(part.strip() for part in (record["instruction"], instance["input"]) if part.strip())
        return [message("user", request), message("assistant", instance["output"])]
    return None


def message(role, content):
    return {"role": role, "content": content}


def plain_text(messages):
    """A conversation as a document, without tokens that end turns."""
    return "".join(f"{m['role'].capitalize()}: {m['content'].strip()}\n" for m in messages)


def tokens_of(messages, tokenizer):
    """(ids, scored): scored is 1 for the tokens of answers, the end-of-text token after each included. Where a message has
    a `value`, only these words of its content are scored."""
    ids, scored = [], []

    def add(tokens, score):
        ids.extend(tokens)
        scored.extend([score] * len(tokens))

    before = ""
    for m in messages:
        content = m["content"].strip()
        if m["role"] == "assistant":
            add(tokenizer.encode(before + "Assistant:"), 0)
            known, value, rest = (" " + content).partition(" " + m.get("value", content))
            add(tokenizer.encode(known), 0)
            add(tokenizer.encode(value), 1)
            add([*tokenizer.encode(rest), tokenizer.end_of_text], 0 if rest else 1)
            before = ""
        else:
            before += f"User: {content}\n" if m["role"] == "user" else content + "\n"
    return ids, scored
