"""Uses a server as programs for OpenAI do. Arguments: the URL of a chat model, whose key is "secret", its name, the URL of an
embedding model.

Prints "ok NAME" for what holds, and fails where something does not.
"""

import json
import sys
from enum import Enum

from openai import APIStatusError, AuthenticationError, OpenAI
from pydantic import BaseModel

URL, MODEL, EMBEDDING_URL = sys.argv[1:]
client = OpenAI(base_url=URL + "/v1", api_key="secret", max_retries=0, timeout=120)

FRANCE = [{"role": "user", "content": "Please tell me: what is the capital city of France?"}]


def tool(name, description, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    tool("get_weather", "Tells the weather of a city", city={"type": "string", "maxLength": 20}),
    tool("get_time", "Tells the time in a zone", zone={"enum": ["UTC", "CET"]}),
]


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Place(BaseModel):
    size: Size
    inhabitants: int


def ask(messages=FRANCE, max_tokens=64, **more):
    return client.chat.completions.create(**{"model": MODEL, "messages": messages, "max_tokens": max_tokens, "temperature": 0, **more})


def text_of(answer):
    return answer.choices[0].message.content


def check_calls(calls, finish_reason, names):
    assert calls and finish_reason == "tool_calls", (calls, finish_reason)
    for call in calls:
        assert call.id and call.function.name in names, call
        assert json.loads(call.function.arguments).keys() == {"city" if call.function.name == "get_weather" else "zone"}, call
    return calls


def calls(answer, *names):
    return check_calls(answer.choices[0].message.tool_calls, answer.choices[0].finish_reason, names)


def refused(problem, **request):
    try:
        ask(**request)
    except APIStatusError as error:
        assert problem in str(error), error
    else:
        raise AssertionError(f"{request} was taken")


def keys():
    assert [model.id for model in client.models.list()] == [MODEL]
    try:
        OpenAI(base_url=URL + "/v1", api_key="wrong", max_retries=0).chat.completions.create(model=MODEL, messages=FRANCE)
    except AuthenticationError:
        return
    raise AssertionError("a wrong key was taken")


def chat():
    answer = ask()
    assert len(text_of(answer)) > 20 and answer.usage.completion_tokens > 5, answer
    short = ask(max_tokens=5)
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (5, "length"), short
    assert text_of(answer).startswith(text_of(short)), short
    word = text_of(answer)[10:14]
    stopped = ask(stop=[word])
    assert text_of(stopped) == text_of(answer).split(word)[0] and stopped.choices[0].finish_reason == "stop", stopped
    system = [{"role": "system", "content": "You answer in one word. " * 20}]
    assert ask(system + FRANCE).usage.prompt_tokens > answer.usage.prompt_tokens


def stream():
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = ask()
    assert text == text_of(whole) and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens, chunks
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 5, chunks


def tools_required():
    calls(ask(tools=TOOLS, tool_choice="required", max_tokens=200), "get_weather", "get_time")


def tools_named():
    for name in "get_weather", "get_time":
        calls(ask(tools=TOOLS, tool_choice={"type": "function", "function": {"name": name}}, max_tokens=200), name)
    refused("no_tool", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "no_tool"}})


def tools_allowed():
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_time"}}]}
    calls(ask(tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": allowed}, max_tokens=200), "get_time")


def tools_named_in_a_stream():
    request = {"model": MODEL, "messages": FRANCE, "tools": TOOLS, "temperature": 0, "max_tokens": 200}
    with client.chat.completions.stream(**request, tool_choice={"type": "function", "function": {"name": "get_time"}}) as events:
        calls(events.get_final_completion(), "get_time")


def tools_none():
    answer = ask(tools=TOOLS, tool_choice="none")
    assert answer.choices[0].message.tool_calls is None and text_of(answer), answer


def tools_parallel_off():
    weather = [{"role": "user", "content": "What is the weather in Paris, in Rome, in Oslo and in Bern? Ask for each."}]
    answer = ask(weather, 400, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert len(calls(answer, "get_weather", "get_time")) == 1, answer


def tools_cut_off():
    for limit in 4, 12, 20:
        answer = ask(max_tokens=limit, tools=TOOLS[:1], tool_choice="required")
        if answer.choices[0].finish_reason == "length":
            assert answer.choices[0].message.tool_calls is None, answer


def tool_results():
    call = calls(ask(tools=TOOLS, tool_choice="required", max_tokens=200), "get_weather", "get_time")[0]
    result = [
        {"role": "assistant", "tool_calls": [call.model_dump(include={"id", "type", "function"})]},
        {"role": "tool", "tool_call_id": call.id, "content": "sunny, with a light wind from the west"},
    ]
    answer = ask(FRANCE + result, tools=TOOLS, tool_choice="none")
    assert text_of(answer) and answer.usage.prompt_tokens > ask(tools=TOOLS, tool_choice="none").usage.prompt_tokens + 10, answer


def schema_of(model):
    return {"type": "json_schema", "json_schema": {"name": "place", "schema": model.model_json_schema(), "strict": True}}


def response_format():
    place = Place.model_validate_json(text_of(ask(response_format=schema_of(Place), max_tokens=100)))
    assert place.size in Size
    assert isinstance(json.loads(text_of(ask(response_format={"type": "json_object"}, max_tokens=200))), dict)
    refused("if", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"if": {"minimum": 3}, "then": False}}})


