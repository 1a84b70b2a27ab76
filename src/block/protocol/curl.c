/*
 * Drivers "http", "https", "ftp" and "ftps": files of such servers, for reading, by libcurl. A request fetches a range on a worker
 * thread, with one of a stock of handles that keep their connections; what it fetched beyond what was asked for is kept.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>

#include "base/library.h"
#include "block/node.h"
#include "crypto/secret.h"

#define CURL_CALLS(C) \
    C(curl_global_init) C(curl_easy_init) C(curl_easy_cleanup) C(curl_easy_setopt) C(curl_easy_perform) C(curl_easy_getinfo) \
    C(curl_easy_strerror)
typedef struct CurlApi {
    CURL_CALLS(LIBRARY_POINTER)
} CurlApi;
#define CURL_CALL(name) LIBRARY_CALL(CurlApi, name)
static const LibraryCall curl_calls[] = { CURL_CALLS(CURL_CALL) };
static const Library curl_library = { "the library of URLs", "libcurl-gnutls.so.4", "libcurl3-gnutls", curl_calls,
                                      G_N_ELEMENTS(curl_calls) };

enum { SEGMENTS = 8, DEFAULT_READAHEAD = 256 * 1024, MAX_READAHEAD = 16 << 20, DEFAULT_TIMEOUT = 5, MAX_TIMEOUT = 10000 };

typedef struct Segment {
    uint64_t offset, bytes;
    uint8_t *data; /* NULL: empty */
} Segment;

typedef struct CurlState {
    const CurlApi *lib;
    char *url, *username, *password, *proxy_username, *proxy_password, *cookie;
    uint64_t readahead, timeout;
    bool verify, http;
    GMutex lock;
    GPtrArray *handles; /* CURL *, idle; under the lock */
    Segment segments[SEGMENTS]; /* the one used last comes first */
} CurlState;

static Error *curl_lib(const CurlApi **ret_lib)
{
    static CurlApi lib;
    static GMutex mutex;
    static bool open;
    Error *err = NULL;

    g_mutex_lock(&mutex);
    if (!open) {
        err = library_open(&curl_library, &lib);
        if (!err && lib.curl_global_init(CURL_GLOBAL_ALL)) {
            err = error_new("the library of URLs cannot be initialized");
        }
        open = !err;
    }
    g_mutex_unlock(&mutex);
    *ret_lib = &lib;
    return err;
}

/* --- handles: on any thread --- */

static void set_text(const CurlState *s, CURL *handle, CURLoption option, const char *text)
{
    if (text) {
        s->lib->curl_easy_setopt(handle, option, text);
    }
}

static CURL *new_handle(const CurlState *s)
{
    const CurlApi *lib = s->lib;
    CURL *handle = lib->curl_easy_init();

    if (!handle) {
        return NULL;
    }
    lib->curl_easy_setopt(handle, CURLOPT_URL, s->url);
    lib->curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    lib->curl_easy_setopt(handle, CURLOPT_FAILONERROR, 1L);
    lib->curl_easy_setopt(handle, CURLOPT_FOLLOWLOCATION, 1L);
    lib->curl_easy_setopt(handle, CURLOPT_MAXREDIRS, 20L);
    lib->curl_easy_setopt(handle, CURLOPT_TIMEOUT, (long)s->timeout);
    /* Wherever a server sends us: no file, no other service of this host. */
    lib->curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https,ftp,ftps");
    lib->curl_easy_setopt(handle, CURLOPT_REDIR_PROTOCOLS_STR, "http,https,ftp,ftps");
    lib->curl_easy_setopt(handle, CURLOPT_SSL_VERIFYPEER, s->verify ? 1L : 0L);
    lib->curl_easy_setopt(handle, CURLOPT_SSL_VERIFYHOST, s->verify ? 2L : 0L);
    set_text(s, handle, CURLOPT_USERNAME, s->username);
    set_text(s, handle, CURLOPT_PASSWORD, s->password);
    set_text(s, handle, CURLOPT_PROXYUSERNAME, s->proxy_username);
    set_text(s, handle, CURLOPT_PROXYPASSWORD, s->proxy_password);
    set_text(s, handle, CURLOPT_COOKIE, s->cookie);
    return handle;
}

