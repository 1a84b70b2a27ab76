/* Encryption: options of creating and amending, what `info` tells. */
#include <string.h>

#include "block/crypt/crypt.h"
#include "crypto/secret.h"
#include "value/value.h"

static char *take(KeyValues *opts, const char *prefix, const char *name)
{
    g_autofree char *key = g_strconcat(prefix, name, NULL);
    char *value = keyvalues_take(opts, key);
    keyvalues_remove(opts, key);
    return value;
}

static Error *not_accepted(const char *prefix, const char *name, const char *value)
{
    return error_new("Parameter '%s%s' does not accept value '%s'", prefix, name, value);
}

static Error *take_number(KeyValues *opts, const char *prefix, const char *name, uint64_t fallback, uint64_t *ret_number)
{
    g_autofree char *key = g_strconcat(prefix, name, NULL);
    return block_take_num(opts, key, fallback, ret_number);
}

static Error *take_spec(KeyValues *opts, const char *prefix, LuksSpec *spec)
{
    g_autofree char *cipher = take(opts, prefix, "cipher-alg"), *mode = take(opts, prefix, "cipher-mode"),
                    *ivgen = take(opts, prefix, "ivgen-alg"), *ivgen_hash = take(opts, prefix, "ivgen-hash-alg"),
                    *hash = take(opts, prefix, "hash-alg");

    *spec = luks_default_spec;
    if (cipher && !cipher_find(cipher, &spec->cipher)) {
        return not_accepted(prefix, "cipher-alg", cipher);
    }
    if (mode && !cipher_mode_find(mode, &spec->mode)) {
        return not_accepted(prefix, "cipher-mode", mode);
    }
    if (ivgen && !iv_gen_find(ivgen, &spec->ivgen)) {
        return not_accepted(prefix, "ivgen-alg", ivgen);
    }
    if (hash && !hash_find(hash, &spec->hash)) {
        return not_accepted(prefix, "hash-alg", hash);
    }
    spec->has_ivgen_hash = ivgen_hash || spec->ivgen == IV_ESSIV;
    spec->ivgen_hash = HASH_SHA256;
    return ivgen_hash && !hash_find(ivgen_hash, &spec->ivgen_hash) ? not_accepted(prefix, "ivgen-hash-alg", ivgen_hash) : NULL;
}

static Error *take_iter_time(KeyValues *opts, const char *prefix, bool *ret_given, unsigned *ret_ms)
{
    g_autofree char *key = g_strconcat(prefix, "iter-time", NULL);
    uint64_t ms;

    *ret_given = keyvalues_has(opts, key);
    TRY(take_number(opts, prefix, "iter-time", LUKS_DEFAULT_ITER_TIME, &ms));
    if (!ms || ms > 600000) {
        return error_new("%siter-time must be 1 to 600000 milliseconds", prefix);
    }
    *ret_ms = (unsigned)ms;
    return NULL;
}

Error *crypt_take_create(KeyValues *opts, const char *prefix, CryptCreate *ret_create)
{
    CryptCreate create = { 0 };
    bool given;

    TRY(take_spec(opts, prefix, &create.spec));
    TRY(take_iter_time(opts, prefix, &given, &create.iter_time));
    create.secret = take(opts, prefix, "key-secret");
    *ret_create = create;
    return NULL;
}

void crypt_create_clear(CryptCreate *create)
{
    g_clear_pointer(&create->secret, g_free);
}

Error *crypt_pass(BlockGraph *graph, const char *id, const char *prefix, char **ret_pass)
{
    return id ? secret_get_text(block_graph_objects(graph), id, ret_pass)
              : error_new("The cipher needs a key: name its secret in '%skey-secret'", prefix);
}

/* --- amending --- */

typedef struct AmendOptions {
    char *state, *new_secret, *old_secret;
    uint64_t slot;
    unsigned iter_time;
    bool has_iter_time;
} AmendOptions;

static void amend_options_clear(AmendOptions *o)
{
    g_free(o->state);
    g_free(o->new_secret);
    g_free(o->old_secret);
}

