/* LUKS1: key slots (specification, 4 and 5). Derivations run on worker threads. */
#include "crypto/luks.h"

#include <string.h>

#include "crypto/luks_priv.h"
#include "event/coroutine.h"

/* --- derivations --- */

/* What a worker thread makes of a pass phrase and a slot: the candidate for the volume's key, or the slot's material. */
typedef struct SlotCall {
    const Luks *luks;
    const LuksSlot *slot;
    const char *pass;
    uint8_t *material;
    uint8_t key[LUKS_MAX_KEY]; /* of the volume */
    bool right;                /* the key fits the digest */
    Error *err;
} SlotCall;

static Error *slot_cipher(const SlotCall *call, SectorCipher **ret_cipher)
{
    const LuksSpec *spec = &call->luks->spec;
    uint8_t key[LUKS_MAX_KEY];

    Error *err = pbkdf2(spec->hash, call->pass, strlen(call->pass), call->slot->salt, LUKS_SALT, call->slot->iterations, key,
                        call->luks->key_size);
    if (!err) {
        err = sector_cipher_new(spec->cipher, spec->mode, spec->ivgen, spec->ivgen_hash, key, call->luks->key_size, ret_cipher);
    }
    explicit_bzero(key, sizeof(key));
    return err;
}

static Error *key_digest(const Luks *luks, const uint8_t *key, uint8_t digest[LUKS_DIGEST])
{
    return pbkdf2(luks->spec.hash, key, luks->key_size, luks->digest_salt, LUKS_SALT, luks->digest_iterations, digest,
                  LUKS_DIGEST);
}

/* In a time that does not depend on where they differ. */
static bool same_bytes(const uint8_t *a, const uint8_t *b, size_t size)
{
    uint8_t difference = 0;
    for (size_t n = 0; n < size; n++) {
        difference |= a[n] ^ b[n];
    }
    return difference == 0;
}

static Error *open_slot(SlotCall *call)
{
    const Luks *luks = call->luks;
    g_autoptr(SectorCipher) cipher = NULL;
    uint8_t digest[LUKS_DIGEST];

    TRY(slot_cipher(call, &cipher));
    TRY(sector_decrypt(cipher, 0, LUKS_SECTOR, call->material, luks_material_size(luks->key_size)));
    TRY(luks_af_merge(luks->spec.hash, call->material, luks->key_size, call->key));
    TRY(key_digest(luks, call->key, digest));
    call->right = same_bytes(digest, luks->digest, LUKS_DIGEST);
    return NULL;
}

static int open_slot_call(void *opaque)
{
    SlotCall *call = opaque;
    call->err = open_slot(call);
    return 0;
}

static Error *close_slot(SlotCall *call)
{
    const Luks *luks = call->luks;
    size_t size = luks_material_size(luks->key_size), used = (size_t)luks->key_size * LUKS_STRIPES;
    g_autoptr(SectorCipher) cipher = NULL;

    TRY(slot_cipher(call, &cipher));
    TRY(luks_af_split(luks->spec.hash, call->key, luks->key_size, call->material));
    TRY(luks_random(call->material + used, size - used));
    return sector_encrypt(cipher, 0, LUKS_SECTOR, call->material, size);
}

static int close_slot_call(void *opaque)
{
    SlotCall *call = opaque;
    call->err = close_slot(call);
    return 0;
}

typedef struct IterationsCall {
    HashAlgo hash;
    size_t size;
    unsigned ms;
    uint64_t iterations;
    Error *err;
} IterationsCall;

static int iterations_call(void *opaque)
{
    IterationsCall *call = opaque;
    call->err = pbkdf2_iterations(call->hash, call->size, call->ms, &call->iterations);
    return 0;
}

static Error *measure_co(HashAlgo hash, size_t size, unsigned ms, uint32_t *ret_iterations)
{
    IterationsCall call = { .hash = hash, .size = size, .ms = ms };

    co_blocking_long(iterations_call, &call);
    TRY(call.err);
    if (call.iterations > LUKS_MAX_ITERATIONS) {
        return error_new("%u ms are %" G_GUINT64_FORMAT " iterations of %s, more than the %u that are possible", ms,
                         call.iterations, hash_name(hash), (unsigned)LUKS_MAX_ITERATIONS);
    }
    *ret_iterations = (uint32_t)call.iterations;
    return NULL;
}

/* --- opening --- */

static Error *try_slot_co(const Luks *luks, const LuksStore *store, int n, const char *pass, SlotCall *call)
{
    size_t size = luks_material_size(luks->key_size);
    const LuksSlot *slot = &luks->slots[n];
    g_autofree uint8_t *material = g_malloc(size);

    int code = store->read_co(store->opaque, (uint64_t)slot->offset * LUKS_SECTOR, size, material);
    if (code < 0) {
        return error_new_errno(code, "Failed to read key material");
    }
    *call = (SlotCall){ .luks = luks, .slot = slot, .pass = pass, .material = material };
    co_blocking_long(open_slot_call, call);
    explicit_bzero(material, size);
    return call->err;
}

