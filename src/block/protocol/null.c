/* Drivers "null-co" and "null-aio": a disk of any size that forgets what is written; for
 * measurements. */
#include <errno.h>

#include "block/node.h"

typedef struct NullState {
    uint64_t latency_ns;
    bool read_zeroes;
} NullState;

static Error *null_open_co(BlockNode *node, KeyValues *opts)
{
    NullState *s = node->state;
    g_free(keyvalues_take(opts, "filename")); /* what follows null-co: says nothing */
    TRY(block_take_size(opts, "size", 1 * GiB, &node->size));
    TRY(block_take_num(opts, "latency-ns", 0, &s->latency_ns));
    TRY(block_take_bool(opts, "read-zeroes", false, &s->read_zeroes));
    if (node->size > INT64_MAX || s->latency_ns > 3600 * (uint64_t)NS_PER_SEC) {
        return error_new("%s: size or latency-ns is too large", node->driver->name);
    }
    return NULL;
}

static int wait_co(NullState *s)
{
    if (s->latency_ns) {
        co_sleep_ns(CLOCK_REALTIME_NS, (int64_t)s->latency_ns);
    }
    return 0;
}

static int null_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at)
{
    NullState *s = node->state;
    if (s->read_zeroes) {
        block_vec_zero(vec, at, (size_t)bytes);
    }
    return wait_co(s);
}

static int null_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                           size_t at, unsigned flags)
{
    return wait_co(node->state);
}

static int null_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return wait_co(node->state);
}

static int null_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return wait_co(node->state);
}

static int null_flush_co(BlockNode *node)
{
    return wait_co(node->state);
}

static int null_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    NullState *s = node->state;
    *ret_status =
        (BlockStatus) { .flags = STATUS_ALLOCATED | (s->read_zeroes ? STATUS_ZERO : STATUS_DATA),
                        .bytes = bytes };
    return 0;
}

static uint64_t null_allocated_size(BlockNode *node)
{
    return 0;
}

static const BlockOption null_options[] = {
    { "size", OPT_SIZE, "Size of the disk (default: 1G)" },
    { "latency-ns", OPT_NUM, "How long a request takes, in nanoseconds (default: 0)" },
    { "read-zeroes", OPT_BOOL,
      "Reads give zeroes instead of leaving the buffer alone (default: off)" },
    { 0 },
};

static char *null_make_filename(BlockNode *node)
{
    return node_has_deciding_options(node) ? NULL : g_strdup_printf("%s://", node->driver->name);
}

#define NULL_METHODS                                                                               \
    .state_size = sizeof(NullState), .deciding = (const char *const[]) { "size", NULL }, .protocol = true, .options = null_options,                    \
    .open_co = null_open_co, .preadv_co = null_preadv_co, .pwritev_co = null_pwritev_co,           \
    .write_zeroes_co = null_write_zeroes_co, .discard_co = null_discard_co,                        \
    .flush_co = null_flush_co, .status_co = null_status_co, .allocated_size = null_allocated_size,  \
    .make_filename = null_make_filename

BLOCK_DRIVER(null_co, .name = "null-co", .desc = "Nothing, for measurements", NULL_METHODS);
BLOCK_DRIVER(null_aio, .name = "null-aio", .desc = "Nothing, for measurements", NULL_METHODS);
