/* I/O limits: see throttle.h. */
#include "block/throttle.h"

#include <inttypes.h>
#include <string.h>

#include "block/node_priv.h"

struct ThrottleGroup {
    char *name;
    unsigned refs;
    ThrottleConfig config;
    int64_t last_ns;
    CoMutex turn[2]; /* of reads, of writes */
    ListNode in_graph;
};

enum { WAIT_MAX_NS = 20 * 1000 * 1000 };

static const char *const names[THROTTLE_BUCKETS] = { "bps-total",  "bps-read",  "bps-write",
                                                     "iops-total", "iops-read", "iops-write" };
static const char *const legacy[THROTTLE_BUCKETS] = { "bps",  "bps_rd",  "bps_wr",
                                                      "iops", "iops_rd", "iops_wr" };

const char *throttle_bucket_name(unsigned i)
{
    return names[i];
}

const char *throttle_legacy_name(unsigned i)
{
    return legacy[i];
}

/* --- configuration --- */

Error *throttle_take_config(KeyValues *opts, const char *prefix, ThrottleConfig *ret)
{
    ThrottleConfig c = { 0 };
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        g_autofree char *avg = g_strconcat(prefix, names[i], NULL);
        g_autofree char *max = g_strconcat(prefix, names[i], "-max", NULL);
        g_autofree char *length = g_strconcat(prefix, names[i], "-max-length", NULL);
        TRY(block_take_num(opts, avg, 0, &c.buckets[i].avg));
        TRY(block_take_num(opts, max, 0, &c.buckets[i].max));
        TRY(block_take_num(opts, length, 1, &c.buckets[i].length));
    }
    g_autofree char *size = g_strconcat(prefix, "iops-size", NULL);
    TRY(block_take_num(opts, size, 0, &c.op_size));
    TRY(throttle_check_config(&c));
    *ret = c;
    return NULL;
}

Error *throttle_check_config(const ThrottleConfig *c)
{
    const uint64_t most = 1000000000000000;
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i += 3) {
        const ThrottleBucket *b = c->buckets + i;
        if ((b[0].avg && (b[1].avg || b[2].avg)) || (b[0].max && (b[1].max || b[2].max))) {
            return error_new("bps/iops/max total values and read/write values cannot be used at "
                             "the same time");
        }
    }
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        const ThrottleBucket *b = &c->buckets[i];
        if (b->avg > most || b->max > most) {
            return error_new("bps/iops/max values must be within [0, %" PRIu64 "]", most);
        }
        if (!b->length) {
            return error_new("A burst lasts a second or more: its length cannot be 0");
        }
        if (b->length > 1 && !b->max) {
            return error_new("A burst length goes with a burst rate: give bps_max or iops_max too");
        }
        if (b->max && !b->avg) {
            return error_new("A burst limit (bps_max, iops_max) goes with its steady limit: give "
                             "bps or iops too");
        }
        if (b->max && b->max < b->avg) {
            return error_new("A burst limit (bps_max, iops_max) is never below its steady limit "
                             "(bps, iops)");
        }
        if (b->max && b->length > most / b->max) {
            return error_new("The burst rate times the burst length is more than can be counted");
        }
    }
    if (c->op_size && !c->buckets[THROTTLE_OPS_TOTAL].avg && !c->buckets[THROTTLE_OPS_READ].avg &&
        !c->buckets[THROTTLE_OPS_WRITE].avg) {
        return error_new("iops_size counts for iops limits: give one of them too");
    }
    return NULL;
}

bool throttle_is_limited(const ThrottleConfig *c)
{
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        if (c->buckets[i].avg) {
            return true;
        }
    }
    return false;
}

/* --- groups --- */

ThrottleGroup *throttle_group_new(const char *name)
{
    ThrottleGroup *group = g_new0(ThrottleGroup, 1);
    group->name = g_strdup(name);
    group->refs = 1;
    co_mutex_init(&group->turn[0]);
    co_mutex_init(&group->turn[1]);
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        group->config.buckets[i].length = 1;
    }
    return group;
}

