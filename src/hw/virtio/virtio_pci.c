/*
 * The PCI transport of virtio devices (virtio 1.2, 4.1): the legacy interface in I/O BAR 0, MSI-X in BAR 1, the
 * 1.0 interface in memory BAR 4: common configuration, ISR, device configuration, notification.
 */
#include <string.h>

#include "base/endian.h"
#include "base/log.h"
#include "bus/virtio.h"

enum { LEGACY_BAR = 0, MSIX_BAR = 1, MODERN_BAR = 4 };
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI_CFG = 5, CAP_VENDOR = 0x09 };
enum { COMMON_OFFSET = 0, ISR_OFFSET = 0x1000, DEVICE_OFFSET = 0x2000, NOTIFY_OFFSET = 0x3000 };
enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };
enum { VIRTIO_VENDOR = 0x1af4, MODERN_DEVICE_BASE = 0x1040 };
enum { LEGACY_CONFIG = 20, LEGACY_CONFIG_MSIX = 24 };

#define IDENT(n, id, cls)                                                                          \
    const PciIdent virtio_pci_ident_##n = { .vendor = VIRTIO_VENDOR, .device = id, .subsystem_vendor = VIRTIO_VENDOR, \
                                            .class_code = cls, .interrupt_pin = 1,                 \
                                            .rom = id == 0x1000 ? "efi-virtio.rom" : NULL }
IDENT(net, 0x1000, 0x020000);
IDENT(block, 0x1001, 0x010000);
IDENT(balloon, 0x1002, 0x00ff00);
IDENT(console, 0x1003, 0x078000);
IDENT(scsi, 0x1004, 0x010000);
IDENT(rng, 0x1005, 0x00ff00);
IDENT(9p, 0x1009, 0x000200);
IDENT(keyboard, 0x1052, 0x090000);
IDENT(mouse, 0x1052, 0x090200);
IDENT(tablet, 0x1052, 0x098000);

static VirtioDevice *of_pci(PciDevice *pci)
{
    return container_of(pci, VirtioDevice, pci);
}

/* --- interrupts --- */

static void update_intx(VirtioDevice *vdev)
{
    pci_set_irq(&vdev->pci, vdev->tp.isr != 0);
}

static void interrupt(VirtioDevice *vdev, uint16_t vector, bool config)
{
    if (pci_msix_enabled(&vdev->pci)) {
        if (vector != VIRTIO_NO_VECTOR) {
            pci_msi_notify(&vdev->pci, vector);
        }
        return;
    }
    vdev->tp.isr |= config ? ISR_QUEUE | ISR_CONFIG : ISR_QUEUE;
    update_intx(vdev);
}
static const VirtioTransportOps transport = { .interrupt = interrupt };

static uint8_t take_isr(VirtioDevice *vdev)
{
    uint8_t isr = vdev->tp.isr;
    vdev->tp.isr = 0;
    update_intx(vdev);
    return isr;
}

static uint16_t checked_vector(const VirtioDevice *vdev, uint16_t vector)
{
    return vector < vdev->tp.vectors ? vector : VIRTIO_NO_VECTOR;
}

static Virtqueue *selected_queue(VirtioDevice *vdev)
{
    return vdev->tp.queue_select < vdev->queues ? &vdev->queue[vdev->tp.queue_select] : NULL;
}

/* --- the legacy interface --- */

static void legacy_set_queue(VirtioDevice *vdev, Virtqueue *vq, uint32_t pfn)
{
    if (pfn == 0) {
        /* A legacy driver that takes a queue away resets the device. */
        virtio_reset(vdev);
        return;
    }
    vq->desc = (uint64_t)pfn * MEM_PAGE_SIZE;
    vq->avail = vq->desc + 16u * vq->size;
    vq->used = ALIGN_UP(vq->avail + 4 + 2u * vq->size + 2, MEM_PAGE_SIZE);
    vq->desc_ptr = NULL;
    vq->enabled = true;
}

static unsigned legacy_config_start(const VirtioDevice *vdev)
{
    return pci_msix_enabled(&vdev->pci) ? LEGACY_CONFIG_MSIX : LEGACY_CONFIG;
}

