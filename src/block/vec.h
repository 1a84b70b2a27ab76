/*
 * Scatter lists of the data path. A BlockVec borrows its elements; requests pass it with an offset,
 * so that a part of it needs no copy.
 */
#ifndef OSTRICH_BLOCK_VEC_H
#define OSTRICH_BLOCK_VEC_H

#include <sys/uio.h>

#include "base/base.h"

typedef struct BlockVec {
    const struct iovec *iov;
    unsigned count;
} BlockVec;

/* One buffer: declares the vec and its element. */
#define BLOCK_VEC_BUFFER(name, buffer, length)                                                     \
    struct iovec name##_iov = { .iov_base = (void *)(buffer), .iov_len = (length) };               \
    BlockVec name = { .iov = &name##_iov, .count = 1 }

size_t block_vec_size(const BlockVec *vec);
void block_vec_to_buffer(const BlockVec *vec, size_t offset, void *buffer, size_t bytes);
void block_vec_from_buffer(const BlockVec *vec, size_t offset, const void *buffer, size_t bytes);
void block_vec_zero(const BlockVec *vec, size_t offset, size_t bytes);
bool block_vec_is_zero(const BlockVec *vec, size_t offset, size_t bytes);
/* Whether every address and length is a multiple of align. */
bool block_vec_is_aligned(const BlockVec *vec, size_t offset, size_t bytes, size_t align);
/* Copies the elements of [offset, offset + bytes) to out, at most max of them; returns how many.
 * *ret_bytes: what they cover. */
unsigned block_vec_slice(const BlockVec *vec, size_t offset, size_t bytes, struct iovec *out,
                         unsigned max, size_t *ret_bytes);

bool block_buffer_is_zero(const void *buffer, size_t bytes);

#endif
