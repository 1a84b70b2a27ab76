/* Virtio queues: what split and packed rings share, buffers that are given back, scatter lists. */
#include <stdatomic.h>
#include <string.h>

#include "base/endian.h"
#include "bus/virtq_priv.h"

static bool is_packed(const Virtqueue *vq)
{
    return virtio_has(vq->vdev, VIRTIO_F_RING_PACKED);
}

void virtq_forget_mapping(Virtqueue *vq)
{
    vq->desc_ptr = vq->avail_ptr = vq->used_ptr = NULL;
}

uint8_t *virtq_map_area(Virtqueue *vq, uint64_t addr, uint64_t length, bool write)
{
    uint64_t have = length;
    uint8_t *host = mem_map(vq->vdev->dma, addr, &have, write);
    if (!host || have < length) {
        virtio_break(vq->vdev, "queue %u: an area at 0x%" G_GINT64_MODIFIER "x is not in memory", vq->index, addr);
        return NULL;
    }
    return host;
}

void virtq_area_written(Virtqueue *vq, uint8_t *host, uint64_t length)
{
    mem_unmap(vq->vdev->dma, host, length, length);
}

static bool mapped(Virtqueue *vq)
{
    if (likely(vq->desc_ptr)) {
        return true;
    }
    if (!vq->enabled || vq->vdev->broken) {
        return false;
    }
    return is_packed(vq) ? virtq_packed_map(vq) : virtq_split_map(vq);
}

/* --- building an element --- */

bool virtq_chain_add(VirtqChain *chain, uint64_t addr, uint32_t length, bool in)
{
    VirtioDevice *vdev = chain->vq->vdev;

    if (++chain->descriptors > VIRTIO_QUEUE_SIZE_MAX) {
        virtio_break(vdev, "queue %u: a chain of more than %d descriptors", chain->vq->index, VIRTIO_QUEUE_SIZE_MAX);
        return false;
    }
    if (!in && chain->count > chain->out_count) {
        virtio_break(vdev, "queue %u: a readable descriptor behind a writable one", chain->vq->index);
        return false;
    }
    *(in ? &chain->in_bytes : &chain->out_bytes) += length;
    while (length) {
        uint64_t piece = length;
        void *host = mem_map(vdev->dma, addr, &piece, in);
        if (!host || chain->count == ARRAY_SIZE(chain->iov)) {
            virtio_break(vdev, "queue %u: a buffer at 0x%" G_GINT64_MODIFIER "x is not in memory", chain->vq->index, addr);
            return false;
        }
        chain->iov[chain->count++] = (struct iovec) { host, piece };
        chain->out_count += !in;
        addr += piece;
        length -= (uint32_t)piece;
    }
    return true;
}

VirtqElement *virtq_element_new(const VirtqChain *chain, size_t size, uint16_t id, uint16_t slots, const uint8_t *ring)
{
    size_t aligned = ALIGN_UP(size, sizeof(void *)), ring_bytes = ring ? (size_t)slots * VIRTQ_DESC_SIZE : 0;
    VirtqElement *elem = g_malloc(aligned + chain->count * sizeof(struct iovec) + ring_bytes);
    memset(elem, 0, aligned);
    struct iovec *iov = (struct iovec *)((char *)elem + aligned);
    memcpy(iov, chain->iov, chain->count * sizeof(*iov));
    elem->ring = ring ? memcpy(iov + chain->count, ring, ring_bytes) : NULL;
    elem->vq = chain->vq;
    elem->id = id;
    elem->slots = slots;
    elem->out = iov;
    elem->out_count = chain->out_count;
    elem->in = iov + chain->out_count;
    elem->in_count = chain->count - chain->out_count;
    elem->out_bytes = chain->out_bytes;
    elem->in_bytes = chain->in_bytes;
    return elem;
}

/* --- buffers that were given back --- */

static bool has_returned(const Virtqueue *vq)
{
    return vq->returned && vq->returned->len;
}

