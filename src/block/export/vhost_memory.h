/*
 * The front end's memory, as a vhost-user back end sees it: regions that were passed as file descriptors, each known by
 * guest address and by the front end's own address. Everything that comes from the front end is looked up
 * here before it is used.
 */
#ifndef OSTRICH_BLOCK_VHOST_MEMORY_H
#define OSTRICH_BLOCK_VHOST_MEMORY_H

#include <sys/uio.h>

#include "base/base.h"

enum { VHOST_MEMORY_SLOTS = 64 };

/* As it is on the wire. */
typedef struct VhostRegion {
    uint64_t guest, size, user, offset; /* offset: in the file */
} VhostRegion;

typedef struct VhostMapping {
    VhostRegion region;
    uint8_t *host; /* of the region's first byte */
    void *base;    /* what munmap() wants */
    size_t mapped;
} VhostMapping;

typedef struct VhostMemory {
    VhostMapping slots[VHOST_MEMORY_SLOTS];
    unsigned count;
} VhostMemory;

/* 0 or -errno. fd stays the caller's. */
int vhost_memory_add(VhostMemory *memory, const VhostRegion *region, int fd);
/* By addresses and size; -ENOENT: there is no such region. Nobody uses the memory meanwhile. */
int vhost_memory_remove(VhostMemory *memory, const VhostRegion *region);
void vhost_memory_clear(VhostMemory *memory);
/* The front end shortened a file, and what was read since is nothing. */
bool vhost_memory_is_lost(const VhostMemory *memory);
/* `bytes` at the front end's address, in one region; NULL: not there. */
uint8_t *vhost_memory_user(const VhostMemory *memory, uint64_t address, uint64_t bytes);
/*
 * Guest memory as iovecs, from iov[*count] on, at most max in all. False: not all of it is there, or there
 * are too many pieces.
 */
bool vhost_memory_guest(const VhostMemory *memory, uint64_t address, uint64_t bytes, struct iovec *iov,
                        unsigned *count, unsigned max);
/* Copies out; false: not all of it is there. */
bool vhost_memory_read(const VhostMemory *memory, uint64_t address, void *buffer, size_t bytes);

#endif
