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
    bool no_zeroes, tls;
    bool structured, extended; /* how replies look; extended includes structured */
    bool contexts[CONTEXT_COUNT];
    char *contexts_of; /* the export they were chosen for */
    Timer handshake_limit;
    CoMutex sending;
    unsigned in_flight;
    size_t bytes_in_flight;
    CoQueue slots; /* the reader waits for requests to finish */
    uint8_t *spare[16]; /* buffers for the next requests, see serve.c */
    unsigned spares;
    ListNode in_server;
} NbdClient;

/* What this client is told of the export. */
/* only_info: the client has not chosen the export, so it may still choose contexts. */
uint16_t nbd_export_flags(const NbdExport *export, const NbdClient *client, bool only_info);
/* NULL: the export does not have it. Caller frees. */
char *nbd_context_name(const NbdExport *export, unsigned context);
/* 0: the client has chosen an export. Negative: it is to be dropped. */
int nbd_handshake_co(NbdClient *client);
/* Serves until the client leaves; nothing is in flight any more afterwards. */
void nbd_serve_co(NbdClient *client);

/* --- serve.c with serve_status.c --- */

enum { NBD_STATUS_PAYLOAD_MAX = 8 + 4 * CONTEXT_COUNT };

typedef struct NbdRequest {
    NbdClient *client;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint64_t length;              /* of the export */
    uint64_t payload;             /* bytes that follow the header */
    uint8_t *data;                /* of reads and writes */
    bool contexts[CONTEXT_COUNT]; /* of block status */
    int error;                    /* found while reading it */
} NbdRequest;

/* One chunk of a structured reply: `fixed` bytes and then data. */
int nbd_chunk_co(NbdRequest *request, uint16_t type, bool done, const void *fixed,
                 size_t fixed_length, const void *data, size_t length);
int nbd_error_chunk_co(NbdRequest *request, int err);
/* The payload of a block status request: the length and the contexts that are wanted; when it is
 * right request->error is cleared. */
void nbd_status_take_payload(NbdRequest *request, const uint8_t *payload);
/* A reply to a client that has structured replies; negative when the connection is lost. */
int nbd_status_co(NbdRequest *request);

#endif
