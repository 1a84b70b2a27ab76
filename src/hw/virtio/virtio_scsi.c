/*
 * virtio-scsi (virtio 1.2, 5.6): a SCSI host adapter with a control queue, an event queue and one or more request queues.
 * One channel, 256 targets, 16384 LUNs. Missing: protection information (T10 PI), asynchronous notification events.
 */
#include <string.h>

#include "base/endian.h"
#include "bus/scsi.h"
#include "bus/virtio.h"
#include "io/iothread.h"

enum { F_INOUT = 0, F_HOTPLUG = 1, F_CHANGE = 2 };
enum { CONFIG = 36, EVENT_BYTES = 16, SENSE_DEFAULT = 96, CDB_DEFAULT = 32, SENSE_MAX = 4096, MAX_TARGET = 255, MAX_LUN = 16383 };
enum { CONFIG_SENSE_AT = 20, CONFIG_CDB_AT = 24 };
enum { LUN_BYTES = 8, REQUEST_HEADER = 19, RESPONSE_HEADER = 12, CONTROL_MAX = 24, FIXED_QUEUES = 2 };
enum { S_OK = 0, S_OVERRUN = 1, S_ABORTED = 2, S_BAD_TARGET = 3, S_RESET = 4, S_FAILURE = 9, S_SUCCEEDED = 10, S_REJECTED = 11,
       S_INCORRECT_LUN = 12 };
enum { T_TMF = 0, T_AN_QUERY = 1, T_AN_SUBSCRIBE = 2 };
enum { TMF_ABORT_TASK, TMF_ABORT_TASK_SET, TMF_CLEAR_ACA, TMF_CLEAR_TASK_SET, TMF_NEXUS_RESET, TMF_UNIT_RESET, TMF_QUERY_TASK,
       TMF_QUERY_TASK_SET };
enum { EVENT_NONE = 0, EVENT_TRANSPORT_RESET = 1, EVENT_PARAM_CHANGE = 3 };
enum { RESET_RESCAN = 1, RESET_REMOVED = 2 };
#define EVENTS_MISSED 0x80000000u

typedef struct VirtioScsi {
    VirtioDevice vdev;
    ScsiBus bus;
    Object *iothread;
    uint32_t num_queues, queue_size, max_sectors, cmd_per_lun;
    bool hotplug, param_change, seg_max_adjust;
    uint32_t sense_size, cdb_size; /* as the driver chose */
    bool events_missed;
    List management; /* ScsiTmf: waiting for requests to end */
} VirtioScsi;

typedef struct VirtioScsiReq {
    VirtqElement elem;
    VirtioScsi *scsi;
    bool reset; /* ended by a reset rather than an abort */
    ScsiRequest req;
    struct iovec *lists; /* copies of the element's lists without the headers */
} VirtioScsiReq;

/* A task management function that answers when the requests it ends have ended. */
typedef struct ScsiTmf {
    VirtqElement elem;
    VirtioScsi *scsi;
    uint32_t target, lun;
    uint64_t tag, serial; /* requests after `serial` do not concern it */
    bool one_task, whole_target;
    ListNode node;
} ScsiTmf;

static VirtioScsi *of_vdev(VirtioDevice *vdev)
{
    return container_of(vdev, VirtioScsi, vdev);
}


static Virtqueue *event_queue(VirtioScsi *scsi)
{
    return &scsi->vdev.queue[1];
}

/* 1, target, LUN in peripheral or flat addressing, zeroes. */
static bool parse_lun(const uint8_t *at, uint32_t *ret_target, uint32_t *ret_lun)
{
    if (at[0] != 1) {
        return false;
    }
    *ret_target = at[1];
    *ret_lun = ld16_be(at + 2) & MAX_LUN;
    return true;
}

static void put_lun(uint8_t *at, const ScsiDevice *dev)
{
    memset(at, 0, LUN_BYTES);
    at[0] = 1;
    at[1] = (uint8_t)dev->id;
    st16_be(at + 2, (uint16_t)(dev->lun >= 256 ? dev->lun | 0x4000 : dev->lun));
}

