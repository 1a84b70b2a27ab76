/*
 * Driver "quorum": several images with the same content. Writes go to all; what is read counts when
 * enough of them give the same (read-pattern=quorum), or comes from the first that gives anything
 * (fifo). Who is outvoted or fails is reported with QUORUM_REPORT_BAD; no majority, with QUORUM_FAILURE.
 */
#include "block/filter/quorum.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "block/node_priv.h"

enum { MAX_CHILDREN = 256, READ_MAX = 8 << 20 };

typedef struct QuorumState {
    GPtrArray *children; /* BlockEdge *, in the order in which they are asked */
    uint64_t threshold;
    bool verify, rewrite, fifo;
    unsigned next_index;
} QuorumState;

/* A request to all children at once. */
typedef enum QuorumOp { OP_READ, OP_WRITE, OP_ZEROES, OP_FLUSH } QuorumOp;

typedef struct QuorumCall {
    BlockNode *node;
    QuorumOp op;
    uint64_t offset, bytes;
    const BlockVec *vec;
    size_t at;
    unsigned flags, pending;
    CoQueue done;
} QuorumCall;

typedef struct QuorumPart {
    QuorumCall *call;
    BlockNode *child; /* counted: it may be taken out meanwhile */
    char *buffer;     /* of a read */
    int ret, version; /* version: which of the answers it gave */
} QuorumPart;

static BlockNode *child_at(const QuorumState *s, guint i)
{
    return ((BlockEdge *)g_ptr_array_index(s->children, i))->node;
}

/* --- events --- */

static void emit(BlockNode *node, const char *event, Value *data)
{
    BlockGraph *graph = node->graph;
    if (graph->emit) {
        graph->emit(graph->hooks_opaque, event, data);
    } else {
        value_free(data);
    }
}

static void put_sectors(Value *data, uint64_t offset, uint64_t bytes)
{
    uint64_t first = offset / 512, end = (offset + bytes + 511) / 512;
    value_put(data, "sector-num", value_uint(first));
    value_put(data, "sectors-count", value_uint(end - first));
}

static void report_bad(const QuorumCall *call, const BlockNode *child, int ret)
{
    Value *data = value_dict();
    const char *type = call->op == OP_READ ? "read" : call->op == OP_FLUSH ? "flush" : "write";
    value_put_str(data, "type", type);
    if (ret < 0) {
        value_put_str(data, "error", strerror(-ret));
    }
    value_put_str(data, "node-name", child->name);
    put_sectors(data, call->offset, call->bytes);
    emit(call->node, "QUORUM_REPORT_BAD", data);
}

static void report_failure(const QuorumCall *call)
{
    Value *data = value_dict();
    value_put_str(data, "reference", call->node->name);
    put_sectors(data, call->offset, call->bytes);
    emit(call->node, "QUORUM_FAILURE", data);
}

/* --- asking all --- */

static int ask_co(const QuorumCall *call, BlockNode *child, char *buffer)
{
    switch (call->op) {
    case OP_READ:
        return node_pread_co(child, call->offset, call->bytes, buffer);
    case OP_WRITE:
        return node_pwritev_co(child, call->offset, call->bytes, call->vec, call->at, call->flags);
    case OP_ZEROES:
        return node_write_zeroes_co(child, call->offset, call->bytes, call->flags);
    default:
        return node_flush_co(child);
    }
}

static void part_co(void *opaque)
{
    QuorumPart *part = opaque;
    QuorumCall *call = part->call;
    part->ret = ask_co(call, part->child, part->buffer);
    call->pending--;
    co_queue_wake_all(&call->done);
}

static QuorumPart *ask_all_co(QuorumCall *call, guint *ret_count)
{
    QuorumState *s = call->node->state;
    guint count = s->children->len;
    QuorumPart *parts = g_new0(QuorumPart, count);
    co_queue_init(&call->done);
    call->pending = count;
    for (guint i = 0; i < count; i++) {
        parts[i] = (QuorumPart) { .call = call, .child = node_ref(child_at(s, i)) };
        if (call->op == OP_READ) {
            parts[i].buffer = aligned_alloc(4096, ALIGN_UP((size_t)call->bytes, 4096));
        }
    }
    for (guint i = 0; i < count; i++) {
        if (call->op == OP_READ && !parts[i].buffer) {
            parts[i].ret = -ENOMEM;
            call->pending--;
        } else {
            co_start(co_loop(), part_co, &parts[i]);
        }
    }
    while (call->pending) {
        co_queue_wait(&call->done);
    }
    *ret_count = count;
    return parts;
}

