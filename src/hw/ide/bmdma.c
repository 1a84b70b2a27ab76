/*
 * Bus-master IDE ("Programming Interface for Bus Master IDE Controller", revision 1.0): registers BMICX, BMISX, BMIDTPX.
 *
 * A descriptor gives a 32-bit address and a 16-bit length (0: 64 KiB); the table does not cross 64 KiB, which bounds
 * the walk. Guest memory that is RAM is handed to the back end directly; anything else goes through a copy.
 */
#include "hw/ide/bmdma.h"

#include <string.h>

#include "base/endian.h"

enum { BMIC = 0, BMIS = 2, BMIDTP = 4 };
enum { BMIC_START = 0x01, BMIC_TO_MEMORY = 0x08 };
enum { BMIS_ACTIVE = 0x01, BMIS_ERROR = 0x02, BMIS_IRQ = 0x04, BMIS_CAPABLE = 0x60 };
enum { PRD_SIZE = 8, PRD_TABLE_MAX = 65536, PRD_LAST = 0x80 };

/* --- descriptors --- */

static void rewind_table(BmDma *bm)
{
    bm->descriptor = bm->table;
    bm->read_count = 0;
    bm->length = 0;
    bm->kept_count = 0;
    bm->last = false;
    bm->moved = 0;
}

static bool next_descriptor(BmDma *bm)
{
    uint8_t prd[PRD_SIZE];
    bool master = ld16_le(bm->pci->config + PCI_COMMAND) & PCI_COMMAND_MASTER;
    if (bm->last || bm->read_count >= PRD_TABLE_MAX / PRD_SIZE) {
        return false;
    }
    if (pci_dma_read(bm->pci, bm->descriptor, prd, PRD_SIZE) != MEM_OK) {
        if (master) {
            return false;
        }
        /* A controller that may not reach the bus moves nothing, but its command ends: drivers wait for that. */
        memset(prd, 0, sizeof(prd));
    }
    bm->descriptor += PRD_SIZE;
    bm->read_count++;
    bm->addr = ld32_le(prd) & ~1u;
    bm->length = ld16_le(prd + 4) & ~1u;
    if (bm->length == 0) {
        bm->length = 65536;
    }
    bm->last = prd[7] & PRD_LAST;
    return true;
}

/* Something is left to map. */
static bool have_piece(BmDma *bm)
{
    return bm->kept_count > 0 || bm->length > 0 || next_descriptor(bm);
}

/* One contiguous piece, at most `want` bytes. */
static uint32_t map_piece(BmDma *bm, uint32_t want)
{
    unsigned n = bm->mapped++;
    BmPiece *kept = bm->kept_count ? &bm->kept[bm->kept_count - 1] : NULL;
    uint32_t *addr = kept ? &kept->addr : &bm->addr, *left = kept ? &kept->length : &bm->length;
    uint64_t length = MIN(want, *left);
    void *host = mem_map(bm->pci->dma, *addr, &length, bm->to_memory);
    bm->bounced[n] = host == NULL;
    if (!host) {
        length = MIN(length, 4096);
        host = g_malloc0(length);
        if (!bm->to_memory) {
            (void)pci_dma_read(bm->pci, *addr, host, length);
        }
    }
    bm->iov[n] = (struct iovec) { host, length };
    bm->guest[n] = *addr;
    *addr += (uint32_t)length;
    *left -= (uint32_t)length;
    if (kept && kept->length == 0) {
        bm->kept_count--;
    }
    return (uint32_t)length;
}

static void unmap_piece(BmDma *bm, unsigned n, uint64_t done)
{
    struct iovec *iov = &bm->iov[n];
    if (!bm->bounced[n]) {
        /* What failed may have come in part. */
        mem_unmap(bm->pci->dma, iov->iov_base, iov->iov_len, bm->to_memory ? iov->iov_len : 0);
        return;
    }
    if (bm->to_memory && done) {
        (void)pci_dma_write(bm->pci, bm->guest[n], iov->iov_base, done);
    }
    g_free(iov->iov_base);
}

/*
 * The list of pieces is full: what lies beyond the last whole unit is kept for the next round. It may span
 * several descriptors, so it is remembered as pieces.
 */
static uint32_t keep_excess(BmDma *bm, uint32_t total, uint32_t unit)
{
    uint32_t excess = total % unit;
    total -= excess;
    while (excess > 0) {
        unsigned n = bm->mapped - 1;
        struct iovec *iov = &bm->iov[n];
        uint32_t back = (uint32_t)MIN(excess, iov->iov_len);
        BmPiece *piece = &bm->kept[bm->kept_count++];
        iov->iov_len -= back;
        *piece = (BmPiece) { (uint32_t)(bm->guest[n] + iov->iov_len), back };
        excess -= back;
        if (iov->iov_len == 0) {
            unmap_piece(bm, n, 0);
            bm->mapped--;
        }
    }
    return total;
}

static uint32_t host_dma_map(void *host, uint32_t want, uint32_t unit, bool to_memory, const struct iovec **ret_iov,
                             unsigned *ret_count)
{
    BmDma *bm = host;
    uint32_t total = 0;
    if (bm->mapped != 0) { /* the engine was stopped under the other drive, whose transfer is not back yet */
        *ret_count = 0;
        return 0;
    }
    bm->to_memory = to_memory;
    while (total < want && bm->mapped < BMDMA_IOV_MAX && have_piece(bm)) {
        total += map_piece(bm, want - total);
    }
    if (total < want && bm->mapped == BMDMA_IOV_MAX) {
        total = keep_excess(bm, total, unit);
    }
    *ret_iov = bm->iov;
    *ret_count = bm->mapped;
    return total;
}