ThrottleGroup *throttle_group_find(BlockGraph *graph, const char *name)
{
    ThrottleGroup *group = throttle_object_find(block_graph_objects(graph), name);
    LIST_FOREACH (other, &graph->throttle_groups, ThrottleGroup, in_graph) {
        if (!group && !strcmp(other->name, name)) {
            group = other;
        }
    }
    if (group) {
        group->refs++;
    }
    return group;
}

ThrottleGroup *throttle_group_get(BlockGraph *graph, const char *name)
{
    ThrottleGroup *group = throttle_group_find(graph, name);
    if (!group) {
        group = throttle_group_new(name);
        list_append(&graph->throttle_groups, &group->in_graph);
    }
    return group;
}

bool throttle_group_is_used(const ThrottleGroup *group)
{
    return group->refs > 1;
}

void throttle_group_unref(ThrottleGroup *group)
{
    if (group && --group->refs == 0) {
        list_remove(&group->in_graph);
        g_free(group->name);
        g_free(group);
    }
}

const char *throttle_group_name(const ThrottleGroup *group)
{
    return group->name;
}

const ThrottleConfig *throttle_group_config(const ThrottleGroup *group)
{
    return &group->config;
}

void throttle_group_set(ThrottleGroup *group, const ThrottleConfig *config)
{
    group->config = *config;
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        group->config.buckets[i].level = group->config.buckets[i].burst_level = 0;
    }
}

/* --- the buckets --- */

static int64_t now_ns(void)
{
    return clock_now(loop_clocks(co_loop()), CLOCK_REALTIME_NS);
}

static void leak(ThrottleGroup *group)
{
    int64_t now = now_ns();
    double seconds = (double)(now - group->last_ns) / 1e9;
    group->last_ns = now;
    for (unsigned i = 0; i < THROTTLE_BUCKETS; i++) {
        ThrottleBucket *b = &group->config.buckets[i];
        b->level = MAX(b->level - seconds * (double)b->avg, 0);
        b->burst_level = MAX(b->burst_level - seconds * (double)b->max, 0);
    }
}

/* Seconds until the bucket takes more. */
static double bucket_wait(const ThrottleBucket *b)
{
    double avg = (double)b->avg, max = (double)b->max, wait = 0;
    if (!b->avg) {
        return 0;
    }
    double size = b->max ? max * (double)b->length : avg / 10;
    if (b->level > size) {
        wait = (b->level - size) / avg;
    }
    if (b->max && b->length > 1 && b->burst_level > max / 10) {
        wait = MAX(wait, (b->burst_level - max / 10) / max);
    }
    return wait;
}

/* Which buckets a request of that direction goes through. */
static const unsigned lanes[2][4] = {
    { THROTTLE_BPS_TOTAL, THROTTLE_BPS_READ, THROTTLE_OPS_TOTAL, THROTTLE_OPS_READ },
    { THROTTLE_BPS_TOTAL, THROTTLE_BPS_WRITE, THROTTLE_OPS_TOTAL, THROTTLE_OPS_WRITE },
};

static void count(ThrottleGroup *group, bool write, uint64_t bytes)
{
    uint64_t op_size = group->config.op_size;
    double ops = op_size && bytes > op_size ? (double)bytes / (double)op_size : 1;
    for (unsigned i = 0; i < 4; i++) {
        ThrottleBucket *b = &group->config.buckets[lanes[write][i]];
        double units = i < 2 ? (double)bytes : ops;
        b->level += units;
        b->burst_level += units;
    }
}

void throttle_wait_co(ThrottleGroup *group, bool write, uint64_t bytes, const bool *no_wait)
{
    if (!throttle_is_limited(&group->config)) {
        return;
    }
    group->refs++; /* the drive may leave it meanwhile */
    co_mutex_lock(&group->turn[write]);
    for (;;) {
        double wait = 0;
        leak(group);
        for (unsigned i = 0; i < 4; i++) {
            wait = MAX(wait, bucket_wait(&group->config.buckets[lanes[write][i]]));
        }
        if (wait <= 0 || *no_wait) {
            break;
        }
        co_sleep_ns(CLOCK_REALTIME_NS, (int64_t)MIN(wait * 1e9 + 1, WAIT_MAX_NS));
    }
    count(group, write, bytes);
    co_mutex_unlock(&group->turn[write]);
    throttle_group_unref(group);
}
