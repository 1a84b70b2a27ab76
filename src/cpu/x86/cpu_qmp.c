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