/* --- requests --- */

static void tmf_check_all(VirtioScsi *scsi);

static uint8_t response_of(const VirtioScsiReq *vreq)
{
    switch (vreq->req.end) {
    case SCSI_ENDED:
        return S_OK;
    case SCSI_OVERRUN:
        return S_OVERRUN;
    case SCSI_NO_TARGET:
        return S_BAD_TARGET;
    default:
        return vreq->reset ? S_RESET : S_ABORTED;
    }
}

static void request_done(ScsiRequest *req)
{
    VirtioScsiReq *vreq = container_of(req, VirtioScsiReq, req);
    VirtioScsi *scsi = vreq->scsi;
    Virtqueue *vq = vreq->elem.vq;
    uint32_t sense = MIN((uint32_t)req->sense_length, scsi->sense_size);

    if (req->end == SCSI_RETURNED) {
        g_free(vreq->lists);
        virtq_return(&vreq->elem);
        tmf_check_all(scsi);
        return;
    }
    g_autofree uint8_t *response = g_malloc0(RESPONSE_HEADER + scsi->sense_size);

    st32_le(response, sense);
    response[11] = response_of(vreq);
    if (response[11] == S_OK) {
        st32_le(response + 4, (uint32_t)MIN(req->in_bytes + req->out_bytes - req->moved, (uint64_t)UINT32_MAX));
        response[10] = req->status;
        memcpy(response + RESPONSE_HEADER, req->sense, sense);
    }
    iov_from_buf(vreq->elem.in, vreq->elem.in_count, 0, response, RESPONSE_HEADER + scsi->sense_size);
    uint64_t written = RESPONSE_HEADER + scsi->sense_size + (req->in_bytes ? req->moved : 0);
    g_free(vreq->lists);
    virtq_push(&vreq->elem, (uint32_t)written);
    virtq_notify(vq);
    tmf_check_all(scsi);
}

/* The data behind the headers, as lists of their own: the element keeps its. */
static void split_lists(VirtioScsiReq *vreq, uint32_t request, uint32_t response)
{
    VirtqElement *elem = &vreq->elem;
    ScsiRequest *req = &vreq->req;
    struct iovec *out = g_new(struct iovec, elem->out_count + elem->in_count + 1), *in = out + elem->out_count;

    vreq->lists = out;
    memcpy(out, elem->out, elem->out_count * sizeof(*out));
    memcpy(in, elem->in, elem->in_count * sizeof(*in));
    req->out_count = elem->out_count;
    req->in_count = elem->in_count;
    iov_drop_front(&out, &req->out_count, request);
    iov_drop_front(&in, &req->in_count, response);
    req->out = out;
    req->in = in;
    req->out_bytes = elem->out_bytes - request;
    req->in_bytes = elem->in_bytes - response;
}

static void fail_early(VirtioScsiReq *vreq, ScsiEnd end)
{
    vreq->req.end = end;
    request_done(&vreq->req);
}

static void start_request(VirtioScsiReq *vreq)
{
    VirtioScsi *scsi = vreq->scsi;
    VirtqElement *elem = &vreq->elem;
    ScsiRequest *req = &vreq->req;
    uint32_t header = REQUEST_HEADER + scsi->cdb_size, response = RESPONSE_HEADER + scsi->sense_size, target, lun;
    uint8_t bytes[REQUEST_HEADER];

    if (elem->out_bytes < header || elem->in_bytes < response) {
        virtio_break(&scsi->vdev, "a request without header or response");
        virtq_discard(elem);
        return;
    }
    split_lists(vreq, header, response);
    iov_to_buf(elem->out, elem->out_count, 0, bytes, sizeof(bytes));
    iov_to_buf(elem->out, elem->out_count, REQUEST_HEADER, req->cdb, MIN(scsi->cdb_size, (uint32_t)SCSI_CDB_MAX));
    req->tag = ld64_le(bytes + LUN_BYTES);
    req->done = request_done;
    if (!parse_lun(bytes, &target, &lun)) {
        fail_early(vreq, SCSI_NO_TARGET);
    } else if (req->in_bytes && req->out_bytes) { /* no command that a unit knows moves data both ways */
        scsi_check(req, SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
    } else {
        scsi_submit(&scsi->bus, 0, target, lun, req);
    }
}

static void requests_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    VirtioScsiReq *vreq;
    do {
        virtq_set_notification(vq, false);
        while ((vreq = virtq_pop(vq, sizeof(*vreq)))) {
            vreq->scsi = of_vdev(vdev);
            start_request(vreq);
        }
        virtq_set_notification(vq, true);
    } while (!virtq_empty(vq));
}

