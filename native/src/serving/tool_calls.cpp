#include "serving/tool_calls.h"

#include "serving/chat_messages.h"

#include "chat.h"

namespace kvfold {

static const char description[] =
    R"JINJA(
{%- set rewritten = namespace(calls=false, messages=[], result='') -%}
{%- for message in messages -%}
{%- if message.role == 'tool' or message.tool_calls -%}{%- set rewritten.calls = true -%}{%- endif -%}
{%- endfor -%}
{%- if tools or rewritten.calls -%}
{%- set described = namespace(text='') -%}
{%- if tools -%}
{%- set described.text = 'You may call functions to help the user. Their signatures are within <tools></tools>:\n<tools>' -%}
{%- for tool in tools -%}{%- set described.text = described.text + '\n' + (tool | tojson) -%}{%- endfor -%}
{%- set described.text = described.text + '\n</tools>\n\nFor each call, return its name and arguments as a JSON object within <tool_call></tool_call>:\n<tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call>' -%}
{%- endif -%}
{%- if described.text and messages[0].role not in ['system', 'user'] -%}
{%- set rewritten.messages = [{'role': 'user', 'content': described.text}] -%}
{%- set described.text = '' -%}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{%- set rewritten.result = rewritten.result + ('\n' if rewritten.result else '') + '<tool_response>\n' + (message.content if message.content is string else (message.content | tojson)) + '\n</tool_response>' -%}
{%- if loop.last or loop.nextitem.role != 'tool' -%}
{%- set rewritten.messages = rewritten.messages + [{'role': 'user', 'content': rewritten.result}] -%}
{%- set rewritten.result = '' -%}
{%- endif -%}
{%- elif message.tool_calls -%}
{%- set call = namespace(text=message.content or '') -%}
{%- for tool_call in message.tool_calls -%}
{%- set call.text = call.text + ('\n' if call.text else '') + '<tool_call>\n{"name": "' + tool_call.function.name + '", "arguments": ' + (tool_call.function.arguments if tool_call.function.arguments is string else (tool_call.function.arguments | tojson)) + '}\n</tool_call>' -%}
{%- endfor -%}
{%- set rewritten.messages = rewritten.messages + [{'role': 'assistant', 'content': call.text}] -%}
{%- elif loop.first and described.text -%}
{%- if message.content is string -%}
{%- set rewritten.messages = [{'role': message.role, 'content': described.text + '\n\n' + message.content}] -%}
{%- else -%}
{%- set rewritten.messages = [{'role': message.role, 'content': [{'type': 'text', 'text': described.text + '\n\n'}] + message.content}] -%}
{%- endif -%}
{%- else -%}
{%- set rewritten.messages = rewritten.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = rewritten.messages -%}
{%- endif -%}
)JINJA";

std::string describe_tools(const std::string & chat_template) { return string_strip(description) + chat_template; }

static bool has_tools(const json & body) {
    return body.contains("tools") && body.at("tools").is_array() && !body.at("tools").empty();
}

bool ask_for_one_call(json & body) {
    const bool told = body.contains("parallel_tool_calls") && !body.at("parallel_tool_calls").is_null();
    if (!has_tools(body) || told) {
        return false;
    }
    body["parallel_tool_calls"] = false;
    return true;
}

bool ask_for_no_call(json & body) {
    const json choice = body.contains("tool_choice") ? body.at("tool_choice") : json();
    if (!has_tools(body) || !holds_format(body) || !(choice.is_null() || choice == "auto")) {
        return false;
    }
    body["tool_choice"] = "none";
    return true;
}

bool requires_call(const json & body) {
    if (!has_tools(body) || !body.contains("tool_choice") || has_format(body)) {
        return false;
    }
    const json & choice = body.at("tool_choice");
    return choice == "required" || (choice.is_object() && choice.contains("type") && choice.at("type") == "any");
}

} // namespace kvfold

static void drop_beginning(std::string & text, const std::string & begun) {
    if (string_starts_with(text, begun)) {
        text.erase(0, begun.size());
    }
}

void kvfold_settle_answer(common_chat_msg & message, std::string & text, const common_chat_parser_params & parsing, bool at_limit) {
    if (parsing.is_continuation && !parsing.echo) {
        const common_chat_msg begun = common_chat_parse("", /* is_partial = */ true, parsing);
        drop_beginning(message.content, begun.content);
        drop_beginning(message.reasoning_content, begun.reasoning_content);
    }
    if (!at_limit || message.tool_calls.empty()) {
        return;
    }
    const auto arguments = kvfold::json::parse_no_throw(message.tool_calls.back().arguments);
    if (arguments.is_discarded() || !arguments.is_object()) {
        message.tool_calls.pop_back();
        text.clear();
    }
}
