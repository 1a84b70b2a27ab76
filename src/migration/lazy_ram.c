/* Missing pages by userfaultfd(2); see lazy_ram.h. */
#include "migration/lazy_ram.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/checked.h"

typedef struct LazyBlock {
    RamBlock *block; /* counted */
    _Atomic uint8_t *present; /* one a page */
} LazyBlock;

struct LazyRam {
    int fd;      /* userfaultfd, borrowed */
    int stop_fd; /* eventfd: readable when the fault thread has to end */
    const LazyRamProvider *provider;
    void *opaque;
    GArray *blocks; /* LazyBlock; constant after start */
    pthread_t fault_thread, fill_thread;
    bool fault_made, fill_made;
    _Atomic bool over;
    _Atomic uint64_t faults;
    pthread_mutex_t mutex; /* of over's change */
    pthread_cond_t ended;
};

/* --- the host --- */

int lazy_ram_open_host(void)
{
    struct uffdio_api hello = { .api = UFFD_API, .features = UFFD_FEATURE_THREAD_ID };
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) { /* the device's permissions say who may */
        int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        if (device < 0) {
            return -1;
        }
        fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
        close(device);
    }
    if (fd >= 0 && ioctl(fd, UFFDIO_API, &hello)) {
        close(fd);
        return -1;
    }
    return fd;
}

static struct uffdio_range range_of(const RamBlock *block, uint64_t first, uint64_t count)
{
    return (struct uffdio_range) { .start = (uintptr_t)block->host + first * MEM_PAGE_SIZE, .len = count * MEM_PAGE_SIZE };
}

static void let_go_on(LazyRam *ram, const RamBlock *block, uint64_t page)
{
    struct uffdio_range range = range_of(block, page, 1);
    ioctl(ram->fd, UFFDIO_WAKE, &range);
}

/* Copies (from data) or zeroes as many pages as the kernel takes at once. How many, or -errno. */
static int64_t place_some(LazyRam *ram, const RamBlock *block, uint64_t first, uint64_t count, const uint8_t *data)
{
    struct uffdio_range range = range_of(block, first, count);
    int64_t done;

    if (data) {
        struct uffdio_copy copy = { .dst = range.start, .src = (uintptr_t)data, .len = range.len };
        done = ioctl(ram->fd, UFFDIO_COPY, &copy) == 0 ? (int64_t)range.len : copy.copy > 0 ? copy.copy : -errno;
    } else {
        struct uffdio_zeropage zero = { .range = range };
        done = ioctl(ram->fd, UFFDIO_ZEROPAGE, &zero) == 0 ? (int64_t)range.len : zero.zeropage > 0 ? zero.zeropage : -errno;
    }
    return done > 0 ? done / (int64_t)MEM_PAGE_SIZE : done;
}

/* --- blocks --- */

static LazyBlock *lazy_block_at(const LazyRam *ram, guint index)
{
    return &g_array_index(ram->blocks, LazyBlock, index);
}

static LazyBlock *lazy_block_of(const LazyRam *ram, const RamBlock *block)
{
    for (guint n = 0; n < ram->blocks->len; n++) {
        if (lazy_block_at(ram, n)->block == block) {
            return lazy_block_at(ram, n);
        }
    }
    return NULL;
}

LazyRam *lazy_ram_new(int host_fd, const LazyRamProvider *provider, void *opaque)
{
    LazyRam *ram = g_new0(LazyRam, 1);

    ram->fd = host_fd;
    ram->stop_fd = -1;
    ram->provider = provider;
    ram->opaque = opaque;
    ram->blocks = g_array_new(FALSE, FALSE, sizeof(LazyBlock));
    pthread_mutex_init(&ram->mutex, NULL);
    pthread_cond_init(&ram->ended, NULL);
    return ram;
}

/* Drops runs of missing pages. */
static int discard(RamBlock *block, const _Atomic uint8_t *present)
{
    const uint64_t pages = block->size >> MEM_PAGE_BITS;

    for (uint64_t first = 0, end; first < pages; first = end) {
        bool there = present[first];
        for (end = first + 1; end < pages && present[end] == there; end++) {
        }
        if (!there && madvise(block->host + first * MEM_PAGE_SIZE, (end - first) * MEM_PAGE_SIZE, MADV_DONTNEED)) {
            return -errno;
        }
    }
    return 0;
}

