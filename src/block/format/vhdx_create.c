/* Driver "vhdx": making images. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/endian.h"
#include "block/format/vhdx.h"

typedef struct VhdxShape {
    uint64_t size, block, log;
    bool fixed, zero_state;
    uint64_t metadata, bat, bat_length, data; /* places in the file */
} VhdxShape;

const BlockOption vhdx_create_options[] = {
    { "block_size", OPT_SIZE,
      "Bytes in a block, 1 MiB to 256 MiB; 0 chooses by the size of the disk" },
    { "block_state_zero", OPT_BOOL,
      "Force use of payload blocks of type 'ZERO'.  Non-standard, but default." },
    { "log_size", OPT_SIZE, "Log size; min 1MB." },
    { "size", OPT_SIZE, "Size of the virtual disk, up to 64 TiB" },
    { "subformat", OPT_STR,
      "Kind of image: 'dynamic' (the default) or 'fixed'" },
    { 0 },
};

static uint64_t default_block(uint64_t size)
{
    return size > 32ull << 40 ? 64 * MiB
           : size > 100 * GiB ? 32 * MiB
           : size > 1 * GiB   ? 16 * MiB
                              : 8 * MiB;
}

/* iotests compare what it says. */
static Error *check_units(const VhdxShape *shape)
{
    if (shape->block < MiB || !IS_ALIGNED(shape->block, MiB)) {
        return error_new("Block size must be a multiple of 1 MB");
    }
    if (!IS_POW2(shape->block)) {
        return error_new("Block size must be a power of two");
    }
    if (shape->block > 256 * MiB) {
        return error_new("Block size must not exceed %" PRIu64, 256 * (uint64_t)MiB);
    }
    if (shape->log >= 4 * GiB) {
        return error_new("Log size must be smaller than 4 GB");
    }
    return shape->log < MiB || !IS_ALIGNED(shape->log, MiB) ? error_new("Log size must be a multiple of 1 MB") : NULL;
}

static Error *take_shape(KeyValues *opts, VhdxShape *shape)
{
    g_autofree char *subformat = keyvalues_take(opts, "subformat");

    bool as_given, chosen = keyvalues_has(opts, "block_size");

    TRY(block_take_disk_size(opts, &shape->size, &as_given));
    TRY(block_take_size(opts, "block_size", 0, &shape->block));
    TRY(block_take_size(opts, "log_size", MiB, &shape->log));
    TRY(block_take_bool(opts, "block_state_zero", true, &shape->zero_state));
    shape->fixed = subformat && !strcmp(subformat, "fixed");
    if (subformat && !shape->fixed && strcmp(subformat, "dynamic")) {
        return error_new("Invalid parameter '%s': dynamic or fixed is expected", subformat);
    }
    if (shape->size > VHDX_MAX_SIZE) {
        return error_new("Image size too large; max of 64TB");
    }
    TRY(block_round_disk_size(&shape->size, as_given));
    shape->block = shape->block || (as_given && chosen) ? shape->block : default_block(shape->size);
    TRY(check_units(shape));
    uint64_t blocks = (shape->size + shape->block - 1) / shape->block;
    uint64_t ratio = (1ull << 23) * 512 / shape->block;
    uint64_t entries = blocks + (blocks ? (blocks - 1) / ratio : 0);
    shape->metadata = MiB + shape->log;
    shape->bat = shape->metadata + MiB;
    shape->bat_length = MAX(ALIGN_UP(8 * entries, MiB), MiB);
    shape->data = shape->bat + shape->bat_length;
    return NULL;
}

static void make_header(const VhdxShape *shape, uint8_t *h, uint64_t sequence)
{
    VhdxGuid file = vhdx_guid_new(), data = vhdx_guid_new();
    memset(h, 0, VHDX_HEADER);
    memcpy(h, "head", 4);
    st64_le(h + VH_SEQUENCE, sequence);
    memcpy(h + VH_FILE_GUID, &file, 16);
    memcpy(h + VH_DATA_GUID, &data, 16);
    st16_le(h + VH_VERSION, 1);
    st32_le(h + VH_LOG_LENGTH, (uint32_t)shape->log);
    st64_le(h + VH_LOG_OFFSET, MiB);
    st32_le(h + VH_CHECKSUM, vhdx_checksum(h, VHDX_HEADER, VH_CHECKSUM));
}

static void make_regions(const VhdxShape *shape, uint8_t *t)
{
    const struct {
        const VhdxGuid *guid;
        uint64_t offset, length;
    } regions[] = {
        { &vhdx_guid_bat, shape->bat, shape->bat_length },
        { &vhdx_guid_metadata, shape->metadata, MiB },
    };
    memset(t, 0, VHDX_REGION_TABLE);
    memcpy(t, "regi", 4);
    st32_le(t + 8, ARRAY_SIZE(regions));
    for (size_t i = 0; i < ARRAY_SIZE(regions); i++) {
        uint8_t *e = t + 16 + 32 * i;
        memcpy(e, regions[i].guid, 16);
        st64_le(e + 16, regions[i].offset);
        st32_le(e + 24, (uint32_t)regions[i].length);
        st32_le(e + 28, 1);
    }
    st32_le(t + 4, vhdx_checksum(t, VHDX_REGION_TABLE, 4));
}

