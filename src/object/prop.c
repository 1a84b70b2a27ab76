/* The kinds of properties that every layer may use. */
#include <inttypes.h>
#include <string.h>

#include "base/endian.h"
#include "object/object.h"

/* --- integers --- */

static Error *out_of_range(const char *text, int64_t min, int64_t max)
{
    return error_new("'%s' is out of range, %" PRId64 " to %" PRId64 " are possible", text, min, max);
}

static Error *store_unsigned(Object *obj, const Prop *prop, const char *text, unsigned size)
{
    uint64_t value, limit = ~0ull >> (64 - 8 * size);
    TRY(parse_u64(text, &value));
    if (prop->max > prop->min && (value < (uint64_t)prop->min || value > (uint64_t)prop->max)) {
        return out_of_range(text, prop->min, prop->max);
    }
    if (value > limit) {
        return error_new("'%s' is out of range, 0 to %" PRIu64 " are possible", text, limit);
    }
    st_le(prop_ptr(obj, prop), value, size);
    return NULL;
}

static Error *store_signed(Object *obj, const Prop *prop, const char *text, unsigned size)
{
    bool negative = *text == '-';
    uint64_t magnitude;
    TRY(parse_u64(text + negative, &magnitude));
    int64_t limit = (int64_t)(~0ull >> (65 - 8 * size));
    int64_t value = negative ? (int64_t)-magnitude : (int64_t)magnitude;
    int64_t min = prop->max > prop->min ? prop->min : -limit - 1;
    int64_t max = prop->max > prop->min ? prop->max : limit;
    if (magnitude > (uint64_t)INT64_MAX || value < min || value > max) {
        return out_of_range(text, min, max);
    }
    st_le(prop_ptr(obj, prop), (uint64_t)value, size);
    return NULL;
}

#define INTEGER_KIND(ident, label, size, store, fmt, type)                                         \
    static Error *ident##_set(Object *obj, const Prop *prop, const char *text)                     \
    {                                                                                              \
        return store(obj, prop, text, size);                                                       \
    }                                                                                              \
    static char *ident##_get(const Object *obj, const Prop *prop)                                  \
    {                                                                                              \
        return g_strdup_printf(fmt, *(type *)prop_ptr(obj, prop));                                 \
    }                                                                                              \
    static void ident##_default(Object *obj, const Prop *prop)                                     \
    {                                                                                              \
        st_le(prop_ptr(obj, prop), (uint64_t)prop->def, size);                                     \
    }                                                                                              \
    const PropKind prop_##ident = { label, ident##_set, ident##_get, ident##_default, NULL, 'i' };

INTEGER_KIND(u8, "uint8", 1, store_unsigned, "%" PRIu8, uint8_t)
INTEGER_KIND(u16, "uint16", 2, store_unsigned, "%" PRIu16, uint16_t)
INTEGER_KIND(u32, "uint32", 4, store_unsigned, "%" PRIu32, uint32_t)
INTEGER_KIND(u64, "uint64", 8, store_unsigned, "%" PRIu64, uint64_t)
INTEGER_KIND(i32, "int32", 4, store_signed, "%" PRId32, int32_t)
INTEGER_KIND(i64, "int64", 8, store_signed, "%" PRId64, int64_t)

static Error *size_set(Object *obj, const Prop *prop, const char *text)
{
    uint64_t value;
    TRY(parse_size(text, 1, &value));
    if (prop->max > prop->min && (value < (uint64_t)prop->min || value > (uint64_t)prop->max)) {
        return out_of_range(text, prop->min, prop->max);
    }
    *(uint64_t *)prop_ptr(obj, prop) = value;
    return NULL;
}
const PropKind prop_size = { "size", size_set, u64_get, u64_default, NULL, 'i' };

/* --- booleans and bits --- */

static Error *bool_set(Object *obj, const Prop *prop, const char *text)
{
    return parse_bool(text, prop_ptr(obj, prop));
}

static char *bool_get(const Object *obj, const Prop *prop)
{
    return g_strdup(*(bool *)prop_ptr(obj, prop) ? "on" : "off");
}

static void bool_default(Object *obj, const Prop *prop)
{
    *(bool *)prop_ptr(obj, prop) = prop->def != 0;
}
const PropKind prop_bool = { "bool", bool_set, bool_get, bool_default, NULL, 'b' };

#define BIT_KIND(ident, type)                                                                      \
    static void ident##_put(Object *obj, const Prop *prop, bool on)                                \
    {                                                                                              \
        type *word = prop_ptr(obj, prop), mask = (type)1 << prop->min;                             \
        *word = on ? *word | mask : *word & ~mask;                                                 \
    }                                                                                              \
    static Error *ident##_set(Object *obj, const Prop *prop, const char *text)                     \
    {                                                                                              \
        bool on;                                                                                   \
        TRY(parse_bool(text, &on));                                                                \
        ident##_put(obj, prop, on);                                                                \
        return NULL;                                                                               \
    }                                                                                              \
    static char *ident##_get(const Object *obj, const Prop *prop)                                  \
    {                                                                                              \
        return g_strdup(*(type *)prop_ptr(obj, prop) >> prop->min & 1 ? "on" : "off");             \
    }                                                                                              \
    static void ident##_default(Object *obj, const Prop *prop)                                     \
    {                                                                                              \
        ident##_put(obj, prop, prop->def != 0);                                                    \
    }                                                                                              \
    const PropKind prop_##ident = { "bool", ident##_set, ident##_get, ident##_default, NULL, 'b' };

