/* For tests of virtio devices: a machine with memory and one device; the test is the driver, with its split rings at fixed places. */
#ifndef OSTRICH_HW_VIRTIO_TEST_DRIVER_H
#define OSTRICH_HW_VIRTIO_TEST_DRIVER_H

#include <string.h>

#include "base/endian.h"
#include "bus/virtio.h"
#include "hw/test_util.h"

enum { DRIVER_RAM = 1 << 20, DRIVER_RING = 0x10000, DRIVER_DATA = 0x80000, DRIVER_ENTRIES = 64, DRIVER_QUEUES = 3 };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };

typedef struct Driver {
    PciFixture pc;
    VirtioDevice *vdev;
    uint8_t *mem;
    uint16_t avail[DRIVER_QUEUES];
} Driver;

static inline uint64_t driver_ring_at(unsigned queue, unsigned part)
{
    return DRIVER_RING + queue * 0x2000u + part * 0x800u;
}

/* part: 0 descriptors, 1 available, 2 used. */
static inline uint8_t *driver_ring(Driver *d, unsigned queue, unsigned part)
{
    return d->mem + driver_ring_at(queue, part);
}

/* As a driver of virtio 1.0 does, without the registers. */
static inline void driver_start(Driver *d, uint64_t features)
{
    VirtioDevice *vdev = d->vdev;
    uint8_t status = VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER;

    virtio_reset(vdev);
    memset(d->mem + DRIVER_RING, 0, DRIVER_QUEUES * 0x2000);
    memset(d->avail, 0, sizeof(d->avail));
    virtio_set_status(vdev, status);
    g_assert_true(virtio_set_features(vdev, vdev->host_features & (BIT64(VIRTIO_F_VERSION_1) | features)));
    virtio_set_status(vdev, status |= VIRTIO_FEATURES_OK);
    for (unsigned i = 0; i < MIN(vdev->queues, (unsigned)DRIVER_QUEUES); i++) {
        Virtqueue *vq = &vdev->queue[i];
        vq->size = DRIVER_ENTRIES;
        vq->desc = driver_ring_at(i, 0);
        vq->avail = driver_ring_at(i, 1);
        vq->used = driver_ring_at(i, 2);
        vq->enabled = true;
    }
    virtio_set_status(vdev, status | VIRTIO_DRIVER_OK);
}

/* dev is plugged; the driver is started by the test. */
static inline void driver_setup(Driver *d, const char *type, void (*configure)(Driver *d, Device *dev))
{
    uint64_t length = DRIVER_RAM;

    pci_fixture_setup(&d->pc, DRIVER_RAM);
    Device *dev = device_new(d->pc.machine, device_type_find(type), "dut");
    if (configure) {
        configure(d, dev);
    }
    error_never(device_plug(dev, &d->pc.pci->bus));
    d->vdev = container_of(dev, VirtioDevice, dev);
    pci_fixture_bus_master(&d->pc, &d->vdev->pci);
    d->mem = mem_map(d->pc.machine->as, 0, &length, true);
    g_assert_nonnull(d->mem);
}

static inline void driver_teardown(Driver *d)
{
    pci_fixture_teardown(&d->pc);
}

static inline void driver_desc(Driver *d, unsigned queue, unsigned i, uint64_t addr, uint32_t length, uint16_t flags, uint16_t next)
{
    uint8_t *at = driver_ring(d, queue, 0) + 16 * i;
    st64_le(at, addr);
    st32_le(at + 8, length);
    st16_le(at + 12, flags);
    st16_le(at + 14, next);
}

static inline void driver_offer(Driver *d, unsigned queue, uint16_t head)
{
    uint8_t *avail = driver_ring(d, queue, 1);
    st16_le(avail + 4 + 2 * (d->avail[queue] % DRIVER_ENTRIES), head);
    st16_le(avail + 2, ++d->avail[queue]);
}

/* How many buffers came back so far. */
static inline uint16_t driver_used(Driver *d, unsigned queue)
{
    return ld16_le(driver_ring(d, queue, 2) + 2);
}

/* One turn of the main loop. */
static inline void driver_turn(Driver *d)
{
    lock_release(&d->pc.machine->lock);
    loop_run_once(d->pc.machine->loop, NS_PER_MS);
    lock_acquire(&d->pc.machine->lock);
}

static inline void driver_wait_used(Driver *d, unsigned queue, uint16_t count)
{
    for (unsigned i = 0; driver_used(d, queue) != count; i++) {
        g_assert_cmpuint(i, <, 10000);
        driver_turn(d);
    }
}

#endif
