/* Requests of devices: one coroutine each, the error policy, statistics, draining. */
#include <errno.h>
#include <string.h>

#include "block/backend_priv.h"
#include "block/throttle.h"

/* --- running --- */

static int request_run_co(BlkRequest *req, BlockNode *node)
{
    unsigned flags = req->flags;
    if (!req->blk->write_cache && (req->op == BLK_WRITE || req->op == BLK_ZEROES)) {
        flags |= REQ_FUA;
    }
    if (req->op != BLK_FLUSH &&
        (req->offset > node->size || req->bytes > node->size - req->offset)) {
        return -EIO;
    }
    switch (req->op) {
    case BLK_READ:
        return node_preadv_co(node, req->offset, req->bytes, &req->vec, 0);
    case BLK_WRITE:
        return node_pwritev_co(node, req->offset, req->bytes, &req->vec, 0, flags);
    case BLK_FLUSH:
        return node_flush_co(node);
    case BLK_DISCARD:
        return node_discard_co(node, req->offset, req->bytes);
    default:
        return node_write_zeroes_co(node, req->offset, req->bytes, flags);
    }
}

static void account(BlkRequest *req)
{
    BlkStats *st = &req->blk->stats;
    int64_t now = clock_now(loop_clocks(blk_loop(req->blk)), CLOCK_REALTIME_NS);
    int64_t ns = now - req->start_ns;
    bool failed = req->ret < 0;

    switch (req->op) {
    case BLK_READ:
        failed ? st->failed_reads++ : (st->read_ops++, st->read_bytes += req->bytes);
        st->read_ns += ns;
        latency_note(&st->latency[LATENCY_READ], ns);
        break;
    case BLK_WRITE:
    case BLK_ZEROES:
        failed ? st->failed_writes++ : (st->write_ops++, st->write_bytes += req->bytes);
        st->write_ns += ns;
        latency_note(&st->latency[LATENCY_WRITE], ns);
        if (!failed) {
            st->write_end = MAX(st->write_end, req->offset + req->bytes);
        }
        break;
    case BLK_FLUSH:
        failed ? st->failed_flushes++ : st->flush_ops++;
        st->flush_ns += ns;
        latency_note(&st->latency[LATENCY_FLUSH], ns);
        break;
    case BLK_DISCARD:
        failed ? st->failed_unmaps++ : (st->unmap_ops++, st->unmap_bytes += req->bytes);
        st->unmap_ns += ns;
        break;
    }
    st->last_access_ns = now;
}

void blk_request_complete(BlkRequest *req)
{
    BlockBackend *blk = req->blk;
    BlkDone *done = req->done;
    void *opaque = req->opaque;
    int ret = req->ret;

    list_remove(&req->node);
    if (req->iov != req->inline_iov) {
        g_free(req->iov);
    }
    g_free(req->copy);
    g_free(req);
    done(opaque, ret);
    if (list_empty(&blk->requests)) {
        pthread_cond_broadcast(&blk->idle);
    }
    blk_unref(blk);
}

/* --- the error policy --- */

static const char *const on_error_names[] = { "report", "ignore", "enospc", "stop" };

const char *blk_on_error_name(BlkOnError policy)
{
    return on_error_names[policy];
}

Error *blk_parse_on_error(const char *text, bool is_read, BlkOnError *ret)
{
    for (unsigned i = 0; i < ARRAY_SIZE(on_error_names); i++) {
        if (!strcmp(text, on_error_names[i]) && !(is_read && i == BLK_ON_ERROR_ENOSPC)) {
            *ret = (BlkOnError)i;
            return NULL;
        }
    }
    return error_new("'%s' is no way to treat a %s error", text, is_read ? "read" : "write");
}

void blk_set_on_error(BlockBackend *blk, BlkOnError read, BlkOnError write)
{
    blk->on_read_error = read;
    blk->on_write_error = write;
}

BlkOnError blk_on_error(const BlockBackend *blk, bool is_read)
{
    return is_read ? blk->on_read_error : blk->on_write_error;
}

const char *blk_io_status(const BlockBackend *blk)
{
    return blk->io_status;
}

static BlkOnError action_for(const BlkRequest *req)
{
    BlkOnError policy = blk_on_error(req->blk, req->op == BLK_READ);
    if (policy == BLK_ON_ERROR_ENOSPC) {
        policy = req->ret == -ENOSPC ? BLK_ON_ERROR_STOP : BLK_ON_ERROR_REPORT;
    }
    return policy;
}

static void emit_io_error(BlkRequest *req, BlkOnError action)
{
    BlockBackend *blk = req->blk;
    Value *data = value_dict();
    value_put_str(data, "device", blk->name);
    if (blk_node(blk)) {
        value_put_str(data, "node-name", blk_node(blk)->name);
    }
    value_put_bool(data, "nospace", req->ret == -ENOSPC);
    value_put_str(data, "operation", req->op == BLK_READ ? "read" : "write");
    value_put_str(data, "action", blk_on_error_name(action));
    value_put_str(data, "reason", g_strerror(-req->ret));
    blk_emit(blk, "BLOCK_IO_ERROR", data);
}