/* --- task management --- */

static bool tmf_concerns(const ScsiTmf *tmf, const ScsiRequest *req)
{
    return req->dev && req->target == tmf->target && (tmf->whole_target || req->lun == tmf->lun) && req->serial <= tmf->serial &&
           (!tmf->one_task || req->tag == tmf->tag);
}

static unsigned tmf_count(const ScsiTmf *tmf)
{
    unsigned count = 0;
    LIST_FOREACH (req, &tmf->scsi->bus.requests, ScsiRequest, node) {
        count += tmf_concerns(tmf, req);
    }
    return count;
}

static void tmf_answer(ScsiTmf *tmf, uint8_t response)
{
    Virtqueue *vq = tmf->elem.vq;
    iov_from_buf(tmf->elem.in, tmf->elem.in_count, 0, &response, 1);
    list_remove(&tmf->node);
    virtq_push(&tmf->elem, 1);
    virtq_notify(vq);
}

static void tmf_check_all(VirtioScsi *scsi)
{
    LIST_FOREACH_SAFE (tmf, &scsi->management, ScsiTmf, node) {
        if (tmf_count(tmf) == 0) {
            tmf_answer(tmf, S_OK);
        }
    }
}

/* Ends what it concerns, and answers when that has ended. */
static void tmf_end_requests(ScsiTmf *tmf, bool reset)
{
    LIST_FOREACH_SAFE (req, &tmf->scsi->bus.requests, ScsiRequest, node) {
        if (tmf_concerns(tmf, req)) {
            container_of(req, VirtioScsiReq, req)->reset = reset;
            scsi_cancel(req);
        }
    }
    list_append(&tmf->scsi->management, &tmf->node);
    tmf_check_all(tmf->scsi);
}

static void tmf_reset_units(ScsiTmf *tmf)
{
    LIST_FOREACH (device, &tmf->scsi->bus.bus.devices, Device, bus_node) {
        ScsiDevice *dev = container_of(device, ScsiDevice, dev);
        if (dev->id == tmf->target && (tmf->whole_target || dev->lun == tmf->lun)) {
            scsi_reset_unit(dev);
        }
    }
}

static void tmf_run(ScsiTmf *tmf, uint32_t function)
{
    VirtioScsi *scsi = tmf->scsi;

    tmf->one_task = function == TMF_ABORT_TASK || function == TMF_QUERY_TASK;
    tmf->whole_target = function == TMF_NEXUS_RESET;
    if (!scsi_find_target(&scsi->bus, 0, tmf->target)) {
        tmf_answer(tmf, S_BAD_TARGET);
        return;
    }
    if (!tmf->whole_target && !scsi_find(&scsi->bus, 0, tmf->target, tmf->lun)) {
        tmf_answer(tmf, S_INCORRECT_LUN);
        return;
    }
    switch (function) {
    case TMF_ABORT_TASK:
    case TMF_ABORT_TASK_SET:
    case TMF_CLEAR_TASK_SET:
        tmf_end_requests(tmf, false);
        break;
    case TMF_NEXUS_RESET:
    case TMF_UNIT_RESET:
        tmf_reset_units(tmf);
        tmf_end_requests(tmf, true);
        break;
    case TMF_QUERY_TASK:
    case TMF_QUERY_TASK_SET:
        tmf_answer(tmf, tmf_count(tmf) ? S_SUCCEEDED : S_OK);
        break;
    default: /* CLEAR ACA: there is none */
        tmf_answer(tmf, S_REJECTED);
        break;
    }
}

