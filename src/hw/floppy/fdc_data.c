/*
 * Intel 82078: data between the image, the track buffer and the guest. Image and buffer exchange data
 * asynchronously; buffer and guest by DMA or, when SPECIFY or DOR turned DMA off, byte by byte. The first
 * DMA call only tells how much the guest wants; it is answered when the buffer is filled.
 */
#include "bus/isa.h"
#include "hw/floppy/fdc_priv.h"

static uint32_t sectors_of(uint32_t bytes)
{
    return (bytes + FLOPPY_SECTOR - 1) / FLOPPY_SECTOR;
}

/* --- the track buffer and the image --- */

static void fdc_continue(Fdc *fdc);

typedef struct FdcIo {
    Fdc *fdc;
    unsigned generation;
    struct iovec iov;
} FdcIo;

static void fdc_io_done(void *opaque, int ret)
{
    FdcIo *io = opaque;
    Fdc *fdc = io->fdc;
    bool current = io->generation == fdc->generation;
    g_free(io);
    fdc->inflight--;
    if (fdc->waiting && fdc->inflight == 0) {
        fdc->waiting = false;
        fdc_begin(fdc);
    } else if (current && ret < 0) {
        fdc_finish(fdc, ST0_ABNORMAL, ST1_DATA_ERROR, 0, 0);
    } else if (current) {
        fdc->loaded = true;
        fdc_continue(fdc);
    }
}

static uint64_t fdc_offset(const Fdc *fdc, const FloppyDrive *drive, unsigned cylinder, unsigned head, unsigned sector)
{
    return (((uint64_t)cylinder * drive->heads + head) * drive->sectors + sector - 1) * FLOPPY_SECTOR;
}

/* Moves `bytes` between the start of the buffer and the image. */
static void fdc_io(Fdc *fdc, uint64_t offset, uint32_t bytes, bool write)
{
    FloppyDrive *drive = fdc_drive(fdc, fdc->unit);
    FdcIo *io = g_new0(FdcIo, 1);
    *io = (FdcIo) { .fdc = fdc, .generation = fdc->generation, .iov = { fdc->buffer, bytes } };
    fdc->inflight++;
    if (write) {
        blk_aio_pwritev(disk_blk(&drive->conf), offset, &io->iov, 1, 0, fdc_io_done, io);
    } else {
        blk_aio_preadv(disk_blk(&drive->conf), offset, &io->iov, 1, fdc_io_done, io);
    }
}

static uint64_t fdc_here(const Fdc *fdc)
{
    return fdc_offset(fdc, fdc_drive(fdc, fdc->unit), fdc->cylinder, fdc->head, fdc->sector);
}

static bool fdc_is_scan(const Fdc *fdc)
{
    return fdc->action >= ACTION_SCAN_EQUAL && fdc->action <= ACTION_SCAN_HIGH;
}

/* Compares one sector with what the guest gave; 0xff from the guest matches anything. */
static bool fdc_scan_sector(const Fdc *fdc, const uint8_t *disk, const uint8_t *guest, bool *ret_equal)
{
    for (unsigned i = 0; i < FLOPPY_SECTOR; i++) {
        if (disk[i] != guest[i] && guest[i] != 0xff) {
            *ret_equal = false;
            return (fdc->action == ACTION_SCAN_LOW && disk[i] < guest[i]) ||
                   (fdc->action == ACTION_SCAN_HIGH && disk[i] > guest[i]);
        }
    }
    *ret_equal = true;
    return true;
}

static void fdc_scan(Fdc *fdc, const uint8_t *guest, uint32_t length)
{
    uint32_t count = length / FLOPPY_SECTOR;
    unsigned step = fdc->param[8] == 2 ? 2 : 1;
    for (uint32_t i = 0; i < count; i += step) {
        bool equal;
        if (fdc_scan_sector(fdc, fdc->buffer + i * FLOPPY_SECTOR, guest + i * FLOPPY_SECTOR, &equal)) {
            fdc_finish(fdc, 0, 0, equal ? ST2_SCAN_EQUAL : 0, i);
            return;
        }
    }
    fdc_finish(fdc, 0, 0, ST2_SCAN_FAILED, count);
}

/* All data has moved, or the DMA controller has counted to its end. */
static void fdc_transfer_over(Fdc *fdc, bool terminal_count)
{
    uint32_t done = sectors_of(fdc->at);
    uint8_t mark = (fdc->param[0] & 0x1f) == 0x0c ? ST2_CONTROL_MARK : 0;
    if (terminal_count) {
        fdc_finish(fdc, 0, 0, mark, done);
    } else {
        fdc_finish(fdc, ST0_ABNORMAL, ST1_END, mark, done);
    }
}

