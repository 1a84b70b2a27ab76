/*
 * Hostile images of all formats, in memory, through what `qemu-img info`, `check`, `map`, `convert` and
 * `check -r all` do with them: no crash, no more than two seconds of the processor and 256 MiB for one.
 *
 *     image-fuzz CORPUS [COUNT [SEED]]    COUNT mutated images (default 1000) of the files of CORPUS
 *     image-fuzz FILE...                  those images as they are, to look at what was found
 *
 * A file of the corpus is named FORMAT-ANYTHING. Mutations know where headers and tables are only in so
 * far as they hit places that are not zero. An image that fails is left as "found-FORMAT-SEED-NUMBER".
 * Built with -DLIBFUZZER there is no main(): clang's libFuzzer brings one; the format is probed then.
 */
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>

#include "block/node.h"

enum { IMAGE_MAX = 8 << 20, GROWS_TO = 64 << 20, READ_MAX = 16 << 20, PIECE = 1 << 20 };
enum { SECONDS = 2, MEMORY_MIB = 256 };

/* What the sanitizer keeps for itself must not hide what images take. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=1:malloc_context_size=5:detect_stack_use_after_return=0";
}

/* --- the image as a file --- */

static GByteArray *image; /* of the running test; there is one thread */

static Error *mem_open_co(BlockNode *node, KeyValues *opts)
{
    g_free(keyvalues_take(opts, "filename"));
    node->filename = g_strdup("image");
    node->size = image->len;
    return NULL;
}

static int mem_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    uint64_t inside = offset < image->len ? MIN(bytes, image->len - offset) : 0;
    block_vec_from_buffer(vec, at, image->data + (inside ? offset : 0), (size_t)inside);
    block_vec_zero(vec, at + (size_t)inside, (size_t)(bytes - inside));
    return 0;
}

static int mem_resize(BlockNode *node, uint64_t size)
{
    guint old = image->len;
    if (size > GROWS_TO) {
        return -ENOSPC;
    }
    g_byte_array_set_size(image, (guint)size);
    if (size > old) {
        memset(image->data + old, 0, size - old);
    }
    return 0;
}

static int mem_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at,
                          unsigned flags)
{
    int ret = offset + bytes > image->len ? mem_resize(node, offset + bytes) : 0;
    if (ret >= 0) {
        block_vec_to_buffer(vec, at, image->data + offset, (size_t)bytes);
    }
    return ret;
}

static Error *mem_truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    int ret = mem_resize(node, size);
    node->size = image->len;
    return ret < 0 ? error_new_errno(ret, "no room") : NULL;
}

static int mem_flush_co(BlockNode *node)
{
    return 0;
}

BLOCK_DRIVER(fuzz_mem, .name = "fuzz-mem", .desc = "The image of the running test", .protocol = true,
             .extends = true, .open_co = mem_open_co, .preadv_co = mem_preadv_co,
             .pwritev_co = mem_pwritev_co, .flush_co = mem_flush_co, .truncate_co = mem_truncate_co,
             .write_flags = REQ_FUA);

/* --- what is done with it --- */

static struct {
    Clocks *clocks;
    Loop *loop;
    BlockGraph *graph;
    const char *format; /* NULL: probed */
    bool opened;
} run;

typedef void OpFn(BlockNode *node);

static void op_info_co(BlockNode *node)
{
    g_autoptr(Value) data = value_dict();
    if (node->driver->info) {
        node->driver->info(node, data);
    }
    node_allocated_size(node);
    GPtrArray *snapshots = node->driver->snapshots ? node->driver->snapshots(node) : NULL;
    for (guint i = 0; snapshots && i < snapshots->len; i++) {
        block_snapshot_free(g_ptr_array_index(snapshots, i));
    }
    if (snapshots) {
        g_ptr_array_set_free_func(snapshots, NULL);
        g_ptr_array_free(snapshots, TRUE);
    }
}

