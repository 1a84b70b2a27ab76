/*
 * Driver "ssh": a file of an SSH server, by the SFTP of libssh. A session is used by one request at a time, on a worker thread.
 * Who logs in proves it by a key: of the agent, or of the user's own files.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <libssh/libssh.h>
#include <libssh/sftp.h>

#include "base/library.h"
#include "block/protocol/remote.h"

#define SSH_CALLS(C) \
    C(ssh_init) C(ssh_new) C(ssh_free) C(ssh_options_set) C(ssh_options_parse_config) C(ssh_connect) C(ssh_disconnect) \
    C(ssh_get_error) C(ssh_userauth_none) C(ssh_userauth_publickey_auto) C(ssh_get_server_publickey) \
    C(ssh_get_publickey_hash) C(ssh_clean_pubkey_hash) C(ssh_key_free) C(ssh_session_is_known_server) C(sftp_new) C(sftp_free) \
    C(sftp_init) C(sftp_open) C(sftp_close) C(sftp_fstat) C(sftp_attributes_free) C(sftp_seek64) C(sftp_read) C(sftp_write) \
    C(sftp_fsync) C(sftp_extension_supported)
typedef struct SshApi {
    SSH_CALLS(LIBRARY_POINTER)
} SshApi;
#define SSH_CALL(name) LIBRARY_CALL(SshApi, name)
static const LibraryCall ssh_calls[] = { SSH_CALLS(SSH_CALL) };
static const Library ssh_library = { "the SSH library", "libssh.so.4", "libssh-4", ssh_calls, G_N_ELEMENTS(ssh_calls) };

enum { CHUNK = 32 * 1024 }; /* what every server takes in one message */

typedef enum HostCheck { CHECK_KNOWN_HOSTS, CHECK_NONE, CHECK_HASH } HostCheck;

typedef struct SshState {
    SshApi lib;
    char *host, *port, *path, *user, *hash;
    HostCheck check;
    enum ssh_publickey_hash_type hash_type;
    bool writes, creates, warned;
    ssh_session session;
    sftp_session sftp;
    sftp_file file;
    RemoteLine line; /* of the session */
} SshState;

/* --- connecting: on a worker thread --- */

static Error *ssh_error(const SshState *s, const char *what)
{
    return error_new("%s: %s", what, s->session ? s->lib.ssh_get_error(s->session) : "no memory");
}

/* "ab:cd" and "ABCD" are the same. */
static bool same_hash(const uint8_t *hash, size_t size, const char *text)
{
    for (size_t n = 0; n < size; n++) {
        while (*text == ':') {
            text++;
        }
        int high = g_ascii_xdigit_value(text[0]), low = high < 0 ? -1 : g_ascii_xdigit_value(text[1]);
        if (low < 0 || (high << 4 | low) != hash[n]) {
            return false;
        }
        text += 2;
    }
    return !*text;
}

static Error *check_hash(SshState *s)
{
    ssh_key key;
    unsigned char *hash;
    size_t size;

    if (s->lib.ssh_get_server_publickey(s->session, &key) != SSH_OK) {
        return ssh_error(s, "failed to read remote host key");
    }
    int code = s->lib.ssh_get_publickey_hash(key, s->hash_type, &hash, &size);
    s->lib.ssh_key_free(key);
    if (code) {
        return ssh_error(s, "failed reading the hash of the server SSH key");
    }
    bool same = same_hash(hash, size, s->hash);
    s->lib.ssh_clean_pubkey_hash(&hash);
    return same ? NULL : error_new("remote host key fingerprint does not match host_key_check '%s'", s->hash);
}

static Error *check_known_hosts(SshState *s)
{
    switch (s->lib.ssh_session_is_known_server(s->session)) {
    case SSH_KNOWN_HOSTS_OK:
        return NULL;
    case SSH_KNOWN_HOSTS_CHANGED:
        return error_new("host key mismatch: the key of %s is not the one in known_hosts", s->host);
    case SSH_KNOWN_HOSTS_OTHER:
        return error_new("the host key for this server was not found but another type of key exists");
    case SSH_KNOWN_HOSTS_NOT_FOUND:
    case SSH_KNOWN_HOSTS_UNKNOWN:
        return error_new("no host key was found in known_hosts");
    default:
        return ssh_error(s, "error while checking the host");
    }
}

