/*
 * Encrypted qcow2 images: guest data is encrypted, metadata is not. Method 2 is LUKS: a header extension says where in the image
 * a LUKS header lies, and sectors are counted by their place in the image. Method 1 is the legacy AES-128-CBC whose key is the
 * pass phrase itself; sectors are counted by the guest's address.
 *
 * Compressed clusters are never encrypted.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "block/crypt/crypt.h"
#include "block/format/qcow2.h"
#include "crypto/secret.h"

enum { PIECE = 1024 * 1024, EXTENSION = 16 };

struct Qcow2Crypt {
    uint32_t method; /* CRYPT_* */
    CryptStore store;
    Luks luks;
    uint8_t key[LUKS_MAX_KEY];
    BlockCrypt *crypt; /* NULL: opened for its facts only */
};

void qcow2_crypt_free(Qcow2 *q)
{
    if (q->crypt) {
        block_crypt_free(q->crypt->crypt);
        explicit_bzero(q->crypt, sizeof(*q->crypt));
        g_clear_pointer(&q->crypt, g_free);
    }
    q->node->encrypted = false;
}

/* --- data --- */

static uint64_t vector_of(const Qcow2 *q, uint64_t guest, uint64_t host)
{
    return q->crypt->method == CRYPT_LUKS ? host : guest;
}

int qcow2_read_encrypted_co(Qcow2 *q, uint64_t guest, uint64_t host, uint64_t bytes, const BlockVec *vec, size_t at)
{
    BlockCrypt *crypt = q->crypt->crypt;
    g_autofree uint8_t *buf = crypt ? g_try_malloc(MIN(bytes, PIECE)) : NULL;
    int ret = !crypt ? -EACCES : buf ? 0 : -ENOMEM;

    while (bytes && ret >= 0) {
        size_t part = (size_t)MIN(bytes, PIECE);
        ret = node_pread_co(q->data, host, part, buf);
        ret = ret < 0 ? ret : block_decrypt_co(crypt, vector_of(q, guest, host), buf, part);
        if (ret >= 0) {
            block_vec_from_buffer(vec, at, buf, part);
        }
        guest += part;
        host += part;
        at += part;
        bytes -= part;
    }
    return ret;
}

int qcow2_write_encrypted_co(Qcow2 *q, uint64_t guest, uint64_t host, uint64_t bytes, const BlockVec *vec, size_t at)
{
    BlockCrypt *crypt = q->crypt->crypt;
    g_autofree uint8_t *buf = crypt ? g_try_malloc(MIN(bytes, PIECE)) : NULL;
    int ret = !crypt ? -EACCES : buf ? 0 : -ENOMEM;

    while (bytes && ret >= 0) {
        size_t part = (size_t)MIN(bytes, PIECE);
        block_vec_to_buffer(vec, at, buf, part);
        ret = block_encrypt_co(crypt, vector_of(q, guest, host), buf, part);
        ret = ret < 0 ? ret : node_pwrite_co(q->data, host, part, buf, 0);
        guest += part;
        host += part;
        at += part;
        bytes -= part;
    }
    return ret;
}

/* --- opening --- */

static Error *open_aes(Qcow2 *q, const char *secret)
{
    return crypt_open_aes(q->node->graph, secret, "encrypt.", &q->crypt->crypt);
}

static Error *find_luks_header(Qcow2 *q, uint64_t *ret_offset, uint64_t *ret_bytes)
{
    const Qcow2Extension *ext = qcow2_find_extension(q, EXT_CRYPTO);

    if (!ext) {
        return error_new("Missing CRYPTO header for crypt method %u", CRYPT_LUKS);
    }
    if (ext->length != EXTENSION) {
        return error_new("CRYPTO header extension size %u, but expected size %d", ext->length, EXTENSION);
    }
    uint64_t offset = ld64_be(ext->data), bytes = ld64_be(ext->data + 8);
    if (!offset || qcow2_in_cluster(q, offset)) {
        return error_new("Encryption header offset '%" PRIu64 "' is not a multiple of cluster size '%" PRIu64 "'", offset,
                         q->cluster_size);
    }
    if (!range_inside(offset, bytes, q->file->size)) {
        return error_new("The encryption header lies beyond the end of the image");
    }
    *ret_offset = offset;
    *ret_bytes = bytes;
    return NULL;
}

