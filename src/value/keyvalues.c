#include "value/keyvalues.h"

#include <errno.h>
#include <string.h>

#include "value/json.h"

static void keyvalue_free(KeyValue *item)
{
    g_free(item->key);
    g_free(item->value);
    g_free(item);
}

KeyValues *keyvalues_new(void)
{
    KeyValues *kv = g_new0(KeyValues, 1);
    kv->items = g_ptr_array_new_with_free_func((GDestroyNotify)keyvalue_free);
    return kv;
}

void keyvalues_free(KeyValues *kv)
{
    if (kv) {
        g_ptr_array_free(kv->items, TRUE);
        g_free(kv->typed);
        g_free(kv);
    }
}

static KeyValue *item_at(const KeyValues *kv, guint n)
{
    return g_ptr_array_index(kv->items, n);
}

static KeyValue *item_new(char *key, char *value)
{
    KeyValue *item = g_new0(KeyValue, 1);
    item->key = key;
    item->value = value;
    return item;
}

KeyValues *keyvalues_copy(const KeyValues *kv)
{
    KeyValues *copy = keyvalues_new();
    for (guint n = 0; n < kv->items->len; n++) {
        keyvalues_add(copy, item_at(kv, n)->key, item_at(kv, n)->value);
        item_at(copy, n)->bare = item_at(kv, n)->bare;
    }
    copy->help = kv->help;
    copy->json = kv->json;
    copy->typed = g_strdup(kv->typed);
    return copy;
}

void keyvalues_add(KeyValues *kv, const char *key, const char *value)
{
    g_ptr_array_add(kv->items, item_new(g_strdup(key), g_strdup(value)));
}

void keyvalues_prepend(KeyValues *kv, const char *key, const char *value)
{
    g_ptr_array_insert(kv->items, 0, item_new(g_strdup(key), g_strdup(value)));
}

void keyvalues_set(KeyValues *kv, const char *key, const char *value)
{
    for (guint n = 0; n < kv->items->len; n++) {
        KeyValue *item = item_at(kv, n);
        if (!strcmp(item->key, key)) {
            g_autofree char *copy = g_strdup(value);
            g_free(item->value);
            item->value = g_steal_pointer(&copy);
            item->used = false;
            for (guint later = kv->items->len; later-- > n + 1;) {
                if (!strcmp(item_at(kv, later)->key, item->key)) {
                    g_ptr_array_remove_index(kv->items, later);
                }
            }
            return;
        }
    }
    keyvalues_add(kv, key, value);
}

void keyvalues_remove(KeyValues *kv, const char *key)
{
    for (guint n = kv->items->len; n-- > 0;) {
        if (!strcmp(item_at(kv, n)->key, key)) {
            g_ptr_array_remove_index(kv->items, n);
        }
    }
}

const char *keyvalues_get(KeyValues *kv, const char *key)
{
    const char *value = NULL;
    for (guint n = 0; n < kv->items->len; n++) {
        KeyValue *item = item_at(kv, n);
        if (!strcmp(item->key, key)) {
            item->used = true;
            value = item->value;
        }
    }
    return value;
}

bool keyvalues_has(const KeyValues *kv, const char *key)
{
    for (guint n = 0; n < kv->items->len; n++) {
        if (!strcmp(item_at(kv, n)->key, key)) {
            return true;
        }
    }
    return false;
}

char *keyvalues_take(KeyValues *kv, const char *key)
{
    char *value = g_strdup(keyvalues_get(kv, key));
    if (value) {
        keyvalues_remove(kv, key);
    }
    return value;
}

Error *keyvalues_get_bool(KeyValues *kv, const char *key, bool fallback, bool *ret_b)
{
    static const char *const yes[] = { "on", "yes", "true", "y", NULL };
    static const char *const no[] = { "off", "no", "false", "n", NULL };
    const char *text = keyvalues_get(kv, key);

    if (!text) {
        *ret_b = fallback;
    } else if (g_strv_contains(yes, text)) {
        *ret_b = true;
    } else if (g_strv_contains(no, text)) {
        *ret_b = false;
    } else {
        return error_new("Parameter '%s' expects 'on' or 'off', not '%s'", key, text);
    }
    return NULL;
}