static Error *check_host(SshState *s)
{
    return s->check == CHECK_NONE ? NULL : s->check == CHECK_HASH ? check_hash(s) : check_known_hosts(s);
}

static Error *log_in(SshState *s)
{
    int code = s->lib.ssh_userauth_none(s->session, NULL);

    if (code != SSH_AUTH_SUCCESS && code != SSH_AUTH_ERROR) {
        code = s->lib.ssh_userauth_publickey_auto(s->session, NULL, NULL);
    }
    return code == SSH_AUTH_SUCCESS ? NULL
                                    : error_hint(error_new("failed to authenticate using publickey authentication"),
                                                 "The key must be in the SSH agent or in the user's files.");
}

static Error *connect_steps(SshState *s)
{
    const SshApi *lib = &s->lib;
    long timeout = 30;

    lib->ssh_init();
    s->session = lib->ssh_new();
    if (!s->session) {
        return ssh_error(s, "failed to initialize a session");
    }
    if (lib->ssh_options_set(s->session, SSH_OPTIONS_USER, s->user ? s->user : g_get_user_name()) < 0 ||
        lib->ssh_options_set(s->session, SSH_OPTIONS_HOST, s->host) < 0 ||
        lib->ssh_options_set(s->session, SSH_OPTIONS_PORT_STR, s->port) < 0 ||
        lib->ssh_options_set(s->session, SSH_OPTIONS_TIMEOUT, &timeout) < 0) {
        return ssh_error(s, "failed to set the session's options");
    }
    lib->ssh_options_parse_config(s->session, NULL);
    if (lib->ssh_connect(s->session) != SSH_OK) {
        return ssh_error(s, "failed to establish SSH session");
    }
    TRY(check_host(s));
    TRY(log_in(s));
    s->sftp = lib->sftp_new(s->session);
    if (!s->sftp || lib->sftp_init(s->sftp) < 0) {
        return ssh_error(s, "failed to initialize sftp handle");
    }
    s->file = lib->sftp_open(s->sftp, s->path, s->creates ? O_RDWR | O_CREAT | O_TRUNC : s->writes ? O_RDWR : O_RDONLY,
                             0644);
    if (!s->file) {
        g_autofree char *what = g_strdup_printf("failed to %s remote file '%s'", s->creates ? "create" : "open",
                                                 s->path);
        return ssh_error(s, what);
    }
    return NULL;
}

static void hang_up(SshState *s)
{
    if (s->file) {
        s->lib.sftp_close(s->file);
    }
    if (s->sftp) {
        s->lib.sftp_free(s->sftp);
    }
    if (s->session) {
        s->lib.ssh_disconnect(s->session);
        s->lib.ssh_free(s->session);
    }
    s->file = NULL;
    s->sftp = NULL;
    s->session = NULL;
}

typedef struct ConnectCall {
    SshState *s;
    uint64_t size;
    Error *err;
} ConnectCall;

static int connect_call(void *opaque)
{
    ConnectCall *call = opaque;
    SshState *s = call->s;

    call->err = connect_steps(s);
    sftp_attributes facts = call->err ? NULL : s->lib.sftp_fstat(s->file);
    if (!call->err && (!facts || facts->size > INT64_MAX)) {
        call->err = ssh_error(s, "failed to read the size of the remote file");
    }
    if (facts) {
        call->size = facts->size;
        s->lib.sftp_attributes_free(facts);
    }
    if (call->err) {
        hang_up(s);
    }
    return 0;
}

static int hang_up_call(void *opaque)
{
    hang_up(opaque);
    return 0;
}

/* --- requests: the blocking calls on a worker thread --- */

