/* Break points: finds the filter in the chain that has them. */
#include <errno.h>

#include "block/node.h"

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
