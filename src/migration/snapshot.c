/* Snapshots inside disk images; see snapshot.h. */
#include "migration/snapshot.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "block/backend.h"
#include "block/drive.h"
#include "block/node.h"
#include "event/coroutine.h"
#include "migration/machine_state.h"
#include "migration/migration_priv.h"

#define STATE_BUFFER (1 * MiB)

/* --- which images --- */

/* Nodes that the guest may write, each once; borrowed. */
static GPtrArray *written_nodes(Machine *machine)
{
    BlockGraph *graph = machine_service(machine, BLOCK_SERVICE);
    GPtrArray *nodes = g_ptr_array_new();

    for (BlockBackend *blk = NULL; graph && (blk = blk_next(graph, blk));) {
        if (blk_is_inserted(blk) && !blk_is_readonly(blk) && !g_ptr_array_find(nodes, blk_node(blk), NULL)) {
            g_ptr_array_add(nodes, blk_node(blk));
        }
    }
    return nodes;
}

static MUST_USE Error *usable_nodes(Machine *machine, GPtrArray **ret_nodes)
{
    g_autoptr(GPtrArray) nodes = written_nodes(machine);

    for (guint n = 0; n < nodes->len; n++) {
        const BlockNode *node = g_ptr_array_index(nodes, n);
        if (!node->driver->snapshot_create_co || !node->driver->vmstate_pwrite_co) {
            return error_new("Device '%s' is writable but does not support snapshots", node->name);
        }
    }
    if (nodes->len == 0) {
        return error_new("No block device can accept snapshots");
    }
    *ret_nodes = g_steal_pointer(&nodes);
    return NULL;
}

/* By name or id; a copy, or NULL. */
static BlockSnapshot *find(BlockNode *node, const char *tag)
{
    g_autoptr(GPtrArray) all = node->driver->snapshots(node);
    BlockSnapshot *found = NULL;

    for (guint n = 0; n < all->len; n++) {
        BlockSnapshot *one = g_ptr_array_index(all, n);
        if (!found && (!strcmp(one->name, tag) || !strcmp(one->id, tag))) {
            found = g_memdup2(one, sizeof(*one));
            found->id = g_strdup(one->id);
            found->name = g_strdup(one->name);
        }
    }
    return found;
}

/* --- one call in a coroutine --- */

typedef struct Call {
    BlockNode *node;
    const BlockSnapshot *snapshot;
    const char *id;
    uint64_t offset;
    void *buffer;
    size_t length;
    int ret;
    Error *err;
} Call;

static void create_co(void *opaque)
{
    Call *call = opaque;
    call->err = call->node->driver->snapshot_create_co(call->node, call->snapshot);
}

static void apply_co(void *opaque)
{
    Call *call = opaque;
    call->err = call->node->driver->snapshot_apply_co(call->node, call->id);
}

static void delete_co(void *opaque)
{
    Call *call = opaque;
    call->err = call->node->driver->snapshot_delete_co(call->node, call->id);
}

static void write_co(void *opaque)
{
    Call *call = opaque;
    call->ret = call->node->driver->vmstate_pwrite_co(call->node, call->offset, call->length, call->buffer);
}

static void read_co(void *opaque)
{
    Call *call = opaque;
    call->ret = call->node->driver->vmstate_pread_co(call->node, call->offset, call->length, call->buffer);
}

static MUST_USE Error *run(Call *call, CoFn *fn)
{
    co_run(block_graph_loop(call->node->graph), fn, call);
    return call->err ? call->err : call->ret < 0 ? error_new_errno(call->ret, "the machine's state in the image") : NULL;
}

/* --- the stream in the image --- */

typedef struct ImageStream {
    BlockNode *node;
    uint64_t offset; /* of the buffer's begin */
    uint64_t size;   /* of the whole, when reading */
    size_t used, at;
    uint8_t *buffer;
} ImageStream;

static MUST_USE Error *flush_stream(ImageStream *s)
{
    Call call = { .node = s->node, .offset = s->offset, .buffer = s->buffer, .length = s->used };
    if (s->used == 0) {
        return NULL;
    }
    TRY(run(&call, write_co));
    s->offset += s->used;
    s->used = 0;
    return NULL;
}

static Error *image_write(void *opaque, const void *data, size_t length)
{
    ImageStream *s = opaque;
    const uint8_t *from = data;

    while (length > 0) {
        size_t piece = MIN(length, STATE_BUFFER - s->used);
        memcpy(s->buffer + s->used, from, piece);
        s->used += piece;
        from += piece;
        length -= piece;
        if (s->used == STATE_BUFFER) {
            TRY(flush_stream(s));
        }
    }
    return NULL;
}

static MUST_USE Error *fill_stream(ImageStream *s)
{
    size_t want = (size_t)MIN(s->size - s->offset, STATE_BUFFER);
    Call call = { .node = s->node, .offset = s->offset, .buffer = s->buffer, .length = want };
    if (want == 0) {
        return error_new("the saved state ends too early");
    }
    TRY(run(&call, read_co));
    s->offset += want;
    s->used = want;
    s->at = 0;
    return NULL;
}

