#include "crypto/hash.h"

#include <string.h>
#include <time.h>

#include "crypto/gcrypt_lib.h"

static const struct {
    const char *name;
    int gcrypt;
    uint8_t size;
} hashes[HASH_ALGOS] = {
    [HASH_MD5] = { "md5", GCRY_MD_MD5, 16 },          [HASH_SHA1] = { "sha1", GCRY_MD_SHA1, 20 },
    [HASH_SHA224] = { "sha224", GCRY_MD_SHA224, 28 }, [HASH_SHA256] = { "sha256", GCRY_MD_SHA256, 32 },
    [HASH_SHA384] = { "sha384", GCRY_MD_SHA384, 48 }, [HASH_SHA512] = { "sha512", GCRY_MD_SHA512, 64 },
    [HASH_RIPEMD160] = { "ripemd160", GCRY_MD_RMD160, 20 },
};

const char *hash_name(HashAlgo algo)
{
    return hashes[algo].name;
}

bool hash_find(const char *name, HashAlgo *ret_algo)
{
    for (unsigned n = 0; n < HASH_ALGOS; n++) {
        if (!strcmp(hashes[n].name, name)) {
            *ret_algo = n;
            return true;
        }
    }
    return false;
}

size_t hash_size(HashAlgo algo)
{
    return hashes[algo].size;
}

Error *hash_bytes(HashAlgo algo, const void *data, size_t size, uint8_t *ret_digest)
{
    const GcryptApi *lib;

    TRY(gcrypt_lib(&lib));
    if (lib->gcry_md_get_algo_dlen(hashes[algo].gcrypt) != hashes[algo].size) {
        return error_new("the cipher library does not have the hash %s", hashes[algo].name);
    }
    lib->gcry_md_hash_buffer(hashes[algo].gcrypt, ret_digest, data, size);
    return NULL;
}

Error *pbkdf2(HashAlgo algo, const void *secret, size_t secret_size, const void *salt, size_t salt_size, uint64_t iterations,
              uint8_t *ret_key, size_t key_size)
{
    const GcryptApi *lib;

    if (iterations == 0 || iterations > UINT32_MAX) {
        return error_new("%" G_GUINT64_FORMAT " iterations are out of range, 1 to %u are possible", iterations, UINT32_MAX);
    }
    TRY(gcrypt_lib(&lib));
    gcry_error_t code = lib->gcry_kdf_derive(secret, secret_size, GCRY_KDF_PBKDF2, hashes[algo].gcrypt, salt, salt_size,
                                             iterations, key_size, ret_key);
    return code ? error_new("cannot derive a key by %s: %s", hashes[algo].name, lib->gcry_strerror(code)) : NULL;
}

static uint64_t thread_cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

Error *pbkdf2_iterations(HashAlgo algo, size_t key_size, unsigned ms, uint64_t *ret_iterations)
{
    static const uint8_t salt[32] = { 1 };
    g_autofree uint8_t *key = g_malloc(key_size);
    uint64_t iterations = 4096, took = 0;

    /* Twenty milliseconds are enough to measure by. */
    for (;; iterations *= 2) {
        uint64_t start = thread_cpu_ns();
        TRY(pbkdf2(algo, "measure", 7, salt, sizeof(salt), iterations, key, key_size));
        took = thread_cpu_ns() - start;
        if (took >= 20000000 || iterations >= BIT64(30)) {
            break;
        }
    }
    double wanted = (double)iterations * ms * 1e6 / (double)MAX(took, 1);
    *ret_iterations = (uint64_t)CLAMP(wanted, 1000.0, (double)UINT32_MAX);
    return NULL;
}
