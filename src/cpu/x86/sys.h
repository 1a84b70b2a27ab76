/*
 * Control, debug and model-specific registers, CPUID, SMM.
 */
#ifndef OSTRICH_CPU_X86_SYS_H
#define OSTRICH_CPU_X86_SYS_H

#include "cpu/x86/cpu.h"

void x86_write_cr(X86Cpu *cpu, unsigned n, uint64_t value); /* raises #GP; flushes what must be flushed */
uint64_t x86_read_cr(X86Cpu *cpu, unsigned n);
void x86_write_dr(X86Cpu *cpu, unsigned n, uint64_t value);
uint64_t x86_read_dr(X86Cpu *cpu, unsigned n);
void x86_rdmsr(X86Cpu *cpu, uint32_t index, uint64_t *ret_value);
void x86_wrmsr(X86Cpu *cpu, uint32_t index, uint64_t value);
void x86_xsetbv(X86Cpu *cpu, uint32_t index, uint64_t value);
void x86_cpuid(const X86Cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t ret_regs[4]); /* eax ebx ecx edx */
uint32_t x86_signature(const X86Cpu *cpu); /* CPUID leaf 1 EAX */
uint64_t x86_tsc(X86Cpu *cpu);
/* Canonical by the widest address the model has: bases of system tables, MSRs, INVPCID's descriptor. */
bool x86_canonical_widest(const X86Cpu *cpu, uint64_t va);
void x86_smi_enter(X86Cpu *cpu);
void x86_rsm(X86Cpu *cpu);
/* The address space of SMM, or the normal one; sets cpu->smm. */
void x86_smm_select(X86Cpu *cpu, bool smm);
uint64_t x86_efer_allowed(const X86Cpu *cpu);
uint64_t x86_cr4_allowed(const X86Cpu *cpu); /* bits that the CPU's features allow */
/* state.c: save and load. */
extern const StateField x86_cpu_state[];
void x86_cpu_saving(X86Cpu *cpu);
Error *x86_cpu_loaded(X86Cpu *cpu) MUST_USE;
/* Writes RFLAGS as POPF does: which bits may change depends on CPL, IOPL and mode. */
void x86_write_flags(X86Cpu *cpu, uint64_t value, uint64_t mask);
/* Hardware breakpoints: bits of DR6 that an access or fetch hits; 0: none. rw: X86Access, or X86_DEBUG_IO. */
enum { X86_DEBUG_IO = 4 };
uint64_t x86_debug_match(X86Cpu *cpu, uint64_t va, unsigned size, unsigned rw);
static inline bool x86_has(const X86Cpu *cpu, unsigned word, unsigned bit)
{
    return cpu->features[word] >> bit & 1;
}

/* --- models --- */
struct X86Model {
    const char *name;  /* "Haswell-v1"; without the version it stands for version 1 */
    const char *alias; /* another name of this version, or NULL */
    const char *desc;  /* NULL: model_name */
    const char *like;  /* an earlier row whose fields hold where this one has none */
    const char *vendor, *model_name;
    uint32_t level, xlevel, family, model, stepping;
    const char *flags; /* feature names; -name takes one away */
    const char *deprecated;
};
extern const X86Model x86_models[]; /* ends with a NULL name */
/* "qemu64,+avx,-sse3,level=7": sets the model's fields of cpu. Features that cannot be offered are masked with a warning, or refused with enforce. */
Error *x86_apply_model(X86Cpu *cpu, const char *spec) MUST_USE;
/* A CPU of no machine with the model's fields, without warnings; g_aligned_free(). */
Error *x86_expand_model(const char *spec, X86Cpu **ret_cpu) MUST_USE;
/* The n-th property that is no feature, and whether its value is a number, or text, or a truth; NULL: there are no more. */
const char *x86_option_name(unsigned n, bool *ret_number, bool *ret_text);
/* Why a model of that name (up to a comma) is not to be had. */
Error *x86_unknown_model(const char *spec) MUST_USE;
/* A property of the CPU that -cpu may set, as text. */
Error *x86_get_property(const X86Cpu *cpu, const char *name, char **ret_text) MUST_USE;
/* What this build can execute on this host, per feature word. */
/* What `spec` asks for and the CPU does not have. */
Error *x86_filtered_features(const X86Cpu *cpu, const char *spec, uint32_t ret_features[X86_FEAT_WORDS]) MUST_USE;
/* Words of CPUID as QMP's X86CPUFeatureWordInfo list; caller frees. */
char *x86_feature_words_json(const uint32_t features[X86_FEAT_WORDS]);
void x86_supported_features(uint32_t ret_features[X86_FEAT_WORDS]);
char *x86_models_help(void);
/* Flag names of a word; NULL where a bit has none. */
const char *x86_feature_name(unsigned word, unsigned bit);
char **x86_feature_names(unsigned word, unsigned bit); /* with its other names; NULL: none */

#endif
