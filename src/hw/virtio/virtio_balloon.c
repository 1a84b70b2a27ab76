/*
 * virtio-balloon (virtio 1.2, 5.5): the guest gives pages away and takes them back; the host's memory of given
 * pages is released. Statistics queue and deflate-on-oom are offered. Missing: free page hinting, reporting.
 */
#include "hw/virtio/virtio_balloon.h"

#include <string.h>
#include <sys/mman.h>

#include "base/endian.h"
#include "bus/virtio.h"
#include "value/json.h"

enum { F_STATS_VQ = 1, F_DEFLATE_ON_OOM = 2 };
enum { PFN_SHIFT = 12, CONFIG = 8, STAT_ENTRY = 10, STATS = 16 };
#define SERVICE "balloon"

typedef struct VirtioBalloon {
    VirtioDevice vdev;
    bool deflate_on_oom;
    uint32_t num_pages, actual;
    Virtqueue *inflate, *deflate, *stats_vq;
    uint64_t stats[STATS];
    int64_t stats_at;         /* seconds since 1970, of the last report; 0: none */
    uint32_t poll_interval;   /* seconds; 0: nobody asks */
    Timer poll;
    VirtqElement *stats_elem; /* held until statistics are wanted */
} VirtioBalloon;

static VirtioBalloon *of_vdev(VirtioDevice *vdev)
{
    return container_of(vdev, VirtioBalloon, vdev);
}

/* The page's content is gone afterwards; a later touch finds zeros. */
static void release_page(VirtioDevice *vdev, uint32_t pfn)
{
    uint64_t length = MEM_PAGE_SIZE, offset;
    void *host = mem_map(vdev->dev.machine->as, (uint64_t)pfn << PFN_SHIFT, &length, true);
    if (!host || length < MEM_PAGE_SIZE) {
        return;
    }
    RamBlock *block = ram_block_of(vdev->dev.machine->mem, host, &offset);
    if (block && !block->shared && block->fd < 0) {
        madvise(host, MEM_PAGE_SIZE, MADV_DONTNEED);
        mem_unmap(vdev->dev.machine->as, host, MEM_PAGE_SIZE, MEM_PAGE_SIZE);
    }
}

static void pages_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    VirtioBalloon *balloon = of_vdev(vdev);
    VirtqElement *elem;

    while ((elem = virtq_pop(vq, sizeof(*elem)))) {
        uint8_t pfn[4];
        for (uint64_t at = 0; at + 4 <= elem->out_bytes && vq == balloon->inflate; at += 4) {
            iov_to_buf(elem->out, elem->out_count, at, pfn, 4);
            release_page(vdev, ld32_le(pfn));
        }
        virtq_push(elem, 0);
    }
    virtq_notify(vq);
}

static void stats_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    VirtioBalloon *balloon = of_vdev(vdev);
    VirtqElement *elem;
    uint8_t entry[STAT_ENTRY];

    while ((elem = virtq_pop(vq, sizeof(*elem)))) {
        if (balloon->stats_elem) {
            virtq_push(balloon->stats_elem, 0);
        }
        for (uint64_t at = 0; at + STAT_ENTRY <= elem->out_bytes; at += STAT_ENTRY) {
            iov_to_buf(elem->out, elem->out_count, at, entry, STAT_ENTRY);
            if (ld16_le(entry) < STATS) {
                balloon->stats[ld16_le(entry)] = ld64_le(entry + 2);
            }
        }
        balloon->stats_elem = elem;
        balloon->stats_at = g_get_real_time() / G_USEC_PER_SEC;
    }
}

/* --- statistics, asked for at intervals --- */

static void arm_poll(VirtioBalloon *balloon)
{
    if (balloon->poll_interval) {
        timer_set(&balloon->poll, clock_now(balloon->vdev.dev.machine->clocks, CLOCK_VIRTUAL) + balloon->poll_interval * NS_PER_SEC);
    } else {
        timer_cancel(&balloon->poll);
    }
}

