/*
 * The ISA bus: I/O ports, 16 interrupt lines, DMA channels. One a machine, made by its bridge (PIIX3,
 * ICH9 LPC, or the board itself).
 */
#ifndef OSTRICH_BUS_ISA_H
#define OSTRICH_BUS_ISA_H

#include "core/vm/machine.h"

extern const BusType isa_bus_type;

typedef struct IsaBus {
    Bus bus;
    MemRegion *io, *memory;    /* where ports and memory windows are mapped; borrowed */
    IrqLine irqs[16];          /* inputs of the interrupt controllers (GSI 0..15) */
    void *dma;                 /* the 8237 pair, through isa_dma_* */
    const struct IsaDmaOps *dma_ops;
} IsaBus;

/* DeviceType.extra of an ISA device: its OpenFirmware kind and where its first port stands (a uint32_t). */
typedef struct IsaIdent {
    const char *fw_name;
    size_t iobase;
} IsaIdent;

/* Service: uint16_t *, the port of the pvpanic device. */
#define ISA_PVPANIC_SERVICE "pvpanic"

/* parent: the bridge, NULL for a board without one. Sets the machine's service "isa". */
void isa_bus_init(IsaBus *isa, Machine *machine, Device *parent, MemRegion *memory, MemRegion *io);
IsaBus *isa_bus_of(Machine *machine); /* NULL when there is none */
/* The line of interrupt n; stays valid with the bus. */
IrqLine *isa_irq(Device *dev, unsigned n);
/* Maps a region that the device owns at a port. */
void isa_map_io(Device *dev, MemRegion *region, uint16_t port);
void isa_map_memory(Device *dev, MemRegion *region, uint32_t address);

/*
 * DMA channels of the 8237. A device sets DREQ; the controller then calls transfer(opaque, channel, mode,
 * position, count) on a deferred call with the machine lock held; the function moves data with
 * read/write and returns the new position in bytes; terminal count is at `count`.
 */
typedef struct IsaDmaOps {
    void (*register_channel)(void *dma, unsigned channel,
                             uint32_t (*transfer)(void *opaque, unsigned channel, uint32_t pos, uint32_t count),
                             void *opaque);
    void (*set_dreq)(void *dma, unsigned channel, bool level);
    /* Device memory <-> guest memory at the channel's address + pos; bytes moved. */
    uint32_t (*to_memory)(void *dma, unsigned channel, const void *buf, uint32_t pos, uint32_t length);
    uint32_t (*from_memory)(void *dma, unsigned channel, void *buf, uint32_t pos, uint32_t length);
    bool (*is_verify)(void *dma, unsigned channel);
    bool (*has_autoinit)(void *dma, unsigned channel);
} IsaDmaOps;

#endif
