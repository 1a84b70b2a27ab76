/*
 * The two Intel 8237A DMA controllers of a PC (data sheet 231466) with their page registers: channels
 * 0..3 move bytes, 5..7 move words, 4 is the cascade.
 *
 * Devices move the data: when a channel is requested and not masked, its device's transfer function is
 * called, from deferred work, with the position and the count; what it returns is the new position. At
 * the count there is terminal count: autoinitialization or the mask bit. A request that makes no progress
 * is not called again until something changes. Not modelled: memory-to-memory, compressed timing,
 * rotating priority (the order of service cannot be seen, as transfers are not cycle by cycle).
 */
#include "bus/isa.h"
#include "base/log.h"

enum { MODE_TRANSFER = 0x0c, MODE_AUTOINIT = 0x10, MODE_DECREMENT = 0x20 };
enum { COMMAND_DISABLE = BIT(2) };
enum { CHANNELS = 8, CASCADE = 4 };

typedef uint32_t DmaTransfer(void *opaque, unsigned channel, uint32_t pos, uint32_t count);

typedef struct Channel {
    uint16_t base_address, base_count; /* as programmed */
    uint16_t address, count;           /* current; in bytes or words */
    uint8_t mode, page, page_high;
    DmaTransfer *transfer;
    void *opaque;
} Channel;

typedef struct Controller {
    uint8_t command, status; /* status: terminal counts, bits 0..3 */
    uint8_t mask, request;   /* bits 0..3 */
    bool flip_flop;
} Controller;

typedef struct I8237 {
    Device dev;
    Channel channel[CHANNELS];
    Controller controller[2];
    uint8_t dreq;            /* lines from the devices, bits 0..7 */
    uint8_t page_scratch[16]; /* page register file: bytes without a channel are memory */
    uint8_t page_high_scratch[16];
    Work run;
    MemRegion low, high, pages, pages_high;
} I8237;

/* Which channel a page register belongs to, by its offset from 0x80; -1: none. */
static const int8_t page_channel[16] = { -1, 2, 3, 1, -1, -1, -1, 0, -1, 6, 7, 5, -1, -1, -1, 4 };

static unsigned channel_unit(unsigned n)
{
    return n >= 4 ? 2 : 1;
}

/* Guest address of byte `pos` of the block, which wraps inside its 64 KiB (128 KiB) page. */
static uint64_t channel_address(const Channel *c, unsigned n, uint32_t pos)
{
    unsigned unit = channel_unit(n);
    uint32_t high = (uint32_t)c->page_high << 24 | (uint32_t)c->page << 16;
    uint32_t in_page = (uint32_t)c->base_address * unit;
    uint32_t mask = 0x10000 * unit - 1;
    in_page = c->mode & MODE_DECREMENT ? in_page - pos : in_page + pos;
    return (high & ~mask) | (in_page & mask);
}

static uint32_t channel_bytes(const Channel *c, unsigned n)
{
    return ((uint32_t)c->base_count + 1) * channel_unit(n);
}

/* How many bytes have gone, seen from the current count. */
static uint32_t channel_pos(const Channel *c, unsigned n)
{
    return (uint16_t)(c->base_count - c->count) * channel_unit(n);
}

static void channel_set_pos(Channel *c, unsigned n, uint32_t pos)
{
    uint16_t units = pos / channel_unit(n);
    c->count = c->base_count - units;
    c->address = c->mode & MODE_DECREMENT ? c->base_address - units : c->base_address + units;
}

static bool channel_ready(const I8237 *dma, unsigned n)
{
    const Controller *ctl = &dma->controller[n / 4];
    bool asked = (dma->dreq >> n & 1) || (ctl->request >> (n & 3) & 1);
    return n != CASCADE && asked && !(ctl->mask >> (n & 3) & 1) && !(ctl->command & COMMAND_DISABLE) &&
           dma->channel[n].transfer;
}

