/*
 * TLS (GnuTLS): credentials, which -object tls-creds-anon, -psk and -x509 make, and sessions over a socket.
 *
 * A session works on a socket that does not block: a call that would have to wait returns -EAGAIN, and
 * tls_session_waits_to_write() says for what. One thread at a time.
 */
#ifndef OSTRICH_CRYPTO_TLS_H
#define OSTRICH_CRYPTO_TLS_H

#include <sys/types.h>

#include "object/object.h"

/* What credentials hold; counted, so that it outlives the object as long as there are sessions. */
typedef struct TlsKeys TlsKeys;
/* Those of the object `id`, for a server or for a client; the caller gets a reference. */
Error *tls_keys_get(const Object *objects, const char *id, bool server, TlsKeys **ret_keys) MUST_USE;
TlsKeys *tls_keys_ref(TlsKeys *keys);  /* any thread; accepts NULL */
void tls_keys_unref(TlsKeys *keys);    /* any thread; accepts NULL */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TlsKeys, tls_keys_unref)

typedef struct TlsSession TlsSession;
/* fd stays the caller's. hostname: of clients, whose server must prove to have that name; may be NULL. */
Error *tls_session_new(TlsKeys *keys, int fd, const char *hostname, TlsSession **ret_session) MUST_USE;
/* Says goodbye as far as that does not wait; accepts NULL. */
void tls_session_free(TlsSession *session);
/* *ret_done: the session is up and the other side has been verified; else call again when the socket is ready. */
Error *tls_session_handshake(TlsSession *session, bool *ret_done) MUST_USE;
/* The other side may not come in: the session ends without a goodbye. */
void tls_session_refuse(TlsSession *session);
bool tls_session_waits_to_write(const TlsSession *session);
/* Who the other side is by its certificate ("CN=..."), NULL when it showed none. Borrowed. */
const char *tls_session_peer(const TlsSession *session);
/* Like recv() and send(), with -errno. After -EAGAIN of a write the same bytes must be written next. */
ssize_t tls_session_read(TlsSession *session, void *buf, size_t size);
ssize_t tls_session_write(TlsSession *session, const void *buf, size_t size);
/* Bytes that can be read although the socket has none. */
size_t tls_session_pending(const TlsSession *session);

#endif
