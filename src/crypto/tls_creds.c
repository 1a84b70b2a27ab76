/*
 * -object tls-creds-anon, tls-creds-psk, tls-creds-x509: credentials from the files of a directory, for one end of connections.
 *
 *     anon: dh-params.pem (server, may be missing)
 *     psk:  keys.psk, lines USER:HEX-KEY; dh-params.pem
 *     x509: ca-cert.pem, ca-crl.pem (may be missing), server-cert.pem and server-key.pem or client-cert.pem and
 *           client-key.pem (which a client may lack), dh-params.pem
 */
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "crypto/secret.h"
#include "crypto/tls_priv.h"

typedef struct TlsCreds {
    Object object;
    char *dir, *priority, *username, *password_id;
    int endpoint;
    bool verify_peer, sanity_check;
    TlsKeys *keys;
} TlsCreds;

enum { ENDPOINT_CLIENT, ENDPOINT_SERVER };
static const EnumName endpoints[] = { { "client", ENDPOINT_CLIENT }, { "server", ENDPOINT_SERVER }, { NULL, 0 } };

/* --- keys --- */

TlsKeys *tls_keys_ref(TlsKeys *keys)
{
    if (keys) {
        atomic_fetch_add(&keys->refs, 1);
    }
    return keys;
}

static void free_creds(TlsKeys *keys)
{
    const GnutlsApi *lib = keys->lib;

    if (!keys->creds.any) {
        return;
    }
    switch (keys->kind) {
    case TLS_ANON:
        keys->server ? lib->gnutls_anon_free_server_credentials(keys->creds.anon_server)
                     : lib->gnutls_anon_free_client_credentials(keys->creds.anon_client);
        break;
    case TLS_PSK:
        keys->server ? lib->gnutls_psk_free_server_credentials(keys->creds.psk_server)
                     : lib->gnutls_psk_free_client_credentials(keys->creds.psk_client);
        break;
    case TLS_X509:
        lib->gnutls_certificate_free_credentials(keys->creds.x509);
        break;
    }
}

void tls_keys_unref(TlsKeys *keys)
{
    if (keys && atomic_fetch_sub(&keys->refs, 1) == 1) {
        free_creds(keys);
        if (keys->dh) {
            keys->lib->gnutls_dh_params_deinit(keys->dh);
        }
        g_free(keys->priority);
        g_free(keys);
    }
}

static Error *keys_new(const TlsCreds *creds, TlsKind kind, TlsKeys **ret_keys)
{
    static const char *const needed[] = { [TLS_ANON] = ":+ANON-DH", [TLS_PSK] = ":+ECDHE-PSK:+DHE-PSK:+PSK", [TLS_X509] = "" };
    const GnutlsApi *lib;

    TRY(gnutls_lib(&lib));
    TlsKeys *keys = g_new0(TlsKeys, 1);
    atomic_store(&keys->refs, 1);
    keys->lib = lib;
    keys->kind = kind;
    keys->server = creds->endpoint == ENDPOINT_SERVER;
    keys->verify_peer = creds->verify_peer;
    keys->priority = g_strconcat(creds->priority ? creds->priority : "NORMAL", needed[kind], NULL);
    *ret_keys = keys;
    return NULL;
}

/* --- files --- */

static Error *find_file(const TlsCreds *creds, const char *name, bool required, char **ret_path)
{
    char *path;

    if (!creds->dir) {
        return error_new("tls-creds: 'dir' says where the credential files are, and is missing");
    }
    path = g_build_filename(creds->dir, name, NULL);
    if (access(path, R_OK) == 0) {
        *ret_path = path;
        return NULL;
    }
    Error *err = required ? error_new("tls-creds: %s: %s", path, g_strerror(errno)) : NULL;
    g_free(path);
    *ret_path = NULL;
    return err;
}

static Error *lib_error(const GnutlsApi *lib, int code, const char *what)
{
    return code < 0 ? error_new("%s: %s", what, lib->gnutls_strerror(code)) : NULL;
}

/* The parameters of the file, if there is one. */
static Error *read_dh_params(const TlsCreds *creds, TlsKeys *keys)
{
    const GnutlsApi *lib = keys->lib;
    g_autofree char *path = NULL, *text = NULL;
    g_autoptr(GError) gerr = NULL;
    gsize size;

    if (!creds->dir) {
        return NULL;
    }
    TRY(find_file(creds, "dh-params.pem", false, &path));
    if (!path) {
        return NULL;
    }
    if (!g_file_get_contents(path, &text, &size, &gerr)) {
        return error_new("%s", gerr->message);
    }
    gnutls_datum_t datum = { (unsigned char *)text, (unsigned)size };
    TRY(lib_error(lib, lib->gnutls_dh_params_init(&keys->dh), "Unable to initialize DH parameters"));
    return lib_error(lib, lib->gnutls_dh_params_import_pkcs3(keys->dh, &datum, GNUTLS_X509_FMT_PEM), path);
}

