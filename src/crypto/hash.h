/* Hashes and the derivation of keys from pass phrases. Any thread. */
#ifndef OSTRICH_CRYPTO_HASH_H
#define OSTRICH_CRYPTO_HASH_H

#include "base/error.h"

typedef enum HashAlgo { HASH_MD5, HASH_SHA1, HASH_SHA224, HASH_SHA256, HASH_SHA384, HASH_SHA512, HASH_RIPEMD160, HASH_ALGOS } HashAlgo;

enum { HASH_MAX_SIZE = 64 };

const char *hash_name(HashAlgo algo); /* "sha256" */
bool hash_find(const char *name, HashAlgo *ret_algo);
size_t hash_size(HashAlgo algo); /* bytes of the digest */

/* ret_digest has hash_size() bytes. */
Error *hash_bytes(HashAlgo algo, const void *data, size_t size, uint8_t *ret_digest) MUST_USE;

/* PBKDF2 (RFC 8018, 5.2) with HMAC of `algo`; key_size bytes. */
Error *pbkdf2(HashAlgo algo, const void *secret, size_t secret_size, const void *salt, size_t salt_size, uint64_t iterations,
              uint8_t *ret_key, size_t key_size) MUST_USE;
/* How many iterations take about `ms` milliseconds of this thread's CPU time for a key of that size; at least 1000. */
Error *pbkdf2_iterations(HashAlgo algo, size_t key_size, unsigned ms, uint64_t *ret_iterations) MUST_USE;

#endif
