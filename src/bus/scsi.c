/*
 * The SCSI bus: places of logical units, the life of requests, what every target answers.
 *
 * SAM-5 5 and 6 (task management), SPC-4 6.33 (REPORT LUNS). Missing: ordered and head-of-queue tasks (a unit may
 * reorder as it likes), ACA, well-known logical units.
 */
#include "bus/scsi.h"

#include <string.h>

#include "base/endian.h"

enum { OP_REQUEST_SENSE = 0x03, OP_INQUIRY = 0x12, OP_REPORT_LUNS = 0xa0 };
/* Peripheral qualifier and type of a LUN without a unit: it could have one (LUN 0), or not. */
enum { PERIPHERAL_ABSENT = 0x3f, PERIPHERAL_IMPOSSIBLE = 0x7f };
enum { REPORT_LUNS_HEADER = 8 };

static const Prop scsi_device_props[] = {
    PROP_U32("channel", ScsiDevice, channel, 0, .help = "Channel of the host adapter"),
    PROP_U32("scsi-id", ScsiDevice, id, UINT32_MAX, .help = "Target number; unset: the first that is free"),
    PROP_U32("lun", ScsiDevice, lun, UINT32_MAX, .help = "Logical unit of the target; unset: the first that is free"),
    { 0 },
};
const ObjectType scsi_device_object_type = {
    .name = "scsi-device", .parent = &device_object_type, .size = sizeof(ScsiDevice), .abstract = true, .props = scsi_device_props,
};

static const StateField sense_state[] = { STATE_U8(ScsiSense, key), STATE_U8(ScsiSense, asc), STATE_U8(ScsiSense, ascq), { 0 } };
const StateField scsi_device_state[] = {
    STATE_STRUCT_ARRAY(ScsiDevice, attention, sense_state),
    STATE_NOT(ScsiDevice, bus, "where it sits"), STATE_NOT(ScsiDevice, channel, "a property"), STATE_NOT(ScsiDevice, id, "a property"),
    STATE_NOT(ScsiDevice, lun, "a property"),
    { 0 },
};

static const ScsiDeviceOps *ops_of(const ScsiDevice *dev)
{
    return device_type(&dev->dev)->extra;
}

static ScsiDevice *of_dev(Device *dev)
{
    return container_of(dev, ScsiDevice, dev);
}

/* --- places --- */

ScsiDevice *scsi_find(ScsiBus *bus, uint32_t channel, uint32_t target, uint32_t lun)
{
    LIST_FOREACH (dev, &bus->bus.devices, Device, bus_node) {
        ScsiDevice *scsi = of_dev(dev);
        if (scsi->channel == channel && scsi->id == target && scsi->lun == lun) {
            return scsi;
        }
    }
    return NULL;
}

ScsiDevice *scsi_find_target(ScsiBus *bus, uint32_t channel, uint32_t target)
{
    LIST_FOREACH (dev, &bus->bus.devices, Device, bus_node) {
        ScsiDevice *scsi = of_dev(dev);
        if (scsi->channel == channel && scsi->id == target) {
            return scsi;
        }
    }
    return NULL;
}

static Error *choose_target(ScsiBus *bus, ScsiDevice *dev)
{
    dev->lun = dev->lun == UINT32_MAX ? 0 : dev->lun;
    for (dev->id = 0; dev->id <= bus->max_target; dev->id++) {
        if (dev->id != bus->own_target && !scsi_find(bus, dev->channel, dev->id, dev->lun)) {
            return NULL;
        }
    }
    return error_new("%s: every target of '%s' has a unit %u already", device_label(&dev->dev), bus->bus.name, dev->lun);
}

static Error *choose_lun(ScsiBus *bus, ScsiDevice *dev)
{
    for (dev->lun = 0; dev->lun <= bus->max_lun; dev->lun++) {
        if (!scsi_find(bus, dev->channel, dev->id, dev->lun)) {
            return NULL;
        }
    }
    return error_new("%s: target %u of '%s' has no unit number left", device_label(&dev->dev), dev->id, bus->bus.name);
}

