#include "rng/rng.h"

#include <errno.h>
#include <sys/random.h>

/* --- the host kernel's generator --- */

static size_t builtin_read(RngSource *source, void *buf, size_t size, int *ret_wait_fd)
{
    /* Up to 256 bytes a call cannot be interrupted; larger ones may come short, which is no error. */
    ssize_t got = getrandom(buf, size, 0);
    *ret_wait_fd = -1;
    return got > 0 ? (size_t)got : 0;
}

static bool in_use(const Object *obj)
{
    return ((const RngSource *)obj)->readers > 0;
}

const ObjectType rng_source_type = { .name = "rng-backend", .size = sizeof(RngSource), .abstract = true, .in_use = in_use };

static const RngSourceType builtin_type = {
    .object = { .name = "rng-builtin", .parent = &rng_source_type, .size = sizeof(RngSource) },
    .read = builtin_read,
};
OBJECT_REGISTER(&builtin_type.object);

/* --- readers --- */

void rng_reader_init(RngReader *reader, RngSource *source, Loop *loop, void (*ready)(void *opaque), void *opaque)
{
    *reader = (RngReader){ .source = source, .loop = loop, .wait_fd = -1, .ready = ready, .opaque = opaque };
    if (source) {
        source->readers++;
    }
}

static void stop_waiting(RngReader *reader)
{
    if (reader->wait) {
        loop_del_fd(reader->wait);
        reader->wait = NULL;
    }
}

void rng_reader_fini(RngReader *reader)
{
    if (!reader->loop) {
        return;
    }
    stop_waiting(reader);
    if (reader->source) {
        reader->source->readers--;
    }
    *reader = (RngReader){ 0 };
}

static void can_read(void *opaque, unsigned events)
{
    RngReader *reader = opaque;
    stop_waiting(reader);
    reader->ready(reader->opaque);
}

size_t rng_read(RngReader *reader, void *buf, size_t size)
{
    const RngSourceType *type = reader->source ? container_of(reader->source->object.type, const RngSourceType, object)
                                               : &builtin_type;
    int wait_fd;
    size_t got = type->read(reader->source, buf, size, &wait_fd);

    if (got == 0 && wait_fd >= 0 && !reader->wait) {
        reader->wait = loop_add_fd(reader->loop, wait_fd, LOOP_READ, can_read, reader);
    }
    return got;
}
