/* Driver "vmdk": descriptors and headers of extents, read and checked. */
#include "block/format/vmdk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"

enum { DIRECTORY_MAX = 512 * 1024 * 1024 /* entries */ };

/* --- descriptors --- */

char *vmdk_descriptor_value(const char *descriptor, const char *key)
{
    size_t length = strlen(key);
    for (const char *p = descriptor; p; p = strchr(p, '\n')) {
        p += *p == '\n';
        if (!strncmp(p, key, length)) {
            const char *v = p + length + strspn(p + length, " \t");
            if (*v == '=') {
                v += 1 + strspn(v + 1, " \t");
                size_t end = strcspn(v, "\r\n");
                bool quoted = end >= 2 && v[0] == '"' && v[end - 1] == '"';
                return quoted ? g_strndup(v + 1, end - 2) : g_strndup(v, end);
            }
        }
    }
    return NULL;
}

/* Flat extents say where in their file they begin, others do not. */
static bool extent_line_valid(const VmdkExtentLine *line, int fields)
{
    return !strcmp(line->type, "FLAT") ? fields == 5 : !strcmp(line->type, "ZERO") ? fields >= 3 : fields == 4;
}

bool vmdk_next_extent(const char **cursor, VmdkExtentLine *ret)
{
    while (**cursor) {
        const char *line = *cursor;
        size_t length = strcspn(line, "\n");
        *cursor = line + length + (line[length] == '\n');
        g_autofree char *text = g_strndup(line, MIN(length, 1023));
        *ret = (VmdkExtentLine) { 0 };
        int got = sscanf(text, "%15s %" SCNu64 " %15s \"%511[^\n\r\"]\" %" SCNu64, ret->access,
                         &ret->sectors, ret->type, ret->name, &ret->offset);
        if (got >= 3 && (!strcmp(ret->access, "RW") || !strcmp(ret->access, "RDONLY"))) {
            ret->valid = extent_line_valid(ret, got);
            g_strlcpy(ret->text, text, sizeof(ret->text));
            return true;
        }
    }
    return false;
}

/* --- opening extents --- */

static Error *check_sparse(const VmdkExtent *x, const uint8_t *h, uint64_t file_size)
{
    uint64_t capacity = ld64_le(h + H_CAPACITY), grain = ld64_le(h + H_GRAIN);
    uint32_t entries = ld32_le(h + H_GT_ENTRIES), version = ld32_le(h + H_VERSION);

    if (ld32_le(h) != VMDK_MAGIC) {
        return error_new("Not a sparse VMDK extent (bad magic)");
    }
    if (version > 3) {
        return error_new("VMDK version %u is not known here", version);
    }
    if (entries > VMDK_GT_ENTRIES || !entries) { /* iotests compare what is said of the three */
        return error_new("L2 table size too big");
    }
    if (!IS_POW2(grain) || grain < 8 || grain > 128 * 1024) {
        return error_new("Invalid granularity, image may be corrupt");
    }
    if (capacity > INT64_MAX / 512 / 4 || capacity / grain / entries > DIRECTORY_MAX) {
        return error_new("L1 size too big");
    }
    if ((x->flags & VMDK_FLAG_COMPRESSED) && ld16_le(h + H_COMPRESSION) != 1) {
        return error_new("Unsupported compression of grains (%u)", ld16_le(h + H_COMPRESSION));
    }
    uint64_t grains = (capacity + grain - 1) / grain, tables = (grains + entries - 1) / entries;
    if (x->gd > file_size || tables * 4 > file_size - x->gd ||
        (x->rgd && (x->rgd > file_size || tables * 4 > file_size - x->rgd))) {
        return error_new(
            "The VMDK extent's grain directory lies outside the file: image may be truncated");
    }
    return NULL;
}

/* Where a stream has its directory: the footer is the last but one sector. */
static Error *read_footer_co(BlockNode *file, uint8_t *h)
{
    uint64_t at = ALIGN_DOWN(file->size, 512ull);
    if (at < 3 * 512 || node_pread_co(file, at - 1024, VMDK_HEADER, h) < 0 ||
        ld32_le(h) != VMDK_MAGIC || ld64_le(h + H_GD) == VMDK_GD_AT_END) {
        return error_new("The VMDK image's footer is missing: the file may be cut");
    }
    return NULL;
}

