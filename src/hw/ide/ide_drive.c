/* What ide-hd and ide-cd have in common: identity, transfer modes, life, saved state. */
#include "base/endian.h"
#include "hw/ide/ide.h"

/* --- transfer modes (ATA/ATAPI-6, 8.46.4: SET FEATURES 03h) --- */

enum { MODE_PIO = 0x08, MODE_MDMA = 0x20, MODE_UDMA = 0x40, MODE_NONE = 0xff };
enum { PIO_MAX = 4, MDMA_MAX = 2, UDMA_MAX = 5 };

void ide_transfer_mode(IdeDrive *drive, uint8_t mode, bool *ret_good)
{
    unsigned number = mode & 7;
    *ret_good = true;
    if (mode <= 1) { /* default PIO, without and with IORDY */
        drive->mdma_mode = drive->udma_mode = MODE_NONE;
        drive->pio_mode = 0;
    } else if ((mode & 0xf8) == MODE_PIO && number <= PIO_MAX) {
        drive->mdma_mode = drive->udma_mode = MODE_NONE;
        drive->pio_mode = number;
    } else if ((mode & 0xf8) == MODE_MDMA && number <= MDMA_MAX && ide_has_dma(drive)) {
        drive->mdma_mode = number;
        drive->udma_mode = MODE_NONE;
    } else if ((mode & 0xf8) == MODE_UDMA && number <= UDMA_MAX && ide_has_dma(drive)) {
        drive->udma_mode = number;
        drive->mdma_mode = MODE_NONE;
    } else {
        *ret_good = false;
    }
}

void ide_identify_modes(const IdeDrive *drive, uint16_t *words)
{
    if (!ide_has_dma(drive)) {
        return;
    }
    words[62] = 0x07;
    words[63] = 0x07 | (drive->mdma_mode != MODE_NONE ? BIT(8 + drive->mdma_mode) : 0);
    words[88] = 0x3f | (drive->udma_mode != MODE_NONE ? BIT(8 + drive->udma_mode) : 0);
}

void ide_identify_text(uint16_t *words, unsigned count, const char *text)
{
    size_t length = strlen(text);
    for (unsigned i = 0; i < count; i++) {
        uint8_t first = i * 2 < length ? text[i * 2] : ' ';
        uint8_t second = i * 2 + 1 < length ? text[i * 2 + 1] : ' ';
        words[i] = first << 8 | second;
    }
}

/* --- life --- */

static Error *check_text(const char *what, const char *text, size_t max)
{
    if (text && strlen(text) > max) {
        return error_new("%s '%s' is too long (at most %zu characters)", what, text, max);
    }
    return NULL;
}

static void take_default(char **text, const char *value)
{
    if (!*text) {
        *text = g_strdup(value);
    }
}

Error *ide_drive_plug(IdeDrive *drive, const IdeDriveOps *ops, const DiskTraits *traits, const char *model)
{
    IdeBus *ide = drive->ide.channel;
    drive->ops = ops;
    TRY(check_text("serial", drive->serial, 20));
    TRY(check_text("model", drive->model, 40));
    TRY(check_text("ver", drive->version, 8));
    TRY(disk_conf_attach(&drive->conf, &drive->ide.dev, traits));
    if (drive->conf.logical_block_size != IDE_SECTOR) {
        return error_new("IDE disks have sectors of 512 bytes: leave out logical_block_size");
    }
    g_autofree char *serial = g_strdup_printf("QM%05u", ide->serial_base + drive->ide.unit + 1);
    take_default(&drive->serial, serial);
    take_default(&drive->model, model);
    take_default(&drive->version, "2.5+");
    drive->mdma_mode = drive->pio_mode = MODE_NONE;
    drive->udma_mode = ide_has_dma(drive) ? UDMA_MAX : MODE_NONE;
    return NULL;
}

