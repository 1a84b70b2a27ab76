/* rng-random: a character device such as /dev/urandom or /dev/hwrng, a pipe or a file. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "rng/rng.h"

typedef struct RngRandom {
    RngSource source;
    char *filename;
    int fd;
} RngRandom;

static Error *complete(Object *obj)
{
    RngRandom *random = (RngRandom *)obj;

    random->fd = open(random->filename, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    return random->fd < 0 ? error_new_errno(errno, "Could not open '%s'", random->filename) : NULL;
}

static void finalize(Object *obj)
{
    RngRandom *random = (RngRandom *)obj;
    if (random->fd > 0) {
        close(random->fd);
    }
}

/* At the end of a file there is nothing to wait for: the guest's requests stay open. */
static size_t random_read(RngSource *source, void *buf, size_t size, int *ret_wait_fd)
{
    RngRandom *random = container_of(source, RngRandom, source);
    ssize_t got = read(random->fd, buf, size);

    *ret_wait_fd = got < 0 && errno == EAGAIN ? random->fd : -1;
    return got > 0 ? (size_t)got : 0;
}

static const Prop props[] = {
    PROP_STR("filename", RngRandom, filename, .def_str = "/dev/urandom", .help = "what is read"),
    { 0 },
};

static const RngSourceType type = {
    .object = { .name = "rng-random", .parent = &rng_source_type, .size = sizeof(RngRandom), .props = props,
                .complete = complete, .finalize = finalize },
    .read = random_read,
};
OBJECT_REGISTER(&type.object);
