/*
 * Block ciphers, and the encryption of disk sectors with them. A Cipher or SectorCipher is used by one thread at a time.
 */
#ifndef OSTRICH_CRYPTO_CIPHER_H
#define OSTRICH_CRYPTO_CIPHER_H

#include "crypto/hash.h"

typedef enum CipherAlgo {
    CIPHER_AES_128,
    CIPHER_AES_192,
    CIPHER_AES_256,
    CIPHER_CAST5_128,
    CIPHER_SERPENT_128,
    CIPHER_SERPENT_192,
    CIPHER_SERPENT_256,
    CIPHER_TWOFISH_128,
    CIPHER_TWOFISH_256,
    CIPHER_ALGOS,
} CipherAlgo;

typedef enum CipherMode { CIPHER_ECB, CIPHER_CBC, CIPHER_XTS, CIPHER_CTR, CIPHER_MODES } CipherMode;

enum { CIPHER_MAX_BLOCK = 16 };

const char *cipher_name(CipherAlgo algo); /* "aes-256" */
bool cipher_find(const char *name, CipherAlgo *ret_algo);
const char *cipher_mode_name(CipherMode mode); /* "xts" */
bool cipher_mode_find(const char *name, CipherMode *ret_mode);
/* Bytes of the key: twice the cipher's in XTS mode. */
size_t cipher_key_size(CipherAlgo algo, CipherMode mode);
size_t cipher_block_size(CipherAlgo algo);

typedef struct Cipher Cipher;

Error *cipher_new(CipherAlgo algo, CipherMode mode, const uint8_t *key, size_t key_size, Cipher **ret_cipher) MUST_USE;
void cipher_free(Cipher *cipher); /* accepts NULL */
/* iv: a block, NULL with ECB. size: a multiple of the block. `in` and `out` may be the same. */
Error *cipher_encrypt(Cipher *cipher, const uint8_t *iv, const void *in, void *out, size_t size) MUST_USE;
Error *cipher_decrypt(Cipher *cipher, const uint8_t *iv, const void *in, void *out, size_t size) MUST_USE;

/* --- sectors: each one is encrypted by itself, with an initial vector made of its number --- */

typedef enum IvGen { IV_PLAIN, IV_PLAIN64, IV_ESSIV, IV_GENS } IvGen;

const char *iv_gen_name(IvGen gen);
bool iv_gen_find(const char *name, IvGen *ret_gen);

typedef struct SectorCipher SectorCipher;

/* iv_hash: with ESSIV only, the hash that makes the key of the vectors' cipher. */
Error *sector_cipher_new(CipherAlgo algo, CipherMode mode, IvGen gen, HashAlgo iv_hash, const uint8_t *key, size_t key_size,
                         SectorCipher **ret_cipher) MUST_USE;
void sector_cipher_free(SectorCipher *cipher); /* accepts NULL */
/* In place; size: a multiple of sector_size, which is a multiple of the block. */
Error *sector_encrypt(SectorCipher *cipher, uint64_t sector, size_t sector_size, uint8_t *buf, size_t size) MUST_USE;
Error *sector_decrypt(SectorCipher *cipher, uint64_t sector, size_t sector_size, uint8_t *buf, size_t size) MUST_USE;

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Cipher, cipher_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SectorCipher, sector_cipher_free)

#endif
