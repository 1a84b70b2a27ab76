/* What a CPU model may offer here: features, those that depend on them, the width of addresses. See features.h. */
#include "cpu/x86/features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "base/bits.h"
#include "base/error.h"
#include "cpu/x86/sys.h"

enum { TCG_PHYS_BITS = 40 };

static const char *word_label(unsigned word)
{
    static const char *const labels[X86_FEAT_WORDS] = {
        [X86_FEAT_1_EDX] = "CPUID.01H:EDX",
        [X86_FEAT_1_ECX] = "CPUID.01H:ECX",
        [X86_FEAT_7_EBX] = "CPUID.07H:EBX",
        [X86_FEAT_7_ECX] = "CPUID.07H:ECX",
        [X86_FEAT_7_EDX] = "CPUID.07H:EDX",
        [X86_FEAT_7_1_EAX] = "CPUID.07H.1H:EAX",
        [X86_FEAT_8000_0001_EDX] = "CPUID.80000001H:EDX",
        [X86_FEAT_8000_0001_ECX] = "CPUID.80000001H:ECX",
        [X86_FEAT_8000_0007_EDX] = "CPUID.80000007H:EDX",
        [X86_FEAT_8000_0008_EBX] = "CPUID.80000008H:EBX",
        [X86_FEAT_D_1_EAX] = "CPUID.0DH.1H:EAX",
        [X86_FEAT_6_EAX] = "CPUID.06H:EAX",
        [X86_FEAT_SVM] = "CPUID.8000000AH:EDX",
        [X86_FEAT_ARCH_CAPS] = "MSR(10AH)",
    };
    return labels[word] ? labels[word] : "CPUID";
}

/* Takes away what cannot be offered. Tells of it, or refuses with enforce. */
static Error *limit_features(X86Cpu *cpu, bool quiet)
{
    uint32_t offered[X86_FEAT_WORDS];
    bool missing = false;
    x86_supported_features(offered);
    for (unsigned word = 0; word < X86_FEAT_WORDS; word++) {
        uint32_t lost = cpu->features[word] & ~offered[word];
        for (unsigned bit = 0; bit < 32; bit++) {
            const char *name = x86_feature_name(word, bit);
            if ((lost >> bit & 1) && name && !quiet && (cpu->check_cpuid || cpu->enforce_cpuid)) {
                warn_report("TCG doesn't support requested feature: %s.%s [bit %u]", word_label(word), name, bit);
            }
        }
        missing |= lost != 0;
        cpu->features[word] &= offered[word];
    }
    if (missing && cpu->enforce_cpuid) {
        return error_new("TCG doesn't support requested features");
    }
    return NULL;
}

/* Features that make no sense without another. */
static void drop_dependent(X86Cpu *cpu)
{
    static const struct { uint8_t word, bit, needs_word, needs_bit; } rows[] = {
        { X86_FEAT_1_ECX, 28, X86_FEAT_1_ECX, 26 },  /* AVX: XSAVE */
        { X86_FEAT_7_EBX, 5, X86_FEAT_1_ECX, 28 },   /* AVX2: AVX */
        { X86_FEAT_1_ECX, 12, X86_FEAT_1_ECX, 28 },  /* FMA */
        { X86_FEAT_1_ECX, 29, X86_FEAT_1_ECX, 28 },  /* F16C */
        { X86_FEAT_7_EBX, 16, X86_FEAT_7_EBX, 5 },   /* AVX-512F: AVX2 */
        { X86_FEAT_7_ECX, 3, X86_FEAT_8000_0001_EDX, 29 },   /* PKU: long mode */
        { X86_FEAT_7_ECX, 31, X86_FEAT_8000_0001_EDX, 29 },  /* PKS */
        { X86_FEAT_7_ECX, 16, X86_FEAT_8000_0001_EDX, 29 },  /* LA57 */
        { X86_FEAT_1_ECX, 17, X86_FEAT_8000_0001_EDX, 29 },  /* PCID */
        { X86_FEAT_7_EBX, 10, X86_FEAT_1_ECX, 17 },  /* INVPCID: PCID */
    };
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        if (!x86_has(cpu, rows[n].needs_word, rows[n].needs_bit)) {
            cpu->features[rows[n].word] &= ~BIT(rows[n].bit);
        }
    }
    if (!x86_has(cpu, X86_FEAT_1_ECX, 26)) {
        cpu->features[X86_FEAT_D_1_EAX] = 0;
    }
    if (!x86_has(cpu, X86_FEAT_7_EDX, 29)) {
        cpu->features[X86_FEAT_ARCH_CAPS] = 0;
    }
}

static uint8_t host_address_bits(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    if (__get_cpuid(0x80000008, &a, &b, &c, &d)) {
        return (uint8_t)MIN(MAX(a & 0xff, 32u), 52u);
    }
#endif
    return TCG_PHYS_BITS;
}

static void set_address_width(X86Cpu *cpu)
{
    bool lm = x86_has(cpu, X86_FEAT_8000_0001_EDX, 29), pse36 = x86_has(cpu, X86_FEAT_1_EDX, 17);
    bool pae = x86_has(cpu, X86_FEAT_1_EDX, 6);
    cpu->phys_bits = lm ? TCG_PHYS_BITS : pse36 || pae ? 36 : 32;
    if (lm && cpu->host_phys_bits) {
        cpu->phys_bits = host_address_bits();
    }
    if (lm && cpu->phys_bits_wanted) {
        cpu->phys_bits = cpu->phys_bits_wanted;
    }
    cpu->phys_mask = BITS64(cpu->phys_bits - 1, 0);
}

Error *x86_model_limit(X86Cpu *cpu, bool quiet)
{
    TRY(limit_features(cpu, quiet));
    drop_dependent(cpu);
    set_address_width(cpu);
    return NULL;
}