static void check_co(BlockNode *node, unsigned fix)
{
    BlockCheck check = { 0 };
    if (node->driver->check_co) {
        error_free(node->driver->check_co(node, &check, fix));
    }
}

static void op_check_co(BlockNode *node)
{
    check_co(node, 0);
}

static void op_repair_co(BlockNode *node)
{
    check_co(node, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS);
}

/* Every run of the disk; with a buffer, what has data is read, up to a limit. */
static void walk_co(BlockNode *node, char *buffer)
{
    uint64_t read = 0;
    for (uint64_t at = 0; at < node->size;) {
        BlockStatus status;
        unsigned depth;
        if (node_status_above_co(node, NULL, at, node->size - at, &status, &depth) < 0) {
            return;
        }
        g_assert_cmpuint(status.bytes, >, 0);
        uint64_t end = at + status.bytes;
        for (; buffer && (status.flags & STATUS_DATA) && at < end && read < READ_MAX; at += PIECE) {
            uint64_t part = MIN(PIECE, end - at);
            node_pread_co(node, at, part, buffer); /* convert --salvage goes on after an error */
            read += part;
        }
        at = end;
    }
}

static void op_map_co(BlockNode *node)
{
    walk_co(node, NULL);
}

static void op_convert_co(BlockNode *node)
{
    char *buffer = aligned_alloc(4096, PIECE);
    walk_co(node, buffer);
    free(buffer);
}

static void one_op_co(void *opaque)
{
    OpFn *op = *(OpFn **)opaque;
    g_autoptr(KeyValues) opts = keyvalues_new();
    BlockNode *node;

    keyvalues_set(opts, "file.driver", "fuzz-mem");
    keyvalues_set(opts, "read-only", op == op_repair_co ? "off" : "on");
    keyvalues_set(opts, "backing", ""); /* files that an image names are not looked for here */
    if (run.format) {
        keyvalues_set(opts, "driver", run.format);
        if (op == op_repair_co && block_driver_find(run.format)->repairs) {
            keyvalues_set(opts, "x-repair", "on");
        }
    }
    Error *err = block_open_options_co(run.graph, opts, &node);
    if (err) {
        error_free(err);
        return;
    }
    run.opened = true;
    op(node);
    node_unref_co(node);
}

static double processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static long peak_mib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss / 1024;
}

static const struct {
    const char *name;
    OpFn *fn;
} ops[] = { { "info", op_info_co }, { "check", op_check_co }, { "map", op_map_co },
            { "convert", op_convert_co }, { "repair", op_repair_co } };
static const char *current_op = "";

/* NULL: all was well. */
static const char *run_image(const uint8_t *data, size_t size)
{
    static long before;
    before = before ? before : peak_mib();
    run.opened = false;
    for (size_t i = 0; i < ARRAY_SIZE(ops) && (i == 0 || run.opened); i++) {
        double started = processor_seconds();
        OpFn *op = ops[i].fn;
        current_op = ops[i].name;
        g_byte_array_set_size(image, 0);
        g_byte_array_append(image, data, (guint)size);
        co_run(run.loop, one_op_co, &op);
        while (block_node_next(run.graph, NULL)) {
            loop_run_once(run.loop, NS_PER_MS);
        }
        if (processor_seconds() - started > SECONDS) {
            return "takes too long";
        }
        if (peak_mib() - before > MEMORY_MIB) {
            return "takes too much memory";
        }
    }
    return NULL;
}

static void setup(void)
{
    image = g_byte_array_new();
    run.clocks = clocks_new();
    run.loop = loop_new("fuzz", run.clocks, NULL);
    run.graph = block_graph_new(run.loop);
    freopen("/dev/null", "w", stderr); /* what drivers log about corrupt images */
}

#ifdef LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!run.loop) {
        setup();
    }
    const char *bad = size && size <= IMAGE_MAX ? run_image(data, size) : NULL;
    if (bad) {
        printf("%s: %s\n", current_op, bad);
        abort();
    }
    return 0;
}
#else

