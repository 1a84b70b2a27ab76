/* Surfaces as image files: PPM (netpbm's binary "P6") and PNG. */
#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <string.h>

#include "ui/console.h"

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

static void png_append(png_structp png, png_bytep data, png_size_t length)
{
    g_byte_array_append(png_get_io_ptr(png), data, length);
}

static void png_flush_nothing(png_structp png)
{
}

static bool encode_png(const Surface *surface, GByteArray *out)
{
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    uint8_t *rgb = g_malloc(surface->width * 3);
    volatile bool done = false;
    if (info && setjmp(png_jmpbuf(png)) == 0) {
        png_set_write_fn(png, out, png_append, png_flush_nothing);
        png_set_IHDR(png, info, surface->width, surface->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                     PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
        png_write_info(png, info);
        for (unsigned y = 0; y < surface->height; y++) {
            rgb_row(surface_row(surface, y), surface->width, rgb);
            png_write_row(png, rgb);
        }
        png_write_end(png, NULL);
        done = true;
    }
    png_destroy_write_struct(&png, &info);
    g_free(rgb);
    return done;
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
    } else if (!encode_png(surface, out)) {
        err = error_new("the PNG library could not write the picture");
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
