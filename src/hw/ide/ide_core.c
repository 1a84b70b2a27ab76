/*
 * An IDE channel: command block and control registers, PIO data, requests, resets.
 *
 * ATA/ATAPI-6 (T13/1410D): 7 (registers), 9 (protocols), 9.2 (software reset), 9.10 (diagnostic). A register
 * write reaches both drives; reads and commands are for the selected one. Missing: overlap and queueing.
 */
#include "base/bits.h"
#include "base/endian.h"
#include "hw/ide/ide.h"

enum { CMD_DEVICE_RESET = 0x08, CMD_DIAGNOSTIC = 0x90 };

static IdeDrive *drive_at(IdeBus *ide, unsigned unit)
{
    return unit < IDE_UNITS && ide->drives[unit] ? ide_drive_of(ide->drives[unit]) : NULL;
}

static IdeDrive *selected(IdeBus *ide)
{
    return drive_at(ide, ide->selected);
}

/* --- interrupts --- */

static void update_irq(IdeBus *ide)
{
    ide->ops->set_irq(ide->host, ide->irq && !(ide->control & ATA_NIEN));
}

static void lower(IdeBus *ide)
{
    if (ide->irq) {
        ide->irq = false;
        update_irq(ide);
    }
}

void ide_raise(IdeDrive *drive)
{
    IdeBus *ide = drive->ide.channel;
    if (selected(ide) == drive) {
        ide->irq = true;
        update_irq(ide);
    }
}

/* --- data --- */

void ide_stall(IdeDrive *drive)
{
    drive->status = ATA_DRDY | ATA_DSC | (drive->status & ATA_ERR);
    drive->at = drive->end = 0;
    drive->phase = NULL;
}

void ide_complete(IdeDrive *drive)
{
    ide_stall(drive);
    ide_raise(drive);
}

void ide_fail(IdeDrive *drive, uint8_t error)
{
    drive->error = error;
    drive->status |= ATA_ERR;
    ide_complete(drive);
}

void ide_pio(IdeDrive *drive, uint32_t start, uint32_t bytes, bool to_guest, bool quiet, IdePhase *phase)
{
    const IdeHostOps *ops = drive->ide.channel->ops;
    assert(start + bytes <= IDE_BUFFER);
    drive->at = start;
    drive->end = start + bytes;
    drive->to_guest = to_guest;
    drive->phase = phase;
    drive->status = ATA_DRDY | ATA_DSC | ATA_DRQ;
    if (!quiet) {
        ide_raise(drive);
    }
    if (ops->pio_ready) {
        ops->pio_ready(drive->ide.channel->host);
    }
}

static void data_moved(IdeDrive *drive)
{
    if (drive->at >= drive->end) {
        IdePhase *phase = drive->phase;
        drive->at = drive->end = 0;
        drive->phase = NULL;
        drive->status &= ~ATA_DRQ;
        if (phase) {
            phase(drive);
        }
    }
}

uint32_t ide_data_read(IdeBus *ide, unsigned size)
{
    IdeDrive *drive = selected(ide);
    if (!drive || !(drive->status & ATA_DRQ) || !drive->to_guest || drive->end - drive->at < size) {
        return 0;
    }
    uint32_t value = (uint32_t)ld_le(drive->buffer + drive->at, size);
    drive->at += size;
    data_moved(drive);
    return value;
}

void ide_data_write(IdeBus *ide, uint32_t value, unsigned size)
{
    IdeDrive *drive = selected(ide);
    if (!drive || !(drive->status & ATA_DRQ) || drive->to_guest || drive->end - drive->at < size) {
        return;
    }
    st_le(drive->buffer + drive->at, value, size);
    drive->at += size;
    data_moved(drive);
}

/* --- DMA --- */

bool ide_has_dma(const IdeDrive *drive)
{
    return drive->ide.channel->ops->dma_request != NULL;
}

void ide_dma(IdeDrive *drive, IdePhase *step)
{
    drive->status = ATA_BSY | ATA_DRDY | ATA_DSC;
    drive->dma_waiting = true;
    drive->dma_step = step;
    drive->ide.channel->ops->dma_request(drive->ide.channel->host);
}

void ide_dma_run(IdeBus *ide)
{
    IdeDrive *drive = selected(ide);
    if (drive && drive->dma_waiting) {
        drive->dma_waiting = false;
        drive->dma_step(drive);
    }
}

/* --- requests --- */

static void finish_reset(IdeDrive *drive);

static void request_done(void *opaque, int ret)
{
    IdeDrive *drive = opaque;
    IdePhase *then = drive->then;
    drive->request = NULL;
    drive->then = NULL;
    drive->result = ret;
    if (ret == BLK_RETURNED && !drive->reset_wanted) {
        if (drive->dma) {
            drive->ide.channel->ops->dma_return(drive->ide.channel->host);
        }
        drive->again = drive->ops->again(then);
    } else if (drive->reset_wanted) {
        if (drive->dma) {
            drive->ide.channel->ops->dma_unmap(drive->ide.channel->host, 0);
        }
        finish_reset(drive);
    } else {
        then(drive);
    }
}