int lazy_ram_add(LazyRam *ram, RamBlock *block, const uint8_t *missing)
{
    const uint64_t pages = block->size >> MEM_PAGE_BITS;
    struct uffdio_register reg = { .range = range_of(block, 0, pages), .mode = UFFDIO_REGISTER_MODE_MISSING };

    if (block->fd >= 0 || block->shared || lazy_block_of(ram, block)) {
        return -EINVAL;
    }
    if (ioctl(ram->fd, UFFDIO_REGISTER, &reg)) {
        return -errno;
    }
    LazyBlock lazy = { .block = ram_block_ref(block), .present = g_malloc0(pages) };
    for (uint64_t page = 0; missing && page < pages; page++) {
        atomic_store_explicit(&lazy.present[page], !missing[page], memory_order_relaxed);
    }
    g_array_append_val(ram->blocks, lazy);
    int ret = discard(block, lazy.present);
    if (ret) {
        ioctl(ram->fd, UFFDIO_UNREGISTER, &reg.range);
        g_array_set_size(ram->blocks, ram->blocks->len - 1);
        ram_block_unref(block);
        g_free((void *)lazy.present);
        return ret;
    }
    ram_written(block, 0, block->size); /* code that was translated from what is gone now */
    return 0;
}

bool lazy_ram_has(const LazyRam *ram, const RamBlock *block)
{
    return lazy_block_of(ram, block) != NULL;
}

bool lazy_ram_is_present(LazyRam *ram, const RamBlock *block, uint64_t page)
{
    const LazyBlock *lazy = lazy_block_of(ram, block);
    return !lazy || atomic_load_explicit(&lazy->present[page], memory_order_acquire);
}

/* --- placing --- */

static void place(LazyRam *ram, RamBlock *block, uint64_t first, uint64_t count, const uint8_t *data)
{
    LazyBlock *lazy = lazy_block_of(ram, block);

    assert(lazy && range_inside(first, count, block->size >> MEM_PAGE_BITS));
    while (count > 0) {
        int64_t done = place_some(ram, block, first, count, data);
        if (done == -EAGAIN) {
            continue; /* the address space was being changed */
        }
        if (done == -EEXIST) {
            let_go_on(ram, block, first);
            done = 1;
        }
        if (done <= 0) {
            return; /* it is over */
        }
        for (int64_t n = 0; n < done; n++) {
            atomic_store_explicit(&lazy->present[first + (uint64_t)n], 1, memory_order_release);
        }
        if (ram->provider->placed) {
            ram->provider->placed(ram->opaque, block, first, (uint64_t)done);
        }
        first += (uint64_t)done;
        count -= (uint64_t)done;
        data = data ? data + (uint64_t)done * MEM_PAGE_SIZE : NULL;
    }
}

void lazy_ram_place(LazyRam *ram, RamBlock *block, uint64_t first, uint64_t count, const void *data)
{
    place(ram, block, first, count, data);
}

void lazy_ram_place_zero(LazyRam *ram, RamBlock *block, uint64_t first, uint64_t count)
{
    place(ram, block, first, count, NULL);
}

/* --- threads --- */

static void missing_page(LazyRam *ram, uintptr_t address, pid_t thread)
{
    for (guint n = 0; n < ram->blocks->len; n++) {
        LazyBlock *lazy = lazy_block_at(ram, n);
        uintptr_t host = (uintptr_t)lazy->block->host;
        if (address < host || address - host >= lazy->block->size) {
            continue;
        }
        uint64_t page = (address - host) >> MEM_PAGE_BITS;
        if (atomic_load_explicit(&lazy->present[page], memory_order_acquire)) {
            place(ram, lazy->block, page, 1, NULL); /* rule 1; or it came while this one began to wait */
        } else {
            atomic_fetch_add_explicit(&ram->faults, 1, memory_order_relaxed);
            ram->provider->want(ram->opaque, ram, lazy->block, page, thread);
        }
        return;
    }
}

static void *fault_main(void *opaque)
{
    LazyRam *ram = opaque;
    struct pollfd fds[] = { { .fd = ram->fd, .events = POLLIN }, { .fd = ram->stop_fd, .events = POLLIN } };
    struct uffd_msg messages[16];

    for (;;) {
        if (poll(fds, G_N_ELEMENTS(fds), -1) < 0 && errno != EINTR) {
            return NULL;
        }
        if (fds[1].revents) {
            return NULL;
        }
        ssize_t got = read(ram->fd, messages, sizeof(messages));
        for (ssize_t n = 0; n < got / (ssize_t)sizeof(messages[0]); n++) {
            if (messages[n].event == UFFD_EVENT_PAGEFAULT) {
                missing_page(ram, messages[n].arg.pagefault.address, (pid_t)messages[n].arg.pagefault.feat.ptid);
            }
        }
    }
}