static uint32_t legacy_register_read(VirtioDevice *vdev, uint64_t addr)
{
    Virtqueue *vq = selected_queue(vdev);
    switch (addr) {
    case 0:
        return (uint32_t)vdev->host_features;
    case 4:
        return (uint32_t)vdev->guest_features;
    case 8:
        return vq ? (uint32_t)(vq->desc / MEM_PAGE_SIZE) : 0;
    case 12:
        return vq ? vq->size_max : 0;
    case 14:
        return vdev->tp.queue_select;
    case 18:
        return vdev->status;
    case 19:
        return take_isr(vdev);
    case 20:
        return vdev->config_vector;
    case 22:
        return vq ? vq->vector : VIRTIO_NO_VECTOR;
    default:
        return 0;
    }
}

static uint64_t legacy_read(void *opaque, uint64_t addr, unsigned size)
{
    VirtioDevice *vdev = opaque;
    unsigned config = legacy_config_start(vdev);
    return addr >= config ? virtio_config_read(vdev, (unsigned)addr - config, size) : legacy_register_read(vdev, addr);
}

static void legacy_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    VirtioDevice *vdev = opaque;
    unsigned config = legacy_config_start(vdev);
    Virtqueue *vq = selected_queue(vdev);

    if (addr >= config) {
        virtio_config_write(vdev, (unsigned)addr - config, (uint32_t)value, size);
        return;
    }
    switch (addr) {
    case 4:
        virtio_set_features(vdev, (uint32_t)value & vdev->host_features);
        break;
    case 8:
        if (vq) {
            legacy_set_queue(vdev, vq, (uint32_t)value);
        }
        break;
    case 14:
        vdev->tp.queue_select = (uint16_t)value;
        break;
    case 16:
        virtio_queue_notified(vdev, (uint16_t)value);
        break;
    case 18:
        virtio_set_status(vdev, (uint8_t)value);
        if (value == 0) {
            take_isr(vdev);
        }
        break;
    case 20:
        vdev->config_vector = checked_vector(vdev, (uint16_t)value);
        break;
    case 22:
        if (vq) {
            vq->vector = checked_vector(vdev, (uint16_t)value);
        }
        break;
    default:
        break;
    }
}
static const MemOps legacy_ops = { .read = legacy_read, .write = legacy_write, .max = 4, .unaligned = true };

/* --- common configuration --- */

enum {
    COMMON_DFSELECT = 0, COMMON_DF = 4, COMMON_GFSELECT = 8, COMMON_GF = 12, COMMON_MSIX = 16, COMMON_NUMQ = 18,
    COMMON_STATUS = 20, COMMON_GENERATION = 21, COMMON_Q_SELECT = 22, COMMON_Q_SIZE = 24, COMMON_Q_MSIX = 26,
    COMMON_Q_ENABLE = 28, COMMON_Q_NOFF = 30, COMMON_Q_DESC = 32, COMMON_Q_AVAIL = 40, COMMON_Q_USED = 48,
    COMMON_Q_NDATA = 56, COMMON_Q_RESET = 58, COMMON_SIZE = 60,
};

static uint32_t queue_register_read(const Virtqueue *vq, uint64_t addr)
{
    switch (addr) {
    case COMMON_Q_SIZE:
        return vq->size;
    case COMMON_Q_MSIX:
        return vq->vector;
    case COMMON_Q_ENABLE:
        return vq->enabled;
    case COMMON_Q_NOFF:
    case COMMON_Q_NDATA:
        return vq->index;
    case COMMON_Q_DESC:
        return (uint32_t)vq->desc;
    case COMMON_Q_DESC + 4:
        return (uint32_t)(vq->desc >> 32);
    case COMMON_Q_AVAIL:
        return (uint32_t)vq->avail;
    case COMMON_Q_AVAIL + 4:
        return (uint32_t)(vq->avail >> 32);
    case COMMON_Q_USED:
        return (uint32_t)vq->used;
    case COMMON_Q_USED + 4:
        return (uint32_t)(vq->used >> 32);
    default:
        return 0;
    }
}

static uint64_t common_read(void *opaque, uint64_t addr, unsigned size)
{
    VirtioDevice *vdev = opaque;
    Virtqueue *vq = selected_queue(vdev);

    switch (addr) {
    case COMMON_DFSELECT:
        return vdev->tp.feature_select;
    case COMMON_DF:
        return vdev->tp.feature_select < 2 ? (uint32_t)(vdev->host_features >> 32 * vdev->tp.feature_select) : 0;
    case COMMON_GFSELECT:
        return vdev->tp.driver_feature_select;
    case COMMON_GF:
        return vdev->tp.driver_feature_select < 2
                   ? (uint32_t)(vdev->tp.driver_features >> 32 * vdev->tp.driver_feature_select)
                   : 0;
    case COMMON_MSIX:
        return vdev->config_vector;
    case COMMON_NUMQ:
        return vdev->queues;
    case COMMON_STATUS:
        return vdev->status;
    case COMMON_GENERATION:
        return vdev->config_generation;
    case COMMON_Q_SELECT:
        return vdev->tp.queue_select;
    default:
        return vq ? queue_register_read(vq, addr) : 0;
    }
}