static Error *load_luks_co(Qcow2 *q)
{
    uint64_t offset, bytes;

    TRY(find_luks_header(q, &offset, &bytes));
    crypt_store_init(&q->crypt->store, q->file, offset, bytes);
    return luks_load_co(&q->crypt->store.luks, &q->crypt->luks);
}

static Error *open_luks_co(Qcow2 *q, const char *secret)
{
    struct Qcow2Crypt *c = q->crypt;
    return crypt_open_luks_co(q->node->graph, secret, "encrypt.", &c->luks, &c->store.luks, c->key, &c->crypt);
}

static const char *method_name(uint32_t method)
{
    return method == CRYPT_LUKS ? "luks" : "aes";
}

static void use_crypt(Qcow2 *q, uint32_t method)
{
    q->crypt = g_new0(struct Qcow2Crypt, 1);
    q->crypt->method = method;
    q->node->encrypted = true;
    q->node->limits.request_align = MAX(q->node->limits.request_align, CRYPT_SECTOR);
}

Error *qcow2_crypt_open_co(Qcow2 *q, KeyValues *opts)
{
    g_autofree char *format = keyvalues_take(opts, "encrypt.format"), *secret = keyvalues_take(opts, "encrypt.key-secret");

    if (format && strcmp(format, "luks") && strcmp(format, "aes")) {
        return error_new("Parameter 'encrypt.format' does not accept value '%s'", format);
    }
    if (!q->crypt_method) {
        return format ? error_new("The image is not encrypted, yet the options ask for encryption "
                                  "of format '%s'", format) : NULL;
    }
    if (format && strcmp(format, method_name(q->crypt_method))) {
        return error_new("Header reported '%s' encryption format but options specify '%s'", method_name(q->crypt_method), format);
    }
    use_crypt(q, q->crypt_method);
    if (q->crypt_method == CRYPT_LUKS) {
        TRY(load_luks_co(q));
    }
    if (q->node->no_io) {
        return NULL;
    }
    return q->crypt_method == CRYPT_LUKS ? open_luks_co(q, secret) : open_aes(q, secret);
}

bool qcow2_crypt_header(const Qcow2 *q, uint64_t *ret_offset, uint64_t *ret_bytes)
{
    if (!q->crypt || q->crypt->method != CRYPT_LUKS) {
        return false;
    }
    *ret_offset = q->crypt->store.offset;
    *ret_bytes = q->crypt->store.luks.size;
    return true;
}

void qcow2_crypt_info(const Qcow2 *q, Value *data)
{
    if (q->crypt) {
        Value *encrypt = value_dict();
        if (q->crypt->method == CRYPT_LUKS) {
            crypt_info(&q->crypt->luks, "luks", encrypt);
        } else {
            value_put_str(encrypt, "format", "aes");
        }
        value_put(data, "encrypt", encrypt);
    }
}

/* --- creation --- */

static const char *first_option(const KeyValues *opts)
{
    for (guint i = 0; i < opts->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(opts->items, i);
        if (g_str_has_prefix(item->key, "encrypt.")) {
            return item->key;
        }
    }
    return NULL;
}

static Error *find_method(KeyValues *opts, uint32_t *ret_method)
{
    g_autofree char *format = keyvalues_take(opts, "encrypt.format");
    bool legacy;

    TRY(block_take_bool(opts, "encryption", false, &legacy));
    if (legacy && format) {
        return error_new("'encrypt.format' and its alias 'encryption' can't be used at the same time");
    }
    if (format && strcmp(format, "luks") && strcmp(format, "aes")) {
        return error_new("Parameter 'encrypt.format' does not accept value '%s'", format);
    }
    *ret_method = legacy ? CRYPT_AES : !format ? 0 : !strcmp(format, "luks") ? CRYPT_LUKS : CRYPT_AES;
    return NULL;
}