static void host_dma_unmap(void *host, uint32_t done)
{
    BmDma *bm = host;
    bm->moved += done;
    for (unsigned n = 0; n < bm->mapped; n++) {
        uint32_t here = (uint32_t)MIN(done, bm->iov[n].iov_len);
        unmap_piece(bm, n, here);
        done -= here;
    }
    bm->mapped = 0;
}

/* The table is walked anew, up to where the last mapping began. */
static void host_dma_return(void *host)
{
    BmDma *bm = host;
    uint64_t moved = bm->moved, left = moved;

    host_dma_unmap(bm, 0);
    rewind_table(bm);
    while (left && have_piece(bm)) {
        uint32_t part = (uint32_t)MIN(left, bm->length);
        bm->addr += part;
        bm->length -= part;
        left -= part;
    }
    bm->moved = moved;
}

/* --- the engine --- */

static void host_set_irq(void *host, int level)
{
    BmDma *bm = host;
    if (level && !bm->line) {
        bm->status |= BMIS_IRQ;
    }
    bm->line = level;
    irq_set(&bm->irq, level);
}

static void host_dma_request(void *host)
{
    BmDma *bm = host;
    if ((bm->command & BMIC_START) && (bm->status & BMIS_ACTIVE)) {
        ide_dma_run(&bm->ide);
    }
}

/* A list that had room for more leaves the engine active: that is how the driver hears that less came. */
static void host_dma_end(void *host, bool error)
{
    BmDma *bm = host;
    bool room = bm->kept_count > 0 || bm->length > 0 || (!bm->last && bm->read_count < PRD_TABLE_MAX / PRD_SIZE);

    if (error || !room) {
        bm->status &= ~BMIS_ACTIVE;
    }
    bm->status |= error ? BMIS_ERROR : 0;
}

static const IdeHostOps bmdma_host_ops = {
    .set_irq = host_set_irq, .dma_request = host_dma_request, .dma_map = host_dma_map, .dma_unmap = host_dma_unmap,
    .dma_return = host_dma_return, .dma_end = host_dma_end,
};

static void command_write(BmDma *bm, uint8_t value)
{
    bool start = value & BMIC_START, was = bm->command & BMIC_START;
    bm->command = value & (BMIC_START | BMIC_TO_MEMORY);
    if (start && !was) {
        bm->status |= BMIS_ACTIVE;
        rewind_table(bm);
        ide_dma_run(&bm->ide);
    } else if (!start && was) {
        /* What is under way completes; no further descriptor is taken up. */
        bm->status &= ~BMIS_ACTIVE;
    }
}

uint32_t bmdma_read(BmDma *bm, unsigned addr, unsigned size)
{
    uint8_t regs[BMDMA_SIZE] = { bm->command, 0xff, bm->status, 0xff };
    st32_le(regs + BMIDTP, bm->table);
    return addr + size <= BMDMA_SIZE ? (uint32_t)ld_le(regs + addr, size) : UINT32_MAX;
}

void bmdma_write(BmDma *bm, unsigned addr, uint32_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++, addr++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));
        if (addr == BMIC) {
            command_write(bm, byte);
        } else if (addr == BMIS) {
            bm->status = (bm->status & ~BMIS_CAPABLE) | (byte & BMIS_CAPABLE);
            bm->status &= ~(byte & (BMIS_ERROR | BMIS_IRQ));
        } else if (addr >= BMIDTP && addr < BMIDTP + 4) {
            unsigned shift = 8 * (addr - BMIDTP);
            bm->table = ((bm->table & ~(0xffu << shift)) | (uint32_t)byte << shift) & ~3u;
        }
    }
}

void bmdma_reset(BmDma *bm)
{
    bm->command = bm->status = 0;
    bm->table = 0;
    rewind_table(bm);
    ide_channel_reset(&bm->ide);
}

void bmdma_init(BmDma *bm, PciDevice *pci, Device *parent, unsigned index, const char *name)
{
    bm->pci = pci;
    ide_bus_init(&bm->ide, parent->machine, parent, name, index, IDE_UNITS, &bmdma_host_ops, bm);
}

const StateField bmdma_state[] = {
    STATE_STRUCT(BmDma, ide, ide_bus_state),
    STATE_U8(BmDma, command),
    STATE_U8(BmDma, status),
    STATE_U32(BmDma, table),
    STATE_U32(BmDma, descriptor),
    STATE_U32(BmDma, read_count),
    STATE_U32(BmDma, addr),
    STATE_RANGE(BmDma, length, 0, 65536),
    STATE_BOOL(BmDma, last),
    { .name = "moved", .kind = STATE_KIND_U64, .offset = offsetof(BmDma, moved), .size = 8, .count = 1, .since = 1 },
    STATE_BOOL(BmDma, line),
    STATE_NOT(BmDma, pci, "wiring"),
    STATE_NOT(BmDma, irq, "wiring"),
    STATE_NOT(BmDma, iov, "requests are finished or given back before saving"),
    STATE_NOT(BmDma, guest, "requests are finished or given back before saving"),
    STATE_NOT(BmDma, bounced, "requests are finished or given back before saving"),
    STATE_NOT(BmDma, kept, "requests are finished or given back before saving"),
    STATE_NOT(BmDma, kept_count, "requests are finished or given back before saving"),
    STATE_NOT(BmDma, mapped, "requests are finished or given back before saving"),
    STATE_NOT(BmDma, to_memory, "requests are finished or given back before saving"),
    { 0 },
};
