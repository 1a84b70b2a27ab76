/* What the files of TLS share. */
#ifndef OSTRICH_CRYPTO_TLS_PRIV_H
#define OSTRICH_CRYPTO_TLS_PRIV_H

#include "crypto/gnutls_lib.h"
#include "crypto/tls.h"

typedef enum TlsKind { TLS_ANON, TLS_PSK, TLS_X509 } TlsKind;

struct TlsKeys {
    _Atomic unsigned refs;
    const GnutlsApi *lib;
    TlsKind kind;
    bool server, verify_peer;
    char *priority; /* GnuTLS's string, complete */
    union {
        void *any;
        gnutls_anon_server_credentials_t anon_server;
        gnutls_anon_client_credentials_t anon_client;
        gnutls_psk_server_credentials_t psk_server;
        gnutls_psk_client_credentials_t psk_client;
        gnutls_certificate_credentials_t x509;
    } creds; /* by kind and server */
    gnutls_dh_params_t dh; /* of the file; NULL: GnuTLS's own */
};

/* Files of x509 credentials in a directory; those that are not there are NULL. */
typedef struct TlsFiles {
    char *ca, *crl, *cert, *key;
} TlsFiles;
/* Whether the certificates are what they must be, so that a mistake shows now and not at the first connection. */
Error *tls_check_certificates(const GnutlsApi *lib, const TlsFiles *files, bool server) MUST_USE;

#endif
