/*
 * The crash test of qcow2. A recorder under the image notes every operation (what, where, data) and
 * every barrier. From the record, the disks that a crash may leave are built:
 *
 *   - every prefix;
 *   - between two barriers, every subset of the operations that were not yet durable, up to 10 of
 *     them; 64 random subsets beyond;
 *   - torn writes: a subset of the 512-byte sectors of one operation;
 *   - discards that take effect late.
 *
 * Judges: our check; on a sample another program's `qemu-img check`; and the guest's data against
 * the model (crash_model.h). Leaks pass, errors do not. With flushes disabled it must fail.
 *
 * usage: block-crash-test [--full | --all] (otherwise GLib's test options)
 */
#include "block/test_mem.h"
#include "crash_model.h"

#include <stdlib.h>

typedef struct Config {
    const char *name, *options;
    uint64_t clusters; /* of the guest's disk */
    uint32_t cluster;
    bool backing, v2, no_snapshots;
    const char *secret; /* the option that names the secret; NULL: not encrypted */
    bool plain_luks;    /* the format luks: nothing but sectors, so no check, snapshots, discards */
} Config;

static const Config configs[] = {
    { "512", "cluster_size=512", 80, 512 },
    { "512-backing", "cluster_size=512", 80, 512, .backing = true },
    { "v2", "compat=0.10,cluster_size=512", 80, 512, .v2 = true },
    { "v2-backing", "compat=0.10,cluster_size=1k", 40, 1024, .backing = true, .v2 = true },
    { "4k", "cluster_size=4k", 16, 4096 },
    { "64k-backing", "cluster_size=64k", 4, 65536, .backing = true },
    { "refcount-1", "cluster_size=512,refcount_bits=1", 80, 512, .no_snapshots = true },
    { "refcount-4", "cluster_size=512,refcount_bits=4", 80, 512 },
    { "refcount-64", "cluster_size=512,refcount_bits=64", 80, 512 },
    { "subclusters", "extended_l2=on,cluster_size=16k", 6, 16384 },
    { "subclusters-backing", "extended_l2=on,cluster_size=16k", 6, 16384, .backing = true },
    { "lazy", "cluster_size=512,lazy_refcounts=on", 80, 512 },
    { "lazy-backing", "cluster_size=4k,lazy_refcounts=on", 16, 4096, .backing = true },
    { "zstd", "cluster_size=4k,compression_type=zstd", 16, 4096 },
    { "encrypted", "cluster_size=4k,encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=1", 16, 4096,
      .secret = "encrypt.key-secret" },
    { "encrypted-backing", "cluster_size=64k,encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=1", 4, 65536,
      .backing = true, .secret = "encrypt.key-secret" },
    { "luks", "key-secret=key,iter-time=1", 40, 512, .secret = "key-secret", .plain_luks = true },
};
/* An encrypted image begins with megabytes of key material, and opening one takes time. */
enum { ENCRYPTED_COSTS = 4 };

typedef struct Totals {
    uint64_t states, distinct, asked, leaky, repaired;
} Totals;
static Totals totals;

static struct {
    bool full, all;
    unsigned peer_every; /* another program judges each n-th state; 0: none */
    char *peer;
} mode;

typedef struct Run {
    BlockFixture *f;
    const Config *config;
    BlockNode *node;
    MemFile *file;
    Journal journal;
    GByteArray *start; /* the image when recording began */
    uint8_t *initial;
    uint64_t size;
    unsigned snapshots, running;
    bool no_flush; /* the control */
    unsigned budget; /* states at most */
    char *failure;
    char *trail; /* what the guest did, for messages */
    GHashTable *seen;
} Run;

/* --- the image --- */

static void fill_random(uint8_t *data, size_t bytes)
{
    uint32_t x = (uint32_t)g_test_rand_int() | 1;
    for (size_t i = 0; i < bytes; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        data[i] = (uint8_t)x;
    }
}

static char *node_options(const Config *config, const char *file, const char *more)
{
    g_autofree char *secret = config->secret ? g_strdup_printf("%s=key,", config->secret) : g_strdup("");
    return g_strdup_printf("driver=%s,discard=unmap,%s%s%sfile.driver=test-mem,file.filename=%s%s",
                           config->plain_luks ? "luks" : "qcow2", secret, more, *more ? "," : "", file,
                           config->backing
                               ? ",backing.driver=raw,backing.read-only=on,"
                                 "backing.file.driver=test-mem,backing.file.filename=base"
                               : "");
}