static void begin_request(IdeDrive *drive, IdePhase *then)
{
    assert(!drive->then);
    drive->then = then;
    drive->status = ATA_BSY | ATA_DRDY | ATA_DSC;
}

void ide_read(IdeDrive *drive, uint64_t offset, const struct iovec *iov, unsigned count, IdePhase *then)
{
    begin_request(drive, then);
    drive->request = blk_aio_preadv(disk_blk(&drive->conf), offset, iov, count, request_done, drive);
}

void ide_write(IdeDrive *drive, uint64_t offset, const struct iovec *iov, unsigned count, IdePhase *then)
{
    begin_request(drive, then);
    drive->request = blk_aio_pwritev(disk_blk(&drive->conf), offset, iov, count, drive->fua ? REQ_FUA : 0,
                                     request_done, drive);
}

void ide_flush(IdeDrive *drive, IdePhase *then)
{
    begin_request(drive, then);
    drive->request = blk_aio_flush(disk_blk(&drive->conf), request_done, drive);
}

void ide_discard(IdeDrive *drive, uint64_t offset, uint64_t bytes, IdePhase *then)
{
    begin_request(drive, then);
    drive->request = blk_aio_discard(disk_blk(&drive->conf), offset, bytes, request_done, drive);
}

/* --- resets --- */

void ide_set_signature(IdeDrive *drive)
{
    drive->select &= ATA_DEV1;
    drive->nsector.now = 1;
    drive->lba_low.now = 1;
    drive->lba_mid.now = drive->ops->signature_mid;
    drive->lba_high.now = drive->ops->signature_high;
}

/* The drive forgets its command and shows its signature. */
static void finish_reset(IdeDrive *drive)
{
    drive->reset_wanted = false;
    drive->dma_waiting = false;
    drive->again = NULL;
    drive->at = drive->end = drive->filled = 0;
    drive->phase = NULL;
    drive->left = 0;
    drive->dma = false;
    drive->error = 1; /* diagnostic: passed */
    drive->features = drive->nsector = drive->lba_low = drive->lba_mid = drive->lba_high = (IdeReg) { 0 };
    ide_set_signature(drive);
    drive->status = drive->ops->status_after_reset;
    if (drive->ops->reset) {
        drive->ops->reset(drive);
    }
}

static void reset_drive(IdeDrive *drive)
{
    if (drive->then) {
        drive->status = ATA_BSY;
        drive->reset_wanted = true;
        blk_cancel(drive->request);
    } else {
        finish_reset(drive);
    }
}

void ide_diagnose(IdeBus *ide)
{
    for (unsigned unit = 0; unit < IDE_UNITS; unit++) {
        IdeDrive *drive = drive_at(ide, unit);
        if (drive) {
            reset_drive(drive);
        }
    }
    ide->selected = 0;
}

void ide_channel_reset(IdeBus *ide)
{
    ide->control = 0;
    ide->selected = 0;
    for (unsigned unit = 0; unit < IDE_UNITS; unit++) {
        IdeDrive *drive = drive_at(ide, unit);
        if (drive) {
            reset_drive(drive);
        }
    }
    ide->irq = false;
    update_irq(ide);
}

void ide_control_write(IdeBus *ide, uint8_t value)
{
    uint8_t old = ide->control;
    ide->control = value & (ATA_NIEN | ATA_SRST | ATA_HOB);
    if (!(old & ATA_SRST) && (value & ATA_SRST)) {
        for (unsigned unit = 0; unit < IDE_UNITS; unit++) {
            IdeDrive *drive = drive_at(ide, unit);
            if (drive) {
                reset_drive(drive);
                drive->status = ATA_BSY;
            }
        }
        ide->selected = 0;
        ide->irq = false;
    } else if ((old & ATA_SRST) && !(value & ATA_SRST)) {
        for (unsigned unit = 0; unit < IDE_UNITS; unit++) {
            IdeDrive *drive = drive_at(ide, unit);
            if (drive && !drive->reset_wanted) {
                finish_reset(drive);
            }
        }
    }
    update_irq(ide);
}

/* --- registers --- */

static uint8_t status_of(IdeBus *ide)
{
    IdeDrive *drive = selected(ide);
    return drive ? drive->status : 0;
}

uint8_t ide_alt_status(IdeBus *ide)
{
    return status_of(ide);
}

