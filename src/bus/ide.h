/*
 * The IDE bus: one channel with up to two drives. The registers of a channel and the drives' commands are in
 * hw/ide/; here is who sits where.
 */
#ifndef OSTRICH_BUS_IDE_H
#define OSTRICH_BUS_IDE_H

#include <sys/uio.h>

#include "core/vm/machine.h"

extern const BusType ide_bus_type;

typedef struct IdeBus IdeBus;

/* Embedded first in every drive; types use IDE_DEVICE_OBJECT() and inherit the property "unit". */
typedef struct IdeDevice {
    Device dev;
    IdeBus *channel;
    uint32_t unit; /* UINT32_MAX: the first that is free */
} IdeDevice;

extern const ObjectType ide_device_object_type;
#define IDE_DEVICE_OBJECT(nm, tp, pr) .object = { .name = nm, .parent = &ide_device_object_type, .size = sizeof(tp), .c_type = #tp, .props = pr }

/*
 * What the controller does for its drives. All with the machine lock.
 *
 * DMA: a drive with data to move calls dma_request; the controller calls ide_dma_run() (hw/ide/ide.h) when
 * its engine is started, at once or later. The drive then maps guest memory piece by piece.
 */
typedef struct IdeHostOps {
    void (*set_irq)(void *host, int level);
    void (*dma_request)(void *host); /* NULL: no DMA */
    /*
     * Maps guest memory for at most `want` more bytes; gives the list and its size in bytes, a multiple of
     * `unit` unless the guest's list ends before. 0: the list is at its end or cannot be read.
     */
    uint32_t (*dma_map)(void *host, uint32_t want, uint32_t unit, bool to_memory, const struct iovec **ret_iov,
                        unsigned *ret_count);
    /* Of the last dma_map(): `done` bytes were moved. */
    void (*dma_unmap)(void *host, uint32_t done);
    /* As if the last dma_map() had not been: the next one, perhaps after a load, gives the same again. */
    void (*dma_return)(void *host);
    void (*dma_end)(void *host, bool error);
    /* A block of PIO data is ready to be moved; NULL: the guest moves it through the data register. */
    void (*pio_ready)(void *host);
} IdeHostOps;

enum { IDE_UNITS = 2 };

struct IdeBus {
    Bus bus;
    unsigned index;      /* of the channel in its controller: "drive@<index>" */
    unsigned serial_base; /* default serial numbers: "QM%05u" of serial_base + unit + 1 */
    unsigned units;      /* 1 or 2 places */
    IdeDevice *drives[IDE_UNITS];
    const IdeHostOps *ops;
    void *host;
    /* The channel's own registers. */
    uint8_t control;     /* device control: nIEN, SRST, HOB */
    uint8_t selected;    /* unit */
    bool irq;            /* INTRQ of the selected drive, whether or not nIEN hides it */
};

/* name NULL: "ide.N". */
void ide_bus_init(IdeBus *ide, Machine *machine, Device *parent, const char *name, unsigned index, unsigned units,
                  const IdeHostOps *ops, void *host);

#endif
