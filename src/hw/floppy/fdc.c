/*
 * Intel 82078 floppy disk controller (data sheet 290475; 82077AA 290166) with ISA DMA.
 *
 * Commands: read, write, both deleted, read track, read id, format, scan (three), verify, seek,
 * recalibrate, relative seek, and all that configure or report. A medium has sectors of 512 bytes and no
 * deleted marks, so another size code is a sector that is not there, and READ DELETED DATA sees the
 * control mark as wrong. Seeks and rotation take no time. Not modelled: format-and-write, tape modes.
 *
 * Data moves between the image and a track buffer asynchronously, and between the buffer and the guest
 * by DMA or, when SPECIFY or DOR turned DMA off, byte by byte. The first DMA call only tells how much the
 * guest wants; it is answered when the buffer is filled.
 */
#include "base/log.h"
#include "bus/isa.h"
#include "hw/floppy/floppy.h"

#define FDC_SERVICE "fdc"

enum { R_SRA, R_SRB, R_DOR, R_TDR, R_MSR, R_FIFO, R_DIR = 7, R_DSR = R_MSR, R_CCR = R_DIR };
enum { DOR_RESET = 0x04, DOR_DMA = 0x08, DOR_SELECT = 0x03 };
enum { MSR_BUSY = 0x10, MSR_NON_DMA = 0x20, MSR_DIO = 0x40, MSR_RQM = 0x80 };
enum { DSR_POWER_DOWN = 0x40, DSR_RESET = 0x80, DIR_CHANGED = 0x80 };
enum { ST0_ABNORMAL = 0x40, ST0_INVALID = 0x80, ST0_READY_CHANGED = 0xc0, ST0_SEEK_END = 0x20, ST0_CHECK = 0x10 };
enum { ST1_MISSING_MARK = 0x01, ST1_NOT_WRITABLE = 0x02, ST1_NO_DATA = 0x04, ST1_DATA_ERROR = 0x20, ST1_END = 0x80 };
enum { ST2_SCAN_FAILED = 0x04, ST2_SCAN_EQUAL = 0x08, ST2_WRONG_CYLINDER = 0x10, ST2_CONTROL_MARK = 0x40 };
enum { ST3_TWO_SIDES = 0x08, ST3_TRACK0 = 0x10, ST3_READY = 0x20, ST3_PROTECTED = 0x40 };
enum { PARAMS_MAX = 18, RESULTS_MAX = 16, BUFFER_BYTES = 2 * FLOPPY_MAX_SECTORS * FLOPPY_SECTOR };
enum { PENDING_RESETS = 4, SIZE_CODE_512 = 2 };

typedef enum Phase { PHASE_COMMAND, PHASE_EXECUTION, PHASE_RESULT } Phase;
/* What the execution phase does with data. */
typedef enum Action {
    ACTION_NONE, ACTION_READ, ACTION_WRITE, ACTION_FORMAT, ACTION_SCAN_EQUAL, ACTION_SCAN_LOW, ACTION_SCAN_HIGH, ACTION_VERIFY,
} Action;

typedef struct Fdc {
    Device dev;
    FloppyBus floppies;
    uint8_t dor, tdr, dsr, rate;
    uint8_t msr_drives;       /* seeking, until sensed */
    uint8_t st0, pending_resets;
    bool irq_level;
    /* SPECIFY, CONFIGURE, LOCK, PERPENDICULAR MODE, OPTION */
    uint8_t specify[2], config, precomp, perpendicular, option;
    bool lock;
    /* The command under way. */
    uint8_t phase;
    uint8_t param[PARAMS_MAX], params, wanted;
    uint8_t result[RESULTS_MAX], results, result_at;
    uint8_t action;
    uint8_t unit, cylinder, head, sector; /* where it began */
    uint8_t last_sector;      /* EOT, by which the result bytes count */
    bool multi_track;
    uint32_t sectors;         /* that the command may reach */
    uint32_t length, at;      /* bytes of the buffer that count, and of these done */
    bool loaded;              /* the buffer holds what was read */
    uint8_t formatted;        /* sectors that FORMAT has written */
    uint8_t *buffer;
    unsigned inflight;        /* block requests that use the buffer */
    unsigned generation;      /* a reset makes completions of older ones void */
    bool waiting;             /* to begin until those are done */
    uint32_t iobase, irq_n, dma_n;
    int kind_a, kind_b, fallback;
    MemRegion low_ports, dir_port;
} Fdc;

