/* Shared by the files of virtio queues. */
#ifndef OSTRICH_BUS_VIRTQ_PRIV_H
#define OSTRICH_BUS_VIRTQ_PRIV_H

#include "bus/virtio.h"

enum { VIRTQ_DESC_NEXT = 1, VIRTQ_DESC_WRITE = 2, VIRTQ_DESC_INDIRECT = 4 };
enum { VIRTQ_DESC_SIZE = 16 };

/* A record in Virtqueue.returned: id (u16), slots (u16), then the entries of a packed ring. */
enum { VIRTQ_RETURNED_HEADER = 4, VIRTQ_RETURNED_MAX = VIRTIO_QUEUE_SIZE_MAX * (VIRTQ_RETURNED_HEADER + VIRTQ_DESC_SIZE) };

/* A chain under construction: host memory of its descriptors. */
typedef struct VirtqChain {
    Virtqueue *vq;
    struct iovec iov[VIRTIO_QUEUE_SIZE_MAX + 8];
    unsigned count, out_count, descriptors;
    uint64_t out_bytes, in_bytes;
} VirtqChain;

void virtq_forget_mapping(Virtqueue *vq);
/* Maps `length` bytes of guest memory as one piece, or breaks the device. */
uint8_t *virtq_map_area(Virtqueue *vq, uint64_t addr, uint64_t length, bool write);
/* Bytes of an area that the device wrote. */
void virtq_area_written(Virtqueue *vq, uint8_t *host, uint64_t length);
/* Adds one descriptor; false: the device is broken. */
bool virtq_chain_add(VirtqChain *chain, uint64_t addr, uint32_t length, bool in);
/* ring: the entries of a packed ring, which are copied; else NULL. */
VirtqElement *virtq_element_new(const VirtqChain *chain, size_t size, uint16_t id, uint16_t slots, const uint8_t *ring);

bool virtq_split_map(Virtqueue *vq);
bool virtq_split_empty(Virtqueue *vq);
VirtqElement *virtq_split_pop(Virtqueue *vq, size_t size);
/* The buffer that begins at a descriptor. */
VirtqElement *virtq_split_take(Virtqueue *vq, size_t size, uint16_t head);
/* A used entry `ahead` of the next one; the driver sees the entries when they are published. */
void virtq_split_fill(Virtqueue *vq, uint16_t ahead, uint16_t id, uint32_t written);
void virtq_split_publish(Virtqueue *vq, uint16_t count);
bool virtq_split_should_notify(Virtqueue *vq);
void virtq_split_set_notification(Virtqueue *vq, bool on);

bool virtq_packed_map(Virtqueue *vq);
bool virtq_packed_empty(Virtqueue *vq);
VirtqElement *virtq_packed_pop(Virtqueue *vq, size_t size);
/* The buffer of these entries, which are copies. */
VirtqElement *virtq_packed_take(Virtqueue *vq, size_t size, const uint8_t *entries, uint16_t slots);
/* The same, `ahead` in descriptors: the driver sees them as soon as the one with ahead 0, which comes last, is there. */
void virtq_packed_fill(Virtqueue *vq, uint16_t ahead, uint16_t id, uint32_t written);
void virtq_packed_publish(Virtqueue *vq, uint16_t slots);
bool virtq_packed_should_notify(Virtqueue *vq);
void virtq_packed_set_notification(Virtqueue *vq, bool on);
void virtq_packed_unpop(Virtqueue *vq, uint16_t slots);

#endif
