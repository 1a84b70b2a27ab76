/*
 * Floppy drives and the formats of their media. A raw image says nothing about its format but its size,
 * so the format is the first of the table that has that size and that the drive can read.
 */
#include "hw/floppy/floppy.h"

typedef struct Format {
    FloppyDriveKind kind; /* the drive it is native to */
    uint8_t sectors, tracks, heads, rate;
} Format;

enum { RATE_500, RATE_300, RATE_250, RATE_1000 };

static const Format formats[] = {
    /* 3.5 inch, 1.44 MB and larger on the same media */
    { FLOPPY_144, 18, 80, 2, RATE_500 }, { FLOPPY_144, 20, 80, 2, RATE_500 }, { FLOPPY_144, 21, 80, 2, RATE_500 },
    { FLOPPY_144, 21, 82, 2, RATE_500 }, { FLOPPY_144, 21, 83, 2, RATE_500 }, { FLOPPY_144, 22, 80, 2, RATE_500 },
    { FLOPPY_144, 23, 80, 2, RATE_500 }, { FLOPPY_144, 24, 80, 2, RATE_500 },
    /* 2.88 MB */
    { FLOPPY_288, 36, 80, 2, RATE_1000 }, { FLOPPY_288, 39, 80, 2, RATE_1000 }, { FLOPPY_288, 40, 80, 2, RATE_1000 },
    { FLOPPY_288, 44, 80, 2, RATE_1000 }, { FLOPPY_288, 48, 80, 2, RATE_1000 },
    /* 720 KB */
    { FLOPPY_144, 9, 80, 2, RATE_250 }, { FLOPPY_144, 10, 80, 2, RATE_250 }, { FLOPPY_144, 10, 82, 2, RATE_250 },
    { FLOPPY_144, 10, 83, 2, RATE_250 }, { FLOPPY_144, 13, 80, 2, RATE_250 }, { FLOPPY_144, 14, 80, 2, RATE_250 },
    /* 5.25 inch: 1.2 MB, then double density in the same drive */
    { FLOPPY_120, 15, 80, 2, RATE_500 }, { FLOPPY_120, 18, 82, 2, RATE_500 }, { FLOPPY_120, 18, 83, 2, RATE_500 },
    { FLOPPY_120, 11, 80, 2, RATE_300 }, { FLOPPY_120, 9, 40, 2, RATE_300 }, { FLOPPY_120, 9, 40, 1, RATE_300 },
    { FLOPPY_120, 10, 41, 2, RATE_300 }, { FLOPPY_120, 10, 42, 2, RATE_300 }, { FLOPPY_120, 8, 40, 2, RATE_250 },
    { FLOPPY_120, 8, 40, 1, RATE_250 },
};

const EnumName floppy_kind_names[] = {
    { "120", FLOPPY_120 }, { "144", FLOPPY_144 }, { "288", FLOPPY_288 }, { "none", FLOPPY_NONE }, { "auto", FLOPPY_AUTO }, { 0 },
};

bool floppy_has_medium(const FloppyDrive *drive)
{
    return drive->heads != 0;
}

/* A 2.88 MB drive reads everything that a 1.44 MB one does. */
static bool drive_reads(int kind, const Format *format)
{
    return kind == FLOPPY_AUTO || kind == (int)format->kind || (kind == FLOPPY_288 && format->kind == FLOPPY_144);
}

/* The native format of a kind of drive. */
static const Format *native_format(int kind)
{
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        if ((int)formats[i].kind == kind) {
            return &formats[i];
        }
    }
    return &formats[0];
}

static const Format *find_format(int kind, int64_t bytes)
{
    for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
        const Format *f = &formats[i];
        if (drive_reads(kind, f) && (int64_t)f->sectors * f->tracks * f->heads * FLOPPY_SECTOR == bytes) {
            return f;
        }
    }
    return NULL;
}

/* Looks at the medium. The kind of an automatic drive is settled by its first medium. */
static void floppy_look(FloppyDrive *drive, int fallback)
{
    BlockBackend *blk = disk_blk(&drive->conf);
    bool inserted = blk && blk_is_inserted(blk);
    int kind = drive->kind != FLOPPY_NONE ? (int)drive->kind : drive->kind_opt;
    const Format *format = inserted ? find_format(kind, blk_length(blk)) : NULL;
    if (drive->kind == FLOPPY_NONE && drive->kind_opt != FLOPPY_NONE) {
        drive->kind = drive->kind_opt != FLOPPY_AUTO ? drive->kind_opt : format ? (int)format->kind : fallback;
    }
    drive->heads = drive->tracks = drive->sectors = 0;
    drive->readonly = true;
    if (inserted) {
        format = format ? format : native_format(drive->kind == FLOPPY_NONE ? (int)FLOPPY_144 : (int)drive->kind);
        drive->heads = format->heads;
        drive->tracks = format->tracks;
        drive->sectors = format->sectors;
        drive->rate = format->rate;
        drive->readonly = blk_is_readonly(blk);
    }
}