static void set_half(uint64_t *value, bool high, uint32_t half)
{
    *value = high ? (*value & 0xffffffff) | (uint64_t)half << 32 : (*value & ~0xffffffffull) | half;
}

/* A split ring's size is a power of two. */
static void set_queue_size(Virtqueue *vq, uint16_t size)
{
    bool packed = virtio_has(vq->vdev, VIRTIO_F_RING_PACKED);
    if (size && size <= vq->size_max && (packed || IS_POW2(size))) {
        vq->size = size;
    } else {
        virtio_break(vq->vdev, "queue %u: a size of %u", vq->index, size);
    }
}

static void queue_register_write(Virtqueue *vq, uint64_t addr, uint32_t value)
{
    switch (addr) {
    case COMMON_Q_MSIX:
        vq->vector = checked_vector(vq->vdev, (uint16_t)value);
        return;
    case COMMON_Q_RESET:
        if (value == 1 && virtio_has(vq->vdev, VIRTIO_F_RING_RESET)) {
            virtio_queue_reset(vq);
        }
        return;
    default:
        break;
    }
    if (vq->enabled) {
        return; /* the rest is fixed while the queue is in use */
    }
    switch (addr) {
    case COMMON_Q_SIZE:
        set_queue_size(vq, (uint16_t)value);
        break;
    case COMMON_Q_ENABLE:
        vq->enabled = value == 1;
        break;
    case COMMON_Q_DESC:
    case COMMON_Q_DESC + 4:
        set_half(&vq->desc, addr & 4, value);
        break;
    case COMMON_Q_AVAIL:
    case COMMON_Q_AVAIL + 4:
        set_half(&vq->avail, addr & 4, value);
        break;
    case COMMON_Q_USED:
    case COMMON_Q_USED + 4:
        set_half(&vq->used, addr & 4, value);
        break;
    default:
        break;
    }
}

static void common_status(VirtioDevice *vdev, uint8_t status)
{
    if (status == 0) {
        virtio_set_status(vdev, 0);
        vdev->tp.driver_features = 0;
        vdev->tp.queue_select = 0;
        take_isr(vdev);
        return;
    }
    if ((status & ~vdev->status & VIRTIO_FEATURES_OK) &&
        (!virtio_set_features(vdev, vdev->tp.driver_features) ||
         !(vdev->tp.driver_features & BIT64(VIRTIO_F_VERSION_1)))) {
        status &= (uint8_t)~VIRTIO_FEATURES_OK; /* the driver reads it back and sees the refusal */
    }
    virtio_set_status(vdev, status);
}

static void common_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    VirtioDevice *vdev = opaque;
    Virtqueue *vq = selected_queue(vdev);

    switch (addr) {
    case COMMON_DFSELECT:
        vdev->tp.feature_select = (uint32_t)value;
        break;
    case COMMON_GFSELECT:
        vdev->tp.driver_feature_select = (uint32_t)value;
        break;
    case COMMON_GF:
        if (vdev->tp.driver_feature_select < 2) {
            set_half(&vdev->tp.driver_features, vdev->tp.driver_feature_select == 1, (uint32_t)value);
        }
        break;
    case COMMON_MSIX:
        vdev->config_vector = checked_vector(vdev, (uint16_t)value);
        break;
    case COMMON_STATUS:
        common_status(vdev, (uint8_t)value);
        break;
    case COMMON_Q_SELECT:
        vdev->tp.queue_select = (uint16_t)value;
        break;
    default:
        if (vq) {
            queue_register_write(vq, addr, (uint32_t)value);
        }
        break;
    }
}
static const MemOps common_ops = { .read = common_read, .write = common_write, .max = 4 };

/* --- ISR, device configuration, notification --- */

static uint64_t isr_read(void *opaque, uint64_t addr, unsigned size)
{
    return addr == 0 ? take_isr(opaque) : 0;
}
static const MemOps isr_ops = { .read = isr_read, .max = 4 };

static uint64_t device_read(void *opaque, uint64_t addr, unsigned size)
{
    return virtio_config_read(opaque, (unsigned)addr, size);
}

