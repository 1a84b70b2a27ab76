/*
 * Driver "luks": LUKS1 volumes, as cryptsetup and dm-crypt have them. The header and key slots are crypto/luks.h; behind them
 * lie the data, every sector encrypted with its number, counted from the payload's beginning.
 *
 * With header=NODE the header lies in another image, and the data begin where it says, at 0 in images that are made so.
 *
 * Missing: LUKS2.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/crypt/crypt.h"
#include "crypto/secret.h"

typedef struct LuksState {
    Luks luks;
    CryptStore store;
    BlockCrypt *crypt; /* NULL: opened for its facts only */
    uint8_t key[LUKS_MAX_KEY];
    uint64_t payload; /* bytes */
    bool detached;
} LuksState;

enum { PIECE = 1024 * 1024 };

static int probe(const uint8_t *data, size_t length, const char *filename)
{
    return luks_probe(data, length) ? 100 : 0;
}

static Error *set_size(BlockNode *node)
{
    LuksState *s = node->state;
    uint64_t whole = node->file->node->size;

    if (whole < s->payload) {
        return error_new("The LUKS volume is cut off: its data begin at %" PRIu64 ", behind the end of the image", s->payload);
    }
    node->size = ALIGN_DOWN(whole - s->payload, (uint64_t)CRYPT_SECTOR);
    return NULL;
}

static Error *open_co(BlockNode *node, KeyValues *opts)
{
    LuksState *s = node->state;
    g_autofree char *secret = keyvalues_take(opts, "key-secret");
    BlockEdge *header;

    TRY(node_open_child_co(node, opts, "header", NULL, &header));
    BlockNode *store = header ? header->node : node->file->node;
    crypt_store_init(&s->store, store, 0, store->size);
    TRY(luks_load_co(&s->store.luks, &s->luks));
    s->detached = header != NULL;
    if (!s->luks.payload && !s->detached && !node->no_io) {
        return error_hint(error_new("The LUKS header is detached: its data lie in another image"),
                          "Name both: driver=luks,file.filename=DATA,header.filename=HEADER");
    }
    s->payload = (uint64_t)s->luks.payload * LUKS_SECTOR;
    TRY(set_size(node));
    node->limits.request_align = CRYPT_SECTOR;
    node->encrypted = true;
    if (node->no_io) {
        return NULL;
    }
    Error *err = crypt_open_luks_co(node->graph, secret, "", &s->luks, &s->store.luks, s->key, &s->crypt);
    if (err) {
        explicit_bzero(s->key, sizeof(s->key));
    }
    return err;
}

static void close_co(BlockNode *node)
{
    LuksState *s = node->state;

    block_crypt_free(s->crypt);
    explicit_bzero(s, sizeof(*s));
}

/* --- data --- */

static int preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    LuksState *s = node->state;
    g_autofree uint8_t *buf = s->crypt ? g_try_malloc(MIN(bytes, PIECE)) : NULL;
    int code = s->crypt ? buf ? 0 : -ENOMEM : -EACCES;

    while (bytes && code >= 0) {
        size_t part = (size_t)MIN(bytes, PIECE);
        code = node_pread_co(node->file->node, s->payload + offset, part, buf);
        code = code < 0 ? code : block_decrypt_co(s->crypt, offset, buf, part);
        if (code >= 0) {
            block_vec_from_buffer(vec, at, buf, part);
        }
        offset += part;
        at += part;
        bytes -= part;
    }
    return code;
}

static int pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at, unsigned flags)
{
    LuksState *s = node->state;
    g_autofree uint8_t *buf = s->crypt ? g_try_malloc(MIN(bytes, PIECE)) : NULL;
    int code = s->crypt ? buf ? 0 : -ENOMEM : -EACCES;

    while (bytes && code >= 0) {
        size_t part = (size_t)MIN(bytes, PIECE);
        block_vec_to_buffer(vec, at, buf, part);
        code = block_encrypt_co(s->crypt, offset, buf, part);
        code = code < 0 ? code : node_pwrite_co(node->file->node, s->payload + offset, part, buf, flags);
        offset += part;
        at += part;
        bytes -= part;
    }
    return code;
}

