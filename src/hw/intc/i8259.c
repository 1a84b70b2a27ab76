/*
 * Intel 8259A programmable interrupt controllers, master and slave, with the edge/level control
 * registers (ELCR) of the PIIX. Data sheet: 8259A (231468), 82371SB section 4.2.
 *
 * Nothing is requested of the CPU before and during initialization (ICW1..4). Fully nested and
 * special fully nested mode, automatic EOI, rotation, special mask, poll. Not modelled: 8080 mode,
 * buffered mode, cascades other than IR2.
 *
 * Threads: a lock of its own (rank IRQCHIP), since vCPUs acknowledge without the machine lock.
 */
#include "hw/intc/i8259.h"

#include "bus/isa.h"

enum { CASCADE_INPUT = 2 };

enum { ICW1_IC4 = BIT(0), ICW1_SNGL = BIT(1), ICW1_SELECT = BIT(4) };
enum { ICW4_AEOI = BIT(1), ICW4_SFNM = BIT(4) };
enum {
    OCW3_RIS = BIT(0),
    OCW3_RR = BIT(1),
    OCW3_POLL = BIT(2),
    OCW3_SELECT = BIT(3),
    OCW3_SMM = BIT(5),
    OCW3_ESMM = BIT(6)
};

typedef struct Chip {
    uint8_t irr, imr, isr;
    uint8_t lines;   /* levels of the inputs */
    uint8_t elcr;    /* 1: level triggered */
    uint8_t base;    /* ICW2: bits 7..3 of the vector */
    uint8_t cascade; /* ICW3 */
    uint8_t lowest;  /* input of lowest priority */
    uint8_t
        icw_next; /* 0: operating; else the number of the ICW that is awaited; 1 after a reset */
    bool single, needs_icw4;
    bool auto_eoi, rotate_auto, special_nested, special_mask;
    bool read_isr, poll;
    uint64_t taken[8];    /* interrupts, for people */
} Chip;

struct I8259 {
    Device dev;
    Chip chip[2]; /* master, slave */
    _Atomic bool intr;
    IrqLine out;
    Lock lock;
    MemRegion ports[2], elcr_ports;
};

/* ELCR bits that exist: never the timer, keyboard, cascade; RTC, FPU neither. */
static const uint8_t elcr_mask[2] = { 0xf8, 0xde };

/* How many steps below the highest priority the most urgent bit of `bits` is; 8: none. */
static unsigned chip_rank(const Chip *chip, uint8_t bits)
{
    for (unsigned rank = 0; rank < 8; rank++) {
        if (bits >> ((chip->lowest + 1 + rank) & 7) & 1) {
            return rank;
        }
    }
    return 8;
}

static unsigned chip_input_of_rank(const Chip *chip, unsigned rank)
{
    return (chip->lowest + 1 + rank) & 7;
}

/* The input whose request may interrupt now; -1: none. */
static int chip_request(const Chip *chip, bool master)
{
    unsigned rank = chip_rank(chip, chip->irr & ~chip->imr);
    if (rank == 8 || chip->icw_next) {
        return -1;
    }
    uint8_t busy = chip->isr;
    if (chip->special_mask) {
        busy &= ~chip->imr;
    }
    if (master && chip->special_nested) {
        busy &= ~BIT(CASCADE_INPUT); /* the slave has sorted out its own priorities */
    }
    return rank < chip_rank(chip, busy) ? (int)chip_input_of_rank(chip, rank) : -1;
}

static void chip_ack(Chip *chip, unsigned input)
{
    chip->taken[input]++;
    if (chip->auto_eoi) {
        if (chip->rotate_auto) {
            chip->lowest = input;
        }
    } else {
        chip->isr |= BIT(input);
    }
    if (!(chip->elcr & BIT(input))) {
        chip->irr &= ~BIT(input);
    }
}

/* Puts the slave's output on the cascade input and the master's on INTR. */
static void pic_update_locked(I8259 *pic)
{
    Chip *master = &pic->chip[0];
    if (chip_request(&pic->chip[1], false) >= 0) {
        master->irr |= BIT(CASCADE_INPUT);
    } else {
        master->irr &= ~BIT(CASCADE_INPUT);
    }
    bool intr = chip_request(master, true) >= 0;
    if (intr != pic->intr) {
        pic->intr = intr;
        irq_set(&pic->out, intr);
    }
}

