/*
 * Hostile streams of a machine's state, into a "pc" with every device: each is refused with a message or loaded, with
 * no crash, and no more than two seconds of the processor and 256 MiB for one.
 *
 *     stream-fuzz [COUNT [SEED]]    COUNT altered streams (default 1000)
 *     stream-fuzz FILE...           those streams as they are, to look at what was found
 *
 * Most are altered record by record, knowing how records and rows are laid out, and get the sums that belong to them, so
 * that what lies behind the sums is reached: records lost, twice, in another place, cut, longer, of another kind, of another
 * run of the same machine; numbers and lengths inside them. The others are cut or altered as bytes. A loaded machine goes on under
 * random accesses for a while. One that fails is left as "found-stream-SEED-NUMBER".
 */
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <zlib.h>

#include "base/endian.h"
#include "machine/x86/test_pc.h"
#include "migration/pack.h"
#include "migration/stream.h"
#include "migration/xbzrle.h"

enum { SECONDS = 2, MEMORY_MIB = 256, SEEDS = 6, HEADER = 20, RECORD_HEAD = 8, CHECK_EVERY = 500 };

/* What the sanitizer keeps for itself must not hide what streams take. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=1:malloc_context_size=5:detect_stack_use_after_return=0";
}

static uint64_t random_state;

static uint64_t rnd(uint64_t below) /* splitmix64 */
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return below ? (z ^ z >> 31) % below : z;
}

/* --- streams as lists of records --- */

typedef struct Record {
    uint32_t kind;
    GByteArray *payload;
} Record;

static void record_clear(void *opaque)
{
    g_byte_array_unref(((Record *)opaque)->payload);
}

static GArray *records_new(void)
{
    GArray *records = g_array_new(FALSE, FALSE, sizeof(Record));
    g_array_set_clear_func(records, record_clear);
    return records;
}

static Record *record_at(const GArray *records, guint n)
{
    return &g_array_index(records, Record, n);
}

static Record record_copy(const Record *record)
{
    Record copy = { record->kind, g_byte_array_new() };
    g_byte_array_append(copy.payload, record->payload->data, record->payload->len);
    return copy;
}

static GArray *parse(const GByteArray *stream)
{
    GArray *records = records_new();
    for (guint at = HEADER; at < stream->len;) {
        uint32_t length = ld32_le(stream->data + at + 4);
        Record record = { ld32_le(stream->data + at), g_byte_array_new() };
        g_byte_array_append(record.payload, stream->data + at + RECORD_HEAD, length);
        g_array_append_val(records, record);
        at += RECORD_HEAD + length + 4;
    }
    return records;
}

static void put_sum(GByteArray *out, guint start, uint32_t number)
{
    uint8_t bytes[4];
    st32_le(bytes, number);
    uLong sum = crc32_z(crc32_z(0, bytes, 4), out->data + start, out->len - start);
    st32_le(bytes, (uint32_t)sum);
    g_byte_array_append(out, bytes, 4);
}

static void join(const GArray *records, uint32_t version, GByteArray *out)
{
    uint8_t head[HEADER];
    memcpy(head, STREAM_MAGIC, 16);
    st32_le(head + 16, version);
    g_byte_array_append(out, head, HEADER);
    for (guint n = 0; n < records->len; n++) {
        const Record *record = record_at(records, n);
        uint8_t start[RECORD_HEAD];
        guint at = out->len;
        st32_le(start, record->kind);
        st32_le(start + 4, record->payload->len);
        g_byte_array_append(out, start, RECORD_HEAD);
        g_byte_array_append(out, record->payload->data, record->payload->len);
        put_sum(out, at, n);
    }
}

/* --- alterations --- */

static void put_number(GByteArray *bytes, size_t at)
{
    static const uint64_t numbers[] = { 0, 1, 2, 3, 7, 8, 9, 31, 32, 63, 64, 127, 128, 255, 256, 511, 512, 4095, 4096,
                                        65535, 65536, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, INT64_MAX,
                                        BIT64(63), UINT64_MAX, UINT64_MAX - 511, BIT64(62), BIT64(52), BIT64(40) };
    unsigned width = 1u << rnd(4);
    uint64_t value = rnd(3) ? numbers[rnd(ARRAY_SIZE(numbers))] : rnd(2) ? rnd(512) : rnd(0);
    for (unsigned i = 0; i < width && at + i < bytes->len; i++) {
        bytes->data[at + i] = (uint8_t)(value >> 8 * i);
    }
}