/* --- anonymous --- */

static Error *load_anon(TlsCreds *creds, TlsKeys *keys)
{
    const GnutlsApi *lib = keys->lib;

    if (!keys->server) {
        return lib_error(lib, lib->gnutls_anon_allocate_client_credentials(&keys->creds.anon_client),
                         "Cannot allocate credentials");
    }
    TRY(lib_error(lib, lib->gnutls_anon_allocate_server_credentials(&keys->creds.anon_server), "Cannot allocate credentials"));
    TRY(read_dh_params(creds, keys));
    if (keys->dh) {
        lib->gnutls_anon_set_server_dh_params(keys->creds.anon_server, keys->dh);
    } else {
        lib->gnutls_anon_set_server_known_dh_params(keys->creds.anon_server, GNUTLS_SEC_PARAM_MEDIUM);
    }
    return NULL;
}

/* --- pre-shared keys --- */

static Error *find_psk(const char *path, const char *user, char **ret_hex)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) gerr = NULL;
    size_t length = strlen(user);

    if (!g_file_get_contents(path, &text, NULL, &gerr)) {
        return error_new("%s", gerr->message);
    }
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        if (!strncmp(*line, user, length) && (*line)[length] == ':') {
            *ret_hex = g_strstrip(g_strdup(*line + length + 1));
            return NULL;
        }
    }
    return error_new("%s has no line for the user name '%s'", path, user);
}

static Error *load_psk_server(const TlsCreds *creds, TlsKeys *keys, const char *path)
{
    const GnutlsApi *lib = keys->lib;

    if (creds->username) {
        return error_new("'username' is for endpoint=client only");
    }
    TRY(lib_error(lib, lib->gnutls_psk_allocate_server_credentials(&keys->creds.psk_server), "Cannot allocate credentials"));
    TRY(lib_error(lib, lib->gnutls_psk_set_server_credentials_file(keys->creds.psk_server, path), path));
    TRY(read_dh_params(creds, keys));
    if (keys->dh) {
        lib->gnutls_psk_set_server_dh_params(keys->creds.psk_server, keys->dh);
    } else {
        lib->gnutls_psk_set_server_known_dh_params(keys->creds.psk_server, GNUTLS_SEC_PARAM_MEDIUM);
    }
    return NULL;
}

static Error *load_psk(TlsCreds *creds, TlsKeys *keys)
{
    const GnutlsApi *lib = keys->lib;
    const char *user = creds->username ? creds->username : "qemu";
    g_autofree char *path = NULL, *hex = NULL;

    TRY(find_file(creds, "keys.psk", true, &path));
    if (keys->server) {
        return load_psk_server(creds, keys, path);
    }
    TRY(find_psk(path, user, &hex));
    TRY(lib_error(lib, lib->gnutls_psk_allocate_client_credentials(&keys->creds.psk_client), "Cannot allocate credentials"));
    gnutls_datum_t key = { (unsigned char *)hex, (unsigned)strlen(hex) };
    return lib_error(lib, lib->gnutls_psk_set_client_credentials(keys->creds.psk_client, user, &key, GNUTLS_PSK_KEY_HEX),
                     "Unable to use the pre-shared key");
}

/* --- certificates --- */

static Error *find_files(const TlsCreds *creds, bool server, TlsFiles *files)
{
    TRY(find_file(creds, "ca-cert.pem", true, &files->ca));
    TRY(find_file(creds, "ca-crl.pem", false, &files->crl));
    TRY(find_file(creds, server ? "server-cert.pem" : "client-cert.pem", server, &files->cert));
    return find_file(creds, server ? "server-key.pem" : "client-key.pem", server || files->cert, &files->key);
}

static Error *use_files(const TlsCreds *creds, TlsKeys *keys, const TlsFiles *files, const char *password)
{
    const GnutlsApi *lib = keys->lib;
    gnutls_certificate_credentials_t x509;

    TRY(lib_error(lib, lib->gnutls_certificate_allocate_credentials(&keys->creds.x509), "Cannot allocate credentials"));
    x509 = keys->creds.x509;
    TRY(lib_error(lib, lib->gnutls_certificate_set_x509_trust_file(x509, files->ca, GNUTLS_X509_FMT_PEM), files->ca));
    if (files->cert) {
        int code = lib->gnutls_certificate_set_x509_key_file2(x509, files->cert, files->key, GNUTLS_X509_FMT_PEM, password, 0);
        g_autofree char *what = g_strdup_printf("Cannot load certificate '%s' & key '%s'", files->cert, files->key);
        TRY(lib_error(lib, code, what));
    }
    if (files->crl) {
        TRY(lib_error(lib, lib->gnutls_certificate_set_x509_crl_file(x509, files->crl, GNUTLS_X509_FMT_PEM), files->crl));
    }
    if (!keys->server) {
        return NULL;
    }
    TRY(read_dh_params(creds, keys));
    if (keys->dh) {
        lib->gnutls_certificate_set_dh_params(x509, keys->dh);
    } else {
        lib->gnutls_certificate_set_known_dh_params(x509, GNUTLS_SEC_PARAM_MEDIUM);
    }
    return NULL;
}