void i8259_set_irq(void *opaque, int n, int level)
{
    I8259 *pic = opaque;
    if (n < 0 || n > 15 || n == CASCADE_INPUT) {
        return;
    }
    Chip *chip = &pic->chip[n >> 3];
    uint8_t bit = BIT(n & 7);
    lock_acquire(&pic->lock);
    bool rising = level && !(chip->lines & bit);
    chip->lines = level ? chip->lines | bit : chip->lines & ~bit;
    if (chip->elcr & bit) {
        chip->irr = level ? chip->irr | bit : chip->irr & ~bit;
    } else if (rising) {
        chip->irr |= bit;
    }
    pic_update_locked(pic);
    lock_release(&pic->lock);
}

bool i8259_edge_waits(I8259 *pic, int n)
{
    const Chip *chip = &pic->chip[n >> 3];
    lock_acquire(&pic->lock);
    bool waits = (chip->irr & ~chip->imr & ~chip->elcr) >> (n & 7) & 1;
    lock_release(&pic->lock);
    return waits;
}

static uint8_t pic_take_locked(I8259 *pic)
{
    Chip *master = &pic->chip[0], *slave = &pic->chip[1];
    int input = chip_request(master, true);
    if (input < 0) {
        return master->base + 7; /* spurious: not marked in service */
    }
    chip_ack(master, input);
    if (input != CASCADE_INPUT || master->single) {
        return master->base + input;
    }
    input = chip_request(slave, false);
    if (input < 0) {
        return slave->base + 7;
    }
    chip_ack(slave, input);
    return slave->base + input;
}

uint8_t i8259_take(I8259 *pic)
{
    lock_acquire(&pic->lock);
    uint8_t vector = pic_take_locked(pic);
    pic_update_locked(pic);
    lock_release(&pic->lock);
    return vector;
}

bool i8259_pending(I8259 *pic)
{
    return pic->intr;
}

void i8259_connect(I8259 *pic, IrqLine intr)
{
    lock_acquire(&pic->lock);
    pic->out = intr;
    lock_release(&pic->lock);
}

/* --- ports --- */

static void chip_icw1(Chip *chip, uint8_t value)
{
    chip->imr = 0;
    chip->isr = 0;
    chip->irr &= chip->elcr; /* the edge sense is cleared */
    chip->lowest = 7;
    chip->special_mask = chip->read_isr = chip->poll = false;
    chip->single = value & ICW1_SNGL;
    chip->needs_icw4 = value & ICW1_IC4;
    chip->auto_eoi = chip->special_nested = chip->rotate_auto = false;
    chip->icw_next = 2;
}

static void chip_eoi(Chip *chip, unsigned input, bool rotate)
{
    chip->isr &= ~BIT(input);
    if (rotate) {
        chip->lowest = input;
    }
}

static void chip_ocw2(Chip *chip, uint8_t value)
{
    unsigned level = value & 7, command = value >> 5;
    uint8_t busy = chip->special_mask ? chip->isr & ~chip->imr : chip->isr;
    switch (command) {
    case 0: /* rotate in automatic EOI mode: clear, set */
    case 4:
        chip->rotate_auto = command == 4;
        break;
    case 1: /* non-specific EOI, with rotation */
    case 5:
        if (busy) {
            chip_eoi(chip, chip_input_of_rank(chip, chip_rank(chip, busy)), command == 5);
        }
        break;
    case 3: /* specific EOI, with rotation */
    case 7:
        chip_eoi(chip, level, command == 7);
        break;
    case 6: /* set priority */
        chip->lowest = level;
        break;
    default: /* no operation */
        break;
    }
}

static void chip_ocw3(Chip *chip, uint8_t value)
{
    if (value & OCW3_POLL) {
        chip->poll = true;
    }
    if (value & OCW3_RR) {
        chip->read_isr = value & OCW3_RIS;
    }
    if (value & OCW3_ESMM) {
        chip->special_mask = value & OCW3_SMM;
    }
}

