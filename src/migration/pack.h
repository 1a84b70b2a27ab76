/* Records of RAM packed by zlib or zstd. No state, any thread. */
#ifndef OSTRICH_MIGRATION_PACK_H
#define OSTRICH_MIGRATION_PACK_H

#include "base/error.h"

typedef enum PackMethod { PACK_NONE, PACK_ZLIB, PACK_ZSTD } PackMethod;

bool pack_has(PackMethod method); /* this program was built with it */
/* NULL: with PACK_NONE, or when it cannot be packed. */
GByteArray *pack(PackMethod method, int level, const void *data, size_t length);
/* Exactly `plain` bytes must come out. False: it is damaged. */
bool unpack(PackMethod method, const void *data, size_t length, void *ret_plain, size_t plain);

#endif