static Error *truncate_co(BlockNode *node, uint64_t size, Preallocation prealloc)
{
    LuksState *s = node->state;

    if (size > INT64_MAX - s->payload) {
        return error_new("The requested file size is too large");
    }
    TRY(node_truncate_co(node->file->node, s->payload + size, prealloc));
    s->store.luks.size = s->store.node->size;
    return set_size(node);
}

/* --- creation --- */

static Error *make_co(BlockGraph *graph, BlockNode *file, const CryptCreate *create, uint64_t size, Preallocation prealloc,
                      bool detached)
{
    uint64_t header = luks_header_size(&create->spec);
    uint8_t key[LUKS_MAX_KEY];
    CryptStore store;
    Luks luks;
    char *pass;

    if (size > INT64_MAX - header) {
        return error_new("The requested file size is too large");
    }
    TRY(crypt_pass(graph, create->secret, "", &pass));
    Error *err = node_truncate_co(file, header + size, prealloc == PREALLOC_METADATA ? PREALLOC_OFF : prealloc);
    if (!err) {
        crypt_store_init(&store, file, 0, header);
        err = luks_make_co(&create->spec, &store.luks, pass, create->iter_time, &luks, key);
    }
    if (!err && detached) { /* the data begin at the beginning of another image */
        err = luks_set_payload_co(&luks, &store.luks, 0);
    }
    secret_free_text(pass);
    explicit_bzero(key, sizeof(key));
    return err;
}

static Error *create_co(BlockGraph *graph, const char *filename, BlockNode *file, KeyValues *opts)
{
    CryptCreate create;
    uint64_t size;
    Preallocation prealloc = PREALLOC_OFF;
    bool detached;

    TRY(block_take_size(opts, "size", 0, &size));
    TRY(block_take_bool(opts, "detached-header", false, &detached));
    if (detached && size) {
        return error_new("A detached header has no data: leave out the size, or give 0");
    }
    g_autofree char *mode = keyvalues_take(opts, "preallocation");
    if (mode) {
        TRY(block_parse_preallocation(mode, &prealloc));
    }
    TRY(crypt_take_create(opts, "", &create));
    Error *err = make_co(graph, file, &create, ALIGN_UP(size, (uint64_t)CRYPT_SECTOR), prealloc, detached);
    crypt_create_clear(&create);
    return err;
}

static Error *amend_co(BlockNode *node, KeyValues *opts, bool force)
{
    LuksState *s = node->state;
    return crypt_amend_co(node->graph, opts, "", force, &s->luks, &s->store.luks, s->key);
}

static Error *measure(KeyValues *opts, uint64_t size, uint64_t data_bytes, BlockMeasure *ret)
{
    CryptCreate create;

    TRY(crypt_take_create(opts, "", &create));
    uint64_t whole = luks_header_size(&create.spec) + ALIGN_UP(size, (uint64_t)CRYPT_SECTOR);
    crypt_create_clear(&create);
    *ret = (BlockMeasure) { .required = whole, .fully_allocated = whole };
    return NULL;
}

static void info(BlockNode *node, Value *data)
{
    crypt_info(&((LuksState *)node->state)->luks, NULL, data);
}

static const BlockOption options[] = {
    { "header", OPT_STR, "The image that has the header, where it does not lie before the data" },
    { "key-secret", OPT_STR, "Id of the secret with the passphrase of the key slot" },
    { 0 },
};
static const BlockOption create_options[] = {
    CRYPT_LUKS_OPTIONS(""),
    { "detached-header", OPT_BOOL, "Make a header only, for data in an image of their own" },
    { "key-secret", OPT_STR, "Id of the secret with the passphrase of the key slot" },
    { "size", OPT_SIZE, "Virtual disk size" },
    { 0 },
};
static const BlockOption amend_options[] = { CRYPT_AMEND_OPTIONS(""), { 0 } };

BLOCK_DRIVER(luks, .name = "luks", .desc = "LUKS1 encrypted volume", .deciding = (const char *const[]) { "key-secret", "header", "header.", NULL }, .state_size = sizeof(LuksState), .options = options,
             .create_options = create_options, .amend_options = amend_options, .probe = probe, .open_co = open_co,
             .close_co = close_co, .create_co = create_co, .preadv_co = preadv_co, .pwritev_co = pwritev_co,
             .truncate_co = truncate_co, .amend_co = amend_co, .measure = measure, .info = info, .write_flags = REQ_FUA);