static Error *check_number(const ScsiDevice *dev, const char *what, uint32_t number, uint32_t max)
{
    if (number != UINT32_MAX && number > max) {
        return error_new("%s: %s=%u is too large for '%s' (at most %u)", device_label(&dev->dev), what, number, dev->bus->bus.name, max);
    }
    return NULL;
}

static Error *choose_place(ScsiBus *bus, ScsiDevice *dev)
{
    TRY(check_number(dev, "channel", dev->channel, bus->max_channel));
    TRY(check_number(dev, "scsi-id", dev->id, bus->max_target));
    TRY(check_number(dev, "lun", dev->lun, bus->max_lun));
    if (dev->id == UINT32_MAX) {
        return choose_target(bus, dev);
    }
    if (dev->id == bus->own_target) {
        return error_new("%s: scsi-id=%u is the adapter's own", device_label(&dev->dev), dev->id);
    }
    if (dev->lun == UINT32_MAX) {
        return choose_lun(bus, dev);
    }
    ScsiDevice *there = scsi_find(bus, dev->channel, dev->id, dev->lun);
    if (there) {
        return error_new("%s: lun %u of target %u is taken by '%s'", device_label(&dev->dev), dev->lun, dev->id, device_label(&there->dev));
    }
    return NULL;
}

static Error *attach(Bus *base, Device *device)
{
    ScsiBus *bus = container_of(base, ScsiBus, bus);
    ScsiDevice *dev = of_dev(device);
    dev->bus = bus;
    return choose_place(bus, dev);
}

/* The other units of a target tell that its list of units is another now. */
static void luns_changed(ScsiBus *bus, const ScsiDevice *changed)
{
    LIST_FOREACH (node, &bus->bus.devices, Device, bus_node) {
        ScsiDevice *dev = of_dev(node);
        if (dev != changed && dev->channel == changed->channel && dev->id == changed->id) {
            scsi_attention(dev, ASC_TARGET_CHANGED, 0x0e);
        }
    }
}

static void detach(Bus *base, Device *device)
{
    ScsiBus *bus = container_of(base, ScsiBus, bus);
    ScsiDevice *dev = of_dev(device);
    if (!device->object.realized) { /* nobody saw it */
        return;
    }
    luns_changed(bus, dev);
    if (bus->ops->unplugged) {
        bus->ops->unplugged(bus, dev);
    }
}

void scsi_device_plugged(ScsiDevice *dev)
{
    luns_changed(dev->bus, dev);
    if (dev->bus->ops->plugged) {
        dev->bus->ops->plugged(dev->bus, dev);
    }
}

static char *device_path(Device *device)
{
    ScsiDevice *dev = of_dev(device);
    return g_strdup_printf("channel@%x/disk@%x,%x", dev->channel, dev->id, dev->lun);
}

const BusType scsi_bus_type = { .name = "SCSI", .attach = attach, .detach = detach, .device_path = device_path };

void scsi_bus_init(ScsiBus *bus, Machine *machine, Device *parent, const ScsiHostOps *ops, uint32_t max_channel, uint32_t max_target,
                   uint32_t max_lun)
{
    bus_init(&bus->bus, &scsi_bus_type, machine, parent, NULL);
    bus->ops = ops;
    bus->max_channel = max_channel;
    bus->max_target = max_target;
    bus->max_lun = max_lun;
    bus->own_target = UINT32_MAX;
    bus->queueing = false;
    bus->loop = NULL;
    bus->serial = 0;
    list_init(&bus->requests);
}

/* --- ends of a request --- */

void scsi_complete(ScsiRequest *req, uint8_t status)
{
    if (req->cancelled) {
        req->end = SCSI_CANCELLED;
    }
    req->status = status;
    list_remove(&req->node);
    g_clear_pointer(&req->buffer, g_free);
    g_clear_pointer(&req->iov, g_free);
    req->done(req);
}

void scsi_good(ScsiRequest *req)
{
    scsi_complete(req, SCSI_GOOD);
}

/* Fixed format, current (SPC-4, 4.5.3). */
static void put_sense(uint8_t *sense, uint8_t key, uint8_t asc, uint8_t ascq)
{
    memset(sense, 0, SCSI_SENSE_BYTES);
    sense[0] = 0x70;
    sense[2] = key;
    sense[7] = SCSI_SENSE_BYTES - 8;
    sense[12] = asc;
    sense[13] = ascq;
}

