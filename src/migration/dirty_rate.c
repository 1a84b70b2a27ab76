/*
 * How fast the guest writes memory: calc-dirty-rate, query-dirty-rate, and the limit of single CPUs.
 *
 * page-sampling: the sums of pages picked at random are compared after the time has passed; costs the guest nothing, and finds
 * only pages that differ. dirty-bitmap: the soft TLBs note every page that is written, as in a migration (a client of its own,
 * so that both may be at work). dirty-ring, and the limit of a CPU, which is made on it, are KVM's.
 */
#include <string.h>
#include <zlib.h>

#include "migration/dirty_rate.h"
#include "schema/qmp_commands.h"

enum { SECONDS_MAX = 60, SAMPLES_DEFAULT = 512, SAMPLES_MIN = 128, SAMPLES_MAX = 16384 };

typedef enum DirtyRateMode { MODE_SAMPLING, MODE_RING, MODE_BITMAP } DirtyRateMode;
static const char *const mode_names[] = { "page-sampling", "dirty-ring", "dirty-bitmap" };
typedef enum DirtyRateStatus { STATUS_UNSTARTED, STATUS_MEASURING, STATUS_MEASURED } DirtyRateStatus;
static const char *const status_names[] = { "unstarted", "measuring", "measured" };

typedef struct Sample {
    uint64_t page;
    uint32_t sum;
} Sample;

/* A block that is measured; its memory stays though it may leave the machine. */
typedef struct Measured {
    RamBlock *block; /* referenced */
    Sample *samples; /* page-sampling */
    uint64_t count;
} Measured;

struct DirtyRate {
    Machine *machine;
    Timer timer;
    DirtyRateMode mode;
    DirtyRateStatus status;
    int64_t start_s, seconds, samples; /* a GiB */
    int64_t start_ns;
    int64_t rate; /* MiB a second */
    GArray *blocks;
};

static Measured *block_at(const DirtyRate *rate, guint n)
{
    return &g_array_index(rate->blocks, Measured, n);
}

static uint32_t page_sum(const RamBlock *block, uint64_t page)
{
    return (uint32_t)crc32_z(0, block->host + (page << MEM_PAGE_BITS), MEM_PAGE_SIZE);
}

static void sample(Measured *measured, int64_t per_gib)
{
    uint64_t pages = measured->block->size >> MEM_PAGE_BITS, gib = GiB >> MEM_PAGE_BITS;

    measured->count = MIN(MAX(pages * (uint64_t)per_gib / gib, 1), pages);
    measured->samples = g_new(Sample, measured->count);
    for (uint64_t n = 0; n < measured->count; n++) {
        uint64_t page = (uint64_t)(g_random_double() * (double)pages);
        measured->samples[n] = (Sample) { page, page_sum(measured->block, page) };
    }
}

/* Bytes of the block that were written, as far as the samples tell. */
static uint64_t sampled_bytes(const Measured *measured)
{
    uint64_t changed = 0;

    for (uint64_t n = 0; n < measured->count; n++) {
        changed += measured->samples[n].sum != page_sum(measured->block, measured->samples[n].page);
    }
    return (uint64_t)((double)measured->block->size * (double)changed / (double)measured->count);
}

static uint64_t noted_bytes(const Measured *measured)
{
    uint64_t pages = measured->block->size >> MEM_PAGE_BITS, count = 0;
    g_autofree uint8_t *bits = g_malloc(pages);

    ram_take_dirty(measured->block, RAM_DIRTY_RATE, 0, pages, bits);
    for (uint64_t page = 0; page < pages; page++) {
        count += bits[page];
    }
    return count << MEM_PAGE_BITS;
}

static void let_go(DirtyRate *rate)
{
    for (guint n = 0; n < rate->blocks->len; n++) {
        Measured *measured = block_at(rate, n);
        if (rate->mode == MODE_BITMAP) {
            ram_track(measured->block, RAM_DIRTY_RATE, false);
        }
        g_free(measured->samples);
        ram_block_unref(measured->block);
    }
    g_array_set_size(rate->blocks, 0);
}

static void time_is_over(void *opaque)
{
    DirtyRate *rate = opaque;
    uint64_t bytes = 0;
    int64_t passed = clock_now(rate->machine->clocks, CLOCK_REALTIME_NS) - rate->start_ns;

    for (guint n = 0; n < rate->blocks->len; n++) {
        bytes += rate->mode == MODE_BITMAP ? noted_bytes(block_at(rate, n)) : sampled_bytes(block_at(rate, n));
    }
    let_go(rate);
    rate->rate = (int64_t)((double)bytes / (double)MiB * NS_PER_SEC / (double)MAX(passed, 1));
    rate->status = STATUS_MEASURED;
}

