/*
 * The tables of a macOS disk image: the trailer ("koly"), and the lists of chunks ("mish") that it leads to, either base64 in a
 * property list in XML or as resources of type "blkx" in a resource fork ("Inside Macintosh: More Macintosh Toolbox", 1-121).
 * What they take in memory is bounded by what the file has of them.
 */
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "block/format/dmg.h"

enum {
    TRAILER = 512,
    T_VERSION = 4,
    T_HEADER_SIZE = 8,
    T_DATA_FORK = 24,
    T_RSRC_FORK = 40,
    T_RSRC_LENGTH = 48,
    T_XML = 216,
    T_XML_LENGTH = 224,
    T_SECTORS = 492,
    TRAILER_SEARCH = 2048, /* some programs pad the file behind it */

    MISH_HEADER = 204,
    M_SECTOR = 8,
    M_DATA = 24,
    M_COUNT = 200,
    ENTRY = 40,
    E_SECTOR = 8,
    E_COUNT = 16,
    E_OFFSET = 24,
    E_LENGTH = 32,
};
#define MAX_TABLE (16 * MiB)
#define ENTRY_COMMENT 0x7ffffffeu
#define ENTRY_END 0xffffffffu

typedef struct Tables {
    BlockNode *file;
    uint64_t data_fork; /* what offsets of chunks are relative to */
    GArray *chunks;     /* DmgChunk */
} Tables;

/* --- lists of chunks --- */

static bool is_packed(uint32_t type)
{
    return type >= DMG_ADC && type <= DMG_LZMA;
}

static Error *check_chunk(const Tables *t, const DmgChunk *chunk)
{
    if (!is_packed(chunk->type) && chunk->type > DMG_IGNORE) {
        return error_new("The image has a chunk of unknown type 0x%x", chunk->type);
    }
    if (!range_inside(chunk->sector, chunk->count, INT64_MAX / DMG_SECTOR)) {
        return error_new("A chunk of the image is outside any disk: sector %" PRIu64 ", %" PRIu64 " sectors", chunk->sector,
                         chunk->count);
    }
    if (chunk->type != DMG_ZERO && chunk->type != DMG_IGNORE && !range_inside(chunk->offset, chunk->bytes, t->file->size)) {
        return error_new("A chunk of the image is outside the file: offset %" PRIu64 ", %" PRIu64 " bytes", chunk->offset,
                         chunk->bytes);
    }
    if (is_packed(chunk->type) && (chunk->bytes > DMG_MAX_CHUNK || chunk->count > DMG_MAX_CHUNK / DMG_SECTOR)) {
        return error_new("A chunk of the image is longer than 64 MiB: %" PRIu64 " sectors in %" PRIu64 " bytes", chunk->count,
                         chunk->bytes);
    }
    return NULL;
}

static Error *add_list(Tables *t, const uint8_t *mish, size_t bytes)
{
    if (bytes < MISH_HEADER || memcmp(mish, "mish", 4)) {
        return NULL; /* resources of other sorts */
    }
    uint64_t first = ld64_be(mish + M_SECTOR), data = ld64_be(mish + M_DATA);
    uint32_t count = ld32_be(mish + M_COUNT);
    if (count > (bytes - MISH_HEADER) / ENTRY || !checked_add_u64(data, t->data_fork, &data)) {
        return error_new("A list of chunks is cut: it should have %" PRIu32, count);
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *entry = mish + MISH_HEADER + (size_t)i * ENTRY;
        DmgChunk chunk = { .type = ld32_be(entry), .count = ld64_be(entry + E_COUNT), .bytes = ld64_be(entry + E_LENGTH) };
        if (chunk.type == ENTRY_END) {
            break;
        }
        if (chunk.type == ENTRY_COMMENT || !chunk.count) {
            continue;
        }
        if (!checked_add_u64(first, ld64_be(entry + E_SECTOR), &chunk.sector) ||
            !checked_add_u64(data, ld64_be(entry + E_OFFSET), &chunk.offset)) {
            return error_new("A chunk of the image is at an impossible place");
        }
        TRY(check_chunk(t, &chunk));
        g_array_append_val(t->chunks, chunk);
    }
    return NULL;
}

static int by_sector(gconstpointer a, gconstpointer b)
{
    const DmgChunk *x = a, *y = b;
    return x->sector < y->sector ? -1 : x->sector > y->sector;
}

