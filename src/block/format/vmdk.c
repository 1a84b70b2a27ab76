/*
 * Driver "vmdk": VMware disk images, as the "Virtual Disk Format 5.0" technical note has them: a
 * text descriptor, in a file of its own or inside a sparse extent, and flat, zero and hosted sparse
 * extents, compressed grains included.
 *
 * An image names its extents; they must lie beside it, so that an image cannot make its reader open
 * other files. Missing: ESX's extents (VMFSSPARSE, SESPARSE), extents on raw devices.
 */
#include "block/format/vmdk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "base/endian.h"

static int vmdk_probe(const uint8_t *data, size_t length, const char *filename)
{
    if (length >= VMDK_HEADER && ld32_le(data) == VMDK_MAGIC) {
        return 100;
    }
    /* A descriptor: comments and blank lines, then its version. */
    const char *p = (const char *)data, *end = p + length;
    while (p < end) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        size_t line = newline ? (size_t)(newline - p) : (size_t)(end - p);
        if (line >= 9 && !memcmp(p, "version=", 8) && p[8] >= '1' && p[8] <= '3') {
            return 100;
        }
        if (*p != '#' && line != strspn(p, " \r\t")) {
            return 0;
        }
        p += line + 1;
    }
    return 0;
}

/* --- grains --- */

static VmdkExtent *extent_at(const Vmdk *s, uint64_t offset)
{
    unsigned low = 0, high = s->count;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        *(offset < s->extents[middle].start ? &high : &low) = middle;
    }
    VmdkExtent *x = &s->extents[low];
    return offset - x->start < x->size ? x : NULL;
}

static int entry_co(VmdkExtent *x, uint64_t offset, uint32_t *ret)
{
    uint8_t raw[4];
    int code = meta_get_co(&x->meta, offset, raw, 4);
    *ret = ld32_le(raw);
    return code;
}

static int set_entry_co(VmdkExtent *x, uint64_t offset, uint32_t value)
{
    uint8_t raw[4];
    st32_le(raw, value);
    return meta_put_co(&x->meta, offset, raw, 4);
}

/* Where the grain's entry lies; 0: there is no table. */
static int entry_place_co(VmdkExtent *x, uint64_t directory, uint64_t grain, uint64_t *ret)
{
    uint32_t table;
    int code = entry_co(x, directory + 4 * (grain / x->gt_entries), &table);
    *ret = table ? (uint64_t)table * 512 + 4 * (grain % x->gt_entries) : 0;
    return code;
}

static int find_sparse_co(VmdkExtent *x, uint64_t in, BlockPlace *ret)
{
    uint64_t place;
    uint32_t entry;
    int code = entry_place_co(x, x->gd, in / x->grain, &place);

    if (code < 0 || !place) {
        return code;
    }
    code = entry_co(x, place, &entry);
    if (code < 0 || !entry) {
        return code;
    }
    if (entry == 1 && (x->flags & VMDK_FLAG_ZEROED_GRAIN)) {
        ret->kind = PLACE_ZERO;
        return 0;
    }
    ret->kind = x->flags & VMDK_FLAG_COMPRESSED ? PLACE_PACKED : PLACE_DATA;
    ret->offset = (uint64_t)entry * 512;
    ret->file = x->file;
    return 0;
}

static int find_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Vmdk *s = node->state;
    uint64_t offset = index * s->map.block_size;
    VmdkExtent *x = extent_at(s, offset);

    if (!x) {
        return -EIO;
    }
    switch (x->kind) {
    case EXTENT_ZERO:
        ret->kind = PLACE_ZERO;
        return 0;
    case EXTENT_FLAT:
        *ret = (BlockPlace) { PLACE_DATA, x->flat_offset + offset - x->start, x->file };
        return 0;
    default:
        return find_sparse_co(x, offset - x->start, ret);
    }
}

/* To the end of the span of a grain table that is not there. */
static int skip_co(BlockNode *node, uint64_t index, uint64_t *ret_count)
{
    Vmdk *s = node->state;
    uint64_t offset = index * s->map.block_size, place = 1;
    VmdkExtent *x = extent_at(s, offset);
    int code = 0;

    if (x && x->kind == EXTENT_SPARSE) {
        uint64_t grain = (offset - x->start) / x->grain;
        code = entry_place_co(x, x->gd, grain, &place);
        uint64_t left = (x->size - (offset - x->start) + x->grain - 1) / x->grain;
        *ret_count = code == 0 && !place ? MIN(left, x->gt_entries - grain % x->gt_entries) : 1;
    }
    return code;
}

