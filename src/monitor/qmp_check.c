/* Values against the schema. Messages are those that clients know. */
#include <string.h>

#include "monitor/monitor_priv.h"

static bool kind_fits(const QmpType *type, const Value *value)
{
    ValueKind kind = value_kind(value);

    switch (type->kind) {
    case QMP_STR:
    case QMP_ENUM:
        return kind == VALUE_STRING;
    case QMP_INT:
        return kind == VALUE_INT || kind == VALUE_UINT;
    case QMP_NUMBER:
        return kind == VALUE_INT || kind == VALUE_UINT || kind == VALUE_DOUBLE;
    case QMP_BOOL:
        return kind == VALUE_BOOL;
    case QMP_NULL:
        return kind == VALUE_NULL;
    case QMP_ARRAY:
        return kind == VALUE_LIST;
    case QMP_OBJECT:
        return kind == VALUE_DICT;
    case QMP_ANY:
    case QMP_ALTERNATE:
        return true;
    }
    return false;
}

static const char *kind_words(const QmpType *type)
{
    static const char *const words[] = {
        [QMP_STR] = "string",   [QMP_ENUM] = "string", [QMP_INT] = "integer",  [QMP_NUMBER] = "number",
        [QMP_BOOL] = "boolean", [QMP_NULL] = "null",   [QMP_ARRAY] = "array",  [QMP_OBJECT] = "object",
        [QMP_ANY] = "any",      [QMP_ALTERNATE] = "alternate",
    };
    return words[type->kind];
}

static const QmpMember *member_find(const QmpMember *members, const char *name)
{
    for (; members && members->name; members++) {
        if (!strcmp(members->name, name)) {
            return members;
        }
    }
    return NULL;
}

static char *path_of(const char *outer, const char *name)
{
    return outer ? g_strconcat(outer, ".", name, NULL) : g_strdup(name);
}

static MUST_USE Error *check_members(const QmpMember *members, const Value *dict, const char *outer)
{
    for (; members && members->name; members++) {
        const Value *item = value_find(dict, members->name);
        g_autofree char *path = path_of(outer, members->name);
        if (item) {
            TRY(qmp_check_value(members->type, item, path));
        } else if (!members->optional) {
            return error_new("Parameter '%s' is missing", path);
        }
    }
    return NULL;
}

static MUST_USE Error *check_object(const QmpType *type, const Value *dict, const char *name)
{
    const QmpMember *variant = NULL;

    TRY(check_members(type->members, dict, name));
    if (type->tag) {
        const char *tag = value_find_str(dict, type->tag);
        variant = tag ? member_find(type->variants, tag) : NULL;
        if (variant) {
            TRY(check_members(variant->type->members, dict, name));
        }
    }
    for (size_t n = 0; n < value_length(dict); n++) {
        const char *key = value_key_at(dict, n);
        if (!member_find(type->members, key) && !(variant && member_find(variant->type->members, key))) {
            g_autofree char *path = path_of(name, key);
            return error_new("Parameter '%s' is unknown or has no place here", path);
        }
    }
    return NULL;
}

static MUST_USE Error *check_alternate(const QmpType *type, const Value *value, const char *name)
{
    for (const QmpMember *member = type->members; member->name; member++) {
        if (kind_fits(member->type, value)) {
            return qmp_check_value(member->type, value, name);
        }
    }
    return error_new("Invalid parameter type for '%s', expected: %s", name, type->name);
}

Error *qmp_check_value(const QmpType *type, const Value *value, const char *name)
{
    if (!kind_fits(type, value)) {
        return error_new("Invalid parameter type for '%s', expected: %s", name, kind_words(type));
    }
    switch (type->kind) {
    case QMP_ENUM:
        if (!g_strv_contains(type->values, value_get_str(value))) {
            return error_new("Parameter '%s' does not accept value '%s'", name, value_get_str(value));
        }
        return NULL;
    case QMP_ARRAY:
        for (size_t n = 0; n < value_length(value); n++) {
            g_autofree char *path = g_strdup_printf("%s[%zu]", name, n);
            TRY(qmp_check_value(type->element, value_at(value, n), path));
        }
        return NULL;
    case QMP_OBJECT:
        return check_object(type, value, name);
    case QMP_ALTERNATE:
        return check_alternate(type, value, name);
    default:
        return NULL;
    }
}

static void fill(const QmpMember *member, const Value *value, void *args)
{
    void *to = (char *)args + member->offset;
    uint64_t bits;

    if (member->optional) {
        *(bool *)((char *)args + member->has_offset) = true;
    }
    switch (member->type->kind) {
    case QMP_STR:
    case QMP_ENUM:
        *(const char **)to = value_get_str(value);
        break;
    case QMP_INT: /* numbers above INT64_MAX (addresses) keep their bits */
        if (!value_get_int(value, to) && value_get_uint(value, &bits)) {
            *(int64_t *)to = (int64_t)bits;
        }
        break;
    case QMP_NUMBER:
        value_get_double(value, to);
        break;
    case QMP_BOOL:
        value_get_bool(value, to);
        break;
    default:
        *(const Value **)to = value;
    }
}

Error *qmp_check_args(const QmpCommand *command, const Value *dict, void *args)
{
    TRY(check_members(command->members, dict, NULL));
    for (size_t n = 0; n < value_length(dict); n++) {
        const QmpMember *member = member_find(command->members, value_key_at(dict, n));
        if (member) {
            fill(member, value_item_at(dict, n), args);
        } else if (!command->open) {
            return error_new("Parameter '%s' is unknown or has no place here",
                             value_key_at(dict, n));
        }
    }
    *(const Value **)((char *)args + command->all_offset) = dict;
    return NULL;
}