void scsi_check(ScsiRequest *req, uint8_t key, uint8_t asc, uint8_t ascq)
{
    put_sense(req->sense, key, asc, ascq);
    req->sense_length = SCSI_SENSE_BYTES;
    scsi_complete(req, SCSI_CHECK_CONDITION);
}

static void end_early(ScsiRequest *req, ScsiEnd end)
{
    req->end = end;
    scsi_complete(req, SCSI_GOOD);
}

void scsi_return(ScsiRequest *req)
{
    end_early(req, SCSI_RETURNED);
}

/* --- data --- */

typedef struct Cursor {
    const struct iovec *iov;
    unsigned count;
    size_t skip;
} Cursor;

/* The next piece of at most `want` bytes; 0: the list is at its end. */
static size_t cursor_next(Cursor *at, size_t want, void **ret_base)
{
    while (at->count && at->skip >= at->iov->iov_len) {
        at->skip -= at->iov->iov_len;
        at->iov++;
        at->count--;
    }
    if (!at->count || want == 0) {
        return 0;
    }
    size_t part = MIN(want, at->iov->iov_len - at->skip);
    *ret_base = (uint8_t *)at->iov->iov_base + at->skip;
    at->skip += part;
    return part;
}

void scsi_reply(ScsiRequest *req, const void *data, uint64_t length, uint64_t allocated)
{
    Cursor at = { req->in, req->in_count, 0 };
    uint64_t wanted = MIN(length, allocated), done = 0;
    void *base;
    for (size_t part; (part = cursor_next(&at, wanted - done, &base)); done += part) {
        memcpy(base, (const uint8_t *)data + done, part);
    }
    req->moved = done;
    scsi_good(req);
}

uint64_t scsi_take(ScsiRequest *req, void *buf, uint64_t length)
{
    Cursor at = { req->out, req->out_count, 0 };
    uint64_t done = 0;
    void *base;
    for (size_t part; (part = cursor_next(&at, length - done, &base)); done += part) {
        memcpy((uint8_t *)buf + done, base, part);
    }
    req->moved = done;
    return done;
}

void scsi_cut(ScsiRequest *req, uint64_t offset, uint64_t bytes, bool to_device)
{
    Cursor at = { to_device ? req->out : req->in, to_device ? req->out_count : req->in_count, offset };
    uint64_t done = 0;
    void *base;
    g_free(req->iov);
    req->iov = g_new(struct iovec, MAX(at.count, 1u));
    req->iov_count = 0;
    for (size_t part; (part = cursor_next(&at, bytes - done, &base)); done += part) {
        req->iov[req->iov_count++] = (struct iovec) { base, part };
    }
}

/* --- attentions --- */

void scsi_attention(ScsiDevice *dev, uint8_t asc, uint8_t ascq)
{
    ScsiSense sense = { SENSE_ATTENTION, asc, ascq };

    if (asc == ASC_RESET) { /* says more than whatever was pending */
        memset(dev->attention, 0, sizeof(dev->attention));
    }
    for (unsigned i = 0; i < SCSI_ATTENTIONS; i++) {
        if (!dev->attention[i].key) {
            dev->attention[i] = sense;
            return;
        }
        if (dev->attention[i].asc == asc && dev->attention[i].ascq == ascq) {
            return;
        }
    }
}

static ScsiSense take_attention(ScsiDevice *dev)
{
    ScsiSense sense = dev->attention[0];
    memmove(dev->attention, dev->attention + 1, sizeof(dev->attention) - sizeof(dev->attention[0]));
    dev->attention[SCSI_ATTENTIONS - 1] = (ScsiSense) { 0 };
    return sense;
}

void scsi_changed(ScsiDevice *dev, uint8_t asc, uint8_t ascq)
{
    scsi_attention(dev, asc, ascq);
    if (dev->dev.plugged && dev->bus->ops->changed) {
        dev->bus->ops->changed(dev->bus, dev, (ScsiSense) { SENSE_ATTENTION, asc, ascq });
    }
}

