/*
 * RAM in the stream. A record has the number of a block and then runs:
 *
 *     first page u64 | pages u32 | kind u32 (0: zeroes, 1: bytes follow, 2: length u32 and a delta to what was there, see xbzrle.h)
 *
 * Pages are copied before their sum is made, since the guest may be writing to them; whatever it writes
 * later makes them dirty again.
 */
#include <string.h>

#include "migration/state_priv.h"

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

void ram_saver_skip_shared(RamSaver *saver)
{
    for (unsigned n = 0; n < saver->blocks->len; n++) {
        RamPages *pages = pages_at(saver, n);
        if (pages->block->shared && pages->block->fd >= 0) {
            pages->skipped = true;
            saver->total -= pages->pages;
            saver->left -= pages->left;
            pages->left = 0;
            memset(pages->pending, 0, pages->pages);
        }
    }
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
        g_autofree uint8_t *bits = pages->skipped ? NULL : g_malloc(pages->pages);
        if (pages->skipped || !ram_take_dirty(pages->block, RAM_DIRTY_MIGRATION, 0, pages->pages, bits)) {
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

static unsigned count_pending(const RamPages *pages, uint64_t page, unsigned limit)
{
    unsigned count = 0;
    while (count < limit && page + count < pages->pages && pages->pending[page + count]) {
        count++;
    }
    return count;
}

bool ram_saver_take(RamSaver *saver, unsigned limit, RamChunk *ret_chunk)
{
    if (saver->left == 0) {
        return false;
    }
    uint64_t page;
    RamPages *pages = pages_at(saver, saver->at_block);
    while ((page = next_pending(pages, saver->at_page)) == pages->pages) {
        saver->at_block = (saver->at_block + 1) % saver->blocks->len;
        saver->at_page = 0;
        pages = pages_at(saver, saver->at_block);
    }
    *ret_chunk = (RamChunk) { .block = pages->block, .index = saver->at_block };
    limit = CLAMP(limit, 1u, (unsigned)RAM_CHUNK_PAGES);
    while (page < pages->pages && ret_chunk->pages < limit && ret_chunk->runs < RAM_CHUNK_RUNS) {
        unsigned count = count_pending(pages, page, limit - ret_chunk->pages);
        ret_chunk->run[ret_chunk->runs].first = page;
        ret_chunk->run[ret_chunk->runs++].count = count;
        ret_chunk->pages += count;
        memset(pages->pending + page, 0, count);
        page = next_pending(pages, page + count);
    }
    pages->left -= ret_chunk->pages;
    saver->left -= ret_chunk->pages;
    saver->at_page = page;
    return true;
}

void ram_saver_go_to(RamSaver *saver, unsigned index, uint64_t page)
{
    saver->at_block = index;
    saver->at_page = page;
}

/* --- writing --- */

static void put_run(StreamWriter *w, uint64_t first, uint64_t count, uint32_t kind)
{
    stream_put_u64(w, first);
    stream_put_u32(w, (uint32_t)count);
    stream_put_u32(w, kind);
}

/* Pages that are alike in a row. Where it ends. */
static uint64_t write_run(RamChunk *chunk, StreamWriter *w, uint64_t first, uint64_t end)
{
    const uint8_t *host = chunk->block->host;
    uint64_t page = first;

    while (page < end && ram_page_is_zero(host + page * MEM_PAGE_SIZE)) {
        page++;
    }
    if (page > first) {
        put_run(w, first, page - first, RUN_ZERO);
        chunk->zero_pages += page - first;
        return page;
    }
    do {
        page++;
    } while (page < end && !ram_page_is_zero(host + page * MEM_PAGE_SIZE));
    put_run(w, first, page - first, RUN_DATA);
    stream_put(w, host + first * MEM_PAGE_SIZE, (page - first) * MEM_PAGE_SIZE);
    chunk->data_pages += page - first;
    return page;
}

/* With a cache of what the other side has, page by page: a copy is made first, since the cache must have just what is sent. */
static void write_delta(RamChunk *chunk, StreamWriter *w, Xbzrle *xbzrle, uint64_t page)
{
    uint8_t copy[MEM_PAGE_SIZE], delta[MEM_PAGE_SIZE];
    size_t length;

    memcpy(copy, chunk->block->host + page * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
    bool zero = ram_page_is_zero(copy);
    switch (xbzrle_page(xbzrle, (uint64_t)chunk->index << 40 | page, copy, zero, delta, &length)) {
    case XBZRLE_SAME:
        return;
    case XBZRLE_DELTA:
        put_run(w, page, 1, RUN_DELTA);
        stream_put_u32(w, (uint32_t)length);
        stream_put(w, delta, length);
        return;
    case XBZRLE_WHOLE:
        put_run(w, page, 1, zero ? RUN_ZERO : RUN_DATA);
        if (zero) {
            chunk->zero_pages++;
        } else {
            stream_put(w, copy, MEM_PAGE_SIZE);
            chunk->data_pages++;
        }
    }
}

/* The record under construction becomes a packed one, unless that is longer. */
static MUST_USE Error *end_record(StreamWriter *w, const RamPacking *packing)
{
    size_t plain = stream_room_used(w);
    g_autoptr(GByteArray) packed = packing ? pack(packing->method, packing->level, w->record->data + w->record->len - plain, plain) : NULL;

    if (packed && packed->len + 4 < plain) {
        stream_begin(w, packing->method == PACK_ZSTD ? RECORD_RAM_ZSTD : RECORD_RAM_PACKED);
        stream_put_u32(w, (uint32_t)plain);
        stream_put(w, packed->data, packed->len);
    }
    return stream_end(w);
}

Error *ram_chunk_write(RamChunk *chunk, StreamWriter *w, const RamPacking *packing)
{
    stream_begin(w, RECORD_RAM);
    stream_put_u32(w, chunk->index);
    for (unsigned n = 0; n < chunk->runs; n++) {
        uint64_t page = chunk->run[n].first, end = page + chunk->run[n].count;
        while (page < end) {
            if (packing && packing->xbzrle) {
                write_delta(chunk, w, packing->xbzrle, page++);
            } else {
                page = write_run(chunk, w, page, end);
            }
        }
    }
    return end_record(w, packing);
}

void ram_saver_count(RamSaver *saver, const RamChunk *chunk)
{
    saver->zero_pages += chunk->zero_pages;
    saver->data_pages += chunk->data_pages;
}

Error *ram_saver_send(RamSaver *saver, StreamWriter *w, uint64_t budget)
{
    uint64_t until = w->bytes + budget;
    RamChunk chunk;

    while (w->bytes < until && ram_saver_take(saver, (unsigned)MIN(budget / MEM_PAGE_SIZE, RAM_CHUNK_PAGES), &chunk)) {
        TRY(ram_chunk_write(&chunk, w, &saver->packing));
        ram_saver_count(saver, &chunk);
    }
    return NULL;
}

/* --- post-copy --- */

uint64_t ram_saver_pages(const RamSaver *saver, unsigned index)
{
    return pages_at((RamSaver *)saver, index)->pages;
}

bool ram_saver_is_pending(const RamSaver *saver, uint32_t index, uint64_t page)
{
    const RamPages *pages = index < saver->blocks->len ? pages_at((RamSaver *)saver, index) : NULL;
    return pages && page < pages->pages && pages->pending[page];
}

void ram_saver_set_pending(RamSaver *saver, unsigned index, const uint8_t *bits)
{
    RamPages *pages = pages_at(saver, index);

    saver->left -= pages->left;
    pages->left = 0;
    for (uint64_t page = 0; page < pages->pages; page++) {
        pages->pending[page] = bits[page / 8] >> page % 8 & 1;
        pages->left += pages->pending[page];
    }
    saver->left += pages->left;
}

Error *ram_saver_send_small(RamSaver *saver, StreamWriter *w, uint64_t size)
{
    for (unsigned n = 0; n < saver->blocks->len; n++) {
        while (pages_at(saver, n)->block->size <= size && pages_at(saver, n)->left > 0) {
            RamChunk chunk;
            ram_saver_go_to(saver, n, 0);
            ram_saver_take(saver, RAM_CHUNK_PAGES, &chunk);
            TRY(ram_chunk_write(&chunk, w, NULL));
            ram_saver_count(saver, &chunk);
        }
    }
    return NULL;
}

static MUST_USE Error *send_discard(const RamPages *pages, unsigned index, StreamWriter *w)
{
    for (uint64_t page = next_pending(pages, 0); page < pages->pages;) {
        stream_begin(w, RECORD_DISCARD);
        stream_put_u32(w, index);
        for (unsigned runs = 0; runs < 4096 && page < pages->pages; runs++) {
            unsigned count = count_pending(pages, page, UINT_MAX);
            stream_put_u64(w, page);
            stream_put_u64(w, count);
            page = next_pending(pages, page + count);
        }
        TRY(stream_end(w));
    }
    return NULL;
}

Error *ram_saver_send_discard(RamSaver *saver, StreamWriter *w, uint64_t size)
{
    for (unsigned n = 0; n < saver->blocks->len; n++) {
        if (pages_at(saver, n)->block->size > size) {
            TRY(send_discard(pages_at(saver, n), n, w));
        }
    }
    return NULL;
}
