/* Memory from a saved state by and by; see lazy_load.h. */
#include "migration/lazy_load.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/backend.h"
#include "migration/migration_priv.h"
#include "migration/state_priv.h"

#define SMALL (16 * MiB) /* blocks below that are loaded at once */
enum { RECORD_HEAD = 8, RECORD_SUM = 4 };

/* Where pieces of the stream lie in the file. */
typedef struct Extent {
    uint64_t stream, file, bytes;
} Extent;

typedef struct LazyRecord {
    uint64_t offset; /* in the stream */
    uint32_t number;
} LazyRecord;

typedef struct LazyPages {
    RamBlock *block;
    uint32_t *record; /* a page's last copy: its record + 1; 0: zero */
} LazyPages;

struct LazyLoad {
    Machine *machine;
    BlockNode *node; /* counted */
    int fd;
    GArray *extents;  /* Extent, by stream */
    GArray *blocks;   /* LazyPages, by the stream's number; block NULL: loaded at once */
    GPtrArray *lazy_blocks; /* their blocks */
    GArray *records;  /* LazyRecord */
    _Atomic uint8_t *done; /* one a record */
    LazyRam *ram;
    bool started;
    Work ended;
};

/* --- the file --- */

typedef struct MapCall {
    LazyLoad *load;
    uint64_t size;
    int ret;
} MapCall;

static void map_co(void *opaque)
{
    MapCall *call = opaque;
    BlockNode *node = call->load->node;

    for (uint64_t at = 0; at < call->size && call->ret >= 0;) {
        Extent extent = { .stream = at };
        call->ret = node->driver->vmstate_map_co(node, at, call->size - at, &extent.file, &extent.bytes);
        if (call->ret >= 0) {
            g_array_append_val(call->load->extents, extent);
            at += extent.bytes;
        }
    }
    call->ret = call->ret < 0 ? call->ret : node_flush_co(node);
    if (call->ret >= 0) {
        call->ret = call->load->fd = node->driver->vmstate_open(node);
    }
}

static const Extent *extent_at(const LazyLoad *load, uint64_t offset)
{
    guint low = 0, high = load->extents->len;

    while (high - low > 1) {
        guint middle = (low + high) / 2;
        if (g_array_index(load->extents, Extent, middle).stream <= offset) {
            low = middle;
        } else {
            high = middle;
        }
    }
    const Extent *extent = high ? &g_array_index(load->extents, Extent, low) : NULL;
    return extent && offset - extent->stream < extent->bytes ? extent : NULL;
}

static MUST_USE Error *read_file(const LazyLoad *load, uint64_t offset, uint8_t *to, uint64_t length)
{
    while (length > 0) {
        const Extent *extent = extent_at(load, offset);
        if (!extent) {
            return error_new("the saved state ends too early");
        }
        uint64_t inside = offset - extent->stream;
        ssize_t got = pread(load->fd, to, MIN(length, extent->bytes - inside), (off_t)(extent->file + inside));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? error_new_errno(errno, "the saved state cannot be read") : error_new("the image is shorter than it was");
        }
        to += got;
        offset += (uint64_t)got;
        length -= (uint64_t)got;
    }
    return NULL;
}

/* For StreamReader: whose position says where it goes on. */
typedef struct Cursor {
    const LazyLoad *load;
    uint64_t offset;
} Cursor;

static Error *read_cursor(void *opaque, void *data, size_t length)
{
    Cursor *cursor = opaque;

    TRY(read_file(cursor->load, cursor->offset, data, length));
    cursor->offset += length;
    return NULL;
}

/* --- which record has a page last --- */

static LazyPages *pages_of(const LazyLoad *load, const RamBlock *block)
{
    for (guint n = 0; n < load->blocks->len; n++) {
        LazyPages *pages = &g_array_index(load->blocks, LazyPages, n);
        if (pages->block == block) {
            return pages;
        }
    }
    return NULL;
}

/* What kinds of memory cannot be missing are loaded at once. */
static void choose_blocks(LazyLoad *load, const GPtrArray *blocks)
{
    for (guint n = load->blocks->len; n < blocks->len; n++) {
        LazyPages pages = { .block = blocks->pdata[n] };
        if (pages.block->size < SMALL || lazy_ram_add(load->ram, pages.block, NULL)) {
            pages.block = NULL;
        } else {
            pages.record = g_new0(uint32_t, pages.block->size >> MEM_PAGE_BITS);
        }
        g_array_append_val(load->blocks, pages);
        g_ptr_array_add(load->lazy_blocks, pages.block);
    }
}