BIT_KIND(bit32, uint32_t)
BIT_KIND(bit64, uint64_t)

/* --- strings, names --- */

static Error *str_set(Object *obj, const Prop *prop, const char *text)
{
    char **member = prop_ptr(obj, prop);
    g_free(*member);
    *member = g_strdup(text);
    return NULL;
}

static char *str_get(const Object *obj, const Prop *prop)
{
    const char *text = *(char **)prop_ptr(obj, prop);
    return g_strdup(text ? text : "");
}

static void str_default(Object *obj, const Prop *prop)
{
    *(char **)prop_ptr(obj, prop) = g_strdup(prop->def_str);
}

static void str_release(Object *obj, const Prop *prop)
{
    g_clear_pointer((char **)prop_ptr(obj, prop), g_free);
}
const PropKind prop_str = { "str", str_set, str_get, str_default, str_release, 's' };

static const EnumName on_off_auto_names[] = {
    { "auto", AUTO_AUTO }, { "on", AUTO_ON }, { "off", AUTO_OFF }, { NULL, 0 }
};

static Error *name_to_value(const EnumName *names, const char *text, int *ret_value)
{
    g_autoptr(GString) all = g_string_new(NULL);
    for (const EnumName *e = names; e->name; e++) {
        if (!strcmp(e->name, text)) {
            *ret_value = e->value;
            return NULL;
        }
        g_string_append_printf(all, "%s'%s'", all->len ? ", " : "", e->name);
    }
    return error_new("'%s' is not one of %s", text, all->str);
}

static char *value_to_name(const EnumName *names, int value)
{
    for (const EnumName *e = names; e->name; e++) {
        if (e->value == value) {
            return g_strdup(e->name);
        }
    }
    return g_strdup_printf("%d", value);
}

static Error *enum_set(Object *obj, const Prop *prop, const char *text)
{
    return name_to_value(prop->names, text, prop_ptr(obj, prop));
}

static char *enum_get(const Object *obj, const Prop *prop)
{
    return value_to_name(prop->names, *(int *)prop_ptr(obj, prop));
}

static void enum_default(Object *obj, const Prop *prop)
{
    *(int *)prop_ptr(obj, prop) = (int)prop->def;
}
const PropKind prop_enum = { "enum", enum_set, enum_get, enum_default, NULL, 's' };

static Error *on_off_auto_set(Object *obj, const Prop *prop, const char *text)
{
    bool on;
    if (!strcmp(text, "auto")) {
        *(int *)prop_ptr(obj, prop) = AUTO_AUTO;
        return NULL;
    }
    Error *err = parse_bool(text, &on);
    if (err) {
        error_free(err);
        return error_new("'%s' is not one of 'on', 'off', 'auto'", text);
    }
    *(int *)prop_ptr(obj, prop) = on ? AUTO_ON : AUTO_OFF;
    return NULL;
}

static char *on_off_auto_get(const Object *obj, const Prop *prop)
{
    return value_to_name(on_off_auto_names, *(int *)prop_ptr(obj, prop));
}
const PropKind prop_on_off_auto = { "OnOffAuto", on_off_auto_set, on_off_auto_get, enum_default, NULL, 's' };

/* --- references --- */

static Object *root_of(Object *obj)
{
    while (obj->parent) {
        obj = obj->parent;
    }
    return obj->scope ? obj->scope : obj;
}

static Error *link_set(Object *obj, const Prop *prop, const char *text)
{
    Object *target = *text ? object_resolve(root_of(obj), text) : NULL;
    if (!*text) {
        *(Object **)prop_ptr(obj, prop) = NULL;
        return NULL;
    }
    if (!target) {
        return error_new("there is no object '%s'", text);
    }
    if (!object_is_a(target->type, prop->link)) {
        return error_new("'%s' is a %s, not a %s", text, target->type->name, prop->link->name);
    }
    *(Object **)prop_ptr(obj, prop) = target;
    return NULL;
}

static char *link_get(const Object *obj, const Prop *prop)
{
    const Object *target = *(Object **)prop_ptr(obj, prop);
    return target ? object_path(target) : g_strdup("");
}
const PropKind prop_link = { "link", link_set, link_get, NULL, NULL, 's' };

/* --- MAC address, UUID --- */

static Error *mac_set(Object *obj, const Prop *prop, const char *text)
{
    MacAddress *mac = prop_ptr(obj, prop);
    TRY(parse_mac(text, mac->octet));
    mac->set = true;
    return NULL;
}

static char *mac_get(const Object *obj, const Prop *prop)
{
    const uint8_t *o = ((MacAddress *)prop_ptr(obj, prop))->octet;
    return g_strdup_printf("%02x:%02x:%02x:%02x:%02x:%02x", o[0], o[1], o[2], o[3], o[4], o[5]);
}
const PropKind prop_mac = { "str", mac_set, mac_get, NULL, NULL, 's' };

static Error *uuid_set(Object *obj, const Prop *prop, const char *text)
{
    Uuid *uuid = prop_ptr(obj, prop);
    if (!strcmp(text, "auto")) {
        g_autofree char *made = g_uuid_string_random();
        TRY(parse_uuid(made, uuid->byte));
    } else {
        TRY(parse_uuid(text, uuid->byte));
    }
    uuid->set = true;
    return NULL;
}

static char *uuid_get(const Object *obj, const Prop *prop)
{
    char *text = g_malloc(37);
    format_uuid(((Uuid *)prop_ptr(obj, prop))->byte, text);
    return text;
}
const PropKind prop_uuid = { "str", uuid_set, uuid_get, NULL, NULL, 's' };
