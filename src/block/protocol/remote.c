#include "block/protocol/remote.h"

#include <errno.h>

void remote_line_init(RemoteLine *line)
{
    co_mutex_init(&line->lock);
}

static int in_turn_co(const BlockNode *node, RemoteLine *line, RemoteFn *fn, RemoteCall *call)
{
    unsigned timeouts = line->timeouts;
    int ret = -ETIMEDOUT;

    co_mutex_lock(&line->lock);
    if (timeouts == line->timeouts && !(line->silent && node->closing)) {
        ret = co_blocking_long(fn, call);
        line->silent = ret == -ETIMEDOUT;
        line->timeouts += line->silent;
    }
    co_mutex_unlock(&line->lock);
    return ret;
}

static int call_co(const BlockNode *node, RemoteLine *line, RemoteFn *fn, RemoteCall *call)
{
    return line ? in_turn_co(node, line, fn, call) : co_blocking_long(fn, call);
}

int remote_call_co(BlockNode *node, RemoteLine *line, RemoteFn *fn, uint64_t offset, uint64_t bytes)
{
    RemoteCall call = { node->state, offset, bytes, NULL };
    return call_co(node, line, fn, &call);
}

int remote_read_co(BlockNode *node, RemoteLine *line, RemoteFn *fn, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    g_autofree uint8_t *data = g_try_malloc((gsize)bytes);
    RemoteCall call = { node->state, offset, bytes, data };
    int ret = data ? call_co(node, line, fn, &call) : -ENOMEM;
    if (ret == 0) {
        block_vec_from_buffer(vec, at, data, (size_t)bytes);
    }
    return ret;
}

int remote_write_co(BlockNode *node, RemoteLine *line, RemoteFn *fn, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    g_autofree uint8_t *data = g_try_malloc((gsize)bytes);
    RemoteCall call = { node->state, offset, bytes, data };
    if (!data) {
        return -ENOMEM;
    }
    block_vec_to_buffer(vec, at, data, (size_t)bytes);
    return call_co(node, line, fn, &call);
}

Error *remote_open_co(BlockNode *node, KeyValues *opts, Error *(*steps_co)(BlockNode *node, KeyValues *opts),
                      void (*release)(void *state))
{
    Error *err = steps_co(node, opts);
    if (err) {
        release(node->state);
    }
    return err;
}

void remote_close_co(BlockNode *node, RemoteFn *hang_up, void (*release)(void *state))
{
    co_blocking_long(hang_up, node->state);
    release(node->state);
}

uint64_t remote_allocated_size(BlockNode *node)
{
    return UINT64_MAX;
}
