/* What the files of QMP handlers about block devices share. */
#ifndef OSTRICH_BLOCK_BLOCK_QMP_H
#define OSTRICH_BLOCK_BLOCK_QMP_H

#include "block/backend.h"
#include "core/vm/machine.h"
#include "schema/qmp_commands.h"

static inline BlockGraph *qmp_graph(QmpContext *ctx)
{
    return machine_service(ctx->machine, BLOCK_SERVICE);
}

/* By the name of a drive (its medium) or of a node. */
Error *qmp_find_node(QmpContext *ctx, const char *name, BlockNode **ret_node) MUST_USE;
/* Exactly one of the two is given. */
Error *qmp_find_either(QmpContext *ctx, const char *device, const char *node_name,
                       BlockNode **ret_node) MUST_USE;
/* Runs fn in a coroutine, and returns its error. */
typedef Error *QmpBlockFn(void *opaque);
Error *qmp_in_coroutine(QmpContext *ctx, QmpBlockFn *fn, void *opaque) MUST_USE;
/* After the size of a node has changed: the devices that show it learn of it. */
void qmp_node_resized(BlockGraph *graph, const BlockNode *node);

#endif
