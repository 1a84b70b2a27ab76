/*
 * Parallel NOR flash, Intel command set (CFI: JEDEC JEP137 command set 0001h, JESD68.01; commands as in the 28F-J3 data sheet).
 *
 * The content is a RAM block, so it is a part of a saved machine like all memory, and the guest reads and executes it directly while
 * the flash shows its array; in any other mode a region of registers lies over it. What is programmed or erased goes to the image
 * in the background, in ranges that grow while a write is under way.
 *
 * Operations end at once. Programming clears bits, erasing sets those of a sector. After "clear status" the register reads 0, also its
 * ready bit, until the next operation: OVMF knows a flash by that. Locking sectors is accepted and protects nothing; suspending an
 * operation never finds one under way.
 */
#include "hw/block/pflash_cfi01.h"

#include <string.h>

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "base/log.h"
#include "hw/block/disk_conf.h"

enum {
    CMD_PROGRAM_10 = 0x10, CMD_ERASE = 0x20, CMD_PROGRAM_40 = 0x40, CMD_CLEAR_STATUS = 0x50, CMD_LOCK = 0x60, CMD_STATUS = 0x70,
    CMD_IDENTIFY = 0x90, CMD_QUERY = 0x98, CMD_SUSPEND = 0xb0, CMD_CONFIRM = 0xd0, CMD_BUFFER = 0xe8, CMD_ARRAY = 0xff,
};
enum { SR_READY = 0x80, SR_ERASE_ERROR = 0x20, SR_PROGRAM_ERROR = 0x10 };
enum { QUERY_BYTES = 0x52, BUFFER_MAX = 2048, STORE_ALIGN = 512 };

typedef enum PflashMode {
    MODE_ARRAY,
    MODE_STATUS,
    MODE_IDENTIFY,
    MODE_QUERY,
    MODE_PROGRAM,      /* the next write is data */
    MODE_ERASE,        /* the next one confirms */
    MODE_BUFFER_COUNT,
    MODE_BUFFER_DATA,
    MODE_BUFFER_CONFIRM,
    MODE_LOCK,
    PFLASH_MODES,
} PflashMode;

struct Pflash {
    Device dev;
    DriveRef drive;
    char *name;
    uint32_t blocks;
    uint64_t sector;
    uint8_t width, device_width, max_device_width; /* bytes; device widths 0: one chip of `width` */
    bool secure, big_endian, old_chips;
    uint16_t ident[4];

    bool (*is_secure)(void *opaque);
    void *secure_opaque;
    RamBlock *ram;
    MemRegion region, array, registers;
    bool readonly;
    uint8_t query[QUERY_BYTES];
    uint32_t buffer_bytes;

    uint32_t mode; /* PflashMode */
    uint8_t status;
    uint32_t count;        /* write cycles of data to come */
    uint64_t buffer_start; /* in the array; UINT64_MAX: no data yet */
    bool buffer_bad;       /* data came that have no place in it */
    uint8_t buffer[BUFFER_MAX]; /* all ones where nothing is to be programmed */

    uint8_t *stored; /* what the image holds once `request` is done */
    uint64_t store_from, store_to; /* differs, or may: to be written */
    BlkRequest *request;
    struct iovec request_iov;
    bool store_late; /* loaded while the image was another machine's */
};

static unsigned log2_of(uint64_t power)
{
    return (unsigned)__builtin_ctzll(power);
}

static uint64_t pflash_size(const Pflash *flash)
{
    return flash->sector * flash->blocks;
}

/* --- the image --- */

static void store_next(Pflash *flash);

/* It is to be written. */
static void note_store(Pflash *flash, uint64_t from, uint64_t to)
{
    bool waiting = flash->store_to > flash->store_from;
    flash->store_from = waiting ? MIN(flash->store_from, from) : from;
    flash->store_to = waiting ? MAX(flash->store_to, to) : to;
}

static void stored_range(void *opaque, int ret)
{
    Pflash *flash = opaque;

    flash->request = NULL;
    if (ret == BLK_RETURNED) {
        uint64_t from = (uint64_t)((uint8_t *)flash->request_iov.iov_base - flash->stored);
        note_store(flash, from, from + flash->request_iov.iov_len);
        return;
    }
    if (ret < 0) {
        warn_report("%s: the image cannot be written: %s; the guest's changes are lost when it ends", flash->name, g_strerror(-ret));
    }
    store_next(flash);
}

