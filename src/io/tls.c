#include "io/tls.h"

#include "authz/authz.h"

static ssize_t filter_read(void *opaque, void *buffer, size_t bytes)
{
    return tls_session_read(opaque, buffer, bytes);
}

static ssize_t filter_write(void *opaque, const void *buffer, size_t bytes)
{
    return tls_session_write(opaque, buffer, bytes);
}

static void filter_close(void *opaque)
{
    tls_session_free(opaque);
}

static const IoStreamFilter tls_filter = { filter_read, filter_write, filter_close };

Error *tls_authorize(const TlsUse *use, const TlsSession *session)
{
    const char *peer = tls_session_peer(session);

    if (!use->authz) {
        return NULL;
    }
    return peer ? authz_check(use->objects, use->authz, peer)
                : error_new("TLS x509 authz check needs a client that shows a certificate");
}

Error *stream_start_tls_co(IoStream *stream, const TlsUse *use)
{
    TlsSession *session;
    bool done = false;

    TRY(tls_session_new(use->keys, stream_fd(stream), use->hostname, &session));
    /* What came before the handshake is no part of it. */
    if (!stream_set_filter(stream, &tls_filter, session)) {
        tls_session_free(session);
        return error_new("the other side sent data in front of the TLS handshake");
    }
    for (;;) {
        TRY(tls_session_handshake(session, &done));
        if (done) {
            Error *err = tls_authorize(use, session);
            if (err) {
                tls_session_refuse(session);
            }
            return err;
        }
        int ret = stream_wait_co(stream, tls_session_waits_to_write(session) ? LOOP_WRITE : LOOP_READ);
        if (ret < 0) {
            return error_new_errno(ret, "TLS handshake failed");
        }
    }
}
