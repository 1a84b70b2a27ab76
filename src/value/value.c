#include "value/value.h"

#include <math.h>
#include <string.h>

typedef struct Entry {
    char *key;
    Value *item;
} Entry;

struct Value {
    ValueKind kind;
    union {
        bool b;
        int64_t i;
        uint64_t u;
        double d;
        char *s;
        GPtrArray *list;
        struct {
            GArray *entries;     /* Entry, in order */
            GHashTable *indexed; /* key -> index + 1, made when the dictionary grows */
        } dict;
    };
};

/* Below this many entries a linear search beats a hash table. */
#define DICT_INDEX_FROM 16

static Value *value_new(ValueKind kind)
{
    Value *value = g_new0(Value, 1);
    value->kind = kind;
    return value;
}

ValueKind value_kind(const Value *value)
{
    return value->kind;
}

const char *value_kind_name(ValueKind kind)
{
    static const char *const names[] = {
        [VALUE_NULL] = "null",     [VALUE_BOOL] = "boolean",   [VALUE_INT] = "integer",
        [VALUE_UINT] = "integer",  [VALUE_DOUBLE] = "number",  [VALUE_STRING] = "string",
        [VALUE_LIST] = "array",    [VALUE_DICT] = "object",
    };
    return names[kind];
}

void value_free(Value *value)
{
    if (!value) {
        return;
    }
    switch (value->kind) {
    case VALUE_STRING:
        g_free(value->s);
        break;
    case VALUE_LIST:
        g_ptr_array_free(value->list, TRUE);
        break;
    case VALUE_DICT:
        for (guint n = 0; n < value->dict.entries->len; n++) {
            Entry *entry = &g_array_index(value->dict.entries, Entry, n);
            g_free(entry->key);
            value_free(entry->item);
        }
        g_array_free(value->dict.entries, TRUE);
        g_clear_pointer(&value->dict.indexed, g_hash_table_destroy);
        break;
    default:
        break;
    }
    g_free(value);
}

Value *value_copy(const Value *value)
{
    Value *copy;

    switch (value->kind) {
    case VALUE_STRING:
        return value_str(value->s);
    case VALUE_LIST:
        copy = value_list();
        for (guint n = 0; n < value->list->len; n++) {
            value_append(copy, value_copy(g_ptr_array_index(value->list, n)));
        }
        return copy;
    case VALUE_DICT:
        copy = value_dict();
        for (size_t n = 0; n < value_length(value); n++) {
            value_put(copy, value_key_at(value, n), value_copy(value_item_at(value, n)));
        }
        return copy;
    default:
        copy = g_new(Value, 1);
        *copy = *value;
        return copy;
    }
}

Value *value_null(void)
{
    return value_new(VALUE_NULL);
}

Value *value_bool(bool b)
{
    Value *value = value_new(VALUE_BOOL);
    value->b = b;
    return value;
}

Value *value_int(int64_t i)
{
    Value *value = value_new(VALUE_INT);
    value->i = i;
    return value;
}

Value *value_uint(uint64_t u)
{
    if (u <= INT64_MAX) {
        return value_int((int64_t)u);
    }
    Value *value = value_new(VALUE_UINT);
    value->u = u;
    return value;
}

Value *value_double(double d)
{
    Value *value = value_new(VALUE_DOUBLE);
    value->d = d;
    return value;
}

Value *value_take_str(char *text)
{
    Value *value = value_new(VALUE_STRING);
    value->s = text ? text : g_strdup("");
    return value;
}

Value *value_str(const char *text)
{
    return value_take_str(g_strdup(text));
}

Value *value_strf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return value_take_str(text);
}

Value *value_list(void)
{
    Value *value = value_new(VALUE_LIST);
    value->list = g_ptr_array_new_with_free_func((GDestroyNotify)value_free);
    return value;
}

Value *value_dict(void)
{
    Value *value = value_new(VALUE_DICT);
    value->dict.entries = g_array_new(FALSE, FALSE, sizeof(Entry));
    return value;
}

bool value_get_bool(const Value *value, bool *ret_b)
{
    if (!value || value->kind != VALUE_BOOL) {
        return false;
    }
    *ret_b = value->b;
    return true;
}

bool value_get_int(const Value *value, int64_t *ret_i)
{
    if (!value || value->kind != VALUE_INT) {
        return false;
    }
    *ret_i = value->i;
    return true;
}

bool value_get_uint(const Value *value, uint64_t *ret_u)
{
    if (value && value->kind == VALUE_UINT) {
        *ret_u = value->u;
        return true;
    }
    if (value && value->kind == VALUE_INT && value->i >= 0) {
        *ret_u = (uint64_t)value->i;
        return true;
    }
    return false;
}

bool value_get_double(const Value *value, double *ret_d)
{
    if (!value) {
        return false;
    }
    switch (value->kind) {
    case VALUE_DOUBLE:
        *ret_d = value->d;
        return true;
    case VALUE_INT:
        *ret_d = (double)value->i;
        return true;
    case VALUE_UINT:
        *ret_d = (double)value->u;
        return true;
    default:
        return false;
    }
}