/* Sorts them, and finds where the disk would end. */
static Error *order_chunks(Tables *t, uint64_t *ret_end)
{
    uint64_t end = 0;
    g_array_sort(t->chunks, by_sector);
    for (guint i = 0; i < t->chunks->len; i++) {
        const DmgChunk *chunk = &g_array_index(t->chunks, DmgChunk, i);
        if (chunk->sector < end) {
            return error_new("Two chunks of the image overlap at sector %" PRIu64, chunk->sector);
        }
        end = chunk->sector + chunk->count;
    }
    *ret_end = end;
    return NULL;
}

/* --- the property list: <key>blkx</key><array><dict><key>Data</key><data>...</data>... --- */

typedef struct Plist {
    Tables *t;
    GString *text;    /* of the element that is open */
    bool after_blkx;  /* the last key was "blkx" */
    bool after_data;  /* it was "Data" */
    unsigned depth, blkx_depth; /* of the array behind the key; 0: not in it */
    Error *err;
} Plist;

static void element_begins(GMarkupParseContext *context, const char *name, const char **attributes, const char **values,
                           gpointer opaque, GError **gerr)
{
    Plist *p = opaque;
    p->depth++;
    g_string_truncate(p->text, 0);
    if (!strcmp(name, "array") && p->after_blkx && !p->blkx_depth) {
        p->blkx_depth = p->depth;
    }
}

static void text_found(GMarkupParseContext *context, const char *text, gsize length, gpointer opaque, GError **gerr)
{
    g_string_append_len(((Plist *)opaque)->text, text, (gssize)length);
}

static void element_ends(GMarkupParseContext *context, const char *name, gpointer opaque, GError **gerr)
{
    Plist *p = opaque;

    if (!strcmp(name, "key")) {
        p->after_blkx = !strcmp(p->text->str, "blkx");
        p->after_data = !strcmp(p->text->str, "Data");
    } else if (!strcmp(name, "data") && p->blkx_depth && p->after_data) {
        gsize bytes = 0;
        g_base64_decode_inplace(p->text->str, &bytes);
        p->err = p->err ? p->err : add_list(p->t, (uint8_t *)p->text->str, bytes);
        p->after_data = false;
    } else if (p->depth == p->blkx_depth) {
        p->blkx_depth = 0;
    }
    g_string_truncate(p->text, 0);
    p->depth--;
}

static Error *read_plist(Tables *t, const char *xml, size_t bytes)
{
    static const GMarkupParser parser = { .start_element = element_begins, .end_element = element_ends, .text = text_found };
    Plist p = { .t = t, .text = g_string_new(NULL) };
    g_autoptr(GError) gerr = NULL;
    g_autoptr(GMarkupParseContext) context = g_markup_parse_context_new(&parser, G_MARKUP_DEFAULT_FLAGS, &p, NULL);

    while (bytes && !xml[bytes - 1]) { /* padding */
        bytes--;
    }
    bool good = g_markup_parse_context_parse(context, xml, (gssize)bytes, &gerr) &&
                g_markup_parse_context_end_parse(context, &gerr);
    g_string_free(p.text, TRUE);
    if (!good && !p.err) {
        p.err = error_new("The image's property list is not valid XML: %s", gerr->message);
    }
    return p.err;
}

/* --- the resource fork --- */

enum { R_DATA = 0, R_MAP = 4, R_DATA_LENGTH = 8, R_MAP_LENGTH = 12, R_HEADER = 16, MAP_TYPES = 24, MAP_HEADER = 28 };

/* The resources of one type. refs: where their list begins, in the map. */
static Error *read_resources(Tables *t, const uint8_t *fork, uint64_t data, uint64_t data_length, const uint8_t *map,
                             size_t map_length, uint64_t refs, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint64_t at = refs + 12 * (uint64_t)i;
        if (!range_inside(at, 12, map_length)) {
            return error_new("The image's resource map is cut");
        }
        uint64_t place = ld32_be(map + at + 4) & 0xffffff;
        if (!range_inside(place, 4, data_length) || !range_inside(place + 4, ld32_be(fork + data + place), data_length)) {
            return error_new("A resource of the image is outside its fork");
        }
        TRY(add_list(t, fork + data + place + 4, ld32_be(fork + data + place)));
    }
    return NULL;
}