static MUST_USE Error *note_runs(LazyLoad *load, const LazyPages *pages, uint64_t at, uint64_t end)
{
    const uint32_t record = load->records->len; /* it is the last one: its index + 1 */
    uint8_t head[RAM_RUN_HEAD];
    RamRun run = { 0 };

    while (at < end) {
        TRY(read_file(load, at, head, sizeof(head)));
        TRY(ram_run_next(&run, head, pages->block));
        if (run.kind == RUN_DELTA) {
            return error_new("the saved state is damaged: a delta where there can be none in '%s'", pages->block->name);
        }
        for (uint64_t n = 0; n < run.count; n++) {
            pages->record[run.first + n] = run.kind == RUN_DATA ? record : 0;
        }
        at += RAM_RUN_HEAD + (run.kind == RUN_DATA ? run.count * MEM_PAGE_SIZE : 0);
    }
    return at == end ? NULL : error_new("the saved state is damaged: a record of '%s' is too short", pages->block->name);
}

typedef struct Reading {
    LazyLoad *load;
    StateLoader *loader;
    Cursor cursor;
} Reading;

/* Notes a record of memory that is left where it is. */
static Error *skip_record(void *opaque, StreamReader *r, bool *ret_skipped)
{
    Reading *reading = opaque;
    LazyLoad *load = reading->load;
    const GPtrArray *blocks = state_loader_blocks(reading->loader);
    uint8_t head[RECORD_HEAD + 4];
    uint64_t at = reading->cursor.offset;

    *ret_skipped = false;
    TRY(read_file(load, at, head, RECORD_HEAD));
    uint32_t length = ld32_le(head + 4);
    if (ld32_le(head) != RECORD_RAM || length < 4 || length > RECORD_MAX) {
        return NULL;
    }
    choose_blocks(load, blocks);
    TRY(read_file(load, at + RECORD_HEAD, head + RECORD_HEAD, 4));
    uint32_t number = ld32_le(head + RECORD_HEAD);
    if (number >= load->blocks->len || !g_array_index(load->blocks, LazyPages, number).block) {
        return NULL;
    }
    LazyRecord record = { .offset = at, .number = r->number };
    g_array_append_val(load->records, record);
    TRY(note_runs(load, &g_array_index(load->blocks, LazyPages, number), at + RECORD_HEAD + 4, at + RECORD_HEAD + length));
    reading->cursor.offset = at + RECORD_HEAD + length + RECORD_SUM;
    r->number++;
    *ret_skipped = true;
    return NULL;
}

/* --- bringing pages --- */

typedef struct Placing {
    LazyLoad *load;
    uint32_t record; /* index + 1 */
} Placing;

/* Those pages of a run that no later record has, in pieces that belong together. */
static void place_run(void *opaque, RamBlock *block, uint64_t first, uint64_t count, const uint8_t *data)
{
    const Placing *placing = opaque;
    const LazyPages *pages = pages_of(placing->load, block);

    for (uint64_t n = 0, end; pages && n < count; n = end + 1) {
        for (end = n; end < count && pages->record[first + end] == placing->record; end++) {
        }
        if (end > n) {
            lazy_ram_place(placing->load->ram, block, first + n, end - n, data + n * MEM_PAGE_SIZE);
        }
    }
}

static MUST_USE Error *load_record(LazyLoad *load, guint index)
{
    const LazyRecord *record = &g_array_index(load->records, LazyRecord, index);
    const RamSink sink = { .data = place_run };
    Placing placing = { load, index + 1 };
    Cursor cursor = { load, record->offset };
    StreamReader r;

    stream_reader_init(&r, read_cursor, &cursor);
    r.number = record->number;
    Error *err = stream_next(&r);
    err = err ? err : ram_record_read(&r, load->lazy_blocks, &sink, &placing);
    stream_reader_fini(&r);
    if (!err) {
        atomic_store(&load->done[index], 1);
    }
    return err;
}

static void want(void *opaque, LazyRam *ram, RamBlock *block, uint64_t page, pid_t thread)
{
    LazyLoad *load = opaque;
    uint32_t record = pages_of(load, block)->record[page];
    Error *err = NULL;

    if (record == 0) {
        lazy_ram_place_zero(ram, block, page, 1);
    } else {
        err = load_record(load, record - 1);
    }
    if (err) {
        lazy_ram_fail(ram, err);
    }
}

static Error *fill(void *opaque, LazyRam *ram)
{
    LazyLoad *load = opaque;

    for (guint n = 0; n < load->records->len && !lazy_ram_is_over(ram); n++) {
        if (!atomic_load(&load->done[n])) {
            TRY(load_record(load, n));
        }
    }
    return NULL;
}

