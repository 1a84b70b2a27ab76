/*
 * Who may come in: -object authz-simple, authz-list, authz-list-file, authz-pam. An identity is text that something else has
 * verified, such as the distinguished name of a certificate.
 */
#ifndef OSTRICH_AUTHZ_AUTHZ_H
#define OSTRICH_AUTHZ_AUTHZ_H

#include "object/object.h"

/* An error unless the object `id` lets `identity` in. May block (PAM). */
Error *authz_check(const Object *objects, const char *id, const char *identity) MUST_USE;

/* What the objects embed first. */
typedef struct Authz {
    Object object;
} Authz;
typedef struct AuthzType {
    ObjectType object;
    Error *(*allows)(Authz *authz, const char *identity, bool *ret_allowed);
} AuthzType;
extern const ObjectType authz_object_type;

#endif