static int alloc_co(BlockNode *node, uint64_t index, BlockPlace *ret)
{
    Vmdk *s = node->state;
    VmdkExtent *x = extent_at(s, index * s->map.block_size);
    if (!x || x->kind != EXTENT_SPARSE) {
        return -EPERM;
    }
    if (x->end / 512 > UINT32_MAX) {
        return -EFBIG;
    }
    *ret = (BlockPlace) { PLACE_DATA, x->end, x->file };
    x->end += x->grain;
    return 0;
}

/* A grain table that is missing, in one directory. */
static int make_table_co(VmdkExtent *x, uint64_t directory, uint64_t grain)
{
    uint64_t table = x->end, bytes = ALIGN_UP(4 * x->gt_entries, 512ull);
    x->end += ALIGN_UP(bytes, x->grain);
    int ret = node_write_zeroes_co(x->file, table, bytes, 0);
    return ret < 0
               ? ret
               : set_entry_co(x, directory + 4 * (grain / x->gt_entries), (uint32_t)(table / 512));
}

static int set_grain_co(Vmdk *s, VmdkExtent *x, uint64_t grain, uint32_t value)
{
    const uint64_t directories[2] = { x->gd, x->rgd };
    int ret = 0;

    for (unsigned i = 0; i < 2 && directories[i] && ret == 0; i++) {
        uint64_t place;
        co_mutex_lock(&s->lock);
        ret = entry_place_co(x, directories[i], grain, &place);
        if (ret == 0 && !place) {
            ret = make_table_co(x, directories[i], grain);
            ret = ret < 0 ? ret : entry_place_co(x, directories[i], grain, &place);
        }
        co_mutex_unlock(&s->lock);
        ret = ret < 0 ? ret : set_entry_co(x, place, value);
    }
    return ret;
}

static int link_co(BlockNode *node, uint64_t index, const BlockPlace *place)
{
    Vmdk *s = node->state;
    uint64_t offset = index * s->map.block_size;
    VmdkExtent *x = extent_at(s, offset);
    return set_grain_co(s, x, (offset - x->start) / x->grain, (uint32_t)(place->offset / 512));
}

static int zero_co(BlockNode *node, uint64_t index)
{
    Vmdk *s = node->state;
    uint64_t offset = index * s->map.block_size;
    VmdkExtent *x = extent_at(s, offset);
    BlockPlace place = { 0 };

    if (!x || x->kind != EXTENT_SPARSE || !(x->flags & VMDK_FLAG_ZEROED_GRAIN)) {
        return -ENOTSUP;
    }
    int ret = find_co(node, index, &place);
    if (ret < 0 || place.kind != PLACE_NONE) { /* a grain in use stays in use */
        return ret < 0 ? ret : -ENOTSUP;
    }
    return set_grain_co(s, x, (offset - x->start) / x->grain, 1);
}

/* --- compressed grains --- */

enum { MARKER = 12 };

static int unpack_co(BlockNode *node, uint64_t index, const BlockPlace *place, uint8_t *data)
{
    Vmdk *s = node->state;
    VmdkExtent *x = extent_at(s, index * s->map.block_size);
    uint64_t limit = x->grain * 2, start = place->offset, left;
    uint8_t marker[MARKER];
    uLongf length = (uLongf)x->grain;

    left = limit;
    if (x->flags & VMDK_FLAG_MARKERS) {
        int ret = node_pread_co(x->file, start, MARKER, marker);
        if (ret < 0) {
            return ret;
        }
        left = ld32_le(marker + 8);
        start += MARKER;
        if (ld64_le(marker) * 512 != index * s->map.block_size - x->start) {
            return -EINVAL;
        }
    }
    if (!left || left > limit || start > x->file->size) {
        return -EINVAL;
    }
    left = MIN(left, x->file->size - start);
    g_autofree uint8_t *packed = g_try_malloc(left ? left : 1);
    int ret = packed ? node_pread_co(x->file, start, left, packed) : -ENOMEM;
    if (ret < 0) {
        return ret;
    }
    memset(data, 0, (size_t)x->grain);
    return uncompress(data, &length, packed, (uLong)left) == Z_OK ? 0 : -EINVAL;
}

