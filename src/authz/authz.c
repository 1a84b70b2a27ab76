/* Who may come in: the check, and the objects that need no file. */
#include "authz/authz.h"

#include <string.h>

#include "authz/authz_priv.h"
#include "value/keyvalues.h"

const ObjectType authz_object_type = { .name = "authz", .size = sizeof(Authz), .abstract = true };

Error *authz_check(const Object *objects, const char *id, const char *identity)
{
    Object *obj = object_child(objects, id);
    bool allowed = false;

    if (!obj) {
        return error_new("No object with id '%s'", id);
    }
    if (!object_is_a(obj->type, &authz_object_type)) {
        return error_new("Object with id '%s' is not authorization", id);
    }
    TRY(container_of(obj->type, AuthzType, object)->allows((Authz *)obj, identity, &allowed));
    return allowed ? NULL : error_new("TLS x509 authz check for %s is denied", identity);
}

/* --- one identity --- */

typedef struct AuthzSimple {
    Authz authz;
    char *identity;
} AuthzSimple;

static Error *simple_allows(Authz *authz, const char *identity, bool *ret_allowed)
{
    *ret_allowed = !g_strcmp0(((AuthzSimple *)authz)->identity, identity);
    return NULL;
}

static const Prop simple_props[] = {
    PROP_STR("identity", AuthzSimple, identity, .flags = PROP_REQUIRED, .help = "the only one that may come in"), { 0 }
};
static Error *simple_complete(Object *obj)
{
    return ((AuthzSimple *)obj)->identity ? NULL : error_new("Parameter 'identity' is missing");
}
static const AuthzType simple_type = {
    .object = { .name = "authz-simple", .parent = &authz_object_type, .size = sizeof(AuthzSimple), .props = simple_props,
                .complete = simple_complete },
    .allows = simple_allows,
};
OBJECT_REGISTER(&simple_type.object);

/* --- a list of rules --- */

typedef struct AuthzList {
    Authz authz;
    int policy;
    KeyValues *members; /* rules.N.match and so on */
    AuthzRules *rules;
} AuthzList;

static const EnumName policies[] = { { "deny", false }, { "allow", true }, { NULL, 0 } };

static Error *list_set_member(Object *obj, const char *name, const char *text)
{
    AuthzList *list = (AuthzList *)obj;

    if (!g_str_has_prefix(name, "rules.")) {
        return error_new("Property 'authz-list.%s' not found", name);
    }
    if (!list->members) {
        list->members = keyvalues_new();
    }
    keyvalues_set(list->members, name, text);
    return NULL;
}

static Error *list_complete(Object *obj)
{
    AuthzList *list = (AuthzList *)obj;
    g_autoptr(Value) value = NULL;

    if (list->members) {
        TRY(keyvalues_to_value(list->members, &value));
    }
    return authz_rules_new(value ? value_find(value, "rules") : NULL, list->policy, &list->rules);
}

static void list_finalize(Object *obj)
{
    AuthzList *list = (AuthzList *)obj;
    keyvalues_free(list->members);
    authz_rules_free(list->rules);
}

static Error *list_allows(Authz *authz, const char *identity, bool *ret_allowed)
{
    *ret_allowed = authz_rules_allow(((AuthzList *)authz)->rules, identity);
    return NULL;
}

static const Prop list_props[] = {
    PROP_ENUM("policy", AuthzList, policy, policies, false, .help = "what holds when no rule matches"), { 0 }
};
static const AuthzType list_type = {
    .object = { .name = "authz-list", .parent = &authz_object_type, .size = sizeof(AuthzList), .props = list_props,
                .complete = list_complete, .set_member = list_set_member, .finalize = list_finalize },
    .allows = list_allows,
};
OBJECT_REGISTER(&list_type.object);
