/* Pages of the stream go to RAM; the records are described in ram.c. */
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "migration/pack.h"
#include "migration/state_priv.h"
#include "migration/xbzrle.h"

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

/* --- records --- */

Error *ram_run_next(RamRun *run, const uint8_t *head, const RamBlock *block)
{
    uint64_t first = ld64_le(head), count = ld32_le(head + 8);
    uint32_t kind = ld32_le(head + 12);

    if (kind > RUN_DELTA || first < run->first + run->count || !range_inside(first, count, block->size >> MEM_PAGE_BITS)) {
        return error_new("the saved state is damaged: pages outside of '%s'", block->name);
    }
    *run = (RamRun) { first, count, kind };
    return NULL;
}

static MUST_USE Error *read_run(StreamReader *r, RamBlock *block, const RamRun *run, const RamSink *sink, void *opaque)
{
    const uint8_t *data;

    switch (run->kind) {
    case RUN_ZERO:
        if (sink->zeroes) {
            sink->zeroes(opaque, block, run->first, run->count);
        }
        return NULL;
    case RUN_DATA:
        TRY(stream_get(r, (size_t)run->count * MEM_PAGE_SIZE, &data));
        sink->data(opaque, block, run->first, run->count, data);
        return NULL;
    default:
        return sink->delta && run->count == 1 ? sink->delta(opaque, block, run->first, r)
                                              : error_new("the saved state is damaged: a delta where there can be none in '%s'", block->name);
    }
}

Error *ram_record_read(StreamReader *r, const GPtrArray *blocks, const RamSink *sink, void *opaque)
{
    RamRun run = { 0 };
    const uint8_t *head;
    uint32_t number;

    TRY(stream_get_u32(r, &number));
    RamBlock *block = number < blocks->len ? blocks->pdata[number] : NULL;
    if (!block) {
        return error_new("the saved state is damaged: memory number %u", number);
    }
    while (r->at < r->end) {
        TRY(stream_get(r, RAM_RUN_HEAD, &head));
        TRY(ram_run_next(&run, head, block));
        TRY(read_run(r, block, &run, sink, opaque));
    }
    return NULL;
}

/* --- to RAM --- */

static void load_zeroes(void *opaque, RamBlock *block, uint64_t first, uint64_t count)
{
    const RamLoader *loader = opaque;

    if (loader->lazy && lazy_ram_has(loader->lazy, block)) {
        lazy_ram_place_zero(loader->lazy, block, first, count);
        return;
    }
    for (uint64_t page = first; page < first + count; page++) {
        uint8_t *at = block->host + page * MEM_PAGE_SIZE;
        if (!ram_page_is_zero(at)) {
            memset(at, 0, MEM_PAGE_SIZE);
            ram_written(block, page * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
        }
    }
}

static void load_data(void *opaque, RamBlock *block, uint64_t first, uint64_t count, const uint8_t *data)
{
    const RamLoader *loader = opaque;

    if (loader->lazy && lazy_ram_has(loader->lazy, block)) {
        lazy_ram_place(loader->lazy, block, first, count, data);
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *at = block->host + (first + i) * MEM_PAGE_SIZE;
        if (memcmp(at, data + i * MEM_PAGE_SIZE, MEM_PAGE_SIZE)) {
            memcpy(at, data + i * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
            ram_written(block, (first + i) * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
        }
    }
}

static Error *load_delta(void *opaque, RamBlock *block, uint64_t page, StreamReader *r)
{
    uint8_t bytes[MEM_PAGE_SIZE];
    const uint8_t *delta;
    uint32_t length;

    TRY(stream_get_u32(r, &length));
    TRY(stream_get(r, length, &delta));
    memcpy(bytes, block->host + page * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
    if (!xbzrle_decode(bytes, delta, length)) {
        return error_new("the saved state is damaged: a delta of '%s' cannot be understood", block->name);
    }
    load_data(opaque, block, page, 1, bytes);
    return NULL;
}

Error *ram_loader_pages(const RamLoader *loader, StreamReader *r)
{
    const RamSink sink = { load_zeroes, load_data, loader->lazy ? NULL : load_delta };

    return ram_record_read(r, loader->blocks, &sink, (void *)loader);
}

Error *ram_loader_packed(const RamLoader *loader, StreamReader *r)
{
    uint32_t plain;

    TRY(stream_get_u32(r, &plain));
    if (plain > RAM_RECORD_MAX) {
        return error_new("the saved state is damaged: record %u would have %u bytes unpacked", r->number - 1, plain);
    }
    PackMethod method = r->kind == RECORD_RAM_ZSTD ? PACK_ZSTD : PACK_ZLIB;
    if (!pack_has(method)) {
        return error_new("the saved state is packed by zstd, which this program was built without");
    }
    g_autofree uint8_t *bytes = g_malloc(plain + 1);
    if (!unpack(method, r->at, (size_t)(r->end - r->at), bytes, plain)) {
        return error_new("the saved state is damaged: record %u cannot be unpacked", r->number - 1);
    }
    StreamReader unpacked = { .number = r->number, .kind = RECORD_RAM, .at = bytes, .end = bytes + plain };
    r->at = r->end;
    return ram_loader_pages(loader, &unpacked);
}
