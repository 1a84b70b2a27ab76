#include "crypto/gnutls_lib.h"

#define GNUTLS_CALL(name) LIBRARY_CALL(GnutlsApi, name)
static const LibraryCall gnutls_calls[] = { GNUTLS_CALLS(GNUTLS_CALL) };
static const Library gnutls_library = { "the TLS library", "libgnutls.so.30", "libgnutls30", gnutls_calls,
                                        G_N_ELEMENTS(gnutls_calls) };

Error *gnutls_lib(const GnutlsApi **ret_lib)
{
    static GnutlsApi lib;
    static GMutex mutex;
    static bool open;
    Error *err = NULL;

    g_mutex_lock(&mutex);
    if (!open) {
        err = library_open(&gnutls_library, &lib);
        open = !err;
    }
    g_mutex_unlock(&mutex);
    *ret_lib = &lib;
    return err;
}
