/* Text forms of what formats tell of an image. */
#include "block/info.h"

#include "value/json.h"

static void append_item(GString *out, const char *name, const Value *item, unsigned depth);

static void append_members(GString *out, const Value *data, unsigned depth)
{
    bool list = value_kind(data) == VALUE_LIST;
    for (size_t i = 0; i < value_length(data); i++) {
        if (list) {
            g_autofree char *name = g_strdup_printf("[%zu]", i);
            append_item(out, name, value_at(data, i), depth);
        } else {
            g_autofree char *name = g_strdelimit(g_strdup(value_key_at(data, i)), "-", ' ');
            append_item(out, name, value_item_at(data, i), depth);
        }
    }
}

static void append_item(GString *out, const char *name, const Value *item, unsigned depth)
{
    g_string_append_printf(out, "%*s%s:", (int)(4 * depth), "", name);
    switch (value_kind(item)) {
    case VALUE_LIST:
    case VALUE_DICT:
        g_string_append_c(out, '\n');
        append_members(out, item, depth + 1);
        break;
    case VALUE_STRING:
        g_string_append_printf(out, " %s\n", value_get_str(item));
        break;
    default: {
        g_autofree char *text = json_write(item, false);
        g_string_append_printf(out, " %s\n", text);
        break;
    }
    }
}

char *block_specific_text(BlockNode *node)
{
    if (!node->driver->info) {
        return g_strdup("");
    }
    GString *out = g_string_new("Format specific information:\n");
    g_autoptr(Value) data = value_dict();
    node->driver->info(node, data);
    append_members(out, data, 1);
    return g_string_free(out, FALSE);
}
