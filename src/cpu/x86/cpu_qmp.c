/* QMP commands about CPU models. */
#include <string.h>

#include "core/vm/machine.h"
#include "cpu/x86/cpu.h"
#include "cpu/x86/sys.h"
#include "schema/qmp_commands.h"

static const X86Model *model_named(const char *name)
{
    for (const X86Model *model = x86_models; model->name; model++) {
        if (!strcmp(model->name, name)) {
            return model;
        }
    }
    return NULL;
}

/* The flags of a model with those of the rows it is like. */
static void collect_flags(const X86Model *model, GHashTable *flags, unsigned depth)
{
    const X86Model *base = model->like && depth < 16 ? model_named(model->like) : NULL;

    if (base) {
        collect_flags(base, flags, depth + 1);
    }
    g_auto(GStrv) names = g_strsplit(model->flags ? model->flags : "", " ", 0);
    for (char **name = names; *name; name++) {
        if (**name == '-') {
            g_hash_table_remove(flags, *name + 1);
        } else if (**name) {
            g_hash_table_add(flags, g_strdup(*name));
        }
    }
}

static bool supported(const char *flag, const uint32_t words[X86_FEAT_WORDS])
{
    for (unsigned word = 0; word < X86_FEAT_WORDS; word++) {
        for (unsigned bit = 0; bit < 32; bit++) {
            const char *name = x86_feature_name(word, bit);
            if (name && !strcmp(name, flag)) {
                return words[word] & BIT(bit);
            }
        }
    }
    return true; /* no CPUID bit */
}

static Value *unavailable(const X86Model *model, const uint32_t words[X86_FEAT_WORDS])
{
    g_autoptr(GHashTable) flags = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    Value *list = value_list();
    GHashTableIter it;
    gpointer flag;

    collect_flags(model, flags, 0);
    g_hash_table_iter_init(&it, flags);
    while (g_hash_table_iter_next(&it, &flag, NULL)) {
        if (!supported(flag, words)) {
            value_append(list, value_str(flag));
        }
    }
    return list;
}

static void add_definition(Value *list, const char *name, const X86Model *model, const char *alias_of,
                           const uint32_t words[X86_FEAT_WORDS])
{
    Value *info = value_dict();

    value_put_str(info, "name", name);
    value_put(info, "typename", value_strf("%s-x86_64-cpu", name));
    value_put(info, "unavailable-features", model ? unavailable(model, words) : value_list());
    value_put_bool(info, "static", !strcmp(name, "base"));
    value_put_bool(info, "migration-safe", model != NULL || !strcmp(name, "base"));
    if (alias_of) {
        value_put_str(info, "alias-of", alias_of);
    }
    value_put_bool(info, "deprecated", model && model->deprecated);
    value_append(list, info);
}

Error *qmp_query_cpu_definitions(QmpContext *ctx, const QmpQueryCpuDefinitionsArgs *args, Value **ret)
{
    uint32_t words[X86_FEAT_WORDS];

    x86_supported_features(words);
    *ret = value_list();
    add_definition(*ret, "max", NULL, NULL, words);
    add_definition(*ret, "base", NULL, NULL, words);
    for (const X86Model *model = x86_models; model->name; model++) {
        if (g_str_has_suffix(model->name, "-v1")) {
            g_autofree char *plain = g_strndup(model->name, strlen(model->name) - 3);
            add_definition(*ret, plain, model, model->name, words);
        }
        add_definition(*ret, model->name, model, NULL, words);
        if (model->alias) {
            add_definition(*ret, model->alias, model, model->name, words);
        }
    }
    return NULL;
}

/* --- expansion: a model as the features it stands for --- */

static const X86Model *model_by_any_name(const char *name)
{
    g_autofree char *first = g_strconcat(name, "-v1", NULL);

    for (const X86Model *model = x86_models; model->name; model++) {
        if (!strcmp(model->name, name) || !strcmp(model->name, first) || !g_strcmp0(model->alias, name)) {
            return model;
        }
    }
    return NULL;
}

/* max and host have what this host can give, base nothing. */
static Value *features_value(const char *name, const X86Model *model, const uint32_t words[X86_FEAT_WORDS])
{
    g_autoptr(GHashTable) flags = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    bool all = !strcmp(name, "max") || !strcmp(name, "host");
    Value *props = value_dict();

    if (model) {
        collect_flags(model, flags, 0);
    }
    for (unsigned word = 0; word < X86_FEAT_WORDS; word++) {
        for (unsigned bit = 0; bit < 32; bit++) {
            const char *feature = x86_feature_name(word, bit);
            if (feature) {
                bool offered = words[word] & BIT(bit);
                value_put_bool(props, feature, offered && (all || g_hash_table_contains(flags, feature)));
            }
        }
    }
    return props;
}

static void put_numbers(Value *props, const X86Model *model)
{
    const X86Model *at = model;
    uint32_t family = 0, number = 0, stepping = 0;
    const char *vendor = NULL, *model_name = NULL;

    for (unsigned depth = 0; at && depth < 16; depth++) {
        family = family ? family : at->family;
        number = number ? number : at->model;
        stepping = stepping ? stepping : at->stepping;
        vendor = vendor ? vendor : at->vendor;
        model_name = model_name ? model_name : at->model_name;
        at = at->like ? model_named(at->like) : NULL;
    }
    if (model) {
        value_put_int(props, "family", family);
        value_put_int(props, "model", number);
        value_put_int(props, "stepping", stepping);
        value_put_str(props, "vendor", vendor);
        value_put_str(props, "model-id", model_name);
    }
}

Error *qmp_query_cpu_model_expansion(QmpContext *ctx, const QmpQueryCpuModelExpansionArgs *args, Value **ret)
{
    static const char *const special[] = { "max", "base", "host", NULL };
    const char *name = value_find_str(args->model, "name");
    const X86Model *model = model_by_any_name(name);
    const Value *given = value_find(args->model, "props");
    uint32_t words[X86_FEAT_WORDS];

    if (!model && !g_strv_contains(special, name)) {
        return error_new("The CPU type '%s' is not a known CPU type", name);
    }
    if (given && value_kind(given) != VALUE_DICT) {
        return error_new("Invalid parameter type for 'model.props', expected: object");
    }
    x86_supported_features(words);
    Value *props = features_value(name, model, words), *info = value_dict();
    put_numbers(props, model);
    for (size_t n = 0; given && n < value_length(given); n++) {
        value_put(props, value_key_at(given, n), value_copy(value_item_at(given, n)));
    }
    value_put_str(info, "name", !strcmp(args->type, "static") ? "base" : name);
    value_put(info, "props", props);
    *ret = value_dict();
    value_put(*ret, "model", info);
    return NULL;
}