static void channel_terminal_count(I8237 *dma, unsigned n)
{
    Channel *c = &dma->channel[n];
    Controller *ctl = &dma->controller[n / 4];
    ctl->status |= BIT(n & 3);
    ctl->request &= ~BIT(n & 3);
    if (c->mode & MODE_AUTOINIT) {
        c->address = c->base_address;
        c->count = c->base_count;
    } else {
        ctl->mask |= BIT(n & 3);
        c->count = 0xffff;
    }
}

static void dma_run(void *opaque)
{
    I8237 *dma = opaque;
    if (!machine_running(dma->dev.machine)) {
        return; /* i8237_resumed() comes back to it */
    }
    for (unsigned n = 0; n < CHANNELS; n++) {
        if (!channel_ready(dma, n)) {
            continue;
        }
        Channel *c = &dma->channel[n];
        uint32_t total = channel_bytes(c, n), pos = channel_pos(c, n);
        uint32_t now = MIN(c->transfer(c->opaque, n, pos, total), total);
        if (now <= pos) {
            continue;
        }
        if (now == total) {
            channel_terminal_count(dma, n);
        } else {
            channel_set_pos(c, n, now);
        }
        if (channel_ready(dma, n)) {
            work_schedule(&dma->run);
        }
    }
}

static void dma_check(I8237 *dma)
{
    for (unsigned n = 0; n < CHANNELS; n++) {
        if (channel_ready(dma, n)) {
            work_schedule(&dma->run);
            return;
        }
    }
}

/* --- what devices call --- */

static void dma_register_channel(void *opaque, unsigned n, DmaTransfer *transfer, void *device)
{
    I8237 *dma = opaque;
    if (n < CHANNELS && n != CASCADE) {
        dma->channel[n].transfer = transfer;
        dma->channel[n].opaque = device;
    }
}

static void dma_set_dreq(void *opaque, unsigned n, bool level)
{
    I8237 *dma = opaque;
    if (n >= CHANNELS) {
        return;
    }
    dma->dreq = level ? dma->dreq | BIT(n) : dma->dreq & ~BIT(n);
    if (level) {
        dma_check(dma);
    }
}

/* Moves bytes between buf and the channel's block at pos. A block may wrap in its page, or go downwards. */
static uint32_t dma_move(I8237 *dma, unsigned n, uint8_t *buf, uint32_t pos, uint32_t length, bool to_memory)
{
    const Channel *c = &dma->channel[n & 7];
    AddressSpace *as = dma->dev.machine->as;
    bool down = c->mode & MODE_DECREMENT;
    uint32_t span = 0x10000 * channel_unit(n);
    for (uint32_t done = 0; done < length;) {
        uint64_t address = channel_address(c, n, pos + done);
        uint32_t chunk = down ? 1 : MIN(length - done, span - (uint32_t)(address & (span - 1)));
        if (to_memory) {
            mem_write(as, address, buf + done, chunk);
        } else {
            mem_read(as, address, buf + done, chunk);
        }
        done += chunk;
    }
    return length;
}

static uint32_t dma_to_memory(void *opaque, unsigned n, const void *buf, uint32_t pos, uint32_t length)
{
    return dma_move(opaque, n, (uint8_t *)buf, pos, length, true);
}

static uint32_t dma_from_memory(void *opaque, unsigned n, void *buf, uint32_t pos, uint32_t length)
{
    return dma_move(opaque, n, buf, pos, length, false);
}

static bool dma_is_verify(void *opaque, unsigned n)
{
    I8237 *dma = opaque;
    return (dma->channel[n & 7].mode & MODE_TRANSFER) == 0;
}

static bool dma_has_autoinit(void *opaque, unsigned n)
{
    I8237 *dma = opaque;
    return dma->channel[n & 7].mode & MODE_AUTOINIT;
}

static const IsaDmaOps dma_ops = {
    .register_channel = dma_register_channel,
    .set_dreq = dma_set_dreq,
    .to_memory = dma_to_memory,
    .from_memory = dma_from_memory,
    .is_verify = dma_is_verify,
    .has_autoinit = dma_has_autoinit,
};