/* h: its header; replaced by the footer's copy where that counts. */
static Error *open_sparse_co(BlockNode *node, VmdkExtent *x, uint8_t *h)
{
    if (ld64_le(h + H_GD) == VMDK_GD_AT_END) {
        TRY(read_footer_co(x->file, h));
    }
    uint64_t gd = ld64_le(h + H_GD), rgd = ld64_le(h + H_RGD);
    x->flags = ld32_le(h + H_FLAGS);
    x->version = ld32_le(h + H_VERSION);
    x->gd = MIN(gd, INT64_MAX / 512) * 512; /* beyond the end of any file */
    x->rgd = x->flags & VMDK_FLAG_REDUNDANT ? MIN(rgd, INT64_MAX / 512) * 512 : 0;
    TRY(check_sparse(x, h, x->file->size));
    x->kind = EXTENT_SPARSE;
    x->grain = ld64_le(h + H_GRAIN) * 512;
    x->gt_entries = ld32_le(h + H_GT_ENTRIES);
    uint64_t capacity = ld64_le(h + H_CAPACITY) * 512;
    if (x->size && x->size > capacity) {
        return error_new("The VMDK extent is smaller than the descriptor says");
    }
    x->size = x->size ? x->size : capacity;
    uint64_t overhead = ld64_le(h + H_OVERHEAD);
    if (overhead > x->file->size / 512) { /* iotests compare it */
        return error_new("File truncated, expecting at least %" PRIu64 " bytes", overhead * 512);
    }
    uint64_t least = overhead < INT64_MAX / 1024 ? overhead * 512 : 0;
    uint64_t unit = x->flags & VMDK_FLAG_COMPRESSED ? 512 : x->grain;
    x->end = ALIGN_UP(MAX(x->file->size, least), unit);
    meta_init(&x->meta, x->file);
    return NULL;
}

/* A name beside the image: not absolute, not upwards, no protocol. */
static bool name_is_safe(const char *name)
{
    g_auto(GStrv) parts = g_strsplit(name, "/", -1);
    for (char **p = parts; *p; p++) {
        if (!strcmp(*p, "..")) {
            return false;
        }
    }
    const char *colon = strchr(name, ':');
    return *name && name[0] != '/' && (!colon || memchr(name, '/', (size_t)(colon - name)));
}

static Error *open_extent_file_co(BlockNode *node, unsigned number, const char *name, VmdkExtent *x)
{
    g_autofree char *edge = g_strdup_printf("extents.%u", number);
    g_autofree char *path = block_resolve_backing(node->filename, name), *self = node_filename(node->file->node);
    g_autoptr(KeyValues) opts = keyvalues_new();
    BlockNode *file;
    BlockEdge *unused;

    if (!node->file->node->filename[0] && name[0] != '/') { /* iotests compare it */
        return error_new("Cannot use relative paths with VMDK descriptor file '%s': Cannot generate a base directory for %s "
                         "nodes", self, node->file->node->driver->name);
    }
    if (!name_is_safe(name)) {
        return error_hint(
            error_new("The VMDK image's extent '%s' does not lie beside the image", name),
            "An extent may be in the image's directory or below it. Open it by itself, or "
            "correct the image's descriptor.");
    }
    keyvalues_set(opts, "driver", "file");
    keyvalues_set(opts, "locking", "auto");
    Error *err = block_open_file_co(node->graph, path, "file",
                                    OPEN_PROTOCOL | (node->read_only ? 0 : OPEN_WRITE) |
                                        (node->force_share ? OPEN_FORCE_SHARE : 0) |
                                        (node->no_flush ? OPEN_NO_FLUSH : 0) |
                                        (node->direct ? OPEN_DIRECT : 0),
                                    NULL, &file);
    TRY(err);
    err = node_attach_child(node, file, edge, CHILD_FILE, &unused);
    if (err) {
        node_unref_co(file);
        return err;
    }
    x->file = file;
    return NULL;
}

static Error *open_extent_co(BlockNode *node, unsigned number, const VmdkExtentLine *line,
                             VmdkExtent *x)
{
    if (line->sectors > INT64_MAX / 512 / 2 || line->offset > INT64_MAX / 512 / 2) {
        return error_new("The VMDK extent's size or offset is too large");
    }
    x->size = line->sectors * 512;
    if (!strcmp(line->type, "ZERO")) {
        x->kind = EXTENT_ZERO;
        return NULL;
    }
    if (!strcmp(line->type, "FLAT") || !strcmp(line->type, "VMFS")) {
        TRY(open_extent_file_co(node, number, line->name, x));
        x->kind = EXTENT_FLAT;
        x->flat_offset = line->offset * 512;
        return x->flat_offset + x->size > x->file->size
                   ? error_new("The VMDK extent '%s' is shorter than the descriptor says",
                               line->name)
                   : NULL;
    }
    if (!strcmp(line->type, "SPARSE")) {
        uint8_t h[VMDK_HEADER];
        TRY(open_extent_file_co(node, number, line->name, x));
        int ret = node_pread_co(x->file, 0, VMDK_HEADER, h);
        return ret < 0 ? error_new_errno(ret, "Could not read the extent '%s'", line->name)
                       : open_sparse_co(node, x, h);
    }
    return error_new("Extents of type '%s' are not known here", line->type);
}

