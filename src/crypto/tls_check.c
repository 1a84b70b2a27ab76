/* Certificates of tls-creds-x509, looked at before they are used (RFC 5280: validity, basic constraints, usage, the chain). */
#include <string.h>
#include <time.h>

#include "crypto/tls_priv.h"

typedef struct CertList {
    const GnutlsApi *lib;
    gnutls_x509_crt_t *certs;
    unsigned count;
} CertList;

static void list_clear(CertList *list)
{
    for (unsigned n = 0; n < list->count; n++) {
        list->lib->gnutls_x509_crt_deinit(list->certs[n]);
    }
    if (list->certs) {
        (*list->lib->gnutls_free)(list->certs);
    }
}

static Error *list_load(const char *path, CertList *list)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) gerr = NULL;
    gsize size;

    if (!g_file_get_contents(path, &text, &size, &gerr)) {
        return error_new("Cannot load certificate %s: %s", path, gerr->message);
    }
    gnutls_datum_t datum = { (unsigned char *)text, (unsigned)size };
    int code = list->lib->gnutls_x509_crt_list_import2(&list->certs, &list->count, &datum, GNUTLS_X509_FMT_PEM, 0);
    return code < 0 ? error_new("Unable to import certificate %s: %s", path, list->lib->gnutls_strerror(code)) : NULL;
}

static Error *check_times(const GnutlsApi *lib, gnutls_x509_crt_t cert, const char *path)
{
    time_t now = time(NULL);

    if (lib->gnutls_x509_crt_get_expiration_time(cert) < now) {
        return error_new("%s: no longer valid, a new certificate is needed", path);
    }
    return lib->gnutls_x509_crt_get_activation_time(cert) > now ? error_new("%s: not valid yet, see its activation time and this host's clock", path) : NULL;
}

static Error *check_constraints(const GnutlsApi *lib, gnutls_x509_crt_t cert, const char *path, bool is_ca)
{
    int status = lib->gnutls_x509_crt_get_basic_constraints(cert, NULL, NULL, NULL);

    if (status > 0 && !is_ca) {
        return error_new("%s: belongs to a certificate authority; what is needed here is one for a server or a client", path);
    }
    if (status == 0 && is_ca) {
        return error_new("%s: its basic constraints say that it may not sign others (CA:FALSE)", path);
    }
    if (status == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
        return is_ca ? error_new("%s: has no basic constraints, without which it may not sign others", path) : NULL;
    }
    return status < 0 ? error_new("%s: cannot read the basic constraints: %s", path, lib->gnutls_strerror(status)) : NULL;
}

static Error *check_usage(const GnutlsApi *lib, gnutls_x509_crt_t cert, const char *path, bool is_ca)
{
    unsigned usage, critical;
    int status = lib->gnutls_x509_crt_get_key_usage(cert, &usage, &critical);

    if (status < 0) {
        return status == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE
                   ? NULL
                   : error_new("%s: cannot read the key usage: %s", path, lib->gnutls_strerror(status));
    }
    if (is_ca && !(usage & GNUTLS_KEY_KEY_CERT_SIGN) && critical) {
        return error_new("%s: its key usage lacks keyCertSign", path);
    }
    if (!is_ca && !(usage & GNUTLS_KEY_DIGITAL_SIGNATURE) && critical) {
        return error_new("%s: its key usage lacks digitalSignature", path);
    }
    return NULL;
}

static Error *check_purpose(const GnutlsApi *lib, gnutls_x509_crt_t cert, const char *path, bool server)
{
    bool allowed = false, any_critical = false;

    for (unsigned n = 0; n < 100; n++) {
        char oid[128];
        size_t size = sizeof(oid);
        unsigned critical;
        int status = lib->gnutls_x509_crt_get_key_purpose_oid(cert, n, oid, &size, &critical);
        if (status == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
            allowed |= n == 0;
            break;
        }
        if (status < 0) {
            return error_new("%s: cannot read the extended key usage: %s", path, lib->gnutls_strerror(status));
        }
        any_critical |= critical;
        allowed |= !strcmp(oid, server ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT) || !strcmp(oid, GNUTLS_KP_ANY);
    }
    return !allowed && any_critical
               ? error_new("%s: its extended key usage is not that of a TLS %s", path, server ? "server" : "client")
               : NULL;
}

static Error *check_list(const CertList *list, const char *path, bool is_ca, bool server)
{
    for (unsigned n = 0; n < list->count; n++) {
        bool ca = is_ca || n > 0; /* behind the first one come those that signed it */
        TRY(check_times(list->lib, list->certs[n], path));
        TRY(check_constraints(list->lib, list->certs[n], path, ca));
        TRY(check_usage(list->lib, list->certs[n], path, ca));
        if (!ca) {
            TRY(check_purpose(list->lib, list->certs[n], path, server));
        }
    }
    return NULL;
}

static Error *check_chain(const CertList *own, const CertList *ca, const TlsFiles *files)
{
    unsigned status = 0;
    int code = own->lib->gnutls_x509_crt_list_verify(own->certs, own->count, ca->certs, ca->count, NULL, 0, 0, &status);

    if (code < 0) {
        return error_new("%s: cannot be verified: %s", files->cert, own->lib->gnutls_strerror(code));
    }
    if (!status) {
        return NULL;
    }
    return error_new("%s is not accepted by the authorities in %s: %s", files->cert, files->ca,
                     status & GNUTLS_CERT_REVOKED            ? "it was revoked"
                     : status & GNUTLS_CERT_SIGNER_NOT_FOUND ? "none of them issued it"
                     : status & GNUTLS_CERT_INSECURE_ALGORITHM ? "its signature algorithm is not secure"
                                                               : "not trusted");
}

static Error *check_both(CertList *own, CertList *ca, const TlsFiles *files, bool server)
{
    TRY(list_load(files->ca, ca));
    TRY(check_list(ca, files->ca, true, server));
    if (!files->cert) {
        return NULL;
    }
    TRY(list_load(files->cert, own));
    TRY(check_list(own, files->cert, false, server));
    return check_chain(own, ca, files);
}

Error *tls_check_certificates(const GnutlsApi *lib, const TlsFiles *files, bool server)
{
    CertList own = { .lib = lib }, ca = { .lib = lib };

    Error *err = check_both(&own, &ca, files, server);
    list_clear(&own);
    list_clear(&ca);
    return err;
}
