#include "block/protocol/remote.h"

#include <errno.h>

static int locked_co(CoMutex *lock, RemoteFn *fn, RemoteCall *call)
{
    if (lock) {
        co_mutex_lock(lock);
    }
    int ret = co_blocking(fn, call);
    if (lock) {
        co_mutex_unlock(lock);
    }
    return ret;
}

int remote_call_co(BlockNode *node, CoMutex *lock, RemoteFn *fn, uint64_t offset, uint64_t bytes)
{
    RemoteCall call = { node->state, offset, bytes, NULL };
    return locked_co(lock, fn, &call);
}

int remote_read_co(BlockNode *node, CoMutex *lock, RemoteFn *fn, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    g_autofree uint8_t *data = g_try_malloc((gsize)bytes);
    RemoteCall call = { node->state, offset, bytes, data };
    int ret = data ? locked_co(lock, fn, &call) : -ENOMEM;
    if (ret == 0) {
        block_vec_from_buffer(vec, at, data, (size_t)bytes);
    }
    return ret;
}

int remote_write_co(BlockNode *node, CoMutex *lock, RemoteFn *fn, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    g_autofree uint8_t *data = g_try_malloc((gsize)bytes);
    RemoteCall call = { node->state, offset, bytes, data };
    if (!data) {
        return -ENOMEM;
    }
    block_vec_to_buffer(vec, at, data, (size_t)bytes);
    return locked_co(lock, fn, &call);
}
