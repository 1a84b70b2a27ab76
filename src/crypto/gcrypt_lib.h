/* libgcrypt, opened at first use: ciphers, hashes, key derivation. For this folder only. */
#ifndef OSTRICH_CRYPTO_GCRYPT_LIB_H
#define OSTRICH_CRYPTO_GCRYPT_LIB_H

#include <gcrypt.h>

#include "base/library.h"

#define GCRYPT_CALLS(C) \
    C(gcry_check_version) C(gcry_control) C(gcry_strerror) C(gcry_cipher_open) C(gcry_cipher_close) C(gcry_cipher_setkey) \
    C(gcry_cipher_setiv) C(gcry_cipher_setctr) C(gcry_cipher_encrypt) C(gcry_cipher_decrypt) C(gcry_md_hash_buffer) \
    C(gcry_md_get_algo_dlen) C(gcry_kdf_derive)

typedef struct GcryptApi {
    GCRYPT_CALLS(LIBRARY_POINTER)
} GcryptApi;

/* The table lives for ever. Any thread. */
Error *gcrypt_lib(const GcryptApi **ret_lib) MUST_USE;

#endif
