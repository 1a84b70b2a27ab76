/*
 * Intel 82093AA I/O APIC (data sheet 290566) with 24 inputs, version 20h: index and window registers at
 * 0xfec00000, and the EOI register of later parts at offset 40h.
 *
 * Edge inputs send one message per rising edge; edges that come while the entry is masked are lost, as the
 * data sheet has it. Level inputs send when the line is up and Remote IRR clear.
 *
 * Threads: a lock of its own (rank IRQCHIP); local APICs are reached without a lock.
 */
#include "hw/intc/ioapic.h"

#include <inttypes.h>

#include "core/vm/machine.h"
#include "hw/intc/apic.h"
#include "hw/intc/i8259.h"

enum { REG_ID = 0, REG_VERSION = 1, REG_ARBITRATION = 2, REG_TABLE = 0x10 };
enum { SELECT = 0x00, WINDOW = 0x10, EOI = 0x40 };
#define ENTRY_MODE(e)   ((e) >> 8 & 7)
#define ENTRY_LOGICAL   BIT64(11)
#define ENTRY_PENDING   BIT64(12)
#define ENTRY_REMOTE    BIT64(14)
#define ENTRY_LEVEL     BIT64(15)
#define ENTRY_MASKED    BIT64(16)
#define ENTRY_READ_ONLY (ENTRY_PENDING | ENTRY_REMOTE)
#define ENTRY_WRITABLE  0xff0000000001ffffull

struct IoApic {
    Device dev;
    uint8_t id, select;
    uint32_t irr;   /* pending edges, and levels of level inputs */
    uint32_t lines; /* levels of the inputs */
    uint64_t entry[IOAPIC_PINS];
    uint64_t address;
    Lock lock;
    MemRegion region;
    uint64_t sent[IOAPIC_PINS]; /* interrupts, for people */
    IrqLine listener; /* of a test; changes under the machine lock */
};

static uint8_t entry_vector(IoApic *ioapic, uint64_t entry)
{
    I8259 *pic = i8259_of(ioapic->dev.machine);
    if (ENTRY_MODE(entry) == APIC_EXTINT && pic) {
        return i8259_take(pic);
    }
    return entry;
}

static void pin_send(IoApic *ioapic, unsigned pin)
{
    uint64_t *entry = &ioapic->entry[pin];
    bool extint = ENTRY_MODE(*entry) == APIC_EXTINT;
    ApicMessage message = {
        .dest = *entry >> 56,
        .logical = *entry & ENTRY_LOGICAL,
        .mode = extint ? APIC_FIXED : ENTRY_MODE(*entry),
        .level = *entry & ENTRY_LEVEL,
    };
    if (extint) {
        /* The 8259 is asked for its vector, whose lock has this one's rank. */
        lock_release(&ioapic->lock);
        message.vector = entry_vector(ioapic, *entry);
        apic_deliver(ioapic->dev.machine, &message);
        lock_acquire(&ioapic->lock);
        return;
    }
    message.vector = *entry;
    apic_deliver(ioapic->dev.machine, &message);
}

/* Sends what may be sent. */
static void pin_service(IoApic *ioapic, unsigned pin)
{
    uint64_t *entry = &ioapic->entry[pin];
    if (!(ioapic->irr >> pin & 1) || (*entry & ENTRY_MASKED)) {
        return;
    }
    bool level = *entry & ENTRY_LEVEL;
    unsigned mode = ENTRY_MODE(*entry);
    if (level && (mode == APIC_FIXED || mode == APIC_LOWEST)) {
        if (*entry & ENTRY_REMOTE) {
            return;
        }
        *entry |= ENTRY_REMOTE;
    } else {
        ioapic->irr &= ~BIT(pin);
    }
    ioapic->sent[pin]++;
    pin_send(ioapic, pin);
}

void ioapic_intercept(IoApic *ioapic, IrqFn *fn, void *opaque)
{
    irq_line_init(&ioapic->listener, fn, opaque, 0);
}

