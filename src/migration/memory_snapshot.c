/*
 * One snapshot of the machine in memory: a copy of all RAM and the records of the devices. Both taking it again and going
 * back to it cost what was written since: the soft TLBs note it per page (RAM_DIRTY_SNAPSHOT).
 *
 *  1. Outside of the functions here, a page whose bit is clear is the same in the copy and in the machine.
 *  2. What is copied back goes through ram_written(), so that translated code and pictures follow it.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "block/node.h"
#include "migration/snapshot_priv.h"
#include "schema/qmp_commands.h"

typedef struct CopiedBlock {
    RamBlock *block; /* referenced */
    uint8_t *copy;
    uint8_t *bits;   /* of ram_take_dirty() */
} CopiedBlock;

typedef struct MemorySnapshot {
    Machine *machine;
    GArray *blocks; /* CopiedBlock */
    GByteArray *devices; /* their stream */
    char *hash; /* of all blocks; NULL: not asked for */
} MemorySnapshot;

static CopiedBlock *block_at(const MemorySnapshot *snapshot, guint n)
{
    return &g_array_index(snapshot->blocks, CopiedBlock, n);
}

static uint64_t pages_of(const CopiedBlock *copied)
{
    return copied->block->size >> MEM_PAGE_BITS;
}

/* --- life --- */

void memory_snapshot_free(MemorySnapshot *snapshot)
{
    if (!snapshot) {
        return;
    }
    for (guint n = 0; n < snapshot->blocks->len; n++) {
        CopiedBlock *copied = block_at(snapshot, n);
        ram_track(copied->block, RAM_DIRTY_SNAPSHOT, false);
        if (copied->copy) {
            munmap(copied->copy, copied->block->size);
        }
        g_free(copied->bits);
        ram_block_unref(copied->block);
    }
    g_array_unref(snapshot->blocks);
    g_clear_pointer(&snapshot->devices, g_byte_array_unref);
    g_free(snapshot->hash);
    g_free(snapshot);
}

static MUST_USE Error *add_block(MemorySnapshot *snapshot, RamBlock *block)
{
    CopiedBlock copied = { .block = ram_block_ref(block) };
    void *copy = mmap(NULL, block->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int err = errno;

    copied.copy = copy == MAP_FAILED ? NULL : copy;
    copied.bits = g_malloc0(pages_of(&copied));
    g_array_append_val(snapshot->blocks, copied);
    if (!copied.copy) {
        return error_new_errno(err, "no memory for a copy of '%s'", block->name);
    }
    madvise(copy, block->size, MADV_DONTFORK);
    ram_track(block, RAM_DIRTY_SNAPSHOT, true); /* all pages are dirty now */
    return NULL;
}

static MUST_USE Error *make(Machine *machine, MemorySnapshot **ret_snapshot)
{
    MemorySnapshot *snapshot = g_new0(MemorySnapshot, 1);
    Error *err = NULL;

    snapshot->machine = machine;
    snapshot->blocks = g_array_new(FALSE, FALSE, sizeof(CopiedBlock));
    for (RamBlock *block = NULL; !err && (block = ram_block_next(machine->mem, block));) {
        err = add_block(snapshot, block);
    }
    if (err) {
        memory_snapshot_free(snapshot);
        return err;
    }
    *ret_snapshot = snapshot;
    return NULL;
}

/* Whether the machine has the memory that it had. */
static bool still_fits(const MemorySnapshot *snapshot)
{
    RamBlock *block = ram_block_next(snapshot->machine->mem, NULL);

    for (guint n = 0; n < snapshot->blocks->len; n++, block = ram_block_next(snapshot->machine->mem, block)) {
        if (!block || block != block_at(snapshot, n)->block) {
            return false;
        }
    }
    return !block;
}

/* --- pages --- */

/* Calls fn for each page that was written since the last time. How many. */
static uint64_t for_written(MemorySnapshot *snapshot, void (*fn)(CopiedBlock *copied, uint64_t page))
{
    uint64_t found = 0;

    for (guint n = 0; n < snapshot->blocks->len; n++) {
        CopiedBlock *copied = block_at(snapshot, n);
        uint64_t pages = pages_of(copied);
        if (!ram_take_dirty(copied->block, RAM_DIRTY_SNAPSHOT, 0, pages, copied->bits)) {
            continue;
        }
        for (const uint8_t *hit = copied->bits; (hit = memchr(hit, 1, pages - (size_t)(hit - copied->bits))); hit++) {
            fn(copied, (uint64_t)(hit - copied->bits));
            found++;
            if ((uint64_t)(hit - copied->bits) + 1 == pages) {
                break;
            }
        }
    }
    return found;
}

static void page_out(CopiedBlock *copied, uint64_t page)
{
    const uint8_t *from = copied->block->host + page * MEM_PAGE_SIZE;
    uint8_t *to = copied->copy + page * MEM_PAGE_SIZE;

    if (!ram_page_is_zero(from) || !ram_page_is_zero(to)) { /* a copy's untouched pages take no memory */
        memcpy(to, from, MEM_PAGE_SIZE);
    }
}

static void page_back(CopiedBlock *copied, uint64_t page)
{
    uint8_t *to = copied->block->host + page * MEM_PAGE_SIZE;
    const uint8_t *from = copied->copy + page * MEM_PAGE_SIZE;

    if (memcmp(to, from, MEM_PAGE_SIZE)) {
        memcpy(to, from, MEM_PAGE_SIZE);
        ram_written(copied->block, page * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
        ram_clear_dirty(copied->block, RAM_DIRTY_SNAPSHOT, page); /* the CPUs stand still */
    }
}

/* --- devices --- */

static MUST_USE Error *save_devices(Machine *machine, RunState state, GByteArray **ret_bytes)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    StreamWriter w;

    stream_writer_init_array(&w, bytes);
    Error *err = stream_write_header(&w);
    err = err ? err : state_write_machine(machine, &w);
    err = err ? err : state_write_devices(machine, state, &w);
    err = err ? err : state_write_end(&w, false);
    stream_writer_fini(&w);
    if (!err) {
        *ret_bytes = g_steal_pointer(&bytes);
    }
    return err;
}

static MUST_USE Error *load_devices(MemorySnapshot *snapshot, RunState *ret_state)
{
    StreamBytes source = { .data = snapshot->devices->data, .length = snapshot->devices->len };
    StateLoader *loader = state_loader_new(snapshot->machine);
    StreamReader r;

    stream_reader_init_bytes(&r, &source);
    Error *err = state_loader_read(loader, &r);
    err = err ? err : state_loader_finish(loader, ret_state);
    stream_reader_fini(&r);
    state_loader_free(loader);
    return err;
}

/* --- the check --- */

static char *hash_of(const MemorySnapshot *snapshot)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);

    for (guint n = 0; n < snapshot->blocks->len; n++) {
        const CopiedBlock *copied = block_at(snapshot, n);
        g_checksum_update(sum, copied->block->host, (gssize)copied->block->size);
    }
    return g_strdup(g_checksum_get_string(sum));
}