/* Writes from the copy: the guest may go on changing the array meanwhile. */
static void store_next(Pflash *flash)
{
    uint64_t from = flash->store_from, bytes = flash->store_to - from;

    if (flash->request || flash->store_to <= from) {
        return;
    }
    flash->store_from = flash->store_to = 0;
    memcpy(flash->stored + from, flash->ram->host + from, bytes);
    flash->request_iov = (struct iovec) { flash->stored + from, bytes };
    flash->request = blk_aio_pwritev(flash->drive.blk, from, &flash->request_iov, 1, 0, stored_range, flash);
}

static void store(Pflash *flash, uint64_t offset, uint64_t length)
{
    uint64_t from = ALIGN_DOWN(offset, (uint64_t)STORE_ALIGN);
    uint64_t to = MIN(ALIGN_UP(offset + length, (uint64_t)STORE_ALIGN), pflash_size(flash));

    if (!flash->drive.blk || flash->readonly) {
        return;
    }
    note_store(flash, from, to);
    store_next(flash);
}

static void store_differences(Pflash *flash)
{
    for (uint64_t at = 0; !flash->readonly && at < pflash_size(flash); at += MEM_PAGE_SIZE) {
        uint64_t length = MIN(MEM_PAGE_SIZE, pflash_size(flash) - at);
        if (memcmp(flash->ram->host + at, flash->stored + at, length)) {
            store(flash, at, length);
        }
    }
}

static void finish_stores(Pflash *flash)
{
    while (flash->request && !blk_has_held(flash->drive.blk)) {
        blk_drain(flash->drive.blk);
    }
}

/* --- modes --- */

static void enter(Pflash *flash, PflashMode mode)
{
    flash->mode = mode;
    mem_region_set_enabled(&flash->registers, mode != MODE_ARRAY);
}

static void sequence_error(Pflash *flash, const char *what, uint8_t value)
{
    guest_error("%s: %s is not followed by what belongs to it but by 0x%02x", flash->name, what, value);
    flash->status |= SR_READY | SR_ERASE_ERROR | SR_PROGRAM_ERROR;
    enter(flash, value == CMD_ARRAY ? MODE_ARRAY : MODE_STATUS);
}

static void changed(Pflash *flash, uint64_t offset, uint64_t length)
{
    ram_written(flash->ram, offset, length);
    store(flash, offset, length);
}

static void program(Pflash *flash, uint64_t offset, const uint8_t *data, uint64_t length)
{
    flash->status |= SR_READY;
    if (flash->readonly) {
        flash->status |= SR_PROGRAM_ERROR;
        return;
    }
    for (uint64_t n = 0; n < length; n++) {
        flash->ram->host[offset + n] &= data[n];
    }
    changed(flash, offset, length);
}

static void erase(Pflash *flash, uint64_t offset)
{
    flash->status |= SR_READY;
    if (flash->readonly) {
        flash->status |= SR_ERASE_ERROR;
        return;
    }
    offset -= offset % flash->sector;
    memset(flash->ram->host + offset, 0xff, flash->sector);
    changed(flash, offset, flash->sector);
}

/* --- writes --- */

static void command(Pflash *flash, uint8_t code)
{
    switch (code) {
    case CMD_PROGRAM_10:
    case CMD_PROGRAM_40:
        enter(flash, MODE_PROGRAM);
        break;
    case CMD_ERASE:
        enter(flash, MODE_ERASE);
        break;
    case CMD_CLEAR_STATUS:
        flash->status = 0;
        enter(flash, MODE_ARRAY);
        break;
    case CMD_LOCK:
        enter(flash, MODE_LOCK);
        break;
    case CMD_STATUS:
        enter(flash, MODE_STATUS);
        break;
    case CMD_IDENTIFY:
        enter(flash, MODE_IDENTIFY);
        break;
    case CMD_QUERY:
        enter(flash, MODE_QUERY);
        break;
    case CMD_BUFFER:
        flash->status |= SR_READY; /* a buffer is free */
        enter(flash, MODE_BUFFER_COUNT);
        break;
    case CMD_SUSPEND:
    case CMD_CONFIRM: /* resume */
    case CMD_ARRAY:
    case 0x00: /* AMD's reset and nothing: probes for a flash of another kind */
    case 0xf0:
        enter(flash, MODE_ARRAY);
        break;
    default:
        guest_error("%s: unknown command 0x%02x", flash->name, code);
        enter(flash, MODE_ARRAY);
        break;
    }
}