void ioapic_set_irq(void *opaque, int pin, int level)
{
    IoApic *ioapic = opaque;
    if (pin < 0 || pin >= IOAPIC_PINS) {
        return;
    }
    if (unlikely(ioapic->listener.fn != NULL)) {
        ioapic->listener.fn(ioapic->listener.opaque, pin, level);
        return;
    }
    lock_acquire(&ioapic->lock);
    bool was = ioapic->lines >> pin & 1;
    ioapic->lines = level ? ioapic->lines | BIT(pin) : ioapic->lines & ~BIT(pin);
    if (ioapic->entry[pin] & ENTRY_LEVEL) {
        ioapic->irr = level ? ioapic->irr | BIT(pin) : ioapic->irr & ~BIT(pin);
        pin_service(ioapic, pin);
    } else if (level && !was && !(ioapic->entry[pin] & ENTRY_MASKED)) { /* masked edges are lost */
        ioapic->irr |= BIT(pin);
        pin_service(ioapic, pin);
    }
    lock_release(&ioapic->lock);
}

bool ioapic_edge_waits(IoApic *ioapic, unsigned pin)
{
    lock_acquire(&ioapic->lock);
    uint64_t entry = ioapic->entry[pin];
    lock_release(&ioapic->lock);
    unsigned mode = ENTRY_MODE(entry);
    return !(entry & (ENTRY_MASKED | ENTRY_LEVEL)) && (mode == APIC_FIXED || mode == APIC_LOWEST) &&
           apic_vector_waits(ioapic->dev.machine, (uint8_t)entry);
}

static void ioapic_eoi_locked(IoApic *ioapic, uint8_t vector)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *entry = &ioapic->entry[pin];
        if ((uint8_t)*entry == vector && (*entry & ENTRY_LEVEL) && (*entry & ENTRY_REMOTE)) {
            *entry &= ~ENTRY_REMOTE;
            pin_service(ioapic, pin);
        }
    }
}

void ioapic_eoi(IoApic *ioapic, uint8_t vector)
{
    lock_acquire(&ioapic->lock);
    ioapic_eoi_locked(ioapic, vector);
    lock_release(&ioapic->lock);
}

/* --- registers --- */

static uint32_t ioapic_get(IoApic *ioapic)
{
    unsigned reg = ioapic->select;
    if (reg == REG_ID || reg == REG_ARBITRATION) {
        return ioapic->id << 24;
    }
    if (reg == REG_VERSION) {
        return (IOAPIC_PINS - 1) << 16 | 0x20;
    }
    unsigned pin = (reg - REG_TABLE) / 2;
    if (reg >= REG_TABLE && pin < IOAPIC_PINS) {
        return reg & 1 ? ioapic->entry[pin] >> 32 : ioapic->entry[pin];
    }
    return 0;
}

static void entry_write(IoApic *ioapic, unsigned pin, bool high, uint32_t value)
{
    uint64_t *entry = &ioapic->entry[pin], old = *entry;
    uint64_t now = high ? (uint64_t)value << 32 | (uint32_t)old : (old & ~0xffffffffull) | value;
    now &= ENTRY_WRITABLE & ~ENTRY_READ_ONLY;
    if (now & ENTRY_LEVEL) {
        now |= old & ENTRY_REMOTE; /* going to edge clears it */
        ioapic->irr = (ioapic->irr & ~BIT(pin)) | (ioapic->lines & BIT(pin));
    } else if (old & ENTRY_LEVEL) {
        ioapic->irr &= ~BIT(pin);
    }
    *entry = now;
    pin_service(ioapic, pin);
}

static void ioapic_set(IoApic *ioapic, uint32_t value)
{
    unsigned reg = ioapic->select, pin = (reg - REG_TABLE) / 2;
    if (reg == REG_ID) {
        ioapic->id = value >> 24 & 15;
    } else if (reg >= REG_TABLE && pin < IOAPIC_PINS) {
        entry_write(ioapic, pin, reg & 1, value);
    }
}

static uint64_t ioapic_read(void *opaque, uint64_t addr, unsigned size)
{
    IoApic *ioapic = opaque;
    switch (addr & 0xff) {
    case SELECT:
        return ioapic->select;
    case WINDOW:
        return ioapic_get(ioapic);
    default:
        return 0;
    }
}