static void device_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    virtio_config_write(opaque, (unsigned)addr, (uint32_t)value, size);
}
static const MemOps device_ops = { .read = device_read, .write = device_write, .max = 4 };

static unsigned notify_multiplier(const VirtioDevice *vdev)
{
    return vdev->tp.page_per_vq ? MEM_PAGE_SIZE : 4;
}

static uint64_t notify_read(void *opaque, uint64_t addr, unsigned size)
{
    return 0;
}

static void notify_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    VirtioDevice *vdev = opaque;
    virtio_queue_notified(vdev, (unsigned)(addr / notify_multiplier(vdev)));
}
static const MemOps notify_ops = { .read = notify_read, .write = notify_write, .max = 4 };

/* --- capabilities --- */

static void add_vendor_cap(VirtioDevice *vdev, uint8_t type, uint32_t offset, uint32_t length, unsigned extra)
{
    PciDevice *pci = &vdev->pci;
    uint8_t size = (uint8_t)(16 + extra);
    uint8_t at = pci_add_capability(pci, CAP_VENDOR, 0, size);
    uint8_t *cap = pci->config + at;
    cap[2] = size;
    cap[3] = type;
    cap[4] = MODERN_BAR;
    st32_le(cap + 8, offset);
    st32_le(cap + 12, length);
    if (type == CAP_NOTIFY) {
        st32_le(cap + 16, notify_multiplier(vdev));
    } else if (type == CAP_PCI_CFG) {
        vdev->tp.cfg_cap = at;
        pci->wmask[at + 4] = 0xff;
        memset(pci->wmask + at + 8, 0xff, 12);
    }
}

/* The window that configuration space has on the modern BAR, for firmware that maps no memory. */
static bool cfg_window(VirtioDevice *vdev, uint32_t *ret_offset, unsigned *ret_size)
{
    const uint8_t *cap = vdev->pci.config + vdev->tp.cfg_cap;
    uint32_t offset = ld32_le(cap + 8), size = ld32_le(cap + 12);
    uint64_t limit = vdev->tp.modern_mem.size;
    if (cap[4] != MODERN_BAR || (size != 1 && size != 2 && size != 4) || offset >= limit || size > limit - offset ||
        (offset & (size - 1))) {
        return false;
    }
    *ret_offset = offset;
    *ret_size = size;
    return true;
}

static MemRegion *modern_part(VirtioDevice *vdev, uint32_t offset, uint32_t *ret_inside)
{
    MemRegion *parts[] = { &vdev->tp.common, &vdev->tp.isr_region, &vdev->tp.device_config, &vdev->tp.notify };
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        if (offset >= parts[i]->offset && offset - parts[i]->offset < parts[i]->size) {
            *ret_inside = offset - (uint32_t)parts[i]->offset;
            return parts[i];
        }
    }
    return NULL;
}

static bool touches_window(const VirtioDevice *vdev, uint32_t addr, unsigned size)
{
    uint32_t data = vdev->tp.cfg_cap + 16u;
    return vdev->tp.cfg_cap && addr < data + 4 && addr + size > data;
}

static uint32_t config_read(PciDevice *pci, uint32_t addr, unsigned size)
{
    VirtioDevice *vdev = of_pci(pci);
    uint32_t offset, inside;
    unsigned width;
    uint64_t value;

    if (touches_window(vdev, addr, size) && cfg_window(vdev, &offset, &width)) {
        MemRegion *part = modern_part(vdev, offset, &inside);
        if (part && mem_region_load(part, inside, width, &value) == MEM_OK) {
            st_le(pci->config + vdev->tp.cfg_cap + 16, value, width);
        }
    }
    return (uint32_t)ld_le(pci->config + addr, size);
}

static void config_written(PciDevice *pci, uint32_t addr, unsigned size)
{
    VirtioDevice *vdev = of_pci(pci);
    uint32_t offset, inside;
    unsigned width;

    if (touches_window(vdev, addr, size) && cfg_window(vdev, &offset, &width)) {
        MemRegion *part = modern_part(vdev, offset, &inside);
        if (part) {
            mem_region_store(part, inside, width, ld_le(pci->config + vdev->tp.cfg_cap + 16, width));
        }
    }
}