static void parts_free_co(QuorumPart *parts, guint count)
{
    for (guint i = 0; i < count; i++) {
        free(parts[i].buffer);
        node_unref_co(parts[i].child);
    }
    g_free(parts);
}

/* The error that most of those that failed gave. */
static int common_error(const QuorumPart *parts, guint count)
{
    int best = -EIO;
    guint most = 0;
    for (guint i = 0; i < count; i++) {
        guint same = 0;
        for (guint j = 0; parts[i].ret < 0 && j < count; j++) {
            same += parts[j].ret == parts[i].ret;
        }
        if (same > most) {
            most = same;
            best = parts[i].ret;
        }
    }
    return best;
}

/* Reports who failed; an error when too few succeeded. */
static int check_enough(const QuorumCall *call, const QuorumPart *parts, guint count)
{
    const QuorumState *s = call->node->state;
    guint good = 0;
    for (guint i = 0; i < count; i++) {
        if (parts[i].ret < 0) {
            report_bad(call, parts[i].child, parts[i].ret);
        } else {
            good++;
        }
    }
    if (good >= s->threshold) {
        return 0;
    }
    report_failure(call);
    return common_error(parts, count);
}

static int all_co(QuorumCall *call)
{
    guint count;
    QuorumPart *parts = ask_all_co(call, &count);
    int ret = check_enough(call, parts, count);
    parts_free_co(parts, count);
    return ret;
}

/* --- reading --- */

/* Numbers the different answers; returns the number of the one most often given, *ret_votes how often. */
static int vote(const QuorumCall *call, QuorumPart *parts, guint count, guint *ret_votes)
{
    int versions = 0, winner = -1;
    *ret_votes = 0;
    for (guint i = 0; i < count; i++) {
        parts[i].version = -1;
        for (guint j = 0; parts[i].ret >= 0 && j < i; j++) {
            if (parts[j].ret >= 0 && !memcmp(parts[i].buffer, parts[j].buffer, (size_t)call->bytes)) {
                parts[i].version = parts[j].version;
                break;
            }
        }
        if (parts[i].ret >= 0 && parts[i].version < 0) {
            parts[i].version = versions++;
        }
    }
    for (int v = 0; v < versions; v++) {
        guint votes = 0;
        for (guint i = 0; i < count; i++) {
            votes += parts[i].version == v;
        }
        if (votes > *ret_votes) {
            *ret_votes = votes;
            winner = v;
        }
    }
    return winner;
}

/* What was outvoted becomes what was voted for. */
static void rewrite_co(const QuorumCall *call, const QuorumPart *parts, guint count, int winner,
                       const char *right)
{
    for (guint i = 0; i < count; i++) {
        if (parts[i].version >= 0 && parts[i].version != winner) {
            node_pwrite_co(parts[i].child, call->offset, call->bytes, right, 0);
        }
    }
}

static int mismatch(const QuorumCall *call, const QuorumPart *parts)
{
    uint64_t i = 0;
    while (i + 1 < call->bytes && parts[0].buffer[i] == parts[1].buffer[i]) {
        i++;
    }
    log_printf("quorum: offset=%" PRIu64 " bytes=%" PRIu64 " contents mismatch at offset %" PRIu64 "\n",
               call->offset, call->bytes, call->offset + i);
    return -EIO;
}

static int decide_co(const QuorumCall *call, QuorumPart *parts, guint count, char **ret_right)
{
    const QuorumState *s = call->node->state;
    guint votes;
    int winner = vote(call, parts, count, &votes);
    if (s->verify && votes < count) {
        return mismatch(call, parts);
    }
    if (winner < 0 || votes < s->threshold) {
        report_failure(call);
        return -EIO;
    }
    for (guint i = 0; i < count; i++) {
        if (parts[i].version == winner) {
            *ret_right = parts[i].buffer;
        } else if (parts[i].version >= 0) {
            report_bad(call, parts[i].child, 0);
        }
    }
    if (s->rewrite) {
        rewrite_co(call, parts, count, winner, *ret_right);
    }
    return 0;
}

static int read_quorum_co(QuorumCall *call)
{
    guint count;
    char *right = NULL;
    QuorumPart *parts = ask_all_co(call, &count);
    int ret = check_enough(call, parts, count);
    if (ret >= 0) {
        ret = decide_co(call, parts, count, &right);
    }
    if (ret >= 0) {
        block_vec_from_buffer(call->vec, call->at, right, (size_t)call->bytes);
    }
    parts_free_co(parts, count);
    return ret;
}