const char *value_get_str(const Value *value)
{
    return value && value->kind == VALUE_STRING ? value->s : NULL;
}

size_t value_length(const Value *value)
{
    if (value && value->kind == VALUE_LIST) {
        return value->list->len;
    }
    return value && value->kind == VALUE_DICT ? value->dict.entries->len : 0;
}

Value *value_at(const Value *list, size_t index)
{
    if (!list || list->kind != VALUE_LIST || index >= list->list->len) {
        return NULL;
    }
    return g_ptr_array_index(list->list, index);
}

void value_append(Value *list, Value *item)
{
    assert(list->kind == VALUE_LIST);
    g_ptr_array_add(list->list, item);
}

static Entry *dict_entry(const Value *dict, const char *key)
{
    GArray *entries = dict->dict.entries;

    if (dict->dict.indexed) {
        guint at = GPOINTER_TO_UINT(g_hash_table_lookup(dict->dict.indexed, key));
        return at ? &g_array_index(entries, Entry, at - 1) : NULL;
    }
    for (guint n = 0; n < entries->len; n++) {
        Entry *entry = &g_array_index(entries, Entry, n);
        if (!strcmp(entry->key, key)) {
            return entry;
        }
    }
    return NULL;
}

static void dict_index(Value *dict)
{
    GArray *entries = dict->dict.entries;

    g_clear_pointer(&dict->dict.indexed, g_hash_table_destroy);
    if (entries->len < DICT_INDEX_FROM) {
        return;
    }
    dict->dict.indexed = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint n = 0; n < entries->len; n++) {
        g_hash_table_insert(dict->dict.indexed, g_array_index(entries, Entry, n).key,
                            GUINT_TO_POINTER(n + 1));
    }
}

void value_put(Value *dict, const char *key, Value *item)
{
    assert(dict->kind == VALUE_DICT);
    Entry *old = dict_entry(dict, key);

    if (old) {
        value_free(old->item);
        old->item = item;
        return;
    }
    Entry entry = { g_strdup(key), item };
    g_array_append_val(dict->dict.entries, entry);
    if (dict->dict.indexed) {
        g_hash_table_insert(dict->dict.indexed, entry.key,
                            GUINT_TO_POINTER(dict->dict.entries->len));
    } else {
        dict_index(dict);
    }
}

Value *value_find(const Value *dict, const char *key)
{
    if (!dict || dict->kind != VALUE_DICT) {
        return NULL;
    }
    Entry *entry = dict_entry(dict, key);
    return entry ? entry->item : NULL;
}

void value_remove(Value *dict, const char *key)
{
    Entry *entry = dict_entry(dict, key);

    if (entry) {
        guint at = (guint)(entry - &g_array_index(dict->dict.entries, Entry, 0));
        g_clear_pointer(&dict->dict.indexed, g_hash_table_destroy);
        g_free(entry->key);
        value_free(entry->item);
        g_array_remove_index(dict->dict.entries, at);
        dict_index(dict);
    }
}

const char *value_key_at(const Value *dict, size_t index)
{
    return g_array_index(dict->dict.entries, Entry, index).key;
}

Value *value_item_at(const Value *dict, size_t index)
{
    return g_array_index(dict->dict.entries, Entry, index).item;
}

const char *value_find_str(const Value *dict, const char *key)
{
    return value_get_str(value_find(dict, key));
}

bool value_find_bool(const Value *dict, const char *key, bool fallback)
{
    value_get_bool(value_find(dict, key), &fallback);
    return fallback;
}

int64_t value_find_int(const Value *dict, const char *key, int64_t fallback)
{
    value_get_int(value_find(dict, key), &fallback);
    return fallback;
}

static bool lists_equal(const Value *a, const Value *b)
{
    if (value_length(a) != value_length(b)) {
        return false;
    }
    for (size_t n = 0; n < value_length(a); n++) {
        if (!value_equal(value_at(a, n), value_at(b, n))) {
            return false;
        }
    }
    return true;
}

static bool dicts_equal(const Value *a, const Value *b)
{
    if (value_length(a) != value_length(b)) {
        return false;
    }
    for (size_t n = 0; n < value_length(a); n++) {
        const Value *other = value_find(b, value_key_at(a, n));
        if (!other || !value_equal(value_item_at(a, n), other)) {
            return false;
        }
    }
    return true;
}

bool value_equal(const Value *a, const Value *b)
{
    if (a->kind != b->kind) {
        return false;
    }
    switch (a->kind) {
    case VALUE_NULL:
        return true;
    case VALUE_BOOL:
        return a->b == b->b;
    case VALUE_INT:
        return a->i == b->i;
    case VALUE_UINT:
        return a->u == b->u;
    case VALUE_DOUBLE:
        return a->d == b->d || (isnan(a->d) && isnan(b->d));
    case VALUE_STRING:
        return !strcmp(a->s, b->s);
    case VALUE_LIST:
        return lists_equal(a, b);
    case VALUE_DICT:
        return dicts_equal(a, b);
    }
    return false;
}