void ide_drive_unplug(Device *dev)
{
    IdeDrive *drive = container_of(dev, IdeDrive, ide.dev);
    if (drive->request) {
        drive->reset_wanted = true; /* its completion touches nothing but registers */
        blk_cancel(drive->request);
    }
    disk_conf_detach(&drive->conf); /* waits for it */
}

/* Power-on: unlike a software reset, settings that the guest made are forgotten. */
void ide_drive_reset(Device *dev)
{
    IdeDrive *drive = container_of(dev, IdeDrive, ide.dev);
    if (drive->request) {
        blk_cancel(drive->request);
        drive->reset_wanted = true;
        blk_drain(disk_blk(&drive->conf));
    }
    drive->multiple = IDE_MULTIPLE_MAX;
    drive->cur_heads = (uint8_t)drive->heads;
    drive->cur_secs = (uint8_t)drive->secs;
    drive->mdma_mode = drive->pio_mode = MODE_NONE;
    drive->udma_mode = ide_has_dma(drive) ? UDMA_MAX : MODE_NONE;
    drive->smart = drive->smart_autosave = true;
    mmc_reset(&drive->atapi.mmc);
    ide_channel_reset(drive->ide.channel);
}

/* 0: none; else 1 + place in the command set's table. */
static uint8_t phase_number(const IdeDrive *drive, IdePhase *phase)
{
    for (uint8_t n = 0; phase && drive->ops->phases[n]; n++) {
        if (drive->ops->phases[n] == phase) {
            return n + 1;
        }
    }
    return 0;
}

static bool phase_of_number(const IdeDrive *drive, uint8_t number, IdePhase **ret_phase)
{
    *ret_phase = NULL;
    for (uint8_t n = 0; number && drive->ops->phases[n]; n++) {
        if (n + 1 == number) {
            *ret_phase = drive->ops->phases[n];
        }
    }
    return number == 0 || *ret_phase;
}

/* Numbers and what the rest of the state allows. */
static bool phases_of_numbers(IdeDrive *drive)
{
    return phase_of_number(drive, drive->phase_id, &drive->phase) && phase_of_number(drive, drive->dma_step_id, &drive->dma_step) &&
           phase_of_number(drive, drive->again_id, &drive->again) && drive->dma_waiting == (drive->dma_step_id != 0) &&
           (!drive->again || (drive->held && !drive->phase && !drive->dma_step)) &&
           /* what an ended command left means nothing */
           ((!drive->phase && !drive->dma_step && !drive->again) || drive->ops->plausible(drive));
}

/* Requests are finished first, so a drive rests, waits for the guest, or has a request to make again. */
void ide_drive_saving(Device *dev)
{
    IdeDrive *drive = container_of(dev, IdeDrive, ide.dev);
    if (drive->then) {
        blk_drain(disk_blk(&drive->conf));
        blk_return_held(disk_blk(&drive->conf));
    }
    drive->held = drive->again != NULL;
    drive->again_id = phase_number(drive, drive->again);
    drive->phase_id = phase_number(drive, drive->phase);
    drive->dma_step_id = phase_number(drive, drive->dma_waiting ? drive->dma_step : NULL);
}

Error *ide_drive_loaded(Device *dev)
{
    IdeDrive *drive = container_of(dev, IdeDrive, ide.dev);
    bool good = drive->multiple <= IDE_MULTIPLE_MAX && (drive->multiple & (drive->multiple - 1)) == 0 &&
                drive->at <= drive->end && drive->end <= IDE_BUFFER && drive->filled <= IDE_BUFFER &&
                drive->next <= IDE_BUFFER && phases_of_numbers(drive);
    if (!good) {
        drive->phase = drive->dma_step = drive->again = NULL;
        drive->dma_waiting = false;
        drive->at = drive->end = 0;
        return error_new("%s: the saved state is impossible", device_label(dev));
    }
    if (drive->held && !drive->again) { /* a stream that does not say what the request was: the guest tries again */
        ide_fail(drive, ATA_ABRT);
    }
    drive->held = false;
    return NULL;
}

