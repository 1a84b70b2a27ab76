#include "block/export/vhost_ring.h"

#include <errno.h>
#include <string.h>

#include "base/endian.h"

enum { DESC_SIZE = 16, DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { AVAIL_NO_INTERRUPT = 1 };

typedef struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
} Descriptor;

/* 16 bits that the other side changes at any time. */
static uint16_t load16(const uint8_t *p)
{
    return GUINT16_FROM_LE(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE));
}

static void store16(uint8_t *p, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)p, GUINT16_TO_LE(value), __ATOMIC_RELEASE);
}

static Descriptor parse(const uint8_t raw[DESC_SIZE])
{
    return (Descriptor) { ld64_le(raw), ld32_le(raw + 8), ld16_le(raw + 12), ld16_le(raw + 14) };
}

/* --- where the ring is --- */

bool vhost_ring_map(VhostRing *r, const VhostMemory *memory)
{
    uint64_t num = r->num;

    vhost_ring_unmap(r);
    if (!num || !IS_POW2(num) || num > VHOST_RING_MAX || r->desc_user % 16 || r->avail_user % 2 || r->used_user % 4) {
        return false;
    }
    /* with used_event and avail_event behind the rings */
    uint8_t *desc = vhost_memory_user(memory, r->desc_user, DESC_SIZE * num);
    uint8_t *avail = vhost_memory_user(memory, r->avail_user, 4 + 2 * num + 2);
    uint8_t *used = vhost_memory_user(memory, r->used_user, 4 + 8 * num + 2);
    if (!desc || !avail || !used || (uintptr_t)avail % 2 || (uintptr_t)used % 4) {
        return false;
    }
    r->desc = desc;
    r->avail = avail;
    r->used = used;
    r->used_idx = load16(used + 2);
    r->signalled_valid = false;
    return true;
}

void vhost_ring_unmap(VhostRing *r)
{
    r->desc = r->avail = r->used = NULL;
}

/* --- chains --- */

typedef struct Chain {
    const VhostMemory *memory;
    struct iovec iov[VHOST_RING_PIECES];
    unsigned count, out; /* pieces; those that the guest gives come first */
    bool writing;
} Chain;

static bool add_descriptor(Chain *c, const Descriptor *d)
{
    bool write = (d->flags & DESC_WRITE) != 0;

    if (c->writing && !write) {
        return false;
    }
    c->writing = write;
    if (!vhost_memory_guest(c->memory, d->address, d->length, c->iov, &c->count, VHOST_RING_PIECES)) {
        return false;
    }
    c->out = write ? c->out : c->count;
    return true;
}

/* The table that one descriptor stands for. */
static bool add_indirect(Chain *c, const Descriptor *table)
{
    uint32_t entries = table->length / DESC_SIZE;
    uint32_t at = 0;

    if (!entries || table->length % DESC_SIZE || entries > VHOST_RING_MAX) {
        return false;
    }
    for (uint32_t n = 0; n < entries; n++) { /* a loop in the table ends here, too */
        uint8_t raw[DESC_SIZE];
        if (!vhost_memory_read(c->memory, table->address + (uint64_t)DESC_SIZE * at, raw, sizeof(raw))) {
            return false;
        }
        Descriptor d = parse(raw);
        if ((d.flags & DESC_INDIRECT) || !add_descriptor(c, &d)) {
            return false;
        }
        if (!(d.flags & DESC_NEXT)) {
            return true;
        }
        if (d.next >= entries) {
            return false;
        }
        at = d.next;
    }
    return false;
}

static bool read_chain(const VhostRing *r, Chain *c, uint16_t head)
{
    uint16_t at = head;

    for (unsigned n = 0; n < r->num; n++) {
        uint8_t raw[DESC_SIZE];
        memcpy(raw, r->desc + (size_t)DESC_SIZE * at, sizeof(raw));
        Descriptor d = parse(raw);
        if (d.flags & DESC_INDIRECT) {
            return r->indirect && !(d.flags & DESC_NEXT) && add_indirect(c, &d);
        }
        if (!add_descriptor(c, &d)) {
            return false;
        }
        if (!(d.flags & DESC_NEXT)) {
            return true;
        }
        if (d.next >= r->num) {
            return false;
        }
        at = d.next;
    }
    return false; /* a loop */
}

int vhost_ring_pop(VhostRing *r, const VhostMemory *memory, VhostElement **ret_element)
{
    uint16_t waiting = (uint16_t)(load16(r->avail + 2) - r->last_avail);

    if (!waiting) {
        return 0;
    }
    uint16_t head = load16(r->avail + 4 + 2 * (r->last_avail % r->num));
    if (waiting > r->num || head >= r->num) {
        return -EPROTO;
    }
    Chain chain; /* large, so the pieces are not cleared */
    chain.memory = memory;
    chain.count = chain.out = 0;
    chain.writing = false;
    if (!read_chain(r, &chain, head)) {
        return -EPROTO;
    }
    VhostElement *e = g_malloc(sizeof(*e) + chain.count * sizeof(struct iovec));
    memcpy(e->iov, chain.iov, chain.count * sizeof(struct iovec));
    e->head = head;
    e->out = e->iov;
    e->out_count = chain.out;
    e->in = e->iov + chain.out;
    e->in_count = chain.count - chain.out;
    r->last_avail++;
    *ret_element = e;
    return 1;
}

/* --- what is done --- */

void vhost_ring_push(VhostRing *r, uint16_t head, uint32_t bytes)
{
    uint8_t *entry = r->used + 4 + 8 * (size_t)(r->used_idx % r->num);
    st32_le(entry, head);
    st32_le(entry + 4, bytes);
    store16(r->used + 2, ++r->used_idx);
}

bool vhost_ring_should_signal(VhostRing *r)
{
    uint16_t old = r->signalled, now = r->used_idx;
    bool valid = r->signalled_valid;

    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the index is seen before the guest's wish is read */
    if (!r->event_idx) {
        return !(load16(r->avail) & AVAIL_NO_INTERRUPT);
    }
    r->signalled = now;
    r->signalled_valid = true;
    uint16_t event = load16(r->avail + 4 + 2 * (size_t)r->num);
    return !valid || (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

bool vhost_ring_want_kick(VhostRing *r)
{
    if (r->event_idx) {
        store16(r->used + 4 + 8 * (size_t)r->num, r->last_avail);
    } else {
        store16(r->used, 0);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return load16(r->avail + 2) != r->last_avail;
}
