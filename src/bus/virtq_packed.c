/*
 * Packed rings (virtio 1.2, 2.8): one ring of descriptors that driver and device both write; AVAIL and USED
 * flags against wrap counters tell whose turn it is. Event suppression areas: offset and wrap (16), flags (16).
 */
#include <stdatomic.h>
#include <string.h>

#include "base/endian.h"
#include "bus/virtq_priv.h"

enum { DESC_AVAIL = BIT(7), DESC_USED = BIT(15) };
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 };

static uint16_t get16(const uint8_t *p)
{
    return GUINT16_FROM_LE(__atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED));
}

static void put16(uint8_t *p, uint16_t value)
{
    __atomic_store_n((uint16_t *)p, GUINT16_TO_LE(value), __ATOMIC_RELAXED);
}

bool virtq_packed_map(Virtqueue *vq)
{
    if ((vq->desc & 15) || (vq->avail & 3) || (vq->used & 3)) {
        virtio_break(vq->vdev, "queue %u: a ring is not aligned", vq->index);
        return false;
    }
    uint8_t *driver = virtq_map_area(vq, vq->avail, 4, false);
    uint8_t *device = driver ? virtq_map_area(vq, vq->used, 4, true) : NULL;
    uint8_t *desc = device ? virtq_map_area(vq, vq->desc, VIRTQ_DESC_SIZE * vq->size, true) : NULL;
    vq->avail_ptr = driver;
    vq->used_ptr = device;
    vq->desc_ptr = desc;
    return desc != NULL;
}

static bool is_available(Virtqueue *vq, unsigned at, bool wrap)
{
    uint16_t flags = get16(vq->desc_ptr + at * VIRTQ_DESC_SIZE + 14);
    return ((flags & DESC_AVAIL) != 0) == wrap && ((flags & DESC_USED) != 0) != wrap;
}

bool virtq_packed_empty(Virtqueue *vq)
{
    return !is_available(vq, vq->last_avail, vq->avail_wrap);
}

static void advance(uint16_t *at, bool *wrap, unsigned size, unsigned slots)
{
    unsigned next = *at + slots;
    if (next >= size) {
        next -= size;
        *wrap = !*wrap;
    }
    *at = (uint16_t)next;
}

void virtq_packed_unpop(Virtqueue *vq, uint16_t slots)
{
    int at = (int)vq->last_avail - slots;
    if (at < 0) {
        at += vq->size;
        vq->avail_wrap = !vq->avail_wrap;
    }
    vq->last_avail = (uint16_t)at;
}

static bool add_indirect(VirtqChain *chain, uint64_t addr, uint32_t length)
{
    Virtqueue *vq = chain->vq;
    if (length == 0 || length % VIRTQ_DESC_SIZE || length / VIRTQ_DESC_SIZE > VIRTIO_QUEUE_SIZE_MAX) {
        virtio_break(vq->vdev, "queue %u: a wrong indirect descriptor", vq->index);
        return false;
    }
    const uint8_t *table = virtq_map_area(vq, addr, length, false);
    for (unsigned i = 0; table && i < length / VIRTQ_DESC_SIZE; i++) {
        const uint8_t *d = table + i * VIRTQ_DESC_SIZE;
        if (!virtq_chain_add(chain, ld64_le(d), ld32_le(d + 8), ld16_le(d + 14) & VIRTQ_DESC_WRITE)) {
            return false;
        }
    }
    return table != NULL;
}

static bool ends_chain(const uint8_t *entry)
{
    uint16_t flags = ld16_le(entry + 14);
    return !(flags & VIRTQ_DESC_NEXT) || (flags & VIRTQ_DESC_INDIRECT);
}

VirtqElement *virtq_packed_take(Virtqueue *vq, size_t size, const uint8_t *entries, uint16_t slots)
{
    VirtqChain chain;

    chain.vq = vq;
    chain.count = chain.out_count = chain.descriptors = 0;
    chain.out_bytes = chain.in_bytes = 0;
    for (unsigned n = 0; n < slots; n++) {
        const uint8_t *d = entries + n * VIRTQ_DESC_SIZE;
        uint16_t flags = ld16_le(d + 14);
        bool good = (flags & VIRTQ_DESC_INDIRECT) ? n == 0 && add_indirect(&chain, ld64_le(d), ld32_le(d + 8))
                                                  : virtq_chain_add(&chain, ld64_le(d), ld32_le(d + 8), flags & VIRTQ_DESC_WRITE);
        if (!good || ends_chain(d) != (n + 1u == slots)) {
            virtio_break(vq->vdev, "queue %u: a wrong descriptor chain", vq->index);
            return NULL;
        }
    }
    return virtq_element_new(&chain, size, ld16_le(entries + (slots - 1) * VIRTQ_DESC_SIZE + 12), slots, entries);
}