static int read_call(void *opaque)
{
    RemoteCall *t = opaque;
    SshState *s = t->state;
    const SshApi *lib = &s->lib;

    if (lib->sftp_seek64(s->file, t->offset) < 0) {
        return -EIO;
    }
    for (size_t done = 0; done < t->bytes;) {
        ssize_t got = lib->sftp_read(s->file, t->data + done, MIN(t->bytes - done, (size_t)CHUNK));
        if (got < 0) {
            return -EIO;
        }
        if (got == 0) { /* the file has become shorter */
            memset(t->data + done, 0, t->bytes - done);
            break;
        }
        done += (size_t)got;
    }
    return 0;
}

static int write_call(void *opaque)
{
    RemoteCall *t = opaque;
    SshState *s = t->state;
    const SshApi *lib = &s->lib;

    if (lib->sftp_seek64(s->file, t->offset) < 0) {
        return -EIO;
    }
    for (size_t done = 0; done < t->bytes;) {
        ssize_t put = lib->sftp_write(s->file, t->data + done, MIN(t->bytes - done, (size_t)CHUNK));
        if (put <= 0) {
            return -EIO;
        }
        done += (size_t)put;
    }
    return 0;
}

static int flush_call(void *opaque)
{
    SshState *s = ((RemoteCall *)opaque)->state;

    if (!s->lib.sftp_extension_supported(s->sftp, "fsync@openssh.com", "1")) {
        return -ENOTSUP;
    }
    return s->lib.sftp_fsync(s->file) < 0 ? -EIO : 0;
}

static int preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    return remote_read_co(node, &((SshState *)node->state)->line, read_call, offset, bytes, vec, at);
}

static int pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at, unsigned flags)
{
    return remote_write_co(node, &((SshState *)node->state)->line, write_call, offset, bytes, vec, at);
}

static int flush_co(BlockNode *node)
{
    SshState *s = node->state;
    int ret = node->read_only ? 0 : remote_call_co(node, &s->line, flush_call, 0, 0);

    if (ret == -ENOTSUP) {
        if (!s->warned) {
            warn_report("ssh server %s does not support fsync: data may be lost when it fails", s->host);
            s->warned = true;
        }
        return 0;
    }
    return ret;
}

static Error *truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    SshState *s = node->state;
    uint8_t zero = 0;
    BLOCK_VEC_BUFFER(vec, &zero, 1);

    if (prealloc != PREALLOC_OFF) {
        return error_new("Preallocation '%s' is not possible here",
                         block_preallocation_name(prealloc));
    }
    if (size < node->size) {
        return error_new("ssh driver does not support shrinking files");
    }
    if (size == node->size) {
        return NULL;
    }
    int ret = remote_write_co(node, &s->line, write_call, size - 1, 1, &vec, 0);
    if (ret < 0) {
        return error_new_errno(ret, "Failed to grow file");
    }
    node->size = size;
    return NULL;
}

/* --- options --- */

/* "no", "yes", "sha256:12:34:..." */
static Error *use_host_key_check(SshState *s, const char *text)
{
    static const struct {
        const char *prefix;
        enum ssh_publickey_hash_type type;
    } hashes[] = { { "md5:", SSH_PUBLICKEY_HASH_MD5 }, { "sha1:", SSH_PUBLICKEY_HASH_SHA1 },
                   { "sha256:", SSH_PUBLICKEY_HASH_SHA256 } };

    if (!strcmp(text, "no") || !strcmp(text, "yes")) {
        s->check = *text == 'n' ? CHECK_NONE : CHECK_KNOWN_HOSTS;
        return NULL;
    }
    for (size_t n = 0; n < ARRAY_SIZE(hashes); n++) {
        if (g_str_has_prefix(text, hashes[n].prefix)) {
            s->check = CHECK_HASH;
            s->hash_type = hashes[n].type;
            s->hash = g_strdup(text + strlen(hashes[n].prefix));
            return NULL;
        }
    }
    return error_new("unknown host_key_check setting (%s)", text);
}

