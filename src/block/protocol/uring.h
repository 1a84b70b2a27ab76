/*
 * Requests of one file through io_uring (aio=io_uring, aio=native). Those that are made in one
 * round of the loop go to the kernel together. Where a request cannot be queued, -EAGAIN says to
 * make it otherwise.
 */
#ifndef OSTRICH_BLOCK_URING_H
#define OSTRICH_BLOCK_URING_H

#include <sys/uio.h>

#include "base/error.h"
#include "event/coroutine.h"

typedef struct FileUring FileUring;

/* An error where the kernel or this build has no io_uring. */
Error *file_uring_new(Loop *loop, FileUring **ret_ring) MUST_USE;
void file_uring_free(FileUring *ring); /* accepts NULL; nothing is under way */
/* Bytes done or -errno. */
int file_uring_rw_co(FileUring *ring, int fd, bool write, const struct iovec *iov, int count,
                     uint64_t offset);
int file_uring_sync_co(FileUring *ring, int fd);

#endif
