/*
 * Filter "blkverify", for tests of formats: everything is done with two images, the one under test
 * and a raw one; a request that does not give the same with both fails.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "block/filter/filter.h"

typedef struct VerifyState {
    BlockEdge *test;
} VerifyState;

static BlockNode *test_of(const BlockNode *node)
{
    return ((const VerifyState *)node->state)->test->node;
}

/* "blkverify:RAW:TEST" */
static Error *verify_parse_filename(const char *filename, KeyValues *opts)
{
    const char *raw = filename + strlen("blkverify:"), *colon = strchr(raw, ':');
    if (!colon) {
        return error_new("blkverify: needs a raw copy and the image to compare: blkverify:RAW:IMAGE");
    }
    g_autofree char *path = g_strndup(raw, (gsize)(colon - raw));
    keyvalues_set(opts, "raw.filename", path);
    keyvalues_set(opts, "test.filename", colon + 1);
    return NULL;
}

static char *verify_make_filename(BlockNode *node)
{
    g_autofree char *raw = node_plain_filename(filter_child(node)), *test = node_plain_filename(test_of(node));
    return raw && test ? g_strdup_printf("blkverify:%s:%s", raw, test) : NULL;
}

static Error *verify_open_co(BlockNode *node, KeyValues *opts)
{
    VerifyState *s = node->state;
    TRY(filter_open(node));
    TRY(node_open_role_co(node, opts, "test", CHILD_FILTERED, true, &s->test));
    BlockNode *test = s->test->node;
    node->size = test->size;
    node->follows_size = node->extends = false;
    node->limits.request_align = MAX(node->limits.request_align, test->limits.request_align);
    node->limits.memory_align = MAX(node->limits.memory_align, test->limits.memory_align);
    return NULL;
}

/* What both gave, or an error when that was not the same. */
static int verdict(const char *what, uint64_t offset, uint64_t bytes, int raw, int test)
{
    if (raw != test) {
        log_printf("blkverify: %s offset=%" PRIu64 " bytes=%" PRIu64 " return value mismatch %d != %d\n",
                   what, offset, bytes, test, raw);
        return -EIO;
    }
    return test;
}

static int verify_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                            size_t at)
{
    size_t align = MAX(node->limits.memory_align, 64);
    char *buffer = aligned_alloc(align, ALIGN_UP((size_t)bytes, align)), *seen = malloc((size_t)bytes);
    int ret = buffer && seen ? 0 : -ENOMEM;
    if (ret >= 0) {
        int test = node_preadv_co(test_of(node), offset, bytes, vec, at);
        ret = verdict("read", offset, bytes, node_pread_co(filter_child(node), offset, bytes, buffer), test);
    }
    if (ret >= 0) {
        block_vec_to_buffer(vec, at, seen, (size_t)bytes);
        for (uint64_t i = 0; i < bytes; i++) {
            if (seen[i] != buffer[i]) {
                log_printf("blkverify: read offset=%" PRIu64 " bytes=%" PRIu64
                           " contents mismatch at offset %" PRIu64 "\n", offset, bytes, offset + i);
                ret = -EIO;
                break;
            }
        }
    }
    free(buffer);
    free(seen);
    return ret;
}

static int verify_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                             size_t at, unsigned flags)
{
    int test = node_pwritev_co(test_of(node), offset, bytes, vec, at, flags);
    return verdict("write", offset, bytes, filter_pwritev_co(node, offset, bytes, vec, at, flags), test);
}

static int verify_flush_co(BlockNode *node)
{
    int ret = node_flush_co(test_of(node)); /* only that one is of interest */
    return ret < 0 ? ret : node_flush_co(filter_child(node));
}

static const char *const schemes[] = { "blkverify", NULL };
static const BlockOption options[] = {
    { "raw", OPT_STR, "The raw image" },
    { "test", OPT_STR, "The image under test" },
    { 0 },
};

BLOCK_DRIVER(blkverify, .name = "blkverify", .desc = "Filter: compares an image with a raw one", .make_filename = verify_make_filename,
             .filter = true, .state_size = sizeof(VerifyState), .child_name = "raw", .filename_child = "test", .schemes = schemes,
             .options = options, .parse_filename = verify_parse_filename, .open_co = verify_open_co,
             .preadv_co = verify_preadv_co, .pwritev_co = verify_pwritev_co,
             .flush_co = verify_flush_co, .status_co = filter_status_co,
             .write_flags = REQ_FUA | REQ_WRITE_UNCHANGED);