/* --- mutations --- */

static uint64_t random_state;

static uint64_t rnd(uint64_t below) /* splitmix64 */
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return below ? (z ^ z >> 31) % below : 0;
}

typedef struct Seed {
    char *format, *name;
    uint8_t *data;
    size_t size;
    GArray *used; /* size_t: 16-byte places that are not all zero, and their neighbours */
} Seed;

static void find_used(Seed *seed)
{
    static const uint8_t zeroes[16];
    seed->used = g_array_new(FALSE, FALSE, sizeof(size_t));
    for (size_t at = 0; at + 16 <= seed->size && seed->used->len < 65536; at += 16) {
        if (memcmp(seed->data + at, zeroes, 16)) {
            g_array_append_val(seed->used, at);
        }
    }
}

static size_t pick_place(const Seed *seed, size_t size)
{
    size_t at = rnd(size);
    switch (rnd(4)) {
    case 0: /* a header */
        at = rnd(MIN(size, 1024));
        break;
    case 1:
    case 2: /* the first things that are there: headers and tables more than data */
        if (seed->used->len) {
            guint n = (guint)(rnd(2) ? rnd(seed->used->len) : rnd(MIN(seed->used->len, 128)));
            at = g_array_index(seed->used, size_t, n) + rnd(16);
        }
        break;
    default:
        break;
    }
    return MIN(at, size - 1);
}

static void put_number(uint8_t *data, size_t size, size_t at)
{
    static const uint64_t numbers[] = { 0, 1, 2, 3, 7, 8, 9, 31, 32, 63, 64, 127, 128, 255, 256, 511, 512, 513, 4096,
                                        65535, 65536, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, INT64_MAX,
                                        BIT64(63), UINT64_MAX, UINT64_MAX - 511, BIT64(62), BIT64(56), BIT64(40) };
    unsigned width = 1u << rnd(4);
    uint64_t value = rnd(3) ? numbers[rnd(ARRAY_SIZE(numbers))] : rnd(2) ? rnd(size * 2) : rnd(0) ^ random_state;
    bool big = rnd(2);
    at = rnd(4) ? at - at % width : at;
    for (unsigned i = 0; i < width && at + i < size; i++) {
        data[at + i] = (uint8_t)(value >> 8 * (big ? width - 1 - i : i));
    }
}

static void mutate(const Seed *seed, GByteArray *out)
{
    g_byte_array_set_size(out, 0);
    g_byte_array_append(out, seed->data, (guint)seed->size);
    for (uint64_t n = 1 + rnd(rnd(4) ? 4 : 40); n--;) {
        size_t at = pick_place(seed, out->len), other;
        switch (rnd(8)) {
        case 0:
            out->data[at] ^= (uint8_t)(1u << rnd(8));
            break;
        case 1:
            out->data[at] = (uint8_t)rnd(256);
            break;
        case 2: /* something of elsewhere */
            other = pick_place(seed, out->len);
            size_t bytes = MIN((size_t)1 << rnd(10), out->len - MAX(at, other));
            memmove(out->data + at, out->data + other, bytes);
            break;
        case 3:
            if (!rnd(6) && out->len > 64) {
                g_byte_array_set_size(out, (guint)(rnd(2) ? 1 + rnd(out->len) : out->len - rnd(64)));
            }
            break;
        default:
            put_number(out->data, out->len, at);
        }
    }
}

/* --- running --- */

static char *found_name = NULL;

static void keep_image(const GByteArray *data)
{
    g_file_set_contents(found_name, (const char *)data->data, data->len, NULL);
}

static GByteArray *current;

static void on_signal(int number)
{
    keep_image(current);
    printf("not ok: signal %d in %s; the image is %s\n", number, current_op, found_name);
    fflush(stdout);
    signal(number, SIG_DFL);
    raise(number);
}

