/*
 * Intel 82078: the commands (data sheet 290475, chapter 5): read, write, both deleted, read track, read
 * id, format, scan (three), verify, seek, recalibrate, relative seek, and all that configure or report. A
 * medium has sectors of 512 bytes and no deleted marks, so another size code is a sector that is not there,
 * and READ DELETED DATA sees the control mark as wrong. Not modelled: format-and-write.
 */
#include "base/log.h"
#include "hw/floppy/fdc_priv.h"

typedef struct Command {
    uint8_t mask, value, params;
    void (*run)(Fdc *fdc);
} Command;

/* --- commands with data --- */

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

unsigned fdc_command_params(uint8_t byte)
{
    return find_command(byte)->params;
}

void fdc_command_run(Fdc *fdc)
{
    find_command(fdc->param[0])->run(fdc);
}
