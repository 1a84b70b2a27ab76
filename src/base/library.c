#include "base/library.h"

#include <dlfcn.h>
#include <string.h>

Error *library_open(const Library *library, void *api)
{
    void *handle = dlopen(library->file, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        return error_hint(error_new("%s cannot be loaded: %s", library->what, dlerror()),
                          "Debian has it in the package %s.", library->package);
    }
    /* All or nothing: the table is written only when every call was found. */
    g_autofree void **found = g_new(void *, library->count);
    for (size_t i = 0; i < library->count; i++) {
        found[i] = dlsym(handle, library->calls[i].symbol);
        if (!found[i]) {
            dlclose(handle);
            return error_hint(error_new("%s (%s) lacks %s", library->what, library->file, library->calls[i].symbol),
                              "A newer version of the package %s is needed.", library->package);
        }
    }
    for (size_t i = 0; i < library->count; i++) {
        memcpy((char *)api + library->calls[i].offset, &found[i], sizeof(found[i]));
    }
    return NULL; /* the handle is kept: threads of the library may run its code until the end */
}
