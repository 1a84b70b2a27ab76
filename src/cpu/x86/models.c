/*
 * -cpu: choosing a model, adding and removing features. What of them can be offered: model_limits.c.
 */
#include <inttypes.h>

#include "base/bits.h"
#include "base/error.h"
#include "cpu/x86/features.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/sys.h"
#include "object/object.h"

/* --- lookup --- */

static const X86Model *model_exact(const char *name)
{
    for (const X86Model *m = x86_models; m->name; m++) {
        if (strcmp(m->name, name) == 0 || (m->alias && strcmp(m->alias, name) == 0)) {
            return m;
        }
    }
    return NULL;
}

static const X86Model *model_find(const char *name)
{
    const X86Model *m = model_exact(name);
    if (!m) {
        g_autofree char *first = g_strconcat(name, "-v1", NULL);
        m = model_exact(first);
    }
    return m;
}

/* "Haswell" of "Haswell-v1"; NULL for later versions. Caller frees. */
static char *unversioned(const X86Model *m)
{
    return g_str_has_suffix(m->name, "-v1") ? g_strndup(m->name, strlen(m->name) - 3) : NULL;
}

static GPtrArray *model_names(void)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    for (const X86Model *m = x86_models; m->name; m++) {
        char *plain = unversioned(m);
        if (plain) {
            g_ptr_array_add(names, plain);
        }
        g_ptr_array_add(names, g_strdup(m->name));
        if (m->alias) {
            g_ptr_array_add(names, g_strdup(m->alias));
        }
    }
    g_ptr_array_add(names, g_strdup("base"));
    g_ptr_array_add(names, g_strdup("max"));
    return names;
}

static Error *unknown_model(const char *name)
{
    g_autoptr(GPtrArray) names = model_names();
    g_ptr_array_add(names, NULL);
    const char *near = nearest_in(name, (const char *const *)names->pdata);
    Error *err = error_new("unable to find CPU model '%s'", name);
    return near ? error_hint(err, "Did you mean '%s'? -cpu help lists all.", near) : err;
}

/* --- a model's fields --- */

static void apply_row(X86Cpu *cpu, const X86Model *m)
{
    if (m->like) {
        const X86Model *base = model_exact(m->like);
        assert(base != NULL);
        apply_row(cpu, base);
    }
    if (m->vendor) {
        g_strlcpy(cpu->vendor, m->vendor, sizeof(cpu->vendor));
    }
    if (m->model_name) {
        g_strlcpy(cpu->model_name, m->model_name, sizeof(cpu->model_name));
    }
    if (!m->like || m->level) {
        cpu->cpuid_level = m->level;
    }
    if (!m->like || m->xlevel) {
        cpu->cpuid_xlevel = m->xlevel;
    }
    if (!m->like) {
        cpu->family = m->family;
        cpu->model_id = m->model;
        cpu->stepping = m->stepping;
    } else if (m->stepping) {
        cpu->stepping = m->stepping;
    }
    x86_features_parse(m->flags, cpu->features);
}

static void apply_max(X86Cpu *cpu)
{
    g_strlcpy(cpu->vendor, "AuthenticAMD", sizeof(cpu->vendor));
    g_strlcpy(cpu->model_name, "QEMU TCG CPU version 2.5+", sizeof(cpu->model_name));
    cpu->cpuid_level = 13;
    cpu->cpuid_xlevel = 0x8000000a;
    cpu->family = 15;
    cpu->model_id = 107;
    cpu->stepping = 1;
    x86_supported_features(cpu->features);
}

static void apply_base(X86Cpu *cpu)
{
    g_strlcpy(cpu->vendor, "AuthenticAMD", sizeof(cpu->vendor));
    cpu->family = cpu->model_id = cpu->stepping = 0;
    x86_features_parse("hypervisor", cpu->features);
}

/* --- options --- */

