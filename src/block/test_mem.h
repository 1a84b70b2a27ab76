/*
 * Driver "test-mem" for tests: files in memory, with a log of what was written and when it was
 * flushed, from which crashes can be replayed. Included by one test program each, since it
 * registers a driver.
 */
#ifndef OSTRICH_BLOCK_TEST_MEM_H
#define OSTRICH_BLOCK_TEST_MEM_H

#include <errno.h>
#include <string.h>

#include "block/test_util.h"

typedef enum MemKind { MEM_WRITE, MEM_ZERO, MEM_DISCARD, MEM_TRUNCATE, MEM_FLUSH } MemKind;

/* What a disk that discarded a sector may give back. */
enum { MEM_GARBAGE = 0xd5 };

typedef struct MemWrite {
    MemKind kind;
    uint64_t offset; /* MEM_FLUSH: how many entries it covers; MEM_TRUNCATE: the new length */
    uint64_t bytes;
    GBytes *data; /* MEM_WRITE */
} MemWrite;

typedef struct MemFile {
    GByteArray *data;
    GArray *log;    /* MemWrite; NULL: not recorded */
    int fail_after; /* writes until one fails with EIO; negative: never */
    int fail_any;   /* the same, for requests of every sort */
} MemFile;

static GHashTable *mem_files; /* by name; tests are single-threaded */

static void mem_write_clear(void *opaque)
{
    MemWrite *w = opaque;
    if (w->data) {
        g_bytes_unref(w->data);
    }
}

static void mem_file_free(void *opaque)
{
    MemFile *file = opaque;
    g_byte_array_unref(file->data);
    if (file->log) {
        g_array_unref(file->log);
    }
    g_free(file);
}

static inline MemFile *mem_file(const char *name)
{
    if (!mem_files) {
        mem_files = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, mem_file_free);
    }
    MemFile *file = g_hash_table_lookup(mem_files, name);
    if (!file) {
        file = g_new0(MemFile, 1);
        file->data = g_byte_array_new();
        file->fail_after = file->fail_any = -1;
        g_hash_table_insert(mem_files, g_strdup(name), file);
    }
    return file;
}

static inline void mem_file_record(MemFile *file)
{
    file->log = g_array_new(FALSE, FALSE, sizeof(MemWrite));
    g_array_set_clear_func(file->log, mem_write_clear);
}

static inline void mem_grow(GByteArray *data, uint64_t size)
{
    guint old = data->len;
    if (size > old) {
        g_byte_array_set_size(data, (guint)size);
        memset(data->data + old, 0, size - old);
    }
}

static Error *mem_open_co(BlockNode *node, KeyValues *opts)
{
    node->filename = keyvalues_take(opts, "filename");
    if (!node->filename) {
        return error_new("test-mem needs a filename");
    }
    MemFile *file = mem_file(node->filename);
    *(MemFile **)node->state = file;
    node->size = file->data->len;
    return NULL;
}

static Error *mem_create_co(BlockGraph *graph, const char *filename, BlockNode *unused,
                            KeyValues *opts)
{
    uint64_t size;
    TRY(block_take_size(opts, "size", 0, &size));
    MemFile *file = mem_file(filename);
    g_byte_array_set_size(file->data, 0);
    mem_grow(file->data, size);
    return NULL;
}

static MemFile *file_of(BlockNode *node)
{
    return *(MemFile **)node->state;
}

/* Lets other coroutines in, so that concurrent requests really mix. */
static void mem_yield_co(void)
{
    co_wake(co_self());
    co_yield ();
    if (g_test_rand_int() & 1) {
        co_sleep_ns(CLOCK_REALTIME_NS, 0);
    }
}

static void mem_log(MemFile *file, MemKind kind, uint64_t offset, uint64_t bytes)
{
    if (file->log) {
        MemWrite w = { .kind = kind, .offset = offset, .bytes = bytes };
        if (kind == MEM_WRITE) {
            w.data = g_bytes_new(file->data->data + offset, (gsize)bytes);
        }
        g_array_append_val(file->log, w);
    }
}

static bool mem_fails(int *countdown)
{
    return *countdown >= 0 && (*countdown)-- == 0;
}

static int mem_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                         size_t at)
{
    MemFile *file = file_of(node);
    mem_yield_co();
    if (mem_fails(&file->fail_any)) {
        return -EIO;
    }
    uint64_t inside = offset < file->data->len ? MIN(bytes, file->data->len - offset) : 0;
    block_vec_from_buffer(vec, at, file->data->data + offset, (size_t)inside);
    block_vec_zero(vec, at + (size_t)inside, (size_t)(bytes - inside));
    return 0;
}

static int mem_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                          size_t at, unsigned flags)
{
    MemFile *file = file_of(node);
    mem_yield_co();
    if (offset + bytes > 256 << 20) {
        return -EFBIG;
    }
    if (mem_fails(&file->fail_after) || mem_fails(&file->fail_any)) {
        return -EIO;
    }
    mem_grow(file->data, offset + bytes);
    block_vec_to_buffer(vec, at, file->data->data + offset, (size_t)bytes);
    mem_log(file, MEM_WRITE, offset, bytes);
    return 0;
}