static void wait_closed(BlockFixture *f)
{
    while (block_node_next(f->graph, NULL)) {
        loop_run_once(f->loop, NS_PER_MS);
    }
}

static unsigned count_nodes(BlockGraph *graph)
{
    unsigned count = 0;
    for (BlockNode *node = NULL; (node = block_node_next(graph, node));) {
        count++;
    }
    return count;
}

/* Closing goes on in a coroutine of its own. */
static void close_node(BlockFixture *f, BlockNode *node, unsigned nodes_left)
{
    node_unref(node);
    while (count_nodes(f->graph) > nodes_left) {
        loop_run_once(f->loop, NS_PER_MS);
    }
}

static unsigned log_length(const Run *run)
{
    return run->file->log ? run->file->log->len : 0; /* what came before recording is at 0 */
}

typedef struct IoCall {
    BlockNode *node;
    uint64_t bytes;
    uint8_t *data;
    int ret;
} IoCall;

static void read_call_co(void *opaque)
{
    IoCall *call = opaque;
    call->ret = node_pread_co(call->node, 0, call->bytes, call->data);
}

static uint8_t *read_all(BlockFixture *f, BlockNode *node)
{
    IoCall call = { .node = node, .bytes = node->size, .data = g_malloc(MAX(node->size, 1)) };
    co_run(f->loop, read_call_co, &call);
    if (call.ret < 0) {
        g_clear_pointer(&call.data, g_free);
    }
    return call.data; /* NULL: it cannot be read */
}

static void run_begin(Run *run, BlockFixture *f, const Config *config)
{
    *run = (Run) { .f = f, .config = config, .budget = mode.full ? 4000 : 60 };
    if (config->secret) {
        run->budget /= ENCRYPTED_COSTS;
    }
    run->size = config->clusters * config->cluster - (config->cluster > 1024 ? 1024 : 0);
    g_autofree char *options =
        g_strdup_printf("size=%" G_GUINT64_FORMAT ",%s%s", run->size, config->options,
                        config->backing ? ",backing_file=base,backing_fmt=raw" : "");
    expect_ok(create_text(f, "test-mem:img", config->plain_luks ? "luks" : "qcow2", options));
    if (config->backing) { /* longer than the image, so that it can shine through when that grows */
        MemFile *base = mem_file("base");
        g_byte_array_set_size(base->data, (guint)(run->size + 4 * config->cluster));
        fill_random(base->data->data, base->data->len);
    }
    g_autofree char *text = node_options(config, "img", "");
    run->node = open_text(f, text);
    run->file = mem_file("img");
    run->seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    run->trail = g_strdup("");
    run->initial = read_all(f, run->node);
    journal_init(&run->journal, run->node->size, run->initial);
}

static void guest_flush_co(Run *run);

static void flush_call_co(void *opaque)
{
    guest_flush_co(opaque);
}

static void run_record(Run *run)
{
    co_run(run->f->loop, flush_call_co, run);
    run->start = g_byte_array_new();
    g_byte_array_append(run->start, run->file->data->data, run->file->data->len);
    mem_file_record(run->file);
}

static void run_end(Run *run)
{
    node_unref(run->node);
    wait_closed(run->f);
    journal_fini(&run->journal);
    g_byte_array_unref(run->start);
    g_hash_table_unref(run->seen);
    g_free(run->initial);
    g_free(run->trail);
    g_free(run->failure);
    g_clear_pointer(&mem_files, g_hash_table_destroy);
}

/* --- what the guest does --- */

typedef struct Step {
    Run *run;
    char letter;
    uint64_t lane_offset, lane_bytes; /* where it may write */
    unsigned rounds;
} Step;

static void trail(Run *run, const char *fmt, ...) PRINTF(2, 3);
static void trail(Run *run, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *more = g_strdup_vprintf(fmt, ap), *old = run->trail;
    va_end(ap);
    run->trail = g_strconcat(old, *old ? " " : "", more, NULL);
}