typedef struct CpuOption {
    const char *name;
    enum { OPT_U32, OPT_STR, OPT_BOOL } kind;
    size_t offset;
    uint64_t max;
    size_t size; /* of a string */
} CpuOption;
#define FIELD(m) offsetof(X86Cpu, m)
static const CpuOption options[] = {
    { "level", OPT_U32, FIELD(cpuid_level), UINT32_MAX },
    { "xlevel", OPT_U32, FIELD(cpuid_xlevel), UINT32_MAX },
    { "family", OPT_U32, FIELD(family), 0xff + 0xf },
    { "model", OPT_U32, FIELD(model_id), 0xff },
    { "stepping", OPT_U32, FIELD(stepping), 0xf },
    { "min-level", OPT_U32, FIELD(min_level), UINT32_MAX },
    { "min-xlevel", OPT_U32, FIELD(min_xlevel), UINT32_MAX },
    { "xlevel2", OPT_U32, FIELD(cpuid_xlevel2), UINT32_MAX },
    { "min-xlevel2", OPT_U32, FIELD(min_xlevel2), UINT32_MAX },
    { "vendor", OPT_STR, FIELD(vendor), 12, sizeof(((X86Cpu *)0)->vendor) },
    { "model-id", OPT_STR, FIELD(model_name), 48, sizeof(((X86Cpu *)0)->model_name) },
    { "check", OPT_BOOL, FIELD(check_cpuid) },
    { "enforce", OPT_BOOL, FIELD(enforce_cpuid) },
    { "host-phys-bits", OPT_BOOL, FIELD(host_phys_bits) },
    { "kvm", OPT_BOOL, FIELD(kvm_signature) },
    { "legacy-cache", OPT_BOOL, FIELD(legacy_cache) },
    { "l3-cache", OPT_BOOL, FIELD(l3_cache) },
    { "cpuid-0xb", OPT_BOOL, FIELD(leaf_b) },
    { "full-cpuid-auto-level", OPT_BOOL, FIELD(auto_level) },
    { "tcg-cpuid", OPT_BOOL, FIELD(tcg_signature) },
    { "migratable", OPT_BOOL, FIELD(migratable) },
    { "pmu", OPT_BOOL, FIELD(pmu) },
    { "lmce", OPT_BOOL, FIELD(lmce) },
};

static Error *set_number(X86Cpu *cpu, const CpuOption *option, const char *value)
{
    uint64_t number;
    TRY(parse_u64(value, &number));
    if (number > option->max) {
        return error_new("CPU property '%s': %" PRIu64 " is too large (at most %" PRIu64 ")", option->name, number,
                         option->max);
    }
    *(uint32_t *)(void *)((char *)cpu + option->offset) = (uint32_t)number;
    return NULL;
}

static Error *set_string(X86Cpu *cpu, const CpuOption *option, const char *value)
{
    if (strcmp(option->name, "vendor") == 0 && strlen(value) != 12) {
        return error_new("CPU property 'vendor': '%s' does not have 12 characters", value);
    }
    g_strlcpy((char *)cpu + option->offset, value, option->size);
    return NULL;
}

static Error *set_phys_bits(X86Cpu *cpu, const char *value)
{
    uint64_t bits;
    TRY(parse_u64(value, &bits));
    if (bits && (bits < 32 || bits > 52)) {
        return error_new("phys-bits should be between 32 and 52 (but is %" PRIu64 ")", bits);
    }
    cpu->phys_bits_wanted = (uint8_t)bits;
    return NULL;
}

static const CpuOption *option_find(const char *name)
{
    for (unsigned n = 0; n < ARRAY_SIZE(options); n++) {
        if (strcmp(options[n].name, name) == 0) {
            return &options[n];
        }
    }
    return NULL;
}

static Error *unknown_property(const char *name)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (unsigned n = 0; n < ARRAY_SIZE(options); n++) {
        g_ptr_array_add(names, (void *)options[n].name);
    }
    g_ptr_array_add(names, (void *)"phys-bits");
    for (unsigned word = 0; word < X86_FEAT_WORDS; word++) {
        for (unsigned bit = 0; bit < 32; bit++) {
            const char *feature = x86_feature_name(word, bit);
            if (feature) {
                g_ptr_array_add(names, (void *)feature);
            }
        }
    }
    g_ptr_array_add(names, NULL);
    const char *near = nearest_in(name, (const char *const *)names->pdata);
    Error *err = error_new("Property 'x86_64-cpu.%s' not found", name);
    return near ? error_hint(err, "Did you mean '%s'?", near) : err;
}

/* Features that the user named, to be told from those of the model. */
typedef struct Wanted {
    uint32_t on[X86_FEAT_WORDS], off[X86_FEAT_WORDS];
    bool level, xlevel, xlevel2; /* given: they stay as they are */
} Wanted;

static Error *set_feature(Wanted *wanted, const char *name, bool on)
{
    unsigned word, bit;
    if (!x86_feature_find(name, strlen(name), &word, &bit)) {
        return unknown_property(name);
    }
    if (on) {
        wanted->on[word] |= BIT(bit);
        wanted->off[word] &= ~BIT(bit);
    } else {
        wanted->off[word] |= BIT(bit);
        wanted->on[word] &= ~BIT(bit);
    }
    return NULL;
}