static void *fill_main(void *opaque)
{
    LazyRam *ram = opaque;
    Error *err = ram->provider->fill(ram->opaque, ram);

    if (err) {
        lazy_ram_fail(ram, err);
    } else {
        lazy_ram_end(ram);
    }
    if (ram->provider->ended) {
        ram->provider->ended(ram->opaque);
    }
    return NULL;
}

Error *lazy_ram_start(LazyRam *ram)
{
    ram->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (ram->stop_fd < 0) {
        return error_new_errno(errno, "cannot wait for missing memory");
    }
    int rc = pthread_create(&ram->fault_thread, NULL, fault_main, ram);
    ram->fault_made = rc == 0;
    if (!rc && ram->provider->fill) {
        rc = pthread_create(&ram->fill_thread, NULL, fill_main, ram);
        ram->fill_made = rc == 0;
    }
    return rc ? error_new_errno(rc, "cannot make the threads that bring missing memory") : NULL;
}

/* --- the end --- */

bool lazy_ram_is_over(const LazyRam *ram)
{
    return atomic_load_explicit(&((LazyRam *)ram)->over, memory_order_acquire);
}

/* Everybody who waits goes on, and finds zeroes where nothing was placed. */
static void release_all(LazyRam *ram)
{
    for (guint n = 0; n < ram->blocks->len; n++) {
        const RamBlock *block = lazy_block_at(ram, n)->block;
        struct uffdio_range range = range_of(block, 0, block->size >> MEM_PAGE_BITS);
        ioctl(ram->fd, UFFDIO_UNREGISTER, &range);
        /* Linux wakes first and waits for faults under the lock of a mapping afterwards: one that was just beginning would sleep for ever. */
        range = range_of(block, 0, block->size >> MEM_PAGE_BITS);
        ioctl(ram->fd, UFFDIO_WAKE, &range);
    }
    atomic_store_explicit(&ram->over, true, memory_order_release);
    pthread_cond_broadcast(&ram->ended);
}

void lazy_ram_end(LazyRam *ram)
{
    pthread_mutex_lock(&ram->mutex);
    if (!lazy_ram_is_over(ram)) {
        release_all(ram);
    }
    pthread_mutex_unlock(&ram->mutex);
}

void lazy_ram_fail(LazyRam *ram, Error *err)
{
    pthread_mutex_lock(&ram->mutex);
    if (!lazy_ram_is_over(ram)) {
        ram->provider->failed(ram->opaque, err);
        release_all(ram);
    }
    pthread_mutex_unlock(&ram->mutex);
    error_free(err);
}

void lazy_ram_wait(LazyRam *ram)
{
    pthread_mutex_lock(&ram->mutex);
    while (!lazy_ram_is_over(ram)) {
        pthread_cond_wait(&ram->ended, &ram->mutex);
    }
    pthread_mutex_unlock(&ram->mutex);
}

uint64_t lazy_ram_faults(const LazyRam *ram)
{
    return atomic_load_explicit(&((LazyRam *)ram)->faults, memory_order_relaxed);
}

void lazy_ram_free(LazyRam *ram)
{
    if (!ram) {
        return;
    }
    lazy_ram_end(ram);
    if (ram->fill_made) {
        pthread_join(ram->fill_thread, NULL);
    }
    if (ram->fault_made) {
        uint64_t one = 1;
        ssize_t done = write(ram->stop_fd, &one, sizeof(one));
        (void)done;
        pthread_join(ram->fault_thread, NULL);
    }
    if (ram->stop_fd >= 0) {
        close(ram->stop_fd);
    }
    for (guint n = 0; n < ram->blocks->len; n++) {
        g_free((void *)lazy_block_at(ram, n)->present);
        ram_block_unref(lazy_block_at(ram, n)->block);
    }
    g_array_unref(ram->blocks);
    pthread_cond_destroy(&ram->ended);
    pthread_mutex_destroy(&ram->mutex);
    g_free(ram);
}
