/*
 * Names of CPUID feature bits, and which of them this program can give to a guest.
 * Intel SDM volume 2 (CPUID), AMD64 manual volume 3 appendix E. Names are those that -cpu takes.
 */
#include "base/bits.h"
#include "cpu/x86/features.h"
#include "cpu/x86/fpu.h"
#include "cpu/x86/sys.h"

/* One string a word: names in bit order, '.' where a bit has none, several names of a bit joined by '/'. */
static const char *const words[X86_FEAT_WORDS] = {
    [X86_FEAT_1_EDX] = "fpu vme de pse tsc msr pae mce cx8 apic . sep mtrr pge mca cmov pat pse36 pn clflush . ds "
                       "acpi mmx fxsr sse sse2 ss ht/htt tm ia64 pbe",
    [X86_FEAT_1_ECX] = "pni/sse3 pclmulqdq/pclmuldq dtes64 monitor ds-cpl/ds_cpl vmx smx est tm2 ssse3 cid . fma "
                       "cx16 xtpr pdcm . pcid dca sse4.1/sse4-1/sse4_1 sse4.2/sse4-2/sse4_2 x2apic movbe popcnt "
                       "tsc-deadline aes xsave . avx f16c rdrand hypervisor",
    [X86_FEAT_7_EBX] = "fsgsbase tsc-adjust/tsc_adjust sgx bmi1 hle avx2 . smep bmi2 erms invpcid rtm . . mpx . "
                       "avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel-pt avx512pf "
                       "avx512er avx512cd sha-ni avx512bw avx512vl",
    [X86_FEAT_7_ECX] = ". avx512vbmi umip pku . waitpkg avx512vbmi2 . gfni vaes vpclmulqdq avx512vnni "
                       "avx512bitalg . avx512-vpopcntdq . la57 . . . . . rdpid . bus-lock-detect cldemote . movdiri "
                       "movdir64b . sgxlc pks",
    [X86_FEAT_7_EDX] = ". . avx512-4vnniw avx512-4fmaps fsrm . . . avx512-vp2intersect . md-clear . . . serialize . "
                       "tsx-ldtrk . . arch-lbr . . amx-bf16 avx512-fp16 amx-tile amx-int8 spec-ctrl stibp . "
                       "arch-capabilities core-capability ssbd",
    [X86_FEAT_7_1_EAX] = ". . . . avx-vnni avx512-bf16 . cmpccxadd . . fzrm fsrs fsrc . . . . . . . . amx-fp16 . "
                         "avx-ifma . . . . . . . .",
    [X86_FEAT_8000_0001_EDX] = ". . . . . . . . . . . syscall . . . . . . . . nx/xd . mmxext . . fxsr-opt/ffxsr "
                               "pdpe1gb rdtscp . lm/i64 3dnowext 3dnow",
    [X86_FEAT_8000_0001_ECX] = "lahf-lm/lahf_lm cmp-legacy/cmp_legacy svm extapic cr8legacy abm sse4a misalignsse "
                               "3dnowprefetch osvw ibs xop skinit wdt . lwp fma4 tce . nodeid-msr/nodeid_msr . tbm "
                               "topoext perfctr-core/perfctr_core perfctr-nb/perfctr_nb . . . . . . .",
    [X86_FEAT_8000_0007_EDX] = ". . . . . . . . invtsc . . . . . . . . . . . . . . . . . . . . . . .",
    [X86_FEAT_8000_0008_EBX] = "clzero . xsaveerptr . . . . . . wbnoinvd . . ibpb . ibrs amd-stibp . . . . . . . . "
                               "amd-ssbd virt-ssbd amd-no-ssb . . . . .",
    [X86_FEAT_D_1_EAX] = "xsaveopt xsavec xgetbv1 xsaves xfd . . . . . . . . . . . . . . . . . . . . . . . . . . .",
    [X86_FEAT_6_EAX] = ". . arat . . . . . . . . . . . . . . . . . . . . . . . . . . . . .",
    [X86_FEAT_SVM] = "npt lbrv svm-lock/svm_lock nrip-save/nrip_save tsc-scale/tsc_scale vmcb-clean/vmcb_clean "
                     "flushbyasid decodeassists . . pause-filter/pause_filter . pfthreshold avic . v-vmsave-vmload "
                     "vgif . . . . . . . . . . . svme-addr-chk . . .",
    [X86_FEAT_ARCH_CAPS] = "rdctl-no ibrs-all rsba skip-l1dfl-vmentry ssb-no mds-no pschange-mc-no tsx-ctrl taa-no "
                           ". . . . . . . . . . . . . . . . . . . . . . .",
};

