/* Rules, which the list in options and the list in a file have in common. */
#ifndef OSTRICH_AUTHZ_AUTHZ_PRIV_H
#define OSTRICH_AUTHZ_AUTHZ_PRIV_H

#include "authz/authz.h"
#include "value/value.h"

typedef struct AuthzRules AuthzRules;
/* rules: a list of {match, policy, format}, NULL: none. allow: what holds when none matches. */
Error *authz_rules_new(const Value *rules, bool allow, AuthzRules **ret_rules) MUST_USE;
void authz_rules_free(AuthzRules *rules); /* accepts NULL */
bool authz_rules_allow(const AuthzRules *rules, const char *identity);
/* "allow" or "deny". */
Error *authz_parse_policy(const char *text, bool *ret_allow) MUST_USE;

#endif