Error *keyvalues_get_u64(KeyValues *kv, const char *key, uint64_t fallback, uint64_t *ret_u)
{
    const char *text = keyvalues_get(kv, key);
    char *end;

    if (!text) {
        *ret_u = fallback;
        return NULL;
    }
    errno = 0;
    uint64_t u = g_ascii_strtoull(text, &end, 0);
    if (!g_ascii_isdigit(text[0]) || *end || errno) {
        return error_new("Parameter '%s' expects a number, not '%s'", key, text);
    }
    *ret_u = u;
    return NULL;
}

Error *keyvalues_check_used(const KeyValues *kv, const char *what, const char *const *known)
{
    for (guint n = 0; n < kv->items->len; n++) {
        const KeyValue *item = item_at(kv, n);
        if (!item->used) {
            const char *near = known ? nearest_in(item->key, known) : NULL;
            return error_new("%s: unknown parameter '%s'%s%s%s", what, item->key,
                             near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
        }
    }
    return NULL;
}

/* Reads up to the next single comma; doubled ones become one. Returns what follows the comma. */
static const char *take_element(const char *text, GString *out)
{
    g_string_truncate(out, 0);
    while (*text) {
        if (*text == ',') {
            if (text[1] != ',') {
                return text + 1;
            }
            text++;
        }
        g_string_append_c(out, *text++);
    }
    return text;
}

static void add_bare(KeyValues *kv, const char *word)
{
    bool off = g_str_has_prefix(word, "no") && word[2];
    KeyValue *item = item_new(g_strdup(off ? word + 2 : word), g_strdup(off ? "off" : "on"));
    item->bare = true;
    g_ptr_array_add(kv->items, item);
}

static MUST_USE Error *parse_json_form(const char *text, KeyValues **ret_kv)
{
    g_autoptr(Value) value = NULL;

    TRY(json_parse(text, strlen(text), &value));
    TRY(keyvalues_from_value(value, ret_kv));
    (*ret_kv)->json = true;
    return NULL;
}

Error *keyvalues_parse(const char *text, const char *implied, KeyValues **ret_kv)
{
    if (text[0] == '{') {
        return parse_json_form(text, ret_kv);
    }
    g_autoptr(KeyValues) kv = keyvalues_new();
    g_autoptr(GString) word = g_string_new(NULL);
    bool first = true;

    while (*text) {
        /* Only the value may hold '='; a comma inside the key ends it. */
        text = take_element(text, word);
        char *equals = strchr(word->str, '=');
        if (equals) {
            if (equals == word->str) {
                return error_new("Invalid parameter '%s': the name before '=' is missing", word->str);
            }
            *equals = 0;
            keyvalues_add(kv, word->str, equals + 1);
        } else if (!strcmp(word->str, "help") || !strcmp(word->str, "?")) {
            kv->help = true;
        } else if (first && implied) {
            keyvalues_add(kv, implied, word->str);
        } else if (word->len) {
            add_bare(kv, word->str);
        } else if (!first) {
            return error_new("Invalid parameter '': two commas in a row stand for one comma in a value");
        }
        first = false;
    }
    *ret_kv = g_steal_pointer(&kv);
    return NULL;
}

static char *scalar_text(const Value *value)
{
    bool b;
    if (value_get_bool(value, &b)) {
        return g_strdup(b ? "on" : "off");
    }
    if (value_kind(value) == VALUE_STRING) {
        return g_strdup(value_get_str(value));
    }
    if (value_kind(value) == VALUE_NULL) {
        return g_strdup(""); /* how option text says it: "backing=" */
    }
    return json_write(value, false);
}

static void flatten(KeyValues *kv, const char *prefix, const Value *value)
{
    bool dict = value_kind(value) == VALUE_DICT;

    if (dict || value_kind(value) == VALUE_LIST) {
        for (size_t n = 0; n < value_length(value); n++) {
            g_autofree char *index = g_strdup_printf("%zu", n);
            const char *name = dict ? value_key_at(value, n) : index;
            g_autofree char *key = prefix ? g_strconcat(prefix, ".", name, NULL) : g_strdup(name);
            flatten(kv, key, dict ? value_item_at(value, n) : value_at(value, n));
        }
    } else {
        g_ptr_array_add(kv->items, item_new(g_strdup(prefix), scalar_text(value)));
    }
}

Error *keyvalues_from_value(const Value *dict, KeyValues **ret_kv)
{
    if (value_kind(dict) != VALUE_DICT) {
        return error_new("expected a JSON object, not %s", value_kind_name(value_kind(dict)));
    }
    KeyValues *kv = keyvalues_new();
    flatten(kv, NULL, dict);
    *ret_kv = kv;
    return NULL;
}

/* Puts a leaf at a dotted path. Conflicts: a name that is both a leaf and a prefix. */
static MUST_USE Error *put_path(Value *root, const char *path, const char *text)
{
    g_auto(GStrv) parts = g_strsplit(path, ".", 64);
    Value *at = root;
    char **part = parts;

    for (; part[0] && part[1]; part++) {
        Value *next = value_find(at, *part);
        if (!next) {
            next = value_dict();
            value_put(at, *part, next);
        } else if (value_kind(next) != VALUE_DICT) {
            return error_new("Parameter '%s' and '%s' contradict each other", path, *part);
        }
        at = next;
    }
    const Value *old = *part ? value_find(at, *part) : NULL;
    if (old && value_kind(old) == VALUE_DICT) {
        return error_new("Parameter '%s' has a value and members", path);
    }
    if (*part) {
        value_put(at, *part, value_str(text));
    }
    return NULL;
}

static bool keys_are_indexes(const Value *dict)
{
    size_t length = value_length(dict);
    for (size_t n = 0; n < length; n++) {
        g_autofree char *index = g_strdup_printf("%zu", n);
        if (!value_find(dict, index)) {
            return false;
        }
    }
    return length > 0;
}

static Value *with_lists(const Value *value)
{
    if (value_kind(value) != VALUE_DICT) {
        return value_copy(value);
    }
    bool list = keys_are_indexes(value);
    Value *out = list ? value_list() : value_dict();
    for (size_t n = 0; n < value_length(value); n++) {
        if (list) {
            g_autofree char *index = g_strdup_printf("%zu", n);
            value_append(out, with_lists(value_find(value, index)));
        } else {
            value_put(out, value_key_at(value, n), with_lists(value_item_at(value, n)));
        }
    }
    return out;
}

Error *keyvalues_to_value(const KeyValues *kv, Value **ret_dict)
{
    g_autoptr(Value) root = value_dict();

    for (guint n = 0; n < kv->items->len; n++) {
        TRY(put_path(root, item_at(kv, n)->key, item_at(kv, n)->value));
    }
    Value *out = value_dict();
    for (size_t n = 0; n < value_length(root); n++) {
        value_put(out, value_key_at(root, n), with_lists(value_item_at(root, n)));
    }
    *ret_dict = out;
    return NULL;
}

static void append_escaped(GString *out, const char *text)
{
    for (; *text; text++) {
        g_string_append_c(out, *text);
        if (*text == ',') {
            g_string_append_c(out, ',');
        }
    }
}

char *keyvalues_format(const KeyValues *kv, const char *implied)
{
    GString *out = g_string_new(NULL);
    for (guint n = 0; n < kv->items->len; n++) {
        const KeyValue *item = item_at(kv, n);
        if (n) {
            g_string_append_c(out, ',');
        }
        if (n || !implied || strcmp(item->key, implied) || strchr(item->value, '=')) {
            g_string_append_printf(out, "%s=", item->key);
        }
        append_escaped(out, item->value);
    }
    return g_string_free(out, FALSE);
}
