/* LUKS1: the header of 592 bytes (specification, 3 and figure 2) to and from its fields. All numbers are big-endian. */
#include "crypto/luks_priv.h"

#include <string.h>

#include "base/endian.h"

enum {
    F_VERSION = 6,
    F_CIPHER = 8,
    F_MODE = 40,
    F_HASH = 72,
    F_PAYLOAD = 104,
    F_KEY_BYTES = 108,
    F_DIGEST = 112,
    F_DIGEST_SALT = 132,
    F_DIGEST_ITERATIONS = 164,
    F_UUID = 168,
    F_SLOTS = 208,
    SLOT_BYTES = 48,
    S_ACTIVE = 0,
    S_ITERATIONS = 4,
    S_SALT = 8,
    S_OFFSET = 40,
    S_STRIPES = 44,
    NAME_BYTES = 32,
};
#define SLOT_ENABLED 0x00ac71f3u
#define SLOT_DISABLED 0x0000deadu

static const uint8_t magic[6] = { 'L', 'U', 'K', 'S', 0xba, 0xbe };

const LuksSpec luks_default_spec = {
    .cipher = CIPHER_AES_256, .mode = CIPHER_XTS, .ivgen = IV_PLAIN64, .hash = HASH_SHA256,
};

bool luks_probe(const uint8_t *data, size_t size)
{
    return size >= F_CIPHER && !memcmp(data, magic, sizeof(magic)) && ld16_be(data + F_VERSION) == 1;
}

size_t luks_material_size(uint32_t key_size)
{
    return ALIGN_UP((size_t)key_size * LUKS_STRIPES, (size_t)LUKS_SECTOR);
}

static uint64_t slot_span(uint32_t key_size)
{
    return ALIGN_UP((uint64_t)luks_material_size(key_size), (uint64_t)LUKS_ALIGN);
}

uint64_t luks_header_size(const LuksSpec *spec)
{
    return LUKS_ALIGN + LUKS_SLOTS * slot_span((uint32_t)cipher_key_size(spec->cipher, spec->mode));
}

void luks_lay_out(Luks *luks)
{
    uint64_t span = slot_span(luks->key_size);

    for (unsigned n = 0; n < LUKS_SLOTS; n++) {
        luks->slots[n].offset = (uint32_t)((LUKS_ALIGN + n * span) / LUKS_SECTOR);
        luks->slots[n].stripes = LUKS_STRIPES;
    }
    luks->payload = (uint32_t)((LUKS_ALIGN + LUKS_SLOTS * span) / LUKS_SECTOR);
}

/* --- reading --- */

static Error *take_text(const uint8_t *raw, size_t size, const char *what, char *ret_text)
{
    if (!memchr(raw, 0, size)) {
        return error_new("LUKS header %s is not NUL terminated", what);
    }
    memcpy(ret_text, raw, size);
    return NULL;
}

/* "aes" and the size of the key are one of our ciphers. */
static Error *find_cipher(const char *name, CipherMode mode, uint32_t key_size, CipherAlgo *ret_cipher)
{
    bool family = false;

    for (unsigned algo = 0; algo < CIPHER_ALGOS; algo++) {
        const char *full = cipher_name(algo);
        size_t length = strlen(name);
        if (length && !strncmp(full, name, length) && full[length] == '-') {
            family = true;
            if (cipher_key_size(algo, mode) == key_size) {
                *ret_cipher = algo;
                return NULL;
            }
        }
    }
    return family ? error_new("Algorithm '%s' with key size %u bytes not supported", name, key_size)
                  : error_new("Algorithm '%s' is not supported", name);
}