/* Asynchronous notification: no event of these classes is ever sent. */
static void answer_notification(ScsiTmf *tmf)
{
    static const uint8_t reply[5] = { 0 }; /* no event, S_OK */
    Virtqueue *vq = tmf->elem.vq;
    iov_from_buf(tmf->elem.in, tmf->elem.in_count, 0, reply, sizeof(reply));
    virtq_push(&tmf->elem, sizeof(reply));
    virtq_notify(vq);
}

static void start_control(ScsiTmf *tmf)
{
    VirtqElement *elem = &tmf->elem;
    uint8_t bytes[CONTROL_MAX] = { 0 };
    size_t have = iov_to_buf(elem->out, elem->out_count, 0, bytes, sizeof(bytes));
    uint32_t type = ld32_le(bytes);

    if (have < 4 || (type == T_TMF && (have < 24 || elem->in_bytes < 1)) || (type != T_TMF && (have < 16 || elem->in_bytes < 5))) {
        virtio_break(&tmf->scsi->vdev, "a control request that is too short");
        virtq_discard(elem);
        return;
    }
    if (type == T_AN_QUERY || type == T_AN_SUBSCRIBE) {
        answer_notification(tmf);
        return;
    }
    tmf->serial = tmf->scsi->bus.serial;
    tmf->tag = ld64_le(bytes + 16);
    if (type != T_TMF) {
        tmf_answer(tmf, S_FAILURE);
    } else if (!parse_lun(bytes + 8, &tmf->target, &tmf->lun)) {
        tmf_answer(tmf, S_BAD_TARGET);
    } else {
        tmf_run(tmf, ld32_le(bytes + 4));
    }
}

static void control_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    ScsiTmf *tmf;
    while ((tmf = virtq_pop(vq, sizeof(*tmf)))) {
        tmf->scsi = of_vdev(vdev);
        start_control(tmf);
    }
}

/* --- events --- */

static void send_event(VirtioScsi *scsi, const ScsiDevice *dev, uint32_t event, uint32_t reason)
{
    Virtqueue *vq = event_queue(scsi);
    VirtqElement *elem = virtio_ready(&scsi->vdev) ? virtq_pop(vq, sizeof(*elem)) : NULL;
    uint8_t bytes[EVENT_BYTES] = { 0 };

    if (!elem) {
        scsi->events_missed = virtio_ready(&scsi->vdev);
        return;
    }
    if (elem->in_bytes < EVENT_BYTES) {
        virtio_break(&scsi->vdev, "an event buffer that is too small");
        virtq_discard(elem);
        return;
    }
    st32_le(bytes, event | (scsi->events_missed ? EVENTS_MISSED : 0));
    if (dev) {
        put_lun(bytes + 4, dev);
    }
    st32_le(bytes + 12, reason);
    scsi->events_missed = false;
    iov_from_buf(elem->in, elem->in_count, 0, bytes, sizeof(bytes));
    virtq_push(elem, EVENT_BYTES);
    virtq_notify(vq);
}

static void events_notified(VirtioDevice *vdev, Virtqueue *vq)
{
    VirtioScsi *scsi = of_vdev(vdev);
    if (scsi->events_missed) {
        send_event(scsi, NULL, EVENT_NONE, 0);
    }
}

static VirtioScsi *of_bus(ScsiBus *bus)
{
    return container_of(bus, VirtioScsi, bus);
}