/* FORMAT: the next sector of the list in the buffer's second half. */
static void fdc_format_next(Fdc *fdc)
{
    FloppyDrive *drive = fdc_drive(fdc, fdc->unit);
    const uint8_t *id = fdc->buffer + BUFFER_BYTES / 2 + 4 * fdc->formatted;
    if (fdc->formatted >= fdc->param[3] || 4u * fdc->formatted >= fdc->at) {
        fdc_finish(fdc, 0, 0, 0, 0);
        return;
    }
    fdc->formatted++;
    if (id[0] >= drive->tracks || id[1] >= drive->heads || id[2] < 1 || id[2] > drive->sectors || id[3] != SIZE_CODE_512) {
        fdc_finish(fdc, ST0_ABNORMAL, ST1_NO_DATA, 0, 0);
        return;
    }
    memset(fdc->buffer, fdc->param[5], FLOPPY_SECTOR);
    fdc_io(fdc, fdc_offset(fdc, drive, id[0], id[1], id[2]), FLOPPY_SECTOR, true);
}

/* The block layer is done with a step. */
static void fdc_continue(Fdc *fdc)
{
    switch (fdc->action) {
    case ACTION_READ:
    case ACTION_SCAN_EQUAL:
    case ACTION_SCAN_LOW:
    case ACTION_SCAN_HIGH:
        if (fdc_uses_dma(fdc)) {
            fdc_set_dreq(fdc, true);
        } else {
            fdc_set_irq(fdc, true);
        }
        break;
    case ACTION_WRITE:
        fdc_transfer_over(fdc, fdc_uses_dma(fdc));
        break;
    case ACTION_FORMAT:
        fdc_format_next(fdc);
        break;
    case ACTION_VERIFY:
        fdc->at = fdc->length;
        fdc_transfer_over(fdc, true);
        break;
    default:
        break;
    }
}

/* --- data phase by DMA --- */

static uint32_t fdc_dma_in(Fdc *fdc, unsigned channel, uint32_t pos, uint32_t count)
{
    IsaBus *isa = isa_bus_of(fdc->dev.machine);
    uint32_t bytes = MIN(count - pos, fdc->length - fdc->at);
    if (!isa->dma_ops->is_verify(isa->dma, channel)) {
        isa->dma_ops->to_memory(isa->dma, channel, fdc->buffer + fdc->at, pos, bytes);
    }
    fdc->at += bytes;
    fdc_transfer_over(fdc, pos + bytes == count);
    return pos + bytes;
}

static uint32_t fdc_dma_scan(Fdc *fdc, unsigned channel, uint32_t pos, uint32_t count)
{
    IsaBus *isa = isa_bus_of(fdc->dev.machine);
    uint32_t bytes = MIN(count - pos, fdc->length);
    g_autofree uint8_t *guest = g_malloc0(fdc->length);
    isa->dma_ops->from_memory(isa->dma, channel, guest, pos, bytes);
    fdc_scan(fdc, guest, bytes);
    return pos + bytes;
}

/* WRITE and FORMAT: takes all that the guest has, then the image is written. */
static uint32_t fdc_dma_out(Fdc *fdc, unsigned channel, uint32_t pos, uint32_t count)
{
    IsaBus *isa = isa_bus_of(fdc->dev.machine);
    uint32_t bytes = MIN(count - pos, fdc->length);
    uint8_t *to = fdc->action == ACTION_FORMAT ? fdc->buffer + BUFFER_BYTES / 2 : fdc->buffer;
    uint32_t whole = ALIGN_UP(bytes, (uint32_t)FLOPPY_SECTOR);
    memset(to, 0, whole);
    if (!isa->dma_ops->is_verify(isa->dma, channel)) {
        isa->dma_ops->from_memory(isa->dma, channel, to, pos, bytes);
    }
    fdc->at = bytes;
    fdc_set_dreq(fdc, false);
    if (fdc->action == ACTION_FORMAT) {
        fdc_format_next(fdc);
    } else {
        fdc_io(fdc, fdc_here(fdc), whole, true);
    }
    return pos + bytes;
}

uint32_t fdc_dma_transfer(void *opaque, unsigned channel, uint32_t pos, uint32_t count)
{
    Fdc *fdc = opaque;
    if (fdc->phase != PHASE_EXECUTION || pos >= count) {
        fdc_set_dreq(fdc, false);
        return pos;
    }
    if (fdc->action == ACTION_WRITE || fdc->action == ACTION_FORMAT) {
        return fdc_dma_out(fdc, channel, pos, count);
    }
    if (fdc->loaded) {
        return fdc_is_scan(fdc) ? fdc_dma_scan(fdc, channel, pos, count) : fdc_dma_in(fdc, channel, pos, count);
    }
    if (fdc->inflight == 0) {
        /* Now it is known how much is wanted. */
        uint32_t sectors = MIN(sectors_of(count - pos), fdc->sectors);
        fdc->length = sectors * FLOPPY_SECTOR;
        fdc_set_dreq(fdc, false);
        fdc_io(fdc, fdc_here(fdc), fdc->length, false);
    }
    return pos;
}

/* --- starting a data command --- */