/* "xts-plain64", "cbc-essiv:sha256". */
static Error *parse_mode(char *text, LuksSpec *spec)
{
    char *ivgen = strchr(text, '-'), *hash;

    if (!ivgen) {
        return error_new("the cipher mode '%s' is not of the form MODE-IVGEN[:HASH]", text);
    }
    *ivgen++ = 0;
    hash = strchr(ivgen, ':');
    if (hash) {
        *hash++ = 0;
        if (!hash_find(hash, &spec->ivgen_hash)) {
            return error_new("Hash algorithm '%s' is not supported", hash);
        }
        spec->has_ivgen_hash = true;
    }
    if (!cipher_mode_find(text, &spec->mode)) {
        return error_new("Cipher mode '%s' is not supported", text);
    }
    if (!iv_gen_find(ivgen, &spec->ivgen)) {
        return error_new("IV generator '%s' is not supported", ivgen);
    }
    return spec->ivgen == IV_ESSIV && !hash ? error_new("the IV generator essiv needs a hash, and the header names none") : NULL;
}

static Error *parse_spec(const uint8_t *raw, Luks *luks)
{
    char name[NAME_BYTES], mode[NAME_BYTES], hash[NAME_BYTES];

    TRY(take_text(raw + F_CIPHER, NAME_BYTES, "cipher name", name));
    TRY(take_text(raw + F_MODE, NAME_BYTES, "cipher mode", mode));
    TRY(take_text(raw + F_HASH, NAME_BYTES, "hash spec", hash));
    TRY(parse_mode(mode, &luks->spec));
    if (!hash_find(hash, &luks->spec.hash)) {
        return error_new("Hash algorithm '%s' is not supported", hash);
    }
    luks->key_size = ld32_be(raw + F_KEY_BYTES);
    return find_cipher(name, luks->spec.mode, luks->key_size, &luks->spec.cipher);
}

static void parse_slot(const uint8_t *raw, LuksSlot *slot, bool *ret_known)
{
    uint32_t active = ld32_be(raw + S_ACTIVE);

    slot->active = active == SLOT_ENABLED;
    slot->iterations = ld32_be(raw + S_ITERATIONS);
    slot->offset = ld32_be(raw + S_OFFSET);
    slot->stripes = ld32_be(raw + S_STRIPES);
    memcpy(slot->salt, raw + S_SALT, LUKS_SALT);
    *ret_known = slot->active || active == SLOT_DISABLED;
}

/* --- checking --- */

static Error *check_iterations(uint32_t iterations, const char *what)
{
    if (!iterations) {
        return error_new("%s iteration count is zero", what);
    }
    return iterations > LUKS_MAX_ITERATIONS ? error_new("%s iteration count %u is larger than %u", what, iterations,
                                                        (unsigned)LUKS_MAX_ITERATIONS)
                                            : NULL;
}

static Error *check_slot(const Luks *luks, unsigned n, const LuksStore *store)
{
    const LuksSlot *slot = &luks->slots[n];
    uint64_t sectors = luks_material_size(luks->key_size) / LUKS_SECTOR;

    if (slot->stripes != LUKS_STRIPES) {
        return error_new("key slot %u has %u stripes, where %d are all that exists", n, slot->stripes, LUKS_STRIPES);
    }
    if (slot->offset < (LUKS_HEADER + LUKS_SECTOR - 1) / LUKS_SECTOR) {
        return error_new("key slot %u lies in the LUKS header", n);
    }
    if (luks->payload && slot->offset + sectors > luks->payload) {
        return error_new("key slot %u reaches into the encrypted data", n);
    }
    if (slot->active && (slot->offset + sectors) * LUKS_SECTOR > store->size) {
        return error_new("Keyslot %u is beyond the end of the image", n);
    }
    for (unsigned other = 0; other < n; other++) {
        uint64_t a = slot->offset, b = luks->slots[other].offset;
        if (a < b + sectors && b < a + sectors) {
            return error_new("key slots %u and %u share a place", other, n);
        }
    }
    if (slot->active) {
        g_autofree char *what = g_strdup_printf("Keyslot %u", n);
        TRY(check_iterations(slot->iterations, what));
    }
    return NULL;
}

static Error *check(const Luks *luks, const LuksStore *store)
{
    if (luks->payload && luks->payload < (LUKS_HEADER + LUKS_SECTOR - 1) / LUKS_SECTOR) {
        return error_new("the encrypted data begin inside the LUKS header");
    }
    TRY(check_iterations(luks->digest_iterations, "LUKS key"));
    for (unsigned n = 0; n < LUKS_SLOTS; n++) {
        TRY(check_slot(luks, n, store));
    }
    return NULL;
}