static void put_bytes(const Pflash *flash, uint8_t *to, uint64_t value, unsigned size)
{
    st_le(to, flash->big_endian ? __builtin_bswap64(value) >> (64 - 8 * size) : value, size);
}

static void buffer_count(Pflash *flash, uint64_t value)
{
    unsigned bytes = flash->device_width ? flash->device_width : flash->width;

    flash->count = (uint32_t)(value & size_mask(MIN(bytes, 2u))) + 1;
    flash->buffer_start = UINT64_MAX;
    flash->buffer_bad = false;
    memset(flash->buffer, 0xff, sizeof(flash->buffer));
    if ((uint64_t)flash->count * flash->width > flash->buffer_bytes) {
        sequence_error(flash, "the buffer's count", (uint8_t)value);
        return;
    }
    enter(flash, MODE_BUFFER_DATA);
}

static void buffer_data(Pflash *flash, uint64_t offset, uint64_t value, unsigned size)
{
    if (flash->buffer_start == UINT64_MAX) {
        flash->buffer_start = offset - offset % flash->buffer_bytes;
    }
    if (offset < flash->buffer_start || offset + size > MIN(flash->buffer_start + flash->buffer_bytes, pflash_size(flash))) {
        guest_error("%s: data for the write buffer at 0x%" G_GINT64_MODIFIER "x are beyond its end", flash->name, offset);
        flash->status |= SR_PROGRAM_ERROR;
        flash->buffer_bad = true;
    } else {
        put_bytes(flash, flash->buffer + (offset - flash->buffer_start), value, size);
    }
    if (--flash->count == 0) {
        enter(flash, MODE_BUFFER_CONFIRM);
    }
}

static void buffer_confirm(Pflash *flash, uint8_t code)
{
    if (code != CMD_CONFIRM) {
        sequence_error(flash, "the buffer's data", code);
        return;
    }
    if (!flash->buffer_bad) {
        uint64_t length = MIN(flash->buffer_bytes, pflash_size(flash) - flash->buffer_start);
        program(flash, flash->buffer_start, flash->buffer, length);
    }
    enter(flash, MODE_STATUS);
}

/* With secure=on the bus tells the flash who writes, and it obeys only the firmware. */
static bool refused(const Pflash *flash)
{
    return flash->secure && !(flash->is_secure && flash->is_secure(flash->secure_opaque));
}

static void pflash_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Pflash *flash = opaque;
    uint8_t data[8], code = (uint8_t)value;

    if (refused(flash)) {
        return;
    }
    switch ((PflashMode)flash->mode) {
    case MODE_PROGRAM:
        put_bytes(flash, data, value, size);
        program(flash, offset, data, size);
        enter(flash, MODE_STATUS);
        break;
    case MODE_ERASE:
        if (code != CMD_CONFIRM) {
            sequence_error(flash, "erase", code);
            break;
        }
        erase(flash, offset);
        enter(flash, MODE_STATUS);
        break;
    case MODE_BUFFER_COUNT:
        buffer_count(flash, value);
        break;
    case MODE_BUFFER_DATA:
        buffer_data(flash, offset, value, size);
        break;
    case MODE_BUFFER_CONFIRM:
        buffer_confirm(flash, code);
        break;
    case MODE_LOCK:
        if (code != CMD_CONFIRM && code != 1) {
            sequence_error(flash, "lock", code);
            break;
        }
        flash->status |= SR_READY;
        enter(flash, MODE_STATUS);
        break;
    default:
        command(flash, code);
        break;
    }
}

/* --- reads in other modes than the array's --- */

/* What each chip of the bank says, side by side. */
static uint64_t in_each_chip(const Pflash *flash, uint64_t value, unsigned size)
{
    unsigned chip = flash->device_width ? flash->device_width : flash->width;
    uint64_t all = 0;

    for (unsigned at = 0; at < size; at += chip) {
        all |= value << (8 * at);
    }
    return all & size_mask(size);
}

/* Chips answer by the word: the number of that at an offset in the bank. */
static uint64_t word_of(const Pflash *flash, uint64_t offset)
{
    unsigned shift = log2_of(flash->width);

    if (flash->device_width) {
        shift += log2_of(flash->max_device_width) - log2_of(flash->device_width);
    }
    return offset >> shift & 0xff;
}