static Error *set_property(X86Cpu *cpu, Wanted *wanted, const char *name, const char *value)
{
    const CpuOption *option = option_find(name);
    if (strcmp(name, "phys-bits") == 0) {
        return set_phys_bits(cpu, value);
    }
    if (option && option->kind == OPT_U32) {
        wanted->level |= option->offset == offsetof(X86Cpu, cpuid_level);
        wanted->xlevel |= option->offset == offsetof(X86Cpu, cpuid_xlevel);
        wanted->xlevel2 |= option->offset == offsetof(X86Cpu, cpuid_xlevel2);
        return set_number(cpu, option, value);
    }
    if (option && option->kind == OPT_STR) {
        return set_string(cpu, option, value);
    }
    bool on;
    Error *err = parse_bool(value, &on);
    if (err) {
        return error_prefix(err, "CPU property '%s': ", name);
    }
    if (option && option->offset == offsetof(X86Cpu, pmu) && on) {
        return error_new("CPU property 'pmu': there is no performance monitoring unit");
    }
    if (option && option->offset == offsetof(X86Cpu, lmce) && on) {
        return error_new("CPU property 'lmce': machine checks of one CPU alone are not there");
    }
    if (option && option->offset == offsetof(X86Cpu, legacy_cache) && !on) {
        return error_new("CPU property 'legacy-cache': the models have no other description of their caches");
    }
    if (option) {
        *(bool *)((char *)cpu + option->offset) = on;
        return NULL;
    }
    return set_feature(wanted, name, on);
}

static Error *set_option(X86Cpu *cpu, Wanted *wanted, const char *text)
{
    const char *equals = strchr(text, '=');
    if (!equals) {
        return set_property(cpu, wanted, text, "on");
    }
    g_autofree char *name = g_strndup(text, (size_t)(equals - text));
    return set_property(cpu, wanted, name, equals + 1);
}

/* "+name" and "-name" in the words that QEMU has for it: its test program looks for them. */
static void warn_if_said_twice(char *const *parts, const char *text)
{
    size_t length = strlen(text + 1);
    for (; *parts; parts++) {
        if (!strncmp(*parts, text + 1, length) && (*parts)[length] == '=') {
            warn_report("Ambiguous CPU model string. Don't mix both \"%s\" and \"%s\"", text, *parts);
        }
    }
}

/* Assignments in their order; "+name" goes before them and "-name" before both, wherever they stand. */
static Error *set_options(X86Cpu *cpu, Wanted *wanted, char *const *parts, bool quiet)
{
    for (char *const *part = parts; *part; part++) {
        if (**part && **part != '+' && **part != '-') {
            TRY(set_option(cpu, wanted, *part));
        }
    }
    for (const char *sign = "+-"; *sign; sign++) {
        for (char *const *part = parts; *part; part++) {
            if (**part == *sign) {
                if (!quiet) {
                    warn_if_said_twice(parts, *part);
                }
                TRY(set_feature(wanted, *part + 1, *sign == '+'));
            }
        }
    }
    return NULL;
}

/* By what was asked for, whether it can be offered or not. Leaf 7's EBX raises the level on old machines, too. */
static void raise_levels(X86Cpu *cpu, const Wanted *wanted)
{
    const uint32_t *f = cpu->features;
    uint32_t level = cpu->min_level, xlevel = cpu->min_xlevel;
    if (cpu->auto_level) {
        level = MAX(level, f[X86_FEAT_6_EAX] ? 6u : 0);
        level = MAX(level, f[X86_FEAT_7_EBX] | f[X86_FEAT_7_ECX] | f[X86_FEAT_7_EDX] ? 7u : 0);
        level = MAX(level, f[X86_FEAT_D_1_EAX] || x86_has(cpu, X86_FEAT_1_ECX, 26) ? 0xdu : 0);
        xlevel = MAX(xlevel, f[X86_FEAT_8000_0001_EDX] | f[X86_FEAT_8000_0001_ECX] ? 0x80000001u : 0);
        xlevel = MAX(xlevel, f[X86_FEAT_8000_0007_EDX] ? 0x80000007u : 0);
        xlevel = MAX(xlevel, f[X86_FEAT_8000_0008_EBX] ? 0x80000008u : 0);
        xlevel = MAX(xlevel, f[X86_FEAT_SVM] || x86_has(cpu, X86_FEAT_8000_0001_ECX, 2) ? 0x8000000au : 0);
        xlevel = MAX(xlevel, x86_has(cpu, X86_FEAT_8000_0001_ECX, 22) ? 0x8000001eu : 0);
    }
    level = MAX(level, f[X86_FEAT_7_EBX] ? 7u : 0);
    cpu->min_level = wanted->level ? level : MAX(cpu->cpuid_level, level);
    cpu->cpuid_level = wanted->level ? cpu->cpuid_level : cpu->min_level;
    uint32_t xlevel2 = MAX(cpu->min_xlevel2, cpu->auto_level && f[X86_FEAT_C000_0001_EDX] ? 0xc0000001u : 0);
    cpu->cpuid_xlevel2 = wanted->xlevel2 ? cpu->cpuid_xlevel2 : MAX(cpu->cpuid_xlevel2, xlevel2);
    cpu->min_xlevel = wanted->xlevel ? xlevel : MAX(cpu->cpuid_xlevel, xlevel);
    cpu->cpuid_xlevel = wanted->xlevel ? cpu->cpuid_xlevel : cpu->min_xlevel;
}