static CURL *take_handle(CurlState *s)
{
    g_mutex_lock(&s->lock);
    CURL *handle = s->handles->len ? g_ptr_array_steal_index_fast(s->handles, s->handles->len - 1) : NULL;
    g_mutex_unlock(&s->lock);
    return handle ? handle : new_handle(s);
}

static void put_handle(CurlState *s, CURL *handle)
{
    g_mutex_lock(&s->lock);
    g_ptr_array_add(s->handles, handle);
    g_mutex_unlock(&s->lock);
}

/* --- fetching: on a worker thread --- */

typedef struct Fetch {
    CurlState *s;
    uint64_t offset;
    size_t bytes, got;
    uint8_t *data;
} Fetch;

/* More than was asked for ends the transfer. */
static size_t take_data(char *data, size_t size, size_t count, void *opaque)
{
    Fetch *f = opaque;
    size_t bytes = size * count;

    if (bytes > f->bytes - f->got) {
        return 0;
    }
    memcpy(f->data + f->got, data, bytes);
    f->got += bytes;
    return bytes;
}

static int fetch_with(Fetch *f, CURL *handle)
{
    const CurlApi *lib = f->s->lib;
    g_autofree char *range = g_strdup_printf("%" PRIu64 "-%" PRIu64, f->offset, f->offset + f->bytes - 1);
    long code = 0;

    lib->curl_easy_setopt(handle, CURLOPT_NOBODY, 0L);
    lib->curl_easy_setopt(handle, CURLOPT_HTTPGET, 1L);
    lib->curl_easy_setopt(handle, CURLOPT_RANGE, range);
    lib->curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, take_data);
    lib->curl_easy_setopt(handle, CURLOPT_WRITEDATA, f);
    f->got = 0;
    if (lib->curl_easy_perform(handle) != CURLE_OK || f->got != f->bytes) {
        return -EIO;
    }
    lib->curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &code);
    return f->s->http && code != 206 ? -EIO : 0; /* the server did not look at the range */
}

static int fetch_call(void *opaque)
{
    Fetch *f = opaque;
    CURL *handle = take_handle(f->s);

    if (!handle) {
        return -ENOMEM;
    }
    int ret = fetch_with(f, handle);
    if (ret < 0) { /* a connection that went stale is tried once more, with a new one */
        f->s->lib->curl_easy_cleanup(handle);
        handle = new_handle(f->s);
        ret = handle ? fetch_with(f, handle) : -ENOMEM;
    }
    if (handle) {
        put_handle(f->s, handle);
    }
    return ret;
}

/* --- what is kept --- */

static const Segment *find_segment(CurlState *s, uint64_t offset, uint64_t bytes)
{
    for (unsigned n = 0; n < SEGMENTS; n++) {
        Segment found = s->segments[n];
        if (found.data && offset >= found.offset && offset + bytes <= found.offset + found.bytes) {
            memmove(&s->segments[1], &s->segments[0], n * sizeof(Segment));
            s->segments[0] = found;
            return &s->segments[0];
        }
    }
    return NULL;
}

static void keep(CurlState *s, const Fetch *f)
{
    g_free(s->segments[SEGMENTS - 1].data);
    memmove(&s->segments[1], &s->segments[0], (SEGMENTS - 1) * sizeof(Segment));
    s->segments[0] = (Segment) { f->offset, f->bytes, f->data };
}

static int preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    CurlState *s = node->state;
    const Segment *segment = find_segment(s, offset, bytes);

    if (segment) {
        block_vec_from_buffer(vec, at, segment->data + (offset - segment->offset), (size_t)bytes);
        return 0;
    }
    Fetch f = { .s = s, .offset = offset, .bytes = (size_t)MIN(MAX(bytes, s->readahead), node->size - offset) };
    f.data = g_try_malloc(f.bytes);
    int ret = f.data ? co_blocking_long(fetch_call, &f) : -ENOMEM;
    if (ret < 0) {
        g_free(f.data);
        return ret;
    }
    block_vec_from_buffer(vec, at, f.data, (size_t)bytes);
    keep(s, &f);
    return 0;
}

