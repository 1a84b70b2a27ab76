/*
 * Persistent dirty bitmaps of qcow2 (specification: "Bitmaps extension").
 *
 * While an image is open for writing, its bitmaps live in memory and the ones on the disk have
 * IN_USE set: after a crash they are known to be behind. Closing writes them anew: data and tables
 * to new clusters, then a new directory, then the extension in the header, then the old ones are
 * free. An inconsistent bitmap stays as it is until somebody removes it.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "block/bitmap.h"
#include "block/format/qcow2.h"

enum {
    ENTRY_FIXED = 24,
    FLAG_IN_USE = BIT(0),
    FLAG_AUTO = BIT(1),
    FLAG_EXTRA_COMPATIBLE = BIT(2),
    TYPE_DIRTY_TRACKING = 1,
    MAX_BITMAPS = 65535,
    MAX_DIRECTORY = 64 << 20,
    MAX_TABLE = 0x8000000,
    MAX_EXTRA = 4096,
};

/* A bitmap as the directory has it. */
typedef struct DirEntry {
    uint64_t table_offset;
    uint32_t table_size, flags, extra_size;
    uint8_t granularity_bits;
    char *name;
    uint64_t at; /* in the directory */
} DirEntry;

struct Qcow2Bitmaps {
    GArray *entries; /* DirEntry: what the disk has */
    uint64_t dir_offset, dir_size;
};

static void entry_clear(void *opaque)
{
    DirEntry *e = opaque;
    g_free(e->name);
}

static void forget_stored(Qcow2 *q)
{
    if (q->bitmaps) {
        g_array_unref(q->bitmaps->entries);
        g_clear_pointer(&q->bitmaps, g_free);
    }
}

void qcow2_bitmaps_free(Qcow2 *q)
{
    forget_stored(q);
}

static Qcow2Extension *find_extension(Qcow2 *q)
{
    for (guint i = 0; i < q->extensions->len; i++) {
        Qcow2Extension *ext = g_ptr_array_index(q->extensions, i);
        if (ext->type == EXT_BITMAPS) {
            return ext;
        }
    }
    return NULL;
}

/* --- reading --- */

static Error *parse_entry(Qcow2 *q, const uint8_t *p, uint64_t room, DirEntry *e,
                          uint64_t *ret_bytes)
{
    if (room < ENTRY_FIXED) {
        return error_new("Bitmap directory is cut off");
    }
    uint16_t name_size = ld16_be(p + 18);
    *e = (DirEntry) { .table_offset = ld64_be(p),
                      .table_size = ld32_be(p + 8),
                      .flags = ld32_be(p + 12),
                      .granularity_bits = p[17],
                      .extra_size = ld32_be(p + 20) };
    uint64_t bytes = ALIGN_UP(ENTRY_FIXED + (uint64_t)e->extra_size + name_size, 8), end;
    if (e->extra_size > MAX_EXTRA || bytes > room || !name_size || name_size > BITMAP_MAX_NAME) {
        return error_new("Bitmap directory entry is not possible");
    }
    unsigned known = e->extra_size ? 7 : 3; /* the third flag is about extra data */
    if (p[16] != TYPE_DIRTY_TRACKING || (e->flags & ~known) || e->granularity_bits < 9 ||
        e->granularity_bits > 31 || qcow2_in_cluster(q, e->table_offset) ||
        (uint64_t)e->table_size * 8 > MAX_TABLE ||
        !checked_add_u64(e->table_offset, (uint64_t)e->table_size * 8, &end) || end > INT64_MAX) {
        return error_new("Bitmap '%.*s' doesn't satisfy the constraints", name_size,
                         (const char *)p + ENTRY_FIXED + e->extra_size);
    }
    e->name = g_strndup((const char *)p + ENTRY_FIXED + e->extra_size, name_size);
    *ret_bytes = bytes;
    return NULL;
}

