/* Virtio devices: status, features, configuration space. */
#include "bus/virtio.h"

#include <stdarg.h>
#include <string.h>

#include "base/endian.h"
#include "base/log.h"
#include "bus/virtq_priv.h"
#include "io/iothread.h"

/* Pointers into guest memory are looked up again after any change of the map. */
static void map_changed(MemListener *listener, AddressSpace *as)
{
    VirtioDevice *vdev = container_of(listener, VirtioDevice, listener);
    if (as == vdev->dma) {
        for (unsigned i = 0; i < vdev->queues; i++) {
            virtq_forget_mapping(&vdev->queue[i]);
        }
    }
}

Error *virtio_plug(VirtioDevice *vdev, const VirtioKind *kind, const VirtioTransportOps *transport, AddressSpace *dma)
{
    vdev->kind = kind;
    vdev->transport = transport;
    vdev->dma = dma;
    vdev->config_size = kind->config_size;
    vdev->host_features = 0;
    vdev->listener.changed = map_changed;
    mem_listener_add(vdev->dev.machine->mem, &vdev->listener);
    return kind->plug(vdev);
}

void virtio_unplug(VirtioDevice *vdev)
{
    if (vdev->kind) {
        if (vdev->kind->unplug) {
            vdev->kind->unplug(vdev);
        }
        mem_listener_remove(&vdev->listener);
        for (unsigned i = 0; i < vdev->queues; i++) {
            work_fini(&vdev->queue[i].kick);
            g_clear_pointer(&vdev->queue[i].returned, g_byte_array_unref);
        }
        iothread_put(vdev->iothread);
        vdev->iothread = NULL;
        vdev->kind = NULL;
    }
}

Virtqueue *virtio_add_queue(VirtioDevice *vdev, uint16_t size, void (*notified)(VirtioDevice *vdev, Virtqueue *vq))
{
    assert(vdev->queues < VIRTIO_QUEUE_MAX && IS_POW2(size) && size <= VIRTIO_QUEUE_SIZE_MAX);
    Virtqueue *vq = &vdev->queue[vdev->queues];
    *vq = (Virtqueue) { .vdev = vdev, .index = vdev->queues++, .size_max = size, .notified = notified };
    virtio_queue_reset(vq);
    return vq;
}

void virtio_queue_reset(Virtqueue *vq)
{
    vq->size = vq->size_max;
    vq->vector = VIRTIO_NO_VECTOR;
    vq->enabled = false;
    vq->desc = vq->avail = vq->used = 0;
    vq->last_avail = vq->used_idx = vq->signalled_used = 0;
    vq->signalled_valid = false;
    vq->notification = true;
    vq->avail_wrap = vq->used_wrap = true;
    vq->inflight = 0;
    g_clear_pointer(&vq->returned, g_byte_array_unref);
    virtq_forget_mapping(vq);
}

void virtio_reset(VirtioDevice *vdev)
{
    uint8_t old = vdev->status;

    vdev->status = 0;
    if (vdev->kind->status_changed && old) {
        vdev->kind->status_changed(vdev, old);
    }
    if (vdev->kind->reset) {
        vdev->kind->reset(vdev);
    }
    vdev->broken = false;
    vdev->guest_features = 0;
    vdev->config_vector = VIRTIO_NO_VECTOR;
    for (unsigned i = 0; i < vdev->queues; i++) {
        virtio_queue_reset(&vdev->queue[i]);
    }
}

void virtio_set_status(VirtioDevice *vdev, uint8_t status)
{
    uint8_t old = vdev->status;

    if (status == 0) {
        virtio_reset(vdev);
        return;
    }
    vdev->status = status | (old & VIRTIO_NEEDS_RESET);
    if ((status & ~old & VIRTIO_FEATURES_OK) && vdev->kind->features_chosen) {
        vdev->kind->features_chosen(vdev);
    }
    /* Legacy drivers have no FEATURES_OK step. */
    if ((status & ~old & VIRTIO_DRIVER_OK) && !(status & VIRTIO_FEATURES_OK) && vdev->kind->features_chosen) {
        vdev->kind->features_chosen(vdev);
    }
    if (vdev->kind->status_changed) {
        vdev->kind->status_changed(vdev, old);
    }
    /* Buffers may have been made available before the driver was ready. */
    if ((status & ~old & VIRTIO_DRIVER_OK)) {
        for (unsigned i = 0; i < vdev->queues; i++) {
            virtio_queue_notified(vdev, i);
        }
    }
}

bool virtio_set_features(VirtioDevice *vdev, uint64_t features)
{
    bool good = (features & ~vdev->host_features) == 0;
    if (!(vdev->status & VIRTIO_FEATURES_OK)) {
        vdev->guest_features = features & vdev->host_features;
    }
    return good;
}

void virtio_config_changed(VirtioDevice *vdev)
{
    vdev->config_generation++;
    if (vdev->status & VIRTIO_DRIVER_OK) {
        vdev->transport->interrupt(vdev, vdev->config_vector, true);
    }
}

void virtio_break(VirtioDevice *vdev, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    guest_error("%s: %s", device_label(&vdev->dev), text);
    if (!vdev->broken) {
        vdev->broken = true;
        if (virtio_has(vdev, VIRTIO_F_VERSION_1)) {
            vdev->status |= VIRTIO_NEEDS_RESET;
            virtio_config_changed(vdev);
        }
    }
}

