/*
 * Encryption of disks, for the formats that have it: the data path (sectors of 512 bytes, on worker threads when there is
 * much to do), options with a format's prefix ("" or "encrypt."), and what `info` tells.
 */
#ifndef OSTRICH_BLOCK_CRYPT_H
#define OSTRICH_BLOCK_CRYPT_H

#include "block/node.h"
#include "crypto/luks.h"

enum { CRYPT_SECTOR = 512 };

typedef struct BlockCrypt BlockCrypt;

/* spec: without its `hash`, which no sector needs. */
Error *block_crypt_new(const LuksSpec *spec, const uint8_t *key, size_t key_size, BlockCrypt **ret_crypt) MUST_USE;
void block_crypt_free(BlockCrypt *crypt); /* accepts NULL */
/* In place. offset: what the initial vectors are made of, a multiple of the sector, as is bytes. 0 or -errno. */
int block_encrypt_co(BlockCrypt *crypt, uint64_t offset, void *buf, size_t bytes);
int block_decrypt_co(BlockCrypt *crypt, uint64_t offset, void *buf, size_t bytes);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlockCrypt, block_crypt_free)

/* --- what drivers read and write, `offset` bytes behind the image's first one --- */
typedef struct CryptStore {
    BlockNode *node;
    uint64_t offset;
    LuksStore luks;
} CryptStore;
/* The store stays where it is as long as it is used. size: bytes that there are for the header. */
void crypt_store_init(CryptStore *store, BlockNode *node, uint64_t offset, uint64_t size);

/* --- options --- */
/* Rows of a driver's table of options for creation; prefix: a literal. */
#define CRYPT_LUKS_OPTIONS(prefix)                                                                 \
    { prefix "cipher-alg", OPT_STR, "Name of encryption cipher algorithm" },                       \
    { prefix "cipher-mode", OPT_STR, "Name of encryption cipher mode" },                           \
    { prefix "hash-alg", OPT_STR, "Name of encryption hash algorithm" },                           \
    { prefix "iter-time", OPT_NUM, "Time to spend in PBKDF in milliseconds" },                     \
    { prefix "ivgen-alg", OPT_STR, "Name of IV generator algorithm" },                             \
    { prefix "ivgen-hash-alg", OPT_STR, "Name of IV generator hash algorithm" }
/* The same for amending. */
#define CRYPT_AMEND_OPTIONS(prefix)                                                                \
    { prefix "iter-time", OPT_NUM, "Time to spend in PBKDF in milliseconds" },                     \
    { prefix "keyslot", OPT_NUM, "Select a single keyslot to modify explicitly" },                 \
    { prefix "new-secret", OPT_STR,                                                                \
      "New secret to set in the matching keyslots. Empty string to erase" },                       \
    { prefix "old-secret", OPT_STR, "Select all keyslots that match this password" },              \
    { prefix "state", OPT_STR, "Select new state of affected keyslots (active/inactive)" }

typedef struct CryptCreate CryptCreate;
struct CryptCreate {
    LuksSpec spec;
    unsigned iter_time;
    char *secret; /* ID; NULL: not given */
};
/* Takes the options of creation. */
Error *crypt_take_create(KeyValues *opts, const char *prefix, CryptCreate *ret_create) MUST_USE;
void crypt_create_clear(CryptCreate *create);

/* Takes the options that change key slots and does what they say. key: the volume's, which is open. */
Error *crypt_amend_co(BlockGraph *graph, KeyValues *opts, const char *prefix, bool force, Luks *luks, const LuksStore *store,
                      const uint8_t *key) MUST_USE;

/* The pass phrase by the ID of its secret (NULL: the error says which option is needed); goes back by secret_free_text(). */
Error *crypt_pass(BlockGraph *graph, const char *id, const char *prefix, char **ret_pass) MUST_USE;

/* The legacy AES-128-CBC of qcow and qcow2, whose key is the pass phrase. */
Error *crypt_open_aes(BlockGraph *graph, const char *secret, const char *prefix, BlockCrypt **ret_crypt) MUST_USE;

/* Opens a LUKS volume: the key, and the cipher of its sectors. */
Error *crypt_open_luks_co(BlockGraph *graph, const char *secret, const char *prefix, const Luks *luks, const LuksStore *store,
                          uint8_t ret_key[LUKS_MAX_KEY], BlockCrypt **ret_crypt) MUST_USE;

/* Members about a volume, in the order in which people know them; format: NULL: none is named. */
void crypt_info(const Luks *luks, const char *format, Value *data);

#endif
