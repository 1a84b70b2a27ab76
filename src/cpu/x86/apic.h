/*
 * What the CPU asks of its local APIC (hw/intc/apic.c implements it, cpu->apic points to the device).
 * All any thread.
 */
#ifndef OSTRICH_CPU_X86_APIC_H
#define OSTRICH_CPU_X86_APIC_H

#include "cpu/x86/cpu.h"

typedef struct X86ApicOps {
    /* A fixed vector, or the 8259's through LINT0/ExtINT, that may be taken now; -1: none. Acknowledges it. */
    int (*take)(void *apic);
    bool (*pending)(void *apic);
    uint8_t (*get_tpr)(void *apic); /* whole register */
    void (*set_tpr)(void *apic, uint8_t tpr);
    uint64_t (*get_base)(void *apic);
    bool (*set_base)(void *apic, uint64_t value);               /* false: #GP */
    bool (*msr_read)(void *apic, uint32_t index, uint64_t *ret_value); /* x2APIC 0x800..0x8ff; false: #GP */
    bool (*msr_write)(void *apic, uint32_t index, uint64_t value);
    void (*set_tsc_deadline)(void *apic, uint64_t tsc);
    void (*tsc_moved)(void *apic); /* x86_tsc_moved() */
    /* An IPI to the APIC of this id, as by the low half of ICR with physical destination; false: there is none. */
    bool (*send)(void *apic, uint32_t dest, uint32_t icr_low);
    void (*init_reset)(void *apic);
} X86ApicOps;

typedef struct X86Apic { /* first member of the device's part that cpu->apic points to */
    const X86ApicOps *ops;
    X86Cpu *cpu;
} X86Apic;

#endif
