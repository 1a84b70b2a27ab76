/*
 * Watchdog of the Intel 6300ESB I/O controller hub (data sheet 300641, chapter 14): two stages of 20 bits each, counted
 * at the PCI clock divided by 2^15 or 2^5. The first may interrupt, the second pulls WDT_TOUT#, which resets the board.
 * Counters and the reload register take a write after 0x80 and 0x86 were written to the reload register.
 * Missing: the interrupt of the first stage as SMI, and as IRQ 10 of the hub's own APIC; its status bit is there.
 */
#include "base/endian.h"
#include "bus/pci.h"

enum { CONFIG = 0x60, LOCK = 0x68 };                       /* configuration space */
enum { PRELOAD1 = 0, PRELOAD2 = 4, STATUS = 8, RELOAD = 12, BAR_SIZE = 16 };
enum { CONFIG_INT = 3, CONFIG_INT_OFF = 3, CONFIG_FAST = BIT(2), CONFIG_OUTPUT_OFF = BIT(5) };
enum { LOCK_LOCKED = BIT(0), LOCK_ENABLE = BIT(1), LOCK_FREE_RUN = BIT(2) };
enum { STATUS_INT = BIT(0), RELOAD_NOW = BIT(8), RELOAD_TIMED_OUT = BIT(9), PRELOAD_MASK = 0xfffff };
enum { UNLOCK_1 = 0x80, UNLOCK_2 = 0x86, PCI_HZ = 33000000 };

typedef struct I6300Esb {
    PciDevice pci;
    uint32_t preload[2];
    bool interrupted, timed_out;
    uint8_t stage;    /* 1 or 2 while it counts */
    uint8_t unlocked; /* how many of the two values were written; 2: the next write counts */
    uint8_t lock;     /* bits of LOCK */
    Timer timer;
    MemRegion bar;
} I6300Esb;

static I6300Esb *of_device(Device *dev)
{
    return container_of(dev, I6300Esb, pci.dev);
}

/* --- counting --- */

static void count_down(I6300Esb *esb, unsigned stage)
{
    Machine *machine = esb->pci.dev.machine;
    unsigned shift = esb->pci.config[CONFIG] & CONFIG_FAST ? 5 : 15;
    uint64_t clocks = (uint64_t)esb->preload[stage - 1] << shift;

    esb->stage = (uint8_t)stage;
    timer_set(&esb->timer, clock_now(machine->clocks, CLOCK_VIRTUAL) +
                               (int64_t)(clocks * (uint64_t)(NS_PER_SEC / 1000) / (PCI_HZ / 1000)) + 1);
}

/* In free-running mode only the second stage counts. */
static void restart(I6300Esb *esb)
{
    if (esb->lock & LOCK_ENABLE) {
        count_down(esb, esb->lock & LOCK_FREE_RUN ? 2 : 1);
    } else {
        timer_cancel(&esb->timer);
    }
}

static void expired(void *opaque)
{
    I6300Esb *esb = of_device(opaque);

    if (esb->stage == 1) {
        esb->interrupted |= (esb->pci.config[CONFIG] & CONFIG_INT) != CONFIG_INT_OFF;
        count_down(esb, 2);
        return;
    }
    esb->timed_out = true;
    if (!(esb->pci.config[CONFIG] & CONFIG_OUTPUT_OFF)) {
        machine_watchdog_expired(esb->pci.dev.machine);
    }
    if (esb->lock & LOCK_FREE_RUN) {
        count_down(esb, 2);
    }
}

/* --- memory registers --- */

static uint64_t esb_read(void *opaque, uint64_t addr, unsigned size)
{
    I6300Esb *esb = opaque;

    esb->unlocked = 0;
    switch (addr) {
    case STATUS:
        return esb->interrupted ? STATUS_INT : 0;
    case RELOAD:
        return esb->timed_out ? RELOAD_TIMED_OUT : 0;
    default:
        return 0; /* the preload values cannot be read */
    }
}

