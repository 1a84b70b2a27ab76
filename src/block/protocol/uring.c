#include "block/protocol/uring.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "block/config.h"

#if defined(HAVE_LIBURING)

#include <liburing.h>

enum { RING_ENTRIES = 128 };

/* One for each loop that makes requests. */
typedef struct Ring {
    Loop *loop;
    LoopExit exit; /* the loop goes before the file is closed */
    struct io_uring ring;
    int event_fd;
    LoopFd *source;
    Work submit;
    unsigned in_flight, gathered;
    ListNode node;
} Ring;

struct FileUring {
    List rings; /* Ring */
};

typedef struct UringWait {
    Coroutine *co;
    int result;
    bool done;
} UringWait;

static void reap(Ring *ring)
{
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&ring->ring, &cqe) == 0) {
        UringWait *wait = io_uring_cqe_get_data(cqe);
        wait->result = cqe->res;
        wait->done = true;
        io_uring_cqe_seen(&ring->ring, cqe);
        ring->in_flight--;
        co_wake(wait->co);
    }
}

static void completions(void *opaque, unsigned events)
{
    Ring *ring = opaque;
    uint64_t count;
    ssize_t got = read(ring->event_fd, &count, sizeof(count));
    (void)got;
    reap(ring);
}

/* What the page cache had is complete already. */
static void submit_all(void *opaque)
{
    Ring *ring = opaque;
    ring->gathered = 0;
    int ret = io_uring_submit(&ring->ring);
    if (ret < 0) { /* the kernel is short of something: once more in the next round */
        work_schedule(&ring->submit);
    }
    reap(ring);
}

static void ring_free(void *opaque)
{
    Ring *ring = opaque;
    assert(!ring->in_flight);
    loop_remove_exit(&ring->exit);
    list_remove(&ring->node);
    work_fini(&ring->submit);
    loop_del_fd(ring->source);
    io_uring_queue_exit(&ring->ring);
    close(ring->event_fd);
    g_free(ring);
}

static int ring_new(FileUring *uring, Loop *loop, Ring **ret_ring)
{
    Ring *ring = g_new0(Ring, 1);
    ring->loop = loop;
    ring->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int ret = ring->event_fd < 0 ? -errno : io_uring_queue_init(RING_ENTRIES, &ring->ring, 0);
    if (ret >= 0) {
        ret = io_uring_register_eventfd(&ring->ring, ring->event_fd);
        if (ret < 0) {
            io_uring_queue_exit(&ring->ring);
        }
    }
    if (ret < 0) {
        if (ring->event_fd >= 0) {
            close(ring->event_fd);
        }
        g_free(ring);
        return ret;
    }
    ring->source = loop_add_fd(loop, ring->event_fd, LOOP_READ, completions, ring);
    work_init(&ring->submit, loop, submit_all, ring);
    ring->exit = (LoopExit) { .fn = ring_free, .opaque = ring };
    loop_add_exit(loop, &ring->exit);
    list_append(&uring->rings, &ring->node);
    *ret_ring = ring;
    return 0;
}

Error *file_uring_new(Loop *loop, FileUring **ret_ring)
{
    FileUring *uring = g_new0(FileUring, 1);
    Ring *ring;

    list_init(&uring->rings);
    int ret = ring_new(uring, loop, &ring);
    if (ret < 0) {
        g_free(uring);
        return error_new_errno(ret, "io_uring is not available");
    }
    *ret_ring = uring;
    return NULL;
}

void file_uring_free(FileUring *uring)
{
    if (uring) {
        for (Ring *ring; (ring = LIST_FIRST(&uring->rings, Ring, node));) {
            ring_free(ring);
        }
        g_free(uring);
    }
}

static int wait_co(Ring *ring, struct io_uring_sqe *sqe)
{
    UringWait wait = { .co = co_self() };
    unsigned batch = loop_batch(ring->loop);
    io_uring_sqe_set_data(sqe, &wait);
    ring->in_flight++;
    if (batch && ++ring->gathered >= batch) {
        submit_all(ring);
    } else {
        work_schedule(&ring->submit);
    }
    while (!wait.done) {
        co_yield ();
    }
    return wait.result == -EINTR ? -EAGAIN : wait.result;
}

/* Of the running coroutine's loop; NULL: there can be none. */
static Ring *ring_here(FileUring *uring)
{
    Ring *ring;
    LIST_FOREACH (r, &uring->rings, Ring, node) {
        if (r->loop == co_loop()) {
            return r;
        }
    }
    return ring_new(uring, co_loop(), &ring) < 0 ? NULL : ring;
}

/* NULL when the ring is full, or when the caller must not wait for the loop. */
static struct io_uring_sqe *next_entry(FileUring *uring, Ring **ret_ring)
{
    Ring *ring = co_in_place() ? NULL : ring_here(uring);
    if (!ring || ring->in_flight >= RING_ENTRIES) {
        return NULL;
    }
    *ret_ring = ring;
    return io_uring_get_sqe(&ring->ring);
}

int file_uring_rw_co(FileUring *uring, int fd, bool write, const struct iovec *iov, int count,
                     uint64_t offset)
{
    Ring *ring;
    struct io_uring_sqe *sqe = next_entry(uring, &ring);
    if (!sqe) {
        return -EAGAIN;
    }
    if (write) {
        io_uring_prep_writev(sqe, fd, iov, (unsigned)count, offset);
    } else {
        io_uring_prep_readv(sqe, fd, iov, (unsigned)count, offset);
    }
    return wait_co(ring, sqe);
}

int file_uring_sync_co(FileUring *uring, int fd)
{
    Ring *ring;
    struct io_uring_sqe *sqe = next_entry(uring, &ring);
    if (!sqe) {
        return -EAGAIN;
    }
    io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    return wait_co(ring, sqe);
}

#else

Error *file_uring_new(Loop *loop, FileUring **ret_ring)
{
    return error_new("This build has no io_uring (liburing was missing)");
}

void file_uring_free(FileUring *ring) {}

int file_uring_rw_co(FileUring *uring, int fd, bool write, const struct iovec *iov, int count,
                     uint64_t offset)
{
    return -EAGAIN;
}

int file_uring_sync_co(FileUring *uring, int fd)
{
    return -EAGAIN;
}

#endif
