/* -object authz-list-file: rules in a file, JSON {"rules": [...], "policy": "deny"}; looked at again when it has changed. */
#include <string.h>
#include <sys/stat.h>

#include "authz/authz_priv.h"
#include "base/log.h"
#include "value/json.h"

typedef struct AuthzListFile {
    Authz authz;
    char *filename;
    bool refresh;
    AuthzRules *rules;
    struct timespec changed; /* of the file that was read */
    ino_t inode;
} AuthzListFile;

static Error *load(AuthzListFile *f)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) gerr = NULL;
    g_autoptr(Value) value = NULL;
    AuthzRules *rules;
    gsize size;
    bool allow = false;

    if (!g_file_get_contents(f->filename, &text, &size, &gerr)) {
        return error_new("Unable to read '%s': %s", f->filename, gerr->message);
    }
    TRY(json_parse(text, size, &value));
    if (value_kind(value) != VALUE_DICT) {
        return error_new("'%s' must hold an object with 'rules' and 'policy'", f->filename);
    }
    const char *policy = value_find_str(value, "policy");
    if (policy) {
        TRY(authz_parse_policy(policy, &allow));
    }
    TRY(authz_rules_new(value_find(value, "rules"), allow, &rules));
    authz_rules_free(f->rules);
    f->rules = rules;
    return NULL;
}

/* Whether the file is another than before; notes how it is. */
static bool has_changed(AuthzListFile *f)
{
    struct stat st;
    if (stat(f->filename, &st) < 0 || (st.st_ino == f->inode && st.st_mtim.tv_sec == f->changed.tv_sec &&
                                       st.st_mtim.tv_nsec == f->changed.tv_nsec)) {
        return false;
    }
    f->inode = st.st_ino;
    f->changed = st.st_mtim;
    return true;
}

static Error *complete(Object *obj)
{
    AuthzListFile *f = (AuthzListFile *)obj;

    if (!f->filename) {
        return error_new("filename not provided");
    }
    has_changed(f);
    return load(f);
}

static void finalize(Object *obj)
{
    authz_rules_free(((AuthzListFile *)obj)->rules);
}

static Error *allows(Authz *authz, const char *identity, bool *ret_allowed)
{
    AuthzListFile *f = (AuthzListFile *)authz;

    if (f->refresh && has_changed(f)) {
        Error *err = load(f); /* the old rules stay when the new ones are none */
        if (err) {
            log_printf("authz-list-file: %s: %s\n", f->filename, error_message(err));
            error_free(err);
        }
    }
    *ret_allowed = authz_rules_allow(f->rules, identity);
    return NULL;
}

static const Prop props[] = {
    PROP_STR("filename", AuthzListFile, filename, .flags = PROP_REQUIRED, .help = "file with the rules"),
    PROP_BOOL("refresh", AuthzListFile, refresh, true, .help = "follow changes of the file"),
    { 0 },
};
static const AuthzType type = {
    .object = { .name = "authz-list-file", .parent = &authz_object_type, .size = sizeof(AuthzListFile), .props = props,
                .complete = complete, .finalize = finalize },
    .allows = allows,
};
OBJECT_REGISTER(&type.object);