static void chip_icw_next(Chip *chip, uint8_t value)
{
    switch (chip->icw_next) {
    case 2:
        chip->base = value & 0xf8;
        chip->icw_next = !chip->single ? 3 : chip->needs_icw4 ? 4 : 0;
        break;
    case 3:
        chip->cascade = value;
        chip->icw_next = chip->needs_icw4 ? 4 : 0;
        break;
    default:
        chip->special_nested = value & ICW4_SFNM;
        chip->auto_eoi = value & ICW4_AEOI;
        chip->icw_next = 0;
        break;
    }
}

static void chip_write(Chip *chip, uint64_t port, uint8_t value)
{
    if (port == 1) {
        if (chip->icw_next > 1) {
            chip_icw_next(chip, value);
        } else {
            chip->imr = value;
        }
    } else if (value & ICW1_SELECT) {
        chip_icw1(chip, value);
    } else if (value & OCW3_SELECT) {
        chip_ocw3(chip, value);
    } else {
        chip_ocw2(chip, value);
    }
}

static uint8_t chip_poll(Chip *chip, bool master)
{
    int input = chip_request(chip, master);
    chip->poll = false;
    if (input < 0) {
        return 0;
    }
    chip_ack(chip, input);
    return 0x80 | input;
}

static uint64_t pic_read(I8259 *pic, unsigned n, uint64_t port)
{
    Chip *chip = &pic->chip[n];
    uint8_t value;
    if (chip->poll) {
        value = chip_poll(chip, n == 0);
        pic_update_locked(pic);
    } else if (port == 1) {
        value = chip->imr;
    } else {
        value = chip->read_isr ? chip->isr : chip->irr;
    }
    return value;
}

static void pic_write(I8259 *pic, unsigned n, uint64_t port, uint8_t value)
{
    chip_write(&pic->chip[n], port, value);
    pic_update_locked(pic);
}

static uint64_t master_read(void *opaque, uint64_t port, unsigned size)
{
    return pic_read(opaque, 0, port);
}

static void master_write(void *opaque, uint64_t port, uint64_t value, unsigned size)
{
    pic_write(opaque, 0, port, value);
}

static uint64_t slave_read(void *opaque, uint64_t port, unsigned size)
{
    return pic_read(opaque, 1, port);
}

static void slave_write(void *opaque, uint64_t port, uint64_t value, unsigned size)
{
    pic_write(opaque, 1, port, value);
}

static uint64_t elcr_read(void *opaque, uint64_t port, unsigned size)
{
    I8259 *pic = opaque;
    return pic->chip[port & 1].elcr;
}

static void elcr_write(void *opaque, uint64_t port, uint64_t value, unsigned size)
{
    I8259 *pic = opaque;
    Chip *chip = &pic->chip[port & 1];
    chip->elcr = value & elcr_mask[port & 1];
    chip->irr = (chip->irr & ~chip->elcr) | (chip->lines & chip->elcr);
    pic_update_locked(pic);
}

static const MemOps chip_ops[2] = {
    { .read = master_read, .write = master_write, .max = 1 },
    { .read = slave_read, .write = slave_write, .max = 1 },
};
static const MemOps elcr_ops = { .read = elcr_read, .write = elcr_write, .max = 1 };

/* --- device --- */

I8259 *i8259_of(Machine *machine)
{
    return machine_service(machine, I8259_SERVICE);
}

static unsigned i8259_irq_counts(Device *dev, uint64_t *ret_counts, unsigned max)
{
    const I8259 *pic = (const I8259 *)dev;
    for (unsigned n = 0; n < 16 && n < max; n++) {
        ret_counts[n] = pic->chip[n / 8].taken[n % 8];
    }
    return MIN(16u, max);
}