Error *luks_load_co(const LuksStore *store, Luks *ret_luks)
{
    uint8_t raw[LUKS_HEADER];
    Luks luks = { 0 };

    int code = store->size < sizeof(raw) ? -EINVAL : store->read_co(store->opaque, 0, sizeof(raw), raw);
    if (code < 0) {
        return error_new_errno(code, "Unable to read LUKS header");
    }
    if (memcmp(raw, magic, sizeof(magic))) {
        return error_new("this is no LUKS volume: the magic number is missing");
    }
    if (ld16_be(raw + F_VERSION) != 1) {
        return error_new("LUKS version %u is not supported", ld16_be(raw + F_VERSION));
    }
    TRY(parse_spec(raw, &luks));
    TRY(take_text(raw + F_UUID, LUKS_UUID, "UUID", luks.uuid));
    luks.payload = ld32_be(raw + F_PAYLOAD);
    memcpy(luks.digest, raw + F_DIGEST, LUKS_DIGEST);
    memcpy(luks.digest_salt, raw + F_DIGEST_SALT, LUKS_SALT);
    luks.digest_iterations = ld32_be(raw + F_DIGEST_ITERATIONS);
    for (unsigned n = 0; n < LUKS_SLOTS; n++) {
        bool known;
        parse_slot(raw + F_SLOTS + n * SLOT_BYTES, &luks.slots[n], &known);
        if (!known) {
            return error_new("key slot %u is neither active nor inactive", n);
        }
    }
    TRY(check(&luks, store));
    *ret_luks = luks;
    return NULL;
}

/* --- writing --- */

static void put_slot(uint8_t *raw, const LuksSlot *slot)
{
    st32_be(raw + S_ACTIVE, slot->active ? SLOT_ENABLED : SLOT_DISABLED);
    st32_be(raw + S_ITERATIONS, slot->iterations);
    memcpy(raw + S_SALT, slot->salt, LUKS_SALT);
    st32_be(raw + S_OFFSET, slot->offset);
    st32_be(raw + S_STRIPES, slot->stripes);
}

static void put_spec(uint8_t *raw, const LuksSpec *spec)
{
    const char *name = cipher_name(spec->cipher);
    g_autofree char *mode = g_strdup_printf("%s-%s%s%s", cipher_mode_name(spec->mode), iv_gen_name(spec->ivgen),
                                            spec->has_ivgen_hash ? ":" : "",
                                            spec->has_ivgen_hash ? hash_name(spec->ivgen_hash) : "");

    memcpy(raw + F_CIPHER, name, strcspn(name, "-"));
    g_strlcpy((char *)raw + F_MODE, mode, NAME_BYTES);
    g_strlcpy((char *)raw + F_HASH, hash_name(spec->hash), NAME_BYTES);
}

Error *luks_store_header_co(const Luks *luks, const LuksStore *store)
{
    uint8_t raw[LUKS_HEADER] = { 0 };

    memcpy(raw, magic, sizeof(magic));
    st16_be(raw + F_VERSION, 1);
    put_spec(raw, &luks->spec);
    st32_be(raw + F_PAYLOAD, luks->payload);
    st32_be(raw + F_KEY_BYTES, luks->key_size);
    memcpy(raw + F_DIGEST, luks->digest, LUKS_DIGEST);
    memcpy(raw + F_DIGEST_SALT, luks->digest_salt, LUKS_SALT);
    st32_be(raw + F_DIGEST_ITERATIONS, luks->digest_iterations);
    memcpy(raw + F_UUID, luks->uuid, strlen(luks->uuid));
    for (unsigned n = 0; n < LUKS_SLOTS; n++) {
        put_slot(raw + F_SLOTS + n * SLOT_BYTES, &luks->slots[n]);
    }
    int code = store->write_co(store->opaque, 0, sizeof(raw), raw);
    return code < 0 ? error_new_errno(code, "Unable to write LUKS header") : NULL;
}