typedef struct PackCall {
    const uint8_t *data;
    size_t bytes;
    uint8_t *packed;
    uLongf length;
} PackCall;

static int call_pack(void *opaque)
{
    PackCall *call = opaque;
    return compress(call->packed, &call->length, call->data, (uLong)call->bytes) == Z_OK ? 0 : -EIO;
}

/* `data` is a whole grain. */
static int write_packed_grain_co(BlockNode *node, uint64_t index, const uint8_t *data)
{
    Vmdk *s = node->state;
    uint64_t offset = index * s->map.block_size;
    VmdkExtent *x = extent_at(s, offset);
    size_t room = compressBound((uLong)x->grain);
    BlockPlace place = { 0 };
    int ret = find_co(node, index, &place);

    if (ret < 0 || place.kind != PLACE_NONE) {
        return ret < 0 ? ret : -EIO; /* such an image is written once, from front to back */
    }
    g_autofree uint8_t *packed = g_try_malloc0(MARKER + room + 512);
    if (!packed) {
        return -ENOMEM;
    }
    PackCall call = { data, (size_t)x->grain, packed + MARKER, (uLongf)room };
    ret = co_blocking(call_pack, &call);
    if (ret < 0) {
        return ret;
    }
    st64_le(packed, (offset - x->start) / 512);
    st32_le(packed + 8, (uint32_t)call.length);
    uint64_t bytes = ALIGN_UP(MARKER + (uint64_t)call.length, 512ull), at = x->end;
    if (at / 512 > UINT32_MAX) {
        return -EFBIG;
    }
    x->end += bytes;
    ret = node_pwrite_co(x->file, at, bytes, packed, 0);
    return ret < 0 ? ret : set_grain_co(s, x, (offset - x->start) / x->grain, (uint32_t)(at / 512));
}

static int write_packed_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           size_t at)
{
    Vmdk *s = node->state;
    uint64_t grain = s->map.block_size;
    g_autofree uint8_t *data = g_try_malloc(grain);

    if (!data) {
        return -ENOMEM;
    }
    while (bytes) {
        uint64_t part = MIN(bytes, grain);
        if (offset % grain || (part < grain && offset + part != node->size)) {
            return -EINVAL;
        }
        block_vec_to_buffer(vec, at, data, (size_t)part);
        memset(data + part, 0, (size_t)(grain - part));
        int ret = write_packed_grain_co(node, offset / grain, data);
        if (ret < 0) {
            return ret;
        }
        offset += part;
        bytes -= part;
        at += (size_t)part;
    }
    return 0;
}

/* --- opening --- */

/* One size of blocks for all extents. */
static Error *choose_block(BlockNode *node)
{
    Vmdk *s = node->state;
    uint64_t grain = 0, block = MiB;

    for (unsigned i = 0; i < s->count; i++) {
        VmdkExtent *x = &s->extents[i];
        if (x->kind == EXTENT_SPARSE) {
            if (grain && grain != x->grain) {
                return error_new("The VMDK image's extents have different grain sizes");
            }
            grain = x->grain;
            s->compressed |= (x->flags & VMDK_FLAG_COMPRESSED) != 0;
        }
    }
    block = grain ? grain : block;
    for (unsigned i = 1; i < s->count; i++) {
        while (s->extents[i].start % block) {
            block /= 2;
        }
    }
    if (grain && block != grain) {
        return error_new("The VMDK image's extents do not begin at whole grains");
    }
    blockmap_init(&s->map, block);
    s->map.find_co = find_co;
    s->map.alloc_co = grain ? alloc_co : NULL;
    s->map.link_co = link_co;
    s->map.holes = !grain;
    s->map.zero_co = zero_co;
    s->map.skip_co = skip_co;
    s->map.unpack_co = unpack_co;
    node->limits.cluster_size = grain ? (uint32_t)grain : 0;
    node->size = s->extents[s->count - 1].start + s->extents[s->count - 1].size;
    return NULL;
}

static void state_clear(Vmdk *s)
{
    for (unsigned i = 0; s->extents && i < VMDK_MAX_EXTENTS; i++) {
        meta_fini(&s->extents[i].meta);
    }
    g_free(s->extents);
    g_free(s->descriptor);
    g_free(s->create_type);
}