/* --- opening --- */

typedef struct Look {
    CurlState *s;
    uint64_t size;
    bool ranges, has_size;
    CURLcode code;
} Look;

static size_t take_header(char *data, size_t size, size_t count, void *opaque)
{
    static const char accepts[] = "accept-ranges:";
    size_t bytes = size * count;
    g_autofree char *line = g_ascii_strdown(data, (gssize)bytes);

    if (g_str_has_prefix(line, accepts) && strstr(line + strlen(accepts), "bytes")) {
        ((Look *)opaque)->ranges = true;
    }
    return bytes;
}

static int look_call(void *opaque)
{
    Look *look = opaque;
    const CurlApi *lib = look->s->lib;
    CURL *handle = take_handle(look->s);
    curl_off_t size = -1;

    if (!handle) {
        return -ENOMEM;
    }
    lib->curl_easy_setopt(handle, CURLOPT_NOBODY, 1L);
    lib->curl_easy_setopt(handle, CURLOPT_HEADERFUNCTION, take_header);
    lib->curl_easy_setopt(handle, CURLOPT_HEADERDATA, look);
    look->code = lib->curl_easy_perform(handle);
    if (look->code == CURLE_OK) {
        lib->curl_easy_getinfo(handle, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &size);
    }
    look->has_size = size >= 0;
    look->size = (uint64_t)MAX(size, 0);
    lib->curl_easy_cleanup(handle); /* its headers would go to this frame */
    return 0;
}

static Error *look_co(BlockNode *node)
{
    CurlState *s = node->state;
    Look look = { .s = s };

    int ret = co_blocking_long(look_call, &look);
    if (ret < 0) {
        return error_new_errno(ret, "CURL: Error opening file");
    }
    if (look.code != CURLE_OK) {
        return error_new("CURL: Error opening file: %s", s->lib->curl_easy_strerror(look.code));
    }
    if (!look.has_size) {
        return error_new("CURL: Error opening file: Server didn't report file size.");
    }
    if (s->http && !look.ranges) {
        return error_new("CURL: Error opening file: Server does not support 'range' (byte ranges).");
    }
    node->size = look.size;
    return NULL;
}

static Error *take_secret(BlockNode *node, KeyValues *opts, const char *key, char **ret_text)
{
    g_autofree char *id = keyvalues_take(opts, key);
    return id ? secret_get_text(block_graph_objects(node->graph), id, ret_text) : NULL;
}

static Error *take_options(BlockNode *node, KeyValues *opts)
{
    CurlState *s = node->state;
    g_autofree char *scheme = g_strconcat(node->driver->name, "://", NULL);

    s->url = keyvalues_take(opts, "url");
    if (!s->url) {
        return error_new("curl block driver requires an 'url' option");
    }
    if (!g_str_has_prefix(s->url, scheme)) {
        return error_new("%s curl driver cannot handle the URL '%s' (does not start with '%s')", node->driver->name, s->url,
                         scheme);
    }
    TRY(block_take_size(opts, "readahead", DEFAULT_READAHEAD, &s->readahead));
    if (s->readahead % 512 || s->readahead > MAX_READAHEAD) {
        return error_new("HTTP_READAHEAD_SIZE %" PRIu64 " is not a multiple of 512, up to %d", s->readahead, MAX_READAHEAD);
    }
    TRY(block_take_num(opts, "timeout", DEFAULT_TIMEOUT, &s->timeout));
    if (s->timeout > MAX_TIMEOUT) {
        return error_new("timeout parameter is too large or negative");
    }
    TRY(block_take_bool(opts, "sslverify", true, &s->verify));
    s->username = keyvalues_take(opts, "username");
    s->proxy_username = keyvalues_take(opts, "proxy-username");
    TRY(take_secret(node, opts, "password-secret", &s->password));
    TRY(take_secret(node, opts, "proxy-password-secret", &s->proxy_password));
    s->cookie = keyvalues_take(opts, "cookie");
    if (s->cookie && keyvalues_has(opts, "cookie-secret")) {
        return error_new("curl driver cannot handle both cookie and cookie secret");
    }
    return s->cookie ? NULL : take_secret(node, opts, "cookie-secret", &s->cookie);
}