/* True when the request stays here until the machine runs again. */
static bool hold_on_error(BlkRequest *req)
{
    BlockBackend *blk = req->blk;
    if (req->ret >= 0 || req->cancelled || !blk->device || req->ret == -ENOMEDIUM) {
        return false;
    }
    BlkOnError action = action_for(req);
    emit_io_error(req, action);
    if (action == BLK_ON_ERROR_IGNORE) {
        req->ret = 0;
        return false;
    }
    if (action != BLK_ON_ERROR_STOP || !blk->graph->stop) {
        return false;
    }
    blk->io_status = req->ret == -ENOSPC ? "nospace" : "failed";
    list_remove(&req->node);
    list_append(&blk->held, &req->node);
    req->held = true;
    blk_replay_held(req);
    blk->graph->stop(blk->graph->hooks_opaque);
    if (list_empty(&blk->requests)) {
        pthread_cond_broadcast(&blk->idle);
    }
    return true;
}

static void request_co(void *opaque)
{
    BlkRequest *req = opaque;

    req->started = true;
    if (req->blk->throttle && req->op != BLK_FLUSH) {
        throttle_wait_co(req->blk->throttle, req->op != BLK_READ, req->bytes, &req->blk->no_wait);
    }
    BlockNode *node = blk_node(req->blk);
    if (req->cancelled) {
        req->ret = -ECANCELED;
    } else if (!node) {
        req->ret = -ENOMEDIUM;
    } else {
        node_ref(node);
        req->ret = request_run_co(req, node);
        node_unref_co(node);
    }
    account(req);
    if (!hold_on_error(req) && !blk_replay_finished(req)) {
        blk_request_complete(req);
    }
}

static void request_start(void *opaque)
{
    BlkRequest *req = opaque;
    co_start(blk_loop(req->blk), request_co, req);
}

static BlkRequest *request_new(BlockBackend *blk, BlkOp op, uint64_t offset, uint64_t bytes,
                               unsigned flags, BlkDone *done, void *opaque)
{
    BlkRequest *req = g_new0(BlkRequest, 1);
    req->blk = blk_ref(blk);
    req->op = op;
    req->offset = offset;
    req->bytes = bytes;
    req->flags = flags;
    req->done = done;
    req->opaque = opaque;
    req->iov = req->inline_iov;
    req->start_ns = clock_now(loop_clocks(blk_loop(blk)), CLOCK_REALTIME_NS);
    list_append(&blk->requests, &req->node);
    return req;
}

/* Always deferred, so that done never runs inside the device's call. */
static BlkRequest *request_submit(BlkRequest *req)
{
    blk_replay_begin(req);
    loop_defer(blk_loop(req->blk), request_start, req);
    return req;
}

static void request_copy_iov(BlkRequest *req, const struct iovec *iov, unsigned count)
{
    if (count > INLINE_IOV) {
        req->iov = g_new(struct iovec, count);
    }
    memcpy(req->iov, iov, count * sizeof(*iov));
    req->vec = (BlockVec) { req->iov, count };
    req->bytes = block_vec_size(&req->vec);
}

BlkRequest *blk_aio_preadv(BlockBackend *blk, uint64_t offset, const struct iovec *iov,
                           unsigned count, BlkDone *done, void *opaque)
{
    BlkRequest *req = request_new(blk, BLK_READ, offset, 0, 0, done, opaque);
    request_copy_iov(req, iov, count);
    return request_submit(req);
}

BlkRequest *blk_aio_pwritev(BlockBackend *blk, uint64_t offset, const struct iovec *iov,
                            unsigned count, unsigned flags, BlkDone *done, void *opaque)
{
    BlkRequest *req = request_new(blk, BLK_WRITE, offset, 0, flags, done, opaque);
    request_copy_iov(req, iov, count);
    return request_submit(req);
}

BlkRequest *blk_aio_flush(BlockBackend *blk, BlkDone *done, void *opaque)
{
    return request_submit(request_new(blk, BLK_FLUSH, 0, 0, 0, done, opaque));
}

BlkRequest *blk_aio_discard(BlockBackend *blk, uint64_t offset, uint64_t bytes, BlkDone *done,
                            void *opaque)
{
    return request_submit(request_new(blk, BLK_DISCARD, offset, bytes, 0, done, opaque));
}

BlkRequest *blk_aio_write_zeroes(BlockBackend *blk, uint64_t offset, uint64_t bytes, unsigned flags,
                                 BlkDone *done, void *opaque)
{
    return request_submit(request_new(blk, BLK_ZEROES, offset, bytes, flags, done, opaque));
}

static void complete_held(void *opaque)
{
    BlkRequest *req = opaque;
    if (!blk_replay_finished(req)) {
        blk_request_complete(req);
    }
}

