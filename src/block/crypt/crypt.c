/*
 * Encryption on the data path. A cipher belongs to one thread at a time, so there is a stock of them: who needs one takes it,
 * or makes another with the key.
 */
#include "block/crypt/crypt.h"

#include <errno.h>
#include <string.h>

#include "crypto/secret.h"

/* Below it, handing the work to another thread costs more than it saves. */
enum { OFFLOAD = 16 * KiB };

struct BlockCrypt {
    LuksSpec spec;
    uint8_t key[LUKS_MAX_KEY];
    size_t key_size;
    GMutex lock;
    GPtrArray *idle; /* SectorCipher; under the lock */
};

static Error *make_cipher(BlockCrypt *crypt, SectorCipher **ret_cipher)
{
    const LuksSpec *spec = &crypt->spec;
    return sector_cipher_new(spec->cipher, spec->mode, spec->ivgen, spec->ivgen_hash, crypt->key, crypt->key_size, ret_cipher);
}

Error *block_crypt_new(const LuksSpec *spec, const uint8_t *key, size_t key_size, BlockCrypt **ret_crypt)
{
    g_autoptr(BlockCrypt) crypt = g_new0(BlockCrypt, 1);
    SectorCipher *cipher;

    assert(key_size <= LUKS_MAX_KEY);
    crypt->spec = *spec;
    memcpy(crypt->key, key, key_size);
    crypt->key_size = key_size;
    crypt->idle = g_ptr_array_new_with_free_func((GDestroyNotify)sector_cipher_free);
    g_mutex_init(&crypt->lock);
    TRY(make_cipher(crypt, &cipher));
    g_ptr_array_add(crypt->idle, cipher);
    *ret_crypt = g_steal_pointer(&crypt);
    return NULL;
}

void block_crypt_free(BlockCrypt *crypt)
{
    if (crypt) {
        g_ptr_array_unref(crypt->idle);
        g_mutex_clear(&crypt->lock);
        explicit_bzero(crypt, sizeof(*crypt));
        g_free(crypt);
    }
}

static SectorCipher *take_cipher(BlockCrypt *crypt)
{
    g_mutex_lock(&crypt->lock);
    SectorCipher *cipher = crypt->idle->len ? g_ptr_array_steal_index_fast(crypt->idle, crypt->idle->len - 1) : NULL;
    g_mutex_unlock(&crypt->lock);
    if (!cipher) {
        Error *err = make_cipher(crypt, &cipher);
        error_free(err);
    }
    return cipher;
}

static void put_cipher(BlockCrypt *crypt, SectorCipher *cipher)
{
    g_mutex_lock(&crypt->lock);
    g_ptr_array_add(crypt->idle, cipher);
    g_mutex_unlock(&crypt->lock);
}

typedef struct CryptCall {
    BlockCrypt *crypt;
    uint64_t sector;
    uint8_t *buf;
    size_t bytes;
    bool encrypt;
} CryptCall;

static int run_call(void *opaque)
{
    CryptCall *call = opaque;
    SectorCipher *cipher = take_cipher(call->crypt);

    if (!cipher) {
        return -ENOMEM;
    }
    Error *err = call->encrypt ? sector_encrypt(cipher, call->sector, CRYPT_SECTOR, call->buf, call->bytes)
                               : sector_decrypt(cipher, call->sector, CRYPT_SECTOR, call->buf, call->bytes);
    put_cipher(call->crypt, cipher);
    int code = err ? -EIO : 0;
    error_free(err);
    return code;
}

static int crypt_co(BlockCrypt *crypt, uint64_t offset, void *buf, size_t bytes, bool encrypt)
{
    CryptCall call = { .crypt = crypt, .sector = offset / CRYPT_SECTOR, .buf = buf, .bytes = bytes, .encrypt = encrypt };

    assert(IS_ALIGNED(offset, (uint64_t)CRYPT_SECTOR) && IS_ALIGNED(bytes, (size_t)CRYPT_SECTOR));
    return bytes < OFFLOAD ? run_call(&call) : co_blocking(run_call, &call);
}

int block_encrypt_co(BlockCrypt *crypt, uint64_t offset, void *buf, size_t bytes)
{
    return crypt_co(crypt, offset, buf, bytes, true);
}

int block_decrypt_co(BlockCrypt *crypt, uint64_t offset, void *buf, size_t bytes)
{
    return crypt_co(crypt, offset, buf, bytes, false);
}

/* --- the store of a header --- */

static int store_read_co(void *opaque, uint64_t offset, size_t size, void *buf)
{
    CryptStore *store = opaque;
    return offset > store->luks.size || size > store->luks.size - offset
               ? -EINVAL
               : node_pread_co(store->node, store->offset + offset, size, buf);
}

static int store_write_co(void *opaque, uint64_t offset, size_t size, const void *buf)
{
    CryptStore *store = opaque;
    return offset > store->luks.size || size > store->luks.size - offset
               ? -EINVAL
               : node_pwrite_co(store->node, store->offset + offset, size, buf, 0);
}

static int store_flush_co(void *opaque)
{
    return node_flush_co(((CryptStore *)opaque)->node);
}

void crypt_store_init(CryptStore *store, BlockNode *node, uint64_t offset, uint64_t size)
{
    *store = (CryptStore) {
        .node = node,
        .offset = offset,
        .luks = { .opaque = store, .size = size, .read_co = store_read_co, .write_co = store_write_co,
                  .flush_co = store_flush_co },
    };
}

/* --- opening --- */

Error *crypt_open_luks_co(BlockGraph *graph, const char *secret, const char *prefix, const Luks *luks, const LuksStore *store,
                          uint8_t ret_key[LUKS_MAX_KEY], BlockCrypt **ret_crypt)
{
    char *pass;

    TRY(crypt_pass(graph, secret, prefix, &pass));
    Error *err = luks_unlock_co(luks, store, pass, -1, ret_key, NULL);
    secret_free_text(pass);
    return err ? err : block_crypt_new(&luks->spec, ret_key, luks->key_size, ret_crypt);
}

Error *crypt_open_aes(BlockGraph *graph, const char *secret, const char *prefix, BlockCrypt **ret_crypt)
{
    LuksSpec spec = { .cipher = CIPHER_AES_128, .mode = CIPHER_CBC, .ivgen = IV_PLAIN64 };
    uint8_t key[16] = { 0 };
    char *pass;

    TRY(crypt_pass(graph, secret, prefix, &pass));
    memcpy(key, pass, MIN(strlen(pass), sizeof(key)));
    secret_free_text(pass);
    Error *err = block_crypt_new(&spec, key, sizeof(key), ret_crypt);
    explicit_bzero(key, sizeof(key));
    return err;
}