void fdc_begin(Fdc *fdc)
{
    bool input = fdc->action == ACTION_READ || fdc->action == ACTION_VERIFY || fdc_is_scan(fdc);
    fdc->at = 0;
    fdc->formatted = 0;
    fdc->loaded = false;
    if (fdc->inflight) {
        fdc->waiting = true; /* a command that was cut off still uses the buffer */
    } else if (fdc->action == ACTION_VERIFY || (input && !fdc_uses_dma(fdc))) {
        fdc_io(fdc, fdc_here(fdc), fdc->length, false);
    } else if (fdc_uses_dma(fdc)) {
        fdc_set_dreq(fdc, true);
    } else {
        fdc_set_irq(fdc, true); /* wants the first byte */
    }
}

bool fdc_locate(Fdc *fdc, uint8_t cylinder, uint8_t head, uint8_t sector, uint8_t size_code)
{
    fdc->unit = fdc->param[1] & 3;
    fdc->head = head;
    fdc->cylinder = cylinder;
    fdc->sector = sector;
    FloppyDrive *drive = fdc_drive(fdc, fdc->unit);
    if (drive && !floppy_has_medium(drive)) {
        floppy_seek(drive, cylinder); /* as QEMU does: the next medium is noticed by a step from there */
    }
    if (!drive || !floppy_has_medium(drive) || drive->rate != fdc->rate) {
        fdc_finish(fdc, ST0_ABNORMAL, ST1_MISSING_MARK, 0, 0);
        return false;
    }
    if ((fdc->config & 0x40) && drive->track != cylinder && cylinder < drive->tracks) {
        floppy_seek(drive, cylinder); /* implied seek */
    }
    if (drive->track != cylinder) {
        fdc_finish(fdc, ST0_ABNORMAL, ST1_NO_DATA, ST2_WRONG_CYLINDER, 0);
        return false;
    }
    if (cylinder >= drive->tracks || head >= drive->heads || sector < 1 || sector > drive->sectors ||
        size_code != SIZE_CODE_512) {
        fdc_finish(fdc, ST0_ABNORMAL, ST1_NO_DATA, 0, 0);
        return false;
    }
    if ((fdc->action == ACTION_WRITE || fdc->action == ACTION_FORMAT) && drive->readonly) {
        fdc_finish(fdc, ST0_ABNORMAL, ST1_NOT_WRITABLE, 0, 0);
        return false;
    }
    if (blk_length(disk_blk(&drive->conf)) < (int64_t)fdc_here(fdc) + FLOPPY_SECTOR) {
        fdc_finish(fdc, ST0_ABNORMAL, ST1_NO_DATA, 0, 0);
        return false;
    }
    return true;
}

void fdc_start_data(Fdc *fdc, Action action, uint8_t first_sector)
{
    const uint8_t *p = fdc->param;
    fdc->action = action;
    fdc->phase = PHASE_EXECUTION;
    fdc->multi_track = p[0] & 0x80;
    if (!fdc_locate(fdc, p[2], p[3], first_sector, p[5])) {
        return;
    }
    FloppyDrive *drive = fdc_drive(fdc, fdc->unit);
    unsigned last = MIN(p[6], drive->sectors);
    fdc->last_sector = p[6];
    fdc->sectors = last >= first_sector ? last - first_sector + 1 : 1;
    if (fdc->multi_track && fdc->head == 0 && drive->heads == 2 && last == drive->sectors) {
        fdc->sectors += last;
    }
    int64_t left = (blk_length(disk_blk(&drive->conf)) - (int64_t)fdc_here(fdc)) / FLOPPY_SECTOR;
    fdc->sectors = MIN(fdc->sectors, (uint64_t)left);
    fdc->length = fdc->sectors * FLOPPY_SECTOR;
    fdc_begin(fdc);
}

/* --- data phase byte by byte --- */

void fdc_write_pio(Fdc *fdc, uint8_t value)
{
    bool output = fdc->action == ACTION_WRITE || fdc->action == ACTION_FORMAT;
    if (fdc_uses_dma(fdc) || !output || fdc->at >= fdc->length || fdc->waiting) {
        return;
    }
    uint8_t *to = fdc->action == ACTION_FORMAT ? fdc->buffer + BUFFER_BYTES / 2 : fdc->buffer;
    to[fdc->at++] = value;
    if (fdc->at == fdc->length) {
        fdc_set_irq(fdc, false);
        if (fdc->action == ACTION_FORMAT) {
            fdc_format_next(fdc);
        } else {
            fdc_io(fdc, fdc_here(fdc), fdc->length, true);
        }
    }
}

uint8_t fdc_read_pio(Fdc *fdc)
{
    if (fdc_uses_dma(fdc) || fdc->action != ACTION_READ || !fdc->loaded || fdc->at >= fdc->length) {
        return 0;
    }
    uint8_t value = fdc->buffer[fdc->at++];
    if (fdc->at == fdc->length) {
        fdc_set_irq(fdc, false);
        fdc_transfer_over(fdc, false);
    }
    return value;
}