static GPtrArray *load_corpus(const char *path)
{
    GPtrArray *seeds = g_ptr_array_new();
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    for (const char *name; dir && (name = g_dir_read_name(dir));) {
        g_ptr_array_add(names, g_strdup(name));
    }
    g_ptr_array_sort(names, (GCompareFunc)(void (*)(void))g_strcmp0);
    for (guint i = 0; i < names->len; i++) {
        const char *name = g_ptr_array_index(names, i), *dash = strchr(name, '-');
        g_autofree char *file = g_build_filename(path, name, NULL);
        Seed *seed = g_new0(Seed, 1);
        gsize size;
        if (dash && g_file_get_contents(file, (char **)&seed->data, &size, NULL) && size && size <= IMAGE_MAX) {
            seed->size = size;
            seed->name = g_strdup(name);
            seed->format = g_strndup(name, (gsize)(dash - name));
            find_used(seed);
            g_ptr_array_add(seeds, seed);
        }
    }
    return seeds;
}

static int run_files(char **files)
{
    int failed = 0;
    for (; *files; files++) {
        g_autofree char *base = g_path_get_basename(*files), *data = NULL;
        gsize size;
        char *name = g_str_has_prefix(base, "found-") ? base + 6 : base;
        g_autofree char *format = g_strndup(name, strcspn(name, "-."));
        run.format = block_driver_find(format) ? format : NULL;
        if (!g_file_get_contents(*files, &data, &size, NULL)) {
            return 2;
        }
        const char *bad = run_image((const uint8_t *)data, size);
        printf("%s: %s\n", *files, bad ? bad : "ok");
        failed |= bad != NULL;
    }
    return failed;
}

static int run_corpus(GPtrArray *seeds, uint64_t count, uint64_t first)
{
    uint64_t opened = 0, failed = 0;
    double slowest = 0;
    current = g_byte_array_new();
    for (uint64_t n = 0; n < count && failed < 20; n++) {
        random_state = first * 0x10001 + n;
        const Seed *seed = g_ptr_array_index(seeds, (guint)rnd(seeds->len));
        mutate(seed, current);
        g_free(found_name);
        found_name = g_strdup_printf("found-%s-%lu-%lu", seed->format, (unsigned long)first, (unsigned long)n);
        run.format = seed->format;
        struct itimerval limit = { .it_value.tv_sec = 10 * SECONDS };
        setitimer(ITIMER_PROF, &limit, NULL);
        double started = processor_seconds();
        const char *bad = run_image(current->data, current->len);
        slowest = MAX(slowest, processor_seconds() - started);
        opened += run.opened;
        if (bad) {
            keep_image(current);
            printf("# %s (from %s): %s %s\n", found_name, seed->name, current_op, bad);
            failed++;
        }
    }
    printf("# %lu images of %u seeds, %lu of them could be opened; the slowest took %.2f s; %ld MiB at most\n",
           (unsigned long)count, seeds->len, (unsigned long)opened, slowest, peak_mib());
    printf("1..1\n%s 1 images\n", failed || !opened ? "not ok" : "ok");
    return failed || !opened;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        printf("usage: image-fuzz CORPUS [COUNT [SEED]] | FILE...\n");
        return 2;
    }
    setup();
    if (!g_file_test(argv[1], G_FILE_TEST_IS_DIR)) {
        return run_files(argv + 1);
    }
    GPtrArray *seeds = load_corpus(argv[1]);
    if (!seeds->len) {
        printf("1..0 # SKIP no corpus in %s\n", argv[1]);
        return 0;
    }
    signal(SIGSEGV, on_signal);
    signal(SIGBUS, on_signal);
    signal(SIGFPE, on_signal);
    signal(SIGABRT, on_signal);
    signal(SIGPROF, on_signal);
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 0) : 1000;
    uint64_t first = argc > 3 ? strtoull(argv[3], NULL, 0) : (uint64_t)time(NULL);
    printf("# seed %lu\n", (unsigned long)first);
    return run_corpus(seeds, count, first);
}
#endif
