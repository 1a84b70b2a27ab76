/* Migration over TLS: the parameters tls-creds, tls-hostname and tls-authz, and what a stream makes of them. */
#include <string.h>

#include "migration/migration_priv.h"

static const char *const names[MIGRATION_TLS_PARAMS] = {
    [MIGRATION_TLS_CREDS] = "tls-creds", [MIGRATION_TLS_HOSTNAME] = "tls-hostname", [MIGRATION_TLS_AUTHZ] = "tls-authz"
};

static Error *take_text(const Value *item, const char *name, const char **ret_text)
{
    *ret_text = value_kind(item) == VALUE_NULL ? "" : value_get_str(item);
    return *ret_text ? NULL : error_new("Parameter '%s' expects a string", name);
}

Error *migration_tls_set(Migration *migration, const Value *parameters)
{
    const char *texts[MIGRATION_TLS_PARAMS] = { NULL };

    for (unsigned n = 0; n < MIGRATION_TLS_PARAMS; n++) {
        const Value *item = value_find(parameters, names[n]);
        if (item) {
            TRY(take_text(item, names[n], &texts[n]));
        }
    }
    for (unsigned n = 0; n < MIGRATION_TLS_PARAMS; n++) {
        if (texts[n]) {
            g_free(migration->tls[n]);
            migration->tls[n] = g_strdup(texts[n]);
        }
    }
    return NULL;
}

void migration_tls_show(const Migration *migration, Value *parameters)
{
    for (unsigned n = 0; n < MIGRATION_TLS_PARAMS; n++) {
        value_put_str(parameters, names[n], migration->tls[n] ? migration->tls[n] : "");
    }
}

/* An empty text is none. */
static const char *param(const Migration *migration, unsigned n)
{
    return migration->tls[n] && *migration->tls[n] ? migration->tls[n] : NULL;
}

/* The host of tcp:HOST:PORT. */
static char *host_of(const char *uri)
{
    const char *colon = strrchr(uri, ':');

    if (!g_str_has_prefix(uri, "tcp:") || colon == uri + 3) {
        return NULL;
    }
    char *host = g_strndup(uri + 4, (gsize)(colon - uri - 4));
    size_t length = strlen(host);
    if (length > 2 && host[0] == '[' && host[length - 1] == ']') {
        memmove(host, host + 1, length - 2);
        host[length - 2] = 0;
    }
    return host;
}

Error *migration_tls_prepare(const Migration *migration, const char *uri, bool server, MigrationTls *ret_tls)
{
    const char *creds = param(migration, MIGRATION_TLS_CREDS);

    *ret_tls = (MigrationTls) { 0 };
    if (!creds) {
        return NULL;
    }
    TRY(tls_keys_get(object_container_at(migration->machine->root, "/objects"), creds, server, &ret_tls->keys));
    const char *hostname = param(migration, MIGRATION_TLS_HOSTNAME);
    ret_tls->hostname = server ? NULL : hostname ? g_strdup(hostname) : host_of(uri);
    ret_tls->authz = server ? g_strdup(param(migration, MIGRATION_TLS_AUTHZ)) : NULL;
    return NULL;
}

Error *migration_tls_begin(const MigrationTls *tls, Machine *machine, Channel *channel)
{
    TlsUse use = { .keys = tls->keys, .hostname = tls->hostname, .authz = tls->authz };

    if (!tls->keys) {
        return NULL;
    }
    if (tls->authz) { /* without, no lock is taken: it may be held by who waits for a page of a post-copy migration */
        lock_acquire(&machine->lock);
        use.objects = object_container_at(machine->root, "/objects");
        lock_release(&machine->lock);
    }
    return channel_start_tls(channel, machine, &use);
}

void migration_tls_clear(MigrationTls *tls)
{
    tls_keys_unref(tls->keys);
    g_free(tls->hostname);
    g_free(tls->authz);
    *tls = (MigrationTls) { 0 };
}