/* --- entry --- */

static void set_defaults(X86Cpu *cpu)
{
    memset(cpu->features, 0, sizeof(cpu->features));
    memset(cpu->vendor, 0, sizeof(cpu->vendor));
    memset(cpu->model_name, 0, sizeof(cpu->model_name));
    cpu->cpuid_level = cpu->cpuid_xlevel = cpu->cpuid_xlevel2 = cpu->min_level = cpu->min_xlevel = cpu->min_xlevel2 = 0;
    cpu->check_cpuid = cpu->leaf_b = cpu->auto_level = cpu->tcg_signature = cpu->l3_cache = true;
    cpu->legacy_cache = cpu->migratable = cpu->kvm_signature = true;
    cpu->enforce_cpuid = cpu->host_phys_bits = cpu->pmu = cpu->lmce = false;
    cpu->phys_bits_wanted = 0;
}

Error *x86_unknown_model(const char *spec)
{
    g_autofree char *name = g_strndup(spec, strcspn(spec, ","));
    if (!*name) {
        return error_new("-cpu: a model name is missing (-cpu help lists them)");
    }
    if (strcmp(name, "host") == 0) {
        return error_new("CPU model 'host' requires KVM or HVF");
    }
    return unknown_model(name);
}

Error *x86_get_property(const X86Cpu *cpu, const char *name, char **ret_text)
{
    const CpuOption *option = option_find(name);
    unsigned word, bit;

    if (option && option->kind == OPT_U32) {
        *ret_text = g_strdup_printf("%u", *(const uint32_t *)(const void *)((const char *)cpu + option->offset));
    } else if (option && option->kind == OPT_STR) {
        *ret_text = g_strdup((const char *)cpu + option->offset);
    } else if (option) {
        *ret_text = g_strdup(*(const bool *)((const char *)cpu + option->offset) ? "true" : "false");
    } else if (strcmp(name, "phys-bits") == 0) {
        *ret_text = g_strdup_printf("%u", cpu->phys_bits);
    } else if (strcmp(name, "feature-words") == 0) {
        *ret_text = x86_feature_words_json(cpu->features);
    } else if (x86_feature_find(name, strlen(name), &word, &bit)) {
        *ret_text = g_strdup(cpu->features[word] >> bit & 1 ? "true" : "false");
    } else {
        return unknown_property(name);
    }
    return NULL;
}

/* The model as it was asked for, before what cannot be offered is taken away. */
static Error *request_model(X86Cpu *cpu, const char *spec, bool quiet, Wanted *ret_wanted)
{
    g_auto(GStrv) parts = g_strsplit(spec, ",", -1);
    const X86Model *m = parts[0] ? model_find(parts[0]) : NULL;
    bool max = parts[0] && strcmp(parts[0], "max") == 0, base = parts[0] && strcmp(parts[0], "base") == 0;
    if (!m && !max && !base) {
        return x86_unknown_model(spec);
    }
    set_defaults(cpu);
    cpu->model = m;
    if (m) {
        apply_row(cpu, m);
    } else if (max) {
        apply_max(cpu);
    } else {
        apply_base(cpu);
    }
    Wanted wanted = { 0 };
    TRY(set_options(cpu, &wanted, parts + 1, quiet));
    if (max && cpu->migratable) { /* an invariant rate is lost by moving to another host */
        cpu->features[X86_FEAT_8000_0007_EDX] &= ~BIT(8);
    }
    for (unsigned word = 0; word < X86_FEAT_WORDS; word++) {
        cpu->features[word] = (cpu->features[word] | wanted.on[word]) & ~wanted.off[word];
    }
    *ret_wanted = wanted;
    return NULL;
}

