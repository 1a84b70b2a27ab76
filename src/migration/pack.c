/* zlib and zstd for records; see pack.h. */
#include "migration/pack.h"

#include <zlib.h>

#include "block/config.h"

#ifdef HAVE_ZSTD
#include <zstd.h>

static size_t zstd_room(size_t length)
{
    return ZSTD_compressBound(length);
}

static bool zstd_pack(int level, const void *data, size_t length, GByteArray *out)
{
    size_t done = ZSTD_compress(out->data, out->len, data, length, level);
    if (ZSTD_isError(done)) {
        return false;
    }
    g_byte_array_set_size(out, (guint)done);
    return true;
}

static bool zstd_unpack(const void *data, size_t length, void *ret_plain, size_t plain)
{
    return ZSTD_decompress(ret_plain, plain, data, length) == plain;
}
#else
static size_t zstd_room(size_t length)
{
    return length;
}

static bool zstd_pack(int level, const void *data, size_t length, GByteArray *out)
{
    return false;
}

static bool zstd_unpack(const void *data, size_t length, void *ret_plain, size_t plain)
{
    return false;
}
#endif

bool pack_has(PackMethod method)
{
#ifdef HAVE_ZSTD
    return true;
#else
    return method != PACK_ZSTD;
#endif
}

static bool zlib_pack(int level, const void *data, size_t length, GByteArray *out)
{
    uLongf room = out->len;
    if (compress2(out->data, &room, data, (uLong)length, level) != Z_OK) {
        return false;
    }
    g_byte_array_set_size(out, (guint)room);
    return true;
}

GByteArray *pack(PackMethod method, int level, const void *data, size_t length)
{
    size_t room = method == PACK_ZSTD ? zstd_room(length) : compressBound((uLong)length);

    if (method == PACK_NONE || !pack_has(method)) {
        return NULL;
    }
    GByteArray *out = g_byte_array_sized_new((guint)room);
    g_byte_array_set_size(out, (guint)room);
    if (method == PACK_ZSTD ? zstd_pack(level, data, length, out) : zlib_pack(level, data, length, out)) {
        return out;
    }
    g_byte_array_unref(out);
    return NULL;
}

bool unpack(PackMethod method, const void *data, size_t length, void *ret_plain, size_t plain)
{
    if (method == PACK_ZSTD) {
        return zstd_unpack(data, length, ret_plain, plain);
    }
    uLongf got = (uLongf)plain;
    return uncompress(ret_plain, &got, data, (uLong)length) == Z_OK && got == plain;
}