static Error *read_directory_co(Qcow2 *q, const Qcow2Extension *ext)
{
    if (ext->length != 24) {
        return error_new("The bitmaps header extension has a wrong length");
    }
    uint32_t count = ld32_be(ext->data);
    uint64_t size = ld64_be(ext->data + 8), offset = ld64_be(ext->data + 16);
    if (!count || count > MAX_BITMAPS || size > MAX_DIRECTORY || qcow2_in_cluster(q, offset) ||
        offset >= q->file->size || size > q->file->size - offset) {
        return error_new("bitmaps_ext: the bitmap directory is not possible");
    }
    g_autofree uint8_t *dir = g_try_malloc(MAX(size, 1));
    int ret = dir ? node_pread_co(q->file, offset, size, dir) : -ENOMEM;
    if (ret < 0) {
        return error_new_errno(ret, "The bitmap directory cannot be read");
    }
    q->bitmaps = g_new0(struct Qcow2Bitmaps, 1);
    q->bitmaps->entries = g_array_new(FALSE, FALSE, sizeof(DirEntry));
    g_array_set_clear_func(q->bitmaps->entries, entry_clear);
    q->bitmaps->dir_offset = offset;
    q->bitmaps->dir_size = size;
    uint64_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        DirEntry e;
        uint64_t bytes;
        TRY(parse_entry(q, dir + at, size - at, &e, &bytes));
        e.at = at;
        g_array_append_val(q->bitmaps->entries, e);
        at += bytes;
    }
    return NULL;
}

static uint64_t clusters_of(const Qcow2 *q, const BlockBitmap *b)
{
    return qcow2_clusters(q, (block_bitmap_bits(b) + 7) / 8);
}

/* One cluster of a bitmap's data; bits are in little-endian order, which is how words are kept. */
static int load_cluster_co(Qcow2 *q, BlockBitmap *b, uint64_t index, uint64_t entry,
                           uint8_t *buffer)
{
    uint64_t bytes = (block_bitmap_bits(b) + 7) / 8, at = index << q->cluster_bits;
    uint64_t part = MIN(q->cluster_size, bytes - at), host = entry & ENTRY_OFFSET;

    if (host && qcow2_in_cluster(q, host)) {
        return -EINVAL;
    }
    int ret = 0;
    if (host) {
        ret = node_pread_co(q->file, host, q->cluster_size, buffer);
    } else {
        memset(buffer, entry & 1 ? 0xff : 0, q->cluster_size);
    }
    for (uint64_t i = 0; i < part && ret >= 0; i++) {
        b->bits[(at + i) / 8] |= (uint64_t)buffer[i] << ((at + i) % 8 * 8);
    }
    return ret;
}

static Error *load_bits_co(Qcow2 *q, BlockBitmap *b, const DirEntry *e)
{
    if (e->table_size != clusters_of(q, b)) {
        return error_new("Bitmap '%s' has a table of %u entries, its disk needs %" PRIu64, b->name,
                         e->table_size, clusters_of(q, b));
    }
    g_autofree uint8_t *table = g_try_malloc(MAX((size_t)e->table_size * 8, 1));
    g_autofree uint8_t *buffer = g_try_malloc(q->cluster_size);
    int ret = table && buffer ? node_pread_co(q->file, e->table_offset,
                                              (uint64_t)e->table_size * 8, table)
                              : -ENOMEM;
    for (uint32_t i = 0; i < e->table_size && ret >= 0; i++) {
        ret = load_cluster_co(q, b, i, ld64_be(table + i * 8), buffer);
    }
    block_bitmap_recount(b);
    return ret < 0 ? error_new_errno(ret, "Could not read bitmap '%s'", b->name) : NULL;
}

static Error *load_one_co(Qcow2 *q, const DirEntry *e)
{
    BlockBitmap *b;
    TRY(block_bitmap_new(q->node, e->name, BIT64(e->granularity_bits), false, &b));
    b->persistent = b->stored = true;
    b->enabled = (e->flags & FLAG_AUTO) != 0;
    b->read_only = q->node->read_only;
    if ((e->flags & FLAG_IN_USE) ||
        (e->extra_size && !(e->flags & FLAG_EXTRA_COMPATIBLE))) {
        b->inconsistent = true;
        b->enabled = false;
        return NULL;
    }
    return load_bits_co(q, b, e);
}

/* On the disk: from now on it is behind. */
static Error *mark_in_use_co(Qcow2 *q)
{
    struct Qcow2Bitmaps *stored = q->bitmaps;
    int ret = 0;
    for (guint i = 0; i < stored->entries->len && ret >= 0; i++) {
        DirEntry *e = &g_array_index(stored->entries, DirEntry, i);
        uint8_t flags[4];
        st32_be(flags, e->flags | FLAG_IN_USE);
        ret = node_pwrite_co(q->file, stored->dir_offset + e->at + 12, 4, flags, 0);
    }
    if (ret >= 0) {
        ret = node_flush_co(q->file);
    }
    return ret < 0 ? error_new_errno(ret, "Could not mark the bitmaps as in use") : NULL;
}