void virtq_return(VirtqElement *elem)
{
    Virtqueue *vq = elem->vq;
    uint8_t header[VIRTQ_RETURNED_HEADER];
    unsigned entries = elem->ring ? elem->slots * VIRTQ_DESC_SIZE : 0;

    if (!vq->returned) {
        vq->returned = g_byte_array_new();
    }
    if (vq->returned->len + sizeof(header) + entries > VIRTQ_RETURNED_MAX) { /* only with chains that share entries */
        virtio_break(vq->vdev, "queue %u: more ring entries in use than there are", vq->index);
    } else {
        st16_le(header, elem->id);
        st16_le(header + 2, elem->slots);
        g_byte_array_append(vq->returned, header, sizeof(header));
        if (entries) {
            g_byte_array_append(vq->returned, elem->ring, entries);
        }
    }
    vq->inflight -= vq->inflight > 0;
    g_free(elem);
}

/* What a saved state says is as little trusted as the guest. */
static VirtqElement *take_returned(Virtqueue *vq, size_t size)
{
    GByteArray *returned = vq->returned;
    unsigned slots = returned->len >= VIRTQ_RETURNED_HEADER ? ld16_le(returned->data + 2) : 0;
    unsigned length = VIRTQ_RETURNED_HEADER + (is_packed(vq) ? slots * VIRTQ_DESC_SIZE : 0);
    VirtqElement *elem = NULL;

    if (slots == 0 || slots > vq->size || length > returned->len) {
        virtio_break(vq->vdev, "queue %u: a buffer of the saved state is impossible", vq->index);
        return NULL;
    }
    if (is_packed(vq)) {
        elem = virtq_packed_take(vq, size, returned->data + VIRTQ_RETURNED_HEADER, (uint16_t)slots);
    } else {
        elem = virtq_split_take(vq, size, ld16_le(returned->data));
    }
    g_byte_array_remove_range(returned, 0, length);
    return elem;
}

/* --- the interface --- */

void *virtq_pop(Virtqueue *vq, size_t size)
{
    assert(size >= sizeof(VirtqElement));
    if (!virtio_ready(vq->vdev) || !mapped(vq)) {
        return NULL;
    }
    if (vq->inflight >= vq->size) {
        virtio_break(vq->vdev, "queue %u: more buffers in use than the queue has entries", vq->index);
        return NULL;
    }
    VirtqElement *elem = has_returned(vq) ? take_returned(vq, size)
                         : is_packed(vq)  ? virtq_packed_pop(vq, size)
                                          : virtq_split_pop(vq, size);
    vq->inflight += elem != NULL;
    return elem;
}

void virtq_unpop(VirtqElement *elem)
{
    Virtqueue *vq = elem->vq;
    vq->inflight--;
    if (is_packed(vq)) {
        virtq_packed_unpop(vq, elem->slots);
    } else {
        vq->last_avail--;
    }
    g_free(elem);
}

/* The first `written` bytes of the in buffers were changed by the device. */
static void mark_written(VirtqElement *elem, uint64_t written)
{
    for (unsigned i = 0; i < elem->in_count && written; i++) {
        uint64_t part = MIN(written, (uint64_t)elem->in[i].iov_len);
        mem_unmap(elem->vq->vdev->dma, elem->in[i].iov_base, elem->in[i].iov_len, part);
        written -= part;
    }
}

/* From the last to the first, by which a driver of a packed ring knows of all. */
static void put_used(Virtqueue *vq, VirtqElement *const *elems, const uint32_t *written, unsigned count)
{
    uint16_t slots = 0;

    for (unsigned i = 0; i < count; i++) {
        slots = (uint16_t)(slots + elems[i]->slots);
    }
    uint16_t ahead = slots;
    for (unsigned i = count; i-- > 0;) {
        ahead = (uint16_t)(ahead - elems[i]->slots);
        if (is_packed(vq)) {
            virtq_packed_fill(vq, ahead, elems[i]->id, written[i]);
        } else {
            virtq_split_fill(vq, (uint16_t)i, elems[i]->id, written[i]);
        }
    }
    if (is_packed(vq)) {
        virtq_packed_publish(vq, slots);
    } else {
        virtq_split_publish(vq, (uint16_t)count);
    }
}

