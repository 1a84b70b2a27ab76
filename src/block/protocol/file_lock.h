/*
 * Locks between processes on an image file. Every claim that is used holds a shared lock on byte
 * 100 + n, every claim that is not tolerated from others one on byte 200 + n (n: consistent read 0,
 * write 1, write unchanged 2, resize 3), so any number of holders may look for conflicts. These
 * bytes are the ones that QEMU's programs use, observed through /proc/locks, so both respect each
 * other.
 */
#ifndef OSTRICH_BLOCK_FILE_LOCK_H
#define OSTRICH_BLOCK_FILE_LOCK_H

#include "base/error.h"

typedef struct FileLocks {
    unsigned used, unshared; /* held */
} FileLocks;

/* Takes what is new, looks for conflicts, gives up what is not needed; on failure nothing changes.
 */
Error *file_locks_set(int fd, const char *filename, FileLocks *locks, unsigned used,
                      unsigned unshared) MUST_USE;
/* Whether the file system has such locks at all. */
bool file_locks_work(int fd);

#endif