static Error *read_fork(Tables *t, const uint8_t *fork, size_t bytes)
{
    if (bytes < R_HEADER) {
        return error_new("The image's resource fork is cut");
    }
    uint64_t data = ld32_be(fork + R_DATA), data_length = ld32_be(fork + R_DATA_LENGTH);
    uint64_t start = ld32_be(fork + R_MAP), map_length = ld32_be(fork + R_MAP_LENGTH);
    if (!range_inside(data, data_length, bytes) || !range_inside(start, map_length, bytes) || map_length < MAP_HEADER) {
        return error_new("The image's resource fork is cut");
    }
    const uint8_t *map = fork + start;
    uint64_t types = ld16_be(map + MAP_TYPES);
    if (!range_inside(types, 2, map_length)) {
        return error_new("The image's resource map is cut");
    }
    unsigned count = (ld16_be(map + types) + 1) & 0xffff;
    for (unsigned i = 0; i < count; i++) {
        uint64_t at = types + 2 + 8 * (uint64_t)i;
        if (!range_inside(at, 8, map_length)) {
            return error_new("The image's resource map is cut");
        }
        if (!memcmp(map + at, "blkx", 4)) {
            TRY(read_resources(t, fork, data, data_length, map, (size_t)map_length, types + ld16_be(map + at + 6),
                               (ld16_be(map + at + 4) + 1u) & 0xffff));
        }
    }
    return NULL;
}

/* --- the trailer --- */

static Error *find_trailer_co(BlockNode *file, uint8_t trailer[TRAILER])
{
    uint8_t end[TRAILER_SEARCH];
    size_t bytes = (size_t)MIN(file->size, sizeof(end));

    int ret = node_pread_co(file, file->size - bytes, bytes, end);
    if (ret < 0) {
        return error_new_errno(ret, "Could not read the end of the image");
    }
    for (size_t at = bytes >= TRAILER ? bytes - TRAILER + 1 : 0; at-- > 0;) {
        if (!memcmp(end + at, "koly", 4) && ld32_be(end + at + T_HEADER_SIZE) == TRAILER) {
            memcpy(trailer, end + at, TRAILER);
            return NULL;
        }
    }
    return error_new("The file does not end as images of macOS do (no 'koly' block)");
}

static Error *load_co(BlockNode *file, uint64_t offset, uint64_t bytes, uint8_t **ret_data)
{
    if (!bytes || bytes > MAX_TABLE || !range_inside(offset, bytes, file->size)) {
        return error_new("The image's tables are outside the file, or longer than 16 MiB: offset %" PRIu64 ", %" PRIu64 " bytes",
                         offset, bytes);
    }
    g_autofree uint8_t *data = g_try_malloc((gsize)bytes);
    int ret = data ? node_pread_co(file, offset, bytes, data) : -ENOMEM;
    if (ret < 0) {
        return error_new_errno(ret, "Could not read the image's tables");
    }
    *ret_data = g_steal_pointer(&data);
    return NULL;
}

static Error *read_lists_co(Tables *t, const uint8_t *trailer)
{
    uint64_t xml_length = ld64_be(trailer + T_XML_LENGTH), fork_length = ld64_be(trailer + T_RSRC_LENGTH);
    g_autofree uint8_t *data = NULL;

    if (fork_length) {
        TRY(load_co(t->file, ld64_be(trailer + T_RSRC_FORK), fork_length, &data));
        return read_fork(t, data, (size_t)fork_length);
    }
    TRY(load_co(t->file, ld64_be(trailer + T_XML), xml_length, &data));
    return read_plist(t, (char *)data, (size_t)xml_length);
}

Error *dmg_read_table_co(BlockNode *file, GArray **ret_chunks, uint64_t *ret_size)
{
    uint8_t trailer[TRAILER];
    g_autoptr(GArray) chunks = g_array_new(FALSE, FALSE, sizeof(DmgChunk));
    uint64_t end;

    TRY(find_trailer_co(file, trailer));
    Tables t = { .file = file, .data_fork = ld64_be(trailer + T_DATA_FORK), .chunks = chunks };
    uint64_t sectors = ld64_be(trailer + T_SECTORS);
    TRY(read_lists_co(&t, trailer));
    TRY(order_chunks(&t, &end));
    if (!chunks->len) {
        return error_new("The image has no list of chunks");
    }
    sectors = sectors ? sectors : end;
    if (end > sectors || sectors > INT64_MAX / DMG_SECTOR) {
        return error_new("The image's chunks end at sector %" PRIu64 ", the disk at %" PRIu64, end, sectors);
    }
    *ret_chunks = g_steal_pointer(&chunks);
    *ret_size = sectors * DMG_SECTOR;
    return NULL;
}
