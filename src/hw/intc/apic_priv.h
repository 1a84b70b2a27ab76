/*
 * The local APIC's state and what its files share: vectors and delivery (apic_deliver.c), the timer
 * (apic_timer.c), registers, pages and the device (apic.c).
 */
#ifndef OSTRICH_HW_INTC_APIC_PRIV_H
#define OSTRICH_HW_INTC_APIC_PRIV_H

#include <stdatomic.h>

#include "bus/pci.h"
#include "cpu/x86/sys.h"
#include "hw/intc/apic.h"

#define APICS_SERVICE "apics"
#define APIC_DEFAULT_BASE 0xfee00000ull

/* IA32_APIC_BASE */
enum { BASE_BSP = BIT(8), BASE_X2 = BIT(10), BASE_ENABLE = BIT(11) };
/* Register numbers: the offset in the page / 16, and the MSR - 0x800. */
enum {
    REG_ID = 0x02, REG_VERSION = 0x03, REG_TPR = 0x08, REG_APR = 0x09, REG_PPR = 0x0a, REG_EOI = 0x0b,
    REG_LDR = 0x0d, REG_DFR = 0x0e, REG_SVR = 0x0f, REG_ISR = 0x10, REG_TMR = 0x18, REG_IRR = 0x20,
    REG_ESR = 0x28, REG_ICR = 0x30, REG_ICR_HIGH = 0x31, REG_LVT = 0x32, REG_INITIAL = 0x38, REG_CURRENT = 0x39,
    REG_DIVIDE = 0x3e, REG_SELF_IPI = 0x3f,
};
enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };
enum { LVT_MASKED = BIT(16), LVT_TIMER_MODE = 3 << 17, LVT_PERIODIC = 1 << 17, LVT_DEADLINE = 2 << 17 };
enum { SVR_ENABLE = BIT(8) };
enum { ESR_SEND_VECTOR = BIT(5), ESR_RECEIVE_VECTOR = BIT(6), ESR_REGISTER = BIT(7) };
enum { ICR_PENDING = BIT(12), ICR_ASSERT = BIT(14), ICR_LEVEL = BIT(15) };
/* What the low half has; the rest is reserved: not kept, and #GP in x2APIC mode. */
enum { ICR_WRITABLE = 0xccfff & ~ICR_PENDING };
enum { ICR_HIGH_WRITABLE = 0xff000000 };
struct Apic {
    Device dev;
    X86Apic x86; /* what cpu->apic points to */
    struct Apics *all;
    uint64_t base;
    uint32_t id, ldr, dfr, svr;
    _Atomic uint32_t tpr;
    uint32_t isr[8];
    _Atomic uint32_t irr[8], tmr[8];
    uint32_t esr;
    _Atomic uint32_t errors; /* not yet shown in ESR */
    uint64_t icr;
    _Atomic uint32_t lvt[LVT_COUNT]; /* LINT0 is looked at by whoever moves the 8259's line */
    /* Timer, under timer_lock. */
    Lock timer_lock;
    uint32_t initial, divide;
    bool spent;      /* ran out in one-shot mode: stays at 0 until the initial count is written */
    int64_t started; /* ns */
    uint64_t deadline; /* TSC value, 0: none */
    Timer timer;
    bool moved;      /* the page is not at the default address */
    MemRegion page;  /* there */
};

/* All APICs of a machine. Their number changes only while all CPUs stand still. */
typedef struct Apics {
    Machine *machine;
    GPtrArray *apics;
    _Atomic bool intr; /* the 8259's output */
    MsiSink sink;
    void (*taken)(void *opaque); /* apic_on_taken() */
    void *taken_opaque;
    MemRegion page;
} Apics;

static inline Apic *apic_of(void *x86)
{
    return container_of(x86, Apic, x86);
}

static inline bool apic_enabled(const Apic *apic)
{
    return (apic->base & BASE_ENABLE) && (apic->svr & SVR_ENABLE);
}

static inline bool apic_is_x2(const Apic *apic)
{
    return apic->base & BASE_X2;
}

/* --- apic_deliver.c --- */

int apic_highest_bit(const uint32_t words[8]);
/* The processor priority, from TPR and what is in service. Any thread. */
uint8_t apic_ppr(const Apic *apic);
/* The fixed vector that may be taken now; -1: none. */
int apic_deliverable(const Apic *apic);
bool apic_extint_pending(const Apic *apic);
/* After something changed that may have made a vector deliverable; on the CPU's thread or while it stands. */
void apic_reconsider(Apic *apic);
/* A local interrupt source, LVT_*, fires. Any thread. */
void apic_local(Apic *apic, unsigned entry);
/* Notes ESR_* bits and fires the error interrupt. */
void apic_error(Apic *apic, uint32_t error);
/* Sends what ICR says. */
void apic_send(Apic *apic);
void apic_send_to_self(Apic *apic, uint8_t vector);
/* X86ApicOps.send */
bool apic_send_to(void *x86, uint32_t dest, uint32_t icr_low);
/* A message signalled interrupt; opaque: Apics. */
void apics_msi(void *opaque, uint64_t addr, uint32_t data);

/* --- apic_timer.c --- */

void apic_timer_init(Apic *apic);
/* As INIT leaves it. */
void apic_timer_clear(Apic *apic);
/* Sets the timer from the registers, after loading and when the TSC was set. */
void apic_timer_restart(Apic *apic);
/* The register CURRENT COUNT. */
uint32_t apic_timer_current(Apic *apic);
void apic_timer_set_initial(Apic *apic, uint32_t value);
void apic_timer_set_divide(Apic *apic, uint32_t value);
void apic_timer_set_lvt(Apic *apic, uint32_t value);
/* X86ApicOps.set_tsc_deadline */
void apic_timer_set_deadline(void *x86, uint64_t tsc);
#endif
