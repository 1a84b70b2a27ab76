/*
 * Pages of guest RAM whose bytes somebody keeps in decoded or translated form, by 64-byte granules.
 *
 * Two clients share the mechanism: the interpreter's decoded instructions and the translator. Order
 * for a client that wants to keep bytes: decode them, x86_code_add(), and when that says true
 * compare the bytes with what was decoded: from then on every write to the granules is reported.
 * While it says false, other CPUs may still hold write pointers; use the result once and do not
 * keep it.
 *
 * All functions: any vCPU's own thread, unless said otherwise.
 */
#ifndef OSTRICH_CPU_X86_CODEPAGE_H
#define OSTRICH_CPU_X86_CODEPAGE_H

#include <stdatomic.h>

#include "cpu/x86/cpu.h"

enum { CODE_INTERP, CODE_DBT, CODE_CLIENTS };
#define CODE_GRANULE_BITS 6

typedef struct CodePage {
    _Atomic uint64_t granules[CODE_CLIENTS]; /* bit n: bytes 64n..64n+63 are kept */
    _Atomic uint32_t gen;                    /* counts writes to the interpreter's granules */
    _Atomic uint16_t waiting; /* CPUs that have not yet given up their write pointers */
    _Atomic bool armed;       /* RAM_CODE is set */
} CodePage;

/* The page of a block's byte; valid while the machine lives. */
CodePage *x86_code_page(X86Cpu *cpu, RamBlock *block, uint64_t offset);
/* [offset, offset + length) lies in one page. */
bool x86_code_add(X86Cpu *cpu, unsigned client, RamBlock *block, uint64_t offset, unsigned length);
/* Replaces a client's granules (after it dropped some of what it kept). Does not add. */
void x86_code_keep_only(X86Cpu *cpu, unsigned client, RamBlock *block, uint64_t offset,
                        uint64_t granules);

/*
 * The translator's listener: bytes in its granules were written, by this CPU's own store, or by a
 * device or loader (cpu NULL; any thread). Called with no lock held, after the bytes changed.
 */
typedef void X86CodeWritten(void *opaque, X86Cpu *cpu, RamBlock *block, uint64_t offset,
                            unsigned length);
void x86_code_set_listener(X86Cpu *cpu, X86CodeWritten *written, void *opaque);
/* The translator's other hooks of one CPU, see X86CodeHooks in mmu.h. */
void x86_code_set_hooks(X86Cpu *cpu, void (*unmapped)(X86Cpu *cpu, uint64_t va, bool global),
                        void (*context_selected)(X86Cpu *cpu));
/* Connects a CPU to its machine's pages; done by the first of the functions above. */
void x86_code_attach(X86Cpu *cpu);
void x86_code_detach(X86Cpu *cpu);

#endif