static int read_fifo_co(const QuorumCall *call)
{
    const QuorumState *s = call->node->state;
    int ret = -EIO;
    for (guint i = 0; i < s->children->len; i++) {
        BlockNode *child = node_ref(child_at(s, i));
        ret = node_preadv_co(child, call->offset, call->bytes, call->vec, call->at);
        if (ret < 0) {
            report_bad(call, child, ret);
        }
        node_unref_co(child);
        if (ret >= 0) {
            return 0;
        }
    }
    return ret;
}

/* --- requests --- */

static int quorum_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                            size_t at)
{
    const QuorumState *s = node->state;
    QuorumCall call = { .node = node, .op = OP_READ, .offset = offset, .bytes = bytes, .vec = vec, .at = at };
    return s->fifo ? read_fifo_co(&call) : read_quorum_co(&call);
}

static int quorum_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                             size_t at, unsigned flags)
{
    QuorumCall call = { .node = node, .op = OP_WRITE, .offset = offset, .bytes = bytes, .vec = vec, .at = at,
                        .flags = flags };
    return all_co(&call);
}

static int quorum_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    QuorumCall call = { .node = node, .op = OP_ZEROES, .offset = offset, .bytes = bytes,
                        .flags = flags & ~(unsigned)REQ_NO_FALLBACK };
    return all_co(&call);
}

static int quorum_flush_co(BlockNode *node)
{
    QuorumCall call = { .node = node, .op = OP_FLUSH };
    return all_co(&call);
}

/* Zero where all say so. */
static int quorum_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    const QuorumState *s = node->state;
    bool zero = true;
    for (guint i = 0; zero && i < s->children->len; i++) {
        BlockStatus status;
        unsigned depth;
        int ret = node_status_above_co(child_at(s, i), NULL, offset, bytes, &status, &depth);
        if (ret < 0) { /* reading tells who is bad */
            status = (BlockStatus) { .bytes = bytes };
        }
        zero = (status.flags & STATUS_ZERO) != 0;
        bytes = MIN(bytes, status.bytes);
    }
    *ret_status = (BlockStatus) { .flags = STATUS_ALLOCATED | (zero ? STATUS_ZERO : STATUS_DATA), .bytes = bytes };
    return 0;
}

static Error *quorum_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    const QuorumState *s = node->state;
    for (guint i = 0; i < s->children->len; i++) {
        TRY(node_truncate_co(child_at(s, i), size, prealloc));
    }
    node->size = size;
    return NULL;
}

/* --- children --- */

static void take_limits(BlockNode *node, const BlockNode *child)
{
    BlockLimits *l = &node->limits;
    l->request_align = MAX(MAX(l->request_align, child->limits.request_align), 1);
    l->memory_align = MAX(l->memory_align, child->limits.memory_align);
    l->max_transfer = READ_MAX; /* bounds the buffers */
}

static Error *check_child(const BlockNode *node, const BlockNode *child)
{
    const QuorumState *s = node->state;
    if (s->children->len && child->size != node->size) {
        return error_new("Quorum children must have the same size: '%s' has %" PRIu64 " bytes, not %" PRIu64,
                         child->name, child->size, node->size);
    }
    if (child->read_only && !node->read_only) {
        return error_new("Node '%s' is read-only", child->name);
    }
    return NULL;
}

static Error *open_child_co(BlockNode *node, KeyValues *opts, const char *name)
{
    QuorumState *s = node->state;
    BlockEdge *edge;
    TRY(node_open_role_co(node, opts, name, CHILD_FILTERED, true, &edge));
    TRY(check_child(node, edge->node));
    g_ptr_array_add(s->children, edge);
    node->size = edge->node->size;
    take_limits(node, edge->node);
    return NULL;
}

static Error *open_children_co(BlockNode *node, KeyValues *opts)
{
    QuorumState *s = node->state;
    for (s->next_index = 0; s->next_index < MAX_CHILDREN; s->next_index++) {
        g_autofree char *name = g_strdup_printf("children.%u", s->next_index);
        g_autofree char *prefix = g_strconcat(name, ".", NULL);
        if (!keyvalues_has(opts, name) && !block_has_prefix(opts, prefix)) {
            break;
        }
        TRY(open_child_co(node, opts, name));
    }
    return s->children->len ? NULL : error_new("A quorum needs children: give at least one");
}

