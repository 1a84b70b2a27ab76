/* Compressed clusters: raw deflate streams (window of 4 KiB) or zstd frames, unpacked on worker
 * threads. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/format/deflate.h"
#include "block/format/qcow2.h"

#if defined(HAVE_ZSTD)
#include <zstd.h>
#endif

typedef struct CompressCall {
    uint8_t kind; /* COMPRESSION_* */
    DeflateCall data;
} CompressCall;

#if defined(HAVE_ZSTD)
/* The frame ends somewhere in the last sector, so the simple call, which wants the exact size, does
 * not do. */
static int unzstd_cluster(DeflateCall *call)
{
    ZSTD_DCtx *ctx = ZSTD_createDCtx();
    ZSTD_outBuffer out = { call->to, call->to_bytes, 0 };
    ZSTD_inBuffer in = { call->from, call->from_bytes, 0 };
    size_t ret = 1;
    while (ctx && out.pos < out.size) {
        size_t in_before = in.pos, out_before = out.pos;
        ret = ZSTD_decompressStream(ctx, &out, &in);
        if (ZSTD_isError(ret) || (in.pos == in_before && out.pos == out_before)) {
            break;
        }
    }
    ZSTD_freeDCtx(ctx);
    return !ctx ? -ENOMEM : out.pos == out.size && !ZSTD_isError(ret) ? 0 : -EIO;
}

static int zstd_cluster(DeflateCall *call)
{
    size_t ret =
        ZSTD_compress(call->to, call->to_bytes, call->from, call->from_bytes, ZSTD_CLEVEL_DEFAULT);
    return ZSTD_isError(ret) ? -ENOSPC : (int)ret;
}
#endif

static int call_decompress(void *opaque)
{
    CompressCall *call = opaque;
#if defined(HAVE_ZSTD)
    if (call->kind == COMPRESSION_ZSTD) {
        return unzstd_cluster(&call->data);
    }
#endif
    return deflate_unpack(&call->data);
}

static int call_compress(void *opaque)
{
    CompressCall *call = opaque;
#if defined(HAVE_ZSTD)
    if (call->kind == COMPRESSION_ZSTD) {
        return zstd_cluster(&call->data);
    }
#endif
    return deflate_pack(&call->data);
}

/* --- reading --- */

/* The whole cluster into `out`. */
static int unpack_co(Qcow2 *q, uint64_t entry, uint8_t *out)
{
    uint64_t offset, bytes;
    qcow2_compressed_range(q, entry, &offset, &bytes);
    g_autofree uint8_t *packed = g_try_malloc((gsize)bytes);
    if (!packed) {
        return -ENOMEM;
    }
    qcow2_event_co(q, BLOCK_EVENT_READ_COMPRESSED);
    int ret = node_pread_co(q->file, offset, bytes, packed);
    if (ret < 0) {
        return ret;
    }
    CompressCall call = { q->compression, { packed, out, (size_t)bytes, (size_t)q->cluster_size } };
    return co_blocking(call_decompress, &call);
}

/* The last cluster is kept, since guests read less than a cluster at a time. */
int qcow2_read_compressed_co(Qcow2 *q, uint64_t entry, uint64_t in_cluster, uint64_t bytes,
                             const BlockVec *vec, size_t at)
{
    if (q->decompressed_entry == entry && entry) {
        block_vec_from_buffer(vec, at, q->decompressed + in_cluster, (size_t)bytes);
        return 0;
    }
    uint8_t *cluster = g_try_malloc((gsize)q->cluster_size);
    if (!cluster) {
        return -ENOMEM;
    }
    int ret = unpack_co(q, entry, cluster);
    if (ret < 0) {
        g_free(cluster);
        return ret;
    }
    block_vec_from_buffer(vec, at, cluster + in_cluster, (size_t)bytes);
    g_free(q->decompressed);
    q->decompressed = cluster;
    q->decompressed_entry = entry;
    return 0;
}