static Error *image_read(void *opaque, void *data, size_t length)
{
    ImageStream *s = opaque;
    uint8_t *to = data;

    while (length > 0) {
        if (s->at == s->used) {
            TRY(fill_stream(s));
        }
        size_t piece = MIN(length, s->used - s->at);
        memcpy(to, s->buffer + s->at, piece);
        s->at += piece;
        to += piece;
        length -= piece;
    }
    return NULL;
}

/* --- saving --- */

static MUST_USE Error *write_state(Machine *machine, RunState state, BlockNode *node, uint64_t *ret_size)
{
    ImageStream s = { .node = node, .buffer = g_malloc(STATE_BUFFER) };
    StreamWriter w;
    RamSaver *ram = ram_saver_new(machine, false);

    stream_writer_init(&w, image_write, &s);
    Error *err = stream_write_header(&w);
    err = err ? err : state_write_machine(machine, &w);
    err = err ? err : state_write_devices(machine, state, &w);
    err = err ? err : ram_saver_send(ram, &w, UINT64_MAX / 2);
    err = err ? err : state_write_end(&w, false);
    err = err ? err : flush_stream(&s);
    if (!err) {
        *ret_size = w.bytes;
    }
    ram_saver_free(ram);
    stream_writer_fini(&w);
    g_free(s.buffer);
    return err;
}

static MUST_USE Error *delete_everywhere(GPtrArray *nodes, const char *tag, bool *ret_found)
{
    for (guint n = 0; n < nodes->len; n++) {
        BlockNode *node = g_ptr_array_index(nodes, n);
        BlockSnapshot *old = find(node, tag);
        if (!old) {
            continue;
        }
        Call call = { .node = node, .id = old->id };
        Error *err = run(&call, delete_co);
        block_snapshot_free(old);
        if (err) {
            return error_prefix(err, "Error while deleting snapshot on device '%s': ", node->name);
        }
        *ret_found = true;
    }
    return NULL;
}

static MUST_USE Error *save_stopped(Machine *machine, RunState state, GPtrArray *nodes, const char *tag)
{
    BlockGraph *graph = machine_service(machine, BLOCK_SERVICE);
    struct timespec now;
    bool found;
    BlockSnapshot snapshot = { .name = (char *)tag, .icount = UINT64_MAX };

    TRY(delete_everywhere(nodes, tag, &found));
    clock_gettime(CLOCK_REALTIME, &now);
    snapshot.date_sec = (uint64_t)now.tv_sec;
    snapshot.date_nsec = (uint32_t)now.tv_nsec;
    snapshot.vm_clock_ns = (uint64_t)clock_now(machine->clocks, CLOCK_VIRTUAL);
    TRY(write_state(machine, state, g_ptr_array_index(nodes, 0), &snapshot.vm_state_size));
    TRY(block_graph_flush(graph));
    for (guint n = 0; n < nodes->len; n++) {
        Call call = { .node = g_ptr_array_index(nodes, n), .snapshot = &snapshot };
        Error *err = run(&call, create_co);
        if (err) {
            return error_prefix(err, "Error while creating snapshot on '%s': ", call.node->name);
        }
        snapshot.vm_state_size = 0; /* only the first has the state */
    }
    return NULL;
}

static MUST_USE Error *check_free(Machine *machine)
{
    const Migration *migration = migration_of(machine);
    if ((migration && migration_busy(migration)) || machine->state == RUN_STATE_INMIGRATE) {
        return error_new("There's a migration process in progress");
    }
    return NULL;
}

static void go_back_to(Machine *machine, RunState state)
{
    if (state == RUN_STATE_RUNNING || state == RUN_STATE_SUSPENDED) {
        machine_start(machine);
    } else {
        machine_set_state(machine, state);
    }
}

Error *snapshot_save(Machine *machine, const char *tag)
{
    g_autoptr(GPtrArray) nodes = NULL;
    g_autoptr(GDateTime) date = g_date_time_new_now_local();
    g_autofree char *name = tag ? g_strdup(tag) : g_date_time_format(date, "vm-%Y%m%d%H%M%S");
    RunState state = machine->state;

    TRY(check_free(machine));
    TRY(usable_nodes(machine, &nodes));
    machine_stop(machine, RUN_STATE_SAVE_VM);
    Error *err = save_stopped(machine, state, nodes, name);
    go_back_to(machine, state);
    return err;
}

/* --- loading --- */

static MUST_USE Error *read_state(Machine *machine, BlockNode *node, uint64_t size, RunState *ret_state)
{
    ImageStream s = { .node = node, .buffer = g_malloc(STATE_BUFFER), .size = size };
    StateLoader *loader = state_loader_new(machine);
    StreamReader r;

    stream_reader_init(&r, image_read, &s);
    Error *err = state_loader_read(loader, &r);
    err = err ? err : state_loader_finish(loader, ret_state);
    stream_reader_fini(&r);
    state_loader_free(loader);
    g_free(s.buffer);
    return err;
}