static MUST_USE Error *memory_error(const MemorySnapshot *snapshot)
{
    for (guint n = 0; n < snapshot->blocks->len; n++) {
        const CopiedBlock *copied = block_at(snapshot, n);
        for (uint64_t page = 0; page < pages_of(copied); page++) {
            uint64_t at = page * MEM_PAGE_SIZE;
            if (memcmp(copied->block->host + at, copied->copy + at, MEM_PAGE_SIZE)) {
                return error_new("the memory '%s' is not what was saved at 0x%" G_GINT64_MODIFIER "x", copied->block->name, at);
            }
        }
    }
    return error_new("the copy in the snapshot is not what was saved");
}

/* Both are of the same machine, record by record. */
static MUST_USE Error *same_devices(const GByteArray *before, const GByteArray *after)
{
    StreamBytes sources[2] = {
        { .data = before->data, .length = before->len },
        { .data = after->data, .length = after->len },
    };
    StreamReader readers[2];
    Error *err = NULL;

    for (unsigned n = 0; n < 2; n++) {
        stream_reader_init_bytes(&readers[n], &sources[n]);
        err = err ? err : stream_read_header(&readers[n]);
    }
    do {
        for (unsigned n = 0; n < 2 && !err; n++) {
            err = stream_next(&readers[n]);
        }
        size_t length = err ? 0 : (size_t)(readers[0].end - readers[0].at);
        if (!err && (length != (size_t)(readers[1].end - readers[1].at) || memcmp(readers[0].at, readers[1].at, length))) {
            g_autofree char *path = NULL;
            err = readers[0].kind == RECORD_DEVICE ? stream_get_str(&readers[0], &path) : NULL;
            err = err ? err : error_new("%s, saved again, is not what was saved", path ? path : "the machine");
        }
    } while (!err && readers[0].kind != RECORD_END);
    stream_reader_fini(&readers[0]);
    stream_reader_fini(&readers[1]);
    return err;
}

static MUST_USE Error *check(MemorySnapshot *snapshot, RunState state)
{
    g_autofree char *hash = hash_of(snapshot);
    g_autoptr(GByteArray) devices = NULL;

    if (strcmp(hash, snapshot->hash)) {
        return memory_error(snapshot);
    }
    TRY(save_devices(snapshot->machine, state, &devices));
    return same_devices(snapshot->devices, devices);
}