Error *x86_filtered_features(const X86Cpu *cpu, const char *spec, uint32_t ret_features[X86_FEAT_WORDS])
{
    X86Cpu *asked = g_aligned_alloc0(1, sizeof(X86Cpu), 64);
    Wanted wanted;
    Error *err = request_model(asked, spec, true, &wanted);

    for (unsigned word = 0; !err && word < X86_FEAT_WORDS; word++) {
        ret_features[word] = asked->features[word] & ~cpu->features[word];
    }
    g_aligned_free(asked);
    return err;
}

static Error *apply_model(X86Cpu *cpu, const char *spec, bool quiet)
{
    Wanted wanted = { 0 };

    TRY(request_model(cpu, spec, quiet, &wanted));
    raise_levels(cpu, &wanted);
    TRY(x86_model_limit(cpu, quiet));
    cpu->fx.mxcsr_mask = 0xffff;
    if (cpu->mmu) {
        x86_tlb_flush_all(cpu);
    }
    return NULL;
}

Error *x86_expand_model(const char *spec, X86Cpu **ret_cpu)
{
    X86Cpu *cpu = g_aligned_alloc0(1, sizeof(X86Cpu), 64);
    Error *err = apply_model(cpu, spec, true);

    if (err) {
        g_aligned_free(cpu);
        return err;
    }
    *ret_cpu = cpu;
    return NULL;
}

const char *x86_option_name(unsigned n, bool *ret_number, bool *ret_text)
{
    if (n >= ARRAY_SIZE(options)) {
        return NULL;
    }
    *ret_number = options[n].kind == OPT_U32;
    *ret_text = options[n].kind == OPT_STR;
    return options[n].name;
}

Error *x86_apply_model(X86Cpu *cpu, const char *spec)
{
    return apply_model(cpu, spec, cpu->vcpu && cpu->vcpu->index != 0);
}

/* --- help --- */

static int by_name(const void *a, const void *b)
{
    return g_ascii_strcasecmp(*(char *const *)a, *(char *const *)b);
}

static void add_flags(GString *text)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (unsigned word = 0; word < X86_FEAT_WORDS; word++) {
        for (unsigned bit = 0; bit < 32; bit++) {
            const char *name = x86_feature_name(word, bit);
            if (name) {
                g_ptr_array_add(names, (void *)name);
            }
        }
    }
    g_ptr_array_sort(names, by_name);
    size_t width = 0;
    g_string_append(text, "\nRecognized CPUID flags:\n");
    for (unsigned n = 0; n < names->len; n++) {
        const char *name = names->pdata[n];
        if (width == 0 || width + strlen(name) + 1 > 75) {
            g_string_append(text, width ? "\n " : " ");
            width = 1;
        }
        g_string_append_printf(text, " %s", name);
        width += strlen(name) + 1;
    }
    g_string_append_c(text, '\n');
}

char *x86_models_help(void)
{
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);
    for (const X86Model *m = x86_models; m->name; m++) {
        g_autofree char *plain = unversioned(m);
        if (plain) {
            g_ptr_array_add(lines, g_strdup_printf("x86 %-20s  (alias configured by machine type)", plain));
        }
        if (m->alias) {
            g_ptr_array_add(lines, g_strdup_printf("x86 %-20s  (alias of %s)", m->alias, m->name));
        }
        const char *desc = m->desc ? m->desc : m->model_name;
        for (const X86Model *from = m; !desc && from->like;) {
            from = model_exact(from->like);
            desc = from->model_name;
        }
        g_ptr_array_add(lines, g_strdup_printf("x86 %-20s  %s", m->name, desc ? desc : ""));
    }
    g_ptr_array_sort(lines, by_name);
    GString *text = g_string_new("Available CPUs:\n");
    for (unsigned n = 0; n < lines->len; n++) {
        g_string_append_printf(text, "%s\n", (char *)lines->pdata[n]);
    }
    g_string_append_printf(text, "x86 %-20s  %s\n", "base", "base CPU model type with no features enabled");
    g_string_append_printf(text, "x86 %-20s  %s\n", "max",
                           "Enables all features supported by the accelerator in the current host");
    add_flags(text);
    return g_string_free(text, FALSE);
}
