/*
 * Split rings (virtio 1.2, 2.7): descriptor table; available ring: flags, index, heads, used_event; used ring:
 * flags, index, (id, length) pairs, avail_event.
 */
#include <stdatomic.h>

#include "base/endian.h"
#include "bus/virtq_priv.h"

enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };

/* Ring fields are shared with the guest's CPUs: single loads and stores. */
static uint16_t get16(const uint8_t *p)
{
    return GUINT16_FROM_LE(__atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED));
}

static void put16(uint8_t *p, uint16_t value)
{
    __atomic_store_n((uint16_t *)p, GUINT16_TO_LE(value), __ATOMIC_RELAXED);
}

static uint16_t avail_idx(Virtqueue *vq)
{
    return get16(vq->avail_ptr + 2);
}

static uint8_t *used_event(Virtqueue *vq)
{
    return vq->avail_ptr + 4 + 2 * vq->size;
}

static uint8_t *avail_event(Virtqueue *vq)
{
    return vq->used_ptr + 4 + 8 * vq->size;
}

bool virtq_split_map(Virtqueue *vq)
{
    unsigned event = virtio_has(vq->vdev, VIRTIO_F_EVENT_IDX) ? 2 : 0;
    if ((vq->desc & 15) || (vq->avail & 1) || (vq->used & 3)) {
        virtio_break(vq->vdev, "queue %u: a ring is not aligned", vq->index);
        return false;
    }
    uint8_t *avail = virtq_map_area(vq, vq->avail, 4 + 2 * vq->size + event, false);
    uint8_t *used = avail ? virtq_map_area(vq, vq->used, 4 + 8 * vq->size + event, true) : NULL;
    uint8_t *desc = used ? virtq_map_area(vq, vq->desc, VIRTQ_DESC_SIZE * vq->size, false) : NULL;
    vq->avail_ptr = avail;
    vq->used_ptr = used;
    vq->desc_ptr = desc;
    return desc != NULL;
}

bool virtq_split_empty(Virtqueue *vq)
{
    return avail_idx(vq) == vq->last_avail;
}

/* Walks a table from descriptor `at`; an indirect table is entered once. */
static bool walk(VirtqChain *chain, const uint8_t *table, unsigned entries, unsigned at, bool indirect)
{
    Virtqueue *vq = chain->vq;

    for (unsigned steps = 0;; steps++) {
        if (at >= entries || steps >= entries) {
            virtio_break(vq->vdev, "queue %u: a descriptor chain leaves its table or loops", vq->index);
            return false;
        }
        const uint8_t *d = table + at * VIRTQ_DESC_SIZE;
        uint64_t addr = ld64_le(d);
        uint32_t length = ld32_le(d + 8);
        uint16_t flags = ld16_le(d + 12);
        if (flags & VIRTQ_DESC_INDIRECT) {
            if (indirect || length == 0 || length % VIRTQ_DESC_SIZE || length / VIRTQ_DESC_SIZE > VIRTIO_QUEUE_SIZE_MAX ||
                (flags & VIRTQ_DESC_NEXT)) {
                virtio_break(vq->vdev, "queue %u: a wrong indirect descriptor", vq->index);
                return false;
            }
            const uint8_t *inner = virtq_map_area(vq, addr, length, false);
            return inner && walk(chain, inner, length / VIRTQ_DESC_SIZE, 0, true);
        }
        if (!virtq_chain_add(chain, addr, length, flags & VIRTQ_DESC_WRITE)) {
            return false;
        }
        if (!(flags & VIRTQ_DESC_NEXT)) {
            return true;
        }
        at = ld16_le(d + 14);
    }
}

VirtqElement *virtq_split_take(Virtqueue *vq, size_t size, uint16_t head)
{
    VirtqChain chain;
    chain.vq = vq;
    chain.count = chain.out_count = chain.descriptors = 0;
    chain.out_bytes = chain.in_bytes = 0;
    return walk(&chain, vq->desc_ptr, vq->size, head, false) ? virtq_element_new(&chain, size, head, 1, NULL) : NULL;
}

VirtqElement *virtq_split_pop(Virtqueue *vq, size_t size)
{
    uint16_t idx = avail_idx(vq), waiting = (uint16_t)(idx - vq->last_avail);

    if (waiting == 0) {
        return NULL;
    }
    if (waiting > vq->size) {
        virtio_break(vq->vdev, "queue %u: the available index jumped by %u", vq->index, waiting);
        return NULL;
    }
    atomic_thread_fence(memory_order_acquire);
    VirtqElement *elem = virtq_split_take(vq, size, get16(vq->avail_ptr + 4 + 2 * (vq->last_avail & (vq->size - 1))));
    if (!elem) {
        return NULL;
    }
    vq->last_avail++;
    if (virtio_has(vq->vdev, VIRTIO_F_EVENT_IDX) && vq->notification) {
        put16(avail_event(vq), vq->last_avail);
    }
    return elem;
}

void virtq_split_fill(Virtqueue *vq, uint16_t ahead, uint16_t id, uint32_t written)
{
    uint8_t *entry = vq->used_ptr + 4 + 8 * ((uint16_t)(vq->used_idx + ahead) & (vq->size - 1));
    st32_le(entry, id);
    st32_le(entry + 4, written);
}

void virtq_split_publish(Virtqueue *vq, uint16_t count)
{
    atomic_thread_fence(memory_order_release);
    vq->used_idx = (uint16_t)(vq->used_idx + count);
    put16(vq->used_ptr + 2, vq->used_idx);
    virtq_area_written(vq, vq->used_ptr, 4 + 8 * vq->size);
}

bool virtq_split_should_notify(Virtqueue *vq)
{
    uint16_t fresh = vq->used_idx, old = vq->signalled_used;
    bool valid = vq->signalled_valid;

    if (virtio_has(vq->vdev, VIRTIO_F_NOTIFY_ON_EMPTY) && vq->inflight == 0 && virtq_split_empty(vq)) {
        return true;
    }
    if (!virtio_has(vq->vdev, VIRTIO_F_EVENT_IDX)) {
        return !(get16(vq->avail_ptr) & AVAIL_NO_INTERRUPT);
    }
    vq->signalled_used = fresh;
    vq->signalled_valid = true;
    uint16_t event = get16(used_event(vq));
    return !valid || (uint16_t)(fresh - event - 1) < (uint16_t)(fresh - old);
}

void virtq_split_set_notification(Virtqueue *vq, bool on)
{
    if (virtio_has(vq->vdev, VIRTIO_F_EVENT_IDX)) {
        if (on) {
            put16(avail_event(vq), vq->last_avail);
        }
    } else {
        put16(vq->used_ptr, on ? 0 : USED_NO_NOTIFY);
    }
}