static Error *load_with_files(TlsCreds *creds, TlsKeys *keys, TlsFiles *files)
{
    char *password = NULL;

    TRY(find_files(creds, keys->server, files));
    if (creds->sanity_check) {
        TRY(tls_check_certificates(keys->lib, files, keys->server));
    }
    if (creds->password_id) {
        TRY(secret_get_text(creds->object.parent, creds->password_id, &password));
    }
    Error *err = use_files(creds, keys, files, password);
    secret_free_text(password);
    return err;
}

static Error *load_x509(TlsCreds *creds, TlsKeys *keys)
{
    TlsFiles files = { 0 };

    Error *err = load_with_files(creds, keys, &files);
    g_free(files.ca);
    g_free(files.crl);
    g_free(files.cert);
    g_free(files.key);
    return err;
}

/* --- the objects --- */

static Error *complete(Object *obj, TlsKind kind, Error *(*load)(TlsCreds *creds, TlsKeys *keys))
{
    TlsCreds *creds = (TlsCreds *)obj;

    TRY(keys_new(creds, kind, &creds->keys));
    return load(creds, creds->keys);
}

static Error *complete_anon(Object *obj)
{
    return complete(obj, TLS_ANON, load_anon);
}

static Error *complete_psk(Object *obj)
{
    return complete(obj, TLS_PSK, load_psk);
}

static Error *complete_x509(Object *obj)
{
    return complete(obj, TLS_X509, load_x509);
}

static void finalize(Object *obj)
{
    tls_keys_unref(((TlsCreds *)obj)->keys);
}

static const Prop common_props[] = {
    PROP_STR("dir", TlsCreds, dir, .help = "directory of the files"),
    PROP_ENUM("endpoint", TlsCreds, endpoint, endpoints, ENDPOINT_CLIENT, .help = "which end of connections it is"),
    PROP_BOOL("verify-peer", TlsCreds, verify_peer, true, .help = "the other side must show who it is"),
    PROP_STR("priority", TlsCreds, priority, .help = "algorithms, as GnuTLS writes them (default: NORMAL)"),
    { 0 },
};
static const Prop psk_props[] = {
    PROP_STR("username", TlsCreds, username, .help = "of clients: whose key it is (default: qemu)"), { 0 }
};
static const Prop x509_props[] = {
    PROP_BOOL("sanity-check", TlsCreds, sanity_check, true, .help = "look at the certificates at once"),
    PROP_STR("passwordid", TlsCreds, password_id, .help = "ID of the secret that decrypts the private key"),
    { 0 },
};

static const ObjectType tls_creds_type = {
    .name = "tls-creds", .size = sizeof(TlsCreds), .abstract = true, .props = common_props, .finalize = finalize,
};
static const ObjectType tls_creds_anon_type = {
    .name = "tls-creds-anon", .parent = &tls_creds_type, .size = sizeof(TlsCreds), .complete = complete_anon,
};
static const ObjectType tls_creds_psk_type = {
    .name = "tls-creds-psk", .parent = &tls_creds_type, .size = sizeof(TlsCreds), .props = psk_props,
    .complete = complete_psk,
};
static const ObjectType tls_creds_x509_type = {
    .name = "tls-creds-x509", .parent = &tls_creds_type, .size = sizeof(TlsCreds), .props = x509_props,
    .complete = complete_x509,
};
OBJECT_REGISTER(&tls_creds_anon_type);
OBJECT_REGISTER(&tls_creds_psk_type);
OBJECT_REGISTER(&tls_creds_x509_type);

Error *tls_keys_get(const Object *objects, const char *id, bool server, TlsKeys **ret_keys)
{
    Object *obj = object_child(objects, id);

    if (!obj) {
        return error_new("No TLS credentials with id '%s'", id);
    }
    if (!object_is_a(obj->type, &tls_creds_type)) {
        return error_new("object '%s' is of another kind than tls-creds-*", id);
    }
    TlsKeys *keys = ((TlsCreds *)obj)->keys;
    if (keys->server != server) {
        return error_new("these TLS credentials are for the other side: endpoint=%s is needed", server ? "server" : "client");
    }
    *ret_keys = tls_keys_ref(keys);
    return NULL;
}