static void ioapic_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    IoApic *ioapic = opaque;
    switch (addr & 0xff) {
    case SELECT:
        ioapic->select = value;
        break;
    case WINDOW:
        ioapic_set(ioapic, value);
        break;
    case EOI:
        ioapic_eoi_locked(ioapic, value);
        break;
    default:
        break;
    }
}

static const MemOps ops = { .read = ioapic_read, .write = ioapic_write, .min = 4, .max = 4 };

/* --- device --- */

IoApic *ioapic_of(Machine *machine)
{
    return machine_service(machine, IOAPIC_SERVICE);
}

static unsigned ioapic_irq_counts(Device *dev, uint64_t *ret_counts, unsigned max)
{
    const IoApic *ioapic = (const IoApic *)dev;
    for (unsigned n = 0; n < IOAPIC_PINS && n < max; n++) {
        ret_counts[n] = ioapic->sent[n];
    }
    return MIN((unsigned)IOAPIC_PINS, max);
}

static char *ioapic_describe(Device *dev)
{
    IoApic *ioapic = (IoApic *)dev;
    static const char *const modes[8] = { "fixed", "lowest", "SMI", "...", "NMI", "INIT", "...", "extINT" };
    GString *text = g_string_new(NULL);
    lock_acquire(&ioapic->lock);
    g_string_append_printf(text, "ioapic0: ver=0x20 id=0x%02x sel=0x%02x\n", ioapic->id, ioapic->select);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t e = ioapic->entry[pin];
        g_string_append_printf(text, "  pin %-2u 0x%016" PRIx64 " dest=%x vec=%-3u %s %s %s %s\n", pin, e,
                               (unsigned)(e >> 56), (unsigned)(e & 0xff), e & ENTRY_LEVEL ? "level" : "edge ",
                               e & ENTRY_MASKED ? "masked" : "      ",
                               e & ENTRY_LOGICAL ? "logical" : "physical", modes[ENTRY_MODE(e)]);
    }
    g_string_append_printf(text, "  IRR  0x%06x\n", ioapic->irr);
    lock_release(&ioapic->lock);
    return g_string_free(text, FALSE);
}

static void ioapic_gone(void *opaque)
{
    IoApic *ioapic = opaque;
    machine_set_service(ioapic->dev.machine, IOAPIC_SERVICE, NULL);
    lock_fini(&ioapic->lock);
}

static Error *ioapic_plug(Device *dev)
{
    IoApic *ioapic = (IoApic *)dev;
    lock_init(&ioapic->lock, "ioapic", LOCK_RANK_IRQCHIP);
    device_on_unplug(dev, ioapic_gone, ioapic);
    device_region_io(dev, &ioapic->region, "ioapic", 0x1000, &ops);
    mem_region_set_lock(&ioapic->region, &ioapic->lock);
    mem_region_map(&dev->machine->memory, ioapic->address, &ioapic->region, 1);
    machine_set_service(dev->machine, IOAPIC_SERVICE, ioapic);
    return NULL;
}

static void ioapic_reset(Device *dev)
{
    IoApic *ioapic = (IoApic *)dev;
    lock_acquire(&ioapic->lock);
    ioapic->id = ioapic->select = 0;
    ioapic->irr = 0;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        ioapic->entry[pin] = ENTRY_MASKED;
    }
    lock_release(&ioapic->lock);
}

static const StateField state[] = {
    STATE_U8(IoApic, id),
    STATE_U8(IoApic, select),
    STATE_U32(IoApic, irr),
    STATE_U32(IoApic, lines),
    STATE_U64_ARRAY(IoApic, entry),
    STATE_NOT(IoApic, lock, "host"),
    STATE_NOT(IoApic, sent, "statistics"),
    STATE_NOT(IoApic, region, "fixed"),
    { 0 },
};

static const Prop props[] = {
    PROP_U64("address", IoApic, address, 0xfec00000, .help = "where its page lies"),
    { 0 },
};

DEVICE_TYPE(ioapic, DEVICE_OBJECT("ioapic", IoApic, props), .desc = "82093AA I/O APIC", .category = DEV_INTERNAL,
            .state = state, .plug = ioapic_plug, .reset = ioapic_reset, .describe = ioapic_describe, .irq_counts = ioapic_irq_counts);