/* A chip that could be wider says each byte in all lanes that it has. */
static uint64_t answer(const Pflash *flash, uint64_t value)
{
    for (unsigned at = 1; at < flash->device_width && flash->device_width < flash->max_device_width; at++) {
        value |= value << (8 * at);
    }
    return value;
}

static uint64_t identify(const Pflash *flash, uint64_t word)
{
    switch (word) {
    case 0:
        return (uint64_t)(flash->ident[0] << 8 | flash->ident[1]);
    case 1:
        return (uint64_t)(flash->ident[2] << 8 | flash->ident[3]);
    default:
        return 0; /* a sector's lock: open */
    }
}

static uint64_t pflash_read(void *opaque, uint64_t offset, unsigned size)
{
    const Pflash *flash = opaque;
    uint64_t word = word_of(flash, offset);

    if (refused(flash)) {
        uint64_t value = ld_le(flash->ram->host + offset, size);
        return flash->big_endian ? __builtin_bswap64(value) >> (64 - 8 * size) : value;
    }
    switch ((PflashMode)flash->mode) {
    case MODE_IDENTIFY:
        return in_each_chip(flash, answer(flash, identify(flash, word)), size);
    case MODE_QUERY:
        return in_each_chip(flash, answer(flash, word < QUERY_BYTES ? flash->query[word] : 0), size);
    default:
        return in_each_chip(flash, flash->status, size);
    }
}

static const MemOps little_ops = { .read = pflash_read, .write = pflash_write };
static const MemOps big_ops = { .read = pflash_read, .write = pflash_write, .big_endian = true };

/* --- the query table --- */

static void fill_query(Pflash *flash)
{
    unsigned chips = flash->device_width ? flash->width / flash->device_width : 1;
    uint64_t sector = flash->old_chips ? flash->sector : flash->sector / chips;
    uint32_t blocks = flash->old_chips ? flash->blocks / chips : flash->blocks;
    uint8_t *q = flash->query;

    memcpy(q + 0x10, "QRY", 3);
    st16_le(q + 0x13, 0x0001); /* Intel's extended command set, its table at 31h */
    st16_le(q + 0x15, 0x0031);
    q[0x1b] = 0x45; /* supply 4.5 to 5.5 V, no programming voltage */
    q[0x1c] = 0x55;
    q[0x1f] = 7;    /* typically 2^7 us a word and a buffer, 2^10 ms a sector; at most 2^4 times that */
    q[0x20] = 7;
    q[0x21] = 10;
    memset(q + 0x23, 4, 3);
    q[0x27] = (uint8_t)log2_of(sector * blocks);
    q[0x28] = 2;    /* 8 and 16 bits wide */
    q[0x2a] = flash->width == 1 ? 8 : 11; /* bytes of the write buffer: 2^n */
    q[0x2c] = 1;    /* regions of like sectors */
    st16_le(q + 0x2d, (uint16_t)(blocks - 1));
    st16_le(q + 0x2f, (uint16_t)(sector >> 8));
    memcpy(q + 0x31, "PRI10", 5);
    q[0x3f] = 1;    /* fields of protection registers */
    flash->buffer_bytes = BIT(q[0x2a]);
}

/* --- life --- */

static MUST_USE Error *check_shape(const Pflash *flash)
{
    uint64_t size;

    if (flash->width != 1 && flash->width != 2 && flash->width != 4) {
        return error_new("%s: width is 1, 2 or 4 bytes", flash->name);
    }
    if (flash->device_width && (!IS_POW2(flash->device_width) || flash->device_width > flash->width ||
                                !IS_POW2(flash->max_device_width) || flash->max_device_width < flash->device_width)) {
        return error_new("%s: device-width is 1, 2 or 4, at most width (%u) and at most max-device-width", flash->name, flash->width);
    }
    if (flash->blocks == 0 || flash->blocks > 65536 || flash->sector < 256 || flash->sector > 16 * MiB || !IS_POW2(flash->sector)) {
        return error_new("%s: num-blocks is 1 to 65536, sector-length a power of 2 from 256 to 16 MiB", flash->name);
    }
    size = pflash_size(flash);
    return size <= 1 * GiB ? NULL : error_new("%s: a flash has at most 1 GiB", flash->name);
}

