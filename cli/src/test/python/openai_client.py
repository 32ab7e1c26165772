"""Talks to a server as a program for OpenAI does, and prints what came. Argument: the base URL; the key is "secret"."""

import json
import sys

from openai import AuthenticationError, OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="secret", max_retries=0)
question = [{"role": "user", "content": "What is the capital of France?"}]
common = {"model": "smollm2", "temperature": 0}

print("models", *(model.id for model in client.models.list()))
try:
    OpenAI(base_url=sys.argv[1], api_key="wrong", max_retries=0).chat.completions.create(messages=question, **common)
except AuthenticationError as error:
    print("wrong key", type(error).__name__)

answer = client.chat.completions.create(messages=question, max_tokens=40, **common)
print("chat", answer.choices[0].message.content, answer.usage.completion_tokens)

chunks = client.chat.completions.create(messages=question, max_tokens=40, stream=True, **common)
print("stream", "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))

answer = client.chat.completions.create(messages=question, max_tokens=5, **common)
print("n", answer.usage.completion_tokens, answer.choices[0].finish_reason)

schema = {
    "name": "place",
    "schema": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]},
}
answer = client.chat.completions.create(
    messages=question,
    response_format={"type": "json_schema", "json_schema": schema},
    max_tokens=64,
    **common,
)

print("schema", *json.loads(answer.choices[0].message.content))