/* --- taking and going back; the machine stands still --- */

static MUST_USE Error *take(Machine *machine, RunState state, bool with_hash, uint64_t *ret_pages)
{
    Migration *migration = migration_of(machine);
    GByteArray *devices;

    if (migration->memory && !still_fits(migration->memory)) {
        memory_snapshot_free(g_steal_pointer(&migration->memory));
    }
    TRY(save_devices(machine, state, &devices));
    Error *err = migration->memory ? NULL : make(machine, &migration->memory);
    if (err) {
        g_byte_array_unref(devices);
        return err;
    }
    MemorySnapshot *snapshot = migration->memory;
    *ret_pages = for_written(snapshot, page_out);
    g_clear_pointer(&snapshot->devices, g_byte_array_unref);
    snapshot->devices = devices;
    g_free(snapshot->hash);
    snapshot->hash = with_hash ? hash_of(snapshot) : NULL;
    return NULL;
}

static MUST_USE Error *restore(MemorySnapshot *snapshot, bool checked, RunState *ret_state, uint64_t *ret_pages)
{
    state_rest_devices(snapshot->machine);
    machine_reset(snapshot->machine, SHUTDOWN_NONE);
    *ret_pages = for_written(snapshot, page_back);
    TRY(load_devices(snapshot, ret_state));
    return checked ? check(snapshot, *ret_state) : NULL;
}

/* --- commands --- */

static MUST_USE Error *check_possible(Machine *machine)
{
    g_autoptr(GPtrArray) nodes = snapshot_written_nodes(machine);

    TRY(snapshot_check_free(machine));
    if (machine->inlet || machine->icount) {
        return error_new("a machine with -icount or a recording has no snapshots in memory");
    }
    if (nodes->len) {
        const BlockNode *node = g_ptr_array_index(nodes, 0);
        return error_hint(error_new("the disk '%s' can be written; a snapshot in memory would not take it back", node->name),
                          "Make it read-only, or let the guest use memory.");
    }
    return NULL;
}

static Value *result(Machine *machine, uint64_t pages, int64_t start)
{
    Value *value = value_dict();
    value_put_int(value, "pages", (int64_t)pages);
    value_put_int(value, "microseconds", (clock_now(machine->clocks, CLOCK_REALTIME_NS) - start) / 1000);
    return value;
}

Error *qmp_x_memory_snapshot_take(QmpContext *ctx, const QmpXMemorySnapshotTakeArgs *args, Value **ret)
{
    Machine *machine = ctx->machine;
    uint64_t pages = 0;

    TRY(check_possible(machine));
    int64_t start = clock_now(machine->clocks, CLOCK_REALTIME_NS);
    RunState before = machine_hold(machine, RUN_STATE_SAVE_VM);
    Error *err = take(machine, before, args->has_check && args->check, &pages);
    machine_release(machine, before);
    if (!err) {
        *ret = result(machine, pages, start);
    }
    return err;
}

Error *qmp_x_memory_snapshot_restore(QmpContext *ctx, const QmpXMemorySnapshotRestoreArgs *args, Value **ret)
{
    Machine *machine = ctx->machine;
    MemorySnapshot *snapshot = migration_of(machine)->memory;
    RunState state;
    bool checked = args->has_check && args->check;
    uint64_t pages = 0;

    TRY(check_possible(machine));
    if (!snapshot) {
        return error_new("there is no snapshot in memory; x-memory-snapshot-take makes one");
    }
    if (!still_fits(snapshot)) {
        return error_new("the machine has other memory than at the time of the snapshot");
    }
    if (checked && !snapshot->hash) {
        return error_new("the snapshot was taken without 'check'");
    }
    int64_t start = clock_now(machine->clocks, CLOCK_REALTIME_NS);
    machine_hold(machine, RUN_STATE_RESTORE_VM);
    Error *err = restore(snapshot, checked, &state, &pages);
    if (err) {
        machine_release_still(machine, RUN_STATE_PAUSED);
        return err;
    }
    snapshot_go_on(machine, state);
    *ret = result(machine, pages, start);
    return NULL;
}

Error *qmp_x_memory_snapshot_drop(QmpContext *ctx, const QmpXMemorySnapshotDropArgs *args, Value **ret)
{
    Migration *migration = migration_of(ctx->machine);

    if (!migration->memory) {
        return error_new("there is no snapshot in memory");
    }
    memory_snapshot_free(g_steal_pointer(&migration->memory));
    return NULL;
}
