/*
 * Intel 82078 floppy disk controller (data sheet 290475; 82077AA 290166) with ISA DMA: registers, phases
 * of a command, reset. Seeks and rotation take no time. Not modelled: tape modes.
 */
#include "bus/isa.h"
#include "hw/floppy/fdc_priv.h"

#define FDC_SERVICE "fdc"

static void fdc_reset_core(Fdc *fdc, bool hard);

/* --- interrupts and phases --- */

void fdc_set_irq(Fdc *fdc, bool level)
{
    fdc->irq_level = level;
    irq_set(isa_irq(&fdc->dev, fdc->irq_n), level);
}

void fdc_set_dreq(Fdc *fdc, bool level)
{
    IsaBus *isa = isa_bus_of(fdc->dev.machine);
    if (isa->dma_ops) {
        isa->dma_ops->set_dreq(isa->dma, fdc->dma_n, level);
    }
}

void fdc_idle(Fdc *fdc)
{
    fdc->phase = PHASE_COMMAND;
    fdc->params = fdc->wanted = 0;
    fdc->action = ACTION_NONE;
}

void fdc_results(Fdc *fdc, const uint8_t *bytes, unsigned count)
{
    memcpy(fdc->result, bytes, count);
    fdc->results = count;
    fdc->result_at = 0;
    fdc->phase = PHASE_RESULT;
    fdc->action = ACTION_NONE;
}

bool fdc_uses_dma(const Fdc *fdc)
{
    IsaBus *isa = isa_bus_of(fdc->dev.machine);
    return isa->dma_ops && (fdc->dor & DOR_DMA) && !(fdc->specify[1] & 1);
}

FloppyDrive *fdc_drive(const Fdc *fdc, unsigned unit)
{
    FloppyDrive *drive = unit < FLOPPY_UNITS ? fdc->floppies.drives[unit] : NULL;
    return drive && drive->kind != FLOPPY_NONE ? drive : NULL;
}

void fdc_finish(Fdc *fdc, uint8_t st0, uint8_t st1, uint8_t st2, uint32_t done)
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

/* --- the data register --- */

static bool fdc_in_reset(const Fdc *fdc)
{
    return !(fdc->dor & DOR_RESET);
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
        fdc->wanted = 1 + fdc_command_params(value);
    }
    fdc->param[fdc->params++] = value;
    if (fdc->params == fdc->wanted) {
        fdc_command_run(fdc);
    }
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
    if (fdc->result_at == fdc->results) {
        fdc_set_irq(fdc, false);
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
    g_clear_pointer(&fdc->saved, g_byte_array_unref);
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
    STATE_RANGE(Fdc, length, 0, BUFFER_BYTES), STATE_RANGE(Fdc, at, 0, BUFFER_BYTES), STATE_BOOL(Fdc, loaded), STATE_U8(Fdc, formatted),
    STATE_BUFFER(Fdc, saved, BUFFER_BYTES, 2),
    STATE_NOT(Fdc, floppies, "drives save themselves"), STATE_NOT(Fdc, buffer, "as saved"),
    STATE_NOT(Fdc, inflight, "a command that has some is cut off"), STATE_NOT(Fdc, generation, "host"), STATE_NOT(Fdc, waiting, "host"),
    STATE_NOT(Fdc, low_ports, "fixed"), STATE_NOT(Fdc, dir_port, "fixed"),
    { 0 },
};

/* The data of a command under way. */
static void fdc_saving(Device *dev)
{
    Fdc *fdc = (Fdc *)dev;
    g_clear_pointer(&fdc->saved, g_byte_array_unref);
    if (fdc->phase == PHASE_EXECUTION && fdc->inflight == 0) {
        fdc->saved = g_byte_array_append(g_byte_array_new(), fdc->buffer, BUFFER_BYTES);
    }
}

/* Whether a command that was loaded can go on; the range of each member was looked at. */
static bool fdc_can_go_on(const Fdc *fdc)
{
    const FloppyDrive *drive = fdc_drive(fdc, fdc->unit);
    uint32_t room = fdc->action == ACTION_FORMAT ? BUFFER_BYTES / 2 : BUFFER_BYTES;
    return fdc->saved && fdc->saved->len == BUFFER_BYTES && fdc->action != ACTION_NONE && drive && floppy_has_medium(drive) &&
           fdc->sector >= 1 && fdc->length <= room && fdc->at <= fdc->length;
}

/* One whose data has not come with it, since the image holds it up, ends: its driver begins it again. */
static Error *fdc_loaded(Device *dev)
{
    Fdc *fdc = (Fdc *)dev;
    fdc->generation++;
    fdc->waiting = false;
    if (fdc->phase == PHASE_EXECUTION && fdc_can_go_on(fdc)) {
        memcpy(fdc->buffer, fdc->saved->data, BUFFER_BYTES);
    } else if (fdc->phase == PHASE_EXECUTION) {
        fdc->params = fdc->wanted = 0;
        fdc_finish(fdc, ST0_ABNORMAL, ST1_DATA_ERROR, 0, 0);
    }
    g_clear_pointer(&fdc->saved, g_byte_array_unref);
    return NULL;
}

static const Prop props[] = {
    PROP_U32("iobase", Fdc, iobase, 0x3f0, .help = "first port"),
    PROP_U32("irq", Fdc, irq_n, 6, .help = "ISA interrupt"),
    PROP_U32("dma", Fdc, dma_n, 2, .help = "DMA channel"),
    PROP_ENUM("fdtypeA", Fdc, kind_a, floppy_kind_names, FLOPPY_AUTO, .help = "Kind of drive: 144, 288, 120, none or auto"),
    PROP_ENUM("fdtypeB", Fdc, kind_b, floppy_kind_names, FLOPPY_AUTO, .help = "Kind of drive: 144, 288, 120, none or auto"),
    PROP_ENUM("fallback", Fdc, fallback, floppy_kind_names, FLOPPY_288, .help = "Kind of drive: 144, 288, 120, none or auto"),
    PROP_("bootindexA", prop_i32, Fdc, floppies.bootindex[0], .def = -1),
    PROP_("bootindexB", prop_i32, Fdc, floppies.bootindex[1], .def = -1),
    { 0 },
};

static const IsaIdent ident = { .fw_name = "fdc", .iobase = offsetof(Fdc, iobase) };

DEVICE_TYPE(fdc, DEVICE_OBJECT("isa-fdc", Fdc, props), .desc = "virtual floppy controller", .category = DEV_STORAGE,
            .bus = &isa_bus_type, .extra = &ident, .state = state, .plug = fdc_plug, .reset = fdc_reset,
            .unplug = fdc_unplug, .state_version = 2, .state_min_version = 2, .saving = fdc_saving, .loaded = fdc_loaded);
