/*
 * The device's side of a split virtqueue (virtio 1.2, 2.7) in memory of a front end that is not trusted: what it
 * wrote is read once and checked; whatever is wrong makes the ring broken, which the caller ends.
 */
#ifndef OSTRICH_BLOCK_VHOST_RING_H
#define OSTRICH_BLOCK_VHOST_RING_H

#include "block/export/vhost_memory.h"

enum {
    VHOST_RING_MAX = 1024, /* entries; descriptors of a chain */
    VHOST_RING_PIECES = VHOST_RING_MAX + 64, /* of memory in a chain: one descriptor may lie in two regions */
};

typedef struct VhostRing {
    uint16_t num;
    uint64_t desc_user, avail_user, used_user; /* the front end's addresses */
    uint8_t *desc, *avail, *used;              /* NULL: not mapped */
    uint16_t last_avail, used_idx, signalled;
    bool signalled_valid, event_idx, indirect; /* the last two were negotiated */
} VhostRing;

typedef struct VhostElement {
    uint16_t head;
    struct iovec *out, *in; /* what the guest gives, and what it gets */
    unsigned out_count, in_count;
    struct iovec iov[];
} VhostElement;

/* Finds the ring's parts; false: they are not in the memory. Goes on where the used ring is. */
bool vhost_ring_map(VhostRing *ring, const VhostMemory *memory);
void vhost_ring_unmap(VhostRing *ring);
/* 1: *ret_element, freed with g_free(); 0: there is none; -EPROTO: the ring is broken. */
int vhost_ring_pop(VhostRing *ring, const VhostMemory *memory, VhostElement **ret_element);
/* bytes: that the guest got. */
void vhost_ring_push(VhostRing *ring, uint16_t head, uint32_t bytes);
/* Whether the guest wants to be told of what was pushed. */
bool vhost_ring_should_signal(VhostRing *ring);
/* The guest shall kick when it adds something. True: it has done so already. */
bool vhost_ring_want_kick(VhostRing *ring);

#endif
