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
    /* Known by name, so that who turns them off is not refused; no CPU here has any of them. */
    [X86_FEAT_KVM] = 
        "kvmclock kvm-nopiodelay/kvm_nopiodelay kvm-mmu/kvm_mmu . kvm-asyncpf/kvm_asyncpf "
        "kvm-steal-time/kvm_steal_time kvm-pv-eoi/kvm_pv_eoi kvm-pv-unhalt/kvm_pv_unhalt . "
        "kvm-pv-tlb-flush . kvm-pv-ipi kvm-poll-control/kvm_poll_control kvm-pv-sched-yield "
        "kvm-asyncpf-int/kvm_asyncpf_int kvm-msi-ext-dest-id . . . . . . . . kvmclock-stable-bit",
    [X86_FEAT_KVM_HINTS] = "kvm-hint-dedicated",
    [X86_FEAT_C000_0001_EDX] = 
        ". . xstore xstore-en . . xcrypt xcrypt-en ace2 ace2-en phe phe-en pmm pmm-en",
    [X86_FEAT_12_0_EAX] = "sgx1 sgx2",
    [X86_FEAT_12_0_EBX] = "sgx-exinfo",
    [X86_FEAT_12_1_EAX] = ". sgx-debug sgx-mode64 . sgx-provisionkey sgx-tokenkey . sgx-kss",
    [X86_FEAT_CORE_CAPS] = ". . . . . split-lock-detect",
    [X86_FEAT_14_0_ECX] = 
        ". . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . intel-pt-lip",
    [X86_FEAT_PERF_CAPS] = ". . . . . . . . . . . . . full-width-write",
    [X86_FEAT_VMX_PIN] = 
        "vmx-intr-exit . . vmx-nmi-exit . vmx-vnmi vmx-preemption-timer vmx-posted-intr",
    [X86_FEAT_VMX_PROC] = 
        ". . vmx-vintr-pending vmx-tsc-offset . . . vmx-hlt-exit . vmx-invlpg-exit vmx-mwait-exit "
        "vmx-rdpmc-exit vmx-rdtsc-exit . . vmx-cr3-load-noexit vmx-cr3-store-noexit . . "
        "vmx-cr8-load-exit vmx-cr8-store-exit vmx-flexpriority vmx-vnmi-pending vmx-movdr-exit "
        "vmx-io-exit vmx-io-bitmap . vmx-mtf vmx-msr-bitmap vmx-monitor-exit vmx-pause-exit "
        "vmx-secondary-ctls",
    [X86_FEAT_VMX_PROC2] = 
        "vmx-apicv-xapic vmx-ept vmx-desc-exit vmx-rdtscp-exit vmx-apicv-x2apic vmx-vpid "
        "vmx-wbinvd-exit vmx-unrestricted-guest vmx-apicv-register vmx-apicv-vid vmx-ple "
        "vmx-rdrand-exit vmx-invpcid-exit vmx-vmfunc vmx-shadow-vmcs vmx-encls-exit "
        "vmx-rdseed-exit vmx-pml . . vmx-xsaves . . . . vmx-tsc-scaling",
    [X86_FEAT_VMX_EXIT] = 
        ". . vmx-exit-nosave-debugctl . . . . . . . . . vmx-exit-load-perf-global-ctrl . . "
        "vmx-exit-ack-intr . . vmx-exit-save-pat vmx-exit-load-pat vmx-exit-save-efer "
        "vmx-exit-load-efer vmx-exit-save-preemption-timer vmx-exit-clear-bndcfgs . "
        "vmx-exit-clear-rtit-ctl . . . vmx-exit-load-pkrs",
    [X86_FEAT_VMX_ENTRY] = 
        ". . vmx-entry-noload-debugctl . . . . . . vmx-entry-ia32e-mode . . . "
        "vmx-entry-load-perf-global-ctrl vmx-entry-load-pat vmx-entry-load-efer "
        "vmx-entry-load-bndcfgs . vmx-entry-load-rtit-ctl . . . vmx-entry-load-pkrs",
    [X86_FEAT_VMX_MISC] = 
        ". . . . . vmx-store-lma vmx-activity-hlt vmx-activity-shutdown vmx-activity-wait-sipi . "
        ". . . . . . . . . . . . . . . . . . . vmx-vmwrite-vmexit-fields vmx-zero-len-inject",
    [X86_FEAT_VMX_EPT] = 
        "vmx-ept-execonly . . . . . vmx-page-walk-4 vmx-page-walk-5 . . . . . . . . vmx-ept-2mb "
        "vmx-ept-1gb . . vmx-invept vmx-eptad vmx-ept-advanced-exitinfo . . "
        "vmx-invept-single-context vmx-invept-all-context",
    [X86_FEAT_VMX_VPID] = 
        "vmx-invvpid . . . . . . . vmx-invvpid-single-addr . vmx-invvpid-all-context "
        "vmx-invept-single-context-noglobals",
    [X86_FEAT_VMX_BASIC] = 
        ". . . . . . . . . . . . . . . . . . . . . . vmx-ins-outs vmx-true-ctls",
    [X86_FEAT_VMX_VMFUNC] = "vmx-eptp-switching",
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

char **x86_feature_names(unsigned word, unsigned bit)
{
    const char *at = word < X86_FEAT_WORDS ? names_of(word, bit) : NULL;
    if (!at) {
        return NULL;
    }
    g_autofree char *all = g_strndup(at, strcspn(at, " "));
    return g_strsplit(all, "/", -1);
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
