/* Raw deflate streams of whole clusters; see deflate.h. */
#include "block/format/deflate.h"

#include <errno.h>
#include <stdbool.h>
#include <zlib.h>

enum { WINDOW_BITS = 12, MEMORY_LEVEL = 9 };

static z_stream stream_of(const DeflateCall *call)
{
    return (z_stream) { .next_in = (Bytef *)call->from, .avail_in = (uInt)call->from_bytes,
                        .next_out = call->to, .avail_out = (uInt)call->to_bytes };
}

int deflate_unpack(void *opaque)
{
    z_stream z = stream_of(opaque);
    if (inflateInit2(&z, -WINDOW_BITS) != Z_OK) {
        return -ENOMEM;
    }
    int ret = inflate(&z, Z_FINISH);
    bool whole = z.avail_out == 0 && (ret == Z_STREAM_END || ret == Z_BUF_ERROR);
    inflateEnd(&z);
    return whole ? 0 : -EIO;
}

int deflate_pack(void *opaque)
{
    DeflateCall *call = opaque;
    z_stream z = stream_of(call);
    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -WINDOW_BITS, MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK) {
        return -ENOMEM;
    }
    int ret = deflate(&z, Z_FINISH);
    int bytes = (int)(call->to_bytes - z.avail_out);
    deflateEnd(&z);
    return ret == Z_STREAM_END ? bytes : -ENOSPC;
}