typedef struct Command {
    uint8_t mask, value, params;
    void (*run)(Fdc *fdc);
} Command;

static void fdc_reset_core(Fdc *fdc, bool hard);

static uint32_t sectors_of(uint32_t bytes)
{
    return (bytes + FLOPPY_SECTOR - 1) / FLOPPY_SECTOR;
}

/* --- interrupts and phases --- */

static void fdc_set_irq(Fdc *fdc, bool level)
{
    fdc->irq_level = level;
    irq_set(isa_irq(&fdc->dev, fdc->irq_n), level);
}

static void fdc_set_dreq(Fdc *fdc, bool level)
{
    IsaBus *isa = isa_bus_of(fdc->dev.machine);
    if (isa->dma_ops) {
        isa->dma_ops->set_dreq(isa->dma, fdc->dma_n, level);
    }
}

static void fdc_idle(Fdc *fdc)
{
    fdc->phase = PHASE_COMMAND;
    fdc->params = fdc->wanted = 0;
    fdc->action = ACTION_NONE;
}

static void fdc_results(Fdc *fdc, const uint8_t *bytes, unsigned count)
{
    memcpy(fdc->result, bytes, count);
    fdc->results = count;
    fdc->result_at = 0;
    fdc->phase = PHASE_RESULT;
    fdc->action = ACTION_NONE;
}

#define RESULTS(fdc, ...)                                                                          \
    fdc_results(fdc, (const uint8_t[]) { __VA_ARGS__ }, sizeof((const uint8_t[]) { __VA_ARGS__ }))

static bool fdc_uses_dma(const Fdc *fdc)
{
    IsaBus *isa = isa_bus_of(fdc->dev.machine);
    return isa->dma_ops && (fdc->dor & DOR_DMA) && !(fdc->specify[1] & 1);
}

static FloppyDrive *fdc_drive(const Fdc *fdc, unsigned unit)
{
    FloppyDrive *drive = unit < FLOPPY_UNITS ? fdc->floppies.drives[unit] : NULL;
    return drive && drive->kind != FLOPPY_NONE ? drive : NULL;
}

/* Ends a command with data: the seven result bytes and the interrupt. `done` sectors were dealt with. */
static void fdc_finish(Fdc *fdc, uint8_t st0, uint8_t st1, uint8_t st2, uint32_t done)
{
    unsigned cylinder = fdc->cylinder, head = fdc->head, sector = fdc->sector, last = fdc->last_sector;
    for (uint32_t i = 0; i < done; i++) {
        if (sector++ < last) {
            continue;
        }
        sector = 1;
        if (fdc->multi_track) {
            head ^= 1;
            cylinder += head == 0;
        } else {
            cylinder++;
        }
    }
    fdc_set_dreq(fdc, false);
    fdc->st0 = st0 | (fdc->head & 1) << 2 | fdc->unit;
    RESULTS(fdc, fdc->st0, st1, st2, cylinder, head, sector, SIZE_CODE_512);
    fdc_set_irq(fdc, true);
}

/* --- the track buffer and the image --- */

static void fdc_continue(Fdc *fdc);
static void fdc_begin(Fdc *fdc);

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

static uint32_t fdc_dma_transfer(void *opaque, unsigned channel, uint32_t pos, uint32_t count)
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

static void fdc_begin(Fdc *fdc)
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