static Error *take_host_key_check(SshState *s, KeyValues *opts)
{
    g_autofree char *old = keyvalues_take(opts, "host_key_check"), *mode = keyvalues_take(opts, "host-key-check.mode"),
                    *type = keyvalues_take(opts, "host-key-check.type"), *hash = keyvalues_take(opts, "host-key-check.hash");

    if (old) {
        return use_host_key_check(s, old);
    }
    if (!mode || !strcmp(mode, "known_hosts") || !strcmp(mode, "none")) {
        s->check = mode && !strcmp(mode, "none") ? CHECK_NONE : CHECK_KNOWN_HOSTS;
        return hash || type ? error_new("host-key-check.hash needs host-key-check.mode=hash") : NULL;
    }
    if (strcmp(mode, "hash") || !hash || !type) {
        return error_new(strcmp(mode, "hash") ? "Parameter 'host-key-check.mode' does not accept value '%s'"
                                              : "host-key-check.mode=%s needs type and hash", mode);
    }
    g_autofree char *text = g_strconcat(type, ":", hash, NULL);
    return use_host_key_check(s, text);
}

/* iotests compare what it says. */
static Error *check_port(const SshState *s)
{
    char *end;
    unsigned long port = strtoul(s->port, &end, 10);
    if (!g_ascii_isdigit(s->port[0]) || *end || port > 65535) {
        return error_new("Parameter 'port' expects a number");
    }
    return port ? NULL : error_new("Failed to connect to '%s:%s': %s", s->host, s->port, g_strerror(ECONNREFUSED));
}

static Error *take_options(SshState *s, KeyValues *opts)
{
    char *host = keyvalues_take(opts, "host"), *port = keyvalues_take(opts, "port");

    s->host = keyvalues_take(opts, "server.host");
    s->port = keyvalues_take(opts, "server.port");
    if (s->host && host) {
        g_free(host);
        g_free(port);
        return error_new("'server' and 'host' cannot be used at the same time");
    }
    s->host = s->host ? s->host : host;
    if (s->port) {
        g_free(port);
    } else {
        s->port = port ? port : g_strdup("22");
    }
    s->path = keyvalues_take(opts, "path");
    s->user = keyvalues_take(opts, "user");
    if (!s->host || !s->path) {
        return error_new("No %s was specified", s->host ? "path" : "hostname");
    }
    TRY(check_port(s));
    return take_host_key_check(s, opts);
}

/* ssh://[USER@]HOST[:PORT]/PATH[?host_key_check=CHECK] */
static Error *parse_filename(const char *filename, KeyValues *opts)
{
    g_autoptr(GError) gerr = NULL;
    g_autoptr(GUri) uri = g_uri_parse(filename, G_URI_FLAGS_HAS_PASSWORD, &gerr);
    const char *query = uri ? g_uri_get_query(uri) : NULL, *check = "host_key_check=";

    if (!uri || !g_uri_get_host(uri) || !*g_uri_get_host(uri) || !*g_uri_get_path(uri)) {
        return error_new("'%s' is not of the form ssh://[USER@]HOST[:PORT]/PATH", filename);
    }
    if (g_uri_get_password(uri)) {
        return error_new("a password in a URI would show everywhere: use a key");
    }
    if (query && !g_str_has_prefix(query, check)) {
        return error_new("the only parameter of a URI ssh:// is host_key_check, not '%s'", query);
    }
    keyvalues_set(opts, "server.host", g_uri_get_host(uri));
    if (g_uri_get_port(uri) > 0) {
        g_autofree char *port = g_strdup_printf("%d", g_uri_get_port(uri));
        keyvalues_set(opts, "server.port", port);
    }
    if (g_uri_get_user(uri)) {
        keyvalues_set(opts, "user", g_uri_get_user(uri));
    }
    keyvalues_set(opts, "path", g_uri_get_path(uri));
    if (query) {
        keyvalues_set(opts, "host_key_check", query + strlen(check));
    }
    return NULL;
}