void virtq_push_all(VirtqElement *const *elems, const uint32_t *written, unsigned count)
{
    Virtqueue *vq = elems[0]->vq;

    for (unsigned i = 0; i < count; i++) {
        mark_written(elems[i], written[i]);
        vq->inflight -= vq->inflight > 0;
    }
    if (virtio_ready(vq->vdev) && mapped(vq)) {
        put_used(vq, elems, written, count);
    }
    for (unsigned i = 0; i < count; i++) {
        g_free(elems[i]);
    }
}

void virtq_push(VirtqElement *elem, uint32_t written)
{
    virtq_push_all(&elem, &written, 1);
}

void virtq_discard(VirtqElement *elem)
{
    mark_written(elem, elem->in_bytes);
    elem->vq->inflight -= elem->vq->inflight > 0;
    g_free(elem);
}

void virtq_notify(Virtqueue *vq)
{
    if (!virtio_ready(vq->vdev) || !mapped(vq)) {
        return;
    }
    atomic_thread_fence(memory_order_seq_cst);
    if (is_packed(vq) ? virtq_packed_should_notify(vq) : virtq_split_should_notify(vq)) {
        vq->vdev->transport->interrupt(vq->vdev, vq->vector, false);
    }
}

bool virtq_empty(Virtqueue *vq)
{
    if (!virtio_ready(vq->vdev) || !mapped(vq)) {
        return true;
    }
    return !has_returned(vq) && (is_packed(vq) ? virtq_packed_empty(vq) : virtq_split_empty(vq));
}

void virtq_set_notification(Virtqueue *vq, bool on)
{
    if (!virtio_ready(vq->vdev) || !mapped(vq)) {
        return;
    }
    vq->notification = on;
    if (is_packed(vq)) {
        virtq_packed_set_notification(vq, on);
    } else {
        virtq_split_set_notification(vq, on);
    }
    atomic_thread_fence(memory_order_seq_cst);
}

/* --- scatter lists --- */

size_t iov_length(const struct iovec *iov, unsigned count)
{
    size_t total = 0;
    for (unsigned i = 0; i < count; i++) {
        total += iov[i].iov_len;
    }
    return total;
}

static size_t iov_copy(const struct iovec *iov, unsigned count, size_t offset, uint8_t *buf, size_t length, bool to_buf)
{
    size_t done = 0;
    for (unsigned i = 0; i < count && done < length; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        size_t part = MIN(iov[i].iov_len - offset, length - done);
        uint8_t *at = (uint8_t *)iov[i].iov_base + offset;
        memcpy(to_buf ? buf + done : at, to_buf ? at : buf + done, part);
        done += part;
        offset = 0;
    }
    return done;
}

size_t iov_to_buf(const struct iovec *iov, unsigned count, size_t offset, void *buf, size_t length)
{
    return iov_copy(iov, count, offset, buf, length, true);
}

size_t iov_from_buf(const struct iovec *iov, unsigned count, size_t offset, const void *buf, size_t length)
{
    return iov_copy(iov, count, offset, (uint8_t *)buf, length, false);
}

size_t iov_drop_front(struct iovec **iov, unsigned *count, size_t length)
{
    size_t dropped = 0;
    while (*count && dropped < length) {
        size_t part = MIN((*iov)->iov_len, length - dropped);
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + part;
        (*iov)->iov_len -= part;
        dropped += part;
        if ((*iov)->iov_len == 0) {
            ++*iov;
            --*count;
        }
    }
    return dropped;
}

size_t iov_drop_back(struct iovec *iov, unsigned *count, size_t length)
{
    size_t dropped = 0;
    while (*count && dropped < length) {
        struct iovec *last = &iov[*count - 1];
        size_t part = MIN(last->iov_len, length - dropped);
        last->iov_len -= part;
        dropped += part;
        if (last->iov_len == 0) {
            --*count;
        }
    }
    return dropped;
}