/* A range of sectors: inside a cluster, across a border, or whole clusters. */
static void pick_range(const Step *step, uint64_t *ret_offset, uint64_t *ret_bytes)
{
    uint64_t cluster = step->run->config->cluster, lane = step->lane_bytes;
    uint64_t wanted = g_test_rand_int() & 1 ? cluster * (uint64_t)g_test_rand_int_range(1, 4)
                                            : SECTOR * (uint64_t)g_test_rand_int_range(1, 9);
    uint64_t bytes = MIN(wanted, lane);
    uint64_t at = (uint64_t)g_test_rand_int_range(0, (int)((lane - bytes) / SECTOR) + 1) * SECTOR;
    if (g_test_rand_int() & 1) {
        at = ALIGN_DOWN(at, cluster);
    }
    *ret_offset = step->lane_offset + at;
    *ret_bytes = bytes;
}

static void guest_write_co(Step *step, char letter)
{
    Run *run = step->run;
    uint64_t offset, bytes;
    pick_range(step, &offset, &bytes);
    if (letter == 'P') {
        uint64_t cluster = run->config->cluster;
        offset = ALIGN_UP(offset, cluster);
        bytes = cluster;
        if (offset + bytes > step->lane_offset + step->lane_bytes) {
            return;
        }
    }
    if (offset + bytes > run->node->size) {
        return;
    }
    g_autofree uint8_t *data = g_malloc0(bytes);
    fill_random(data, letter == 'P' ? bytes / 4 : bytes);
    trail(run, "%c%u+%u", letter, (unsigned)(offset / SECTOR), (unsigned)(bytes / SECTOR));
    GuestOp *op = journal_begin(&run->journal, GUEST_WRITE, offset, bytes, data, log_length(run));
    int ret = node_pwrite_co(run->node, offset, bytes, data, letter == 'P' ? REQ_COMPRESSED : 0);
    g_assert_cmpint(ret, ==, 0);
    journal_end(&run->journal, op, log_length(run));
}

static void guest_clear_co(Step *step, char letter)
{
    Run *run = step->run;
    uint64_t offset, bytes;
    pick_range(step, &offset, &bytes);
    if (offset + bytes > run->node->size) {
        return;
    }
    trail(run, "%c%u+%u", letter, (unsigned)(offset / SECTOR), (unsigned)(bytes / SECTOR));
    GuestOp *op = journal_begin(&run->journal, letter == 'D' ? GUEST_DISCARD : GUEST_ZERO, offset,
                                bytes, NULL, log_length(run));
    int ret = letter == 'D' ? node_discard_co(run->node, offset, bytes)
                            : node_write_zeroes_co(run->node, offset, bytes,
                                                   letter == 'U' ? REQ_MAY_UNMAP : 0);
    g_assert_cmpint(ret, ==, 0);
    journal_end(&run->journal, op, log_length(run));
}

static void guest_flush_co(Run *run)
{
    trail(run, "F");
    GuestOp *op = journal_begin(&run->journal, GUEST_FLUSH, 0, 0, NULL, log_length(run));
    g_assert_cmpint(node_flush_co(run->node), ==, 0);
    journal_end(&run->journal, op, log_length(run));
}

static void guest_resize_co(Run *run, char letter)
{
    uint64_t old = run->node->size, step = 2 * run->config->cluster + SECTOR;
    uint64_t size = letter == 'G' ? old + step : old - MIN(step, old / 2);
    size = ALIGN_DOWN(size, SECTOR);
    if (size > run->size + 3 * run->config->cluster) {
        return;
    }
    trail(run, "%c%u", letter, (unsigned)(size / SECTOR));
    GuestOp *op =
        journal_begin(&run->journal, GUEST_RESIZE, old, 0, NULL, log_length(run));
    op->bytes = size;
    Error *err = node_truncate_co(run->node, size, PREALLOC_OFF);
    if (err) { /* snapshots forbid it */
        error_free(err);
        op->bytes = old;
    }
    journal_end(&run->journal, op, log_length(run));
}

static GuestOp *latest_snapshot(Run *run)
{
    GuestOp *found = NULL;
    for (guint i = 0; i < run->journal.ops->len; i++) {
        GuestOp *op = g_ptr_array_index(run->journal.ops, i);
        if (op->kind == GUEST_CREATE) {
            found = op;
        } else if (op->kind == GUEST_DELETE && found && op->snapshot == found->snapshot) {
            found = NULL;
        }
    }
    return found;
}

