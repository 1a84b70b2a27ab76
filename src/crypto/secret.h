/*
 * -object secret: pass phrases and keys that are not on the command line of what uses them. The bytes come from `data` or a
 * file, plain or in base 64, and may themselves be encrypted with another secret (AES-256-CBC, `keyid` and `iv`).
 */
#ifndef OSTRICH_CRYPTO_SECRET_H
#define OSTRICH_CRYPTO_SECRET_H

#include "object/object.h"

/*
 * The bytes of the secret `id` among `objects` (the container that -object fills). The copy has a zero byte behind it, is the
 * caller's, and goes back by secret_free().
 */
Error *secret_get(const Object *objects, const char *id, uint8_t **ret_data, size_t *ret_size) MUST_USE;
/* The same, for what must be text in UTF-8: a pass phrase. */
Error *secret_get_text(const Object *objects, const char *id, char **ret_text) MUST_USE;
void secret_free(void *data, size_t size); /* wipes; accepts NULL */
void secret_free_text(char *text);         /* the same for text */

#endif
