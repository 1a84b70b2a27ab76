/*
 * Port 0x61 (NMI status and control) of a PC: gate and output of counter 2, speaker enable, the refresh
 * toggle that firmware uses as a 15 us clock. Data sheet: 82371SB section 2.5 (NSC).
 *
 * Parity and channel check never report. The speaker's sound itself is not produced.
 */
#include "bus/isa.h"
#include "hw/timer/i8254.h"

enum { NSC_GATE2 = BIT(0), NSC_SPEAKER = BIT(1), NSC_WRITABLE = 0x0f, NSC_REFRESH = BIT(4), NSC_OUT2 = BIT(5) };
enum { REFRESH_NS = 15085 };

typedef struct PcSpk {
    Device dev;
    uint8_t control;
    uint32_t iobase;
    MemRegion port;
} PcSpk;

static uint64_t pcspk_read(void *opaque, uint64_t addr, unsigned size)
{
    PcSpk *spk = opaque;
    I8254 *pit = i8254_of(spk->dev.machine);
    int64_t now = clock_now(spk->dev.machine->clocks, CLOCK_VIRTUAL);
    uint8_t value = spk->control;
    value |= now / REFRESH_NS & 1 ? NSC_REFRESH : 0;
    value |= pit && i8254_out(pit, 2) ? NSC_OUT2 : 0;
    return value;
}

static void pcspk_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    PcSpk *spk = opaque;
    I8254 *pit = i8254_of(spk->dev.machine);
    spk->control = value & NSC_WRITABLE;
    if (pit) {
        i8254_set_gate(pit, 2, value & NSC_GATE2);
    }
}

static const MemOps ops = { .read = pcspk_read, .write = pcspk_write, .max = 1 };

static Error *pcspk_plug(Device *dev)
{
    PcSpk *spk = (PcSpk *)dev;
    device_region_io(dev, &spk->port, "pcspk", 1, &ops);
    isa_map_io(dev, &spk->port, spk->iobase);
    return NULL;
}

static void pcspk_reset(Device *dev)
{
    ((PcSpk *)dev)->control = 0;
}

static const StateField state[] = {
    STATE_U8(PcSpk, control),
    STATE_NOT(PcSpk, port, "fixed"),
    { 0 },
};

static const Prop props[] = {
    PROP_U32("iobase", PcSpk, iobase, 0x61, .help = "port"),
    { 0 },
};

DEVICE_TYPE(pcspk, DEVICE_OBJECT("isa-pcspk", PcSpk, props), .desc = "PC speaker and port 61h",
            .category = DEV_SOUND, .bus = &isa_bus_type, .state = state, .plug = pcspk_plug, .reset = pcspk_reset);