/* Checks the address of a data command as the hardware finds out: by looking for the sector's mark. */
static bool fdc_locate(Fdc *fdc, uint8_t cylinder, uint8_t head, uint8_t sector, uint8_t size_code)
{
    fdc->unit = fdc->param[1] & 3;
    fdc->head = head;
    fdc->cylinder = cylinder;
    fdc->sector = sector;
    FloppyDrive *drive = fdc_drive(fdc, fdc->unit);
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

static void fdc_start_data(Fdc *fdc, Action action, uint8_t first_sector)
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

static void cmd_read(Fdc *fdc)
{
    fdc_start_data(fdc, ACTION_READ, fdc->param[4]);
}

static void cmd_read_track(Fdc *fdc)
{
    fdc->param[0] &= 0x7f; /* has no multi-track bit */
    fdc_start_data(fdc, ACTION_READ, 1);
}

static void cmd_write(Fdc *fdc)
{
    fdc_start_data(fdc, ACTION_WRITE, fdc->param[4]);
}

static void cmd_verify(Fdc *fdc)
{
    fdc_start_data(fdc, ACTION_VERIFY, fdc->param[4]);
}

static void cmd_scan_equal(Fdc *fdc)
{
    fdc_start_data(fdc, ACTION_SCAN_EQUAL, fdc->param[4]);
}

static void cmd_scan_low(Fdc *fdc)
{
    fdc_start_data(fdc, ACTION_SCAN_LOW, fdc->param[4]);
}

static void cmd_scan_high(Fdc *fdc)
{
    fdc_start_data(fdc, ACTION_SCAN_HIGH, fdc->param[4]);
}

static void cmd_format(Fdc *fdc)
{
    FloppyDrive *drive = fdc_drive(fdc, fdc->param[1] & 3);
    fdc->action = ACTION_FORMAT;
    fdc->phase = PHASE_EXECUTION;
    fdc->multi_track = false;
    if (fdc_locate(fdc, drive ? drive->track : 0, fdc->param[1] >> 2 & 1, 1, fdc->param[2])) {
        fdc->length = 4 * fdc->param[3];
        fdc_begin(fdc);
    }
}

static void cmd_read_id(Fdc *fdc)
{
    FloppyDrive *drive = fdc_drive(fdc, fdc->param[1] & 3);
    fdc->action = ACTION_NONE;
    if (fdc_locate(fdc, drive ? drive->track : 0, fdc->param[1] >> 2 & 1, 1, SIZE_CODE_512)) {
        fdc_finish(fdc, 0, 0, 0, 0);
    }
}

/* --- commands without data --- */

/* Seeks end with an interrupt and no result phase. */
static void fdc_seek_done(Fdc *fdc, unsigned unit, uint8_t st0)
{
    fdc_idle(fdc);
    fdc->msr_drives |= 1 << unit;
    fdc->st0 = st0 | ST0_SEEK_END | unit;
    fdc_set_irq(fdc, true);
}

static void cmd_recalibrate(Fdc *fdc)
{
    unsigned unit = fdc->param[1] & 3;
    FloppyDrive *drive = fdc_drive(fdc, unit);
    if (drive) {
        floppy_seek(drive, 0);
    }
    fdc_seek_done(fdc, unit, drive ? 0 : ST0_ABNORMAL | ST0_CHECK);
}

static void fdc_seek_to(Fdc *fdc, int track)
{
    unsigned unit = fdc->param[1] & 3;
    FloppyDrive *drive = fdc_drive(fdc, unit);
    if (drive) {
        floppy_seek(drive, CLAMP(track, 0, 255));
    }
    fdc_seek_done(fdc, unit, (fdc->param[1] & 4) | (drive ? 0 : ST0_ABNORMAL));
}

static void cmd_seek(Fdc *fdc)
{
    fdc_seek_to(fdc, fdc->param[2]);
}

static void cmd_relative_seek(Fdc *fdc)
{
    FloppyDrive *drive = fdc_drive(fdc, fdc->param[1] & 3);
    int track = drive ? drive->track : 0;
    fdc_seek_to(fdc, fdc->param[0] & 0x40 ? track + fdc->param[2] : track - fdc->param[2]);
}

static void cmd_sense_interrupt(Fdc *fdc)
{
    if (fdc->pending_resets) {
        unsigned unit = PENDING_RESETS - fdc->pending_resets--;
        FloppyDrive *drive = fdc_drive(fdc, unit);
        fdc_set_irq(fdc, false);
        RESULTS(fdc, ST0_READY_CHANGED | unit, drive ? drive->track : 0);
    } else if (fdc->irq_level) {
        FloppyDrive *drive = fdc_drive(fdc, fdc->st0 & 3);
        fdc->msr_drives = 0;
        fdc_set_irq(fdc, false);
        RESULTS(fdc, fdc->st0, drive ? drive->track : 0);
    } else {
        RESULTS(fdc, ST0_INVALID);
    }
}

static void cmd_sense_drive(Fdc *fdc)
{
    FloppyDrive *drive = fdc_drive(fdc, fdc->param[1] & 3);
    uint8_t st3 = (fdc->param[1] & 7) | ST3_READY | ST3_TWO_SIDES;
    if (!drive || drive->track == 0) {
        st3 |= ST3_TRACK0;
    }
    if (drive && drive->readonly) {
        st3 |= ST3_PROTECTED;
    }
    RESULTS(fdc, st3);
}

static void cmd_specify(Fdc *fdc)
{
    memcpy(fdc->specify, &fdc->param[1], 2);
    fdc_idle(fdc);
}

static void cmd_configure(Fdc *fdc)
{
    fdc->config = fdc->param[2];
    fdc->precomp = fdc->param[3];
    fdc_idle(fdc);
}

static void cmd_perpendicular(Fdc *fdc)
{
    /* Drive bits are kept unless overwrite (bit 7) is set. */
    uint8_t value = fdc->param[1];
    fdc->perpendicular = value & 0x80 ? value & 0x3f : (fdc->perpendicular & 0x3c) | (value & 3);
    fdc_idle(fdc);
}

static void cmd_lock(Fdc *fdc)
{
    fdc->lock = fdc->param[0] & 0x80;
    RESULTS(fdc, fdc->lock << 4);
}

static uint8_t fdc_track(const Fdc *fdc, unsigned unit)
{
    FloppyDrive *drive = fdc_drive(fdc, unit);
    return drive ? drive->track : 0;
}

static void cmd_dump_registers(Fdc *fdc)
{
    RESULTS(fdc, fdc_track(fdc, 0), fdc_track(fdc, 1), 0, 0, fdc->specify[0], fdc->specify[1], fdc->last_sector,
            fdc->lock << 7 | fdc->perpendicular, fdc->config, fdc->precomp);
}

static void cmd_version(Fdc *fdc)
{
    RESULTS(fdc, 0x90);
}

static void cmd_part_id(Fdc *fdc)
{
    RESULTS(fdc, 0x41);
}

static void cmd_save(Fdc *fdc)
{
    RESULTS(fdc, 0, 0, fdc_track(fdc, 0), fdc_track(fdc, 1), 0, 0, fdc->specify[0], fdc->specify[1], fdc->last_sector,
            fdc->lock << 7 | fdc->perpendicular, fdc->config, fdc->precomp, fdc->rate, 0, 0, 0);
}

static void cmd_restore(Fdc *fdc)
{
    const uint8_t *p = fdc->param;
    for (unsigned unit = 0; unit < FLOPPY_UNITS; unit++) {
        FloppyDrive *drive = fdc_drive(fdc, unit);
        if (drive) {
            drive->track = p[3 + unit];
        }
    }
    fdc->specify[0] = p[7];
    fdc->specify[1] = p[8];
    fdc->lock = p[10] >> 7;
    fdc->perpendicular = p[10] & 0x3f;
    fdc->config = p[11];
    fdc->precomp = p[12];
    fdc_idle(fdc);
}

static void cmd_option(Fdc *fdc)
{
    fdc->option = fdc->param[1];
    fdc_idle(fdc);
}

static void cmd_power_down_mode(Fdc *fdc)
{
    RESULTS(fdc, fdc->param[1]);
}

/* Drive specification: parameters until one has the done bit; results if it says so. */
static void cmd_drive_spec(Fdc *fdc)
{
    uint8_t last = fdc->param[fdc->params - 1];
    if (!(last & 0x80) && fdc->params < 6) {
        fdc->wanted = fdc->params + 1;
        fdc->phase = PHASE_COMMAND;
    } else if (last & 0x40) {
        fdc_idle(fdc);
    } else {
        RESULTS(fdc, fdc->param[1], fdc->param[2], 0, 0);
    }
}

static void cmd_invalid(Fdc *fdc)
{
    guest_error("fdc: unknown command 0x%02x\n", fdc->param[0]);
    RESULTS(fdc, ST0_INVALID);
}

/* The first row that matches; mask leaves out MT, MFM, SK and other modifier bits. */
static const Command commands[] = {
    { 0x1f, 0x06, 8, cmd_read },         { 0x1f, 0x0c, 8, cmd_read },        { 0x3f, 0x05, 8, cmd_write },
    { 0x3f, 0x09, 8, cmd_write },        { 0x9f, 0x02, 8, cmd_read_track },  { 0xbf, 0x0a, 1, cmd_read_id },
    { 0xbf, 0x0d, 5, cmd_format },       { 0x1f, 0x11, 8, cmd_scan_equal },  { 0x1f, 0x19, 8, cmd_scan_low },
    { 0x1f, 0x1d, 8, cmd_scan_high },    { 0x1f, 0x16, 8, cmd_verify },      { 0xff, 0x03, 2, cmd_specify },
    { 0xff, 0x04, 1, cmd_sense_drive },  { 0xff, 0x07, 1, cmd_recalibrate }, { 0xff, 0x08, 0, cmd_sense_interrupt },
    { 0xff, 0x0e, 0, cmd_dump_registers }, { 0xbf, 0x8f, 2, cmd_relative_seek }, { 0xff, 0x0f, 2, cmd_seek },
    { 0xff, 0x10, 0, cmd_version },      { 0xff, 0x12, 1, cmd_perpendicular }, { 0xff, 0x13, 3, cmd_configure },
    { 0x7f, 0x14, 0, cmd_lock },         { 0xff, 0x17, 1, cmd_power_down_mode }, { 0xff, 0x18, 0, cmd_part_id },
    { 0xff, 0x2e, 0, cmd_save },         { 0xff, 0x33, 1, cmd_option },      { 0xff, 0x4e, 16, cmd_restore },
    { 0xff, 0x8e, 1, cmd_drive_spec },   { 0x00, 0x00, 0, cmd_invalid },
};

static const Command *find_command(uint8_t byte)
{
    const Command *command = commands;
    while ((byte & command->mask) != command->value) {
        command++;
    }
    return command;
}

/* --- the data register --- */

static bool fdc_in_reset(const Fdc *fdc)
{
    return !(fdc->dor & DOR_RESET);
}

static void fdc_write_pio(Fdc *fdc, uint8_t value)
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

static void fdc_write_fifo(Fdc *fdc, uint8_t value)
{
    if (fdc_in_reset(fdc) || fdc->phase == PHASE_RESULT) {
        return;
    }
    if (fdc->phase == PHASE_EXECUTION) {
        fdc_write_pio(fdc, value);
        return;
    }
    if (fdc->params == 0) {
        fdc->wanted = 1 + find_command(value)->params;
    }
    fdc->param[fdc->params++] = value;
    if (fdc->params == fdc->wanted) {
        find_command(fdc->param[0])->run(fdc);
    }
}

static uint8_t fdc_read_pio(Fdc *fdc)
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

static uint8_t fdc_read_fifo(Fdc *fdc)
{
    if (fdc->phase == PHASE_EXECUTION) {
        return fdc_read_pio(fdc);
    }
    if (fdc->phase != PHASE_RESULT) {
        return 0;
    }
    uint8_t value = fdc->result[fdc->result_at++];
    if (fdc->result_at == 1) {
        fdc_set_irq(fdc, false);
    }
    if (fdc->result_at == fdc->results) {
        fdc_idle(fdc);
    }
    return value;
}

/* --- other registers --- */

static uint8_t fdc_msr(const Fdc *fdc)
{
    uint8_t value = fdc->msr_drives & 15;
    if (fdc_in_reset(fdc)) {
        return 0;
    }
    if (fdc->phase == PHASE_COMMAND) {
        return value | MSR_RQM | (fdc->params ? MSR_BUSY : 0);
    }
    value |= MSR_BUSY;
    if (fdc->phase == PHASE_RESULT) {
        return value | MSR_RQM | MSR_DIO;
    }
    if (fdc_uses_dma(fdc)) {
        return value;
    }
    bool input = fdc->action == ACTION_READ;
    bool ready = fdc->at < fdc->length && !fdc->waiting && (input ? fdc->loaded : fdc->action != ACTION_VERIFY);
    return value | MSR_NON_DMA | (input ? MSR_DIO : 0) | (ready ? MSR_RQM : 0);
}

static void fdc_write_dor(Fdc *fdc, uint8_t value)
{
    uint8_t old = fdc->dor;
    if ((old & DOR_RESET) && !(value & DOR_RESET)) {
        fdc_reset_core(fdc, false);
    }
    fdc->dor = value;
    if (!(old & DOR_RESET) && (value & DOR_RESET)) {
        /* Polling after reset finds all four drives changed. */
        fdc->pending_resets = PENDING_RESETS;
        fdc_set_irq(fdc, true);
    }
}

static void fdc_write_dsr(Fdc *fdc, uint8_t value)
{
    fdc->rate = value & 3;
    fdc->dsr = value & ~DSR_RESET;
    if ((value & DSR_RESET) && !fdc_in_reset(fdc)) {
        fdc_reset_core(fdc, false);
        fdc->pending_resets = PENDING_RESETS;
        fdc_set_irq(fdc, true);
    }
}

static uint8_t fdc_read_dir(const Fdc *fdc)
{
    unsigned unit = fdc->dor & DOR_SELECT;
    FloppyDrive *drive = fdc_drive(fdc, unit);
    return !drive || drive->changed || !floppy_has_medium(drive) ? DIR_CHANGED : 0;
}

static uint64_t fdc_read(void *opaque, uint64_t addr, unsigned size)
{
    Fdc *fdc = opaque;
    switch (addr) {
    case R_SRA:
        return fdc->irq_level ? 0x80 : 0;
    case R_SRB:
        return 0xc0 | (fdc->dor & 1) << 5 | (fdc->dor >> 4 & 3);
    case R_DOR:
        return fdc->dor;
    case R_TDR:
        return fdc->tdr;
    case R_MSR:
        return fdc_msr(fdc);
    default:
        return fdc_read_fifo(fdc);
    }
}

static void fdc_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Fdc *fdc = opaque;
    switch (addr) {
    case R_DOR:
        fdc_write_dor(fdc, value);
        break;
    case R_TDR:
        fdc->tdr = value & 3;
        break;
    case R_DSR:
        fdc_write_dsr(fdc, value);
        break;
    case R_FIFO:
        fdc_write_fifo(fdc, value);
        break;
    default:
        break;
    }
}