/* --- opening --- */

static void release(void *opaque)
{
    SshState *s = opaque;
    g_free(s->host);
    g_free(s->port);
    g_free(s->path);
    g_free(s->user);
    g_free(s->hash);
}

static Error *open_steps_co(BlockNode *node, KeyValues *opts)
{
    SshState *s = node->state;
    ConnectCall call = { .s = s };

    TRY(take_options(s, opts));
    TRY(library_open(&ssh_library, &s->lib));
    s->writes = !node->read_only;
    remote_line_init(&s->line);
    co_blocking_long(connect_call, &call);
    TRY(call.err);
    node->size = call.size;
    node->limits.request_align = 1;
    node->limits.max_transfer = 1 << 20;
    node->filename = g_strdup_printf("ssh://%s%s%s:%s%s", s->user ? s->user : "", s->user ? "@" : "", s->host, s->port, s->path);
    return NULL;
}

static Error *open_co(BlockNode *node, KeyValues *opts)
{
    return remote_open_co(node, opts, open_steps_co, release);
}

static void close_co(BlockNode *node)
{
    remote_close_co(node, hang_up_call, release);
}

/* --- creating --- */

typedef struct CreateCall {
    SshState *s;
    uint64_t size;
    Error *err;
} CreateCall;

static int create_call(void *opaque)
{
    CreateCall *call = opaque;
    SshState *s = call->s;
    char zero = 0;

    call->err = connect_steps(s);
    if (!call->err && call->size &&
        (s->lib.sftp_seek64(s->file, call->size - 1) < 0 || s->lib.sftp_write(s->file, &zero, 1) != 1)) {
        call->err = ssh_error(s, "failed to give the remote file its size");
    }
    hang_up(s);
    return 0;
}

static Error *create_steps_co(SshState *s, const char *filename, KeyValues *opts)
{
    CreateCall call = { .s = s };
    g_autoptr(KeyValues) where = keyvalues_new();

    TRY(block_take_size(opts, "size", 0, &call.size));
    TRY(parse_filename(filename, where));
    TRY(take_options(s, where));
    TRY(library_open(&ssh_library, &s->lib));
    co_blocking_long(create_call, &call);
    return call.err;
}

static Error *create_co(BlockGraph *graph, const char *filename, BlockNode *file, KeyValues *opts)
{
    g_autofree SshState *s = g_new0(SshState, 1);
    s->creates = true;
    Error *err = create_steps_co(s, filename, opts);
    release(s);
    return err;
}

static const BlockOption options[] = {
    { "server.host", OPT_STR, "The server's name or address" },
    { "server.port", OPT_STR, "The server's port (default: 22)" },
    { "host", OPT_STR, "The same as server.host" },
    { "port", OPT_STR, "The same as server.port" },
    { "path", OPT_STR, "The file's path at the server" },
    { "user", OPT_STR, "Who logs in (default: who runs this program)" },
    { "host-key-check", OPT_STR, "How the server is recognized: .mode=none, known_hosts (default) or hash with .type and .hash" },
    { "host_key_check", OPT_STR, "The same in one word: no, yes, md5:HASH, sha1:HASH, sha256:HASH" },
    { 0 },
};

static const BlockOption create_options[] = { { "size", OPT_SIZE, "Virtual disk size" }, { 0 } };

BLOCK_DRIVER(ssh, .name = "ssh", .desc = "A file of an SSH server", .deciding = (const char *const[]) { "host", "port", "path", "user", "host_key_check", "host-key-check.", "server.", NULL }, .state_size = sizeof(SshState), .protocol = true,
             .extends = true, .parse_filename = parse_filename, .options = options,
             .create_options = create_options, .create_co = create_co, .open_co = open_co, .close_co = close_co,
             .preadv_co = preadv_co, .pwritev_co = pwritev_co, .flush_co = flush_co, .truncate_co = truncate_co,
             .allocated_size = remote_allocated_size);