/* The driver fills the buffer anew when it gets it back. */
static void poll_now(void *opaque)
{
    VirtioBalloon *balloon = container_of(opaque, VirtioBalloon, vdev.dev);

    if (virtio_ready(&balloon->vdev) && virtio_has(&balloon->vdev, F_STATS_VQ)) {
        if (balloon->stats_elem) {
            virtq_push(g_steal_pointer(&balloon->stats_elem), 0);
            virtq_notify(balloon->stats_vq);
        } else {
            stats_notified(&balloon->vdev, balloon->stats_vq); /* one that was given back for saving */
        }
    }
    arm_poll(balloon);
}

static void interval_changed(Object *obj, const Prop *prop)
{
    arm_poll(container_of((Device *)obj, VirtioBalloon, vdev.dev));
}

static char *stats_get(const Object *obj, const Prop *prop)
{
    static const char *const names[] = {
        "stat-swap-in", "stat-swap-out", "stat-major-faults", "stat-minor-faults", "stat-free-memory", "stat-total-memory",
        "stat-available-memory", "stat-disk-caches", "stat-htlb-pgalloc", "stat-htlb-pgfail",
    };
    const VirtioBalloon *balloon = container_of((const Device *)obj, VirtioBalloon, vdev.dev);
    g_autoptr(Value) info = value_dict();
    Value *stats = value_dict();

    for (size_t n = 0; n < ARRAY_SIZE(names); n++) {
        value_put(stats, names[n], value_uint(balloon->stats[n])); /* what was never told is all ones */
    }
    value_put(info, "stats", stats);
    value_put_int(info, "last-update", balloon->stats_at);
    return json_write(info, false);
}
static const PropKind stats_kind = { "guest statistics", NULL, stats_get, NULL, NULL, 'j' };

static void get_config(VirtioDevice *vdev, uint8_t *config)
{
    st32_le(config, of_vdev(vdev)->num_pages);
    st32_le(config + 4, of_vdev(vdev)->actual);
}

static uint64_t ram_bytes(Machine *machine)
{
    return machine->config->ram_size;
}

static void config_written(VirtioDevice *vdev, unsigned offset, unsigned size)
{
    VirtioBalloon *balloon = of_vdev(vdev);
    uint32_t actual = ld32_le(vdev->config + 4);
    if (actual != balloon->actual) {
        balloon->actual = actual;
        uint64_t given = (uint64_t)actual << PFN_SHIFT, ram = ram_bytes(vdev->dev.machine);
        g_autofree char *json = g_strdup_printf("{\"actual\": %" G_GUINT64_FORMAT "}", ram > given ? ram - given : 0);
        machine_emit(vdev->dev.machine, "BALLOON_CHANGE", json);
    }
}

static void reset(VirtioDevice *vdev)
{
    VirtioBalloon *balloon = of_vdev(vdev);
    if (balloon->stats_elem) {
        virtq_discard(balloon->stats_elem);
        balloon->stats_elem = NULL;
    }
    memset(balloon->stats, 0xff, sizeof(balloon->stats));
    balloon->stats_at = 0;
}

static void saving(VirtioDevice *vdev)
{
    VirtioBalloon *balloon = of_vdev(vdev);
    if (balloon->stats_elem) {
        virtq_unpop(g_steal_pointer(&balloon->stats_elem));
    }
}

static Error *plug(VirtioDevice *vdev)
{
    VirtioBalloon *balloon = of_vdev(vdev);
    if (machine_service(vdev->dev.machine, SERVICE)) {
        return error_new("%s: only one balloon is possible", device_label(&vdev->dev));
    }
    machine_set_service(vdev->dev.machine, SERVICE, balloon);
    vdev->host_features = BIT64(F_STATS_VQ) | (balloon->deflate_on_oom ? BIT64(F_DEFLATE_ON_OOM) : 0);
    balloon->inflate = virtio_add_queue(vdev, 128, pages_notified);
    balloon->deflate = virtio_add_queue(vdev, 128, pages_notified);
    balloon->stats_vq = virtio_add_queue(vdev, 128, stats_notified);
    device_timer_init(&vdev->dev, &balloon->poll, CLOCK_VIRTUAL, poll_now);
    arm_poll(balloon);
    return NULL;
}

