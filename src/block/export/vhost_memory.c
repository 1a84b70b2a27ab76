#include "block/export/vhost_memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/guard.h"

/* At first; what the file's owner does to it later the guard sees. */
static bool file_covers(int fd, uint64_t end)
{
    struct stat facts;
    return fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_size >= 0 && (uint64_t)facts.st_size >= end;
}

int vhost_memory_add(VhostMemory *m, const VhostRegion *r, int fd)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), end;

    if (m->count == VHOST_MEMORY_SLOTS) {
        return -ENOSPC;
    }
    if (!r->size || __builtin_add_overflow(r->offset, r->size, &end) || end > INT64_MAX || r->guest + (r->size - 1) < r->guest ||
        r->user + (r->size - 1) < r->user || !file_covers(fd, end)) {
        return -EINVAL;
    }
    uint64_t start = ALIGN_DOWN(r->offset, page);
    size_t mapped = (size_t)(end - start);
    void *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)start);
    if (base == MAP_FAILED) { /* huge pages are aligned to more than a page */
        start = 0;
        mapped = (size_t)end;
        base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    }
    if (base == MAP_FAILED) {
        return -errno;
    }
    if (!guard_add(base, mapped)) {
        munmap(base, mapped);
        return -ENOSPC;
    }
    madvise(base, mapped, MADV_DONTDUMP);
    m->slots[m->count++] =
        (VhostMapping) { .region = *r, .host = (uint8_t *)base + (r->offset - start), .base = base, .mapped = mapped };
    return 0;
}

static void unmap(VhostMapping *s)
{
    guard_remove(s->base);
    munmap(s->base, s->mapped);
}

int vhost_memory_remove(VhostMemory *m, const VhostRegion *r)
{
    for (unsigned i = 0; i < m->count; i++) {
        VhostMapping *s = &m->slots[i];
        if (s->region.guest == r->guest && s->region.size == r->size && s->region.user == r->user) {
            unmap(s);
            *s = m->slots[--m->count];
            return 0;
        }
    }
    return -ENOENT;
}

void vhost_memory_clear(VhostMemory *m)
{
    while (m->count) {
        unmap(&m->slots[--m->count]);
    }
}

bool vhost_memory_is_lost(const VhostMemory *m)
{
    for (unsigned i = 0; i < m->count; i++) {
        if (guard_is_lost(m->slots[i].base)) {
            return true;
        }
    }
    return false;
}

uint8_t *vhost_memory_user(const VhostMemory *m, uint64_t address, uint64_t bytes)
{
    for (unsigned i = 0; i < m->count; i++) {
        const VhostRegion *r = &m->slots[i].region;
        if (address >= r->user && address - r->user < r->size && bytes <= r->size - (address - r->user)) {
            return m->slots[i].host + (address - r->user);
        }
    }
    return NULL;
}

/* The region that holds the address; NULL: none. *ret_left: bytes up to its end. */
static uint8_t *find(const VhostMemory *m, uint64_t address, uint64_t *ret_left)
{
    for (unsigned i = 0; i < m->count; i++) {
        const VhostRegion *r = &m->slots[i].region;
        if (address >= r->guest && address - r->guest < r->size) {
            *ret_left = r->size - (address - r->guest);
            return m->slots[i].host + (address - r->guest);
        }
    }
    return NULL;
}

bool vhost_memory_guest(const VhostMemory *m, uint64_t address, uint64_t bytes, struct iovec *iov, unsigned *count,
                        unsigned max)
{
    while (bytes) {
        uint64_t left;
        uint8_t *host = find(m, address, &left);
        if (!host || *count == max) {
            return false;
        }
        left = MIN(left, bytes);
        iov[(*count)++] = (struct iovec) { host, (size_t)left };
        address += left;
        bytes -= left;
    }
    return true;
}

bool vhost_memory_read(const VhostMemory *m, uint64_t address, void *buffer, size_t bytes)
{
    uint8_t *to = buffer;
    while (bytes) {
        uint64_t left;
        const uint8_t *host = find(m, address, &left);
        if (!host) {
            return false;
        }
        size_t part = (size_t)MIN(left, bytes);
        memcpy(to, host, part);
        to += part;
        address += part;
        bytes -= part;
    }
    return true;
}