static Error *take_options(BlockNode *node, KeyValues *opts)
{
    QuorumState *s = node->state;
    g_autofree char *pattern = keyvalues_take(opts, "read-pattern");
    TRY(block_take_num(opts, "vote-threshold", 0, &s->threshold));
    TRY(block_take_bool(opts, "blkverify", false, &s->verify));
    TRY(block_take_bool(opts, "rewrite-corrupted", false, &s->rewrite));
    if (pattern && strcmp(pattern, "quorum") && strcmp(pattern, "fifo")) {
        return error_new("read-pattern is either quorum or fifo");
    }
    s->fifo = !g_strcmp0(pattern, "fifo");
    TRY(open_children_co(node, opts));
    if (!s->threshold) {
        return error_new("Parameter 'vote-threshold' expects a value >= 1");
    }
    if (s->threshold > s->children->len) {
        return error_new("The threshold asks for more votes than there are children");
    }
    if (s->verify && (s->fifo || s->threshold != 2 || s->children->len != 2)) {
        return error_new("blkverify=on can only be set if there are exactly two files and vote-threshold is 2");
    }
    if (s->rewrite && (s->verify || s->fifo)) {
        return error_new("rewrite-corrupted=on cannot be used with %s", s->fifo ? "read-pattern=fifo" : "blkverify=on");
    }
    return NULL;
}

static Error *quorum_open_co(BlockNode *node, KeyValues *opts)
{
    QuorumState *s = node->state;
    s->children = g_ptr_array_new();
    Error *err = take_options(node, opts);
    if (err) {
        g_ptr_array_free(s->children, TRUE);
    }
    return err;
}

static void quorum_close_co(BlockNode *node)
{
    g_ptr_array_free(((QuorumState *)node->state)->children, TRUE);
}

bool quorum_is(const BlockNode *node)
{
    return node->driver->open_co == quorum_open_co;
}

Error *quorum_add_child_co(BlockNode *node, BlockNode *child)
{
    QuorumState *s = node->state;
    BlockEdge *edge;
    g_autofree char *name = g_strdup_printf("children.%u", s->next_index);
    if (s->verify) {
        return error_new("Cannot add a child to a quorum in blkverify mode");
    }
    if (s->children->len >= MAX_CHILDREN) {
        return error_new("Too many children");
    }
    if (node_reaches(child, node)) {
        return error_new("Making '%s' a child of '%s' would create a cycle", child->name, node->name);
    }
    TRY(check_child(node, child));
    node_close_gate_co(node);
    Error *err = node_attach_child(node, node_ref(child), name, CHILD_FILTERED, &edge);
    if (err) {
        child->refs--;
    } else {
        g_ptr_array_add(s->children, edge);
        s->next_index++;
        take_limits(node, child);
    }
    node_open_gate(node);
    return err;
}

Error *quorum_remove_child_co(BlockNode *node, const char *name)
{
    QuorumState *s = node->state;
    for (guint i = 0; i < s->children->len; i++) {
        BlockEdge *edge = g_ptr_array_index(s->children, i);
        if (strcmp(edge->name, name)) {
            continue;
        }
        if (s->children->len <= s->threshold) {
            return error_new("The number of children cannot be lower than the vote threshold %" PRIu64, s->threshold);
        }
        if (s->verify) {
            return error_new("Cannot remove a child of a quorum in blkverify mode");
        }
        node_close_gate_co(node);
        g_ptr_array_remove_index(s->children, i);
        node_detach_child_co(edge);
        node_open_gate(node);
        return NULL;
    }
    return error_new("Node '%s' does not have a child named '%s'", node->name, name);
}

static const BlockOption quorum_options[] = {
    { "children", OPT_STR, "The images" },
    { "vote-threshold", OPT_NUM, "How many must agree" },
    { "blkverify", OPT_BOOL, "Two images that must not differ (default: off)" },
    { "rewrite-corrupted", OPT_BOOL, "What is outvoted is written anew (default: off)" },
    { "read-pattern", OPT_STR, "quorum (default) or fifo" },
    { 0 },
};

BLOCK_DRIVER(quorum, .name = "quorum", .desc = "Several images with the same content, by vote", .deciding = (const char *const[]) { "vote-threshold", "blkverify", "rewrite-corrupted", "read-pattern", NULL },
             .child_name = "", .state_size = sizeof(QuorumState), .options = quorum_options,
             .open_co = quorum_open_co, .close_co = quorum_close_co, .preadv_co = quorum_preadv_co,
             .pwritev_co = quorum_pwritev_co, .write_zeroes_co = quorum_write_zeroes_co,
             .flush_co = quorum_flush_co, .status_co = quorum_status_co,
             .truncate_co = quorum_truncate_co, .write_flags = REQ_FUA | REQ_WRITE_UNCHANGED,
             .zero_flags = REQ_FUA);
