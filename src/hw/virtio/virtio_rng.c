/*
 * virtio-rng (virtio 1.2, 5.4): fills the guest's buffers with random bytes of the host, as many in a period as
 * max-bytes allows. A source that has none lets the buffers wait.
 */
#include "bus/virtio.h"
#include "rng/rng.h"

typedef struct VirtioRng {
    VirtioDevice vdev;
    Object *rng;
    RngReader reader;
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
static uint64_t fill(VirtioRng *rng, const VirtqElement *elem, uint64_t limit)
{
    uint64_t done = 0;
    for (unsigned i = 0; i < elem->in_count && done < limit; i++) {
        uint64_t want = MIN(MIN((uint64_t)elem->in[i].iov_len, limit - done), 256 * KiB);
        size_t got = rng_read(&rng->reader, elem->in[i].iov_base, want);
        done += got;
        if (got < elem->in[i].iov_len) {
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
        uint64_t done = fill(rng, elem, rng->quota);
        if (done == 0 && elem->in_count) {
            virtq_unpop(elem);
            break;
        }
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

static void more_bytes(void *opaque)
{
    virtio_queue_notified(&((VirtioRng *)opaque)->vdev, 0);
}

static void refill(void *opaque)
{
    VirtioRng *rng = opaque;
    rng->quota = rng->max_bytes;
    more_bytes(rng);
}

static Error *plug(VirtioDevice *vdev)
{
    VirtioRng *rng = of_vdev(vdev);

    rng_reader_init(&rng->reader, (RngSource *)rng->rng, vdev->dev.machine->loop, more_bytes, rng);
    rng->quota = rng->max_bytes;
    device_timer_init(&vdev->dev, &rng->refill, CLOCK_VIRTUAL, refill);
    virtio_add_queue(vdev, 8, notified);
    return NULL;
}

static void unplug(VirtioDevice *vdev)
{
    rng_reader_fini(&of_vdev(vdev)->reader);
}

static void reset(VirtioDevice *vdev)
{
    of_vdev(vdev)->quota = of_vdev(vdev)->max_bytes;
}

static const VirtioKind kind = { .name = "virtio-rng", .id = VIRTIO_ID_RNG, .plug = plug, .unplug = unplug, .reset = reset };

static const Prop props[] = {
    PROP_LINK("rng", VirtioRng, rng, rng_source_type, .help = "ID of an rng-random or rng-builtin object; unset: the host's generator"),
    PROP_U64("max-bytes", VirtioRng, max_bytes, INT64_MAX, .min = 1, .max = INT64_MAX, .help = "Bytes a period"),
    PROP_U32("period", VirtioRng, period, 1 << 16, .help = "Milliseconds"),
    { 0 },
};
static const StateField state[] = { VIRTIO_STATE(VirtioRng), STATE_U64(VirtioRng, quota), STATE_TIMER(VirtioRng, refill),
                                    STATE_NOT(VirtioRng, reader, "host; buffers it waits for are still in the queue"), { 0 } };

VIRTIO_PCI_DEVICE(virtio_rng, "virtio-rng", "virtio-rng", kind, VirtioRng, props, state, DEV_MISC,
                  "Virtio random number generator", virtio_pci_ident_rng);
