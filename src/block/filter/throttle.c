/* Filter "throttle": requests wait as the limits of a group (-object throttle-group) demand. */
#include <errno.h>

#include "block/filter/filter.h"
#include "block/throttle.h"

typedef struct ThrottleFilter {
    ThrottleGroup *group;
} ThrottleFilter;

static Error *throttle_open_co(BlockNode *node, KeyValues *opts)
{
    ThrottleFilter *s = node->state;
    g_autofree char *name = keyvalues_take(opts, "throttle-group");
    if (!name) {
        return error_new("The filter belongs to a throttle group: name it in throttle-group");
    }
    TRY(filter_open(node));
    s->group = throttle_group_find(node->graph, name);
    return s->group ? NULL : error_new("Throttle group '%s' does not exist", name);
}

static Error *throttle_change_options_co(BlockNode *node, KeyValues *opts)
{
    ThrottleFilter *s = node->state;
    g_autofree char *name = keyvalues_take(opts, "throttle-group");
    ThrottleGroup *group = name ? throttle_group_find(node->graph, name) : NULL;
    if (!group) {
        return name ? error_new("Throttle group '%s' does not exist", name)
                    : error_new("The filter belongs to a throttle group: name it in throttle-group");
    }
    throttle_group_unref(s->group);
    s->group = group;
    return NULL;
}

static void throttle_close_co(BlockNode *node)
{
    throttle_group_unref(((ThrottleFilter *)node->state)->group);
}

static void wait_co(BlockNode *node, bool write, uint64_t bytes)
{
    throttle_wait_co(((ThrottleFilter *)node->state)->group, write, bytes, &node->hurry);
}

static int throttle_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                              size_t at)
{
    wait_co(node, false, bytes);
    return filter_preadv_co(node, offset, bytes, vec, at);
}

static int throttle_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec,
                               size_t at, unsigned flags)
{
    wait_co(node, true, bytes);
    return filter_pwritev_co(node, offset, bytes, vec, at, flags);
}

static int throttle_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    wait_co(node, true, bytes);
    return filter_write_zeroes_co(node, offset, bytes, flags);
}

static int throttle_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    wait_co(node, true, bytes);
    return filter_discard_co(node, offset, bytes);
}

static const BlockOption throttle_options[] = {
    { "throttle-group", OPT_STR, "ID of the group whose limits hold" },
    { 0 },
};

BLOCK_DRIVER(throttle, .name = "throttle", .desc = "Filter: I/O limits of a group", .deciding = (const char *const[]) { "throttle-group", NULL }, .filter = true,
             .state_size = sizeof(ThrottleFilter), .options = throttle_options,
             .open_co = throttle_open_co, .change_options_co = throttle_change_options_co,
             .close_co = throttle_close_co,
             .preadv_co = throttle_preadv_co, .pwritev_co = throttle_pwritev_co,
             .write_zeroes_co = throttle_write_zeroes_co, .discard_co = throttle_discard_co,
             .status_co = filter_status_co, .truncate_co = filter_truncate_co, FILTER_FLAGS);
