#include "block/vec.h"

#include <string.h>

size_t block_vec_size(const BlockVec *vec)
{
    size_t size = 0;
    for (unsigned i = 0; i < vec->count; i++) {
        size += vec->iov[i].iov_len;
    }
    return size;
}

/* Calls fn for each contiguous piece of [offset, offset + bytes) until it returns false. */
typedef bool PieceFn(void *opaque, char *piece, size_t length);

static bool vec_pieces(const BlockVec *vec, size_t offset, size_t bytes, PieceFn *fn, void *opaque)
{
    for (unsigned i = 0; bytes; i++) {
        assert(i < vec->count);
        if (offset >= vec->iov[i].iov_len) {
            offset -= vec->iov[i].iov_len;
            continue;
        }
        size_t length = MIN(vec->iov[i].iov_len - offset, bytes);
        if (!fn(opaque, (char *)vec->iov[i].iov_base + offset, length)) {
            return false;
        }
        bytes -= length;
        offset = 0;
    }
    return true;
}

static bool piece_out(void *opaque, char *piece, size_t length)
{
    char **to = opaque;
    memcpy(*to, piece, length);
    *to += length;
    return true;
}

static bool piece_in(void *opaque, char *piece, size_t length)
{
    const char **from = opaque;
    memcpy(piece, *from, length);
    *from += length;
    return true;
}

static bool piece_zero(void *opaque, char *piece, size_t length)
{
    memset(piece, 0, length);
    return true;
}

static bool piece_is_zero(void *opaque, char *piece, size_t length)
{
    return block_buffer_is_zero(piece, length);
}

static bool piece_is_aligned(void *opaque, char *piece, size_t length)
{
    size_t align = *(size_t *)opaque;
    return IS_ALIGNED((uintptr_t)piece, align) && IS_ALIGNED(length, align);
}

typedef struct Slice {
    struct iovec *out;
    unsigned count, max;
    size_t bytes;
} Slice;

static bool piece_slice(void *opaque, char *piece, size_t length)
{
    Slice *slice = opaque;
    if (slice->count == slice->max) {
        return false;
    }
    slice->out[slice->count++] = (struct iovec) { piece, length };
    slice->bytes += length;
    return true;
}

void block_vec_to_buffer(const BlockVec *vec, size_t offset, void *buffer, size_t bytes)
{
    vec_pieces(vec, offset, bytes, piece_out, &buffer);
}

void block_vec_from_buffer(const BlockVec *vec, size_t offset, const void *buffer, size_t bytes)
{
    vec_pieces(vec, offset, bytes, piece_in, &buffer);
}

void block_vec_zero(const BlockVec *vec, size_t offset, size_t bytes)
{
    vec_pieces(vec, offset, bytes, piece_zero, NULL);
}

bool block_vec_is_zero(const BlockVec *vec, size_t offset, size_t bytes)
{
    return vec_pieces(vec, offset, bytes, piece_is_zero, NULL);
}

bool block_vec_is_aligned(const BlockVec *vec, size_t offset, size_t bytes, size_t align)
{
    return align <= 1 || vec_pieces(vec, offset, bytes, piece_is_aligned, &align);
}

unsigned block_vec_slice(const BlockVec *vec, size_t offset, size_t bytes, struct iovec *out,
                         unsigned max, size_t *ret_bytes)
{
    Slice slice = { .out = out, .max = max };
    vec_pieces(vec, offset, bytes, piece_slice, &slice);
    *ret_bytes = slice.bytes;
    return slice.count;
}

/* The first bytes are looked at alone: most buffers that are not zero show it there. */
bool block_buffer_is_zero(const void *buffer, size_t bytes)
{
    const char *p = buffer;
    size_t head = MIN(bytes, 16);
    for (size_t i = 0; i < head; i++) {
        if (p[i]) {
            return false;
        }
    }
    return bytes <= 16 || memcmp(p, p + 16, bytes - 16) == 0;
}