static void guest_snapshot_co(Run *run, char letter)
{
    const BlockDriver *driver = run->node->driver;
    GuestOp *old = latest_snapshot(run), *op;
    Error *err;

    if (run->config->no_snapshots || (letter != 'C' && !old) ||
        (letter == 'A' && old->bytes != run->node->size)) {
        return;
    }
    trail(run, "%c", letter);
    if (letter == 'C') {
        g_autofree uint8_t *data = g_malloc(run->node->size);
        g_autofree char *name = g_strdup_printf("s%u", run->snapshots);
        BlockSnapshot sn = { .name = name };
        g_assert_cmpint(node_pread_co(run->node, 0, run->node->size, data), ==, 0);
        op = journal_begin(&run->journal, GUEST_CREATE, 0, run->node->size, data, log_length(run));
        op->snapshot = run->snapshots++;
        err = driver->snapshot_create_co(run->node, &sn);
    } else {
        g_autofree char *name = g_strdup_printf("s%u", old->snapshot);
        op = journal_begin(&run->journal, letter == 'A' ? GUEST_APPLY : GUEST_DELETE, 0, 0, NULL,
                           log_length(run));
        op->snapshot = old->snapshot;
        err = letter == 'A' ? driver->snapshot_apply_co(run->node, name)
                            : driver->snapshot_delete_co(run->node, name);
    }
    expect_ok(err);
    journal_end(&run->journal, op, log_length(run));
}

static void guest_step_co(Step *step)
{
    const Config *config = step->run->config;
    if ((config->plain_luks && strchr("DCAXGS", step->letter)) || (config->secret && step->letter == 'P')) {
        return; /* there is no such thing; what new sectors of luks show is not defined */
    }
    switch (step->letter) {
    case 'W':
    case 'P':
        guest_write_co(step, step->letter);
        break;
    case 'Z':
    case 'U':
    case 'D':
        guest_clear_co(step, step->letter);
        break;
    case 'F':
        guest_flush_co(step->run);
        break;
    case 'G':
    case 'S':
        guest_resize_co(step->run, step->letter);
        break;
    default:
        guest_snapshot_co(step->run, step->letter);
        break;
    }
}

static void letters_co(void *opaque)
{
    Step *step = opaque;
    guest_step_co(step);
}

static void guest_letters(Run *run, const char *letters)
{
    for (; *letters; letters++) {
        Step step = { .run = run, .letter = *letters, .lane_bytes = run->node->size };
        co_run(run->f->loop, letters_co, &step);
    }
}

/* One of several queues: its own stripe, its own flushes. */
static void queue_co(void *opaque)
{
    Step *step = opaque;
    Run *run = step->run;
    for (unsigned i = 0; i < step->rounds; i++) {
        step->letter = "WWWWPZUDF"[g_test_rand_int_range(0, 9)];
        guest_step_co(step);
    }
    g_free(step);
    run->running--;
}

static void guest_queues(Run *run, unsigned count, unsigned rounds)
{
    uint64_t lane = ALIGN_DOWN(run->node->size / count, SECTOR);
    for (unsigned i = 0; i < count; i++) {
        Step *step = g_new0(Step, 1);
        *step = (Step) { .run = run, .lane_offset = i * lane, .lane_bytes = lane, .rounds = rounds };
        run->running++;
        lock_acquire(&run->f->lock);
        co_start(run->f->loop, queue_co, step);
        lock_release(&run->f->lock);
    }
    while (run->running) {
        loop_run_once(run->f->loop, -1);
    }
}

/* --- judging one state --- */

static void fail(Run *run, unsigned log, const char *fmt, ...) PRINTF(3, 4);
static void fail(Run *run, unsigned log, const char *fmt, ...)
{
    if (!run->failure) {
        va_list ap;
        va_start(ap, fmt);
        g_autofree char *what = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        run->failure = g_strdup_printf("%s: crash after %u of %u operations: %s (guest: %s)",
                                       run->config->name, log, log_length(run), what, run->trail);
    }
}