def parse():
    answer = client.chat.completions.parse(model=MODEL, messages=FRANCE, max_tokens=100, temperature=0, response_format=Place)
    assert isinstance(answer.choices[0].message.parsed, Place), answer


def logprobs():
    content = ask(max_tokens=4, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(content) == 4, content
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3, token
        assert token.top_logprobs[0].token == token.token, token  # temperature 0 takes the likeliest
    assert "".join(token.token for token in content) == text_of(ask(max_tokens=4))


def n():
    answer = ask(n=2, temperature=1, seed=1, max_tokens=30)
    assert [choice.index for choice in answer.choices] == [0, 1], answer
    texts = {choice.message.content for choice in answer.choices}
    assert len(texts) == 2 and all(texts), texts


def completions():
    answer = client.completions.create(model=MODEL, prompt="Once upon a", max_tokens=8, temperature=0)
    assert answer.choices[0].text and answer.usage.completion_tokens == 8, answer


def responses():
    answer = client.responses.create(model=MODEL, input=FRANCE[0]["content"], max_output_tokens=40, temperature=0)
    assert answer.output_text and answer.output_text == text_of(ask(max_tokens=40)), answer
    instructed = client.responses.create(model=MODEL, input="Hello", instructions="You answer in one word. " * 20, max_output_tokens=4, temperature=0)
    plain = client.responses.create(model=MODEL, input="Hello", max_output_tokens=4, temperature=0)
    assert instructed.usage.input_tokens > plain.usage.input_tokens, instructed


def responses_in_a_stream():
    with client.responses.stream(model=MODEL, input=FRANCE[0]["content"], max_output_tokens=40, temperature=0) as events:
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == text_of(ask(max_tokens=40)), text


def responses_with_a_format():
    request = {"model": MODEL, "max_output_tokens": 100, "temperature": 0}
    schema = {"type": "json_schema", "name": "place", "schema": Place.model_json_schema(), "strict": True}
    answer = client.responses.create(input=FRANCE[0]["content"], text={"format": schema}, **request)
    Place.model_validate_json(answer.output_text)
    assert isinstance(client.responses.parse(input=FRANCE, text_format=Place, **request).output_parsed, Place)


def responses_with_tools():
    tools = [{"type": "function", **each["function"], "strict": True} for each in TOOLS]
    request = {"model": MODEL, "input": FRANCE[0]["content"], "tools": tools, "max_output_tokens": 200, "temperature": 0}
    for choice, names in ("required", {"get_weather", "get_time"}), ({"type": "function", "name": "get_time"}, {"get_time"}):
        found = [item for item in client.responses.create(tool_choice=choice, **request).output if item.type == "function_call"]
        assert found and all(item.name in names and json.loads(item.arguments) for item in found), found


def embeddings():
    embedding = OpenAI(base_url=EMBEDDING_URL + "/v1", api_key="secret", max_retries=0)
    texts = ["a dog", "a dog", "the price of bread"]
    for encoding in "float", "base64":  # the second is the client's own default, which it decodes
        data = embedding.embeddings.create(model=MODEL, input=texts, encoding_format=encoding).data
        if encoding == "float":
            vectors = [item.embedding for item in data]
            assert vectors[0] == vectors[1] != vectors[2] and abs(sum(x * x for x in vectors[0]) - 1) < 1e-3, vectors
    again = embedding.embeddings.create(model=MODEL, input=texts).data
    assert max(abs(x - y) for x, y in zip(again[2].embedding, vectors[2])) < 1e-5, again


def errors():
    refused("max_tokens", max_tokens=0)
    refused("temperature", temperature=-1)
    refused("wizard", messages=[{"role": "wizard", "content": "x"}])
    refused("context", messages=[{"role": "user", "content": "word " * 20000}])


for check in (
    keys, chat, stream, tools_required, tools_named, tools_allowed, tools_named_in_a_stream, tools_none, tools_parallel_off,
    tools_cut_off, tool_results, response_format, parse, logprobs, n, completions, responses, responses_in_a_stream,
    responses_with_a_format, responses_with_tools, embeddings, errors,
):  # fmt: skip
    check()
    print("ok", check.__name__, flush=True)