static void add_modern(VirtioDevice *vdev)
{
    Device *dev = &vdev->dev;
    VirtioPciState *tp = &vdev->tp;
    uint64_t notify_size = vdev->tp.page_per_vq ? VIRTIO_QUEUE_MAX * MEM_PAGE_SIZE : 0x1000;
    uint64_t total = 0x4000;

    while (total < NOTIFY_OFFSET + notify_size) {
        total *= 2;
    }
    mem_region_init(&tp->modern_mem, dev->machine->mem, "virtio-pci", total);
    device_region_own(dev, &tp->modern_mem);
    device_region_io(dev, &tp->common, "virtio-pci-common", 0x1000, &common_ops);
    device_region_io(dev, &tp->isr_region, "virtio-pci-isr", 0x1000, &isr_ops);
    device_region_io(dev, &tp->device_config, "virtio-pci-device", 0x1000, &device_ops);
    device_region_io(dev, &tp->notify, "virtio-pci-notify", notify_size, &notify_ops);
    mem_region_map(&tp->modern_mem, COMMON_OFFSET, &tp->common, 0);
    mem_region_map(&tp->modern_mem, ISR_OFFSET, &tp->isr_region, 0);
    mem_region_map(&tp->modern_mem, DEVICE_OFFSET, &tp->device_config, 0);
    mem_region_map(&tp->modern_mem, NOTIFY_OFFSET, &tp->notify, 0);
    pci_bar(&vdev->pci, MODERN_BAR, PCI_BAR_MEM64 | PCI_BAR_PREFETCH, &tp->modern_mem);
    add_vendor_cap(vdev, CAP_COMMON, COMMON_OFFSET, 0x1000, 0);
    add_vendor_cap(vdev, CAP_ISR, ISR_OFFSET, 0x1000, 0);
    add_vendor_cap(vdev, CAP_DEVICE, DEVICE_OFFSET, 0x1000, 0);
    add_vendor_cap(vdev, CAP_NOTIFY, NOTIFY_OFFSET, (uint32_t)notify_size, 4);
    add_vendor_cap(vdev, CAP_PCI_CFG, 0, 0, 4);
    vdev->pci.config_read = config_read;
    vdev->pci.config_written = config_written;
}

static void add_legacy(VirtioDevice *vdev)
{
    unsigned bytes = LEGACY_CONFIG_MSIX + vdev->config_size, size = 32;
    while (size < bytes) {
        size *= 2;
    }
    device_region_io(&vdev->dev, &vdev->tp.legacy_io, "virtio-pci", size, &legacy_ops);
    pci_bar(&vdev->pci, LEGACY_BAR, PCI_BAR_IO, &vdev->tp.legacy_io);
}

/* --- life --- */

static void choose_generation(VirtioDevice *vdev)
{
    const char *name = vdev->dev.object.type->name;
    bool express = vdev->pci.bus->express && vdev->pci.bus->bridge;

    vdev->tp.legacy = vdev->tp.disable_legacy == AUTO_OFF || (vdev->tp.disable_legacy == AUTO_AUTO && !express);
    vdev->tp.modern = !vdev->tp.disable_modern;
    if (g_str_has_suffix(name, "-non-transitional")) {
        vdev->tp.legacy = false;
        vdev->tp.modern = true;
    } else if (g_str_has_suffix(name, "-transitional")) {
        vdev->tp.legacy = vdev->tp.modern = true;
    }
}

static void set_identity(VirtioDevice *vdev)
{
    uint8_t *config = vdev->pci.config;

    if (!vdev->tp.legacy) {
        st16_le(config + PCI_DEVICE_ID, (uint16_t)(MODERN_DEVICE_BASE + vdev->kind->id));
        st16_le(config + PCI_SUBSYSTEM_ID, 0x1100);
        config[PCI_REVISION] = 1;
    } else {
        st16_le(config + PCI_SUBSYSTEM_ID, vdev->kind->id);
        config[PCI_REVISION] = 0;
    }
}

static void offer_features(VirtioDevice *vdev)
{
    vdev->host_features |= vdev->feature_props;
    if (vdev->tp.modern) {
        vdev->host_features |= BIT64(VIRTIO_F_VERSION_1);
    }
    if (!vdev->tp.modern) {
        vdev->host_features &= 0xffffffff;
    }
}

