/*
 * qemu-nbd: the kernel's NBD client, by the ioctls of linux/nbd.h. The kernel gets one end of a
 * socket pair on which the handshake has been done; the server in this process has the other.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/nbd/client_priv.h"
#include "main/nbd/nbd.h"

/* linux/nbd.h spells names of the protocol that nbd_proto.h has, so its ioctls stand here. */
#define NBD_SET_SOCK        _IO(0xab, 0)
#define NBD_SET_BLKSIZE     _IO(0xab, 1)
#define NBD_DO_IT           _IO(0xab, 3)
#define NBD_CLEAR_SOCK      _IO(0xab, 4)
#define NBD_CLEAR_QUE       _IO(0xab, 5)
#define NBD_SET_SIZE_BLOCKS _IO(0xab, 7)
#define NBD_DISCONNECT      _IO(0xab, 8)
#define NBD_SET_FLAGS       _IO(0xab, 10)

#define READY_NS (5 * NS_PER_MS)
enum { SECTOR = 512, READY_TRIES = 2000 };

Error *nbd_device_open(const char *device, int *ret_fd)
{
    int fd = open(device, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        Error *err = error_new_errno(errno, "Failed to open %s", device);
        return errno == ENOENT || errno == ENXIO
                   ? error_hint(err,
                                "The kernel's NBD module makes these devices: 'modprobe nbd' as "
                                "root loads it.")
                   : err;
    }
    *ret_fd = fd;
    return NULL;
}

int nbd_device_disconnect(const char *device)
{
    int fd;
    Error *err = nbd_device_open(device, &fd);
    if (err) {
        error_report(err);
        return EXIT_FAILURE;
    }
    ioctl(fd, NBD_CLEAR_QUE);
    ioctl(fd, NBD_DISCONNECT);
    ioctl(fd, NBD_CLEAR_SOCK);
    close(fd);
    printf("%s disconnected\n", device);
    return 0;
}

static Error *set_up(const NbdProgram *p, const NbdInfo *info, int socket)
{
    const struct {
        unsigned long request, value;
    } steps[] = {
        { NBD_CLEAR_SOCK, 0 },
        { NBD_SET_BLKSIZE, SECTOR },
        { NBD_SET_SIZE_BLOCKS, info->size / SECTOR },
        { NBD_SET_FLAGS, info->flags },
        { NBD_SET_SOCK, (unsigned long)socket },
    };
    int read_only = (info->flags & NBD_FLAG_READ_ONLY) != 0;

    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        if (ioctl(p->device_fd, steps[i].request, steps[i].value) < 0) {
            return error_new_errno(errno, "Failed to set up %s", p->device);
        }
    }
    return ioctl(p->device_fd, BLKROSET, &read_only) < 0
               ? error_new_errno(errno, "Failed to make %s read-only", p->device)
               : NULL;
}

static int serve_kernel(void *opaque)
{
    const NbdProgram *p = opaque;
    return ioctl(p->device_fd, NBD_DO_IT) < 0 ? -errno : 0;
}

static void kernel_left(void *opaque, int result)
{
    NbdProgram *p = opaque;
    if (result < 0 && !p->err) {
        p->err = error_new_errno(result, "%s", p->device);
    }
    loop_quit(p->loop);
}

/* Opening the device makes the kernel look for partitions. */
static int look_at_device(void *opaque)
{
    const NbdProgram *p = opaque;
    int fd = open(p->device, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
    }
    return 0;
}

/* The kernel shows the device's size once its thread has taken the connection. */
static void wait_ready_co(NbdProgram *p, uint64_t size)
{
    uint64_t shown = 0;

    for (unsigned n = 0; n < READY_TRIES && !p->err; n++) {
        if (ioctl(p->device_fd, BLKGETSIZE64, &shown) == 0 && shown == ALIGN_DOWN(size, SECTOR)) {
            co_blocking(look_at_device, p);
            return;
        }
        co_sleep_ns(CLOCK_REALTIME_NS, READY_NS);
    }
}

Error *nbd_device_attach_co(NbdProgram *p)
{
    NbdInfo info = { 0 };
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return error_new_errno(errno, "cannot make a socket pair");
    }
    nbd_server_adopt(nbd_server_of(p->graph), pair[0]);
    fcntl(pair[1], F_SETFL, O_NONBLOCK);
    IoStream *stream = stream_new(p->loop, pair[1]);
    Error *err = nbd_negotiate_co(stream, NULL, NBD_FORM_SIMPLE, "", NULL, &info);
    if (!err) {
        fcntl(pair[1], F_SETFL, 0); /* the kernel waits by itself */
        err = set_up(p, &info, pair[1]);
    }
    uint64_t size = info.size;
    nbd_info_clear(&info);
    stream_free(stream); /* the kernel has its own reference to the socket */
    TRY(err);
    loop_submit_blocking(p->loop, serve_kernel, kernel_left, p);
    wait_ready_co(p, size);
    return g_steal_pointer(&p->err);
}
