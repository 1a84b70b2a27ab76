/* TLS on byte streams of coroutines. */
#ifndef OSTRICH_IO_TLS_H
#define OSTRICH_IO_TLS_H

#include "crypto/tls.h"
#include "io/stream.h"

typedef struct TlsUse {
    TlsKeys *keys;
    const char *hostname;  /* clients: what the server must be; may be NULL */
    const Object *objects; /* servers: where `authz` is */
    const char *authz;     /* ID of the object that says who may come in; NULL: everybody who has proved to be somebody */
} TlsUse;

/* From now on the stream's bytes are encrypted. On failure the stream can only be freed. */
Error *stream_start_tls_co(IoStream *stream, const TlsUse *use) MUST_USE;
/* Whether who is at the other end may come in. */
Error *tls_authorize(const TlsUse *use, const TlsSession *session) MUST_USE;

#endif