/* Near the beginning, where names and lengths are, or among values: what looks like a row's name is seldom hit. */
static size_t pick_place(const GByteArray *bytes)
{
    if (rnd(6) == 0) {
        return rnd(MIN(bytes->len, 96u));
    }
    size_t at = rnd(bytes->len);
    for (unsigned tries = 0; tries < 8 && (g_ascii_isalpha(bytes->data[at]) || at < 64); tries++) {
        at = rnd(bytes->len);
    }
    return at;
}

static void alter_bytes(GByteArray *bytes)
{
    if (bytes->len == 0) {
        return;
    }
    for (uint64_t n = 1 + (rnd(3) ? 0 : rnd(rnd(4) ? 4 : 30)); n--;) {
        size_t at = pick_place(bytes), other, piece = (size_t)1 << rnd(8);
        switch (rnd(6)) {
        case 0:
            bytes->data[at] ^= (uint8_t)(1u << rnd(8));
            break;
        case 1:
            bytes->data[at] = (uint8_t)rnd(256);
            break;
        case 2: /* something of elsewhere */
            other = pick_place(bytes);
            memmove(bytes->data + at, bytes->data + other, MIN(piece, bytes->len - MAX(at, other)));
            break;
        default:
            put_number(bytes, at);
        }
    }
}

static void alter_length(GByteArray *bytes)
{
    guint old = bytes->len;
    if (rnd(2)) {
        g_byte_array_set_size(bytes, (guint)rnd(old + 1));
        return;
    }
    g_byte_array_set_size(bytes, old + 1 + (guint)rnd(rnd(8) ? 64 : 1 << 20));
    memset(bytes->data + old, (int)rnd(256), bytes->len - old);
}

/* Records that hold most of the code's decisions are few beside those of RAM. */
static guint pick_record(const GArray *records)
{
    guint n = (guint)rnd(records->len);
    for (unsigned tries = 0; tries < 6 && record_at(records, n)->kind == RECORD_RAM; tries++) {
        n = (guint)rnd(records->len);
    }
    return n;
}

static void swap(GArray *records, guint a, guint b)
{
    Record first = *record_at(records, a);
    *record_at(records, a) = *record_at(records, b);
    *record_at(records, b) = first;
}

static void alter_record(GArray *records, const GArray *others)
{
    guint n = pick_record(records);
    Record *record = record_at(records, n), copy;

    switch (rnd(24)) {
    case 0:
        g_array_remove_index(records, n);
        break;
    case 1:
        copy = record_copy(record);
        g_array_insert_val(records, rnd(records->len + 1), copy);
        break;
    case 2:
        swap(records, n, (guint)rnd(records->len));
        break;
    case 3:
        record->kind = rnd(3) ? (uint32_t)rnd(20) : (uint32_t)rnd(0);
        break;
    case 4:
    case 5:
        alter_length(record->payload);
        break;
    case 6: /* of the same machine at another time */
        copy = record_copy(record_at(others, MIN(n, others->len - 1)));
        record_clear(record);
        *record_at(records, n) = copy;
        break;
    default:
        alter_bytes(record->payload);
    }
}

typedef struct Seed {
    GByteArray *stream;
    GArray *records;
} Seed;

static Seed seeds[SEEDS];

static void mutate(GByteArray *out)
{
    const Seed *seed = &seeds[rnd(SEEDS)], *other = &seeds[rnd(SEEDS)];

    g_byte_array_set_size(out, 0);
    if (rnd(10) == 0) { /* as bytes: the sums no longer fit */
        g_byte_array_append(out, seed->stream->data, seed->stream->len);
        if (rnd(2)) {
            g_byte_array_set_size(out, (guint)rnd(out->len));
        } else {
            alter_bytes(out);
        }
        return;
    }
    g_autoptr(GArray) records = records_new();
    for (guint n = 0; n < seed->records->len; n++) {
        Record copy = record_copy(record_at(seed->records, n));
        g_array_append_val(records, copy);
    }
    for (uint64_t n = 1 + rnd(rnd(4) ? 4 : 12); n-- && records->len;) {
        alter_record(records, other->records);
    }
    join(records, rnd(50) ? STREAM_VERSION : (uint32_t)rnd(4), out);
}

/* --- running --- */