static int mem_fill_co(BlockNode *node, MemKind kind, uint64_t offset, uint64_t bytes, int byte)
{
    MemFile *file = file_of(node);
    mem_yield_co();
    if (mem_fails(&file->fail_any)) {
        return -EIO;
    }
    uint64_t end = MIN(offset + bytes, file->data->len);
    if (offset < end) {
        memset(file->data->data + offset, byte, end - offset);
        mem_log(file, kind, offset, end - offset);
    }
    return 0;
}

static int mem_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    if (offset + bytes > file_of(node)->data->len) {
        return -ENOTSUP;
    }
    return mem_fill_co(node, MEM_ZERO, offset, bytes, 0);
}

static int mem_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return mem_fill_co(node, MEM_DISCARD, offset, bytes, MEM_GARBAGE);
}

static int mem_flush_co(BlockNode *node)
{
    MemFile *file = file_of(node);
    guint upto = file->log ? file->log->len : 0; /* what comes during the flush is not covered */
    mem_yield_co();
    if (mem_fails(&file->fail_any)) {
        return -EIO;
    }
    mem_log(file, MEM_FLUSH, upto, 0);
    return 0;
}

static Error *mem_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    MemFile *file = file_of(node);
    if (size > 256 << 20) {
        return error_new("too large for a test");
    }
    if (size < file->data->len) {
        g_byte_array_set_size(file->data, (guint)size);
    }
    mem_grow(file->data, size);
    node->size = size;
    mem_log(file, MEM_TRUNCATE, size, 0);
    return NULL;
}

/* What the entry does to the contents of a file. */
static inline void mem_apply(GByteArray *out, const MemWrite *w)
{
    gsize bytes;
    const uint8_t *data;
    switch (w->kind) {
    case MEM_WRITE:
        data = g_bytes_get_data(w->data, &bytes);
        mem_grow(out, w->offset + bytes);
        memcpy(out->data + w->offset, data, bytes);
        break;
    case MEM_ZERO:
    case MEM_DISCARD:
        mem_grow(out, w->offset + w->bytes);
        memset(out->data + w->offset, w->kind == MEM_ZERO ? 0 : MEM_GARBAGE, w->bytes);
        break;
    case MEM_TRUNCATE:
        g_byte_array_set_size(out, (guint)MIN(out->len, w->offset));
        mem_grow(out, w->offset);
        break;
    case MEM_FLUSH:
        break;
    }
}

BLOCK_DRIVER(mem, .name = "test-mem", .state_size = sizeof(MemFile *), .protocol = true,
             .extends = true, .open_co = mem_open_co, .create_co = mem_create_co,
             .preadv_co = mem_preadv_co, .pwritev_co = mem_pwritev_co, .flush_co = mem_flush_co,
             .write_zeroes_co = mem_write_zeroes_co, .discard_co = mem_discard_co,
             .truncate_co = mem_truncate_co);

/* Options "a=b,c=d" to a node. */
static inline BlockNode *open_text(BlockFixture *f, const char *text)
{
    g_autoptr(KeyValues) opts = NULL;
    BlockNode *node;
    expect_ok(keyvalues_parse(text, NULL, &opts));
    expect_ok(block_open_options(f->graph, opts, &node));
    return node;
}

typedef struct CreateCall {
    BlockGraph *graph;
    const char *filename, *driver;
    KeyValues *opts;
    Error *err;
} CreateCall;

static void create_call_co(void *opaque)
{
    CreateCall *call = opaque;
    call->err =
        block_create_co(call->graph, call->filename, block_driver_find(call->driver), call->opts);
}

static inline Error *create_text(BlockFixture *f, const char *filename, const char *driver,
                                 const char *text)
{
    g_autoptr(KeyValues) opts = NULL;
    expect_ok(keyvalues_parse(text, NULL, &opts));
    CreateCall call = { f->graph, filename, driver, opts, NULL };
    co_run(f->loop, create_call_co, &call);
    return call.err;
}

typedef struct CheckCall {
    BlockNode *node;
    BlockCheck check;
    unsigned fix;
    Error *err;
} CheckCall;

static void check_call_co(void *opaque)
{
    CheckCall *call = opaque;
    call->err = call->node->driver->check_co(call->node, &call->check, call->fix);
}

static void check_message(void *opaque, const char *text)
{
    if (g_test_verbose()) {
        g_test_message("%s", text);
    }
}

static inline BlockCheck check_node(BlockFixture *f, BlockNode *node, unsigned fix)
{
    CheckCall call = { .node = node, .fix = fix, .check.message = check_message };
    co_run(f->loop, check_call_co, &call);
    expect_ok(call.err);
    return call.check;
}

#endif