Error *qcow2_crypt_take_create(KeyValues *opts, uint32_t *ret_method, CryptCreate *ret_create)
{
    uint32_t method;

    TRY(find_method(opts, &method));
    if (method == CRYPT_LUKS) {
        TRY(crypt_take_create(opts, "encrypt.", ret_create));
    } else if (!method && first_option(opts)) {
        return error_new("Parameter 'encrypt.format' is missing");
    } else {
        g_autofree char *secret = keyvalues_take(opts, "encrypt.key-secret");
        if (first_option(opts)) {
            return error_new("Parameter '%s' is unknown or has no place here", first_option(opts));
        }
        *ret_create = (CryptCreate) { .secret = g_steal_pointer(&secret) };
    }
    *ret_method = method;
    return NULL;
}

/* Clusters for the header, full of zeroes. */
static Error *make_room_co(Qcow2 *q, uint64_t bytes, uint64_t *ret_offset)
{
    uint64_t clusters = qcow2_clusters(q, bytes);

    co_mutex_lock(&q->lock);
    int ret = qcow2_alloc_exact_co(q, clusters, ret_offset);
    ret = ret < 0 ? ret : qcow2_settle_co(q);
    co_mutex_unlock(&q->lock);
    ret = ret < 0 ? ret : node_write_zeroes_co(q->file, *ret_offset, clusters << q->cluster_bits, 0);
    return ret < 0 ? error_new_errno(ret, "Could not make room for the encryption header") : NULL;
}

static void add_extension(Qcow2 *q, uint64_t offset, uint64_t bytes)
{
    Qcow2Extension *ext = g_new0(Qcow2Extension, 1);

    *ext = (Qcow2Extension) { EXT_CRYPTO, EXTENSION, g_malloc0(EXTENSION) };
    st64_be(ext->data, offset);
    st64_be(ext->data + 8, bytes);
    g_ptr_array_add(q->extensions, ext);
}

static Error *make_luks_co(Qcow2 *q, const CryptCreate *create, const char *pass)
{
    struct Qcow2Crypt *c = q->crypt;
    uint64_t bytes = luks_header_size(&create->spec), offset;

    TRY(make_room_co(q, bytes, &offset));
    crypt_store_init(&c->store, q->file, offset, bytes);
    TRY(luks_make_co(&create->spec, &c->store.luks, pass, create->iter_time, &c->luks, c->key));
    add_extension(q, offset, bytes);
    co_mutex_lock(&q->lock);
    Error *err = qcow2_rewrite_header_co(q);
    co_mutex_unlock(&q->lock);
    return err ? err : block_crypt_new(&create->spec, c->key, c->luks.key_size, &c->crypt);
}

/* The image says that it is encrypted when everything is there. */
static Error *write_method_co(Qcow2 *q)
{
    uint8_t raw[4];

    q->crypt_method = q->crypt->method;
    st32_be(raw, q->crypt_method);
    int ret = node_pwrite_co(q->file, H_CRYPT, sizeof(raw), raw, 0);
    return ret < 0 ? error_new_errno(ret, "The qcow2 header could not be written") : NULL;
}

Error *qcow2_crypt_make_co(Qcow2 *q, uint32_t method, const CryptCreate *create)
{
    use_crypt(q, method);
    if (method == CRYPT_AES) {
        TRY(open_aes(q, create->secret));
    } else {
        char *pass;
        TRY(crypt_pass(q->node->graph, create->secret, "encrypt.", &pass));
        Error *err = make_luks_co(q, create, pass);
        secret_free_text(pass);
        TRY(err);
    }
    return write_method_co(q);
}

/* --- amending --- */

Error *qcow2_crypt_amend_co(Qcow2 *q, KeyValues *opts, bool force)
{
    if (!first_option(opts)) {
        return NULL;
    }
    if (!q->crypt) {
        return error_new("The image is not encrypted, so it has no encryption options to amend");
    }
    if (q->crypt->method != CRYPT_LUKS) {
        return error_new("Encryption options can be amended in images with LUKS only");
    }
    return crypt_amend_co(q->node->graph, opts, "encrypt.", force, &q->crypt->luks, &q->crypt->store.luks, q->crypt->key);
}