static void release(CurlState *s)
{
    for (guint n = 0; n < s->handles->len; n++) {
        s->lib->curl_easy_cleanup(g_ptr_array_index(s->handles, n));
    }
    g_ptr_array_unref(s->handles);
    g_mutex_clear(&s->lock);
    for (unsigned n = 0; n < SEGMENTS; n++) {
        g_free(s->segments[n].data);
    }
    secret_free_text(s->password);
    secret_free_text(s->proxy_password);
    secret_free_text(s->cookie);
    g_free(s->username);
    g_free(s->proxy_username);
    g_free(s->url);
}

static Error *open_steps_co(BlockNode *node, KeyValues *opts)
{
    CurlState *s = node->state;

    if (!node->read_only) {
        return error_new("curl block device does not support writes");
    }
    TRY(take_options(node, opts));
    TRY(curl_lib(&s->lib));
    s->http = g_str_has_prefix(node->driver->name, "http");
    TRY(look_co(node));
    node->filename = g_strdup(s->url);
    node->limits.request_align = 1;
    node->limits.max_transfer = 4 << 20;
    return NULL;
}

static Error *open_co(BlockNode *node, KeyValues *opts)
{
    CurlState *s = node->state;

    g_mutex_init(&s->lock);
    s->handles = g_ptr_array_new();
    Error *err = open_steps_co(node, opts);
    if (err) {
        release(s);
    }
    return err;
}

static void close_co(BlockNode *node)
{
    release(node->state);
}

static Error *parse_filename(const char *filename, KeyValues *opts)
{
    keyvalues_set(opts, "url", filename);
    return NULL;
}

static uint64_t allocated_size(BlockNode *node)
{
    return UINT64_MAX;
}

static const BlockOption options[] = {
    { "url", OPT_STR, "Where the file is" },
    { "readahead", OPT_SIZE, "How much is fetched at least (default: 256k)" },
    { "timeout", OPT_NUM, "Seconds that a transfer may take (default: 5)" },
    { "sslverify", OPT_BOOL, "Whether the server's certificate is looked at (default: on)" },
    { "username", OPT_STR, "The user's name at the server" },
    { "password-secret", OPT_STR, "ID of the secret that holds the password" },
    { "proxy-username", OPT_STR, "The user's name at the proxy" },
    { "proxy-password-secret", OPT_STR, "ID of the secret that holds the proxy's password" },
    { "cookie", OPT_STR, "Cookies to send, NAME=CONTENT; ..." },
    { "cookie-secret", OPT_STR, "ID of the secret that holds them" },
    { 0 },
};

#define CURL_DRIVER(scheme, text)                                                                                          \
    BLOCK_DRIVER(scheme, .name = #scheme, .desc = text, .deciding = (const char *const[]) { "url", "sslverify", "username", "password-secret", "proxy-username", "proxy-password-secret", "cookie", "cookie-secret", NULL }, .state_size = sizeof(CurlState), .protocol = true,                 \
                 .parse_filename = parse_filename, .options = options, .open_co = open_co, .close_co = close_co,           \
                 .preadv_co = preadv_co, .allocated_size = allocated_size)
CURL_DRIVER(http, "A file of an HTTP server (for reading)");
CURL_DRIVER(https, "A file of an HTTP server, encrypted (for reading)");
CURL_DRIVER(ftp, "A file of an FTP server (for reading)");
CURL_DRIVER(ftps, "A file of an FTP server, encrypted (for reading)");