static char *i8259_describe(Device *dev)
{
    I8259 *pic = (I8259 *)dev;
    GString *text = g_string_new(NULL);
    lock_acquire(&pic->lock);
    for (unsigned n = 0; n < 2; n++) {
        const Chip *chip = &pic->chip[n];
        g_string_append_printf(text,
                               "pic%u: irr=%02x imr=%02x isr=%02x hprio=%d irq_base=%02x rr_sel=%d "
                               "elcr=%02x fnm=%d\n",
                               n, chip->irr, chip->imr, chip->isr, (chip->lowest + 1) & 7,
                               chip->base, chip->read_isr, chip->elcr, chip->special_nested);
    }
    lock_release(&pic->lock);
    return g_string_free(text, FALSE);
}

static void i8259_free_lock(void *opaque)
{
    I8259 *pic = opaque;
    lock_fini(&pic->lock);
}

static Error *i8259_plug(Device *dev)
{
    I8259 *pic = (I8259 *)dev;
    static const uint16_t base[2] = { 0x20, 0xa0 };
    lock_init(&pic->lock, "i8259", LOCK_RANK_IRQCHIP);
    device_on_unplug(dev, i8259_free_lock, pic);
    for (unsigned n = 0; n < 2; n++) {
        device_region_io(dev, &pic->ports[n], n ? "pic.slave" : "pic.master", 2, &chip_ops[n]);
        mem_region_set_lock(&pic->ports[n], &pic->lock);
        isa_map_io(dev, &pic->ports[n], base[n]);
    }
    device_region_io(dev, &pic->elcr_ports, "pic.elcr", 2, &elcr_ops);
    mem_region_set_lock(&pic->elcr_ports, &pic->lock);
    isa_map_io(dev, &pic->elcr_ports, 0x4d0);
    machine_set_service(dev->machine, I8259_SERVICE, pic);
    return NULL;
}

static void i8259_reset(Device *dev)
{
    I8259 *pic = (I8259 *)dev;
    lock_acquire(&pic->lock);
    for (unsigned n = 0; n < 2; n++) {
        uint8_t lines = pic->chip[n].lines;
        pic->chip[n] = (Chip) { .lines = lines, .lowest = 7, .icw_next = 1 };
    }
    pic_update_locked(pic);
    lock_release(&pic->lock);
}

static Error *i8259_loaded(Device *dev)
{
    I8259 *pic = (I8259 *)dev;
    lock_acquire(&pic->lock);
    irq_set(&pic->out, pic->intr);
    pic_update_locked(pic);
    lock_release(&pic->lock);
    return NULL;
}

static const StateField chip_state[] = {
    STATE_U8(Chip, irr),
    STATE_U8(Chip, imr),
    STATE_U8(Chip, isr),
    STATE_U8(Chip, lines),
    STATE_U8(Chip, elcr),
    STATE_U8(Chip, base),
    STATE_U8(Chip, cascade),
    STATE_RANGE(Chip, lowest, 0, 7),
    STATE_RANGE(Chip, icw_next, 0, 4),
    STATE_BOOL(Chip, single),
    STATE_BOOL(Chip, needs_icw4),
    STATE_BOOL(Chip, auto_eoi),
    STATE_BOOL(Chip, rotate_auto),
    STATE_BOOL(Chip, special_nested),
    STATE_BOOL(Chip, special_mask),
    STATE_BOOL(Chip, read_isr),
    STATE_BOOL(Chip, poll),
    STATE_NOT(Chip, taken, "statistics"),
    { 0 },
};

static const StateField state[] = {
    STATE_STRUCT_ARRAY(I8259, chip, chip_state),
    STATE_BOOL(I8259, intr),
    STATE_NOT(I8259, out, "wiring"),
    STATE_NOT(I8259, lock, "host"),
    STATE_NOT(I8259, ports, "fixed"),
    STATE_NOT(I8259, elcr_ports, "fixed"),
    { 0 },
};

DEVICE_TYPE(i8259, DEVICE_OBJECT("isa-i8259", I8259, NULL), .desc = "8259A interrupt controllers",
            .category = DEV_INTERNAL, .bus = &isa_bus_type, .state = state, .plug = i8259_plug,
            .reset = i8259_reset, .loaded = i8259_loaded, .describe = i8259_describe, .irq_counts = i8259_irq_counts);
