#include "crypto/cipher.h"

#include <string.h>

#include "crypto/gcrypt_lib.h"

static const struct {
    const char *name;
    int gcrypt;
    uint8_t key_size, block_size;
} algos[CIPHER_ALGOS] = {
    [CIPHER_AES_128] = { "aes-128", GCRY_CIPHER_AES128, 16, 16 },
    [CIPHER_AES_192] = { "aes-192", GCRY_CIPHER_AES192, 24, 16 },
    [CIPHER_AES_256] = { "aes-256", GCRY_CIPHER_AES256, 32, 16 },
    [CIPHER_CAST5_128] = { "cast5-128", GCRY_CIPHER_CAST5, 16, 8 },
    [CIPHER_SERPENT_128] = { "serpent-128", GCRY_CIPHER_SERPENT128, 16, 16 },
    [CIPHER_SERPENT_192] = { "serpent-192", GCRY_CIPHER_SERPENT192, 24, 16 },
    [CIPHER_SERPENT_256] = { "serpent-256", GCRY_CIPHER_SERPENT256, 32, 16 },
    [CIPHER_TWOFISH_128] = { "twofish-128", GCRY_CIPHER_TWOFISH128, 16, 16 },
    [CIPHER_TWOFISH_256] = { "twofish-256", GCRY_CIPHER_TWOFISH, 32, 16 },
};

static const struct {
    const char *name;
    int gcrypt;
} modes[CIPHER_MODES] = {
    [CIPHER_ECB] = { "ecb", GCRY_CIPHER_MODE_ECB },
    [CIPHER_CBC] = { "cbc", GCRY_CIPHER_MODE_CBC },
    [CIPHER_XTS] = { "xts", GCRY_CIPHER_MODE_XTS },
    [CIPHER_CTR] = { "ctr", GCRY_CIPHER_MODE_CTR },
};

const char *cipher_name(CipherAlgo algo)
{
    return algos[algo].name;
}

bool cipher_find(const char *name, CipherAlgo *ret_algo)
{
    for (unsigned n = 0; n < CIPHER_ALGOS; n++) {
        if (!strcmp(algos[n].name, name)) {
            *ret_algo = n;
            return true;
        }
    }
    return false;
}

const char *cipher_mode_name(CipherMode mode)
{
    return modes[mode].name;
}

bool cipher_mode_find(const char *name, CipherMode *ret_mode)
{
    for (unsigned n = 0; n < CIPHER_MODES; n++) {
        if (!strcmp(modes[n].name, name)) {
            *ret_mode = n;
            return true;
        }
    }
    return false;
}

size_t cipher_key_size(CipherAlgo algo, CipherMode mode)
{
    return mode == CIPHER_XTS ? 2u * algos[algo].key_size : algos[algo].key_size;
}

size_t cipher_block_size(CipherAlgo algo)
{
    return algos[algo].block_size;
}

struct Cipher {
    const GcryptApi *lib;
    gcry_cipher_hd_t handle;
    CipherMode mode;
    uint8_t block_size;
};

static Error *gcrypt_error(const GcryptApi *lib, const char *what, CipherAlgo algo, CipherMode mode, gcry_error_t code)
{
    return error_new("%s %s-%s: %s", what, algos[algo].name, modes[mode].name, lib->gcry_strerror(code));
}

Error *cipher_new(CipherAlgo algo, CipherMode mode, const uint8_t *key, size_t key_size, Cipher **ret_cipher)
{
    const GcryptApi *lib;
    gcry_cipher_hd_t handle;

    if (key_size != cipher_key_size(algo, mode)) {
        return error_new("a key of %s-%s has %zu bytes, not %zu", algos[algo].name, modes[mode].name, cipher_key_size(algo, mode),
                         key_size);
    }
    TRY(gcrypt_lib(&lib));
    gcry_error_t code = lib->gcry_cipher_open(&handle, algos[algo].gcrypt, modes[mode].gcrypt, 0);
    if (code) {
        return gcrypt_error(lib, "the cipher library does not have", algo, mode, code);
    }
    code = lib->gcry_cipher_setkey(handle, key, key_size);
    if (code) {
        lib->gcry_cipher_close(handle);
        return gcrypt_error(lib, "a key for", algo, mode, code);
    }
    Cipher *cipher = g_new0(Cipher, 1);
    *cipher = (Cipher){ .lib = lib, .handle = handle, .mode = mode, .block_size = algos[algo].block_size };
    *ret_cipher = cipher;
    return NULL;
}

void cipher_free(Cipher *cipher)
{
    if (cipher) {
        cipher->lib->gcry_cipher_close(cipher->handle);
        g_free(cipher);
    }
}

static Error *run(Cipher *cipher, const uint8_t *iv, const void *in, void *out, size_t size, bool encrypt)
{
    const GcryptApi *lib = cipher->lib;

    assert(size % cipher->block_size == 0 && (iv != NULL) == (cipher->mode != CIPHER_ECB));
    gcry_error_t code = 0;
    if (iv) {
        code = cipher->mode == CIPHER_CTR ? lib->gcry_cipher_setctr(cipher->handle, iv, cipher->block_size)
                                          : lib->gcry_cipher_setiv(cipher->handle, iv, cipher->block_size);
    }
    const void *from = in == out ? NULL : in; /* the library's form of "in place" */
    size_t from_size = in == out ? 0 : size;
    if (!code) {
        code = encrypt ? lib->gcry_cipher_encrypt(cipher->handle, out, size, from, from_size)
                       : lib->gcry_cipher_decrypt(cipher->handle, out, size, from, from_size);
    }
    return code ? error_new("the cipher library: %s", lib->gcry_strerror(code)) : NULL;
}

Error *cipher_encrypt(Cipher *cipher, const uint8_t *iv, const void *in, void *out, size_t size)
{
    return run(cipher, iv, in, out, size, true);
}

Error *cipher_decrypt(Cipher *cipher, const uint8_t *iv, const void *in, void *out, size_t size)
{
    return run(cipher, iv, in, out, size, false);
}