bool qcow2_bitmap_directory_meets(const Qcow2 *q, uint64_t offset, uint64_t bytes)
{
    const struct Qcow2Bitmaps *b = q->bitmaps;
    return b && b->dir_size && offset < b->dir_offset + b->dir_size && b->dir_offset < offset + bytes;
}

Error *qcow2_bitmaps_load_co(Qcow2 *q)
{
    const Qcow2Extension *ext = find_extension(q);
    if (!ext || !(q->autoclear & AUTOCLEAR_BITMAPS)) {
        return NULL; /* none, or left behind by a program that did not know them */
    }
    TRY(read_directory_co(q, ext));
    for (guint i = 0; i < q->bitmaps->entries->len; i++) {
        TRY(load_one_co(q, &g_array_index(q->bitmaps->entries, DirEntry, i)));
    }
    return q->node->read_only ? NULL : mark_in_use_co(q);
}

Error *qcow2_bitmaps_reopened_co(Qcow2 *q)
{
    return q->bitmaps ? mark_in_use_co(q) : NULL;
}

/* --- writing --- */

static bool all_same(const BlockBitmap *b, uint64_t byte, uint64_t bytes, uint8_t value)
{
    G_STATIC_ASSERT(G_BYTE_ORDER == G_LITTLE_ENDIAN); /* words are stored as they are */
    const uint8_t *p = (const uint8_t *)b->bits;
    for (uint64_t i = 0; i < bytes; i++) {
        if (p[byte + i] != value) {
            return false;
        }
    }
    return true;
}

static int store_cluster_co(Qcow2 *q, const BlockBitmap *b, uint64_t index, uint8_t *buffer,
                            uint64_t *ret_entry)
{
    uint64_t bytes = (block_bitmap_bits(b) + 7) / 8, at = index << q->cluster_bits, got;
    uint64_t part = MIN(q->cluster_size, bytes - at);

    *ret_entry = 0;
    if (all_same(b, at, part, 0)) {
        return 0;
    }
    if (part == q->cluster_size && all_same(b, at, part, 0xff)) {
        *ret_entry = 1;
        return 0;
    }
    int ret = qcow2_alloc_co(q, 1, 0, ret_entry, &got);
    if (ret >= 0) {
        memset(buffer, 0, q->cluster_size);
        memcpy(buffer, (const uint8_t *)b->bits + at, part);
        ret = node_pwrite_co(q->file, *ret_entry, q->cluster_size, buffer, 0);
    }
    return ret;
}

static int store_one_co(Qcow2 *q, const BlockBitmap *b, DirEntry *e)
{
    uint64_t clusters = clusters_of(q, b), table_bytes = MAX(clusters * 8, 8);
    g_autofree uint8_t *table = g_try_malloc0(table_bytes);
    g_autofree uint8_t *buffer = g_try_malloc(q->cluster_size);
    int ret = table && buffer ? 0 : -ENOMEM;

    for (uint64_t i = 0; i < clusters && ret >= 0; i++) {
        uint64_t entry;
        ret = store_cluster_co(q, b, i, buffer, &entry);
        st64_be(table + i * 8, entry);
    }
    if (ret >= 0) {
        ret = qcow2_alloc_exact_co(q, qcow2_clusters(q, table_bytes), &e->table_offset);
    }
    if (ret >= 0) {
        ret = node_pwrite_co(q->file, e->table_offset, table_bytes, table, 0);
    }
    e->table_size = (uint32_t)clusters;
    e->flags = b->enabled ? FLAG_AUTO : 0;
    e->granularity_bits = (uint8_t)__builtin_ctz(b->granularity);
    e->name = g_strdup(b->name);
    return ret;
}

static DirEntry *stored_entry(Qcow2 *q, const char *name)
{
    for (guint i = 0; q->bitmaps && i < q->bitmaps->entries->len; i++) {
        DirEntry *e = &g_array_index(q->bitmaps->entries, DirEntry, i);
        if (!strcmp(e->name, name)) {
            return e;
        }
    }
    return NULL;
}

static int store_entry_co(Qcow2 *q, const BlockBitmap *b, GArray *entries)
{
    DirEntry e = { 0 };
    if (b->inconsistent) {
        const DirEntry *old = stored_entry(q, b->name);
        if (!old) {
            return 0;
        }
        e = *old;
        e.name = g_strdup(old->name);
        e.extra_size = 0;
        e.flags = (old->flags & FLAG_AUTO) | FLAG_IN_USE;
    } else {
        int ret = store_one_co(q, b, &e);
        if (ret < 0) {
            g_free(e.name);
            return ret;
        }
    }
    g_array_append_val(entries, e);
    return 0;
}