uint32_t virtio_config_read(VirtioDevice *vdev, unsigned offset, unsigned size)
{
    if (offset + size > vdev->config_size) {
        return ~0u;
    }
    if (vdev->kind->get_config) {
        vdev->kind->get_config(vdev, vdev->config);
    }
    return (uint32_t)ld_le(vdev->config + offset, size);
}

void virtio_config_write(VirtioDevice *vdev, unsigned offset, uint32_t value, unsigned size)
{
    if (offset + size > vdev->config_size || !vdev->kind->config_written) {
        return;
    }
    st_le(vdev->config + offset, value, size);
    vdev->kind->config_written(vdev, offset, size);
}

/* In the iothread. A machine that stands still is told again when it runs (virtio_pci_resumed). */
static void kicked(void *opaque)
{
    Virtqueue *vq = opaque;
    if (machine_running(vq->vdev->dev.machine) && virtio_ready(vq->vdev) && vq->enabled) {
        vq->notified(vq->vdev, vq);
    }
}

Error *virtio_set_iothread(VirtioDevice *vdev, Object *object)
{
    const Machine *machine = vdev->dev.machine;
    if (!object) {
        return NULL;
    }
    if (machine->icount || machine->inlet) {
        return error_new("%s: iothread cannot be used with -icount or record and replay, whose order of events is the main loop's",
                         device_label(&vdev->dev));
    }
    vdev->iothread = container_of(object, IoThread, object);
    Loop *loop = iothread_get(vdev->iothread);
    for (unsigned i = 0; i < vdev->queues; i++) {
        work_init(&vdev->queue[i].kick, loop, kicked, &vdev->queue[i]);
    }
    return NULL;
}

Loop *virtio_loop(const VirtioDevice *vdev)
{
    return vdev->iothread ? vdev->iothread->loop : NULL;
}

void virtio_queue_notified(VirtioDevice *vdev, unsigned index)
{
    Virtqueue *vq = &vdev->queue[MIN(index, (unsigned)VIRTIO_QUEUE_MAX - 1)];
    if (index >= vdev->queues || !virtio_ready(vdev) || !vq->enabled) {
        return;
    }
    if (vdev->iothread) {
        work_schedule(&vq->kick);
    } else {
        vq->notified(vdev, vq);
    }
}

static const StateField queue_state[] = {
    STATE_BUFFER(Virtqueue, returned, VIRTQ_RETURNED_MAX, 1),
    STATE_U16(Virtqueue, size), STATE_U16(Virtqueue, vector), STATE_BOOL(Virtqueue, enabled),
    STATE_U64(Virtqueue, desc), STATE_U64(Virtqueue, avail), STATE_U64(Virtqueue, used),
    STATE_U16(Virtqueue, last_avail), STATE_U16(Virtqueue, used_idx), STATE_U16(Virtqueue, signalled_used),
    STATE_BOOL(Virtqueue, signalled_valid), STATE_BOOL(Virtqueue, notification), STATE_BOOL(Virtqueue, avail_wrap),
    STATE_BOOL(Virtqueue, used_wrap),
    STATE_NOT(Virtqueue, vdev, "wiring"), STATE_NOT(Virtqueue, index, "constant"), STATE_NOT(Virtqueue, size_max, "configuration"),
    STATE_NOT(Virtqueue, notified, "wiring"), STATE_NOT(Virtqueue, inflight, "none while saving"), STATE_NOT(Virtqueue, kick, "comes again when the machine runs"),
    STATE_NOT(Virtqueue, desc_ptr, "looked up again"), STATE_NOT(Virtqueue, avail_ptr, "looked up again"),
    STATE_NOT(Virtqueue, used_ptr, "looked up again"), { 0 },
};

static const StateField pci_state[] = {
    STATE_U8(VirtioPciState, isr), STATE_U16(VirtioPciState, queue_select), STATE_U32(VirtioPciState, feature_select),
    STATE_U32(VirtioPciState, driver_feature_select), STATE_U64(VirtioPciState, driver_features),
    STATE_NOT(VirtioPciState, disable_legacy, "configuration"), STATE_NOT(VirtioPciState, disable_modern, "configuration"),
    STATE_NOT(VirtioPciState, page_per_vq, "configuration"), STATE_NOT(VirtioPciState, vectors, "configuration"),
    STATE_NOT(VirtioPciState, class_code, "configuration"), STATE_NOT(VirtioPciState, legacy, "configuration"),
    STATE_NOT(VirtioPciState, modern, "configuration"), STATE_NOT(VirtioPciState, cfg_cap, "fixed by plug"), { 0 },
};

const StateField virtio_state[] = {
    STATE_U64(VirtioDevice, guest_features), STATE_U8(VirtioDevice, status), STATE_BOOL(VirtioDevice, broken),
    STATE_U16(VirtioDevice, config_vector), STATE_U8(VirtioDevice, config_generation), STATE_BYTES(VirtioDevice, config),
    STATE_STRUCT_ARRAY(VirtioDevice, queue, queue_state), STATE_STRUCT(VirtioDevice, tp, pci_state),
    STATE_NOT(VirtioDevice, kind, "constant"), STATE_NOT(VirtioDevice, transport, "constant"), STATE_NOT(VirtioDevice, dma, "wiring"), STATE_NOT(VirtioDevice, iothread, "configuration"),
    STATE_EQUAL(VirtioDevice, host_features), STATE_NOT(VirtioDevice, feature_props, "configuration"),
    STATE_EQUAL(VirtioDevice, config_size), STATE_EQUAL(VirtioDevice, queues), { 0 },
};