static Error *vmdk_open_co(BlockNode *node, KeyValues *opts)
{
    Vmdk *s = node->state;

    s->extents = g_new0(VmdkExtent, VMDK_MAX_EXTENTS);
    co_mutex_init(&s->lock);
    node->limits.request_align = 512;
    Error *err = vmdk_open_image_co(node);
    if (!err) {
        err = choose_block(node);
    }
    if (err) {
        state_clear(s);
        *s = (Vmdk) { 0 };
        return err;
    }
    node->limits.compressed_only = s->compressed;
    return NULL;
}

/* --- writing back --- */

/* The number by which overlays know that the contents are still those they were made over. */
static int change_cid_co(BlockNode *node)
{
    Vmdk *s = node->state;
    char text[9];

    char *at = s->descriptor ? strstr(s->descriptor, "\nCID=") : NULL;
    size_t room = at ? strcspn(at + 5, "\r\n") : 0;
    s->cid_changed = true;
    if (!at) {
        return 0;
    }
    s->cid = g_random_int() & 0x7fffffff;
    snprintf(text, sizeof(text), "%08x", s->cid);
    size_t tail = strlen(at + 5 + room) + 1;
    size_t used = (size_t)(at + 5 - s->descriptor) + 8 + tail - 1;
    bool own_file = s->descriptor_offset == 0;
    if (used > (own_file ? VMDK_MAX_DESCRIPTOR : s->descriptor_size)) {
        return 0;
    }
    char *grown = g_malloc0(MAX(used, s->descriptor_size) + 1);
    size_t before = (size_t)(at + 5 - s->descriptor);
    memcpy(grown, s->descriptor, before);
    memcpy(grown + before, text, 8);
    memcpy(grown + before + 8, at + 5 + room, tail);
    g_free(s->descriptor);
    s->descriptor = grown;
    s->descriptor_size = own_file ? used : s->descriptor_size;
    return node_pwrite_co(node->file->node, s->descriptor_offset, s->descriptor_size, grown, 0);
}

static int for_all_co(BlockNode *node, int (*fn)(MetaCache *cache))
{
    Vmdk *s = node->state;
    int ret = 0;
    for (unsigned i = 0; i < s->count && ret == 0; i++) {
        ret = s->extents[i].kind == EXTENT_SPARSE ? fn(&s->extents[i].meta) : 0;
    }
    return ret;
}

static int vmdk_write_back_co(BlockNode *node)
{
    return for_all_co(node, meta_write_back_co);
}

static int vmdk_flush_co(BlockNode *node)
{
    Vmdk *s = node->state;
    int ret = vmdk_write_back_co(node);
    for (unsigned i = 0; i < s->count && ret == 0; i++) {
        ret = s->extents[i].file ? node_flush_co(s->extents[i].file) : 0;
    }
    return ret < 0 ? ret : node_flush_co(node->file->node);
}

static void vmdk_close_co(BlockNode *node)
{
    if (!node->read_only) {
        vmdk_write_back_co(node);
    }
    state_clear(node->state);
}

/* --- requests --- */

/* An overlay is over the contents that its backing image had then: when that was changed since, what shows through is garbage. */
static bool parent_differs(BlockNode *node)
{
    Vmdk *s = node->state;
    if (!s->parent_checked && node->backing) {
        const BlockNode *parent = node_skip_filters(node->backing->node);
        s->parent_differs = parent->driver != node->driver || ((const Vmdk *)parent->state)->cid != s->parent_cid;
        s->parent_checked = true;
    }
    return s->parent_differs;
}

static int vmdk_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at)
{
    if (parent_differs(node)) {
        return -EINVAL;
    }
    return blockmap_preadv_co(&((Vmdk *)node->state)->map, node, offset, bytes, vec, at);
}

static int vmdk_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           size_t at, unsigned flags)
{
    Vmdk *s = node->state;
    int ret = s->cid_changed ? 0 : change_cid_co(node);
    if (ret < 0) {
        return ret;
    }
    if (s->compressed) {
        return write_packed_co(node, offset, bytes, vec, at);
    }
    return flags & REQ_COMPRESSED ? -ENOTSUP
                                  : blockmap_pwritev_co(&s->map, node, offset, bytes, vec, at);
}

