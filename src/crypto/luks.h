/*
 * LUKS1 volumes ("LUKS On-Disk Format Specification", version 1.2.3): the header with its key slots. A slot holds the
 * volume's key, encrypted with a key that PBKDF2 makes of a pass phrase and spread so that erasing a part destroys it.
 *
 * Functions named _co run in a coroutine: they read and write through a LuksStore, and the derivations run on a worker
 * thread. A header is taken for hostile: every field is checked by luks_load_co() before anything uses it.
 */
#ifndef OSTRICH_CRYPTO_LUKS_H
#define OSTRICH_CRYPTO_LUKS_H

#include "crypto/cipher.h"

enum {
    LUKS_SECTOR = 512,
    LUKS_SLOTS = 8,
    LUKS_STRIPES = 4000,
    LUKS_SALT = 32,
    LUKS_DIGEST = 20,
    LUKS_UUID = 40,
    LUKS_HEADER = 592,
    LUKS_ALIGN = 4096,          /* of key material and payload that are made here */
    LUKS_MAX_KEY = 64,
    LUKS_MAX_ITERATIONS = 100000000, /* more than half a minute: refused, so that no image hangs who opens it */
};

/* How a volume is encrypted. */
typedef struct LuksSpec {
    CipherAlgo cipher;
    CipherMode mode;
    IvGen ivgen;
    HashAlgo ivgen_hash; /* with IV_ESSIV */
    bool has_ivgen_hash;
    HashAlgo hash; /* of the derivations and of the spreading */
} LuksSpec;

typedef struct LuksSlot {
    bool active;
    uint32_t iterations, stripes;
    uint32_t offset; /* of the key material, in sectors */
    uint8_t salt[LUKS_SALT];
} LuksSlot;

typedef struct Luks {
    LuksSpec spec;
    uint32_t payload; /* where the data begin, in sectors */
    uint32_t key_size;
    uint8_t digest[LUKS_DIGEST], digest_salt[LUKS_SALT];
    uint32_t digest_iterations;
    char uuid[LUKS_UUID + 1];
    LuksSlot slots[LUKS_SLOTS];
} Luks;

/* Where the header lies, from its first byte on. The calls return 0 or -errno and may yield. */
typedef struct LuksStore {
    void *opaque;
    uint64_t size; /* bytes */
    int (*read_co)(void *opaque, uint64_t offset, size_t size, void *buf);
    int (*write_co)(void *opaque, uint64_t offset, size_t size, const void *buf);
    int (*flush_co)(void *opaque);
} LuksStore;

extern const LuksSpec luks_default_spec; /* aes-256, xts, plain64, sha256 */
enum { LUKS_DEFAULT_ITER_TIME = 2000 };  /* milliseconds */

/* Whether the first bytes of an image are those of a LUKS1 header. */
bool luks_probe(const uint8_t *data, size_t size);
Error *luks_load_co(const LuksStore *store, Luks *ret_luks) MUST_USE;
/* Bytes of a header made by luks_make(), key material included: where the payload begins. */
uint64_t luks_header_size(const LuksSpec *spec);

/*
 * Finds the volume's key by a pass phrase; *ret_slot (may be NULL) says which slot had it. The key has luks->key_size
 * bytes. slot: the only one to try, -1 for all.
 */
Error *luks_unlock_co(const Luks *luks, const LuksStore *store, const char *pass, int slot, uint8_t ret_key[LUKS_MAX_KEY],
                      int *ret_slot) MUST_USE;
/* Whether exactly this active slot opens with the pass phrase. */
Error *luks_slot_matches_co(const Luks *luks, const LuksStore *store, int slot, const char *pass, bool *ret_matches) MUST_USE;

/* A new volume with a random key and one slot; writes the whole header. iter_time: milliseconds a derivation takes. */
Error *luks_make_co(const LuksSpec *spec, const LuksStore *store, const char *pass, unsigned iter_time, Luks *ret_luks,
                    uint8_t ret_key[LUKS_MAX_KEY]) MUST_USE;
/* Where the data begin, in sectors; 0: in another image. Writes the header. */
Error *luks_set_payload_co(Luks *luks, const LuksStore *store, uint32_t payload) MUST_USE;
/* Puts the key under another pass phrase into a slot, and writes the header. */
Error *luks_set_slot_co(Luks *luks, const LuksStore *store, int slot, const uint8_t *key, const char *pass,
                        unsigned iter_time) MUST_USE;
/* Makes the slot inactive, then destroys its key material. */
Error *luks_erase_slot_co(Luks *luks, const LuksStore *store, int slot) MUST_USE;

/* A change of slots as `qemu-img amend` describes it. */
typedef struct LuksAmend {
    bool activate;               /* else erase */
    int slot;                    /* -1: not given */
    const char *old_pass;        /* of what is erased; NULL: not given */
    const char *new_pass;        /* to activate */
    const uint8_t *key;          /* the volume's, to activate */
    unsigned iter_time;
    bool force;
} LuksAmend;
Error *luks_amend_co(Luks *luks, const LuksStore *store, const LuksAmend *amend) MUST_USE;

#endif
