/*
 * Virtio devices, whatever carries them (virtio 1.2, oasis-open): features, status, configuration space,
 * queues.
 *
 * A device embeds VirtioDevice first; its kind is a const descriptor. The transport (hw/virtio/virtio_pci.c)
 * owns registers and interrupts and calls the functions here.
 *
 * Threads: the machine lock. Guest memory is reached through mapped pointers that are looked up again
 * after each change of the memory map. Whatever the guest puts in a ring is checked; a broken ring sets
 * DEVICE_NEEDS_RESET and stops the device until reset.
 */
#ifndef OSTRICH_BUS_VIRTIO_H
#define OSTRICH_BUS_VIRTIO_H

#include <sys/uio.h>

#include "bus/pci.h"

enum { VIRTIO_ID_NET = 1, VIRTIO_ID_BLOCK = 2, VIRTIO_ID_CONSOLE = 3, VIRTIO_ID_RNG = 4, VIRTIO_ID_BALLOON = 5, VIRTIO_ID_SCSI = 8,
       VIRTIO_ID_9P = 9, VIRTIO_ID_GPU = 16, VIRTIO_ID_INPUT = 18 };
enum { VIRTIO_ACKNOWLEDGE = 1, VIRTIO_DRIVER = 2, VIRTIO_DRIVER_OK = 4, VIRTIO_FEATURES_OK = 8, VIRTIO_NEEDS_RESET = 64, VIRTIO_FAILED = 128 };
/* Feature bits of every kind. */
enum { VIRTIO_F_NOTIFY_ON_EMPTY = 24, VIRTIO_F_ANY_LAYOUT = 27, VIRTIO_F_INDIRECT_DESC = 28, VIRTIO_F_EVENT_IDX = 29, VIRTIO_F_VERSION_1 = 32,
       VIRTIO_F_ACCESS_PLATFORM = 33, VIRTIO_F_RING_PACKED = 34, VIRTIO_F_IN_ORDER = 35, VIRTIO_F_ORDER_PLATFORM = 36,
       VIRTIO_F_NOTIFICATION_DATA = 38, VIRTIO_F_RING_RESET = 40 };

#define VIRTIO_QUEUE_MAX      64   /* queues of a device */
#define VIRTIO_QUEUE_SIZE_MAX 1024 /* entries of a queue, and descriptors of a chain */
#define VIRTIO_NO_VECTOR      0xffff
#define VIRTIO_CONFIG_MAX     256

typedef struct VirtioDevice VirtioDevice;
typedef struct Virtqueue Virtqueue;
typedef struct VirtioKind VirtioKind;

struct VirtioKind {
    const char *name; /* "virtio-blk" */
    uint16_t id;      /* VIRTIO_ID_* */
    uint16_t config_size; /* may be lowered in plug: vdev->config_size */
    bool modern_only;     /* there is no interface of before virtio 1.0 */
    int vectors;          /* of MSI-X on PCI: 0 one a queue and one more, -1 none */
    /* Makes the queues with virtio_add_queue() and sets vdev->host_features. */
    Error *(*plug)(VirtioDevice *vdev);
    void (*unplug)(VirtioDevice *vdev);
    void (*reset)(VirtioDevice *vdev);
    /* Fills vdev->config before the guest reads it; may be NULL. */
    void (*get_config)(VirtioDevice *vdev, uint8_t *config);
    /* The guest wrote bytes of the configuration space; vdev->config holds them. NULL: read-only. */
    void (*config_written)(VirtioDevice *vdev, unsigned offset, unsigned size);
    /* The driver's choice is final; may be NULL. */
    void (*features_chosen)(VirtioDevice *vdev);
    void (*status_changed)(VirtioDevice *vdev, uint8_t old); /* may be NULL */
    /* Before state is saved: gives back (virtq_unpop, virtq_return) or finishes what it has of the queues. May be NULL. */
    void (*saving)(VirtioDevice *vdev);
    Error *(*loaded)(VirtioDevice *vdev); /* after its state was loaded; may be NULL */
};