/* One that was not started, or is held, ends at once; one under way runs to its end. */
void blk_cancel(BlkRequest *req)
{
    req->cancelled = true;
    if (req->held) {
        req->held = false;
        list_remove(&req->node);
        list_append(&req->blk->requests, &req->node);
        req->ret = -ECANCELED;
        loop_defer(blk_loop(req->blk), complete_held, req);
    }
}

void blk_abandon_held(BlockBackend *blk)
{
    for (BlkRequest *req; (req = LIST_FIRST(&blk->held, BlkRequest, node));) {
        blk_cancel(req);
    }
}

void blk_return_held(BlockBackend *blk)
{
    if (blk->graph->inlet) {
        return;
    }
    for (BlkRequest *req; (req = LIST_FIRST(&blk->held, BlkRequest, node));) {
        req->held = false;
        req->ret = BLK_RETURNED;
        blk_request_complete(req);
    }
}

void block_graph_resume(BlockGraph *graph)
{
    for (BlockBackend *blk = NULL; (blk = blk_next(graph, blk));) {
        blk->io_status = "ok";
        for (BlkRequest *req; (req = LIST_FIRST(&blk->held, BlkRequest, node));) {
            list_remove(&req->node);
            list_append(&blk->requests, &req->node);
            req->held = false;
            request_submit(req);
        }
    }
}

/* --- waiting --- */

bool blk_busy(const BlockBackend *blk)
{
    return !list_empty(&blk->requests);
}

bool blk_has_held(const BlockBackend *blk)
{
    return !list_empty(&blk->held);
}

static void drain_co(void *opaque)
{
    BlockBackend *blk = opaque;
    while (blk_busy(blk)) {
        if (!blk_replay_drained(blk)) {
            co_sleep_ns(CLOCK_REALTIME_NS, 20 * NS_PER_US);
        }
    }
}

void blk_drain(BlockBackend *blk)
{
    Loop *loop = loop_is_mine(blk->graph->loop) ? blk->graph->loop : blk_loop(blk);
    if (!blk_busy(blk)) {
        return;
    }
    blk_ref(blk);
    blk->no_wait = true;
    if (co_self()) {
        drain_co(blk);
    } else if (loop_is_mine(loop)) {
        co_run(loop, drain_co, blk);
    } else {
        while (blk_busy(blk)) {
            if (!blk_replay_drained(blk)) {
                lock_wait(loop_lock(loop), &blk->idle);
            }
        }
    }
    blk->no_wait = false;
    blk_unref(blk);
}

/* --- in place --- */

typedef struct BlkCall {
    BlockBackend *blk;
    BlkOp op;
    uint64_t offset, bytes;
    void *buffer;
    int ret;
} BlkCall;

static void call_co(void *opaque)
{
    BlkCall *call = opaque;
    BlockNode *node = blk_node(call->blk);

    if (!node) {
        call->ret = -ENOMEDIUM;
        return;
    }
    node_ref(node);
    if (call->op == BLK_READ) {
        call->ret = node_pread_co(node, call->offset, call->bytes, call->buffer);
    } else if (call->op == BLK_WRITE) {
        call->ret = node_pwrite_co(node, call->offset, call->bytes, call->buffer, 0);
    } else {
        call->ret = node_flush_co(node);
    }
    node_unref_co(node);
}

static int call_run(BlkCall *call)
{
    if (co_self()) {
        call_co(call);
    } else {
        co_run(call->blk->graph->loop, call_co, call);
    }
    return call->ret;
}

int blk_pread(BlockBackend *blk, uint64_t offset, uint64_t bytes, void *buffer)
{
    BlkCall call = {
        .blk = blk, .op = BLK_READ, .offset = offset, .bytes = bytes, .buffer = buffer
    };
    return call_run(&call);
}

int blk_pwrite(BlockBackend *blk, uint64_t offset, uint64_t bytes, const void *buffer)
{
    BlkCall call = {
        .blk = blk, .op = BLK_WRITE, .offset = offset, .bytes = bytes, .buffer = (void *)buffer
    };
    return call_run(&call);
}

int blk_flush(BlockBackend *blk)
{
    BlkCall call = { .blk = blk, .op = BLK_FLUSH };
    return call_run(&call);
}

typedef struct FlushAll {
    BlockGraph *graph;
    Error *err;
} FlushAll;

/* One that is being closed flushes itself. */
static void flush_all_co(void *opaque)
{
    FlushAll *all = opaque;
    for (BlockNode *node = NULL; (node = node_next_held_co(all->graph, node));) {
        int ret = node_flush_co(node);
        if (ret < 0 && !all->err) {
            all->err = error_new_errno(ret, "Could not flush '%s'", node->filename);
        }
    }
}

Error *block_graph_flush(BlockGraph *graph)
{
    FlushAll all = { .graph = graph };
    co_run(graph->loop, flush_all_co, &all);
    return all.err;
}