/* The table and, behind it, the items. */
static void make_metadata(const VhdxShape *shape, uint8_t *m)
{
    enum { IS_DISK = 2, IS_REQUIRED = 4 };
    VhdxGuid page83 = vhdx_guid_new();
    uint8_t parameters[8], size[8], logical[4], physical[4];
    const struct {
        const VhdxGuid *guid;
        const void *data;
        uint32_t length, flags;
    } items[] = {
        { &vhdx_guid_file_parameters, parameters, 8, IS_REQUIRED },
        { &vhdx_guid_disk_size, size, 8, IS_REQUIRED | IS_DISK },
        { &vhdx_guid_page83, &page83, 16, IS_REQUIRED | IS_DISK },
        { &vhdx_guid_logical_sector, logical, 4, IS_REQUIRED | IS_DISK },
        { &vhdx_guid_physical_sector, physical, 4, IS_REQUIRED | IS_DISK },
    };
    uint32_t at = VHDX_METADATA_TABLE;

    st32_le(parameters, (uint32_t)shape->block);
    st32_le(parameters + 4, shape->fixed ? 1 : 0);
    st64_le(size, shape->size);
    st32_le(logical, 512);
    st32_le(physical, 512);
    memcpy(m, "metadata", 8);
    st16_le(m + 10, ARRAY_SIZE(items));
    for (size_t i = 0; i < ARRAY_SIZE(items); i++) {
        uint8_t *e = m + 32 + 32 * i;
        memcpy(e, items[i].guid, 16);
        st32_le(e + 16, at);
        st32_le(e + 20, items[i].length);
        st32_le(e + 24, items[i].flags);
        memcpy(m + at, items[i].data, items[i].length);
        at += items[i].length;
    }
}

static int write_bat_co(BlockNode *file, const VhdxShape *shape)
{
    uint64_t blocks = (shape->size + shape->block - 1) / shape->block;
    uint64_t ratio = (1ull << 23) * 512 / shape->block;
    g_autofree uint8_t *chunk = g_malloc(MiB);

    for (uint64_t at = 0; at < shape->bat_length; at += MiB) {
        memset(chunk, 0, MiB);
        for (uint64_t i = 0; i < MiB / 8; i++) {
            uint64_t entry = at / 8 + i, index = entry - entry / (ratio + 1);
            bool bitmap = entry % (ratio + 1) == ratio;
            uint64_t value = bitmap || index >= blocks ? 0
                             : shape->fixed
                                 ? (shape->data + index * shape->block) | BAT_FULLY_PRESENT
                             : shape->zero_state ? BAT_ZERO
                                                 : BAT_NOT_PRESENT;
            st64_le(chunk + 8 * i, value);
        }
        int ret = node_pwrite_co(file, shape->bat + at, MiB, chunk, 0);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static int write_parts_co(BlockNode *file, const VhdxShape *shape)
{
    g_autofree uint8_t *buffer = g_malloc0(MAX(VHDX_REGION_TABLE, VHDX_METADATA_TABLE + 4096));
    const uint64_t headers[2] = { VHDX_HEADER_1, VHDX_HEADER_2 },
                   regions[2] = { VHDX_REGION_1, VHDX_REGION_2 };
    int ret;

    memcpy(buffer, "vhdxfile", 8);
    for (unsigned i = 0; i < 7; i++) { /* the creator, UTF-16 */
        buffer[8 + 2 * i] = (uint8_t) "Ostrich"[i];
    }
    ret = node_pwrite_co(file, 0, 4096, buffer, 0);
    for (unsigned i = 0; i < 2 && ret == 0; i++) {
        make_header(shape, buffer, i);
        ret = node_pwrite_co(file, headers[i], VHDX_HEADER, buffer, 0);
    }
    make_regions(shape, buffer);
    for (unsigned i = 0; i < 2 && ret == 0; i++) {
        ret = node_pwrite_co(file, regions[i], VHDX_REGION_TABLE, buffer, 0);
    }
    memset(buffer, 0, VHDX_METADATA_TABLE + 4096);
    make_metadata(shape, buffer);
    ret = ret < 0 ? ret
                  : node_pwrite_co(file, shape->metadata, VHDX_METADATA_TABLE + 4096, buffer, 0);
    return ret < 0 ? ret : write_bat_co(file, shape);
}

Error *vhdx_create_co(BlockGraph *graph, const char *filename, BlockNode *file, KeyValues *opts)
{
    VhdxShape shape;
    TRY(take_shape(opts, &shape));
    uint64_t blocks = (shape.size + shape.block - 1) / shape.block;
    TRY(node_truncate_co(file, shape.data + (shape.fixed ? blocks * shape.block : 0),
                         PREALLOC_OFF));
    int ret = write_parts_co(file, &shape);
    return ret < 0 ? error_new_errno(ret, "Could not write the VHDX image") : NULL;
}