struct Virtqueue {
    VirtioDevice *vdev;
    unsigned index;
    uint16_t size, size_max;
    uint16_t vector;
    bool enabled;
    void (*notified)(VirtioDevice *vdev, Virtqueue *vq);
    uint64_t desc, avail, used; /* guest addresses; packed: descriptors, driver area, device area */
    /* Split: free-running indices. Packed: positions in the ring, and wrap counters. */
    uint16_t last_avail, used_idx, signalled_used;
    bool signalled_valid, notification, avail_wrap, used_wrap;
    unsigned inflight;
    GByteArray *returned; /* buffers that virtq_return() gave back, oldest first; NULL: none */
    Work kick; /* with an iothread: the driver's notification, on its way there */
    /* Host pointers to the three areas; NULL until mapped. */
    uint8_t *desc_ptr, *avail_ptr, *used_ptr;
};

typedef struct VirtioTransportOps {
    void (*interrupt)(VirtioDevice *vdev, uint16_t vector, bool config);
} VirtioTransportOps;

/* Registers of the PCI transport. */
typedef struct VirtioPciState {
    int disable_legacy; /* OnOffAuto */
    bool disable_modern, page_per_vq;
    uint32_t vectors;
    uint32_t class_code;
    bool legacy, modern;
    MemRegion legacy_io, modern_mem, common, isr_region, device_config, notify;
    uint8_t isr;
    uint16_t queue_select;
    uint32_t feature_select, driver_feature_select;
    uint64_t driver_features;
    uint8_t cfg_cap;
} VirtioPciState;

struct VirtioDevice {
    union {
        Device dev;
        PciDevice pci;
    };
    const VirtioKind *kind;
    const VirtioTransportOps *transport;
    AddressSpace *dma;
    struct IoThread *iothread; /* that looks after the queues, counted; NULL: who notifies does it */
    uint64_t host_features, guest_features;
    uint64_t feature_props; /* switches that the user may turn off: event_idx, indirect_desc, packed, ... */
    uint8_t status;
    bool broken;
    uint16_t config_vector;
    uint8_t config_generation;
    uint16_t config_size;
    uint8_t config[VIRTIO_CONFIG_MAX];
    unsigned queues;
    Virtqueue queue[VIRTIO_QUEUE_MAX];
    MemListener listener;
    VirtioPciState tp;
};

static inline bool virtio_has(const VirtioDevice *vdev, unsigned bit)
{
    return vdev->guest_features >> bit & 1;
}
static inline bool virtio_ready(const VirtioDevice *vdev)
{
    return (vdev->status & VIRTIO_DRIVER_OK) && !vdev->broken;
}

/* --- for device kinds --- */
/* size: a power of two, at most VIRTIO_QUEUE_SIZE_MAX. notified: the driver made buffers available. */
Virtqueue *virtio_add_queue(VirtioDevice *vdev, uint16_t size, void (*notified)(VirtioDevice *vdev, Virtqueue *vq));
/*
 * The queues are looked after in the iothread's loop from now on; an IoThread object, or NULL: in place. In plug, behind the
 * queues; the device gives its back ends the same loop.
 */
Error *virtio_set_iothread(VirtioDevice *vdev, Object *iothread) MUST_USE;
Loop *virtio_loop(const VirtioDevice *vdev); /* NULL: no iothread */
/* The configuration space changed by itself: tells the driver. */
void virtio_config_changed(VirtioDevice *vdev);
/* The driver did what must not be: the device stops until it is reset. */
void virtio_break(VirtioDevice *vdev, const char *fmt, ...) PRINTF(2, 3);

/* --- queues --- */
typedef struct VirtqElement {
    Virtqueue *vq;
    uint16_t id;      /* head descriptor, or packed buffer id */
    uint16_t slots;   /* packed: ring entries it took */
    unsigned out_count, in_count;
    struct iovec *out, *in; /* host memory: out is read by the device, in is written */
    uint64_t out_bytes, in_bytes;
    const uint8_t *ring; /* packed: the ring entries, which completions of others overwrite; else NULL */
} VirtqElement;

/*
 * The next buffer, or NULL: none, or the ring is broken. `extra` bytes, zeroed, follow the element's own
 * struct for the device's request: allocate with size = sizeof(request that embeds VirtqElement first).
 */
void *virtq_pop(Virtqueue *vq, size_t size);
/* Puts the buffer back as not taken (it must be the one popped last). Frees it. */
void virtq_unpop(VirtqElement *elem);
/*
 * Puts any buffer back, in no order, so that the machine can be saved: it is among the saved state and is popped again, before
 * those that the driver has made available since. Frees it.
 */