/* The guest goes on for a moment, with zeroes for memory: nothing of that reaches its disks, and it is stopped for good. */
static void failed(void *opaque, const Error *err)
{
    LazyLoad *load = opaque;

    block_graph_freeze(machine_service(load->machine, BLOCK_SERVICE));
    machine_request_stop(load->machine, RUN_STATE_INTERNAL_ERROR);
    warn_report("the rest of the machine's memory cannot be loaded: %s; the machine stops, and nothing more is written to its disks",
                error_message(err));
}

static void ended(void *opaque)
{
    LazyLoad *load = opaque;
    work_schedule(&load->ended);
}

static const LazyRamProvider provider = { .want = want, .fill = fill, .failed = failed, .ended = ended };

/* --- life --- */

static void lazy_load_free(LazyLoad *load)
{
    lazy_ram_free(load->ram);
    work_fini(&load->ended);
    if (load->fd >= 0) {
        close(load->fd);
    }
    for (guint n = 0; n < load->blocks->len; n++) {
        g_free(g_array_index(load->blocks, LazyPages, n).record);
    }
    g_array_unref(load->blocks);
    g_ptr_array_unref(load->lazy_blocks);
    g_array_unref(load->extents);
    g_array_unref(load->records);
    g_free((void *)load->done);
    load->node->vmstate_busy = false;
    node_unref(load->node);
    g_free(load);
}

static void all_there(void *opaque)
{
    LazyLoad *load = opaque;

    migration_of(load->machine)->lazy_load = NULL;
    lazy_load_free(load);
}

static LazyLoad *lazy_load_new(Machine *machine, BlockNode *node)
{
    LazyLoad *load = g_new0(LazyLoad, 1);

    load->machine = machine;
    load->node = node_ref(node);
    load->fd = -1;
    load->extents = g_array_new(FALSE, FALSE, sizeof(Extent));
    load->blocks = g_array_new(FALSE, FALSE, sizeof(LazyPages));
    load->lazy_blocks = g_ptr_array_new();
    load->records = g_array_new(FALSE, FALSE, sizeof(LazyRecord));
    work_init(&load->ended, machine->loop, all_there, load);
    return load;
}

static MUST_USE Error *read_stream(LazyLoad *load, StateLoader *loader)
{
    Reading reading = { load, loader, { load, 0 } };
    StreamReader r;

    stream_reader_init(&r, read_cursor, &reading.cursor);
    state_loader_set_skip(loader, skip_record, &reading);
    Error *err = state_loader_read(loader, &r);
    stream_reader_fini(&r);
    return err;
}

static MUST_USE Error *load_all(LazyLoad *load, RunState *ret_state)
{
    StateLoader *loader = state_loader_new(load->machine);
    Error *err = read_stream(load, loader);

    load->done = g_malloc0(load->records->len + 1);
    if (!err) {
        err = lazy_ram_start(load->ram);
        load->started = !err;
    }
    err = err ? err : state_loader_finish(loader, ret_state);
    state_loader_free(loader);
    return err;
}

bool lazy_load_state(Machine *machine, BlockNode *node, uint64_t size, RunState *ret_state, Error **ret_err)
{
    Migration *migration = migration_of(machine);

    if (migration->lazy_host < 0 || machine->inlet || machine->icount || !node->driver->vmstate_map_co) {
        return false;
    }
    LazyLoad *load = lazy_load_new(machine, node);
    MapCall call = { .load = load, .size = size };
    co_run(block_graph_loop(node->graph), map_co, &call);
    if (call.ret < 0) {
        lazy_load_free(load);
        return false;
    }
    node->vmstate_busy = true;
    load->ram = lazy_ram_new(migration->lazy_host, &provider, load);
    *ret_err = load_all(load, ret_state);
    if (!load->started) {
        lazy_load_free(load);
    } else {
        migration->lazy_load = load;
    }
    return true;
}

void lazy_load_drop(Machine *machine)
{
    Migration *migration = migration_of(machine);

    if (migration->lazy_load && !machine_running(machine)) {
        lazy_load_free(g_steal_pointer(&migration->lazy_load)); /* its threads end early */
    }
    lazy_load_finish(machine);
}

void lazy_load_finish(Machine *machine)
{
    Migration *migration = migration_of(machine);
    LazyLoad *load = migration ? migration->lazy_load : NULL;

    if (load) {
        lazy_ram_wait(load->ram);
        migration->lazy_load = NULL;
        lazy_load_free(load); /* waits for its threads */
    }
}