static MUST_USE Error *open_image(Pflash *flash)
{
    BlockGraph *graph = machine_service(flash->dev.machine, BLOCK_SERVICE);
    g_autofree char *path = object_path(&flash->dev.object);

    TRY(drive_ref_attach(&flash->drive, graph, path, NULL, NULL, false, true, true, false));
    BlockBackend *blk = flash->drive.blk;
    if (blk_length(blk) < (int64_t)pflash_size(flash)) {
        return error_new("%s: the image has %" G_GINT64_FORMAT " bytes, the flash %" G_GUINT64_FORMAT, flash->name,
                         blk_length(blk), pflash_size(flash));
    }
    flash->readonly = blk_is_readonly(blk);
    int ret = blk_pread(blk, 0, pflash_size(flash), flash->ram->host);
    if (ret < 0) {
        return error_new_errno(-ret, "%s: cannot read the image", flash->name);
    }
    blk_set_in_saved_state(blk, true);
    return NULL;
}

static Error *pflash_plug(Device *dev)
{
    Pflash *flash = (Pflash *)dev;

    if (!flash->name) {
        return error_new("%s: the property name is not set", device_label(dev));
    }
    if (flash->device_width && !flash->max_device_width) {
        flash->max_device_width = flash->device_width;
    }
    TRY(check_shape(flash));
    uint64_t size = pflash_size(flash);
    fill_query(flash);
    mem_region_init(&flash->region, dev->machine->mem, flash->name, size);
    device_region_own(dev, &flash->region);
    TRY(device_region_ram(dev, &flash->array, flash->name, size));
    flash->ram = flash->array.ram;
    memset(flash->ram->host, 0xff, size);
    const MemOps *ops = flash->big_endian ? &big_ops : &little_ops;
    flash->array.ops = ops; /* they take the writes */
    flash->array.opaque = flash;
    mem_region_set_rom(&flash->array, true);
    device_region_io(dev, &flash->registers, flash->name, size, ops);
    mem_region_set_enabled(&flash->registers, false);
    mem_region_map(&flash->region, 0, &flash->array, 0);
    mem_region_map(&flash->region, 0, &flash->registers, 1);
    if (flash->drive.name) {
        TRY(open_image(flash));
    }
    flash->stored = device_alloc(dev, size);
    memcpy(flash->stored, flash->ram->host, size);
    return NULL;
}

static void pflash_unplug(Device *dev)
{
    Pflash *flash = (Pflash *)dev;

    if (flash->drive.blk) {
        finish_stores(flash);
        blk_abandon_held(flash->drive.blk);
        flash->store_from = flash->store_to = 0;
        drive_ref_detach(&flash->drive);
    }
}

static void pflash_reset(Device *dev)
{
    Pflash *flash = (Pflash *)dev;

    flash->status = SR_READY;
    flash->count = 0;
    enter(flash, MODE_ARRAY);
}

/* --- saved state --- */

static void pflash_saving(Device *dev)
{
    Pflash *flash = (Pflash *)dev;

    finish_stores(flash);
    if (flash->drive.blk) { /* whoever loads the array writes what the image lacks */
        blk_return_held(flash->drive.blk);
    }
}

static Error *pflash_loaded(Device *dev)
{
    Pflash *flash = (Pflash *)dev;

    if (flash->mode == MODE_BUFFER_CONFIRM && !flash->buffer_bad && flash->buffer_start >= pflash_size(flash)) {
        return error_new("a write buffer at 0x%" G_GINT64_MODIFIER "x of the flash", flash->buffer_start);
    }
    if ((flash->mode == MODE_BUFFER_DATA && flash->count == 0) || flash->count > BUFFER_MAX) {
        return error_new("%u data of a write buffer", flash->count);
    }
    enter(flash, (PflashMode)flash->mode);
    flash->store_late = dev->machine->state == RUN_STATE_INMIGRATE;
    if (!flash->store_late) {
        store_differences(flash);
    }
    return NULL;
}

static void pflash_resumed(Device *dev)
{
    Pflash *flash = (Pflash *)dev;

    if (flash->store_late) {
        flash->store_late = false;
        store_differences(flash);
    }
    store_next(flash);
}