static uint64_t dir_read(void *opaque, uint64_t addr, unsigned size)
{
    return fdc_read_dir(opaque);
}

static void ccr_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Fdc *fdc = opaque;
    fdc->rate = value & 3;
    fdc->dsr = (fdc->dsr & ~3) | fdc->rate;
}

/* Port 6 of the eight is the IDE controller's. */
static const MemOps low_ops = { .read = fdc_read, .write = fdc_write, .max = 1 };
static const MemOps dir_ops = { .read = dir_read, .write = ccr_write, .max = 1 };

/* --- device --- */

FloppyDriveKind fdc_drive_kind(Machine *machine, unsigned unit)
{
    Fdc *fdc = machine_service(machine, FDC_SERVICE);
    FloppyDrive *drive = fdc ? fdc_drive(fdc, unit) : NULL;
    return drive ? drive->kind : FLOPPY_NONE;
}

/* Software reset keeps what CONFIGURE set while LOCK is on. */
static void fdc_reset_core(Fdc *fdc, bool hard)
{
    fdc->generation++;
    fdc->waiting = false;
    fdc->pending_resets = 0;
    fdc->msr_drives = 0;
    fdc->st0 = 0;
    if (hard || !fdc->lock) {
        fdc->config = 0x20; /* FIFO off, no implied seek, polling */
        fdc->precomp = 0;
    }
    if (hard) {
        fdc->lock = false;
        fdc->specify[0] = fdc->specify[1] = 0;
        fdc->perpendicular = fdc->option = fdc->tdr = 0;
        fdc->dsr = fdc->rate = 2;
    }
    fdc->perpendicular &= 0x3c;
    fdc_idle(fdc);
    fdc_set_dreq(fdc, false);
    fdc_set_irq(fdc, false);
}

