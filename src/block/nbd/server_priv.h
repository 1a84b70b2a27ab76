/* What the files of the NBD server share. */
#ifndef OSTRICH_BLOCK_NBD_SERVER_PRIV_H
#define OSTRICH_BLOCK_NBD_SERVER_PRIV_H

#include "block/bitmap.h"
#include "block/nbd/nbd_proto.h"
#include "block/nbd/server.h"
#include "io/stream.h"

struct NbdServer {
    BlockGraph *graph;
    NbdServerOptions options;
    List listeners;
    List clients; /* NbdClient */
    unsigned client_count;
    bool stopping;
};

enum { NBD_MAX_BITMAPS = 16 };

typedef struct NbdExport {
    Export export;
    char *name, *description; /* description: NULL when there is none */
    bool allocation_depth;
    BlockBitmap *bitmaps[NBD_MAX_BITMAPS]; /* busy while they are exported */
    unsigned bitmap_count;
} NbdExport;
extern const ExportKind nbd_export_kind;
/* NULL: none that may be used. */
NbdExport *nbd_export_find(BlockGraph *graph, const char *name);
NbdExport *nbd_export_next(BlockGraph *graph, NbdExport *after);
uint64_t nbd_export_size(const NbdExport *export);
uint16_t nbd_export_flags(const NbdExport *export, const NbdServer *server, bool structured);

/* From CONTEXT_BITMAPS on: the export's bitmaps. */
enum {
    CONTEXT_ALLOCATION,
    CONTEXT_DEPTH,
    CONTEXT_BITMAPS,
    CONTEXT_COUNT = CONTEXT_BITMAPS + NBD_MAX_BITMAPS
};

typedef struct NbdClient {
    NbdServer *server;
    IoStream *stream;
    NbdExport *export; /* once negotiated; counted */
    bool no_zeroes, structured, tls;
    bool contexts[CONTEXT_COUNT];
    char *contexts_of; /* the export they were chosen for */
    Timer handshake_limit;
    CoMutex sending;
    unsigned in_flight;
    size_t bytes_in_flight;
    CoQueue slots; /* the reader waits for requests to finish */
    ListNode in_server;
} NbdClient;

/* NULL: the export does not have it. Caller frees. */
char *nbd_context_name(const NbdExport *export, unsigned context);
/* 0: the client has chosen an export. Negative: it is to be dropped. */
int nbd_handshake_co(NbdClient *client);
/* Serves until the client leaves; nothing is in flight any more afterwards. */
void nbd_serve_co(NbdClient *client);

#endif