/* *ret_right: whether the slot opens; the key is written then. */
static Error *unlock_slot_co(const Luks *luks, const LuksStore *store, int n, const char *pass, uint8_t ret_key[LUKS_MAX_KEY],
                             bool *ret_right)
{
    SlotCall call;

    *ret_right = false;
    if (!luks->slots[n].active) {
        return NULL;
    }
    Error *err = try_slot_co(luks, store, n, pass, &call);
    if (!err && call.right) {
        memcpy(ret_key, call.key, luks->key_size);
        *ret_right = true;
    }
    explicit_bzero(&call, sizeof(call));
    return err;
}

Error *luks_unlock_co(const Luks *luks, const LuksStore *store, const char *pass, int slot, uint8_t ret_key[LUKS_MAX_KEY],
                      int *ret_slot)
{
    int first = slot < 0 ? 0 : slot, end = slot < 0 ? LUKS_SLOTS : slot + 1;
    bool right;

    for (int n = first; n < end; n++) {
        TRY(unlock_slot_co(luks, store, n, pass, ret_key, &right));
        if (right) {
            if (ret_slot) {
                *ret_slot = n;
            }
            return NULL;
        }
    }
    return error_new("Invalid password, cannot unlock any keyslot");
}

Error *luks_slot_matches_co(const Luks *luks, const LuksStore *store, int slot, const char *pass, bool *ret_matches)
{
    uint8_t key[LUKS_MAX_KEY];

    Error *err = unlock_slot_co(luks, store, slot, pass, key, ret_matches);
    explicit_bzero(key, sizeof(key));
    return err;
}

/* --- writing slots --- */

static Error *flush_co(const LuksStore *store)
{
    int code = store->flush_co(store->opaque);
    return code < 0 ? error_new_errno(code, "Unable to flush the LUKS header") : NULL;
}

static Error *write_material_co(const LuksStore *store, const LuksSlot *slot, const uint8_t *material, size_t size)
{
    int code = store->write_co(store->opaque, (uint64_t)slot->offset * LUKS_SECTOR, size, material);
    return code < 0 ? error_new_errno(code, "Unable to write key material") : NULL;
}

/* The material of a slot that is complete but for it. */
static Error *fill_slot_co(const Luks *luks, const LuksStore *store, const LuksSlot *slot, const uint8_t *key, const char *pass)
{
    size_t size = luks_material_size(luks->key_size);
    g_autofree uint8_t *material = g_malloc0(size);
    SlotCall call = { .luks = luks, .slot = slot, .pass = pass, .material = material };

    memcpy(call.key, key, luks->key_size);
    co_blocking_long(close_slot_call, &call);
    explicit_bzero(call.key, sizeof(call.key));
    TRY(call.err);
    return write_material_co(store, slot, material, size);
}

/* The material is on stable storage before the header says that it is there. */
Error *luks_set_slot_co(Luks *luks, const LuksStore *store, int slot, const uint8_t *key, const char *pass, unsigned iter_time)
{
    LuksSlot filled = luks->slots[slot];

    TRY(measure_co(luks->spec.hash, luks->key_size, iter_time, &filled.iterations));
    TRY(luks_random(filled.salt, LUKS_SALT));
    TRY(fill_slot_co(luks, store, &filled, key, pass));
    TRY(flush_co(store));
    filled.active = true;
    luks->slots[slot] = filled;
    TRY(luks_store_header_co(luks, store));
    return flush_co(store);
}

/* First the header, so that a crash leaves no active slot without its material. */
Error *luks_erase_slot_co(Luks *luks, const LuksStore *store, int slot)
{
    enum { OVERWRITES = 40 }; /* specification, 2.4.1: magnetic disks keep traces */
    LuksSlot *s = &luks->slots[slot];
    size_t size = luks_material_size(luks->key_size);
    g_autofree uint8_t *garbage = g_malloc(size);

    s->active = false;
    s->iterations = 0;
    memset(s->salt, 0, LUKS_SALT);
    TRY(luks_store_header_co(luks, store));
    TRY(flush_co(store));
    for (unsigned n = 0; n < OVERWRITES; n++) {
        TRY(luks_random(garbage, size));
        TRY(write_material_co(store, s, garbage, size));
        TRY(flush_co(store));
    }
    return NULL;
}

/* --- new volumes --- */

static void make_uuid(char *text)
{
    g_autofree char *uuid = g_uuid_string_random();
    g_strlcpy(text, uuid, LUKS_UUID + 1);
}

typedef struct DigestCall {
    Luks *luks;
    const uint8_t *key;
    Error *err;
} DigestCall;

static int digest_call(void *opaque)
{
    DigestCall *call = opaque;
    call->err = key_digest(call->luks, call->key, call->luks->digest);
    return 0;
}