static Error *open_extents_co(BlockNode *node)
{
    Vmdk *s = node->state;
    const char *cursor = s->descriptor;
    VmdkExtentLine line;
    uint64_t at = 0;

    while (vmdk_next_extent(&cursor, &line)) {
        if (s->count == VMDK_MAX_EXTENTS) {
            return error_new("The VMDK image has more than %d extents", VMDK_MAX_EXTENTS);
        }
        if (!strcmp(line.access, "RDONLY") && !node->read_only) {
            return error_new("The VMDK extent '%s' is read-only", line.name);
        }
        if (!line.valid) { /* iotests compare it */
            return error_new("Invalid extent line: %s", line.text);
        }
        VmdkExtent *x = &s->extents[s->count];
        x->start = at;
        TRY(open_extent_co(node, s->count, &line, x));
        s->count += x->size != 0;
        at += x->size;
        if (at > 1ull << 50) {
            return error_new("The VMDK image is too large");
        }
    }
    return s->count ? NULL : error_new("The VMDK image's descriptor has no extents");
}

/* --- opening an image --- */

static Error *read_descriptor_co(BlockNode *node, uint64_t offset, uint64_t size)
{
    Vmdk *s = node->state;
    BlockNode *file = node->file->node;

    if (offset > file->size) {
        return error_new("The VMDK image's descriptor lies outside the file");
    }
    size = MIN(size, MIN(file->size - offset, VMDK_MAX_DESCRIPTOR));
    s->descriptor = g_malloc0(size + 1);
    s->descriptor_offset = offset;
    s->descriptor_size = size;
    int ret = node_pread_co(file, offset, size, s->descriptor);
    return ret < 0 ? error_new_errno(ret, "Could not read the VMDK image's descriptor") : NULL;
}

static uint32_t hex_value(const char *descriptor, const char *key)
{
    g_autofree char *text = vmdk_descriptor_value(descriptor, key);
    return text ? (uint32_t)strtoull(text, NULL, 16) : UINT32_MAX;
}

static Error *use_descriptor(BlockNode *node)
{
    Vmdk *s = node->state;

    s->create_type = vmdk_descriptor_value(s->descriptor, "createType");
    s->cid = hex_value(s->descriptor, "CID");
    s->parent_cid = hex_value(s->descriptor, "parentCID");
    if (!s->create_type) {
        return error_new("invalid VMDK image descriptor");
    }
    char *parent = vmdk_descriptor_value(s->descriptor, "parentFileNameHint");
    if (parent && *parent && s->parent_cid != UINT32_MAX) {
        node->backing_filename = parent;
        node->backing_format = g_strdup("vmdk");
    } else {
        g_free(parent);
    }
    return NULL;
}

Error *vmdk_open_image_co(BlockNode *node)
{
    Vmdk *s = node->state;
    BlockNode *file = node->file->node;
    uint8_t h[VMDK_HEADER] = { 0 };

    int ret = file->size ? node_pread_co(file, 0, MIN(file->size, sizeof(h)), h) : 0;
    if (ret < 0) {
        return error_new_errno(ret, "Could not read the VMDK header");
    }
    if (ld32_le(h) != VMDK_MAGIC) {
        TRY(read_descriptor_co(node, 0, VMDK_MAX_DESCRIPTOR));
        TRY(use_descriptor(node));
        return open_extents_co(node);
    }
    uint64_t where = ld64_le(h + H_DESC_OFFSET), size = ld64_le(h + H_DESC_SIZE);
    s->extents[0].file = file;
    TRY(open_sparse_co(node, &s->extents[0], h));
    s->count = 1;
    if (where && where < INT64_MAX / 512) {
        TRY(read_descriptor_co(node, where * 512, MIN(size, VMDK_MAX_DESCRIPTOR / 512) * 512));
        TRY(use_descriptor(node));
    } else { /* an extent by itself */
        s->cid = s->parent_cid = UINT32_MAX;
        s->create_type = g_strdup("sparse");
    }
    return NULL;
}
