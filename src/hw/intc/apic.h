/*
 * Local APICs of a machine. Delivery: any thread, no lock is taken.
 */
#ifndef OSTRICH_HW_INTC_APIC_H
#define OSTRICH_HW_INTC_APIC_H

#include "cpu/x86/apic.h"

typedef struct Apic Apic;

/* Delivery modes of ICR, redirection entries and MSI data. */
enum {
    APIC_FIXED = 0, APIC_LOWEST = 1, APIC_SMI = 2, APIC_NMI = 4, APIC_INIT = 5, APIC_SIPI = 6, APIC_EXTINT = 7,
};

typedef struct ApicMessage {
    uint32_t dest;
    bool logical;
    bool wide;    /* dest has 32 bits (x2APIC ICR); else 8, and 0xff is everybody */
    uint8_t mode; /* APIC_* */
    uint8_t vector;
    bool level;   /* trigger mode: EOI is broadcast to the I/O APICs */
} ApicMessage;

/* The local APIC of a CPU; sets cpu->apic. The first one makes the page at 0xfee00000 and the MSI sink. */
Error *apic_create(Vcpu *vcpu, Apic **ret_apic) MUST_USE;
void apic_deliver(Machine *machine, const ApicMessage *message);
/* Whether some CPU has been sent the vector and has not taken it. */
bool apic_vector_waits(Machine *machine, uint8_t vector);
/* From now on taken(opaque) runs after each vector that a CPU takes, on its thread. While all CPUs stand still. */
void apic_on_taken(Machine *machine, void (*taken)(void *opaque), void *opaque);
/* The 8259's INTR: an IrqFn for LINT0 of every CPU; opaque is the Machine. */
void apic_set_intr(void *machine, int n, int level);
#endif