/* The new directory: bitmaps in memory, and the inconsistent ones as they are. What was there keeps its place. */
static int store_all_co(Qcow2 *q, GArray *entries)
{
    int ret = 0;
    for (guint i = 0; ret >= 0 && q->bitmaps && i < q->bitmaps->entries->len; i++) {
        const BlockBitmap *b = block_bitmap_find(q->node, g_array_index(q->bitmaps->entries, DirEntry, i).name);
        if (b && b->persistent && b->stored) {
            ret = store_entry_co(q, b, entries);
        }
    }
    LIST_FOREACH (b, &q->node->bitmaps, BlockBitmap, in_node) {
        if (ret >= 0 && b->persistent && b->name && !(b->stored && stored_entry(q, b->name))) {
            ret = store_entry_co(q, b, entries);
        }
    }
    return ret;
}

/* Where each entry begins is noted in it. */
static GByteArray *encode_directory(const GArray *entries)
{
    GByteArray *out = g_byte_array_new();
    static const uint8_t padding[8];
    for (guint i = 0; i < entries->len; i++) {
        DirEntry *e = &g_array_index(entries, DirEntry, i);
        uint8_t p[ENTRY_FIXED] = { 0 };
        e->at = out->len;
        st64_be(p, e->table_offset);
        st32_be(p + 8, e->table_size);
        st32_be(p + 12, e->flags);
        p[16] = TYPE_DIRTY_TRACKING;
        p[17] = e->granularity_bits;
        st16_be(p + 18, (uint16_t)strlen(e->name));
        g_byte_array_append(out, p, sizeof(p));
        g_byte_array_append(out, (const uint8_t *)e->name, (guint)strlen(e->name));
        g_byte_array_append(out, padding, (8 - out->len % 8) % 8);
    }
    return out;
}

static void set_extension(Qcow2 *q, uint32_t count, uint64_t size, uint64_t offset)
{
    Qcow2Extension *ext = find_extension(q);
    if (!count) {
        if (ext) {
            g_ptr_array_remove(q->extensions, ext);
        }
        return;
    }
    if (!ext) {
        ext = g_new0(Qcow2Extension, 1);
        ext->type = EXT_BITMAPS;
        g_ptr_array_add(q->extensions, ext);
    }
    g_free(ext->data);
    ext->length = 24;
    ext->data = g_malloc0(24);
    st32_be(ext->data, count);
    st64_be(ext->data + 8, size);
    st64_be(ext->data + 16, offset);
}

/* What the old directory refers to, except tables that the new one has too. */
static int free_stored_co(Qcow2 *q, const GArray *now)
{
    struct Qcow2Bitmaps *stored = q->bitmaps;
    for (guint i = 0; stored && i < stored->entries->len; i++) {
        const DirEntry *e = &g_array_index(stored->entries, DirEntry, i);
        bool kept = false;
        for (guint n = 0; n < now->len; n++) {
            kept |= g_array_index(now, DirEntry, n).table_offset == e->table_offset;
        }
        if (kept) {
            continue;
        }
        g_autofree uint8_t *table = g_try_malloc(MAX((size_t)e->table_size * 8, 1));
        int ret = table ? node_pread_co(q->file, e->table_offset, (uint64_t)e->table_size * 8, table)
                        : -ENOMEM;
        if (ret < 0) {
            return ret;
        }
        for (uint32_t t = 0; t < e->table_size; t++) {
            uint64_t host = ld64_be(table + t * 8) & ENTRY_OFFSET;
            if (host) {
                qcow2_free_later(q, host, q->cluster_size, true);
            }
        }
        qcow2_free_later(q, e->table_offset, MAX((uint64_t)e->table_size * 8, 1), true);
    }
    if (stored) {
        qcow2_free_later(q, stored->dir_offset, stored->dir_size, true);
    }
    return 0;
}

