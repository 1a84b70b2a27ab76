/* The nodes of jobs: see job_filter.h. */
#include "block/job_filter.h"

#include <errno.h>

#include "block/filter/filter.h"
#include "block/node_priv.h"

typedef struct JobFilter {
    ActiveMirror *active;
} JobFilter;

/* --- ranges --- */

static CopyRange *find_overlap(const CopyRanges *ranges, uint64_t offset, uint64_t end)
{
    LIST_FOREACH (range, &ranges->held, CopyRange, node) {
        if (offset < range->end && range->offset < end) {
            return range;
        }
    }
    return NULL;
}

void copy_range_hold_co(CopyRanges *ranges, CopyRange *range, uint64_t offset, uint64_t bytes, uint64_t unit)
{
    range->offset = offset - offset % unit;
    range->end = (offset + bytes + unit - 1) / unit * unit;
    for (CopyRange *other; (other = find_overlap(ranges, range->offset, range->end));) {
        co_queue_wait(&other->waiters);
    }
    co_queue_init(&range->waiters);
    list_append(&ranges->held, &range->node);
}

void copy_range_drop(CopyRange *range)
{
    list_remove(&range->node);
    co_queue_wake_all(&range->waiters);
}

/* --- writes of the guest --- */

typedef struct ActiveOp {
    uint64_t offset, bytes;
    const BlockVec *vec; /* NULL: zeroes */
    size_t at;
    unsigned flags;
} ActiveOp;

static int to_source_co(BlockNode *node, const ActiveOp *op)
{
    return op->vec ? filter_pwritev_co(node, op->offset, op->bytes, op->vec, op->at, op->flags)
                   : filter_write_zeroes_co(node, op->offset, op->bytes, op->flags);
}

static int to_target_co(const ActiveMirror *m, const ActiveOp *op)
{
    return op->vec ? node_pwritev_co(m->target, op->offset, op->bytes, op->vec, op->at, 0)
                   : node_write_zeroes_co(m->target, op->offset, op->bytes,
                                          m->unmap ? op->flags & REQ_MAY_UNMAP : 0);
}

/* The units that the write covers in part had to be copied before: they still have. */
static void mark_done(const ActiveMirror *m, const ActiveOp *op, bool first_dirty, bool last_dirty)
{
    uint64_t unit = m->todo->granularity, end = op->offset + op->bytes;
    uint64_t from = op->offset - op->offset % unit, to = (end + unit - 1) / unit * unit;
    block_bitmap_reset(m->todo, op->offset, op->bytes);
    if (first_dirty && op->offset != from) {
        block_bitmap_set(m->todo, from, 1);
    }
    if (last_dirty && end != to && end < m->todo->size) {
        block_bitmap_set(m->todo, end - 1, 1);
    }
}

static int active_co(BlockNode *node, const ActiveMirror *m, const ActiveOp *op)
{
    CopyRange range;
    copy_range_hold_co(m->ranges, &range, op->offset, op->bytes, m->todo->granularity);
    bool first = block_bitmap_is_dirty(m->todo, op->offset);
    bool last = block_bitmap_is_dirty(m->todo, op->offset + op->bytes - 1);
    int ret = to_source_co(node, op); /* marks the range in the bitmap */
    if (ret >= 0 && op->offset + op->bytes <= m->target->size && to_target_co(m, op) >= 0) {
        mark_done(m, op, first, last); /* else copying tries again, and meets the job's error policy */
    }
    copy_range_drop(&range);
    return ret;
}

static ActiveMirror *active_of(const BlockNode *node)
{
    return ((const JobFilter *)node->state)->active;
}

static int job_filter_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                                 size_t at, unsigned flags)
{
    ActiveOp op = { offset, bytes, vec, at, flags };
    return active_of(node) ? active_co(node, active_of(node), &op) : to_source_co(node, &op);
}

static int job_filter_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    ActiveOp op = { .offset = offset, .bytes = bytes, .flags = flags };
    return active_of(node) ? active_co(node, active_of(node), &op) : to_source_co(node, &op);
}

/* Not registered: users cannot make them. */
#define JOB_FILTER(driver_name, child)                                                                  \
    { .name = driver_name, .child_name = child, .filter = true, .state_size = sizeof(JobFilter),                        \
      .open_co = filter_open_co, .preadv_co = filter_preadv_co, .pwritev_co = job_filter_pwritev_co, \
      .write_zeroes_co = job_filter_write_zeroes_co, .discard_co = filter_discard_co,               \
      .status_co = filter_status_co, .truncate_co = filter_truncate_co, FILTER_FLAGS }
static const BlockDriver drivers[] = {
    [JOB_FILTER_MIRROR] = JOB_FILTER("mirror_top", "backing"),
    [JOB_FILTER_COMMIT] = JOB_FILTER("commit_top", "backing"),
    [JOB_FILTER_BACKUP] = JOB_FILTER("copy-before-write", "file"),
    [JOB_FILTER_STREAM] = JOB_FILTER("copy-on-read", "file"),
};

/* --- coming and going --- */

typedef struct InsertCall {
    BlockNode *below, *filter;
    const BlockDriver *driver;
    const char *name;
    ActiveMirror *active;
    Error *err;
} InsertCall;

static void insert_co(void *opaque)
{
    InsertCall *call = opaque;
    BlockNode *below = call->below, *filter;
    call->err = node_new_above_co(below, call->driver, call->name, &filter);
    if (call->err) {
        return;
    }
    ((JobFilter *)filter->state)->active = call->active;
    node_close_gate_co(below);
    call->err = node_replace(below, filter, NULL);
    node_open_gate(below);
    if (call->err) {
        node_unref_co(filter);
    } else {
        call->filter = filter;
    }
}

Error *job_filter_insert(BlockNode *below, JobFilterKind kind, const char *name, ActiveMirror *active,
                         BlockNode **ret_filter)
{
    InsertCall call = { .below = below, .driver = &drivers[kind], .name = name, .active = active };
    if (co_self()) {
        insert_co(&call);
    } else {
        co_run(below->graph->loop, insert_co, &call);
    }
    TRY(call.err);
    *ret_filter = call.filter;
    return NULL;
}

void job_filter_remove_co(BlockNode *filter)
{
    if (!filter) {
        return;
    }
    node_close_gate_co(filter);
    ((JobFilter *)filter->state)->active = NULL;
    BlockNode *below = node_ref(filter_child(filter));
    error_free(node_replace(filter, below, NULL)); /* who was granted the filter is granted what it shows */
    node_open_gate(filter);
    node_unref_co(below);
    node_unref_co(filter);
}