static void judge_snapshots(Run *run, const Verdict *v, BlockNode *node)
{
    g_autoptr(GPtrArray) list = node->driver->snapshots ? node->driver->snapshots(node) : NULL;
    for (guint i = 0; i < run->journal.ops->len; i++) {
        const GuestOp *op = g_ptr_array_index(run->journal.ops, i);
        bool must, must_not, found = false;
        if (op->kind != GUEST_CREATE) {
            continue;
        }
        g_autofree char *name = g_strdup_printf("s%u", op->snapshot);
        for (guint s = 0; s < list->len; s++) {
            found |= !strcmp(((BlockSnapshot *)g_ptr_array_index(list, s))->name, name);
        }
        verdict_snapshot(v, op, &must, &must_not);
        if ((must && !found) || (must_not && found)) {
            fail(run, v->log, "snapshot %s is %s", name, found ? "there" : "missing");
        }
        if (!found) {
            continue;
        }
        g_autofree char *more = g_strdup_printf("read-only=on,x-snapshot=%s", name);
        g_autofree char *text = node_options(run->config, "crashed", more);
        unsigned nodes = count_nodes(run->f->graph);
        BlockNode *then = open_text(run->f, text);
        g_autofree uint8_t *data = read_all(run->f, then);
        if (!data || then->size != op->bytes || memcmp(data, op->data, op->bytes)) {
            fail(run, v->log, "snapshot %s has other contents", name);
        }
        close_node(run->f, then, nodes);
    }
}

/* After `check -r all`: nothing is left to do, and the guest's data is what it was. */
static void judge_repair(Run *run, const Verdict *v, const uint8_t *before)
{
    g_autofree char *text = node_options(run->config, "crashed", "x-repair=on");
    unsigned nodes = count_nodes(run->f->graph);
    for (int pass = 0; pass < 2; pass++) {
        BlockNode *node = open_text(run->f, text);
        BlockCheck check = check_node(run->f, node, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS);
        if (pass && (check.leaks || check.corruptions || check.leaks_fixed)) {
            fail(run, v->log, "a second repair finds something to do");
        }
        g_autofree uint8_t *after = read_all(run->f, node);
        if (!after || memcmp(before, after, node->size)) {
            fail(run, v->log, "repair changes the guest's data");
        }
        close_node(run->f, node, nodes);
    }
    totals.repaired++;
}

/* What the other program's check says against the image; NULL: nothing. Caller frees. */
static char *peer_objects(Run *run, const GByteArray *data, bool dirty)
{
    g_autofree char *path = block_fixture_path(run->f, "peer.qcow2"), *out = NULL;
    g_autofree char *base = block_fixture_path(run->f, "base");
    g_autofree char *image = g_strdup_printf("driver=qcow2,file.driver=file,file.filename=%s%s", path,
                                             run->config->secret ? ",encrypt.key-secret=key" : "");
    const char *argv[] = { mode.peer, "check", "-q", "--object", "secret,id=key,data=letmein", "--image-opts", image, NULL,
                           NULL, NULL };
    int status;

    g_assert_true(g_file_set_contents(path, (char *)data->data, data->len, NULL));
    if (run->config->backing) {
        g_assert_true(g_file_set_contents(base, "", 0, NULL));
    }
    if (dirty) { /* refcounts may be behind: the dirty bit says so */
        argv[7] = "-r";
        argv[8] = "all";
    }
    g_assert_true(
        g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, NULL, &out, &status, NULL));
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    totals.asked++;
    return code != 0 && code != 3 ? g_strdup_printf("the other qemu-img's check says %d: %s", code, out) : NULL;
}

static void ask_peer(Run *run, const Verdict *v, bool dirty)
{
    g_autofree char *text = peer_objects(run, mem_file("crashed")->data, dirty);
    if (text) {
        fail(run, v->log, "%s", text);
    }
}

static void judge_open(Run *run, const Verdict *v, BlockNode *node, unsigned nodes)
{
    bool checks = node->driver->check_co != NULL, dirty = checks && node->driver->dirty_flag(node);
    BlockCheck check = checks ? check_node(run->f, node, 0) : (BlockCheck) { 0 };
    if (check.check_errors || (check.corruptions && !dirty)) {
        fail(run, v->log, "%lu corruptions, %lu errors", (long)check.corruptions,
             (long)check.check_errors);
    }
    g_autofree uint8_t *data = read_all(run->f, node);
    g_autofree char *wrong =
        data ? verdict_judge_disk(v, data, node->size) : g_strdup("the disk cannot be read");
    if (wrong) {
        fail(run, v->log, "%s", wrong);
    }
    judge_snapshots(run, v, node);
    totals.leaky += check.leaks != 0;
    if (checks && mode.peer && mode.peer_every && totals.distinct % mode.peer_every == 0) {
        ask_peer(run, v, dirty);
    }
    close_node(run->f, node, nodes);
    if (checks && !run->failure && (dirty || totals.distinct % 16 == 0)) {
        judge_repair(run, v, data);
    }
}

