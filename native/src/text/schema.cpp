#include "text/schema.h"

#include "process/kvfold_log.h"
#include "text/schema_rewriter.h"

namespace kvfold {

json exact_schema(const json & schema, const std::string & where, bool strict, const std::string & names) {
    const json located = with_places(schema);
    rewriter   made{ located, where, strict, names };
    try {
        json exact = made.node(located, "");
        if (exact.contains("properties") && exact.at("properties").contains("")) { // whose rule would have the name of that for all of it
            const std::string name = names + "all";
            made.definitions[name] = exact;
            exact                  = json({ { "$ref", "#/$defs/" + name } });
        }
        if (!made.definitions.empty()) {
            exact["$defs"] = made.definitions;
        }
        if (!made.dropped.empty()) {
            std::string all;
            for (const auto & each : made.dropped) {
                all += (all.empty() ? "" : ", ") + each;
            }
            log_emit(KVFOLD_LOG_WARN, "no grammar holds " + all);
        }
        return exact;
    } catch (const unsatisfiable & e) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, std::string("no answer can be valid by the schema: ") + e.what());
    }
}

// True if it says it in other words now.
static bool rewrite(json & holder, const std::string & key, const std::string & where, bool strict, const std::string & names = "") {
    if (!holder.is_object() || !holder.contains(key) || holder.at(key).is_null()) {
        return false;
    }
    const std::string before = holder.at(key).dump_safe();
    holder[key]              = exact_schema(holder.at(key), where + key + "#", strict, names);
    return holder.at(key).dump_safe() != before;
}

static bool flag(const json & holder, const char * key, bool otherwise) {
    return holder.contains(key) && holder.at(key).is_boolean() ? holder.at(key).get<bool>() : otherwise;
}

bool rewrite_schemas(json & body) {
    bool changed = rewrite(body, "json_schema", "", true);
    if (body.contains("response_format") && body.at("response_format").is_object()) {
        json & format = body.at("response_format");
        changed |= rewrite(format, "schema", "response_format.", flag(format, "strict", true));
        if (format.contains("json_schema") && format.at("json_schema").is_object()) {
            changed |= rewrite(format.at("json_schema"), "schema", "response_format.json_schema.", flag(format.at("json_schema"), "strict", true));
        }
    }
    if (body.contains("tools") && body.at("tools").is_array()) {
        size_t i = 0;
        for (auto & tool : body.at("tools")) {
            const std::string where = "tools[" + std::to_string(i) + "].", names = "t" + std::to_string(i++);
            for (const char * key : { "parameters", "input_schema" }) {
                changed |= rewrite(tool, key, where, flag(tool, "strict", false), names);
                if (tool.is_object() && tool.contains("function") && tool.at("function").is_object()) {
                    changed |= rewrite(tool.at("function"), key, where + "function.", flag(tool.at("function"), "strict", false), names);
                }
            }
        }
    }
    return changed;
}

} // namespace kvfold
