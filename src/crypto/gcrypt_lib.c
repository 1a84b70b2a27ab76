#include "crypto/gcrypt_lib.h"

#define GCRYPT_CALL(name) LIBRARY_CALL(GcryptApi, name)
static const LibraryCall gcrypt_calls[] = { GCRYPT_CALLS(GCRYPT_CALL) };
static const Library gcrypt_library = { "the cipher library", "libgcrypt.so.20", "libgcrypt20", gcrypt_calls,
                                        G_N_ELEMENTS(gcrypt_calls) };

/* The library wants to be initialized once a process, so the table is one a process too. */
Error *gcrypt_lib(const GcryptApi **ret_lib)
{
    static GcryptApi lib;
    static GMutex mutex;
    static bool open;
    Error *err = NULL;

    g_mutex_lock(&mutex);
    if (!open) {
        err = library_open(&gcrypt_library, &lib);
        if (!err) {
            lib.gcry_check_version(NULL);
            /* No pool of locked memory: its size would bound how many disks can be open. */
            lib.gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
            lib.gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
            open = true;
        }
    }
    g_mutex_unlock(&mutex);
    *ret_lib = &lib;
    return err;
}