static void fdc_reset(Device *dev)
{
    Fdc *fdc = (Fdc *)dev;
    fdc_reset_core(fdc, true);
    fdc->dor = DOR_RESET | DOR_DMA;
    for (unsigned unit = 0; unit < FLOPPY_UNITS; unit++) {
        FloppyDrive *drive = fdc_drive(fdc, unit);
        if (drive) {
            drive->track = 0;
            drive->changed = true;
        }
    }
}

static Error *fdc_plug(Device *dev)
{
    Fdc *fdc = (Fdc *)dev;
    IsaBus *isa = isa_bus_of(dev->machine);
    if (fdc->irq_n > 15 || fdc->dma_n > 3 || fdc->iobase > 0xfff8) {
        return error_new("%s: irq is at most 15, dma at most 3, iobase at most 0xfff8", device_label(dev));
    }
    fdc->buffer = device_alloc(dev, BUFFER_BYTES);
    bus_init(&fdc->floppies.bus, &floppy_bus_type, dev->machine, dev, "floppy-bus.0");
    fdc->floppies.kind[0] = fdc->kind_a;
    fdc->floppies.kind[1] = fdc->kind_b;
    fdc->floppies.fallback = fdc->fallback == FLOPPY_AUTO ? (int)FLOPPY_288 : fdc->fallback;
    device_region_io(dev, &fdc->low_ports, "fdc", 6, &low_ops);
    device_region_io(dev, &fdc->dir_port, "fdc-dir", 1, &dir_ops);
    isa_map_io(dev, &fdc->low_ports, fdc->iobase);
    isa_map_io(dev, &fdc->dir_port, fdc->iobase + R_DIR);
    if (isa->dma_ops) {
        isa->dma_ops->register_channel(isa->dma, fdc->dma_n, fdc_dma_transfer, fdc);
    }
    if (!machine_service(dev->machine, FDC_SERVICE)) {
        machine_set_service(dev->machine, FDC_SERVICE, fdc);
    }
    return NULL;
}