/* All images must have it before any of them is touched. */
static MUST_USE Error *check_everywhere(GPtrArray *nodes, const char *tag, uint64_t *ret_size)
{
    for (guint n = 0; n < nodes->len; n++) {
        BlockNode *node = g_ptr_array_index(nodes, n);
        BlockSnapshot *found = find(node, tag);
        if (!found) {
            return error_new("Snapshot '%s' does not exist in one or more devices", tag);
        }
        if (n == 0) {
            *ret_size = found->vm_state_size;
        }
        block_snapshot_free(found);
    }
    return *ret_size ? NULL : error_hint(error_new("This is a disk-only snapshot."), "Revert to it offline using qemu-img.");
}

static MUST_USE Error *apply_everywhere(GPtrArray *nodes, const char *tag)
{
    for (guint n = 0; n < nodes->len; n++) {
        BlockNode *node = g_ptr_array_index(nodes, n);
        BlockSnapshot *found = find(node, tag);
        Call call = { .node = node, .id = found ? found->id : tag };
        Error *err = run(&call, apply_co);
        block_snapshot_free(found);
        if (err) {
            return error_prefix(err, "Could not load snapshot '%s' on '%s': ", tag, node->name);
        }
    }
    return NULL;
}

Error *snapshot_load(Machine *machine, const char *tag)
{
    g_autoptr(GPtrArray) nodes = NULL;
    uint64_t size = 0;
    RunState before = machine->state, state;

    TRY(check_free(machine));
    TRY(usable_nodes(machine, &nodes));
    TRY(check_everywhere(nodes, tag, &size));
    machine_stop(machine, RUN_STATE_RESTORE_VM);
    Error *err = apply_everywhere(nodes, tag);
    if (!err) {
        machine_reset(machine, SHUTDOWN_NONE);
        err = read_state(machine, g_ptr_array_index(nodes, 0), size, &state);
    }
    if (err) {
        machine_set_state(machine, RUN_STATE_PAUSED);
        return err;
    }
    machine->stopped_suspended = state == RUN_STATE_SUSPENDED;
    if (before == RUN_STATE_RUNNING || before == RUN_STATE_SUSPENDED) {
        machine_start(machine);
    } else {
        machine_set_state(machine, RUN_STATE_PAUSED);
    }
    return NULL;
}

/* --- the others --- */

Error *snapshot_delete(Machine *machine, const char *tag)
{
    g_autoptr(GPtrArray) nodes = NULL;
    bool found = false;

    TRY(usable_nodes(machine, &nodes));
    TRY(delete_everywhere(nodes, tag, &found));
    return found ? NULL : error_new("Snapshot '%s' not found", tag);
}

static char *size_text(uint64_t bytes)
{
    static const char units[] = "BKMGTPE";
    double value = (double)bytes;
    unsigned n = 0;
    while (value >= 1000 && n < sizeof(units) - 2) {
        value /= 1024;
        n++;
    }
    return n == 0 ? g_strdup_printf("%d B", (int)value) : g_strdup_printf("%.3g %ciB", value, units[n]);
}

char *snapshot_describe(Machine *machine)
{
    g_autoptr(GPtrArray) nodes = written_nodes(machine);
    GString *text = g_string_new(NULL);

    for (guint i = 0; i < nodes->len; i++) {
        BlockNode *node = g_ptr_array_index(nodes, i);
        if (!node->driver->snapshots) {
            continue;
        }
        g_autoptr(GPtrArray) all = node->driver->snapshots(node);
        if (all->len && text->len == 0) {
            g_string_append_printf(text, "List of snapshots present on all disks:\n%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG",
                                   "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
        }
        for (guint n = 0; n < all->len && i == 0; n++) {
            const BlockSnapshot *one = g_ptr_array_index(all, n);
            g_autoptr(GDateTime) date = g_date_time_new_from_unix_local((gint64)one->date_sec);
            g_autofree char *when = date ? g_date_time_format(date, "%Y-%m-%d %H:%M:%S") : g_strdup("?");
            g_autofree char *size = size_text(one->vm_state_size);
            uint64_t ms = one->vm_clock_ns / (uint64_t)NS_PER_MS;
            g_string_append_printf(text, "%-10s%-17s%8s%20s   %02u:%02u:%02u.%03u\n", one->id, one->name, size, when,
                                   (unsigned)(ms / 3600000), (unsigned)(ms / 60000 % 60), (unsigned)(ms / 1000 % 60),
                                   (unsigned)(ms % 1000));
        }
    }
    if (text->len == 0) {
        g_string_append(text, "There is no snapshot available.\n");
    }
    return g_string_free(text, FALSE);
}