static void judge(Run *run, const Verdict *v, const GByteArray *disk)
{
    g_autofree char *sum = g_compute_checksum_for_data(G_CHECKSUM_MD5, disk->data, disk->len);
    g_autofree char *key = g_strdup_printf("%s-%u", sum, v->log);
    totals.states++;
    if (!g_hash_table_add(run->seen, g_steal_pointer(&key)) || !run->budget) {
        return;
    }
    run->budget--;
    totals.distinct++;
    GByteArray *crashed = mem_file("crashed")->data;
    g_byte_array_set_size(crashed, 0);
    g_byte_array_append(crashed, disk->data, disk->len);
    g_autofree char *text = node_options(run->config, "crashed", "read-only=on");
    g_autoptr(KeyValues) opts = NULL;
    BlockNode *node;
    unsigned nodes = count_nodes(run->f->graph);
    expect_ok(keyvalues_parse(text, NULL, &opts));
    Error *err = block_open_options(run->f->graph, opts, &node);
    if (err) {
        fail(run, v->log, "it does not open: %s", error_message(err));
        error_free(err);
        return;
    }
    judge_open(run, v, node, nodes);
}

/* --- building states --- */

static const MemWrite *entry(const Run *run, guint i)
{
    return &g_array_index(run->file->log, MemWrite, i);
}

/* A part of the sectors of a write. */
static void apply_torn(GByteArray *out, const MemWrite *w)
{
    gsize bytes;
    const uint8_t *data;
    if (w->kind != MEM_WRITE) {
        mem_apply(out, w);
        return;
    }
    data = g_bytes_get_data(w->data, &bytes);
    int style = g_test_rand_int_range(0, 3); /* the first ones, the last ones, any */
    gsize cut = bytes > SECTOR ? (gsize)g_test_rand_int_range(1, (int)(bytes / SECTOR) + 1) : 0;
    for (gsize at = 0, n = 0; at < bytes; at += SECTOR, n++) {
        bool there = style == 0 ? n < cut : style == 1 ? n >= cut : (g_test_rand_int() & 1);
        if (there) {
            gsize part = MIN(SECTOR, bytes - at);
            mem_grow(out, w->offset + at + part);
            memcpy(out->data + w->offset + at, data + at, part);
        }
    }
}

/* Pending operations, by their numbers in `pending`, of which `mask` are there. */
typedef struct Epoch {
    const GByteArray *base;
    GArray *pending; /* guint: entries of the log */
    const Verdict *v;
} Epoch;

static void build(Run *run, const Epoch *e, const bool *there, int torn, bool late_discards)
{
    g_autoptr(GByteArray) disk = g_byte_array_sized_new(e->base->len);
    g_byte_array_append(disk, e->base->data, e->base->len);
    for (int pass = 0; pass < 2; pass++) {
        for (guint i = 0; i < e->pending->len; i++) {
            const MemWrite *w = entry(run, g_array_index(e->pending, guint, i));
            bool late = late_discards && w->kind == MEM_DISCARD;
            if (late != (pass == 1)) {
                continue;
            }
            if (torn == (int)i) {
                apply_torn(disk, w);
            } else if (there[i]) {
                mem_apply(disk, w);
            }
        }
    }
    judge(run, e->v, disk);
}

static void subsets(Run *run, const Epoch *e)
{
    guint n = e->pending->len;
    g_autofree bool *there = g_new0(bool, n + 1);
    unsigned count = n <= 10 ? 1u << n : 64;

    for (unsigned mask = 0; mask < count && !run->failure; mask++) {
        unsigned density = (unsigned)g_test_rand_int_range(1, 8);
        for (guint i = 0; i < n; i++) {
            there[i] = n <= 10 ? mask >> i & 1 : g_test_rand_int() % 8 < density;
        }
        build(run, e, there, -1, mask & 1);
    }
    for (guint i = 0; i < n && !run->failure; i++) { /* each of them torn */
        for (guint k = 0; k < n; k++) {
            there[k] = g_test_rand_int() & 1;
        }
        build(run, e, there, (int)i, false);
    }
}

