/*
 * Libraries that are opened when they are first needed, so that no start pays for them and a host without one
 * misses only the feature that needs it. The code is compiled against the library's headers and calls through a
 * table:
 *
 *     #define PNG_CALLS(C) C(png_create_info_struct) C(png_write_row) ...
 *     typedef struct PngApi { PNG_CALLS(LIBRARY_POINTER) } PngApi;
 *     #define PNG_CALL(name) LIBRARY_CALL(PngApi, name)
 *     static const LibraryCall png_calls[] = { PNG_CALLS(PNG_CALL) };
 *     static const Library png = { "the PNG library", "libpng16.so.16", "libpng16-16", png_calls, G_N_ELEMENTS(png_calls) };
 *     ...
 *     TRY(library_open(&png, &api));
 *     api.png_write_row(...)
 */
#ifndef OSTRICH_BASE_LIBRARY_H
#define OSTRICH_BASE_LIBRARY_H

#include "base/error.h"

typedef struct LibraryCall {
    const char *symbol;
    size_t offset; /* of the pointer in the table */
} LibraryCall;

typedef struct Library {
    const char *what;    /* in messages: "the PNG library" */
    const char *file;    /* with the version of its interface: "libpng16.so.16" */
    const char *package; /* Debian's package of it */
    const LibraryCall *calls;
    size_t count;
} Library;

#define LIBRARY_POINTER(name) __typeof__(name) *name;
#define LIBRARY_CALL(Table, name) { #name, offsetof(Table, name) },

/*
 * Opens the library, which then stays open for the program's life, and fills the table `api`. Fails with the package's
 * name in the hint; `api` is untouched then. Any thread.
 */
Error *library_open(const Library *library, void *api);

#endif
