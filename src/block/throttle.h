/*
 * I/O limits of drives and of the filter "throttle". A group has six leaky buckets: bytes and operations, each for reads,
 * writes and both together. A bucket leaks at `avg` a second; without a burst it holds a tenth of a
 * second's worth, with one `max * length`, and then may not be filled faster than `max`. Who finds
 * a bucket full waits; reads wait behind reads and writes behind writes, in order.
 */
#ifndef OSTRICH_BLOCK_THROTTLE_H
#define OSTRICH_BLOCK_THROTTLE_H

#include "block/node.h"

enum {
    THROTTLE_BPS_TOTAL,
    THROTTLE_BPS_READ,
    THROTTLE_BPS_WRITE,
    THROTTLE_OPS_TOTAL,
    THROTTLE_OPS_READ,
    THROTTLE_OPS_WRITE,
    THROTTLE_BUCKETS
};

typedef struct ThrottleBucket {
    uint64_t avg, max; /* a second; 0: no limit, no burst */
    uint64_t length;   /* seconds of a burst; 1 or more */
    double level, burst_level;
} ThrottleBucket;

typedef struct ThrottleConfig {
    ThrottleBucket buckets[THROTTLE_BUCKETS];
    uint64_t op_size; /* bytes that count as one operation; 0: any number */
} ThrottleConfig;

typedef struct ThrottleGroup ThrottleGroup;

/* Takes "bps-total", "iops-read-max-length", "iops-size" ... that begin with prefix out of opts. */
Error *throttle_take_config(KeyValues *opts, const char *prefix, ThrottleConfig *ret) MUST_USE;
Error *throttle_check_config(const ThrottleConfig *config) MUST_USE;
bool throttle_is_limited(const ThrottleConfig *config);
/* The names that QMP and -drive use for bucket i: "bps-total"; "bps" and "bps_rd". */
const char *throttle_bucket_name(unsigned i);
const char *throttle_legacy_name(unsigned i);

/* By name: that of -object throttle-group, or one of the graph's, made when there is none. Counted. */
ThrottleGroup *throttle_group_get(BlockGraph *graph, const char *name);
/* The same, NULL when there is none. */
ThrottleGroup *throttle_group_find(BlockGraph *graph, const char *name);
/* That of no graph: of an object. */
ThrottleGroup *throttle_group_new(const char *name);
bool throttle_group_is_used(const ThrottleGroup *group); /* by others than the caller */
/* What -object throttle-group made under that name, NULL: nothing. Not counted. throttle_object.c */
ThrottleGroup *throttle_object_find(const Object *objects, const char *name);
void throttle_group_unref(ThrottleGroup *group); /* accepts NULL */
const char *throttle_group_name(const ThrottleGroup *group);
const ThrottleConfig *throttle_group_config(const ThrottleGroup *group);
void throttle_group_set(ThrottleGroup *group, const ThrottleConfig *config);
/* Waits until the request may go on, and counts it. *no_wait (may be set meanwhile): end waiting. */
void throttle_wait_co(ThrottleGroup *group, bool write, uint64_t bytes, const bool *no_wait);
#endif
