/*
 * Local APIC, vectors and messages (Intel SDM volume 3, chapter 11): priority, acceptance, destination
 * matching, interprocessor interrupts, message signalled interrupts, the 8259's wire.
 *
 * Threads: any. A foreign APIC's IRR and TMR are changed with atomic operations, the rest of it only read.
 */
#include "base/endian.h"
#include "hw/intc/apic_priv.h"

/* --- vectors --- */

int apic_highest_bit(const uint32_t words[8])
{
    for (int i = 7; i >= 0; i--) {
        if (words[i]) {
            return i * 32 + 31 - __builtin_clz(words[i]);
        }
    }
    return -1;
}

static int irr_highest(const Apic *apic)
{
    for (int i = 7; i >= 0; i--) {
        uint32_t word = atomic_load(&apic->irr[i]);
        if (word) {
            return i * 32 + 31 - __builtin_clz(word);
        }
    }
    return -1;
}

uint8_t apic_ppr(const Apic *apic)
{
    uint8_t tpr = atomic_load_explicit(&apic->tpr, memory_order_relaxed);
    int servicing = apic_highest_bit(apic->isr);
    uint8_t class = servicing < 0 ? 0 : servicing & 0xf0;
    return (tpr & 0xf0) >= class ? tpr : class;
}

int apic_deliverable(const Apic *apic)
{
    if (!apic_enabled(apic)) {
        return -1;
    }
    int vector = irr_highest(apic);
    return vector >= 0 && (vector & 0xf0) > (apic_ppr(apic) & 0xf0) ? vector : -1;
}

/* Whether the 8259's request reaches this CPU: LINT0 open for ExtINT, or no APIC in between. */
static bool apic_passes_extint(const Apic *apic)
{
    if (!(apic->base & BASE_ENABLE)) {
        return apic->base & BASE_BSP;
    }
    uint32_t lint0 = apic->lvt[LVT_LINT0];
    return !(lint0 & LVT_MASKED) && (lint0 >> 8 & 7) == APIC_EXTINT;
}

bool apic_extint_pending(const Apic *apic)
{
    return atomic_load(&apic->all->intr) && apic_passes_extint(apic);
}

void apic_reconsider(Apic *apic)
{
    if (apic_deliverable(apic) >= 0 || apic_extint_pending(apic)) {
        vcpu_kick(apic->x86.cpu->vcpu, VCPU_REQ_APIC);
    }
}

static void apic_accept(Apic *apic, uint8_t vector, bool level)
{
    uint32_t bit = BIT(vector & 31);
    if (vector < 16) {
        apic_error(apic, ESR_RECEIVE_VECTOR);
        return;
    }
    if (level) {
        atomic_fetch_or(&apic->tmr[vector / 32], bit);
    } else {
        atomic_fetch_and(&apic->tmr[vector / 32], ~bit);
    }
    atomic_fetch_or(&apic->irr[vector / 32], bit);
    vcpu_kick(apic->x86.cpu->vcpu, VCPU_REQ_APIC);
}

void apic_local(Apic *apic, unsigned entry)
{
    uint32_t lvt = apic->lvt[entry];
    if ((lvt & LVT_MASKED) || !(apic->base & BASE_ENABLE)) {
        return;
    }
    switch (entry == LVT_TIMER || entry == LVT_ERROR ? APIC_FIXED : (lvt >> 8 & 7)) {
    case APIC_FIXED:
        if (apic_enabled(apic)) {
            apic_accept(apic, lvt, false);
        }
        break;
    case APIC_SMI:
        vcpu_kick(apic->x86.cpu->vcpu, VCPU_REQ_SMI);
        break;
    case APIC_NMI:
        x86_send_nmi(apic->x86.cpu);
        break;
    default:
        break;
    }
}

void apic_error(Apic *apic, uint32_t error)
{
    uint32_t old = atomic_fetch_or(&apic->errors, error);
    if (!(old & error) && (apic->lvt[LVT_ERROR] & 0xff) >= 16) {
        apic_local(apic, LVT_ERROR);
    }
}

/* --- delivery --- */

/* A logical destination, 8 bits in xAPIC mode; in x2APIC mode cluster and bit follow from the id. */
static bool apic_matches_logical(const Apic *apic, const ApicMessage *message)
{
    uint32_t dest = message->dest;
    if (message->wide ? dest == UINT32_MAX : dest == 0xff) {
        return true;
    }
    if (apic_is_x2(apic)) {
        return dest >> 16 == apic->id >> 4 && (dest >> (apic->id & 15) & 1);
    }
    uint8_t ldr = apic->ldr >> 24;
    if (apic->dfr >> 28 == 15) {
        return ldr & dest & 0xff;
    }
    return (ldr >> 4 == (dest >> 4 & 15) || (dest >> 4 & 15) == 15) && (ldr & dest & 15);
}

static bool apic_matches(const Apic *apic, const ApicMessage *message)
{
    if (!(apic->base & BASE_ENABLE)) {
        return false;
    }
    if (message->logical) {
        return apic_matches_logical(apic, message);
    }
    bool all = message->wide ? message->dest == UINT32_MAX : message->dest == 0xff;
    return all || message->dest == apic->id;
}