static bool passes_attention(uint8_t opcode)
{
    return opcode == OP_INQUIRY || opcode == OP_REPORT_LUNS || opcode == OP_REQUEST_SENSE || opcode == 0x46 ||
           opcode == 0x4a; /* GET CONFIGURATION, GET EVENT STATUS NOTIFICATION */
}

/* --- commands to the target --- */

static void put_lun(uint8_t *at, uint32_t lun)
{
    memset(at, 0, SCSI_LUN_BYTES);
    if (lun >= 256) { /* flat space addressing */
        at[0] = 0x40 | (uint8_t)(lun >> 8);
    }
    at[1] = (uint8_t)lun;
}

static int compare_luns(const void *a, const void *b)
{
    return memcmp(a, b, SCSI_LUN_BYTES);
}

/* LUN 0 is always listed: it answers. */
static void report_luns(ScsiRequest *req)
{
    uint32_t allocated = ld32_be(req->cdb + 6);
    uint8_t lun[SCSI_LUN_BYTES] = { 0 };

    if (req->cdb[2] > 2 || allocated < 16) {
        scsi_check(req, SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
        return;
    }
    g_autoptr(GByteArray) reply = g_byte_array_new();
    g_byte_array_append(reply, lun, sizeof(lun));
    if (req->cdb[2] != 1) { /* 1: only well-known ones, and there are none */
        g_byte_array_append(reply, lun, sizeof(lun));
        LIST_FOREACH (node, &req->bus->bus.devices, Device, bus_node) {
            ScsiDevice *dev = of_dev(node);
            if (dev->channel == req->channel && dev->id == req->target && dev->lun != 0) {
                put_lun(lun, dev->lun);
                g_byte_array_append(reply, lun, sizeof(lun));
            }
        }
        qsort(reply->data + REPORT_LUNS_HEADER, reply->len / SCSI_LUN_BYTES - 1, SCSI_LUN_BYTES, compare_luns);
    }
    st32_be(reply->data, reply->len - REPORT_LUNS_HEADER);
    scsi_reply(req, reply->data, reply->len, allocated);
}

/* A LUN without a unit, at a target that has others (SPC-4, 6.6.2 and 6.39). */
static void absent_unit(ScsiRequest *req)
{
    uint8_t reply[36] = { 0 };

    switch (req->cdb[0]) {
    case OP_INQUIRY:
        if (req->cdb[1] & 1) {
            scsi_check(req, SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
            return;
        }
        reply[0] = req->lun == 0 ? PERIPHERAL_ABSENT : PERIPHERAL_IMPOSSIBLE;
        reply[2] = 5;
        reply[3] = 0x12;
        reply[4] = sizeof(reply) - 5;
        reply[7] = req->bus->queueing ? 0x12 : 0x10;
        memcpy(reply + 8, "QEMU    QEMU TARGET     ", 24);
        memcpy(reply + 32, "1.0 ", 4);
        scsi_reply(req, reply, sizeof(reply), ld16_be(req->cdb + 3));
        break;
    case OP_REQUEST_SENSE:
        put_sense(reply, req->lun == 0 ? SENSE_NONE : SENSE_ILLEGAL, req->lun == 0 ? 0 : ASC_INVALID_LUN, 0);
        scsi_reply(req, reply, SCSI_SENSE_BYTES, req->cdb[4]);
        break;
    case 0x00: /* TEST UNIT READY of the target itself */
        if (req->lun == 0) {
            scsi_good(req);
            break;
        }
        scsi_check(req, SENSE_ILLEGAL, ASC_INVALID_LUN, 0);
        break;
    default:
        scsi_check(req, SENSE_ILLEGAL, ASC_INVALID_LUN, 0);
        break;
    }
}

/* What REQUEST SENSE tells when status carried all sense data: a pending attention, or nothing. */
static void request_sense(ScsiRequest *req)
{
    ScsiSense sense = req->dev->attention[0].key ? take_attention(req->dev) : (ScsiSense) { 0 };
    uint8_t reply[SCSI_SENSE_BYTES] = { 0 };

    if (req->cdb[1] & 1) { /* descriptor format */
        reply[0] = 0x72;
        reply[1] = sense.key;
        reply[2] = sense.asc;
        reply[3] = sense.ascq;
        scsi_reply(req, reply, 8, req->cdb[4]);
        return;
    }
    put_sense(reply, sense.key, sense.asc, sense.ascq);
    scsi_reply(req, reply, sizeof(reply), req->cdb[4]);
}

/* --- requests --- */

static bool common_transfer(const uint8_t *cdb, uint64_t *ret_bytes, bool *ret_to_device)
{
    *ret_to_device = false;
    switch (cdb[0]) {
    case OP_INQUIRY:
        *ret_bytes = ld16_be(cdb + 3);
        return true;
    case OP_REQUEST_SENSE:
        *ret_bytes = cdb[4];
        return true;
    case OP_REPORT_LUNS:
        *ret_bytes = ld32_be(cdb + 6);
        return true;
    default:
        return false;
    }
}

static bool device_transfer(ScsiDevice *dev, const uint8_t *cdb, uint64_t *ret_bytes, bool *ret_to_device)
{
    return common_transfer(cdb, ret_bytes, ret_to_device) || (dev && ops_of(dev)->transfer(dev, cdb, ret_bytes, ret_to_device));
}

bool scsi_transfer(ScsiBus *bus, uint32_t channel, uint32_t target, uint32_t lun, const uint8_t *cdb, uint64_t *ret_bytes,
                   bool *ret_to_device)
{
    return device_transfer(scsi_find(bus, channel, target, lun), cdb, ret_bytes, ret_to_device);
}

/* An allocation length counts, too, although the reply may be shorter. */
static bool overruns(const ScsiRequest *req)
{
    uint64_t bytes = 0;
    bool to_device = false;
    return device_transfer(req->dev, req->cdb, &bytes, &to_device) && bytes > (to_device ? req->out_bytes : req->in_bytes);
}

void scsi_submit(ScsiBus *bus, uint32_t channel, uint32_t target, uint32_t lun, ScsiRequest *req)
{
    req->bus = bus;
    req->channel = channel;
    req->target = target;
    req->lun = lun;
    req->serial = ++bus->serial;
    req->dev = scsi_find(bus, channel, target, lun);
    list_append(&bus->requests, &req->node);
    if (!req->dev && !scsi_find_target(bus, channel, target)) {
        end_early(req, SCSI_NO_TARGET);
    } else if (overruns(req)) {
        end_early(req, SCSI_OVERRUN);
    } else if (req->dev && req->dev->attention[0].key && !passes_attention(req->cdb[0])) {
        ScsiSense sense = take_attention(req->dev);
        scsi_check(req, sense.key, sense.asc, sense.ascq);
    } else if (req->cdb[0] == OP_REPORT_LUNS) {
        report_luns(req);
    } else if (!req->dev) {
        absent_unit(req);
    } else if (req->cdb[0] == OP_REQUEST_SENSE) {
        request_sense(req);
    } else {
        ops_of(req->dev)->command(req);
    }
}

void scsi_cancel(ScsiRequest *req)
{
    if (!req->cancelled) {
        req->cancelled = true;
        ops_of(req->dev)->cancel(req);
    }
}

unsigned scsi_cdb_length(const uint8_t *cdb)
{
    static const uint8_t by_group[8] = { 6, 10, 10, 0, 16, 12, 0, 0 };
    return by_group[cdb[0] >> 5];
}

/* --- resets --- */

static void cancel_all(ScsiBus *bus, const ScsiDevice *dev)
{
    for (ListNode *node = bus->requests.head.next, *next; node != &bus->requests.head; node = next) {
        ScsiRequest *req = container_of(node, ScsiRequest, node);
        next = node->next;
        if (req->dev == dev) {
            scsi_cancel(req);
        }
    }
}

void scsi_reset_unit(ScsiDevice *dev)
{
    cancel_all(dev->bus, dev);
    ops_of(dev)->reset(dev);
    scsi_attention(dev, ASC_RESET, 0);
}

void scsi_reset_bus(ScsiBus *bus)
{
    LIST_FOREACH (dev, &bus->bus.devices, Device, bus_node) {
        scsi_reset_unit(of_dev(dev));
    }
}

void scsi_drain_bus(ScsiBus *bus)
{
    LIST_FOREACH (dev, &bus->bus.devices, Device, bus_node) {
        ops_of(of_dev(dev))->drain(of_dev(dev));
    }
}
