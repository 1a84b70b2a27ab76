/* Ciphers, hashes, key derivation by the vectors of their standards; secrets. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "crypto/cipher.h"
#include "crypto/secret.h"
#include "value/keyvalues.h"

static size_t unhex(const char *text, uint8_t *bytes)
{
    size_t n = 0;
    for (; text[2 * n]; n++) {
        bytes[n] = (uint8_t)(g_ascii_xdigit_value(text[2 * n]) << 4 | g_ascii_xdigit_value(text[2 * n + 1]));
    }
    return n;
}

static void assert_bytes(const void *bytes, size_t size, const char *hex)
{
    g_autofree char *text = g_malloc0(2 * size + 1);
    for (size_t n = 0; n < size; n++) {
        sprintf(text + 2 * n, "%02x", ((const uint8_t *)bytes)[n]);
    }
    g_assert_cmpstr(text, ==, hex);
}

typedef struct CipherVector {
    CipherAlgo algo;
    CipherMode mode;
    const char *key, *iv, *plain, *encrypted;
} CipherVector;

static const CipherVector vectors[] = {
    /* FIPS 197, C.1 to C.3 */
    { CIPHER_AES_128, CIPHER_ECB, "000102030405060708090a0b0c0d0e0f", NULL, "00112233445566778899aabbccddeeff",
      "69c4e0d86a7b0430d8cdb78070b4c55a" },
    { CIPHER_AES_192, CIPHER_ECB, "000102030405060708090a0b0c0d0e0f1011121314151617", NULL, "00112233445566778899aabbccddeeff",
      "dda97ca4864cdfe06eaf70a0ec0d7191" },
    { CIPHER_AES_256, CIPHER_ECB, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", NULL,
      "00112233445566778899aabbccddeeff", "8ea2b7ca516745bfeafc49904b496089" },
    /* SP 800-38A, F.2.1 and F.5.1 */
    { CIPHER_AES_128, CIPHER_CBC, "2b7e151628aed2a6abf7158809cf4f3c", "000102030405060708090a0b0c0d0e0f",
      "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
      "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2" },
    { CIPHER_AES_128, CIPHER_CTR, "2b7e151628aed2a6abf7158809cf4f3c", "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
      "6bc1bee22e409f96e93d7e117393172a", "874d6191b620e3261bef6864990db6ce" },
    /* IEEE 1619-2007, B, vectors 1 and 2 */
    { CIPHER_AES_128, CIPHER_XTS, "0000000000000000000000000000000000000000000000000000000000000000",
      "00000000000000000000000000000000", "0000000000000000000000000000000000000000000000000000000000000000",
      "917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e" },
    { CIPHER_AES_128, CIPHER_XTS, "1111111111111111111111111111111122222222222222222222222222222222",
      "33333333330000000000000000000000", "4444444444444444444444444444444444444444444444444444444444444444",
      "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0" },
    /* RFC 2144, B.1 */
    { CIPHER_CAST5_128, CIPHER_ECB, "0123456712345678234567893456789a", NULL, "0123456789abcdef", "238b4fe5847e44b2" },
};

static void test_vectors(void)
{
    for (size_t n = 0; n < ARRAY_SIZE(vectors); n++) {
        const CipherVector *v = &vectors[n];
        uint8_t key[64], iv[16], plain[64], out[64];
        size_t key_size = unhex(v->key, key), size = unhex(v->plain, plain);
        g_autoptr(Cipher) cipher = NULL;

        g_assert_null(cipher_new(v->algo, v->mode, key, key_size, &cipher));
        if (v->iv) {
            unhex(v->iv, iv);
        }
        g_assert_null(cipher_encrypt(cipher, v->iv ? iv : NULL, plain, out, size));
        assert_bytes(out, size, v->encrypted);
        g_assert_null(cipher_decrypt(cipher, v->iv ? iv : NULL, out, out, size));
        assert_bytes(out, size, v->plain);
    }
}

static void test_every_cipher(void)
{
    uint8_t key[64] = { 1, 2, 3 }, iv[16] = { 4 }, plain[64], out[64], back[64];

    memset(plain, 0x5a, sizeof(plain));
    for (unsigned algo = 0; algo < CIPHER_ALGOS; algo++) {
        CipherAlgo found;
        g_assert_true(cipher_find(cipher_name(algo), &found) && found == algo);
        for (unsigned mode = 0; mode < CIPHER_MODES; mode++) {
            Cipher *cipher;
            if (mode == CIPHER_XTS && cipher_block_size(algo) != 16) {
                continue;
            }
            g_assert_null(cipher_new(algo, mode, key, cipher_key_size(algo, mode), &cipher));
            g_assert_null(cipher_encrypt(cipher, mode == CIPHER_ECB ? NULL : iv, plain, out, sizeof(out)));
            g_assert_cmpint(memcmp(out, plain, sizeof(out)), !=, 0);
            g_assert_null(cipher_decrypt(cipher, mode == CIPHER_ECB ? NULL : iv, out, back, sizeof(out)));
            g_assert_cmpint(memcmp(back, plain, sizeof(out)), ==, 0);
            cipher_free(cipher);
        }
    }
    Cipher *none;
    g_autoptr(Error) err = cipher_new(CIPHER_AES_256, CIPHER_XTS, key, 32, &none);
    g_assert_nonnull(strstr(error_message(err), "64 bytes, not 32"));
}

