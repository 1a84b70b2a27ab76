/*
 * -object filter-mirror: copies of frames go to a chardev. -object filter-redirector: frames go to one chardev instead of on
 * their way, and those of another take their place. On chardevs each frame is preceded by its length, 32 bits, big-endian, and with
 * vnet_hdr_support by the length of its virtio header, which is 0 here.
 */
#include <string.h>

#include "base/endian.h"
#include "net/filter.h"

enum { WORD = 4, HEAD_MAX = 2 * WORD, PENDING_MAX = 4 << 20 };

typedef struct FilterMirror {
    NetFilter filter;
    char *indev, *outdev;
    bool vnet_header;
    CharFront in, out;
    size_t have;
    uint8_t message[HEAD_MAX + NET_FRAME_MAX]; /* of indev, as far as it came */
} FilterMirror;

static size_t head_size(const FilterMirror *mirror)
{
    return mirror->vnet_header ? HEAD_MAX : WORD;
}

/* What nobody reads in time is lost frame by frame. */
static void send_out(FilterMirror *mirror, const uint8_t *frame, size_t length)
{
    uint8_t head[HEAD_MAX] = { 0 };

    if (char_front_connected(&mirror->out) && char_pending(&mirror->out) < PENDING_MAX) {
        st32_be(head, (uint32_t)length);
        char_write_all(&mirror->out, head, head_size(mirror));
        char_write_all(&mirror->out, frame, length);
    }
}

static bool mirror_take(NetFilter *filter, bool sent, const uint8_t *frame, size_t length)
{
    send_out((FilterMirror *)filter, frame, length);
    return false;
}

static bool redirector_take(NetFilter *filter, bool sent, const uint8_t *frame, size_t length)
{
    FilterMirror *mirror = (FilterMirror *)filter;

    if (!mirror->outdev) {
        return false;
    }
    send_out(mirror, frame, length);
    return true;
}

/* --- frames that come in --- */

static void pass_in(FilterMirror *mirror, const uint8_t *frame, size_t length)
{
    if (mirror->filter.queue != NET_FILTER_RX) {
        net_filter_pass(&mirror->filter, true, frame, length);
    }
    if (mirror->filter.queue != NET_FILTER_TX) {
        net_filter_pass(&mirror->filter, false, frame, length);
    }
}

/* The bytes that the message under way lacks. */
static size_t lacking(const FilterMirror *mirror)
{
    size_t head = head_size(mirror);
    return mirror->have < head ? head - mirror->have : head + ld32_be(mirror->message) - mirror->have;
}

static size_t in_room(void *opaque)
{
    return NET_FRAME_MAX;
}

static void in_received(void *opaque, const uint8_t *bytes, size_t length)
{
    FilterMirror *mirror = opaque;
    size_t head = head_size(mirror);

    while (length) {
        size_t part = MIN(lacking(mirror), length);
        memcpy(mirror->message + mirror->have, bytes, part);
        mirror->have += part;
        bytes += part;
        length -= part;
        if (mirror->have == head && ld32_be(mirror->message) > NET_FRAME_MAX) {
            mirror->have = 0;
            char_disconnect(&mirror->in); /* no length of a frame: it speaks something else */
            return;
        }
        if (mirror->have >= head && lacking(mirror) == 0) {
            uint32_t skip = mirror->vnet_header ? ld32_be(mirror->message + WORD) : 0, total = ld32_be(mirror->message);
            mirror->have = 0;
            if (skip < total) {
                pass_in(mirror, mirror->message + head + skip, total - skip);
            }
        }
    }
}

static void in_event(void *opaque, CharEvent event)
{
    if (event == CHAR_EVENT_OPENED || event == CHAR_EVENT_CLOSED) {
        ((FilterMirror *)opaque)->have = 0;
    }
}

static const CharFrontOps in_ops = { .can_receive = in_room, .receive = in_received, .event = in_event };
static const CharFrontOps out_ops = { .can_receive = NULL };

/* --- life --- */

static Error *attach_chardev(FilterMirror *mirror, CharFront *front, const char *id, const CharFrontOps *ops)
{
    Chardevs *set = machine_service(mirror->filter.port->machine, "chardevs");
    Chardev *chr = set ? chardev_find(set, id) : NULL;

    if (!chr) {
        return error_new("there is no chardev '%s'", id);
    }
    TRY(char_front_attach(front, chr));
    char_front_open(front, ops, mirror);
    return NULL;
}

static Error *mirror_complete(Object *object)
{
    FilterMirror *mirror = (FilterMirror *)object;

    if (!mirror->outdev) {
        return error_new("outdev= is missing: the chardev that copies go to");
    }
    TRY(net_filter_attach(&mirror->filter));
    return attach_chardev(mirror, &mirror->out, mirror->outdev, &out_ops);
}

static Error *redirector_complete(Object *object)
{
    FilterMirror *mirror = (FilterMirror *)object;

    if (!mirror->indev && !mirror->outdev) {
        return error_new("indev= or outdev= is missing: where frames come from and go to");
    }
    if (!g_strcmp0(mirror->indev, mirror->outdev)) {
        return error_new("indev= and outdev= must be two chardevs");
    }
    TRY(net_filter_attach(&mirror->filter));
    if (mirror->outdev) {
        TRY(attach_chardev(mirror, &mirror->out, mirror->outdev, &out_ops));
    }
    return mirror->indev ? attach_chardev(mirror, &mirror->in, mirror->indev, &in_ops) : NULL;
}

static void mirror_finalize(Object *object)
{
    FilterMirror *mirror = (FilterMirror *)object;

    char_front_close(&mirror->in);
    char_front_close(&mirror->out);
    net_filter_detach(&mirror->filter);
}

#define OUTDEV PROP_STR("outdev", FilterMirror, outdev, .help = "ID of the chardev that frames go to")
#define VNET PROP_BOOL("vnet_hdr_support", FilterMirror, vnet_header, false, .help = "with the length of a virtio header")
static const Prop mirror_props[] = { OUTDEV, VNET, { 0 } };
static const Prop redirector_props[] = {
    PROP_STR("indev", FilterMirror, indev, .help = "ID of the chardev that frames come from"), OUTDEV, VNET, { 0 },
};
static const NetFilterType mirror_type = {
    .object = { .name = "filter-mirror", .parent = &net_filter_object_type, .size = sizeof(FilterMirror), .late = true,
                .props = mirror_props, .complete = mirror_complete, .finalize = mirror_finalize },
    .take = mirror_take,
};
static const NetFilterType redirector_type = {
    .object = { .name = "filter-redirector", .parent = &net_filter_object_type, .size = sizeof(FilterMirror), .late = true,
                .props = redirector_props, .complete = redirector_complete, .finalize = mirror_finalize },
    .take = redirector_take,
};
OBJECT_REGISTER(&mirror_type.object);
OBJECT_REGISTER(&redirector_type.object);