static Error *take_amend(KeyValues *opts, const char *prefix, AmendOptions *o)
{
    o->state = take(opts, prefix, "state");
    o->new_secret = take(opts, prefix, "new-secret");
    o->old_secret = take(opts, prefix, "old-secret");
    TRY(take_number(opts, prefix, "keyslot", UINT64_MAX, &o->slot));
    TRY(take_iter_time(opts, prefix, &o->has_iter_time, &o->iter_time));
    if (!o->state) {
        return error_new("Parameter '%sstate' is missing", prefix);
    }
    if (strcmp(o->state, "active") && strcmp(o->state, "inactive")) {
        return not_accepted(prefix, "state", o->state);
    }
    return o->slot != UINT64_MAX && o->slot >= LUKS_SLOTS
               ? error_new("Invalid keyslot %" G_GUINT64_FORMAT " specified, must be between 0 and %d", o->slot, LUKS_SLOTS - 1)
               : NULL;
}

static Error *check_amend(const AmendOptions *o, bool activate)
{
    if (activate) {
        if (!o->new_secret) {
            return error_new("A key slot becomes active with a passphrase: name its secret in "
                             "'new-secret'");
        }
        return o->old_secret ? error_new("'old-secret' has no meaning when a key slot is made "
                                         "active: leave it out") : NULL;
    }
    if (o->new_secret) {
        return error_new("'new-secret' has no meaning when key slots are erased: leave it out");
    }
    if (o->has_iter_time) {
        return error_new("'iter-time' has no meaning when key slots are erased: leave it out");
    }
    return o->slot == UINT64_MAX && !o->old_secret
               ? error_new("Say which key slots to erase: one by 'keyslot', or those of a "
                           "passphrase by 'old-secret'")
               : NULL;
}

static Error *amend_with_co(BlockGraph *graph, const AmendOptions *o, bool force, Luks *luks, const LuksStore *store,
                            const uint8_t *key)
{
    bool activate = !strcmp(o->state, "active");
    const char *id = activate ? o->new_secret : o->old_secret;
    char *pass = NULL;

    TRY(check_amend(o, activate));
    if (id) {
        TRY(secret_get_text(block_graph_objects(graph), id, &pass));
    }
    LuksAmend amend = { .activate = activate, .slot = o->slot == UINT64_MAX ? -1 : (int)o->slot, .key = key,
                        .old_pass = activate ? NULL : pass, .new_pass = activate ? pass : NULL,
                        .iter_time = o->iter_time, .force = force };
    Error *err = luks_amend_co(luks, store, &amend);
    secret_free_text(pass);
    return err;
}

Error *crypt_amend_co(BlockGraph *graph, KeyValues *opts, const char *prefix, bool force, Luks *luks, const LuksStore *store,
                      const uint8_t *key)
{
    AmendOptions o = { 0 };

    Error *err = take_amend(opts, prefix, &o);
    if (!err) {
        err = amend_with_co(graph, &o, force, luks, store, key);
    }
    amend_options_clear(&o);
    return err;
}

/* --- info --- */

static Value *slot_value(const LuksSlot *slot)
{
    Value *value = value_dict();

    value_put_bool(value, "active", slot->active);
    if (slot->active) {
        value_put_int(value, "iters", slot->iterations);
    }
    value_put_int(value, "key-offset", (int64_t)slot->offset * LUKS_SECTOR);
    if (slot->active) {
        value_put_int(value, "stripes", slot->stripes);
    }
    return value;
}

void crypt_info(const Luks *luks, const char *format, Value *data)
{
    const LuksSpec *spec = &luks->spec;
    Value *slots = value_list();

    value_put_str(data, "ivgen-alg", iv_gen_name(spec->ivgen));
    value_put_str(data, "hash-alg", hash_name(spec->hash));
    value_put_str(data, "cipher-alg", cipher_name(spec->cipher));
    value_put_str(data, "uuid", luks->uuid);
    if (spec->ivgen == IV_ESSIV) {
        value_put_str(data, "ivgen-hash-alg", hash_name(spec->ivgen_hash));
    }
    if (format) {
        value_put_str(data, "format", format);
    }
    value_put_str(data, "cipher-mode", cipher_mode_name(spec->mode));
    for (unsigned n = 0; n < LUKS_SLOTS; n++) {
        value_append(slots, slot_value(&luks->slots[n]));
    }
    value_put(data, "slots", slots);
    value_put_int(data, "payload-offset", (int64_t)luks->payload * LUKS_SECTOR);
    value_put_int(data, "master-key-iters", luks->digest_iterations);
}
