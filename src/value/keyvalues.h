/*
 * Option strings: "first,key=value,a.b.c=x,text=one,,two" or the JSON form "{...}", as a list of
 * key and value texts that keeps order and duplicates. A JSON object is flattened: members of members
 * become "outer.inner", array elements "outer.0"; null is an empty text.
 *
 * "key" alone means key=on, "nokey" alone key=off (the old short form), unless it is the first and an
 * implied key is given. A doubled comma is a comma in the value.
 */
#ifndef OSTRICH_VALUE_KEYVALUES_H
#define OSTRICH_VALUE_KEYVALUES_H

#include "value/value.h"

typedef struct KeyValue {
    char *key, *value;
    bool used;  /* set by the getters below; keyvalues_check_used() finds what nobody looked at */
    bool bare;  /* came as "key" without a value */
} KeyValue;

typedef struct KeyValues {
    GPtrArray *items; /* KeyValue * */
    bool help;        /* "help" or "?" stood among the keys */
    bool json;        /* came in the JSON form */
    char *typed;      /* what the user wrote, for messages; NULL: not kept */
} KeyValues;

KeyValues *keyvalues_new(void);
void keyvalues_free(KeyValues *kv); /* accepts NULL */
KeyValues *keyvalues_copy(const KeyValues *kv);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KeyValues, keyvalues_free)

/* implied: the key of a first element that has no '=', or NULL. */
Error *keyvalues_parse(const char *text, const char *implied, KeyValues **ret_kv) MUST_USE;
/* From a dictionary (QMP's arguments). null becomes an empty text. */
Error *keyvalues_from_value(const Value *dict, KeyValues **ret_kv) MUST_USE;
/* The tree: "a.b=1" becomes {a: {b: "1"}}; keys that are 0..n-1 become a list. All leaves are strings. */
Error *keyvalues_to_value(const KeyValues *kv, Value **ret_dict) MUST_USE;
/* Option text that keyvalues_parse(text, implied) reads back. Caller frees. */
char *keyvalues_format(const KeyValues *kv, const char *implied);

void keyvalues_add(KeyValues *kv, const char *key, const char *value);
/* Puts in front. */
void keyvalues_prepend(KeyValues *kv, const char *key, const char *value);
/* Replaces every older value of the key. */
void keyvalues_set(KeyValues *kv, const char *key, const char *value);
void keyvalues_remove(KeyValues *kv, const char *key);
/* The last value of the key (the last one wins), NULL when absent. Marks all of that key as used. */
const char *keyvalues_get(KeyValues *kv, const char *key);
bool keyvalues_has(const KeyValues *kv, const char *key);
/* Removes and returns the last value; caller frees. */
char *keyvalues_take(KeyValues *kv, const char *key);
Error *keyvalues_get_bool(KeyValues *kv, const char *key, bool fallback, bool *ret_b) MUST_USE;
Error *keyvalues_get_u64(KeyValues *kv, const char *key, uint64_t fallback, uint64_t *ret_u) MUST_USE;
/* An error that names the first key that no getter asked for, and the nearest of `known`. */
Error *keyvalues_check_used(const KeyValues *kv, const char *what, const char *const *known) MUST_USE;

#endif