static Error *write_directory_co(Qcow2 *q, const GArray *entries, struct Qcow2Bitmaps *ret_stored)
{
    g_autoptr(GByteArray) dir = encode_directory(entries);
    uint64_t offset = 0, autoclear = q->autoclear & ~(uint64_t)AUTOCLEAR_BITMAPS;
    int ret = 0;

    if (dir->len) {
        ret = qcow2_alloc_exact_co(q, qcow2_clusters(q, dir->len), &offset);
    }
    if (ret >= 0) {
        ret = qcow2_write_back_locked_co(q); /* counts before references */
    }
    if (ret >= 0 && dir->len) {
        ret = node_pwrite_co(q->file, offset, dir->len, dir->data, 0);
    }
    if (ret >= 0) {
        ret = node_flush_co(q->file);
    }
    if (ret >= 0 && (q->autoclear & AUTOCLEAR_BITMAPS)) { /* while the extension is rewritten */
        ret = qcow2_write_header_u64_co(q, H_AUTOCLEAR, autoclear);
    }
    if (ret < 0) {
        return error_new_errno(ret, "Could not write the bitmap directory");
    }
    q->autoclear = autoclear;
    set_extension(q, entries->len, dir->len, offset);
    TRY(qcow2_rewrite_header_co(q));
    if (dir->len) {
        q->autoclear |= AUTOCLEAR_BITMAPS;
        ret = qcow2_write_header_u64_co(q, H_AUTOCLEAR, q->autoclear);
    }
    if (ret >= 0) {
        ret = free_stored_co(q, entries);
    }
    ret_stored->dir_offset = offset;
    ret_stored->dir_size = dir->len;
    return ret < 0 ? error_new_errno(ret, "Could not update the bitmap directory") : NULL;
}

static bool anything_to_store(Qcow2 *q)
{
    LIST_FOREACH (b, &q->node->bitmaps, BlockBitmap, in_node) {
        if (b->persistent) {
            return true;
        }
    }
    return q->bitmaps != NULL;
}

Error *qcow2_bitmaps_store_co(Qcow2 *q)
{
    if (q->node->read_only || q->broken || !anything_to_store(q)) {
        return NULL;
    }
    g_autoptr(GArray) entries = g_array_new(FALSE, FALSE, sizeof(DirEntry));
    struct Qcow2Bitmaps now = { 0 };
    g_array_set_clear_func(entries, entry_clear);
    int ret = store_all_co(q, entries);
    Error *err = ret < 0 ? error_new_errno(ret, "Could not write the bitmaps")
                         : write_directory_co(q, entries, &now);
    forget_stored(q);
    if (!err && entries->len) { /* the image may stay open for reading */
        q->bitmaps = g_new(struct Qcow2Bitmaps, 1);
        *q->bitmaps = now;
        q->bitmaps->entries = g_steal_pointer(&entries);
        LIST_FOREACH (b, &q->node->bitmaps, BlockBitmap, in_node) {
            b->stored = b->persistent;
        }
    }
    return err;
}

Error *qcow2_can_store_bitmap(BlockNode *node, const BlockBitmap *bitmap)
{
    Qcow2 *q = node->state;
    unsigned count = 0;
    if (q->version < 3) {
        return error_new("A qcow2 image of version 2 has no room for bitmaps; amend it to "
                         "compat=1.1");
    }
    if (node->read_only) {
        return error_new("Cannot store dirty bitmaps in a read-only image");
    }
    LIST_FOREACH (b, &node->bitmaps, BlockBitmap, in_node) {
        count += b->persistent;
    }
    if (count > MAX_BITMAPS) {
        return error_new("The image holds as many bitmaps as it can: remove one first");
    }
    return clusters_of(q, bitmap) * 8 > MAX_TABLE
               ? error_new("Too much space will be occupied by the bitmap; use larger granularity")
               : NULL;
}

/* As qemu-img info shows them: what the disk has. NULL: none. */
Value *qcow2_bitmaps_info(Qcow2 *q)
{
    if (!q->bitmaps || !q->bitmaps->entries->len) {
        return NULL;
    }
    Value *list = value_list();
    for (guint i = 0; i < q->bitmaps->entries->len; i++) {
        const DirEntry *e = &g_array_index(q->bitmaps->entries, DirEntry, i);
        Value *v = value_dict(), *flags = value_list();
        if (e->flags & FLAG_IN_USE) {
            value_append(flags, value_str("in-use"));
        }
        if (e->flags & FLAG_AUTO) {
            value_append(flags, value_str("auto"));
        }
        value_put(v, "flags", flags);
        value_put_str(v, "name", e->name);
        value_put_int(v, "granularity", (int64_t)BIT64(e->granularity_bits));
        value_append(list, v);
    }
    return list;
}