/* The entries of the chain at `at`, as they are now: the driver shares them. NULL: it has no end. */
static uint8_t *copy_entries(Virtqueue *vq, uint16_t at, uint8_t *few, unsigned room, uint16_t *ret_slots)
{
    uint8_t *entries = few;

    for (unsigned n = 0; n < vq->size; n++) {
        if (n == room) { /* few chains are this long */
            entries = memcpy(g_malloc((size_t)vq->size * VIRTQ_DESC_SIZE), few, (size_t)room * VIRTQ_DESC_SIZE);
        }
        uint8_t *entry = memcpy(entries + n * VIRTQ_DESC_SIZE, vq->desc_ptr + (at + n) % vq->size * VIRTQ_DESC_SIZE, VIRTQ_DESC_SIZE);
        if (ends_chain(entry)) {
            *ret_slots = (uint16_t)(n + 1);
            return entries;
        }
    }
    if (entries != few) {
        g_free(entries);
    }
    return NULL;
}

VirtqElement *virtq_packed_pop(Virtqueue *vq, size_t size)
{
    enum { FEW = 64 };
    uint8_t few[FEW * VIRTQ_DESC_SIZE];
    uint16_t slots;

    if (!is_available(vq, vq->last_avail, vq->avail_wrap)) {
        return NULL;
    }
    atomic_thread_fence(memory_order_acquire);
    uint8_t *entries = copy_entries(vq, vq->last_avail, few, FEW, &slots);
    if (!entries) {
        virtio_break(vq->vdev, "queue %u: a wrong descriptor chain", vq->index);
        return NULL;
    }
    VirtqElement *elem = virtq_packed_take(vq, size, entries, slots);
    if (entries != few) {
        g_free(entries);
    }
    if (elem) {
        advance(&vq->last_avail, &vq->avail_wrap, vq->size, slots);
    }
    return elem;
}

void virtq_packed_fill(Virtqueue *vq, uint16_t ahead, uint16_t id, uint32_t written)
{
    uint16_t at = vq->used_idx;
    bool wrap = vq->used_wrap;

    advance(&at, &wrap, vq->size, ahead);
    uint8_t *d = vq->desc_ptr + at * VIRTQ_DESC_SIZE;
    st32_le(d + 8, written);
    st16_le(d + 12, id);
    atomic_thread_fence(memory_order_release);
    put16(d + 14, (uint16_t)((wrap ? DESC_AVAIL | DESC_USED : 0) | (written ? VIRTQ_DESC_WRITE : 0)));
    virtq_area_written(vq, d, VIRTQ_DESC_SIZE);
}

void virtq_packed_publish(Virtqueue *vq, uint16_t slots)
{
    advance(&vq->used_idx, &vq->used_wrap, vq->size, slots);
}

bool virtq_packed_should_notify(Virtqueue *vq)
{
    uint16_t old = vq->signalled_used, fresh = vq->used_idx;
    bool valid = vq->signalled_valid;
    uint16_t event = get16(vq->avail_ptr), flags = get16(vq->avail_ptr + 2) & 3;

    vq->signalled_used = fresh;
    vq->signalled_valid = true;
    if (flags != EVENT_DESC) {
        return flags == EVENT_ENABLE;
    }
    if (!valid || !virtio_has(vq->vdev, VIRTIO_F_EVENT_IDX)) {
        return true;
    }
    int position = event & 0x7fff;
    if ((bool)(event >> 15) != vq->used_wrap) {
        position -= vq->size;
    }
    /* Compare on a line that does not wrap: old lies at or before fresh. */
    int from = old > fresh ? (int)old - vq->size : old;
    return position >= from && position < fresh;
}

void virtq_packed_set_notification(Virtqueue *vq, bool on)
{
    if (on && virtio_has(vq->vdev, VIRTIO_F_EVENT_IDX)) {
        put16(vq->used_ptr, (uint16_t)(vq->last_avail | (vq->avail_wrap ? 1 << 15 : 0)));
        atomic_thread_fence(memory_order_release);
        put16(vq->used_ptr + 2, EVENT_DESC);
    } else {
        put16(vq->used_ptr + 2, on ? EVENT_ENABLE : EVENT_DISABLE);
    }
}