static void fdc_unplug(Device *dev)
{
    Fdc *fdc = (Fdc *)dev;
    if (machine_service(dev->machine, FDC_SERVICE) == fdc) {
        machine_set_service(dev->machine, FDC_SERVICE, NULL);
    }
    if (fdc->floppies.bus.type) {
        bus_fini(&fdc->floppies.bus);
    }
}

static const StateField state[] = {
    STATE_U8(Fdc, dor), STATE_U8(Fdc, tdr), STATE_U8(Fdc, dsr), STATE_RANGE(Fdc, rate, 0, 3), STATE_U8(Fdc, msr_drives),
    STATE_U8(Fdc, st0), STATE_RANGE(Fdc, pending_resets, 0, PENDING_RESETS), STATE_BOOL(Fdc, irq_level),
    STATE_BYTES(Fdc, specify), STATE_U8(Fdc, config), STATE_U8(Fdc, precomp), STATE_U8(Fdc, perpendicular),
    STATE_U8(Fdc, option), STATE_BOOL(Fdc, lock), STATE_RANGE(Fdc, phase, 0, PHASE_RESULT), STATE_BYTES(Fdc, param),
    STATE_RANGE(Fdc, params, 0, PARAMS_MAX - 1), STATE_RANGE(Fdc, wanted, 0, PARAMS_MAX), STATE_BYTES(Fdc, result),
    STATE_RANGE(Fdc, results, 0, RESULTS_MAX), STATE_RANGE(Fdc, result_at, 0, RESULTS_MAX - 1),
    STATE_RANGE(Fdc, action, 0, ACTION_VERIFY), STATE_RANGE(Fdc, unit, 0, 3), STATE_U8(Fdc, cylinder), STATE_U8(Fdc, head),
    STATE_U8(Fdc, sector), STATE_U8(Fdc, last_sector), STATE_BOOL(Fdc, multi_track), STATE_RANGE(Fdc, sectors, 0, 2 * FLOPPY_MAX_SECTORS),
    STATE_NOT(Fdc, length, "a command under way begins again"), STATE_NOT(Fdc, at, "a command under way begins again"),
    STATE_NOT(Fdc, loaded, "a command under way begins again"), STATE_NOT(Fdc, formatted, "a command under way begins again"),
    STATE_NOT(Fdc, floppies, "drives save themselves"), STATE_NOT(Fdc, buffer, "a command under way begins again"),
    STATE_NOT(Fdc, inflight, "none while saving"), STATE_NOT(Fdc, generation, "host"), STATE_NOT(Fdc, waiting, "host"),
    STATE_NOT(Fdc, low_ports, "fixed"), STATE_NOT(Fdc, dir_port, "fixed"),
    { 0 },
};