static const Prop props[] = {
    PROP_DRIVE("drive", Pflash, drive, .help = "the image with the content, all of which is written back; without: all ones"),
    PROP_STR("name", Pflash, name, .help = "of the memory"),
    PROP_U32("num-blocks", Pflash, blocks, 0, .help = "how many sectors"),
    PROP_U64("sector-length", Pflash, sector, 0, .help = "bytes that are erased together"),
    PROP_U8("width", Pflash, width, 0, .help = "bytes of the bank's data bus"),
    PROP_U8("device-width", Pflash, device_width, 0, .help = "bytes of one chip's data bus; 0: one chip as wide as the bank"),
    PROP_U8("max-device-width", Pflash, max_device_width, 0, .help = "bytes that a chip's data bus could have; 0: as device-width"),
    PROP_BOOL("big-endian", Pflash, big_endian, false, .help = "byte order of data that are written"),
    PROP_BOOL("secure", Pflash, secure, false, .help = "commands are obeyed in system management mode only"),
    PROP_BOOL("old-multiple-chip-handling", Pflash, old_chips, false, .help = "each chip has a part of the sectors, not of a sector"),
    PROP_U16("id0", Pflash, ident[0], 0, .help = "manufacturer, high byte"),
    PROP_U16("id1", Pflash, ident[1], 0, .help = "manufacturer, low byte"),
    PROP_U16("id2", Pflash, ident[2], 0, .help = "device, high byte"),
    PROP_U16("id3", Pflash, ident[3], 0, .help = "device, low byte"),
    { 0 },
};

static const StateField state[] = {
    STATE_RANGE(Pflash, mode, 0, PFLASH_MODES - 1),
    STATE_U8(Pflash, status),
    STATE_U32(Pflash, count),
    STATE_U64(Pflash, buffer_start),
    STATE_BOOL(Pflash, buffer_bad),
    STATE_BYTES(Pflash, buffer),
    STATE_NOT(Pflash, is_secure, "the board's"),
    STATE_NOT(Pflash, secure_opaque, "the board's"),
    STATE_NOT(Pflash, ram, "saved as memory"),
    STATE_NOT(Pflash, region, "fixed"),
    STATE_NOT(Pflash, array, "fixed"),
    STATE_NOT(Pflash, registers, "mode says whether it is seen"),
    STATE_NOT(Pflash, readonly, "the image's"),
    STATE_NOT(Pflash, query, "made of properties"),
    STATE_NOT(Pflash, buffer_bytes, "made of properties"),
    STATE_NOT(Pflash, stored, "the image's"),
    STATE_NOT(Pflash, store_from, "nothing is left to be written in a saved machine"),
    STATE_NOT(Pflash, store_to, "nothing is left to be written in a saved machine"),
    STATE_NOT(Pflash, request, "nothing is under way in a saved machine"),
    STATE_NOT(Pflash, request_iov, "of request"),
    STATE_NOT(Pflash, store_late, "set after loading"),
    { 0 },
};

DEVICE_TYPE(pflash, DEVICE_OBJECT("cfi.pflash01", Pflash, props), .desc = "Parallel NOR flash", .category = DEV_INTERNAL, .state = state,
            .plug = pflash_plug, .unplug = pflash_unplug, .reset = pflash_reset, .saving = pflash_saving, .loaded = pflash_loaded,
            .resumed = pflash_resumed);

/* --- for boards --- */

Error *pflash_create(Machine *machine, const char *name, const char *drive, uint64_t size, uint32_t sector,
                     bool (*is_secure)(void *opaque), void *opaque, Pflash **ret_flash)
{
    Pflash *flash = (Pflash *)device_new(machine, &pflash_type_, NULL);

    flash->is_secure = is_secure;
    flash->secure_opaque = opaque;
    device_set_str(&flash->dev, "name", name);
    device_set_str(&flash->dev, "drive", drive);
    device_set_u64(&flash->dev, "width", 1);
    device_set_u64(&flash->dev, "sector-length", sector);
    device_set_u64(&flash->dev, "num-blocks", size / sector);
    object_add_child(machine->object, name, &flash->dev.object);
    TRY(device_plug(&flash->dev, NULL));
    *ret_flash = flash;
    return NULL;
}

MemRegion *pflash_region(Pflash *flash)
{
    return &flash->region;
}

const uint8_t *pflash_content(const Pflash *flash)
{
    return flash->ram->host;
}