void virtq_return(VirtqElement *elem);
/* Returns the buffer with `written` bytes at its start; frees it. The driver is told by virtq_notify(). */
void virtq_push(VirtqElement *elem, uint32_t written);
/* The same for several buffers of one queue in the order they were popped: the driver finds all of them or none. */
void virtq_push_all(VirtqElement *const *elems, const uint32_t *written, unsigned count);
/* Marks bytes of the in buffers as written, and frees the element without returning it (reset). */
void virtq_discard(VirtqElement *elem);
void virtq_notify(Virtqueue *vq);
bool virtq_empty(Virtqueue *vq);
/* Whether the driver has to notify about new buffers; looks again after switching on. */
void virtq_set_notification(Virtqueue *vq, bool on);

size_t iov_to_buf(const struct iovec *iov, unsigned count, size_t offset, void *buf, size_t length);
size_t iov_from_buf(const struct iovec *iov, unsigned count, size_t offset, const void *buf, size_t length);
size_t iov_length(const struct iovec *iov, unsigned count);
/* Drops bytes from the front (back) in place; returns how many were dropped. */
size_t iov_drop_front(struct iovec **iov, unsigned *count, size_t length);
size_t iov_drop_back(struct iovec *iov, unsigned *count, size_t length);

/* --- for transports --- */
Error *virtio_plug(VirtioDevice *vdev, const VirtioKind *kind, const VirtioTransportOps *transport, AddressSpace *dma) MUST_USE;
void virtio_unplug(VirtioDevice *vdev);
void virtio_reset(VirtioDevice *vdev);
void virtio_set_status(VirtioDevice *vdev, uint8_t status);
/* False when the driver chose what was not offered. */
bool virtio_set_features(VirtioDevice *vdev, uint64_t features);
uint32_t virtio_config_read(VirtioDevice *vdev, unsigned offset, unsigned size);
void virtio_config_write(VirtioDevice *vdev, unsigned offset, uint32_t value, unsigned size);
void virtio_queue_notified(VirtioDevice *vdev, unsigned index);
void virtio_queue_reset(Virtqueue *vq);

/* --- descriptors --- */
extern const ObjectType virtio_pci_object_type;
extern const StateField virtio_state[];
Error *virtio_pci_plug(Device *dev);
void virtio_pci_unplug(Device *dev);
void virtio_pci_reset(Device *dev);
Error *virtio_pci_loaded(Device *dev);
void virtio_pci_saving(Device *dev);
void virtio_pci_resumed(Device *dev);
extern const PciIdent virtio_pci_ident_net, virtio_pci_ident_block, virtio_pci_ident_console, virtio_pci_ident_rng,
    virtio_pci_ident_balloon, virtio_pci_ident_scsi, virtio_pci_ident_9p, virtio_pci_ident_keyboard, virtio_pci_ident_mouse, virtio_pci_ident_tablet;

/*
 * Three types of a kind: NAME-pci, and with fixed generation NAME-pci-transitional, -non-transitional. The names of the
 * properties that fix it are virtio_pci.c's.
 */
#define VIRTIO_PCI_TYPE_(ident, nm, als, kind_, tp_, pr, rows, cat, desc_, pciid, ...)              \
    DEVICE_TYPE(ident, .object = { .name = nm, .parent = &virtio_pci_object_type, .size = sizeof(tp_), .c_type = #tp_, .props = pr }, \
                .alias = als, .desc = desc_, .category = cat, .bus = &pci_bus_type, .pci = &pciid, .state = rows, \
                .hotplug = true, .plug = virtio_pci_plug, .unplug = virtio_pci_unplug,            \
                .reset = virtio_pci_reset, .saving = virtio_pci_saving, .loaded = virtio_pci_loaded, .resumed = virtio_pci_resumed, .extra = &kind_, ##__VA_ARGS__)
#define VIRTIO_PCI_DEVICE(ident, nm, als, kind_, tp_, pr, rows, cat, desc_, pciid, ...)             \
    VIRTIO_PCI_TYPE_(ident, nm "-pci", als, kind_, tp_, pr, rows, cat, desc_, pciid, ##__VA_ARGS__); \
    VIRTIO_PCI_TYPE_(ident##_transitional, nm "-pci-transitional", NULL, kind_, tp_, pr, rows, cat, desc_, pciid, ##__VA_ARGS__); \
    VIRTIO_PCI_TYPE_(ident##_modern, nm "-pci-non-transitional", NULL, kind_, tp_, pr, rows, cat, desc_, pciid, ##__VA_ARGS__)
/* First row of every virtio device's state table. */
#define VIRTIO_STATE(tp_) STATE_STRUCT(tp_, vdev, virtio_state)

#endif