Error *virtio_pci_plug(Device *dev)
{
    VirtioDevice *vdev = container_of(dev, VirtioDevice, dev);
    const VirtioKind *kind = device_type(dev)->extra;

    choose_generation(vdev);
    if (kind->modern_only && vdev->tp.disable_legacy == AUTO_OFF) {
        return error_new("%s: disable-legacy=off: the device has no interface of before virtio 1.0", device_label(dev));
    }
    vdev->tp.legacy &= !kind->modern_only;
    if (!vdev->tp.legacy && !vdev->tp.modern) {
        return error_new("%s: disable-legacy and disable-modern together leave no interface", device_label(dev));
    }
    TRY(virtio_plug(vdev, kind, &transport, vdev->pci.dma));
    offer_features(vdev);
    set_identity(vdev);
    if (vdev->tp.vectors == UINT32_MAX) {
        vdev->tp.vectors = kind->vectors == 0 ? vdev->queues + 1 : (uint32_t)MAX(kind->vectors, 0);
    }
    if (vdev->tp.vectors) {
        Error *err = pci_msix_init(&vdev->pci, vdev->tp.vectors, MSIX_BAR);
        if (err) {
            /* A machine without message-signalled interrupts: INTx serves. */
            error_free(err);
            vdev->tp.vectors = 0;
        }
    }
    if (vdev->tp.modern) {
        add_modern(vdev);
    }
    if (vdev->tp.legacy) {
        add_legacy(vdev);
    }
    return NULL;
}

void virtio_pci_unplug(Device *dev)
{
    virtio_unplug(container_of(dev, VirtioDevice, dev));
}

void virtio_pci_reset(Device *dev)
{
    VirtioDevice *vdev = container_of(dev, VirtioDevice, dev);
    virtio_reset(vdev);
    vdev->tp.isr = 0;
    vdev->tp.queue_select = 0;
    vdev->tp.feature_select = vdev->tp.driver_feature_select = 0;
    vdev->tp.driver_features = 0;
    update_intx(vdev);
}

void virtio_pci_saving(Device *dev)
{
    VirtioDevice *vdev = container_of(dev, VirtioDevice, dev);
    if (vdev->kind->saving) {
        vdev->kind->saving(vdev);
    }
}

/* Buffers that came while the machine stood still, or were given back. */
void virtio_pci_resumed(Device *dev)
{
    VirtioDevice *vdev = container_of(dev, VirtioDevice, dev);
    for (unsigned i = 0; i < vdev->queues; i++) {
        virtio_queue_notified(vdev, i);
    }
}

Error *virtio_pci_loaded(Device *dev)
{
    VirtioDevice *vdev = container_of(dev, VirtioDevice, dev);
    for (unsigned i = 0; i < vdev->queues; i++) {
        Virtqueue *vq = &vdev->queue[i];
        vq->desc_ptr = NULL;
        if (vq->size == 0 || vq->size > vq->size_max) {
            return error_new("%s: queue %u has the size %u", device_label(dev), i, vq->size);
        }
    }
    update_intx(vdev);
    return vdev->kind->loaded ? vdev->kind->loaded(vdev) : NULL;
}

static const Prop virtio_pci_props[] = {
    PROP_ON_OFF_AUTO("disable-legacy", VirtioDevice, tp.disable_legacy, AUTO_AUTO, .help = "without the interface before virtio 1.0"),
    PROP_BOOL("disable-modern", VirtioDevice, tp.disable_modern, false, .help = "without the virtio 1.0 interface"),
    PROP_BOOL("page-per-vq", VirtioDevice, tp.page_per_vq, false, .help = "a page of notification addresses per queue"),
    PROP_U32("vectors", VirtioDevice, tp.vectors, UINT32_MAX, .help = "MSI-X vectors; unset: what suits the device, mostly one a queue and one more"),
    PROP_BIT64("event_idx", VirtioDevice, feature_props, VIRTIO_F_EVENT_IDX, true, .help = "offer event indices"),
    PROP_BIT64("indirect_desc", VirtioDevice, feature_props, VIRTIO_F_INDIRECT_DESC, true, .help = "offer indirect descriptors"),
    PROP_BIT64("any_layout", VirtioDevice, feature_props, VIRTIO_F_ANY_LAYOUT, true, .help = "any split of buffers"),
    PROP_BIT64("notify_on_empty", VirtioDevice, feature_props, VIRTIO_F_NOTIFY_ON_EMPTY, true,
               .help = "interrupt when a queue runs empty (legacy)"),
    PROP_BIT64("packed", VirtioDevice, feature_props, VIRTIO_F_RING_PACKED, false, .help = "offer packed rings"),
    PROP_BIT64("queue_reset", VirtioDevice, feature_props, VIRTIO_F_RING_RESET, true, .help = "offer the reset of single queues"),
    { 0 },
};
const ObjectType virtio_pci_object_type = { .name = "virtio-pci", .parent = &pci_device_object_type,
                                            .size = sizeof(VirtioDevice), .abstract = true, .props = virtio_pci_props };
