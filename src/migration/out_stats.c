/* What the source of a migration measures, and what it makes of that. */
#include "migration/out_priv.h"

int64_t out_now_ns(const MigrationOut *out)
{
    return clock_now(out->machine->clocks, CLOCK_REALTIME_NS);
}

void out_set_status(MigrationOut *out, MigrationStatus status)
{
    lock_acquire(&out->machine->lock);
    if (out->migration->status != MIGRATION_CANCELLING) {
        migration_set_status(out->migration, status);
    }
    lock_release(&out->machine->lock);
}

/* --- statistics --- */

uint64_t out_bytes(MigrationOut *out)
{
    return out->writer.bytes + (out->multifd ? multifd_out_bytes(out->multifd) : 0);
}

void out_end_xbzrle_pass(MigrationOut *out)
{
    MigrationStats *stats = &out->migration->stats;

    if (!out->xbzrle) {
        return;
    }
    XbzrleStats now = *xbzrle_stats(out->xbzrle), *before = &out->xbzrle_before;
    uint64_t considered = now.considered - before->considered, pages = now.pages - before->pages;
    if (considered) {
        stats->xbzrle_miss_rate = (double)(now.misses - before->misses) / (double)considered;
    }
    if (pages) { /* how many times shorter the deltas were */
        stats->xbzrle_encoding_rate = (double)(pages * MEM_PAGE_SIZE) / (double)(now.bytes - before->bytes);
    }
    *before = now;
}

static void update_xbzrle(MigrationOut *out)
{
    MigrationStats *stats = &out->migration->stats;

    stats->has_xbzrle = out->migration->caps.xbzrle;
    stats->xbzrle_size = (uint64_t)out->migration->params.xbzrle_cache_size;
    if (out->xbzrle) {
        stats->xbzrle = *xbzrle_stats(out->xbzrle);
    }
}

void out_update_stats(MigrationOut *out)
{
    MigrationStats *stats = &out->migration->stats;
    int64_t now = out_now_ns(out);

    stats->remaining = out->saver->left * MEM_PAGE_SIZE;
    stats->transferred = out_bytes(out);
    stats->multifd_bytes = out->multifd ? multifd_out_bytes(out->multifd) : 0;
    update_xbzrle(out);
    stats->zero_pages = out->saver->zero_pages;
    stats->data_pages = out->saver->data_pages;
    if (now - out->measured_at >= 100 * NS_PER_MS) {
        double seconds = (double)(now - out->measured_at) / NS_PER_SEC;
        out->bandwidth = (double)(out_bytes(out) - out->measured_bytes) / seconds;
        stats->mbps = out->bandwidth * 8 / 1e6;
        out->measured_at = now;
        out->measured_bytes = out_bytes(out);
    }
    if (out->bandwidth > 0) {
        stats->expected_downtime_ms = (int64_t)((double)stats->remaining / out->bandwidth * 1000);
    }
}

/* --- auto-converge: the guest gets less of the CPUs' time --- */

/* Near the end the guest's speed follows its CPUs' time closely: not more than it takes is taken. */
static unsigned gentle_step(const MigrationParams *params, unsigned throttle, double wanted, double dirtied)
{
    double now = 100.0 - throttle, enough = now * wanted / dirtied;
    return (unsigned)CLAMP(now - enough, 1.0, (double)params->throttle_increment);
}

/* More than the trigger's share of what was sent was written again: slow down further. */
void out_consider_throttle(MigrationOut *out, uint64_t dirtied)
{
    const MigrationParams *params = &out->migration->params;
    MigrationStats *stats = &out->migration->stats;
    double wanted = (double)(out_bytes(out) - out->synced_bytes) * (double)params->throttle_trigger / 100;
    double written = (double)dirtied * MEM_PAGE_SIZE;

    if (!out->migration->caps.auto_converge || stats->passes < 2 || written < wanted || dirtied == 0) {
        return;
    }
    unsigned step = params->throttle_tailslow ? gentle_step(params, stats->throttle, wanted, written)
                                              : (unsigned)params->throttle_increment;
    unsigned next = stats->throttle ? stats->throttle + step : (unsigned)params->throttle_initial;
    stats->throttle = MIN(next, (unsigned)params->max_throttle);
}