static void test_hashes(void)
{
    static const char *const of_abc[HASH_ALGOS] = {
        [HASH_MD5] = "900150983cd24fb0d6963f7d28e17f72",
        [HASH_SHA1] = "a9993e364706816aba3e25717850c26c9cd0d89d",
        [HASH_SHA224] = "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
        [HASH_SHA256] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        [HASH_RIPEMD160] = "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc",
    };
    for (unsigned algo = 0; algo < HASH_ALGOS; algo++) {
        uint8_t digest[HASH_MAX_SIZE];
        g_assert_null(hash_bytes(algo, "abc", 3, digest));
        if (of_abc[algo]) {
            assert_bytes(digest, hash_size(algo), of_abc[algo]);
        }
    }
}

static void test_pbkdf2(void)
{
    uint8_t key[40];
    uint64_t iterations;

    /* RFC 6070 */
    g_assert_null(pbkdf2(HASH_SHA1, "password", 8, "salt", 4, 4096, key, 20));
    assert_bytes(key, 20, "4b007901b765489abead49d926f721d065a429c1");
    g_assert_null(pbkdf2(HASH_SHA1, "passwordPASSWORDpassword", 24, "saltSALTsaltSALTsaltSALTsaltSALTsalt", 36, 4096, key, 25));
    assert_bytes(key, 25, "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038");
    g_assert_null(pbkdf2_iterations(HASH_SHA256, 32, 10, &iterations));
    g_assert_cmpuint(iterations, >=, 1000);
}

/* The vectors' cipher: AES-256 under the hash of the key; checked by doing it step by step. */
static void test_sectors(void)
{
    uint8_t key[32] = { 7, 1 }, plain[1024], buf[1024], iv[16] = { 5 }, by_hand[512], digest[32];
    SectorCipher *sectors;
    Cipher *data, *vectors_cipher;

    for (size_t n = 0; n < sizeof(plain); n++) {
        plain[n] = (uint8_t)(n * 13);
    }
    memcpy(buf, plain, sizeof(buf));
    g_assert_null(sector_cipher_new(CIPHER_AES_128, CIPHER_CBC, IV_ESSIV, HASH_SHA256, key, 16, &sectors));
    g_assert_null(sector_encrypt(sectors, 4, 512, buf, sizeof(buf)));

    g_assert_null(hash_bytes(HASH_SHA256, key, 16, digest));
    g_assert_null(cipher_new(CIPHER_AES_256, CIPHER_ECB, digest, 32, &vectors_cipher));
    g_assert_null(cipher_new(CIPHER_AES_128, CIPHER_CBC, key, 16, &data));
    g_assert_null(cipher_encrypt(vectors_cipher, NULL, iv, iv, 16)); /* sector 5 */
    g_assert_null(cipher_encrypt(data, iv, plain + 512, by_hand, 512));
    g_assert_cmpint(memcmp(by_hand, buf + 512, 512), ==, 0);

    g_assert_null(sector_decrypt(sectors, 4, 512, buf, sizeof(buf)));
    g_assert_cmpint(memcmp(buf, plain, sizeof(buf)), ==, 0);
    sector_cipher_free(sectors);
    cipher_free(data);
    cipher_free(vectors_cipher);

    g_autoptr(Error) err = sector_cipher_new(CIPHER_AES_128, CIPHER_CBC, IV_ESSIV, HASH_SHA1, key, 16, &sectors);
    g_assert_nonnull(strstr(error_message(err), "aes-160"));
    /* "plain" has 32 bits of the number, "plain64" all. */
    uint8_t narrow[512] = { 0 }, wide[512] = { 0 }, low[512] = { 0 };
    g_assert_null(sector_cipher_new(CIPHER_AES_128, CIPHER_XTS, IV_PLAIN, 0, key, 32, &sectors));
    g_assert_null(sector_encrypt(sectors, BIT64(32) + 1, 512, narrow, 512));
    g_assert_null(sector_encrypt(sectors, 1, 512, low, 512));
    sector_cipher_free(sectors);
    g_assert_null(sector_cipher_new(CIPHER_AES_128, CIPHER_XTS, IV_PLAIN64, 0, key, 32, &sectors));
    g_assert_null(sector_encrypt(sectors, BIT64(32) + 1, 512, wide, 512));
    sector_cipher_free(sectors);
    g_assert_cmpint(memcmp(narrow, low, 512), ==, 0);
    g_assert_cmpint(memcmp(narrow, wide, 512), !=, 0);
}