void floppy_seek(FloppyDrive *drive, uint8_t track)
{
    bool stepped = drive->track != track;
    drive->track = track;
    if (stepped && floppy_has_medium(drive)) {
        drive->changed = false;
    }
}

static FloppyBus *floppy_bus_of(FloppyDrive *drive)
{
    return container_of(drive->dev.bus, FloppyBus, bus);
}

static void medium_changed(void *opaque, bool loaded)
{
    FloppyDrive *drive = opaque;
    drive->changed = true;
    floppy_look(drive, floppy_bus_of(drive)->fallback);
}

static const BlkDeviceOps medium_ops = { .changed = medium_changed };

/* --- bus --- */

static Error *floppy_attach(Bus *bus, Device *dev)
{
    FloppyBus *floppies = container_of(bus, FloppyBus, bus);
    FloppyDrive *drive = (FloppyDrive *)dev;
    if (drive->unit == UINT32_MAX) {
        for (drive->unit = 0; drive->unit < FLOPPY_UNITS - 1 && floppies->drives[drive->unit]; drive->unit++) {
        }
    }
    if (drive->unit >= FLOPPY_UNITS) {
        return error_new("Can't create floppy unit %u, bus supports only %d units", drive->unit, FLOPPY_UNITS);
    }
    if (floppies->drives[drive->unit]) {
        return error_new("Floppy unit %u is in use", drive->unit);
    }
    if (drive->kind_opt == FLOPPY_AUTO) {
        drive->kind_opt = floppies->kind[drive->unit];
    }
    if (dev->bootindex < 0) {
        dev->bootindex = floppies->bootindex[drive->unit];
    }
    floppies->drives[drive->unit] = drive;
    return NULL;
}

static void floppy_detach(Bus *bus, Device *dev)
{
    FloppyBus *floppies = container_of(bus, FloppyBus, bus);
    FloppyDrive *drive = (FloppyDrive *)dev;
    if (drive->unit < FLOPPY_UNITS && floppies->drives[drive->unit] == drive) {
        floppies->drives[drive->unit] = NULL;
    }
}

static char *floppy_path(Device *dev)
{
    return g_strdup_printf("floppy@%x", ((FloppyDrive *)dev)->unit);
}

const BusType floppy_bus_type = {
    .name = "floppy-bus", .attach = floppy_attach, .detach = floppy_detach, .device_path = floppy_path,
};

/* --- device --- */

static Error *floppy_plug(Device *dev)
{
    FloppyDrive *drive = (FloppyDrive *)dev;
    DiskTraits traits = { .optional = true, .writes = true, .read_only_ok = true, .ops = &medium_ops, .opaque = drive };
    TRY(disk_conf_attach(&drive->conf, dev, &traits));
    if (drive->conf.logical_block_size != FLOPPY_SECTOR || drive->conf.physical_block_size != FLOPPY_SECTOR) {
        return error_new("Physical and logical block size must be 512 for floppy");
    }
    drive->changed = true;
    floppy_look(drive, floppy_bus_of(drive)->fallback);
    return NULL;
}

static void floppy_unplug(Device *dev)
{
    disk_conf_detach(&((FloppyDrive *)dev)->conf);
}

const StateField floppy_state[] = {
    STATE_U8(FloppyDrive, track),
    STATE_BOOL(FloppyDrive, changed),
    STATE_NOT(FloppyDrive, conf, "configuration"),
    STATE_NOT(FloppyDrive, kind, "from the medium"),
    STATE_NOT(FloppyDrive, heads, "from the medium"),
    STATE_NOT(FloppyDrive, tracks, "from the medium"),
    STATE_NOT(FloppyDrive, sectors, "from the medium"),
    STATE_NOT(FloppyDrive, rate, "from the medium"),
    STATE_NOT(FloppyDrive, readonly, "from the medium"),
    { 0 },
};

static const Prop props[] = {
    DISK_CONF_PROPS(FloppyDrive, conf, dev),
    PROP_U32("unit", FloppyDrive, unit, UINT32_MAX, .help = "0 or 1"),
    PROP_ENUM("drive-type", FloppyDrive, kind_opt, floppy_kind_names, FLOPPY_AUTO, .help = "Kind of drive: 144, 288, 120, none or auto"),
    { 0 },
};

DEVICE_TYPE(floppy, DEVICE_OBJECT("floppy", FloppyDrive, props), .desc = "virtual floppy drive",
            .category = DEV_STORAGE, .bus = &floppy_bus_type, .state = floppy_state, .plug = floppy_plug,
            .unplug = floppy_unplug);