/* --- writing --- */

static uint64_t make_entry(const Qcow2 *q, uint64_t offset, uint64_t bytes)
{
    unsigned offset_bits = 62 - (q->cluster_bits - 8);
    uint64_t sectors = ((offset & 511) + bytes + 511) / 512 - 1;
    return ENTRY_COMPRESSED | sectors << offset_bits | offset;
}

static int link_compressed_co(Qcow2 *q, uint64_t guest, uint64_t offset, uint64_t bytes)
{
    Qcow2Table *table;
    qcow2_wait_allocations_co(q, guest >> q->cluster_bits, 1);
    int ret = q->broken ? -EIO : qcow2_l2_get_writable_co(q, guest, &table);
    if (ret < 0) {
        return ret;
    }
    uint64_t index = qcow2_l2_index(q, guest), old = qcow2_l2_entry(q, table, index);
    qcow2_l2_set(q, table, index, make_entry(q, offset, bytes), 0);
    qcow2_free_entry_later(q, old, false);
    return 0;
}

static int store_compressed_co(Qcow2 *q, uint64_t guest, uint64_t bytes, const uint8_t *packed)
{
    uint64_t offset;
    co_mutex_lock(&q->lock);
    int ret = q->broken ? -EIO : qcow2_alloc_compressed_co(q, bytes, &offset);
    co_mutex_unlock(&q->lock);
    if (ret < 0) {
        return ret;
    }
    qcow2_event_co(q, BLOCK_EVENT_WRITE_COMPRESSED);
    ret = node_pwrite_co(q->file, offset, bytes, packed, 0);
    co_mutex_lock(&q->lock);
    if (ret >= 0) {
        ret = link_compressed_co(q, guest, offset, bytes);
    }
    if (ret < 0 && !q->broken) {
        qcow2_refcount_add_co(q, offset, bytes, -1);
    }
    co_mutex_unlock(&q->lock);
    return ret;
}

/* `data` is a whole cluster, padded with zeroes at the end of the disk. */
static int write_compressed_cluster_co(Qcow2 *q, uint64_t guest, uint64_t bytes,
                                       const uint8_t *data)
{
    g_autofree uint8_t *packed = g_try_malloc((gsize)q->cluster_size);
    if (!packed) {
        return -ENOMEM;
    }
    /* One byte less than a cluster at most, else it is stored as it is. */
    CompressCall call = { q->compression,
                          { data, packed, (size_t)q->cluster_size, (size_t)q->cluster_size - 1 } };
    int size = co_blocking(call_compress, &call);
    if (size == -ENOSPC) {
        BLOCK_VEC_BUFFER(vec, data, (size_t)bytes);
        return qcow2_pwritev_co(q->node, guest, bytes, &vec, 0, 0);
    }
    if (size < 0) {
        return size;
    }
    return store_compressed_co(q, guest, (uint64_t)size, packed);
}

int qcow2_write_compressed_co(Qcow2 *q, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                              size_t at)
{
    g_autofree uint8_t *data = g_try_malloc0((gsize)q->cluster_size);
    if (!data) {
        return -ENOMEM;
    }
    if (qcow2_external(q) || q->crypt) {
        return -ENOTSUP;
    }
    if (qcow2_in_cluster(q, offset)) {
        return -EINVAL;
    }
    while (bytes) {
        uint64_t part = MIN(bytes, q->cluster_size);
        if (part < q->cluster_size && offset + part != q->node->size) {
            return -EINVAL;
        }
        memset(data + part, 0, (size_t)(q->cluster_size - part));
        block_vec_to_buffer(vec, at, data, (size_t)part);
        int ret = write_compressed_cluster_co(q, offset, part, data);
        if (ret < 0) {
            return ret;
        }
        offset += part;
        bytes -= part;
        at += (size_t)part;
    }
    return 0;
}
