/* QMP commands about CPU models. */
#include <string.h>

#include "core/vm/machine.h"
#include "cpu/x86/cpu.h"
#include "cpu/x86/sys.h"
#include "schema/qmp_commands.h"
#include "value/json.h"

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

/* --- expansion: a model as the properties it stands for --- */

/* The properties beside features that a static expansion has; a full one has all. */
static bool is_static(const char *name)
{
    static const char *const names[] = { "family", "model", "stepping", "vendor", "model-id", "min-level", "min-xlevel", "lmce", NULL };
    return g_strv_contains(names, name);
}

static void put_property(Value *props, const X86Cpu *cpu, const char *name, bool number, bool text)
{
    g_autofree char *value = NULL;
    Error *err = x86_get_property(cpu, name, &value);

    assert(!err);
    if (number) {
        value_put(props, name, value_uint(g_ascii_strtoull(value, NULL, 0)));
    } else if (text) {
        value_put_str(props, name, value);
    } else {
        value_put_bool(props, name, !strcmp(value, "true"));
    }
}

static Value *properties_of(const X86Cpu *cpu, bool full)
{
    Value *props = value_dict();
    bool number, text;
    const char *name;

    for (unsigned word = 0; word < X86_FEAT_WORDS; word++) {
        for (unsigned bit = 0; bit < 32; bit++) {
            g_auto(GStrv) names = x86_feature_names(word, bit);
            for (char **at = names; at && *at && (full || at == names); at++) {
                value_put_bool(props, *at, cpu->features[word] & BIT(bit));
            }
        }
    }
    for (unsigned n = 0; (name = x86_option_name(n, &number, &text)); n++) {
        if (full || is_static(name)) {
            put_property(props, cpu, name, number, text);
        }
    }
    if (full) {
        put_property(props, cpu, "phys-bits", true, false);
    }
    return props;
}

/* "model,name=value,...", as -cpu takes it. */
static MUST_USE Error *spec_of(const Value *model, char **ret_spec)
{
    const Value *given = value_find(model, "props");
    g_autoptr(GString) spec = g_string_new(value_find_str(model, "name"));

    if (given && value_kind(given) != VALUE_DICT) {
        return error_new("Invalid parameter type for 'model.props', expected: object");
    }
    if (strchr(spec->str, ',')) {
        return error_new("a CPU model has no comma in its name: '%s'", spec->str);
    }
    for (size_t n = 0; given && n < value_length(given); n++) {
        const char *name = value_key_at(given, n), *text = value_get_str(value_item_at(given, n));
        g_autofree char *written = text ? g_strdup(text) : json_write(value_item_at(given, n), false);
        bool truth = value_kind(value_item_at(given, n)) == VALUE_BOOL;
        if (strpbrk(name, ",=") || strchr(written, ',')) {
            return error_new("CPU property '%s': a comma cannot be part of it", name);
        }
        g_string_append_printf(spec, ",%s=%s", name, truth ? (!strcmp(written, "true") ? "on" : "off") : written);
    }
    *ret_spec = g_string_free(g_steal_pointer(&spec), FALSE);
    return NULL;
}

Error *qmp_query_cpu_model_expansion(QmpContext *ctx, const QmpQueryCpuModelExpansionArgs *args, Value **ret)
{
    bool full = !strcmp(args->type, "full");
    g_autofree char *spec = NULL;
    Value *info = value_dict();
    X86Cpu *cpu = NULL;

    value_put_str(info, "name", full ? value_find_str(args->model, "name") : "base");
    *ret = value_dict();
    value_put(*ret, "model", info);
    TRY(spec_of(args->model, &spec));
    TRY(x86_expand_model(spec, &cpu));
    value_put(info, "props", properties_of(cpu, full));
    g_aligned_free(cpu);
    return NULL;
}