static void unit_plugged(ScsiBus *bus, ScsiDevice *dev)
{
    if (virtio_has(&of_bus(bus)->vdev, F_HOTPLUG)) {
        send_event(of_bus(bus), dev, EVENT_TRANSPORT_RESET, RESET_RESCAN);
    }
}

static void unit_unplugged(ScsiBus *bus, ScsiDevice *dev)
{
    if (virtio_has(&of_bus(bus)->vdev, F_HOTPLUG)) {
        send_event(of_bus(bus), dev, EVENT_TRANSPORT_RESET, RESET_REMOVED);
    }
}

static void unit_changed(ScsiBus *bus, ScsiDevice *dev, ScsiSense why)
{
    if (virtio_has(&of_bus(bus)->vdev, F_CHANGE)) {
        send_event(of_bus(bus), dev, EVENT_PARAM_CHANGE, why.asc | (uint32_t)why.ascq << 8);
    }
}

static const ScsiHostOps host_ops = { .plugged = unit_plugged, .unplugged = unit_unplugged, .changed = unit_changed };

/* --- configuration --- */

static void get_config(VirtioDevice *vdev, uint8_t *config)
{
    VirtioScsi *scsi = of_vdev(vdev);
    st32_le(config, scsi->num_queues);
    st32_le(config + 4, scsi->seg_max_adjust ? scsi->queue_size - 2 : 128 - 2);
    st32_le(config + 8, scsi->max_sectors);
    st32_le(config + 12, scsi->cmd_per_lun);
    st32_le(config + 16, EVENT_BYTES);
    st32_le(config + CONFIG_SENSE_AT, scsi->sense_size);
    st32_le(config + CONFIG_CDB_AT, scsi->cdb_size);
    st16_le(config + 28, 0);
    st16_le(config + 30, MAX_TARGET);
    st32_le(config + 32, MAX_LUN);
}

/* The driver may choose other sizes before it uses the queues. */
static void config_written(VirtioDevice *vdev, unsigned offset, unsigned size)
{
    VirtioScsi *scsi = of_vdev(vdev);
    uint32_t sense = ld32_le(vdev->config + CONFIG_SENSE_AT), cdb = ld32_le(vdev->config + CONFIG_CDB_AT);

    if (vdev->status & VIRTIO_DRIVER_OK) {
        return;
    }
    if (sense > SENSE_MAX || cdb > VIRTIO_CONFIG_MAX) {
        virtio_break(vdev, "%u bytes of sense data or %u of CDB are too many", sense, cdb);
        return;
    }
    scsi->sense_size = sense;
    scsi->cdb_size = cdb;
}

/* --- life --- */

static void end_management(VirtioScsi *scsi)
{
    LIST_FOREACH_SAFE (tmf, &scsi->management, ScsiTmf, node) {
        list_remove(&tmf->node);
        virtq_discard(&tmf->elem);
    }
}

static void reset(VirtioDevice *vdev)
{
    VirtioScsi *scsi = of_vdev(vdev);
    scsi_reset_bus(&scsi->bus);
    scsi_drain_bus(&scsi->bus);
    end_management(scsi);
    scsi->sense_size = SENSE_DEFAULT;
    scsi->cdb_size = CDB_DEFAULT;
    scsi->events_missed = false;
}

static void saving(VirtioDevice *vdev)
{
    scsi_drain_bus(&of_vdev(vdev)->bus);
}

static Error *check_limits(VirtioScsi *scsi)
{
    const char *label = device_label(&scsi->vdev.dev);
    if (scsi->num_queues == UINT32_MAX) {
        scsi->num_queues = MIN(scsi->vdev.dev.machine->config->cpus, (unsigned)VIRTIO_QUEUE_MAX - FIXED_QUEUES);
    }
    if (scsi->num_queues == 0 || scsi->num_queues > VIRTIO_QUEUE_MAX - FIXED_QUEUES) {
        return error_new("%s: num_queues must be 1 to %d", label, VIRTIO_QUEUE_MAX - FIXED_QUEUES);
    }
    if (!IS_POW2(scsi->queue_size) || scsi->queue_size < 4 || scsi->queue_size > VIRTIO_QUEUE_SIZE_MAX) {
        return error_new("%s: virtqueue_size must be a power of two from 4 to %d", label, VIRTIO_QUEUE_SIZE_MAX);
    }
    return NULL;
}

