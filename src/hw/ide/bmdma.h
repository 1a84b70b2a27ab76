/*
 * Bus-master IDE: one channel's registers and its walk through the physical region descriptors. Embedded in a
 * PCI controller.
 */
#ifndef OSTRICH_HW_IDE_BMDMA_H
#define OSTRICH_HW_IDE_BMDMA_H

#include "bus/pci.h"
#include "hw/ide/ide.h"

enum { BMDMA_SIZE = 8, BMDMA_IOV_MAX = 512 };

typedef struct BmPiece {
    uint32_t addr, length;
} BmPiece;

typedef struct BmDma {
    IdeBus ide;
    PciDevice *pci;
    IrqLine irq;
    uint8_t command, status;
    uint32_t table;        /* BMIDTP: where the descriptors lie */
    /* The walk: descriptors read so far, and what is left of the current one. */
    uint32_t descriptor, read_count;
    uint32_t addr, length;
    bool last;             /* the current one is the last */
    uint64_t moved;        /* bytes since the engine was started */
    bool line;             /* INTRQ of the channel */
    /* What is mapped for the drive. */
    struct iovec iov[BMDMA_IOV_MAX];
    uint64_t guest[BMDMA_IOV_MAX];
    bool bounced[BMDMA_IOV_MAX];
    unsigned mapped;
    BmPiece kept[IDE_SECTOR]; /* what was read from the table but not used yet, last first */
    unsigned kept_count;
    bool to_memory;
} BmDma;

/* name NULL: "ide.N". Makes the channel's bus. */
void bmdma_init(BmDma *bm, PciDevice *pci, Device *parent, unsigned index, const char *name);
void bmdma_reset(BmDma *bm);
uint32_t bmdma_read(BmDma *bm, unsigned addr, unsigned size);
void bmdma_write(BmDma *bm, unsigned addr, uint32_t value, unsigned size);
extern const StateField bmdma_state[];

#endif
