/* What the files of LUKS share. */
#ifndef OSTRICH_CRYPTO_LUKS_PRIV_H
#define OSTRICH_CRYPTO_LUKS_PRIV_H

#include "crypto/luks.h"

/* The header alone, without key material. */
Error *luks_store_header_co(const Luks *luks, const LuksStore *store) MUST_USE;
/* Bytes of a slot's key material, a multiple of the sector. */
size_t luks_material_size(uint32_t key_size);
/* The layout of a new header: offsets of slots and payload. */
void luks_lay_out(Luks *luks);

Error *luks_random(void *buf, size_t size) MUST_USE;

/*
 * The anti-forensic splitter: `key` becomes LUKS_STRIPES stripes, all of which are needed to get it back. stripes has
 * size * LUKS_STRIPES bytes.
 */
Error *luks_af_split(HashAlgo hash, const uint8_t *key, size_t size, uint8_t *stripes) MUST_USE;
Error *luks_af_merge(HashAlgo hash, const uint8_t *stripes, size_t size, uint8_t *ret_key) MUST_USE;

#endif