static void start(DirtyRate *rate)
{
    Machine *machine = rate->machine;

    for (RamBlock *block = NULL; (block = ram_block_next(machine->mem, block));) {
        Measured measured = { .block = ram_block_ref(block) };
        if (rate->mode == MODE_SAMPLING) {
            sample(&measured, rate->samples);
        } else {
            ram_track(block, RAM_DIRTY_RATE, true);
            noted_bytes(&measured); /* all of them, from before */
        }
        g_array_append_val(rate->blocks, measured);
    }
    rate->start_ns = clock_now(machine->clocks, CLOCK_REALTIME_NS);
    rate->start_s = rate->start_ns / NS_PER_SEC;
    rate->status = STATUS_MEASURING;
    timer_set(&rate->timer, rate->start_ns + rate->seconds * NS_PER_SEC);
}

DirtyRate *dirty_rate_new(Machine *machine)
{
    DirtyRate *rate = g_new0(DirtyRate, 1);

    rate->machine = machine;
    rate->blocks = g_array_new(FALSE, TRUE, sizeof(Measured));
    timer_init(&rate->timer, machine->loop, CLOCK_REALTIME_NS, time_is_over, rate);
    return rate;
}

void dirty_rate_free(DirtyRate *rate)
{
    timer_fini(&rate->timer);
    let_go(rate);
    g_array_unref(rate->blocks);
    g_free(rate);
}

/* --- commands --- */

static DirtyRateMode mode_find(const char *name)
{
    DirtyRateMode mode = MODE_SAMPLING;
    while (strcmp(mode_names[mode], name)) {
        mode++;
    }
    return mode;
}

Error *qmp_calc_dirty_rate(QmpContext *ctx, const QmpCalcDirtyRateArgs *args, Value **ret)
{
    DirtyRate *rate = dirty_rate_of(ctx->machine);
    DirtyRateMode mode = args->has_mode ? mode_find(args->mode) : MODE_SAMPLING;

    if (rate->status == STATUS_MEASURING) {
        return error_new("the dirty rate is being measured: ask query-dirty-rate until it is there");
    }
    if (args->calc_time < 1 || args->calc_time > SECONDS_MAX) {
        return error_new("calc-time: %" G_GINT64_FORMAT " is not within 1 to %d seconds", args->calc_time, SECONDS_MAX);
    }
    if (args->has_sample_pages && mode != MODE_SAMPLING) {
        return error_new("sample-pages goes with mode page-sampling only");
    }
    if (args->has_sample_pages && (args->sample_pages < SAMPLES_MIN || args->sample_pages > SAMPLES_MAX)) {
        return error_new("sample-pages: %" G_GINT64_FORMAT " is not within %d to %d", args->sample_pages, SAMPLES_MIN, SAMPLES_MAX);
    }
    if (mode == MODE_RING) {
        return error_hint(error_new("mode dirty-ring needs KVM with a dirty ring"), "The mode dirty-bitmap counts all pages, too.");
    }
    rate->mode = mode;
    rate->seconds = args->calc_time;
    rate->samples = mode == MODE_SAMPLING ? (args->has_sample_pages ? args->sample_pages : SAMPLES_DEFAULT) : 0;
    start(rate);
    return NULL;
}

Error *qmp_query_dirty_rate(QmpContext *ctx, const QmpQueryDirtyRateArgs *args, Value **ret)
{
    const DirtyRate *rate = dirty_rate_of(ctx->machine);

    *ret = value_dict();
    if (rate->status == STATUS_MEASURED) {
        value_put_int(*ret, "dirty-rate", rate->rate);
    }
    value_put_str(*ret, "status", status_names[rate->status]);
    value_put_int(*ret, "start-time", rate->start_s);
    value_put_int(*ret, "calc-time", rate->seconds);
    value_put_int(*ret, "sample-pages", rate->samples);
    value_put_str(*ret, "mode", mode_names[rate->mode]);
    return NULL;
}

static Error *no_limit(void)
{
    return error_new("the dirty rate of a CPU is limited by KVM's dirty ring, which this accelerator has not");
}

Error *qmp_set_vcpu_dirty_limit(QmpContext *ctx, const QmpSetVcpuDirtyLimitArgs *args, Value **ret)
{
    return no_limit();
}

Error *qmp_cancel_vcpu_dirty_limit(QmpContext *ctx, const QmpCancelVcpuDirtyLimitArgs *args, Value **ret)
{
    return no_limit();
}

Error *qmp_query_vcpu_dirty_limit(QmpContext *ctx, const QmpQueryVcpuDirtyLimitArgs *args, Value **ret)
{
    *ret = value_list(); /* none is set */
    return NULL;
}