static Error *plug(VirtioDevice *vdev)
{
    VirtioScsi *scsi = of_vdev(vdev);

    TRY(check_limits(scsi));
    list_init(&scsi->management);
    scsi->sense_size = SENSE_DEFAULT;
    scsi->cdb_size = CDB_DEFAULT;
    scsi_bus_init(&scsi->bus, vdev->dev.machine, &vdev->dev, &host_ops, 0, MAX_TARGET, MAX_LUN);
    scsi->bus.bus.hotplug = true;
    scsi->bus.queueing = true;
    vdev->host_features = (scsi->hotplug ? BIT64(F_HOTPLUG) : 0) | (scsi->param_change ? BIT64(F_CHANGE) : 0);
    virtio_add_queue(vdev, (uint16_t)scsi->queue_size, control_notified);
    virtio_add_queue(vdev, (uint16_t)scsi->queue_size, events_notified);
    for (unsigned i = 0; i < scsi->num_queues; i++) {
        virtio_add_queue(vdev, (uint16_t)scsi->queue_size, requests_notified);
    }
    TRY(virtio_set_iothread(vdev, scsi->iothread));
    scsi->bus.loop = virtio_loop(vdev);
    return NULL;
}

/* The units went before. */
static void unplug(VirtioDevice *vdev)
{
    VirtioScsi *scsi = of_vdev(vdev);
    if (list_linked(&scsi->management.head)) {
        end_management(scsi);
    }
}

static const VirtioKind kind = { .name = "virtio-scsi", .id = VIRTIO_ID_SCSI, .config_size = CONFIG, .plug = plug, .unplug = unplug,
                                 .reset = reset, .saving = saving, .get_config = get_config, .config_written = config_written };

static const Prop props[] = {
    PROP_LINK("iothread", VirtioScsi, iothread, iothread_type, .help = "Thread that looks after the queues and the images of the units"),
    PROP_U32("num_queues", VirtioScsi, num_queues, UINT32_MAX, .help = "Request queues; unset: one a CPU"),
    PROP_U32("virtqueue_size", VirtioScsi, queue_size, 256, .help = "Entries of a queue, a power of two"),
    PROP_U32("max_sectors", VirtioScsi, max_sectors, 0xffff, .help = "Sectors of 512 bytes that a request may move"),
    PROP_U32("cmd_per_lun", VirtioScsi, cmd_per_lun, 128, .help = "Requests at once to a unit"),
    PROP_BOOL("hotplug", VirtioScsi, hotplug, true, .help = "Tell the guest about units that come and go"),
    PROP_BOOL("param_change", VirtioScsi, param_change, true, .help = "Tell the guest when a unit's size changes"),
    PROP_BOOL("seg_max_adjust", VirtioScsi, seg_max_adjust, true, .help = "Segments of a request by the size of the queues"),
    { 0 },
};

static const StateField state[] = {
    VIRTIO_STATE(VirtioScsi),
    STATE_RANGE(VirtioScsi, sense_size, 0, SENSE_MAX),
    STATE_RANGE(VirtioScsi, cdb_size, 0, VIRTIO_CONFIG_MAX),
    STATE_BOOL(VirtioScsi, events_missed),
    STATE_NOT(VirtioScsi, bus, "made by plug; the units save themselves"),
    STATE_NOT(VirtioScsi, management, "finished before saving"),
    { 0 },
};

VIRTIO_PCI_DEVICE(virtio_scsi, "virtio-scsi", "virtio-scsi", kind, VirtioScsi, props, state, DEV_STORAGE, "Virtio SCSI adapter",
                  virtio_pci_ident_scsi);
