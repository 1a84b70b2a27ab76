/* LUKS1: the anti-forensic splitter (specification, 2.4), random bytes. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/endian.h"
#include "crypto/luks_priv.h"

Error *luks_random(void *buf, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t got = getrandom((uint8_t *)buf + done, size - done, 0);
        if (got < 0 && errno != EINTR) {
            return error_new_errno(errno, "cannot get random bytes");
        }
        done += got > 0 ? (size_t)got : 0;
    }
    return NULL;
}

/* Each piece of the block, as long as a digest (the last one may be shorter), becomes the hash of its number and itself. */
static Error *diffuse(HashAlgo hash, uint8_t *block, size_t size)
{
    uint8_t in[4 + HASH_MAX_SIZE], out[HASH_MAX_SIZE];
    size_t piece = hash_size(hash);

    for (size_t at = 0, number = 0; at < size; at += piece, number++) {
        size_t length = MIN(piece, size - at);
        st32_be(in, (uint32_t)number);
        memcpy(in + 4, block + at, length);
        TRY(hash_bytes(hash, in, 4 + length, out));
        memcpy(block + at, out, length);
    }
    explicit_bzero(in, sizeof(in));
    explicit_bzero(out, sizeof(out));
    return NULL;
}

static void xor_into(uint8_t *block, const uint8_t *with, size_t size)
{
    for (size_t n = 0; n < size; n++) {
        block[n] ^= with[n];
    }
}

/* All stripes but the last one, mixed. */
static Error *mix(HashAlgo hash, const uint8_t *stripes, size_t size, uint8_t *block)
{
    memset(block, 0, size);
    for (unsigned n = 0; n + 1 < LUKS_STRIPES; n++) {
        xor_into(block, stripes + n * size, size);
        TRY(diffuse(hash, block, size));
    }
    return NULL;
}

Error *luks_af_split(HashAlgo hash, const uint8_t *key, size_t size, uint8_t *stripes)
{
    uint8_t *last = stripes + (LUKS_STRIPES - 1) * size;

    TRY(luks_random(stripes, (LUKS_STRIPES - 1) * size));
    TRY(mix(hash, stripes, size, last));
    xor_into(last, key, size);
    return NULL;
}

Error *luks_af_merge(HashAlgo hash, const uint8_t *stripes, size_t size, uint8_t *ret_key)
{
    TRY(mix(hash, stripes, size, ret_key));
    xor_into(ret_key, stripes + (LUKS_STRIPES - 1) * size, size);
    return NULL;
}
