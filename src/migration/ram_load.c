/* Pages of the stream go to RAM; the records are described in ram.c. */
#include <string.h>

#include "base/checked.h"
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

static void load_zeroes(const RamLoader *loader, RamBlock *block, uint64_t first, uint64_t count)
{
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

static void load_data(const RamLoader *loader, RamBlock *block, uint64_t first, uint64_t count, const uint8_t *data)
{
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

static MUST_USE Error *load_delta(const RamLoader *loader, RamBlock *block, uint64_t page, uint64_t count, StreamReader *r)
{
    uint8_t bytes[MEM_PAGE_SIZE];
    const uint8_t *delta;
    uint32_t length;

    TRY(stream_get_u32(r, &length));
    TRY(stream_get(r, length, &delta));
    if (count != 1 || loader->lazy) {
        return error_new("the saved state is damaged: a delta where there can be none in '%s'", block->name);
    }
    memcpy(bytes, block->host + page * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
    if (!xbzrle_decode(bytes, delta, length)) {
        return error_new("the saved state is damaged: a delta of '%s' cannot be understood", block->name);
    }
    load_data(loader, block, page, 1, bytes);
    return NULL;
}

Error *ram_loader_pages(const RamLoader *loader, StreamReader *r)
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
        if (kind > RUN_DELTA || !range_inside(first, count, block->size >> MEM_PAGE_BITS)) {
            return error_new("the saved state is damaged: pages outside of '%s'", block->name);
        }
        if (kind == RUN_ZERO) {
            load_zeroes(loader, block, first, count);
            continue;
        }
        if (kind == RUN_DELTA) {
            TRY(load_delta(loader, block, first, count, r));
            continue;
        }
        const uint8_t *data;
        TRY(stream_get(r, (size_t)count * MEM_PAGE_SIZE, &data));
        load_data(loader, block, first, count, data);
    }
    return NULL;
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