static int vmdk_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    Vmdk *s = node->state;
    int ret = s->cid_changed ? 0 : change_cid_co(node);
    return ret < 0 ? ret : blockmap_write_zeroes_co(&s->map, node, offset, bytes, flags);
}

static int vmdk_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret)
{
    return blockmap_status_co(&((Vmdk *)node->state)->map, node, offset, bytes, ret);
}

static uint64_t vmdk_allocated_size(BlockNode *node)
{
    uint64_t sum = 0;
    LIST_FOREACH (edge, &node->children, BlockEdge, in_parent) {
        uint64_t part = edge->role == CHILD_BACKING ? 0 : node_allocated_size(edge->node);
        sum = part == UINT64_MAX || sum == UINT64_MAX ? UINT64_MAX : sum + part;
    }
    return sum;
}

static Value *extent_value(BlockNode *node, const VmdkExtent *x)
{
    Value *v = value_dict();
    value_put(v, "virtual-size", value_uint(x->size));
    value_put_str(v, "filename", x->file ? x->file->filename : "");
    if (x->kind == EXTENT_SPARSE) {
        value_put(v, "cluster-size", value_uint(x->grain));
    }
    if (x->flags & VMDK_FLAG_COMPRESSED && x->kind == EXTENT_SPARSE) {
        value_put_bool(v, "compressed", true);
    }
    value_put_str(v, "format",
                  x->kind == EXTENT_FLAT   ? "FLAT"
                  : x->kind == EXTENT_ZERO ? "ZERO"
                                           : "");
    return v;
}

static void vmdk_info(BlockNode *node, Value *data)
{
    Vmdk *s = node->state;
    Value *extents = value_list();
    for (unsigned i = 0; i < s->count; i++) {
        value_append(extents, extent_value(node, &s->extents[i]));
    }
    value_put(data, "cid", value_uint(s->cid));
    value_put(data, "parent-cid", value_uint(s->parent_cid));
    value_put_str(data, "create-type", s->create_type);
    value_put(data, "extents", extents);
}

/* Every grain must lie in its file. */
static Error *vmdk_check_co(BlockNode *node, BlockCheck *check, unsigned fix)
{
    Vmdk *s = node->state;
    if (fix) {
        return error_new("The format driver 'vmdk' does not support repairing images");
    }
    for (uint64_t at = 0, skipped = 1; at < node->size; at += skipped * s->map.block_size) {
        VmdkExtent *x = extent_at(s, at);
        BlockPlace place = { 0 };
        skipped = 1;
        if (x && x->kind != EXTENT_SPARSE) { /* lies where it lies */
            skipped = (x->size + s->map.block_size - 1) / s->map.block_size;
            continue;
        }
        int ret = x ? find_co(node, at / s->map.block_size, &place) : -EIO;
        if (ret == 0 && place.kind == PLACE_NONE) {
            ret = skip_co(node, at / s->map.block_size, &skipped);
        }
        bool outside = (place.kind == PLACE_DATA || place.kind == PLACE_PACKED) &&
                       place.offset >= x->file->size;
        check->check_errors += ret < 0;
        check->corruptions += outside;
        if (outside && check->message) {
            g_autofree char *text =
                g_strdup_printf("ERROR: cannot find extent for sector %" PRIu64, at / 512);
            check->message(check->opaque, text);
        }
        if (check->check_errors + check->corruptions > 100) {
            break;
        }
    }
    return NULL;
}

BLOCK_DRIVER(vmdk, .name = "vmdk", .desc = "VMware disk image", .state_size = sizeof(Vmdk),
             .supports_backing = true, .create_options = vmdk_create_options, .probe = vmdk_probe,
             .open_co = vmdk_open_co, .close_co = vmdk_close_co, .create_co = vmdk_create_co,
             .preadv_co = vmdk_preadv_co, .pwritev_co = vmdk_pwritev_co,
             .write_zeroes_co = vmdk_write_zeroes_co, .flush_co = vmdk_flush_co,
             .write_back_co = vmdk_write_back_co, .status_co = vmdk_status_co,
             .allocated_size = vmdk_allocated_size, .info = vmdk_info, .check_co = vmdk_check_co,
             .write_flags = REQ_COMPRESSED);