static void unplug(VirtioDevice *vdev)
{
    if (machine_service(vdev->dev.machine, SERVICE) == of_vdev(vdev)) {
        reset(vdev);
        machine_set_service(vdev->dev.machine, SERVICE, NULL);
    }
}

static Error *find(Machine *machine, VirtioBalloon **ret_balloon)
{
    VirtioBalloon *balloon = machine_service(machine, SERVICE);
    if (!balloon) {
        return error_new_class(ERROR_DEVICE_NOT_ACTIVE, "the machine has no balloon device");
    }
    *ret_balloon = balloon;
    return NULL;
}

Error *balloon_actual(Machine *machine, uint64_t *ret_bytes)
{
    VirtioBalloon *balloon = NULL;
    TRY(find(machine, &balloon));
    uint64_t given = (uint64_t)balloon->actual << PFN_SHIFT, ram = ram_bytes(machine);
    *ret_bytes = ram > given ? ram - given : 0;
    return NULL;
}

Error *balloon_set_target(Machine *machine, uint64_t bytes)
{
    VirtioBalloon *balloon = NULL;
    TRY(find(machine, &balloon));
    uint64_t ram = ram_bytes(machine);
    if (bytes == 0) {
        return error_new("Parameter 'target' expects a size");
    }
    balloon->num_pages = (uint32_t)((ram - MIN(bytes, ram)) >> PFN_SHIFT);
    virtio_config_changed(&balloon->vdev);
    return NULL;
}

static const VirtioKind kind = { .name = "virtio-balloon", .id = VIRTIO_ID_BALLOON, .config_size = CONFIG, .vectors = -1, .plug = plug,
                                 .unplug = unplug, .reset = reset, .saving = saving, .get_config = get_config,
                                 .config_written = config_written };

static const Prop props[] = {
    PROP_U32("guest-stats-polling-interval", VirtioBalloon, poll_interval, 0, .min = 0, .max = INT32_MAX,
             .help = "seconds between questions for guest-stats, 0: none", .flags = PROP_RUNTIME, .changed = interval_changed),
    { .name = "guest-stats", .kind = &stats_kind, .help = "what the guest last told of its memory", .flags = PROP_READONLY | PROP_HIDDEN },
    PROP_BOOL("deflate-on-oom", VirtioBalloon, deflate_on_oom, false, .help = "Let the guest take pages back when memory is short"),
    { 0 },
};
static const StateField state[] = {
    VIRTIO_STATE(VirtioBalloon),
    STATE_U32(VirtioBalloon, num_pages),
    STATE_U32(VirtioBalloon, actual),
    STATE_NOT(VirtioBalloon, stats, "asked for again"),
    STATE_NOT(VirtioBalloon, stats_at, "asked for again"),
    STATE_NOT(VirtioBalloon, poll_interval, "configuration"),
    STATE_NOT(VirtioBalloon, poll, "armed by the configuration"),
    STATE_NOT(VirtioBalloon, stats_elem, "given back before saving"),
    STATE_NOT(VirtioBalloon, inflate, "a queue"), STATE_NOT(VirtioBalloon, deflate, "a queue"), STATE_NOT(VirtioBalloon, stats_vq, "a queue"),
    { 0 },
};

VIRTIO_PCI_DEVICE(virtio_balloon, "virtio-balloon", "virtio-balloon", kind, VirtioBalloon, props, state, DEV_MISC,
                  "Virtio memory balloon", virtio_pci_ident_balloon);