/* --- registers; reg 0..15 of a controller --- */

static void controller_clear(Controller *ctl)
{
    *ctl = (Controller) { .mask = 15 };
}

static uint8_t dma_read(I8237 *dma, unsigned controller, unsigned reg)
{
    Controller *ctl = &dma->controller[controller];
    if (reg < 8) {
        const Channel *c = &dma->channel[controller * 4 + reg / 2];
        uint16_t value = reg & 1 ? c->count : c->address;
        bool high = ctl->flip_flop;
        ctl->flip_flop = !high;
        return high ? value >> 8 : value;
    }
    switch (reg) {
    case 8: {
        uint8_t requests = (dma->dreq >> (controller * 4) & 15) | ctl->request;
        uint8_t value = ctl->status | requests << 4;
        ctl->status = 0;
        return value;
    }
    case 15:
        return ctl->mask | 0xf0;
    default:
        return 0; /* the temporary register: no memory-to-memory transfers */
    }
}

static void dma_write_channel(I8237 *dma, unsigned controller, unsigned reg, uint8_t value)
{
    Controller *ctl = &dma->controller[controller];
    Channel *c = &dma->channel[controller * 4 + reg / 2];
    uint16_t *base = reg & 1 ? &c->base_count : &c->base_address;
    *base = ctl->flip_flop ? (*base & 0xff) | value << 8 : (*base & 0xff00) | value;
    ctl->flip_flop = !ctl->flip_flop;
    c->address = c->base_address;
    c->count = c->base_count;
}

static void dma_write(I8237 *dma, unsigned controller, unsigned reg, uint8_t value)
{
    Controller *ctl = &dma->controller[controller];
    uint8_t bit = BIT(value & 3);
    if (reg < 8) {
        dma_write_channel(dma, controller, reg, value);
        return;
    }
    switch (reg) {
    case 8:
        ctl->command = value;
        break;
    case 9: /* software request */
        ctl->request = value & 4 ? ctl->request | bit : ctl->request & ~bit;
        break;
    case 10:
        ctl->mask = value & 4 ? ctl->mask | bit : ctl->mask & ~bit;
        break;
    case 11:
        dma->channel[controller * 4 + (value & 3)].mode = value;
        break;
    case 12:
        ctl->flip_flop = false;
        break;
    case 13:
        controller_clear(ctl);
        break;
    case 14:
        ctl->mask = 0;
        break;
    default:
        ctl->mask = value & 15;
        break;
    }
    dma_check(dma);
}

static uint64_t low_read(void *opaque, uint64_t port, unsigned size)
{
    return dma_read(opaque, 0, port);
}

static void low_write(void *opaque, uint64_t port, uint64_t value, unsigned size)
{
    dma_write(opaque, 0, port, value);
}

/* The second controller's registers stand at even ports. */
static uint64_t high_read(void *opaque, uint64_t port, unsigned size)
{
    return dma_read(opaque, 1, port >> 1);
}

static void high_write(void *opaque, uint64_t port, uint64_t value, unsigned size)
{
    dma_write(opaque, 1, port >> 1, value);
}

static uint64_t page_read(void *opaque, uint64_t port, unsigned size)
{
    I8237 *dma = opaque;
    int n = page_channel[port & 15];
    return n >= 0 ? dma->channel[n].page : dma->page_scratch[port & 15];
}

static void page_write(void *opaque, uint64_t port, uint64_t value, unsigned size)
{
    I8237 *dma = opaque;
    int n = page_channel[port & 15];
    if (n >= 0) {
        dma->channel[n].page = value;
        dma->channel[n].page_high = 0; /* writing the low page clears the high one */
    } else {
        dma->page_scratch[port & 15] = value;
    }
}

static uint64_t page_high_read(void *opaque, uint64_t port, unsigned size)
{
    I8237 *dma = opaque;
    int n = page_channel[port & 15];
    return n >= 0 ? dma->channel[n].page_high : dma->page_high_scratch[port & 15];
}