static void reload(I6300Esb *esb, uint64_t value)
{
    if (value & RELOAD_TIMED_OUT) {
        esb->timed_out = false;
    }
    if (value & RELOAD_NOW) {
        restart(esb);
    }
}

static void esb_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    I6300Esb *esb = opaque;
    bool open = esb->unlocked == 2;

    if (addr == RELOAD && !open && value == UNLOCK_1) {
        esb->unlocked = 1;
        return;
    }
    if (addr == RELOAD && esb->unlocked == 1 && value == UNLOCK_2) {
        esb->unlocked = 2;
        return;
    }
    esb->unlocked = 0;
    if (addr == STATUS) {
        esb->interrupted &= !(value & STATUS_INT);
    } else if (open && addr == RELOAD) {
        reload(esb, value);
    } else if (open && size == 4 && (addr == PRELOAD1 || addr == PRELOAD2)) {
        esb->preload[addr / 4] = value & PRELOAD_MASK;
    }
}

static const MemOps ops = { .read = esb_read, .write = esb_write, .max = 4 };

/* --- configuration space --- */

static void config_written(PciDevice *pci, uint32_t addr, unsigned size)
{
    I6300Esb *esb = container_of(pci, I6300Esb, pci);
    uint8_t old = esb->lock;

    if (addr > LOCK || addr + size <= LOCK) {
        return;
    }
    if (old & LOCK_LOCKED) { /* until a reset */
        pci->config[LOCK] = old;
        return;
    }
    esb->lock = pci->config[LOCK];
    if ((old ^ esb->lock) & LOCK_ENABLE) {
        restart(esb);
    }
}

static Error *esb_plug(Device *dev)
{
    I6300Esb *esb = of_device(dev);

    device_timer_init(dev, &esb->timer, CLOCK_VIRTUAL, expired);
    device_region_io(dev, &esb->bar, "i6300esb", BAR_SIZE, &ops);
    pci_bar(&esb->pci, 0, PCI_BAR_MEM32, &esb->bar);
    esb->pci.wmask[CONFIG] = CONFIG_INT | CONFIG_FAST | CONFIG_OUTPUT_OFF;
    esb->pci.wmask[LOCK] = LOCK_LOCKED | LOCK_ENABLE | LOCK_FREE_RUN;
    esb->pci.config_written = config_written;
    return NULL;
}

/* That a time-out led here stays visible: the driver asks. */
static void esb_reset(Device *dev)
{
    I6300Esb *esb = of_device(dev);

    timer_cancel(&esb->timer);
    esb->pci.config[CONFIG] = 0;
    esb->pci.config[LOCK] = esb->lock = 0;
    esb->preload[0] = esb->preload[1] = PRELOAD_MASK;
    esb->interrupted = false;
    esb->unlocked = 0;
    esb->stage = 1;
}

static const StateField state[] = {
    STATE_U32_ARRAY(I6300Esb, preload),
    STATE_BOOL(I6300Esb, interrupted),
    STATE_BOOL(I6300Esb, timed_out),
    STATE_RANGE(I6300Esb, stage, 1, 2),
    STATE_RANGE(I6300Esb, unlocked, 0, 2),
    STATE_RANGE(I6300Esb, lock, 0, 7),
    STATE_TIMER(I6300Esb, timer),
    STATE_NOT(I6300Esb, bar, "fixed"),
    { 0 },
};

static const PciIdent ident = { .vendor = 0x8086, .device = 0x25ab, .class_code = 0x088000 };

DEVICE_TYPE(i6300esb, PCI_DEVICE_OBJECT("i6300esb", I6300Esb, NULL), .desc = "Intel 6300ESB watchdog",
            .category = DEV_WATCHDOG, .bus = &pci_bus_type, .pci = &ident, .state = state, .hotplug = true, .plug = esb_plug,
            .reset = esb_reset);