/* FUZZ_VERBOSE set: every refusal, and what devices log. */
static bool verbose(void)
{
    return g_getenv("FUZZ_VERBOSE") != NULL;
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

static struct {
    TestPc pc;
    int64_t now;
    bool loaded;
    double slowest;
} run;

/* A refusal has one line that says something. */
static const char *judge_message(const Error *err)
{
    const char *text = error_message(err);
    return strlen(text) < 12 || strchr(text, '\n') || !g_utf8_validate(text, -1, NULL) ? "is refused without a clear message" : NULL;
}

/* NULL: all was well. */
static const char *run_stream(const GByteArray *stream)
{
    static long before;
    const char *bad = NULL;
    before = before ? before : peak_mib();
    double started = processor_seconds();
    Error *err = test_pc_load(run.pc.machine, stream);
    run.loaded = !err;
    if (err) { /* the real program ends here, or stands still until it is reset */
        bad = judge_message(err);
        if (bad || verbose()) {
            printf("# '%s'\n", error_message(err));
        }
        error_free(err);
        machine_reset(run.pc.machine, SHUTDOWN_NONE);
    }
    test_pc_noise(&run.pc, 10, &run.now);
    double took = processor_seconds() - started;
    run.slowest = MAX(run.slowest, took);
    return bad ? bad : took > SECONDS ? "takes too long" : peak_mib() - before > MEMORY_MIB ? "takes too much memory" : NULL;
}

static char *found_name;
static GByteArray *current;

static void keep_stream(void)
{
    g_file_set_contents(found_name, (const char *)current->data, current->len, NULL);
}

static void on_signal(int number)
{
    keep_stream();
    printf("not ok: signal %d; the stream is %s\n", number, found_name);
    fflush(stdout);
    signal(number, SIG_DFL);
    raise(number);
}

static int run_files(char **files)
{
    int failed = 0;
    for (; *files; files++) {
        g_autofree char *data = NULL;
        gsize size;
        if (!g_file_get_contents(*files, &data, &size, NULL)) {
            return 2;
        }
        g_autoptr(GByteArray) stream = g_byte_array_new();
        g_byte_array_append(stream, (const uint8_t *)data, (guint)size);
        const char *bad = run_stream(stream);
        printf("%s: %s\n", *files, bad ? bad : run.loaded ? "loaded" : "refused");
        failed |= bad != NULL;
    }
    return failed;
}

static Record packed(const Record *record, PackMethod method)
{
    uint8_t plain[4];
    Record out = { method == PACK_ZSTD ? RECORD_RAM_ZSTD : RECORD_RAM_PACKED, g_byte_array_new() };
    g_autoptr(GByteArray) bytes = pack(method, 1, record->payload->data, record->payload->len);

    st32_le(plain, record->payload->len);
    g_byte_array_append(out.payload, plain, 4);
    if (bytes) {
        g_byte_array_append(out.payload, bytes->data, bytes->len);
    }
    return out;
}

/* Page 0 of block 0, which is all zeroes or not, with some bytes changed. */
static Record delta(void)
{
    static uint8_t old[4096], page[4096], bytes[4096];
    uint8_t head[24] = { 0 };
    Record out = { RECORD_RAM, g_byte_array_new() };

    for (unsigned n = 0; n < 40; n++) {
        page[rnd(sizeof(page))] = (uint8_t)rnd(256);
    }
    int length = xbzrle_encode(old, page, bytes);
    st32_le(head + 12, 1);              /* pages */
    st32_le(head + 16, 2);              /* a delta */
    st32_le(head + 20, (uint32_t)length);
    g_byte_array_append(out.payload, head, sizeof(head));
    g_byte_array_append(out.payload, bytes, (guint)length);
    return out;
}

/* A migration's forms of RAM beside the plain one. */
static void add_forms(GArray *records)
{
    for (guint n = 0; n < records->len; n++) {
        if (record_at(records, n)->kind == RECORD_RAM) {
            const Record more[] = { packed(record_at(records, n), PACK_ZLIB), delta(),
                                    packed(record_at(records, n), pack_has(PACK_ZSTD) ? PACK_ZSTD : PACK_ZLIB) };
            g_array_insert_vals(records, n + 1, more, G_N_ELEMENTS(more));
            return;
        }
    }
}

/* How RAM is loaded does not depend on how much of it there is: a few pages of each run, a few runs, a few records. */
static void shorten_ram(GArray *records)
{
    enum { RUN_HEAD = 16, PAGE = 4096, RUNS = 6, ZEROES = 16, PAGES = 2, RECORDS = 8 };
    unsigned kept = 0;

    for (guint n = 0; n < records->len;) {
        GByteArray *payload = record_at(records, n)->payload;
        if (record_at(records, n)->kind != RECORD_RAM) {
            n++;
            continue;
        }
        if (kept++ == RECORDS) {
            kept--;
            g_array_remove_index(records, n);
            continue;
        }
        GByteArray *out = g_byte_array_new();
        g_byte_array_append(out, payload->data, 4);
        for (guint at = 4, runs = 0; at < payload->len && runs < RUNS; runs++) {
            uint32_t count = ld32_le(payload->data + at + 8), kind = ld32_le(payload->data + at + 12);
            uint32_t take = MIN(count, kind ? (uint32_t)PAGES : (uint32_t)ZEROES);
            guint head = out->len;
            g_byte_array_append(out, payload->data + at, RUN_HEAD + (kind ? take * PAGE : 0));
            st32_le(out->data + head + 8, take);
            at += RUN_HEAD + (kind ? count * PAGE : 0);
        }
        g_byte_array_unref(payload);
        record_at(records, n)->payload = out;
        n++;
    }
}

/* The machine after more and more noise. */
static void make_seeds(void)
{
    for (unsigned n = 0; n < SEEDS; n++) {
        test_pc_noise(&run.pc, 400 * n, &run.now);
        seeds[n].stream = test_pc_save(run.pc.machine);
        seeds[n].records = parse(seeds[n].stream);
        shorten_ram(seeds[n].records);
        add_forms(seeds[n].records);
    }
}

static bool seeds_load(void)
{
    bool good = true;
    for (unsigned n = 0; n < SEEDS; n++) {
        Error *err = test_pc_load(run.pc.machine, seeds[n].stream);
        if (err) {
            printf("# what was saved is refused: %s\n", error_message(err));
            error_free(err);
            good = false;
        }
    }
    return good;
}

static void shorten_streams(void)
{
    for (unsigned n = 0; n < SEEDS; n++) {
        g_byte_array_set_size(seeds[n].stream, 0);
        join(seeds[n].records, STREAM_VERSION, seeds[n].stream);
    }
}

/* A guest may have put a card out: streams are for the machine as it was. */
static bool new_machine(void)
{
    test_pc_tear_down(&run.pc);
    run.pc = (TestPc) { .everything = true, .keeps_cards = true, .rand = run.pc.rand };
    run.now = 0;
    return test_pc_setup(&run.pc);
}

static uint64_t run_many(uint64_t count, uint64_t first)
{
    uint64_t loaded = 0, failed = 0;
    for (uint64_t n = 0; n < count && failed < 20; n++) {
        random_state = first * 0x10001 + n;
        mutate(current);
        g_free(found_name);
        found_name = g_strdup_printf("found-stream-%lu-%lu", (unsigned long)first, (unsigned long)n);
        struct itimerval limit = { .it_value.tv_sec = 10 * SECONDS };
        setitimer(ITIMER_PROF, &limit, NULL);
        const char *bad = run_stream(current);
        loaded += run.loaded;
        if (bad) {
            keep_stream();
            printf("# %s %s\n", found_name, bad);
            failed++;
        }
        if (n % CHECK_EVERY == 0 && !seeds_load()) {
            failed += !(new_machine() && seeds_load());
        }
    }
    printf("# %lu streams, %lu of them were loaded; the slowest took %.2f s; %ld MiB at most\n", (unsigned long)count,
           (unsigned long)loaded, run.slowest, peak_mib());
    return failed;
}

static void free_all(void)
{
    for (unsigned n = 0; n < SEEDS; n++) {
        g_clear_pointer(&seeds[n].stream, g_byte_array_unref);
        g_clear_pointer(&seeds[n].records, g_array_unref);
    }
    g_byte_array_unref(current);
    g_free(found_name);
    g_rand_free(run.pc.rand);
    test_pc_tear_down(&run.pc);
}

int main(int argc, char **argv)
{
    static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGPROF };
    bool files = argc > 1 && g_file_test(argv[1], G_FILE_TEST_EXISTS);
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000;
    uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL);

    run.pc = (TestPc) { .everything = true, .keeps_cards = true, .rand = g_rand_new_with_seed((guint32)first) };
    if (!test_pc_setup(&run.pc)) {
        printf("1..0 # SKIP SeaBIOS is not installed\n");
        return 0;
    }
    if (!verbose()) {
        freopen("/dev/null", "w", stderr); /* what devices log about corrupt state */
    }
    current = g_byte_array_new();
    int failed;
    if (files) {
        failed = run_files(argv + 1);
    } else {
        for (size_t n = 0; n < ARRAY_SIZE(signals); n++) {
            signal(signals[n], on_signal);
        }
        printf("# seed %lu\n", (unsigned long)first);
        make_seeds();
        failed = !seeds_load();
        shorten_streams();
        failed |= run_many(count, first) != 0;
        printf("1..1\n%s 1 streams\n", failed ? "not ok" : "ok");
    }
    free_all();
    return failed;
}