/* All crashes of a recorded run. */
static void judge_run(Run *run)
{
    g_autoptr(GByteArray) base = g_byte_array_new(), prefix = g_byte_array_new();
    guint length = run->file->log->len, durable = 0;

    g_byte_array_append(base, run->start->data, run->start->len);
    g_byte_array_append(prefix, run->start->data, run->start->len);
    for (guint at = 0; at <= length && !run->failure; at++) {
        bool barrier = at == length || entry(run, at)->kind == MEM_FLUSH;
        Verdict *v = verdict_new(&run->journal, at);
        judge(run, v, prefix);
        if (barrier) {
            g_autoptr(GArray) pending = g_array_new(FALSE, FALSE, sizeof(guint));
            for (guint i = durable; i < at; i++) {
                if (entry(run, i)->kind != MEM_FLUSH) {
                    g_array_append_val(pending, i);
                }
            }
            Epoch e = { base, pending, v };
            subsets(run, &e);
        }
        verdict_free(v);
        if (at == length) {
            break;
        }
        mem_apply(prefix, entry(run, at));
        if (entry(run, at)->kind == MEM_FLUSH && !run->no_flush) {
            for (guint upto = (guint)entry(run, at)->offset; durable < upto; durable++) {
                mem_apply(base, entry(run, durable));
            }
        }
    }
}

static void report_failure(const Run *run)
{
    if (run->failure) {
        g_error("%s", run->failure);
    }
}

/* --- the tests --- */

static const char letters[] = "WPZUDFCAXGS";

static void one_sequence(BlockFixture *f, const Config *config, const char *before,
                         const char *sequence, unsigned budget)
{
    Run run;
    run_begin(&run, f, config);
    run.budget = MIN(run.budget, budget);
    guest_letters(&run, before);
    run_record(&run);
    guest_letters(&run, sequence);
    judge_run(&run);
    report_failure(&run);
    run_end(&run);
}

/* Sequences of three steps (quick: two), on a used image, each with a flush behind it: a sample, another
 * one each time, or all. */
static void test_sequences(BlockFixture *f, gconstpointer data)
{
    const Config *config = data;
    size_t n = strlen(letters), every = (mode.all ? 1 : mode.full ? 7 : 29) * (config->secret ? ENCRYPTED_COSTS : 1);
    size_t total = mode.full ? n * n * n : n * n;
    for (size_t i = (size_t)g_test_rand_int_range(0, (int)every); i < total; i += every) {
        char sequence[] = { letters[i % n], letters[i / n % n], mode.full ? letters[i / n / n] : 'F',
                            'F', 0 };
        one_sequence(f, config, "WWPCWZ", sequence, 40);
    }
}

static void test_random(BlockFixture *f, gconstpointer data)
{
    for (int i = 0; i < (mode.all ? 6 : mode.full ? 2 : 1); i++) {
        char sequence[121] = "";
        for (int s = 0; s < (mode.full ? 120 : 30); s++) {
            sequence[s] = "WWWWWPZUDDFFCAXGS"[g_test_rand_int_range(0, 17)];
        }
        one_sequence(f, data, "", sequence, 4000);
    }
}

static void test_queues(BlockFixture *f, gconstpointer data)
{
    for (int i = 0; i < (mode.all ? 4 : mode.full ? 2 : 1); i++) {
        Run run;
        run_begin(&run, f, data);
        guest_letters(&run, "WPW");
        run_record(&run);
        guest_queues(&run, 8, mode.full ? 15 : 4);
        judge_run(&run);
        report_failure(&run);
        run_end(&run);
    }
}

/* The test must be able to fail. */
static void test_control(BlockFixture *f, gconstpointer data)
{
    bool failed = false;
    for (int i = 0; i < 40 && !failed; i++) {
        Run run;
        run_begin(&run, f, data);
        run.no_flush = true;
        run.budget = 1000;
        run_record(&run);
        guest_letters(&run, "WWFPWFUWFCWF");
        judge_run(&run);
        failed = run.failure != NULL;
        run_end(&run);
    }
    g_assert_true(failed);
}

/* --- every n-th request fails --- */