/* --- secrets --- */

static Error *add(Object *objects, const char *text)
{
    g_autoptr(KeyValues) kv = NULL;
    g_assert_null(keyvalues_parse(text, "qom-type", &kv));
    return object_make(objects, kv);
}

static void assert_secret(Object *objects, const char *id, const char *value)
{
    char *text;
    g_assert_null(secret_get_text(objects, id, &text));
    g_assert_cmpstr(text, ==, value);
    secret_free(text, strlen(text));
}

static void test_secrets(void)
{
    Object *objects = object_new_container();
    g_autofree char *path = NULL, *file_option = NULL, *shown = NULL;
    int fd = g_file_open_tmp("secret-XXXXXX", &path, NULL);

    g_assert_cmpint(write(fd, "bGV0dGVy\ncw==\n", 14), ==, 14);
    close(fd);
    file_option = g_strdup_printf("secret,id=f,format=base64,file=%s", path);
    g_assert_null(add(objects, "secret,id=a,data=letmein"));
    g_assert_null(add(objects, file_option));
    assert_secret(objects, "a", "letmein");
    assert_secret(objects, "f", "letters");
    g_assert_null(object_get(object_child(objects, "a"), "data", &shown));
    g_assert_false(shown && strstr(shown, "letmein"));
    unlink(path);

    /* printf 'open sesame' | openssl enc -aes-256-cbc -K <"0123456789abcdef" twice> -iv <00..0f> | base64 */
    g_assert_null(add(objects, "secret,id=master,data=0123456789abcdef0123456789abcdef"));
    uint8_t iv[16], padded[16] = "open sesame\5\5\5\5\5";
    for (unsigned n = 0; n < 16; n++) {
        iv[n] = (uint8_t)n;
    }
    g_autoptr(Cipher) cipher = NULL;
    g_assert_null(cipher_new(CIPHER_AES_256, CIPHER_CBC, (const uint8_t *)"0123456789abcdef0123456789abcdef", 32, &cipher));
    g_assert_null(cipher_encrypt(cipher, iv, padded, padded, 16));
    g_autofree char *iv64 = g_base64_encode(iv, 16), *data64 = g_base64_encode(padded, 16);
    g_autofree char *good = g_strdup_printf("secret,id=d,keyid=master,format=base64,iv=%s,data=%s", iv64, data64);
    g_autofree char *bad = g_strdup_printf("secret,id=e,keyid=a,format=base64,iv=%s,data=%s", iv64, data64);
    g_assert_null(add(objects, good));
    assert_secret(objects, "d", "open sesame");
    g_autoptr(Error) wrong_key = add(objects, bad);
    g_assert_nonnull(wrong_key);
    g_assert_null(object_child(objects, "e"));
    object_free(objects);
}

static void test_refusals(void)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        { "secret,id=x", "must give the secret" },
        { "secret,id=x,data=a,file=/b", "both give the secret" },
        { "secret,id=x,file=/nonexistent/key", "/nonexistent/key" },
        { "secret,id=x,data=*,format=base64", "base 64" },
        { "secret,id=x,data=QQ,format=base64", "base 64" },
        { "secret,id=x,data=QQ==QQ==,format=base64", "base 64" },
        { "secret,id=x,data=QQ==,format=base64,keyid=k", "'iv'" },
        { "secret,id=x,data=QQ==,format=base64,keyid=k,iv=AAAA", "No secret with id 'k'" },
        { "secret,id=x,data=QQ==,format=hex", "hex" },
    };
    Object *objects = object_new_container();
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        g_autoptr(Error) err = add(objects, cases[n].text);
        g_assert_nonnull(err);
        if (!strstr(error_message(err), cases[n].why)) {
            g_error("%s: '%s' instead of '%s'", cases[n].text, error_message(err), cases[n].why);
        }
    }
    object_free(objects);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/crypto/vectors", test_vectors);
    g_test_add_func("/crypto/every-cipher", test_every_cipher);
    g_test_add_func("/crypto/hashes", test_hashes);
    g_test_add_func("/crypto/pbkdf2", test_pbkdf2);
    g_test_add_func("/crypto/sectors", test_sectors);
    g_test_add_func("/crypto/secrets", test_secrets);
    g_test_add_func("/crypto/secrets/refusals", test_refusals);
    return g_test_run();
}