static Error *check_spec(const LuksSpec *spec)
{
    uint8_t key[LUKS_MAX_KEY] = { 0 };
    g_autoptr(SectorCipher) cipher = NULL;

    /* Whatever does not go together is said here, before anything is written. */
    return sector_cipher_new(spec->cipher, spec->mode, spec->ivgen, spec->ivgen_hash, key,
                             cipher_key_size(spec->cipher, spec->mode), &cipher);
}

Error *luks_make_co(const LuksSpec *spec, const LuksStore *store, const char *pass, unsigned iter_time, Luks *ret_luks,
                    uint8_t ret_key[LUKS_MAX_KEY])
{
    Luks luks = { .spec = *spec, .key_size = (uint32_t)cipher_key_size(spec->cipher, spec->mode) };
    DigestCall digest = { .luks = &luks, .key = ret_key };

    TRY(check_spec(spec));
    luks_lay_out(&luks);
    make_uuid(luks.uuid);
    TRY(luks_random(ret_key, luks.key_size));
    TRY(luks_random(luks.digest_salt, LUKS_SALT));
    TRY(measure_co(spec->hash, LUKS_DIGEST, iter_time / LUKS_SLOTS, &luks.digest_iterations));
    co_blocking_long(digest_call, &digest);
    TRY(digest.err);
    TRY(luks_set_slot_co(&luks, store, 0, ret_key, pass, iter_time));
    *ret_luks = luks;
    return NULL;
}

Error *luks_set_payload_co(Luks *luks, const LuksStore *store, uint32_t payload)
{
    luks->payload = payload;
    return luks_store_header_co(luks, store);
}

/* --- amending --- */

static unsigned count_active(const Luks *luks)
{
    unsigned count = 0;
    for (unsigned n = 0; n < LUKS_SLOTS; n++) {
        count += luks->slots[n].active;
    }
    return count;
}

static Error *choose_free_slot(const Luks *luks, const LuksAmend *amend, int *ret_slot)
{
    if (amend->slot >= 0) {
        if (luks->slots[amend->slot].active && !amend->force) {
            return error_new("Refusing to overwrite active keyslot %i - please erase it first", amend->slot);
        }
        *ret_slot = amend->slot;
        return NULL;
    }
    for (int n = 0; n < LUKS_SLOTS; n++) {
        if (!luks->slots[n].active) {
            *ret_slot = n;
            return NULL;
        }
    }
    return error_new("Can't add a keyslot - all keyslots are in use");
}

static Error *add_slot_co(Luks *luks, const LuksStore *store, const LuksAmend *amend)
{
    int slot;

    TRY(choose_free_slot(luks, amend, &slot));
    Error *err = luks_set_slot_co(luks, store, slot, amend->key, amend->new_pass, amend->iter_time);
    return err ? error_prefix(err, "Failed to write to keyslot %i: ", slot) : NULL;
}

static Error *erase_one_co(Luks *luks, const LuksStore *store, const LuksAmend *amend)
{
    if (amend->old_pass) {
        bool matches;
        TRY(luks_slot_matches_co(luks, store, amend->slot, amend->old_pass, &matches));
        if (!matches) {
            return error_new("key slot %i is not opened by this old password", amend->slot);
        }
    }
    if (!luks->slots[amend->slot].active && !amend->force) {
        return error_new("key slot %i is empty already", amend->slot);
    }
    if (count_active(luks) == 1 && luks->slots[amend->slot].active && !amend->force) {
        return error_new("Attempt to erase the only active keyslot %i which will erase all the data in the image irreversibly - "
                         "refusing operation",
                         amend->slot);
    }
    return luks_erase_slot_co(luks, store, amend->slot);
}

static Error *erase_matching_co(Luks *luks, const LuksStore *store, const LuksAmend *amend)
{
    bool matches[LUKS_SLOTS];
    unsigned count = 0;

    for (int n = 0; n < LUKS_SLOTS; n++) {
        TRY(luks_slot_matches_co(luks, store, n, amend->old_pass, &matches[n]));
        count += matches[n];
    }
    if (!count) {
        return error_new("No keyslots match given (old) password for erase operation");
    }
    if (count == count_active(luks) && !amend->force) {
        return error_new("All the active keyslots match the (old) password that was given and erasing them will erase all the "
                         "data in the image irreversibly - refusing operation");
    }
    for (int n = 0; n < LUKS_SLOTS; n++) {
        if (matches[n]) {
            TRY(luks_erase_slot_co(luks, store, n));
        }
    }
    return NULL;
}

Error *luks_amend_co(Luks *luks, const LuksStore *store, const LuksAmend *amend)
{
    if (amend->slot >= LUKS_SLOTS) {
        return error_new("Invalid keyslot %i specified, must be between 0 and %d", amend->slot, LUKS_SLOTS - 1);
    }
    if (amend->activate) {
        assert(amend->key && amend->new_pass);
        return add_slot_co(luks, store, amend);
    }
    return amend->slot >= 0 ? erase_one_co(luks, store, amend) : erase_matching_co(luks, store, amend);
}