static void errors_co(void *opaque)
{
    Run *run = opaque;
    BlockNode *node = run->node;
    static const char steps[] = "WWPFWZUDFWCFWWXGFSWDF";
    g_autofree uint8_t *data = g_malloc0(3 * run->config->cluster);
    fill_random(data, run->config->cluster);
    for (const char *s = steps; *s; s++) {
        if (run->config->plain_luks && strchr("PDCX", *s)) {
            continue;
        }
        uint64_t cluster = run->config->cluster, at = (uint64_t)(s - steps) % 3 * cluster;
        BlockSnapshot sn = { .name = (char *)"e" };
        switch (*s) {
        case 'W':
            node_pwrite_co(node, at + SECTOR, cluster + SECTOR, data, 0);
            break;
        case 'P':
            node_pwrite_co(node, at, cluster, data, REQ_COMPRESSED);
            break;
        case 'Z':
        case 'U':
            node_write_zeroes_co(node, at, cluster, *s == 'U' ? REQ_MAY_UNMAP : 0);
            break;
        case 'D':
            node_discard_co(node, at, 2 * cluster);
            break;
        case 'F':
            node_flush_co(node);
            break;
        case 'C':
            error_free(node->driver->snapshot_create_co(node, &sn));
            break;
        case 'X':
            error_free(node->driver->snapshot_delete_co(node, "e"));
            break;
        default:
            error_free(node_truncate_co(
                node, *s == 'G' ? node->size + 70 * cluster : run->size, PREALLOC_OFF));
        }
    }
}

static void test_errors(BlockFixture *f, gconstpointer data)
{
    const Config *config = data;
    int step = mode.full ? 1 : 7, n = g_test_rand_int_range(0, step);
    bool reached = true;
    for (; reached; n += step) {
        Run run;
        run_begin(&run, f, config);
        run.file->fail_any = n;
        co_run(f->loop, errors_co, &run);
        reached = run.file->fail_any < 0;
        run.file->fail_any = -1;
        node_unref(run.node);
        wait_closed(f);
        bool dirty = config->options && strstr(config->options, "lazy");
        g_autofree char *objection = mode.peer && !config->plain_luks ? peer_objects(&run, run.file->data, dirty) : NULL;
        if (objection) {
            g_error("%s: request %d failed, then %s", config->name, n, objection);
        }
        g_autofree char *text = node_options(config, "img", "");
        run.node = open_text(f, text);
        BlockCheck check = config->plain_luks ? (BlockCheck) { 0 } : check_node(f, run.node, 0);
        if (check.corruptions || check.check_errors) {
            g_error("%s: request %d failed, then %lu corruptions, %lu errors", config->name, n,
                    (long)check.corruptions, (long)check.check_errors);
        }
        run_record(&run);
        run_end(&run);
    }
}

static void test_totals(void)
{
    g_test_message("%lu states, %lu distinct; %lu judged by the other qemu-img, %lu with leaks, "
                   "%lu repaired",
                   (long)totals.states, (long)totals.distinct, (long)totals.asked,
                   (long)totals.leaky, (long)totals.repaired);
    g_assert_cmpuint(totals.distinct, >, mode.full ? 10000 : 100);
}

static void setup(BlockFixture *f, gconstpointer data)
{
    const Config *config = data;
    g_autofree char *help = NULL;

    block_fixture_setup(f, data);
    if (config->secret) {
        expect_ok(block_graph_add_object(f->graph, "secret,id=key,data=letmein", &help));
    }
}

static void add(const char *what, const Config *config, void (*fn)(BlockFixture *, gconstpointer))
{
    g_autofree char *path = g_strdup_printf("/block/crash/%s/%s", what, config->name);
    g_test_add(path, BlockFixture, config, setup, fn, block_fixture_teardown);
}

int main(int argc, char **argv)
{
    if (argc > 1 && (!strcmp(argv[1], "--full") || !strcmp(argv[1], "--all"))) {
        mode.full = true;
        mode.all = argv[1][2] == 'a';
        argv[1] = argv[0];
        argv++;
        argc--;
    }
    g_test_init(&argc, &argv, NULL);
    mode.peer = g_find_program_in_path("/usr/bin/qemu-img");
    mode.peer_every = mode.full ? 100 : 50;
    for (size_t i = 0; i < ARRAY_SIZE(configs); i++) {
        add("sequences", &configs[i], test_sequences);
        add("random", &configs[i], test_random);
        add("queues", &configs[i], test_queues);
        add("errors", &configs[i], test_errors);
    }
    add("control", &configs[0], test_control);
    g_test_add_func("/block/crash/totals/all", test_totals);
    int result = g_test_run();
    g_free(mode.peer);
    return result;
}
