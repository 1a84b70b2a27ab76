/*
 * RAM in the stream. A record has the number of a block and then runs:
 *
 *     first page u64 | pages u32 | kind u32 (0: zeroes, 1: bytes follow)
 *
 * Pages are copied before their sum is made, since the guest may be writing to them; whatever it writes
 * later makes them dirty again.
 */
#include <string.h>
#include <zlib.h>

#include "base/checked.h"
#include "migration/state_priv.h"

enum { RUN_ZERO, RUN_DATA };
#define RECORD_BYTES (512 * KiB) /* of a full record */

bool ram_page_is_zero(const void *page)
{
    const uint64_t *words = page;
    if (words[0] | words[MEM_PAGE_SIZE / 16]) {
        return false;
    }
    for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i += 8) {
        if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] | words[i + 6] |
            words[i + 7]) {
            return false;
        }
    }
    return true;
}

/* --- saving --- */

static RamPages *pages_at(RamSaver *saver, unsigned index)
{
    return &g_array_index(saver->blocks, RamPages, index);
}

RamSaver *ram_saver_new(Machine *machine, bool track)
{
    RamSaver *saver = g_new0(RamSaver, 1);
    saver->machine = machine;
    saver->tracking = track;
    saver->blocks = g_array_new(FALSE, FALSE, sizeof(RamPages));
    for (RamBlock *block = NULL; (block = ram_block_next(machine->mem, block));) {
        RamPages pages = { .block = ram_block_ref(block), .pages = block->size >> MEM_PAGE_BITS };
        pages.pending = g_malloc0(pages.pages);
        if (track) {
            ram_track(block, RAM_DIRTY_MIGRATION, true);
        } else {
            memset(pages.pending, 1, pages.pages);
            pages.left = pages.pages;
        }
        saver->total += pages.pages;
        saver->left += pages.left;
        g_array_append_val(saver->blocks, pages);
    }
    if (track) {
        ram_saver_sync(saver); /* finds all of them */
    }
    return saver;
}

void ram_saver_free(RamSaver *saver)
{
    if (!saver) {
        return;
    }
    for (unsigned n = 0; n < saver->blocks->len; n++) {
        RamPages *pages = pages_at(saver, n);
        if (saver->tracking) {
            ram_track(pages->block, RAM_DIRTY_MIGRATION, false);
        }
        g_free(pages->pending);
        ram_block_unref(pages->block);
    }
    g_array_unref(saver->blocks);
    g_free(saver);
}

Error *ram_saver_check(const RamSaver *saver)
{
    RamBlock *block = NULL;

    for (unsigned n = 0; n < saver->blocks->len; n++) {
        const RamPages *pages = pages_at((RamSaver *)saver, n);
        block = ram_block_next(saver->machine->mem, block);
        if (block != pages->block) {
            return error_new("the memory '%s' was added or removed while the machine was being copied",
                             block ? block->name : pages->block->name);
        }
    }
    block = ram_block_next(saver->machine->mem, block);
    return block ? error_new("the memory '%s' was added while the machine was being copied", block->name) : NULL;
}

uint64_t ram_saver_sync(RamSaver *saver)
{
    uint64_t found = 0;

    for (unsigned n = 0; n < saver->blocks->len; n++) {
        RamPages *pages = pages_at(saver, n);
        g_autofree uint8_t *bits = g_malloc(pages->pages);
        if (!ram_take_dirty(pages->block, RAM_DIRTY_MIGRATION, 0, pages->pages, bits)) {
            continue;
        }
        for (uint64_t i = 0; i < pages->pages; i++) {
            found += bits[i];
            pages->left += bits[i] & ~pages->pending[i];
            pages->pending[i] |= bits[i];
        }
    }
    saver->left = 0;
    for (unsigned n = 0; n < saver->blocks->len; n++) {
        saver->left += pages_at(saver, n)->left;
    }
    saver->synced += found;
    return found;
}

/* The next pending page of the block from `page` on, or pages->pages. */
static uint64_t next_pending(const RamPages *pages, uint64_t page)
{
    const uint8_t *hit = page < pages->pages ? memchr(pages->pending + page, 1, pages->pages - page) : NULL;
    return hit ? (uint64_t)(hit - pages->pending) : pages->pages;
}

static void put_run(StreamWriter *w, uint64_t first, uint64_t count, uint32_t kind)
{
    stream_put_u64(w, first);
    stream_put_u32(w, (uint32_t)count);
    stream_put_u32(w, kind);
}

/* Pages that are alike in a row; a run of bytes fits in what is left of the record. Where it ends. */
static uint64_t send_run(RamSaver *saver, RamPages *pages, StreamWriter *w, uint64_t first)
{
    const uint8_t *host = pages->block->host;
    uint64_t page = first;

    while (page < pages->pages && pages->pending[page] && page - first < UINT32_MAX &&
           ram_page_is_zero(host + page * MEM_PAGE_SIZE)) {
        page++;
    }
    if (page > first) {
        put_run(w, first, page - first, RUN_ZERO);
        saver->zero_pages += page - first;
    } else {
        size_t used = stream_room_used(w);
        uint64_t room = used < RECORD_BYTES ? (RECORD_BYTES - used) / MEM_PAGE_SIZE + 1 : 1;
        while (page < pages->pages && pages->pending[page] && page - first < room &&
               (page == first || !ram_page_is_zero(host + page * MEM_PAGE_SIZE))) {
            page++;
        }
        put_run(w, first, page - first, RUN_DATA);
        stream_put(w, host + first * MEM_PAGE_SIZE, (page - first) * MEM_PAGE_SIZE);
        saver->data_pages += page - first;
    }
    memset(pages->pending + first, 0, page - first);
    pages->left -= page - first;
    saver->left -= page - first;
    return page;
}