uint8_t ide_reg_read(IdeBus *ide, unsigned reg)
{
    IdeDrive *drive = selected(ide);
    bool hob = ide->control & ATA_HOB;
    if (reg == IDE_STATUS) {
        lower(ide);
        return status_of(ide);
    }
    if (!drive) {
        /* The other drive answers, as it keeps a copy of the registers; a packet device gives zeroes, so that its
         * signature is not seen twice. */
        drive = drive_at(ide, ide->selected ^ 1);
        if (!drive || drive->ops->signature_mid) {
            return 0;
        }
    }
    switch (reg) {
    case IDE_ERROR:
        return hob ? drive->features.hob : drive->error;
    case IDE_NSECTOR:
        return hob ? drive->nsector.hob : drive->nsector.now;
    case IDE_LBA_LOW:
        return hob ? drive->lba_low.hob : drive->lba_low.now;
    case IDE_LBA_MID:
        return hob ? drive->lba_mid.hob : drive->lba_mid.now;
    case IDE_LBA_HIGH:
        return hob ? drive->lba_high.hob : drive->lba_high.now;
    default:
        return (drive->select & ~ATA_DEV1) | 0xa0 | (ide->selected ? ATA_DEV1 : 0);
    }
}

static void push(IdeReg *reg, uint8_t value)
{
    reg->hob = reg->now;
    reg->now = value;
}

static void set_register(IdeDrive *drive, unsigned reg, uint8_t value)
{
    switch (reg) {
    case IDE_ERROR:
        push(&drive->features, value);
        break;
    case IDE_NSECTOR:
        push(&drive->nsector, value);
        break;
    case IDE_LBA_LOW:
        push(&drive->lba_low, value);
        break;
    case IDE_LBA_MID:
        push(&drive->lba_mid, value);
        break;
    case IDE_LBA_HIGH:
        push(&drive->lba_high, value);
        break;
    default:
        drive->select = value;
        break;
    }
}

static void start_command(IdeBus *ide, uint8_t command)
{
    IdeDrive *drive = selected(ide);
    lower(ide);
    if (command == CMD_DIAGNOSTIC) {
        IdeDrive *first = drive_at(ide, 0);
        ide_diagnose(ide);
        if (first && !first->reset_wanted) {
            ide_raise(first);
        }
        return;
    }
    if (!drive || drive->reset_wanted) {
        return;
    }
    if (command != CMD_DEVICE_RESET && (drive->status & (ATA_BSY | ATA_DRQ))) {
        return;
    }
    if (command == CMD_DEVICE_RESET && drive->then) {
        reset_drive(drive);
        return;
    }
    drive->command = command;
    drive->status = ATA_DRDY | ATA_DSC;
    drive->error = 0;
    drive->at = drive->end = drive->filled = 0;
    drive->dma = drive->dma_waiting = false;
    drive->ops->command(drive, command);
}

void ide_reg_write(IdeBus *ide, unsigned reg, uint8_t value)
{
    if (ide->control & ATA_SRST) {
        return;
    }
    ide->control &= ~ATA_HOB; /* any write of the command block makes the current bytes readable again */
    if (reg == IDE_STATUS) {
        start_command(ide, value);
        return;
    }
    if (reg == IDE_SELECT) {
        ide->selected = value & ATA_DEV1 ? 1 : 0;
    }
    for (unsigned unit = 0; unit < IDE_UNITS; unit++) {
        IdeDrive *drive = drive_at(ide, unit);
        if (drive && !(drive->status & (ATA_BSY | ATA_DRQ))) {
            set_register(drive, reg, value);
        }
    }
}

/* --- ports --- */

static uint64_t command_read(void *opaque, uint64_t addr, unsigned size)
{
    IdeBus *ide = opaque;
    if (addr == IDE_DATA) {
        return ide_data_read(ide, size);
    }
    uint64_t value = 0;
    for (unsigned i = 0; i < size && addr + i <= IDE_STATUS; i++) {
        value |= (uint64_t)ide_reg_read(ide, (unsigned)addr + i) << (8 * i);
    }
    return value;
}

static void command_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    IdeBus *ide = opaque;
    if (addr == IDE_DATA) {
        ide_data_write(ide, (uint32_t)value, size);
        return;
    }
    for (unsigned i = 0; i < size && addr + i <= IDE_STATUS; i++) {
        ide_reg_write(ide, (unsigned)addr + i, (uint8_t)(value >> (8 * i)));
    }
}

static uint64_t control_read(void *opaque, uint64_t addr, unsigned size)
{
    return addr == 0 ? ide_alt_status(opaque) : 0xff;
}

static void control_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    if (addr == 0) {
        ide_control_write(opaque, (uint8_t)value);
    }
}

const MemOps ide_command_ops = { .read = command_read, .write = command_write, .min = 1, .max = 4 };
const MemOps ide_control_ops = { .read = control_read, .write = control_write, .min = 1, .max = 1 };

const StateField ide_bus_state[] = {
    STATE_U8(IdeBus, control),
    STATE_RANGE(IdeBus, selected, 0, 1),
    STATE_BOOL(IdeBus, irq),
    STATE_NOT(IdeBus, index, "constant"), STATE_NOT(IdeBus, serial_base, "configuration"), STATE_NOT(IdeBus, units, "constant"),
    STATE_NOT(IdeBus, drives, "they save themselves"), STATE_NOT(IdeBus, ops, "wiring"), STATE_NOT(IdeBus, host, "wiring"),
    { 0 },
};