/* A command that was moving data starts over from its parameters. */
static Error *fdc_loaded(Device *dev)
{
    Fdc *fdc = (Fdc *)dev;
    fdc->generation++;
    if (fdc->phase == PHASE_EXECUTION) {
        fdc->params = fdc->wanted = 0;
        fdc_finish(fdc, ST0_ABNORMAL, ST1_DATA_ERROR, 0, 0);
    }
    return NULL;
}

static const Prop props[] = {
    PROP_U32("iobase", Fdc, iobase, 0x3f0, .help = "first port"),
    PROP_U32("irq", Fdc, irq_n, 6, .help = "ISA interrupt"),
    PROP_U32("dma", Fdc, dma_n, 2, .help = "DMA channel"),
    PROP_ENUM("fdtypeA", Fdc, kind_a, floppy_kind_names, FLOPPY_AUTO, .help = "FDC drive type, 144/288/120/none/auto"),
    PROP_ENUM("fdtypeB", Fdc, kind_b, floppy_kind_names, FLOPPY_AUTO, .help = "FDC drive type, 144/288/120/none/auto"),
    PROP_ENUM("fallback", Fdc, fallback, floppy_kind_names, FLOPPY_288, .help = "FDC drive type, 144/288/120/none/auto"),
    PROP_("bootindexA", prop_i32, Fdc, floppies.bootindex[0], .def = -1),
    PROP_("bootindexB", prop_i32, Fdc, floppies.bootindex[1], .def = -1),
    { 0 },
};

static const IsaIdent ident = { .fw_name = "fdc", .iobase = offsetof(Fdc, iobase) };

DEVICE_TYPE(fdc, DEVICE_OBJECT("isa-fdc", Fdc, props), .desc = "virtual floppy controller", .category = DEV_STORAGE,
            .bus = &isa_bus_type, .extra = &ident, .state = state, .plug = fdc_plug, .reset = fdc_reset,
            .unplug = fdc_unplug, .loaded = fdc_loaded);
