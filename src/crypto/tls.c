/* TLS sessions. */
#include "crypto/tls.h"

#include <errno.h>
#include <string.h>

#include "crypto/tls_priv.h"

struct TlsSession {
    TlsKeys *keys;
    const GnutlsApi *lib;
    gnutls_session_t session;
    char *hostname, *peer;
    bool up;
};

static Error *lib_error(const GnutlsApi *lib, int code, const char *what)
{
    return code < 0 ? error_new("%s: %s", what, lib->gnutls_strerror(code)) : NULL;
}

static Error *set_up(TlsSession *s, int fd)
{
    static const gnutls_credentials_type_t types[] = {
        [TLS_ANON] = GNUTLS_CRD_ANON, [TLS_PSK] = GNUTLS_CRD_PSK, [TLS_X509] = GNUTLS_CRD_CERTIFICATE
    };
    const GnutlsApi *lib = s->lib;
    const TlsKeys *keys = s->keys;
    const char *wrong;

    if (lib->gnutls_priority_set_direct(s->session, keys->priority, &wrong) < 0) {
        return error_new("the TLS priority string '%s' cannot be used", keys->priority);
    }
    TRY(lib_error(lib, lib->gnutls_credentials_set(s->session, types[keys->kind], keys->creds.any),
                  "Cannot set session credentials"));
    if (keys->kind == TLS_X509 && keys->server) {
        /* verify_peer() refuses who shows none, and can say so. */
        lib->gnutls_certificate_server_set_request(s->session, keys->verify_peer ? GNUTLS_CERT_REQUEST : GNUTLS_CERT_IGNORE);
    }
    if (!keys->server && s->hostname && !g_hostname_is_ip_address(s->hostname)) {
        TRY(lib_error(lib, lib->gnutls_server_name_set(s->session, GNUTLS_NAME_DNS, s->hostname, strlen(s->hostname)),
                      "Cannot name the server"));
    }
    lib->gnutls_transport_set_int2(s->session, fd, fd);
    return NULL;
}

Error *tls_session_new(TlsKeys *keys, int fd, const char *hostname, TlsSession **ret_session)
{
    unsigned flags = (keys->server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL;
    TlsSession *s = g_new0(TlsSession, 1);

    s->keys = tls_keys_ref(keys);
    s->lib = keys->lib;
    s->hostname = g_strdup(hostname);
    int code = s->lib->gnutls_init(&s->session, flags);
    Error *err = lib_error(s->lib, code, "Failed to initialize TLS session");
    if (code < 0) {
        s->session = NULL;
    }
    err = err ? err : set_up(s, fd);
    if (err) {
        tls_session_free(s);
        return err;
    }
    *ret_session = s;
    return NULL;
}

void tls_session_free(TlsSession *s)
{
    if (s) {
        if (s->up) {
            s->lib->gnutls_bye(s->session, GNUTLS_SHUT_WR);
        }
        if (s->session) {
            s->lib->gnutls_deinit(s->session);
        }
        tls_keys_unref(s->keys);
        g_free(s->hostname);
        g_free(s->peer);
        g_free(s);
    }
}

/* --- who the other side is --- */

/* Image tests compare some of these. */
static Error *verify_status(TlsSession *s, unsigned status)
{
    const GnutlsApi *lib = s->lib;
    gnutls_datum_t text = { 0 };

    if (status & GNUTLS_CERT_UNEXPECTED_OWNER) {
        return error_new("Certificate does not match the hostname %s", s->hostname);
    }
    if (status & GNUTLS_CERT_REVOKED) {
        return error_new("the peer's certificate was revoked");
    }
    if (status & GNUTLS_CERT_SIGNER_NOT_FOUND) {
        return error_new("The certificate hasn't got a known issuer");
    }
    if (status & GNUTLS_CERT_EXPIRED) {
        return error_new("the peer's certificate is no longer valid");
    }
    int code = lib->gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0);
    Error *err = error_new("the peer's certificate is not trusted: %s", code < 0 ? "" : (const char *)text.data);
    if (code >= 0) {
        (*lib->gnutls_free)(text.data);
    }
    return err;
}

static Error *read_peer_name(TlsSession *s)
{
    const GnutlsApi *lib = s->lib;
    unsigned count = 0;
    const gnutls_datum_t *raw = lib->gnutls_certificate_get_peers(s->session, &count);
    gnutls_datum_t dn = { 0 };
    gnutls_x509_crt_t cert;

    if (!raw || !count) {
        return error_new("the peer sent no certificate");
    }
    TRY(lib_error(lib, lib->gnutls_x509_crt_init(&cert), "the peer's certificate"));
    int code = lib->gnutls_x509_crt_import(cert, raw, GNUTLS_X509_FMT_DER);
    code = code < 0 ? code : lib->gnutls_x509_crt_get_dn2(cert, &dn);
    if (code >= 0) {
        s->peer = g_strndup((const char *)dn.data, dn.size);
        (*lib->gnutls_free)(dn.data);
    }
    lib->gnutls_x509_crt_deinit(cert);
    return lib_error(lib, code, "Cannot read the certificate's name");
}

static Error *verify_peer(TlsSession *s)
{
    const TlsKeys *keys = s->keys;
    unsigned status = 0;

    if (keys->kind != TLS_X509 || !keys->verify_peer) {
        return NULL;
    }
    if (!keys->server && !s->hostname) {
        return error_new("No hostname for certificate validation");
    }
    int code = s->lib->gnutls_certificate_verify_peers3(s->session, keys->server ? NULL : s->hostname, &status);
    TRY(lib_error(s->lib, code, "Verify failed"));
    if (status) {
        return verify_status(s, status);
    }
    return read_peer_name(s);
}

Error *tls_session_handshake(TlsSession *s, bool *ret_done)
{
    int code = s->lib->gnutls_handshake(s->session);

    *ret_done = false;
    if (code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED || code == GNUTLS_E_WARNING_ALERT_RECEIVED) {
        return NULL;
    }
    TRY(lib_error(s->lib, code, "TLS handshake failed"));
    TRY(verify_peer(s)); /* who is not who he should be gets no orderly end either */
    s->up = true;
    *ret_done = true;
    return NULL;
}

void tls_session_refuse(TlsSession *s)
{
    s->up = false;
}

bool tls_session_waits_to_write(const TlsSession *s)
{
    return s->lib->gnutls_record_get_direction(s->session) == 1;
}

const char *tls_session_peer(const TlsSession *s)
{
    return s->peer;
}

/* --- data --- */

static ssize_t error_of(ssize_t code)
{
    switch (code) {
    case GNUTLS_E_AGAIN:
    case GNUTLS_E_REHANDSHAKE: /* is not taken up: the session goes on as it is */
    case GNUTLS_E_WARNING_ALERT_RECEIVED:
        return -EAGAIN;
    case GNUTLS_E_INTERRUPTED:
        return -EINTR;
    case GNUTLS_E_PREMATURE_TERMINATION:
        return -ECONNABORTED;
    default:
        return -EIO;
    }
}

ssize_t tls_session_read(TlsSession *s, void *buf, size_t size)
{
    ssize_t got = s->lib->gnutls_record_recv(s->session, buf, size);
    return got < 0 ? error_of(got) : got;
}

ssize_t tls_session_write(TlsSession *s, const void *buf, size_t size)
{
    ssize_t put = s->lib->gnutls_record_send(s->session, buf, size);
    return put < 0 ? error_of(put) : put;
}

size_t tls_session_pending(const TlsSession *s)
{
    return s->lib->gnutls_record_check_pending(s->session);
}
