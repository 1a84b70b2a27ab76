/* -object authz-pam: the account management of a PAM service decides. */
#include <security/pam_appl.h>

#include "authz/authz.h"
#include "base/library.h"

#define PAM_CALLS(C) C(pam_start) C(pam_acct_mgmt) C(pam_end) C(pam_strerror)
typedef struct PamApi {
    PAM_CALLS(LIBRARY_POINTER)
} PamApi;
#define PAM_CALL(name) LIBRARY_CALL(PamApi, name)
static const LibraryCall pam_calls[] = { PAM_CALLS(PAM_CALL) };
static const Library pam_library = { "the PAM library", "libpam.so.0", "libpam0g", pam_calls, G_N_ELEMENTS(pam_calls) };

typedef struct AuthzPam {
    Authz authz;
    char *service;
    PamApi lib;
} AuthzPam;

static Error *complete(Object *obj)
{
    AuthzPam *pam = (AuthzPam *)obj;

    if (!pam->service) {
        return error_new("'service' must be set");
    }
    return library_open(&pam_library, &pam->lib);
}

/* Nobody is there to answer questions. */
static int converse(int count, const struct pam_message **messages, struct pam_response **responses, void *opaque)
{
    return PAM_CONV_ERR;
}

static Error *allows(Authz *authz, const char *identity, bool *ret_allowed)
{
    static const struct pam_conv conversation = { .conv = converse };
    AuthzPam *pam = (AuthzPam *)authz;
    pam_handle_t *handle = NULL;

    int code = pam->lib.pam_start(pam->service, identity, &conversation, &handle);
    if (code != PAM_SUCCESS) {
        return error_new("Unable to start PAM transaction: %s", pam->lib.pam_strerror(NULL, code));
    }
    code = pam->lib.pam_acct_mgmt(handle, PAM_SILENT);
    pam->lib.pam_end(handle, code);
    *ret_allowed = code == PAM_SUCCESS;
    return NULL;
}

static const Prop props[] = { PROP_STR("service", AuthzPam, service, .flags = PROP_REQUIRED, .help = "the PAM service's name"), { 0 } };
static const AuthzType type = {
    .object = { .name = "authz-pam", .parent = &authz_object_type, .size = sizeof(AuthzPam), .props = props,
                .complete = complete },
    .allows = allows,
};
OBJECT_REGISTER(&type.object);
