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
        return error_new("logical_block_size must be 512 for IDE");
    }
    g_autofree char *serial = g_strdup_printf("QM%05u", ide->serial_base + drive->ide.unit + 1);
    take_default(&drive->serial, serial);
    take_default(&drive->model, model);
    take_default(&drive->version, "2.5+");
    drive->buffer = device_alloc(&drive->ide.dev, IDE_BUFFER);
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
    drive->atapi.tray_open = drive->atapi.locked = false;
    drive->atapi.sense_key = drive->atapi.asc = drive->atapi.ascq = 0;
    drive->atapi.attention = drive->atapi.event = 0;
    ide_channel_reset(drive->ide.channel);
}

Error *ide_drive_loaded(Device *dev)
{
    IdeDrive *drive = container_of(dev, IdeDrive, ide.dev);
    if (drive->multiple > IDE_MULTIPLE_MAX || !IS_POW2(drive->multiple | (drive->multiple == 0))) {
        return error_new("%s: the saved state has an impossible multiple count", device_label(dev));
    }
    return NULL;
}

static const StateField reg_state[] = { STATE_U8(IdeReg, now), STATE_U8(IdeReg, hob), { 0 } };

static const StateField atapi_state[] = {
    STATE_BYTES(Atapi, packet),
    STATE_U8(Atapi, sense_key),
    STATE_U8(Atapi, asc),
    STATE_U8(Atapi, ascq),
    STATE_U8(Atapi, attention),
    STATE_U8(Atapi, event),
    STATE_BOOL(Atapi, eject_requested),
    STATE_BOOL(Atapi, tray_open),
    STATE_BOOL(Atapi, locked),
    STATE_NOT(Atapi, dma, "between commands"),
    STATE_NOT(Atapi, byte_limit, "between commands"),
    STATE_NOT(Atapi, lba, "between commands"),
    STATE_NOT(Atapi, blocks, "between commands"),
    STATE_NOT(Atapi, block_size, "between commands"),
    STATE_NOT(Atapi, out_bytes, "between commands"),
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
    { 0 },
};
