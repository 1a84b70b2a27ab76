/* Disk sectors: one initial vector a sector, from its number (dm-crypt's "plain", "plain64" and "essiv:HASH"). */
#include <string.h>

#include "base/endian.h"
#include "crypto/cipher.h"

static const char *const gen_names[IV_GENS] = { [IV_PLAIN] = "plain", [IV_PLAIN64] = "plain64", [IV_ESSIV] = "essiv" };

const char *iv_gen_name(IvGen gen)
{
    return gen_names[gen];
}

bool iv_gen_find(const char *name, IvGen *ret_gen)
{
    for (unsigned n = 0; n < IV_GENS; n++) {
        if (!strcmp(gen_names[n], name)) {
            *ret_gen = n;
            return true;
        }
    }
    return false;
}

struct SectorCipher {
    Cipher *cipher, *iv_cipher; /* iv_cipher: ESSIV only */
    IvGen gen;
    bool has_iv;
    size_t block_size;
};

/* The cipher of the same family whose key is as long as the hash. */
static Error *essiv_algo(CipherAlgo algo, HashAlgo hash, CipherAlgo *ret_algo)
{
    const char *dash = strchr(cipher_name(algo), '-');
    g_autofree char *name = g_strdup_printf("%.*s-%zu", (int)(dash - cipher_name(algo)), cipher_name(algo), 8 * hash_size(hash));

    if (!cipher_find(name, ret_algo)) {
        return error_new("essiv:%s needs the cipher %s, which does not exist", hash_name(hash), name);
    }
    return NULL;
}

static Error *new_iv_cipher(CipherAlgo algo, HashAlgo hash, const uint8_t *key, size_t key_size, Cipher **ret_cipher)
{
    uint8_t digest[HASH_MAX_SIZE];
    CipherAlgo essiv;

    TRY(essiv_algo(algo, hash, &essiv));
    TRY(hash_bytes(hash, key, key_size, digest));
    Error *err = cipher_new(essiv, CIPHER_ECB, digest, hash_size(hash), ret_cipher);
    explicit_bzero(digest, sizeof(digest));
    return err;
}

Error *sector_cipher_new(CipherAlgo algo, CipherMode mode, IvGen gen, HashAlgo iv_hash, const uint8_t *key, size_t key_size,
                         SectorCipher **ret_cipher)
{
    g_autoptr(SectorCipher) cipher = g_new0(SectorCipher, 1);

    cipher->gen = gen;
    cipher->has_iv = mode != CIPHER_ECB;
    cipher->block_size = cipher_block_size(algo);
    TRY(cipher_new(algo, mode, key, key_size, &cipher->cipher));
    if (cipher->has_iv && gen == IV_ESSIV) {
        TRY(new_iv_cipher(algo, iv_hash, key, key_size, &cipher->iv_cipher));
        if (cipher_block_size(algo) < sizeof(uint64_t)) {
            return error_new("essiv needs a cipher with blocks of at least 8 bytes");
        }
    }
    *ret_cipher = g_steal_pointer(&cipher);
    return NULL;
}

void sector_cipher_free(SectorCipher *cipher)
{
    if (cipher) {
        cipher_free(cipher->cipher);
        cipher_free(cipher->iv_cipher);
        g_free(cipher);
    }
}

static Error *make_iv(SectorCipher *cipher, uint64_t sector, uint8_t iv[CIPHER_MAX_BLOCK])
{
    memset(iv, 0, CIPHER_MAX_BLOCK);
    st_le(iv, cipher->gen == IV_PLAIN ? (uint32_t)sector : sector, 8);
    return cipher->iv_cipher ? cipher_encrypt(cipher->iv_cipher, NULL, iv, iv, cipher->block_size) : NULL;
}

static Error *each_sector(SectorCipher *cipher, uint64_t sector, size_t sector_size, uint8_t *buf, size_t size,
                          Error *(*transform)(Cipher *cipher, const uint8_t *iv, const void *in, void *out, size_t size))
{
    uint8_t iv[CIPHER_MAX_BLOCK];

    assert(size % sector_size == 0);
    for (; size; size -= sector_size, buf += sector_size, sector++) {
        if (cipher->has_iv) {
            TRY(make_iv(cipher, sector, iv));
        }
        TRY(transform(cipher->cipher, cipher->has_iv ? iv : NULL, buf, buf, sector_size));
    }
    return NULL;
}

Error *sector_encrypt(SectorCipher *cipher, uint64_t sector, size_t sector_size, uint8_t *buf, size_t size)
{
    return each_sector(cipher, sector, sector_size, buf, size, cipher_encrypt);
}

Error *sector_decrypt(SectorCipher *cipher, uint64_t sector, size_t sector_size, uint8_t *buf, size_t size)
{
    return each_sector(cipher, sector, sector_size, buf, size, cipher_decrypt);
}
