/*
 * query-qmp-schema: the tables as SchemaInfo. Types keep their names; built-in types are called as in
 * the schema language, arrays "[element]".
 */
#include <string.h>

#include "monitor/monitor_priv.h"
#include "schema/qmp_commands.h"

typedef struct Builder {
    Value *list;
    GHashTable *seen; /* names of types that are in the list */
} Builder;

static const char *add_type(Builder *b, const QmpType *type);

static Value *entry(Builder *b, const char *name, const char *meta_type)
{
    Value *info = value_dict();
    value_put_str(info, "name", name);
    value_put_str(info, "meta-type", meta_type);
    value_append(b->list, info);
    return info;
}

static Value *members_value(Builder *b, const QmpMember *members)
{
    Value *list = value_list();
    for (; members && members->name; members++) {
        Value *member = value_dict();
        value_put_str(member, "name", members->name);
        if (members->optional) {
            value_put(member, "default", value_null());
        }
        value_put_str(member, "type", add_type(b, members->type));
        value_append(list, member);
    }
    return list;
}

static void add_object(Builder *b, Value *info, const QmpType *type)
{
    value_put(info, "members", members_value(b, type->members));
    if (type->tag) {
        Value *variants = value_list();
        for (const QmpMember *variant = type->variants; variant->name; variant++) {
            Value *item = value_dict();
            value_put_str(item, "case", variant->name);
            value_put_str(item, "type", add_type(b, variant->type));
            value_append(variants, item);
        }
        value_put_str(info, "tag", type->tag);
        value_put(info, "variants", variants);
    }
}

static void add_enum(Value *info, const QmpType *type)
{
    Value *values = value_list(), *members = value_list();
    for (const char *const *name = type->values; *name; name++) {
        Value *member = value_dict();
        value_put_str(member, "name", *name);
        value_append(members, member);
        value_append(values, value_str(*name));
    }
    value_put(info, "members", members);
    value_put(info, "values", values);
}

static const char *add_type(Builder *b, const QmpType *type)
{
    static const char *const builtin[] = {
        [QMP_STR] = "string", [QMP_INT] = "int", [QMP_NUMBER] = "number", [QMP_BOOL] = "boolean",
        [QMP_NULL] = "null",  [QMP_ANY] = "value",
    };
    if (!g_hash_table_add(b->seen, (gpointer)type->name)) {
        return type->name;
    }
    switch (type->kind) {
    case QMP_ENUM:
        add_enum(entry(b, type->name, "enum"), type);
        break;
    case QMP_OBJECT:
        add_object(b, entry(b, type->name, "object"), type);
        break;
    case QMP_ARRAY:
        value_put_str(entry(b, type->name, "array"), "element-type", add_type(b, type->element));
        break;
    case QMP_ALTERNATE: {
        Value *info = entry(b, type->name, "alternate"), *members = value_list();
        for (const QmpMember *member = type->members; member->name; member++) {
            Value *item = value_dict();
            value_put_str(item, "type", add_type(b, member->type));
            value_append(members, item);
        }
        value_put(info, "members", members);
        break;
    }
    default:
        value_put_str(entry(b, type->name, "builtin"), "json-type", builtin[type->kind]);
    }
    return type->name;
}

/* Arguments of commands and events are objects without a name of their own. */
static void add_arguments(Builder *b, Value *info, const char *owner, const QmpMember *members)
{
    g_autofree char *name = members->name ? g_strdup_printf("q_obj_%s-arg", owner) : g_strdup("q_empty");

    value_put_str(info, "arg-type", name);
    if (members->name) {
        Value *list = members_value(b, members);
        value_put(entry(b, name, "object"), "members", list);
    }
}

static void add_command(Builder *b, const QmpCommand *command)
{
    Value *info = entry(b, command->name, "command");

    add_arguments(b, info, command->name, command->members);
    value_put_str(info, "ret-type", command->returns ? add_type(b, command->returns) : "q_empty");
    if (command->oob) {
        value_put_bool(info, "allow-oob", true);
    }
    if (command->features) {
        Value *features = value_list();
        for (const char *const *feature = command->features; *feature; feature++) {
            value_append(features, value_str(*feature));
        }
        value_put(info, "features", features);
    }
}

Error *qmp_query_qmp_schema(QmpContext *ctx, const QmpQueryQmpSchemaArgs *args, Value **ret)
{
    Builder b = { .list = value_list(), .seen = g_hash_table_new(g_str_hash, g_str_equal) };

    value_put(entry(&b, "q_empty", "object"), "members", value_list());
    for (const QmpCommand *command = qmp_commands; command->name; command++) {
        if (monitor_has_command(monitors_of(ctx->machine), command)) {
            add_command(&b, command);
        }
    }
    for (const QmpEvent *event = qmp_events; event->name; event++) {
        add_arguments(&b, entry(&b, event->name, "event"), event->name, event->members);
    }
    g_hash_table_unref(b.seen);
    *ret = b.list;
    return NULL;
}
