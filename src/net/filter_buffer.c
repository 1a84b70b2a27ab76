/* -object filter-buffer: holds frames back and releases them together at the end of each interval. */
#include "net/filter.h"

enum { BUFFERED_MAX = 4096 };

typedef struct Buffered {
    bool sent;
    GBytes *frame;
} Buffered;

typedef struct FilterBuffer {
    NetFilter filter;
    uint32_t interval; /* us */
    GQueue frames;     /* Buffered * */
    Timer timer;
} FilterBuffer;

static void buffered_free(gpointer data)
{
    Buffered *buffered = data;
    g_bytes_unref(buffered->frame);
    g_free(buffered);
}

static void release(FilterBuffer *buffer)
{
    /* What is answered meanwhile waits for the next interval. */
    for (guint left = g_queue_get_length(&buffer->frames); left; left--) {
        Buffered *buffered = g_queue_pop_head(&buffer->frames);
        gsize length;
        const uint8_t *frame = g_bytes_get_data(buffered->frame, &length);
        net_filter_pass(&buffer->filter, buffered->sent, frame, length);
        buffered_free(buffered);
    }
}

static bool buffer_take(NetFilter *filter, bool sent, const uint8_t *frame, size_t length)
{
    FilterBuffer *buffer = (FilterBuffer *)filter;

    if (g_queue_get_length(&buffer->frames) < BUFFERED_MAX) {
        Buffered *buffered = g_new0(Buffered, 1);
        *buffered = (Buffered){ sent, g_bytes_new(frame, length) };
        g_queue_push_tail(&buffer->frames, buffered);
    }
    return true;
}

static void arm(FilterBuffer *buffer)
{
    Clocks *clocks = buffer->filter.port->machine->clocks;
    timer_set(&buffer->timer, clock_now(clocks, CLOCK_VIRTUAL) + (int64_t)buffer->interval * NS_PER_US);
}

static void interval_over(void *opaque)
{
    FilterBuffer *buffer = opaque;

    release(buffer);
    arm(buffer);
}

static void buffer_status_changed(NetFilter *filter)
{
    FilterBuffer *buffer = (FilterBuffer *)filter;

    if (filter->on) {
        arm(buffer);
    } else {
        timer_cancel(&buffer->timer);
        release(buffer);
    }
}

static Error *buffer_complete(Object *object)
{
    FilterBuffer *buffer = (FilterBuffer *)object;

    if (buffer->interval == 0) {
        return error_new("interval= is missing: the microseconds that frames are held back");
    }
    TRY(net_filter_attach(&buffer->filter));
    timer_init(&buffer->timer, buffer->filter.port->machine->loop, CLOCK_VIRTUAL, interval_over, buffer);
    if (buffer->filter.on) {
        arm(buffer);
    }
    return NULL;
}

static void buffer_finalize(Object *object)
{
    FilterBuffer *buffer = (FilterBuffer *)object;

    timer_fini(&buffer->timer);
    if (buffer->filter.port) {
        release(buffer);
    }
    g_queue_clear_full(&buffer->frames, buffered_free);
    net_filter_detach(&buffer->filter);
}

static const Prop props[] = { PROP_U32("interval", FilterBuffer, interval, 0, .help = "microseconds"), { 0 } };
static const NetFilterType type = {
    .object = { .name = "filter-buffer", .parent = &net_filter_object_type, .size = sizeof(FilterBuffer), .late = true, .props = props,
                .complete = buffer_complete, .finalize = buffer_finalize },
    .take = buffer_take,
    .status_changed = buffer_status_changed,
};
OBJECT_REGISTER(&type.object);