static void page_high_write(void *opaque, uint64_t port, uint64_t value, unsigned size)
{
    I8237 *dma = opaque;
    int n = page_channel[port & 15];
    if (n >= 0) {
        dma->channel[n].page_high = value;
    } else {
        dma->page_high_scratch[port & 15] = value;
    }
}

static const MemOps low_ops = { .read = low_read, .write = low_write, .max = 1 };
static const MemOps high_ops = { .read = high_read, .write = high_write, .max = 1 };
static const MemOps page_ops = { .read = page_read, .write = page_write, .max = 1 };
static const MemOps page_high_ops = { .read = page_high_read, .write = page_high_write, .max = 1 };

/* --- device --- */

static Error *i8237_plug(Device *dev)
{
    I8237 *dma = (I8237 *)dev;
    IsaBus *isa = isa_bus_of(dev->machine);
    device_work_init(dev, &dma->run, dma_run);
    device_region_io(dev, &dma->low, "dma.low", 0x10, &low_ops);
    device_region_io(dev, &dma->high, "dma.high", 0x20, &high_ops);
    device_region_io(dev, &dma->pages, "dma.pages", 0x10, &page_ops);
    device_region_io(dev, &dma->pages_high, "dma.pages-high", 0x10, &page_high_ops);
    isa_map_io(dev, &dma->low, 0x00);
    isa_map_io(dev, &dma->high, 0xc0);
    /* Port 0x92 lies among the mirrors of the page registers, so only the first sixteen are mapped. */
    isa_map_io(dev, &dma->pages, 0x80);
    isa_map_io(dev, &dma->pages_high, 0x480);
    isa->dma = dma;
    isa->dma_ops = &dma_ops;
    return NULL;
}

static void i8237_reset(Device *dev)
{
    I8237 *dma = (I8237 *)dev;
    controller_clear(&dma->controller[0]);
    controller_clear(&dma->controller[1]);
    for (unsigned n = 0; n < CHANNELS; n++) {
        Channel *c = &dma->channel[n];
        *c = (Channel) { .transfer = c->transfer, .opaque = c->opaque };
    }
}

static void i8237_resumed(Device *dev)
{
    dma_check((I8237 *)dev);
}

static const StateField channel_state[] = {
    STATE_U16(Channel, base_address), STATE_U16(Channel, base_count), STATE_U16(Channel, address),
    STATE_U16(Channel, count), STATE_U8(Channel, mode), STATE_U8(Channel, page), STATE_U8(Channel, page_high),
    STATE_NOT(Channel, transfer, "wiring"), STATE_NOT(Channel, opaque, "wiring"),
    { 0 },
};

static const StateField controller_state[] = {
    STATE_U8(Controller, command), STATE_U8(Controller, status), STATE_U8(Controller, mask),
    STATE_U8(Controller, request), STATE_BOOL(Controller, flip_flop),
    { 0 },
};

static const StateField state[] = {
    STATE_STRUCT_ARRAY(I8237, channel, channel_state),
    STATE_STRUCT_ARRAY(I8237, controller, controller_state),
    STATE_U8(I8237, dreq),
    STATE_BYTES(I8237, page_scratch),
    STATE_BYTES(I8237, page_high_scratch),
    STATE_NOT(I8237, run, "scheduled again when the machine runs"),
    STATE_NOT(I8237, low, "fixed"),
    STATE_NOT(I8237, high, "fixed"),
    STATE_NOT(I8237, pages, "fixed"),
    STATE_NOT(I8237, pages_high, "fixed"),
    { 0 },
};

DEVICE_TYPE(i8237, DEVICE_OBJECT("i8257", I8237, NULL), .desc = "8237A DMA controllers", .category = DEV_INTERNAL,
            .bus = &isa_bus_type, .state = state, .plug = i8237_plug, .reset = i8237_reset, .resumed = i8237_resumed);