/* Features whose state this program keeps and whose instructions it runs. The rest is left to fpu.c. */
static const char supported[] =
    "vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush acpi ss ht "
    "cx16 pcid x2apic movbe popcnt tsc-deadline rdrand hypervisor "
    "fsgsbase tsc-adjust bmi1 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb "
    "umip pku pks la57 rdpid fsrm md-clear spec-ctrl stibp ssbd arch-capabilities "
    "syscall nx pdpe1gb rdtscp lm 3dnowprefetch "
    "lahf-lm cmp-legacy svm cr8legacy abm misalignsse topoext "
    "npt lbrv nrip-save vmcb-clean flushbyasid decodeassists pause-filter pfthreshold vgif "
    "invtsc ibpb ibrs amd-stibp amd-ssbd amd-no-ssb wbnoinvd arat "
    "rdctl-no ibrs-all skip-l1dfl-vmentry ssb-no mds-no pschange-mc-no taa-no";

static size_t token_length(const char *text)
{
    return strcspn(text, " /");
}

/* Where bit n's names start in a word's string. */
static const char *names_of(unsigned word, unsigned bit)
{
    const char *at = words[word];
    for (unsigned n = 0; at && n < bit; n++) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    return at && *at != '.' ? at : NULL;
}

bool x86_feature_find(const char *name, size_t length, unsigned *ret_word, unsigned *ret_bit)
{
    for (unsigned word = 0; word < X86_FEAT_WORDS; word++) {
        unsigned bit = 0;
        for (const char *at = words[word]; at && *at;) {
            size_t n = token_length(at);
            if (n == length && g_ascii_strncasecmp(at, name, n) == 0 && *at != '.') {
                *ret_word = word;
                *ret_bit = bit;
                return true;
            }
            at += n;
            bit += *at == ' ';
            at += *at != '\0';
        }
    }
    return false;
}

const char *x86_feature_name(unsigned word, unsigned bit)
{
    const char *at = word < X86_FEAT_WORDS ? names_of(word, bit) : NULL;
    if (!at) {
        return NULL;
    }
    g_autofree char *name = g_strndup(at, token_length(at));
    return g_intern_string(name);
}

void x86_features_parse(const char *text, uint32_t features[X86_FEAT_WORDS])
{
    for (const char *at = text; *at; at += strspn(at, " ")) {
        bool off = *at == '-';
        at += off;
        size_t n = token_length(at);
        unsigned word, bit;
        bool found = x86_feature_find(at, n, &word, &bit);
        assert(found); /* the texts are ours */
        if (off) {
            features[word] &= ~BIT(bit);
        } else {
            features[word] |= BIT(bit);
        }
        at += n;
    }
}

void x86_supported_features(uint32_t ret_features[X86_FEAT_WORDS])
{
    uint32_t vectors[X86_FEAT_WORDS] = { 0 };
    memset(ret_features, 0, X86_FEAT_WORDS * sizeof(uint32_t));
    x86_features_parse(supported, ret_features);
    x86_fpu_supported_features(vectors);
    for (unsigned word = 0; word < X86_FEAT_WORDS; word++) {
        ret_features[word] |= vectors[word];
    }
}

/* --- the words as QMP shows them --- */

char *x86_feature_words_json(const uint32_t features[X86_FEAT_WORDS])
{
    static const struct {
        uint8_t word;
        const char *reg;
        uint32_t eax;
        int ecx; /* -1: the leaf has no sub-leaves */
    } rows[] = {
        { X86_FEAT_1_EDX, "EDX", 1, -1 }, { X86_FEAT_1_ECX, "ECX", 1, -1 }, { X86_FEAT_6_EAX, "EAX", 6, -1 },
        { X86_FEAT_7_EBX, "EBX", 7, 0 }, { X86_FEAT_7_ECX, "ECX", 7, 0 }, { X86_FEAT_7_EDX, "EDX", 7, 0 },
        { X86_FEAT_7_1_EAX, "EAX", 7, 1 }, { X86_FEAT_D_1_EAX, "EAX", 0xd, 1 }, { X86_FEAT_8000_0001_EDX, "EDX", 0x80000001, -1 },
        { X86_FEAT_8000_0001_ECX, "ECX", 0x80000001, -1 }, { X86_FEAT_8000_0007_EDX, "EDX", 0x80000007, -1 },
        { X86_FEAT_8000_0008_EBX, "EBX", 0x80000008, -1 }, { X86_FEAT_SVM, "EDX", 0x8000000a, -1 },
    };
    GString *text = g_string_new("[");

    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        g_string_append_printf(text, "%s{\"cpuid-register\": \"%s\", \"cpuid-input-eax\": %u, ", n ? ", " : "", rows[n].reg, rows[n].eax);
        if (rows[n].ecx >= 0) {
            g_string_append_printf(text, "\"cpuid-input-ecx\": %d, ", rows[n].ecx);
        }
        g_string_append_printf(text, "\"features\": %u}", features[rows[n].word]);
    }
    g_string_append_c(text, ']');
    return g_string_free(text, FALSE);
}
