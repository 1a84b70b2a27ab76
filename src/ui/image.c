/* Surfaces as image files: PPM (netpbm's binary "P6") and PNG. */
#include <errno.h>
#include <png.h>
#include <string.h>

#include "base/library.h"
#include "ui/console.h"

#define PNG_CALLS(C) C(png_image_write_to_memory) C(png_image_free)

typedef struct PngApi {
    PNG_CALLS(LIBRARY_POINTER)
} PngApi;

#define PNG_CALL(name) LIBRARY_CALL(PngApi, name)
static const LibraryCall png_calls[] = { PNG_CALLS(PNG_CALL) };
static const Library png_library = { "the PNG library", "libpng16.so.16", "libpng16-16", png_calls,
                                     G_N_ELEMENTS(png_calls) };

/* A row as R, G, B bytes. */
static void rgb_row(const uint32_t *row, unsigned width, uint8_t *out)
{
    for (unsigned x = 0; x < width; x++) {
        *out++ = row[x] >> 16;
        *out++ = row[x] >> 8;
        *out++ = row[x];
    }
}

static void encode_ppm(const Surface *surface, GByteArray *out)
{
    char head[64];
    int length = g_snprintf(head, sizeof(head), "P6\n%u %u\n255\n", surface->width, surface->height);
    g_autofree uint8_t *rgb = g_malloc(surface->width * 3);
    g_byte_array_append(out, (uint8_t *)head, length);
    for (unsigned y = 0; y < surface->height; y++) {
        rgb_row(surface_row(surface, y), surface->width, rgb);
        g_byte_array_append(out, rgb, surface->width * 3);
    }
}

static Error *encode_png(const Surface *surface, GByteArray *out)
{
    PngApi lib;
    png_image image = { .version = PNG_IMAGE_VERSION, .width = surface->width, .height = surface->height,
                        .format = PNG_FORMAT_RGB };
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
    size_t stride = (size_t)surface->width * 3;

    TRY(library_open(&png_library, &lib));
    g_autofree uint8_t *rgb = g_malloc(stride * surface->height);
    for (unsigned y = 0; y < surface->height; y++) {
        rgb_row(surface_row(surface, y), surface->width, rgb + y * stride);
    }
    g_byte_array_set_size(out, size);
    bool done = lib.png_image_write_to_memory(&image, out->data, &size, 0, rgb, 0, NULL);
    g_byte_array_set_size(out, done ? size : 0);
    Error *err = done ? NULL : error_new("the PNG library could not write the picture: %s", image.message);
    lib.png_image_free(&image);
    return err;
}

Error *surface_encode(const Surface *surface, ImageFormat format, GByteArray *out)
{
    /* Other pixel formats go through pixman once. */
    Surface *plain = NULL;
    Error *err = NULL;
    if (surface->format != PIXMAN_x8r8g8b8) {
        plain = surface_new(surface->width, surface->height);
        if (!plain) {
            return error_new("no memory for a picture of %ux%u", surface->width, surface->height);
        }
        pixman_image_composite(PIXMAN_OP_SRC, surface->image, NULL, plain->image, 0, 0, 0, 0, 0, 0, surface->width,
                               surface->height);
        surface = plain;
    }
    if (format == IMAGE_PPM) {
        encode_ppm(surface, out);
    } else {
        err = encode_png(surface, out);
    }
    surface_unref(plain);
    return err;
}

Error *console_dump(Console *console, const char *path, ImageFormat format)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    if (console->ops->invalidate) {
        console->ops->invalidate(console->opaque);
    }
    console_refresh(console);
    TRY(surface_encode(console->surface, format, out));
    FILE *file = fopen(path, "wb");
    if (!file) {
        return error_new_errno(errno, "failed to open file '%s'", path);
    }
    bool good = fwrite(out->data, 1, out->len, file) == out->len;
    good = fclose(file) == 0 && good;
    return good ? NULL : error_new_errno(errno, "failed to write file '%s'", path);
}
