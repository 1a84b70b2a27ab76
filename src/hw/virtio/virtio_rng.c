/*
 * virtio-rng (virtio 1.2, 5.4): fills the guest's buffers with random bytes of the host, as many in a period as
 * max-bytes allows.
 */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "bus/virtio.h"

typedef struct VirtioRng {
    VirtioDevice vdev;
    char *rng;
    uint64_t max_bytes;
    uint32_t period;
    uint64_t quota;
    Timer refill;
} VirtioRng;

static VirtioRng *of_vdev(VirtioDevice *vdev)
{
    return container_of(vdev, VirtioRng, vdev);
}

/* Fills at most `limit` bytes; returns how many. */
static uint64_t fill(const VirtqElement *elem, uint64_t limit)
{
    uint64_t done = 0;
    for (unsigned i = 0; i < elem->in_count && done < limit; i++) {
        uint64_t want = MIN((uint64_t)elem->in[i].iov_len, limit - done);
        want = MIN(want, 256 * KiB);
        ssize_t got = getrandom(elem->in[i].iov_base, want, 0);
        if (got <= 0) {
            break;
        }
        done += (uint64_t)got;
        if ((size_t)got < elem->in[i].iov_len) {
            break;
        }
    }
    return done;
}

static void notified(VirtioDevice *vdev, Virtqueue *vq)
{
    VirtioRng *rng = of_vdev(vdev);
    bool some = false;
    VirtqElement *elem;

    while (rng->quota && (elem = virtq_pop(vq, sizeof(*elem)))) {
        uint64_t done = fill(elem, rng->quota);
        if (rng->period) {
            rng->quota -= done;
        }
        virtq_push(elem, (uint32_t)done);
        some = true;
    }
    if (some) {
        virtq_notify(vq);
    }
    if (rng->period && !timer_armed(&rng->refill)) {
        timer_set(&rng->refill, clock_now(vdev->dev.machine->clocks, CLOCK_VIRTUAL) + rng->period * NS_PER_MS);
    }
}

static void refill(void *opaque)
{
    VirtioRng *rng = opaque;
    rng->quota = rng->max_bytes;
    virtio_queue_notified(&rng->vdev, 0);
}

static Error *plug(VirtioDevice *vdev)
{
    VirtioRng *rng = of_vdev(vdev);
    if (rng->rng) {
        Object *source = object_resolve(vdev->dev.machine->root, rng->rng);
        if (!source || (strcmp(source->type->name, "rng-random") && strcmp(source->type->name, "rng-builtin"))) {
            return error_new("%s: there is no random number source '%s' (see -object rng-random)", device_label(&vdev->dev), rng->rng);
        }
    }
    rng->quota = rng->max_bytes;
    device_timer_init(&vdev->dev, &rng->refill, CLOCK_VIRTUAL, refill);
    virtio_add_queue(vdev, 8, notified);
    return NULL;
}

static void reset(VirtioDevice *vdev)
{
    of_vdev(vdev)->quota = of_vdev(vdev)->max_bytes;
}

static const VirtioKind kind = { .name = "virtio-rng", .id = VIRTIO_ID_RNG, .plug = plug, .reset = reset };

static const Prop props[] = {
    PROP_STR("rng", VirtioRng, rng, .help = "ID of an rng-random or rng-builtin object; unset: the host's generator"),
    PROP_U64("max-bytes", VirtioRng, max_bytes, INT64_MAX, .min = 1, .max = INT64_MAX, .help = "Bytes a period"),
    PROP_U32("period", VirtioRng, period, 1 << 16, .help = "Milliseconds"),
    { 0 },
};
static const StateField state[] = { VIRTIO_STATE(VirtioRng), STATE_U64(VirtioRng, quota), STATE_TIMER(VirtioRng, refill), { 0 } };

VIRTIO_PCI_DEVICE(virtio_rng, "virtio-rng", "virtio-rng", kind, VirtioRng, props, state, DEV_MISC,
                  "Virtio random number generator", virtio_pci_ident_rng);