void ide_drive_resumed(Device *dev)
{
    IdeDrive *drive = container_of(dev, IdeDrive, ide.dev);
    IdePhase *again = drive->again;

    if (again) {
        drive->again = NULL;
        again(drive);
    }
}

static const StateField reg_state[] = { STATE_U8(IdeReg, now), STATE_U8(IdeReg, hob), { 0 } };

static const StateField atapi_state[] = {
    STATE_BYTES(Atapi, packet),
    STATE_STRUCT(Atapi, mmc, mmc_state),
    STATE_BOOL(Atapi, dma),
    STATE_RANGE(Atapi, byte_limit, 0, 65535),
    STATE_U64(Atapi, lba),
    STATE_U32(Atapi, blocks),
    STATE_U32(Atapi, block_size),
    STATE_RANGE(Atapi, out_bytes, 0, 65535),
    { 0 },
};

const StateField ide_drive_state[] = {
    STATE_STRUCT(IdeDrive, features, reg_state),
    STATE_STRUCT(IdeDrive, nsector, reg_state),
    STATE_STRUCT(IdeDrive, lba_low, reg_state),
    STATE_STRUCT(IdeDrive, lba_mid, reg_state),
    STATE_STRUCT(IdeDrive, lba_high, reg_state),
    STATE_U8(IdeDrive, error),
    STATE_U8(IdeDrive, status),
    STATE_U8(IdeDrive, select),
    STATE_U8(IdeDrive, command),
    STATE_U8(IdeDrive, cur_heads),
    STATE_U8(IdeDrive, cur_secs),
    STATE_U8(IdeDrive, multiple),
    STATE_U8(IdeDrive, pio_mode),
    STATE_U8(IdeDrive, mdma_mode),
    STATE_U8(IdeDrive, udma_mode),
    STATE_BOOL(IdeDrive, smart),
    STATE_BOOL(IdeDrive, smart_autosave),
    STATE_STRUCT(IdeDrive, atapi, atapi_state),
    STATE_BYTES(IdeDrive, buffer),
    STATE_U32(IdeDrive, at),
    STATE_U32(IdeDrive, end),
    STATE_BOOL(IdeDrive, to_guest),
    STATE_U32(IdeDrive, filled),
    STATE_U64(IdeDrive, lba),
    STATE_RANGE(IdeDrive, left, 0, 65536),
    STATE_RANGE(IdeDrive, block, 0, IDE_MULTIPLE_MAX),
    STATE_BOOL(IdeDrive, writing),
    STATE_BOOL(IdeDrive, fua),
    STATE_BOOL(IdeDrive, dma),
    STATE_U32(IdeDrive, next),
    STATE_BOOL(IdeDrive, dma_waiting),
    STATE_U8(IdeDrive, phase_id),
    STATE_U8(IdeDrive, dma_step_id),
    { .name = "again_id", .kind = STATE_KIND_U8, .offset = offsetof(IdeDrive, again_id), .size = 1, .count = 1, .since = 1 },
    STATE_BOOL(IdeDrive, held),
    STATE_NOT(IdeDrive, ops, "configuration"),
    STATE_NOT(IdeDrive, sectors, "the medium's"),
    STATE_NOT(IdeDrive, phase, "as phase_id"),
    STATE_NOT(IdeDrive, dma_step, "as dma_step_id"),
    STATE_NOT(IdeDrive, again, "as again_id"),
    STATE_NOT(IdeDrive, request, "finished before saving"),
    STATE_NOT(IdeDrive, then, "finished before saving"),
    STATE_NOT(IdeDrive, result, "finished before saving"),
    STATE_NOT(IdeDrive, vec, "finished before saving"),
    STATE_NOT(IdeDrive, reset_wanted, "finished before saving"),
    { 0 },
};
