/*
 * Values: the data that JSON, QMP and option strings carry. A tree of null, bool, integers, doubles,
 * strings, lists and dictionaries. A dictionary keeps the order in which its keys were added.
 *
 * Ownership: a container owns what is put into it; value_free() frees the tree. Values are plain data
 * and belong to whoever holds them; no locks.
 */
#ifndef OSTRICH_VALUE_VALUE_H
#define OSTRICH_VALUE_VALUE_H

#include "base/error.h"

typedef enum ValueKind {
    VALUE_NULL,
    VALUE_BOOL,
    VALUE_INT,    /* fits int64_t */
    VALUE_UINT,   /* above INT64_MAX */
    VALUE_DOUBLE,
    VALUE_STRING, /* valid UTF-8 without NUL */
    VALUE_LIST,
    VALUE_DICT,
} ValueKind;

typedef struct Value Value;

ValueKind value_kind(const Value *value);
const char *value_kind_name(ValueKind kind); /* "boolean", "integer", "object", ... */
void value_free(Value *value);               /* accepts NULL */
Value *value_copy(const Value *value);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Value, value_free)

Value *value_null(void);
Value *value_bool(bool b);
Value *value_int(int64_t i);
Value *value_uint(uint64_t u); /* becomes VALUE_INT where it fits */
Value *value_double(double d);
Value *value_str(const char *text); /* copied; NULL gives "" */
Value *value_strf(const char *fmt, ...) PRINTF(1, 2);
Value *value_take_str(char *text);  /* takes the string */
Value *value_list(void);
Value *value_dict(void);

/* --- reading; false or NULL when the kind does not fit --- */
bool value_get_bool(const Value *value, bool *ret_b);
bool value_get_int(const Value *value, int64_t *ret_i);
bool value_get_uint(const Value *value, uint64_t *ret_u); /* numbers >= 0 */
bool value_get_double(const Value *value, double *ret_d); /* integers too */
const char *value_get_str(const Value *value);            /* borrowed */
size_t value_length(const Value *value);                  /* of a list or a dictionary, else 0 */
Value *value_at(const Value *list, size_t index);         /* borrowed */

/* --- containers; each takes `item` --- */
void value_append(Value *list, Value *item);
/* Replaces an older value of the same key. */
void value_put(Value *dict, const char *key, Value *item);
Value *value_find(const Value *dict, const char *key); /* borrowed, NULL: absent or not a dictionary */
void value_remove(Value *dict, const char *key);
const char *value_key_at(const Value *dict, size_t index);  /* borrowed */
Value *value_item_at(const Value *dict, size_t index);      /* borrowed */
/* Shorthands for value_find() with a kind. */
const char *value_find_str(const Value *dict, const char *key);
bool value_find_bool(const Value *dict, const char *key, bool fallback);
int64_t value_find_int(const Value *dict, const char *key, int64_t fallback);

static inline void value_put_str(Value *dict, const char *key, const char *text)
{
    value_put(dict, key, value_str(text));
}
static inline void value_put_int(Value *dict, const char *key, int64_t i)
{
    value_put(dict, key, value_int(i));
}
static inline void value_put_bool(Value *dict, const char *key, bool b)
{
    value_put(dict, key, value_bool(b));
}

bool value_equal(const Value *a, const Value *b);

#endif
