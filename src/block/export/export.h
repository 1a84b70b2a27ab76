/*
 * Exports: nodes of the graph that others outside the program use. An export has an id, a node with
 * claims, and a kind that serves it. It goes away when it was asked to and nobody uses it any more.
 */
#ifndef OSTRICH_BLOCK_EXPORT_H
#define OSTRICH_BLOCK_EXPORT_H

#include "block/node.h"

typedef struct Export Export;

typedef struct ExportKind {
    const char *name; /* "nbd" */
    size_t size;      /* of the struct that begins with Export */
    /* Takes its options out of opts; the node is attached. On failure release is not called. */
    Error *(*start)(Export *export, KeyValues *opts);
    void (*stop)(Export *export);    /* disconnect whoever uses it; they give up their references */
    void (*release)(Export *export); /* the last reference is gone */
} ExportKind;
SECTION_DECLARE(export_kinds, ExportKind);
#define EXPORT_KIND(ident) SECTION_ENTRY(export_kinds, ExportKind, &ident)

struct Export {
    const ExportKind *kind;
    BlockGraph *graph;
    char *id;
    BlockNode *node; /* counted */
    BlockEdge *root;
    const struct BlockBackend *medium_of; /* it goes when the medium leaves this backend; NULL: it stays. Only compared */
    struct IoThread *iothread; /* counted; NULL: none was given */
    bool writable, writethrough;
    bool stopping;
    unsigned refs; /* one is the set's own until export_stop() */
    ListNode in_graph;
};

/*
 * The keys of block-export-add: type, id, node-name, writable, writethrough, iothread, fixed-iothread, and the kind's own.
 * The graph owns the export.
 */
Error *export_add(BlockGraph *graph, const KeyValues *opts, Export **ret_export) MUST_USE;
Export *export_find(BlockGraph *graph, const char *id);
Export *export_next(BlockGraph *graph, Export *after);
/* Where the export is served: its iothread's loop, else its node's. */
Loop *export_loop(const Export *export);
void export_ref(Export *export);
void export_unref(Export *export);
bool export_is_used(const Export *export); /* by a client */
void export_stop(Export *export);          /* it may be gone afterwards */
bool export_writes(const BlockNode *node); /* whether one may write to it */
/* The backend's medium has left it. */
void exports_medium_gone(BlockGraph *graph, const struct BlockBackend *blk);
/* All of them, and waits until they are gone. In a coroutine. */
void exports_stop_all_co(BlockGraph *graph);

#endif
