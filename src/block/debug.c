/* The points that requests pass, and break points there: finds the filter in the chain that has them. */
#include <errno.h>
#include <string.h>

#include "block/node.h"

static const char *const event_names[BLOCK_EVENT_COUNT] = {
#define BLOCK_EVENT_NAME(upper, lower) #lower,
    BLOCK_EVENTS(BLOCK_EVENT_NAME)
#undef BLOCK_EVENT_NAME
};

bool block_event_find(const char *name, BlockEvent *ret_event)
{
    for (unsigned i = 0; i < BLOCK_EVENT_COUNT; i++) {
        if (!strcmp(event_names[i], name)) {
            *ret_event = (BlockEvent)i;
            return true;
        }
    }
    return false;
}

static BlockNode *debug_node(BlockNode *node)
{
    while (node && !node->driver->debug_break) {
        node = node->file ? node->file->node : NULL;
    }
    return node;
}

int node_debug_break(BlockNode *node, const char *event, const char *tag)
{
    node = debug_node(node);
    return node ? node->driver->debug_break(node, event, tag) : -ENOTSUP;
}

int node_debug_remove_break(BlockNode *node, const char *tag)
{
    node = debug_node(node);
    return node ? node->driver->debug_remove_break(node, tag) : -ENOTSUP;
}

int node_debug_resume(BlockNode *node, const char *tag)
{
    node = debug_node(node);
    return node ? node->driver->debug_resume(node, tag) : -ENOTSUP;
}

bool node_debug_is_suspended(BlockNode *node, const char *tag)
{
    node = debug_node(node);
    return node && node->driver->debug_is_suspended(node, tag);
}