/* One APIC gets a message that names it. */
static void apic_receive(Apic *apic, const ApicMessage *message)
{
    Vcpu *vcpu = apic->x86.cpu->vcpu;
    switch (message->mode) {
    case APIC_FIXED:
    case APIC_LOWEST:
        if (apic_enabled(apic)) {
            apic_accept(apic, message->vector, message->level);
        }
        break;
    case APIC_SMI:
        vcpu_kick(vcpu, VCPU_REQ_SMI);
        break;
    case APIC_NMI:
        x86_send_nmi(apic->x86.cpu);
        break;
    case APIC_INIT:
        vcpu_kick(vcpu, VCPU_REQ_INIT);
        break;
    case APIC_SIPI:
        apic->x86.cpu->sipi_vector = message->vector;
        vcpu_kick(vcpu, VCPU_REQ_SIPI);
        break;
    default:
        break;
    }
}

static void apic_deliver_lowest(Apics *all, const ApicMessage *message)
{
    Apic *best = NULL;
    for (guint i = 0; i < all->apics->len; i++) {
        Apic *apic = g_ptr_array_index(all->apics, i);
        if (apic_matches(apic, message) && apic_enabled(apic) && (!best || apic_ppr(apic) < apic_ppr(best))) {
            best = apic;
        }
    }
    if (best) {
        apic_receive(best, message);
    }
}

void apic_deliver(Machine *machine, const ApicMessage *message)
{
    Apics *all = machine_service(machine, APICS_SERVICE);
    if (!all) {
        return;
    }
    if (message->mode == APIC_LOWEST) {
        apic_deliver_lowest(all, message);
        return;
    }
    for (guint i = 0; i < all->apics->len; i++) {
        Apic *apic = g_ptr_array_index(all->apics, i);
        if (apic_matches(apic, message)) {
            apic_receive(apic, message);
        }
    }
}

bool apic_vector_waits(Machine *machine, uint8_t vector)
{
    Apics *all = machine_service(machine, APICS_SERVICE);
    for (guint i = 0; all && i < all->apics->len; i++) {
        Apic *apic = g_ptr_array_index(all->apics, i);
        if (atomic_load(&apic->irr[vector / 32]) >> vector % 32 & 1) {
            return true;
        }
    }
    return false;
}

/* A message is a write; outside of the APICs' addresses it is one to memory. Registers of devices are not reached. */
static void write_message(Machine *machine, uint64_t addr, uint32_t data)
{
    uint64_t length = 4;
    void *host = mem_map(machine->as, addr, &length, true);
    if (host) {
        if (length == 4) {
            st32_le(host, data);
        }
        mem_unmap(machine->as, host, length, length == 4 ? 4 : 0);
    }
}

void apics_msi(void *opaque, uint64_t addr, uint32_t data)
{
    Apics *all = opaque;
    if ((addr & 0xfff00000) != APIC_DEFAULT_BASE) {
        write_message(all->machine, addr, data);
        return;
    }
    ApicMessage message = {
        .dest = addr >> 12 & 0xff,
        .logical = addr & 4,
        .mode = data >> 8 & 7,
        .vector = data,
        .level = data & 0x8000,
    };
    apic_deliver(all->machine, &message);
}

void apic_set_intr(void *machine, int n, int level)
{
    Apics *all = machine_service(machine, APICS_SERVICE);
    if (!all) {
        return;
    }
    atomic_store(&all->intr, level != 0);
    for (guint i = 0; level && i < all->apics->len; i++) {
        Apic *apic = g_ptr_array_index(all->apics, i);
        if (apic_passes_extint(apic)) {
            vcpu_kick(apic->x86.cpu->vcpu, VCPU_REQ_IRQ);
        } else if ((apic->base & BASE_ENABLE) && (apic->lvt[LVT_LINT0] >> 8 & 7) != APIC_EXTINT) {
            apic_local(apic, LVT_LINT0);
        }
    }
}

/* --- interprocessor interrupts --- */

void apic_send_to_self(Apic *apic, uint8_t vector)
{
    if (vector < 16) {
        apic_error(apic, ESR_SEND_VECTOR);
    } else if (apic_enabled(apic)) {
        apic_accept(apic, vector, false);
    }
}

void apic_send(Apic *apic)
{
    uint32_t low = apic->icr;
    bool wide = apic_is_x2(apic);
    ApicMessage message = {
        .dest = wide ? apic->icr >> 32 : apic->icr >> 56,
        .wide = wide,
        .logical = low & BIT(11),
        .mode = low >> 8 & 7,
        .vector = low,
    };
    unsigned shorthand = low >> 18 & 3;
    if (message.mode == APIC_INIT && (low & ICR_LEVEL) && !(low & ICR_ASSERT)) {
        return; /* INIT level de-assert only sets arbitration ids */
    }
    if (message.mode <= APIC_LOWEST && message.vector < 16) {
        apic_error(apic, ESR_SEND_VECTOR);
        return;
    }
    if (shorthand == 0) {
        apic_deliver(apic->all->machine, &message);
        return;
    }
    for (guint i = 0; i < apic->all->apics->len; i++) {
        Apic *other = g_ptr_array_index(apic->all->apics, i);
        bool wanted = shorthand == 2 || (other == apic) == (shorthand == 1);
        if (wanted && (other->base & BASE_ENABLE)) {
            apic_receive(other, &message);
        }
    }
}

bool apic_send_to(void *opaque, uint32_t dest, uint32_t icr_low)
{
    Apic *apic = apic_of(opaque);
    ApicMessage message = { .dest = dest, .wide = true, .mode = icr_low >> 8 & 7, .vector = icr_low };
    for (guint i = 0; i < apic->all->apics->len; i++) {
        Apic *other = g_ptr_array_index(apic->all->apics, i);
        if (other->id == dest && (other->base & BASE_ENABLE)) {
            apic_receive(other, &message);
            return true;
        }
    }
    return false;
}