/* The record under construction becomes a packed one, unless that is longer. */
static MUST_USE Error *end_record(RamSaver *saver, StreamWriter *w)
{
    uLong plain = (uLong)stream_room_used(w), room = compressBound(plain);
    g_autofree uint8_t *packed = saver->pack_level ? g_malloc(room) : NULL;
    const uint8_t *payload = w->record->data + w->record->len - plain;

    if (packed && compress2(packed, &room, payload, plain, saver->pack_level) == Z_OK && room + 4 < plain) {
        stream_begin(w, RECORD_RAM_PACKED);
        stream_put_u32(w, (uint32_t)plain);
        stream_put(w, packed, room);
    }
    return stream_end(w);
}

Error *ram_saver_send(RamSaver *saver, StreamWriter *w, uint64_t budget)
{
    uint64_t until = w->bytes + budget;

    while (saver->left > 0 && w->bytes < until) {
        RamPages *pages = pages_at(saver, saver->at_block);
        uint64_t page = next_pending(pages, saver->at_page);
        if (page == pages->pages) {
            saver->at_block = (saver->at_block + 1) % saver->blocks->len;
            saver->at_page = 0;
            continue;
        }
        stream_begin(w, RECORD_RAM);
        stream_put_u32(w, saver->at_block);
        while (page < pages->pages && stream_room_used(w) < MIN(RECORD_BYTES, budget)) {
            page = next_pending(pages, send_run(saver, pages, w, page));
        }
        saver->at_page = page;
        TRY(end_record(saver, w));
    }
    return NULL;
}

/* --- loading --- */

void ram_loader_init(RamLoader *loader)
{
    loader->blocks = g_ptr_array_new();
}

void ram_loader_fini(RamLoader *loader)
{
    g_ptr_array_unref(loader->blocks);
}

static RamBlock *block_named(Machine *machine, const char *name)
{
    for (RamBlock *block = NULL; (block = ram_block_next(machine->mem, block));) {
        if (!strcmp(block->name, name)) {
            return block;
        }
    }
    return NULL;
}

Error *ram_loader_blocks(RamLoader *loader, Machine *machine, StreamReader *r)
{
    uint32_t count;

    TRY(stream_get_u32(r, &count));
    for (uint32_t n = 0; n < count; n++) {
        g_autofree char *name = NULL;
        uint64_t size;
        TRY(stream_get_str(r, &name));
        TRY(stream_get_u64(r, &size));
        RamBlock *block = block_named(machine, name);
        if (!block) {
            return error_new("the saved machine has the memory '%s', this one has not", name);
        }
        if (block->size != size) {
            return error_new("the saved memory '%s' has %" G_GUINT64_FORMAT " KiB, here it has %" G_GUINT64_FORMAT " KiB",
                             name, size / KiB, block->size / KiB);
        }
        g_ptr_array_add(loader->blocks, block);
    }
    return NULL;
}

static void load_zeroes(RamBlock *block, uint64_t first, uint64_t count)
{
    for (uint64_t page = first; page < first + count; page++) {
        uint8_t *at = block->host + page * MEM_PAGE_SIZE;
        if (!ram_page_is_zero(at)) {
            memset(at, 0, MEM_PAGE_SIZE);
            ram_written(block, page * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
        }
    }
}

static void load_data(RamBlock *block, uint64_t first, uint64_t count, const uint8_t *data)
{
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *at = block->host + (first + i) * MEM_PAGE_SIZE;
        if (memcmp(at, data + i * MEM_PAGE_SIZE, MEM_PAGE_SIZE)) {
            memcpy(at, data + i * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
            ram_written(block, (first + i) * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
        }
    }
}

Error *ram_loader_pages(RamLoader *loader, StreamReader *r)
{
    uint32_t number;

    TRY(stream_get_u32(r, &number));
    if (number >= loader->blocks->len) {
        return error_new("the saved state is damaged: memory number %u", number);
    }
    RamBlock *block = g_ptr_array_index(loader->blocks, number);
    while (r->at < r->end) {
        uint64_t first;
        uint32_t count, kind;
        TRY(stream_get_u64(r, &first));
        TRY(stream_get_u32(r, &count));
        TRY(stream_get_u32(r, &kind));
        if (kind > RUN_DATA || !range_inside(first, count, block->size >> MEM_PAGE_BITS)) {
            return error_new("the saved state is damaged: pages outside of '%s'", block->name);
        }
        if (kind == RUN_ZERO) {
            load_zeroes(block, first, count);
            continue;
        }
        const uint8_t *data;
        TRY(stream_get(r, (size_t)count * MEM_PAGE_SIZE, &data));
        load_data(block, first, count, data);
    }
    return NULL;
}

Error *ram_loader_packed(RamLoader *loader, StreamReader *r)
{
    uint32_t plain;

    TRY(stream_get_u32(r, &plain));
    if (plain > RECORD_MAX) {
        return error_new("the saved state is damaged: record %u would have %u bytes unpacked", r->number - 1, plain);
    }
    g_autofree uint8_t *bytes = g_malloc(plain + 1);
    uLongf length = plain;
    if (uncompress(bytes, &length, r->at, (uLong)(r->end - r->at)) != Z_OK || length != plain) {
        return error_new("the saved state is damaged: record %u cannot be unpacked", r->number - 1);
    }
    StreamReader unpacked = { .number = r->number, .kind = RECORD_RAM, .at = bytes, .end = bytes + plain };
    r->at = r->end;
    return ram_loader_pages(loader, &unpacked);
}
