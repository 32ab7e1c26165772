"""Uses a server as programs for Anthropic do. Arguments: the URL, whose key is "secret", and the name of the model.

Prints "ok NAME" for what holds, and fails where something does not.
"""

import sys

from anthropic import Anthropic, AuthenticationError, BadRequestError
from pydantic import BaseModel

URL, MODEL = sys.argv[1:]
client = Anthropic(base_url=URL, api_key="secret", max_retries=0, timeout=120)

FRANCE = [{"role": "user", "content": "Please tell me: what is the capital city of France?"}]


def tool(name, description, **properties):
    return {
        "name": name,
        "description": description,
        "input_schema": {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False},
    }


TOOLS = [
    tool("get_weather", "Tells the weather of a city", city={"type": "string", "maxLength": 20}),
    tool("get_time", "Tells the time in a zone", zone={"enum": ["UTC", "CET"]}),
]


class Place(BaseModel):
    city: str
    inhabitants: int


def common(messages=FRANCE, max_tokens=64, **more):
    # of the sampling the client knows no more
    return {"model": MODEL, "messages": messages, "max_tokens": max_tokens, "extra_body": {"temperature": 0}, **more}


def ask(*args, **more):
    return client.messages.create(**common(*args, **more))


def text_of(answer):
    return "".join(block.text for block in answer.content if block.type == "text")


def calls(answer, names):
    found = [block for block in answer.content if block.type == "tool_use"]
    assert answer.stop_reason == "tool_use" and found, answer
    for call in found:
        assert call.id and call.name in names, call
        assert call.input.keys() == {"city" if call.name == "get_weather" else "zone"}, call
    return found


def refused(problem, **request):
    try:
        ask(**request)
    except BadRequestError as error:
        assert problem in str(error), error
    else:
        raise AssertionError(f"{request} was taken")


def keys():
    try:
        Anthropic(base_url=URL, api_key="wrong", max_retries=0).messages.create(model=MODEL, messages=FRANCE, max_tokens=1)
    except AuthenticationError:
        return
    raise AssertionError("a wrong key was taken")


def chat():
    answer = ask()
    text = text_of(answer)
    assert len(text) > 20, answer
    short = ask(max_tokens=5)
    assert (short.usage.output_tokens, short.stop_reason) == (5, "max_tokens"), short
    assert text.startswith(text_of(short)), short
    word = text[10:14]
    stopped = ask(stop_sequences=[word])
    assert (text_of(stopped), stopped.stop_reason, stopped.stop_sequence) == (text.split(word)[0], "stop_sequence", word), stopped
    assert tokens(ask(system="You answer in one word. " * 20)) > tokens(answer)


def tokens(answer):
    return answer.usage.input_tokens + answer.usage.cache_read_input_tokens


def stream():
    with client.messages.stream(**common()) as events:
        text = "".join(events.text_stream)
        answer = events.get_final_message()
    whole = ask()
    assert text == text_of(answer) == text_of(whole), text
    assert (answer.stop_reason, answer.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens), answer


def count_tokens():
    assert client.messages.count_tokens(model=MODEL, messages=FRANCE).input_tokens == tokens(ask())
    with_tools = client.messages.count_tokens(model=MODEL, messages=FRANCE, tools=TOOLS, system="Be terse.").input_tokens
    assert with_tools == tokens(ask(tools=TOOLS, system="Be terse.", max_tokens=1)), with_tools


def tools_any():
    calls(ask(max_tokens=200, tools=TOOLS, tool_choice={"type": "any"}), {"get_weather", "get_time"})


def tools_named():
    for name in "get_weather", "get_time":
        calls(ask(max_tokens=200, tools=TOOLS, tool_choice={"type": "tool", "name": name}), {name})
    refused("no_tool", tools=TOOLS, tool_choice={"type": "tool", "name": "no_tool"})


def tools_named_in_a_stream():
    request = common(max_tokens=200, tools=TOOLS, tool_choice={"type": "tool", "name": "get_time"})
    with client.messages.stream(**request) as events:
        calls(events.get_final_message(), {"get_time"})


def tools_none():
    answer = ask(tools=TOOLS, tool_choice={"type": "none"})
    assert answer.stop_reason != "tool_use" and all(block.type == "text" for block in answer.content), answer


def tools_parallel_off():
    weather = [{"role": "user", "content": "What is the weather in Paris, in Rome, in Oslo and in Bern? Ask for each."}]
    answer = ask(weather, 400, tools=TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert len(calls(answer, {"get_weather", "get_time"})) == 1, answer


def tools_cut_off():
    for limit in 4, 12, 20:
        answer = ask(max_tokens=limit, tools=TOOLS[:1], tool_choice={"type": "any"})
        if answer.stop_reason == "max_tokens":
            assert all(block.type == "text" for block in answer.content), answer


def tool_results():
    call = calls(ask(max_tokens=200, tools=TOOLS, tool_choice={"type": "any"}), {"get_weather", "get_time"})[0]
    messages = FRANCE + [
        {"role": "assistant", "content": [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
    ]
    assert text_of(ask(messages, tools=TOOLS, tool_choice={"type": "none"}))


def parse():
    answer = client.messages.parse(**common(max_tokens=100), output_format=Place)
    assert isinstance(answer.parsed_output, Place), answer


def errors():
    refused("max_tokens", max_tokens=0)
    refused("wizard", messages=[{"role": "wizard", "content": "x"}])


for check in (
    keys, chat, stream, count_tokens, tools_any, tools_named, tools_named_in_a_stream, tools_none, tools_parallel_off,
    tools_cut_off, tool_results, parse, errors,
):  # fmt: skip
    check()
    print("ok", check.__name__, flush=True)
