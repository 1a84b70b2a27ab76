/* RAM blocks: host memory of the guest, with one byte of flags a page. */
#include "core/mem/mem_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/rcu.h"

/* Large pages make first touches cheap; the alignment lets the host use them. */
#define RAM_ALIGN (2 * MiB)

static Error *open_backing(const char *path, uint64_t size, bool readonly, int *ret_fd)
{
    struct stat st;
    g_autofree char *name = NULL;
    int fd;

    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        name = g_strdup_printf("%s/ostrich-ram.XXXXXX", path);
        fd = mkstemp(name);
        if (fd >= 0) {
            unlink(name);
        }
    } else {
        fd = open(path, (readonly ? O_RDONLY : O_RDWR | O_CREAT) | O_CLOEXEC, 0600);
    }
    if (fd < 0) {
        return error_new_errno(errno, "cannot open the memory backing file '%s'", path);
    }
    if (!readonly && fstat(fd, &st) == 0 && (uint64_t)st.st_size < size && ftruncate(fd, (off_t)size)) {
        Error *err = error_new_errno(errno, "cannot make '%s' %" G_GUINT64_FORMAT " MiB large", path, size / MiB);
        close(fd);
        return err;
    }
    *ret_fd = fd;
    return NULL;
}

/* Reserves more than asked for, so that the mapping can begin on a large-page boundary. */
static void *map_aligned(uint64_t size, int prot, int flags, int fd)
{
    uint64_t reserve = size + RAM_ALIGN;
    char *area = mmap(NULL, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED) {
        return MAP_FAILED;
    }
    char *start = (char *)ALIGN_UP((uintptr_t)area, RAM_ALIGN);
    void *host = mmap(start, size, prot, flags | MAP_FIXED, fd, 0);
    if (host == MAP_FAILED) {
        int err = errno;
        munmap(area, reserve);
        errno = err;
        return MAP_FAILED;
    }
    if (start > area) {
        munmap(area, (size_t)(start - area));
    }
    if (start + size < area + reserve) {
        munmap(start + size, (size_t)(area + reserve - (start + size)));
    }
    return host;
}

static Error *no_memory_error(const char *name, uint64_t size)
{
    struct sysinfo info;
    int err = errno;
    sysinfo(&info);
    uint64_t have = ((uint64_t)info.totalram + info.totalswap) * info.mem_unit / MiB;
    return error_hint(error_new_errno(err, "cannot set up guest memory '%s' of %" G_GUINT64_FORMAT " MiB", name,
                                      size / MiB),
                      "The host has %" G_GUINT64_FORMAT " MiB of memory and swap; use a smaller -m.", have);
}

/* The node policy has no wrapper in the C library. */
static int bind_nodes(void *host, uint64_t size, const RamOptions *opt)
{
    static const int modes[] = { [RAM_POLICY_PREFERRED] = MPOL_PREFERRED, [RAM_POLICY_BIND] = MPOL_BIND,
                                 [RAM_POLICY_INTERLEAVE] = MPOL_INTERLEAVE };
    unsigned long nodes = opt->nodes;
    return (int)syscall(SYS_mbind, host, size, modes[opt->policy], &nodes, 8 * sizeof(nodes) + 1, MPOL_MF_STRICT);
}

static Error *advise(const char *name, void *host, uint64_t size, const RamOptions *opt)
{
    madvise(host, size, MADV_HUGEPAGE);
    if (opt->merge) {
        madvise(host, size, MADV_MERGEABLE);
    }
    if (opt->no_dump) {
        madvise(host, size, MADV_DONTDUMP);
    }
    madvise(host, size, MADV_DONTFORK); /* children start programs and want none of it */
    if (opt->policy != RAM_POLICY_DEFAULT && bind_nodes(host, size, opt) < 0) {
        return error_new_errno(errno, "cannot bind guest memory '%s' to the host nodes 0x%" G_GINT64_MODIFIER "x", name, opt->nodes);
    }
    if (opt->prealloc && madvise(host, size, MADV_POPULATE_WRITE)) {
        return no_memory_error(name, size);
    }
    return NULL;
}

void ram_blocks_changed(MemSystem *mem)
{
    List *const lists[] = { &mem->blocks, &mem->retired };
    unsigned count = 0;

    for (size_t n = 0; n < ARRAY_SIZE(lists); n++) {
        LIST_FOREACH (block, lists[n], RamBlock, node) {
            count++;
        }
    }
    RamTable *table = g_malloc(sizeof(RamTable) + count * sizeof(RamBlock *));
    table->count = 0;
    for (size_t n = 0; n < ARRAY_SIZE(lists); n++) {
        LIST_FOREACH (block, lists[n], RamBlock, node) {
            table->blocks[table->count++] = block;
        }
    }
    RamTable *old = atomic_exchange(&mem->ram_table, table);
    if (old) {
        rcu_call(g_free, old);
    }
}

Error *ram_block_new(MemSystem *mem, const char *name, uint64_t size, const RamOptions *options,
                     RamBlock **ret_block)
{
    static const RamOptions none;
    const RamOptions *opt = options ? options : &none;
    int fd = -1;

    if (size == 0 || size > BIT64(46)) {
        return error_new("guest memory '%s': %" G_GUINT64_FORMAT " bytes is not a possible size", name, size);
    }
    size = ALIGN_UP(size, MEM_PAGE_SIZE);
    if (opt->fd > 0) {
        fd = opt->fd;
    } else if (opt->path) {
        TRY(open_backing(opt->path, size, opt->readonly, &fd));
    } else if (opt->share) {
        fd = memfd_create(name, MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, (off_t)size)) {
            Error *err = no_memory_error(name, size);
            if (fd >= 0) {
                close(fd);
            }
            return err;
        }
    }
    int flags = (opt->share ? MAP_SHARED : MAP_PRIVATE) | (opt->no_reserve ? MAP_NORESERVE : 0);
    int prot = PROT_READ | (opt->readonly && opt->share ? 0 : PROT_WRITE);
    void *host = map_aligned(size, prot, fd >= 0 ? flags : flags | MAP_ANONYMOUS, fd);
    Error *err = host == MAP_FAILED ? no_memory_error(name, size) : advise(name, host, size, opt);
    if (err) {
        if (host != MAP_FAILED) {
            munmap(host, size);
        }
        if (fd >= 0 && fd != opt->fd) {
            close(fd);
        }
        return err;
    }

    RamBlock *block = g_new0(RamBlock, 1);
    block->mem = mem;
    block->name = g_strdup(name);
    block->host = host;
    block->size = size;
    block->fd = fd;
    block->refs = 1;
    block->shared = opt->share;
    block->id = mem->next_ram_id;
    mem->next_ram_id += ALIGN_UP(size, RAM_ALIGN);
    block->flags = g_malloc0(size >> MEM_PAGE_BITS);
    list_append(&mem->blocks, &block->node);
    ram_blocks_changed(mem);
    *ret_block = block;
    return NULL;
}

void ram_block_free(RamBlock *block)
{
    if (!block) {
        return;
    }
    list_remove(&block->node);
    ram_blocks_changed(block->mem);
    ram_block_unref(block);
}

RamBlock *ram_block_ref(RamBlock *block)
{
    atomic_fetch_add(&block->refs, 1);
    return block;
}

void ram_block_unref(RamBlock *block)
{
    if (atomic_fetch_sub(&block->refs, 1) > 1) {
        return;
    }
    munmap(block->host, block->size);
    if (block->fd >= 0) {
        close(block->fd);
    }
    g_free((void *)block->flags);
    g_free(block->name);
    rcu_call(g_free, block); /* ram_block_of() may look at it */
}

void ram_block_retire(RamBlock *block)
{
    if (!block) {
        return;
    }
    void *same = mmap(block->host, block->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (same == MAP_FAILED) {
        madvise(block->host, block->size, MADV_DONTNEED);
    }
    list_remove(&block->node);
    list_append(&block->mem->retired, &block->node);
    ram_blocks_changed(block->mem);
}

RamBlock *ram_block_next(MemSystem *mem, RamBlock *after)
{
    ListNode *node = after ? after->node.next : mem->blocks.head.next;
    return node == &mem->blocks.head ? NULL : container_of(node, RamBlock, node);
}

RamBlock *ram_block_of(MemSystem *mem, const void *host, uint64_t *ret_offset)
{
    const uint8_t *p = host;
    RamBlock *found = NULL;

    rcu_read_enter();
    const RamTable *table = atomic_load(&mem->ram_table);
    for (unsigned n = 0; table && !found && n < table->count; n++) {
        RamBlock *block = table->blocks[n];
        if (p >= block->host && p < block->host + block->size) {
            *ret_offset = (uint64_t)(p - block->host);
            found = block;
        }
    }
    rcu_read_leave();
    return found;
}

void mem_set_code_listener(MemSystem *mem,
                           void (*fn)(void *opaque, RamBlock *block, uint64_t offset, uint64_t length),
                           void *opaque)
{
    mem->code_fn = fn;
    mem->code_opaque = opaque;
}

void mem_set_clean_hook(MemSystem *mem, void (*fn)(void *opaque, RamBlock *block, uint64_t first, uint64_t count),
                        void *opaque)
{
    mem->clean_fn = fn;
    mem->clean_opaque = opaque;
}

void ram_written(RamBlock *block, uint64_t offset, uint64_t length)
{
    if (length == 0) {
        return;
    }
    uint64_t first = offset >> MEM_PAGE_BITS, last = (offset + length - 1) >> MEM_PAGE_BITS;
    uint8_t track = atomic_load_explicit(&block->track, memory_order_relaxed);
    bool code = false;

    /* Who sets RAM_CODE reads the bytes again after that; so either that sees the new ones, or the flag is seen here. */
    atomic_thread_fence(memory_order_seq_cst);

    for (uint64_t page = first; page <= last; page++) {
        uint8_t flags = atomic_load_explicit(&block->flags[page], memory_order_relaxed);
        if (track & ~flags) {
            atomic_fetch_or(&block->flags[page], track);
        }
        code |= (flags & RAM_CODE) != 0;
    }
    if (code && block->mem->code_fn) {
        block->mem->code_fn(block->mem->code_opaque, block, offset, length);
    }
}

void ram_track(RamBlock *block, uint8_t client, bool on)
{
    if (!on) {
        atomic_fetch_and(&block->track, (uint8_t)~client);
        return;
    }
    for (uint64_t page = 0; page < block->size >> MEM_PAGE_BITS; page++) {
        atomic_fetch_or(&block->flags[page], client);
    }
    atomic_fetch_or(&block->track, client);
}

/* The first page from `at` on with the client's bit; most pages have none, so eight are looked at together. */
static uint64_t next_flagged(RamBlock *block, uint8_t client, uint64_t first, uint64_t at, uint64_t count)
{
    const uint64_t mask = client * 0x0101010101010101ull;
    const _Atomic uint8_t *flags = block->flags + first;

    while (at < count) {
        if (IS_ALIGNED((uintptr_t)(flags + at), 8) && count - at >= 8 &&
            !(__atomic_load_n((const uint64_t *)(const void *)(flags + at), __ATOMIC_RELAXED) & mask)) {
            at += 8;
        } else if (atomic_load_explicit(&flags[at], memory_order_relaxed) & client) {
            return at;
        } else {
            at++;
        }
    }
    return count;
}

void ram_clear_dirty(RamBlock *block, uint8_t client, uint64_t page)
{
    atomic_fetch_and(&block->flags[page], (uint8_t)~client);
}

bool ram_take_dirty(RamBlock *block, uint8_t client, uint64_t first, uint64_t count, uint8_t *ret_bits)
{
    uint64_t low = UINT64_MAX, high = 0;

    assert(range_inside(first, count, block->size >> MEM_PAGE_BITS));
    memset(ret_bits, 0, count);
    for (uint64_t i = next_flagged(block, client, first, 0, count); i < count;
         i = next_flagged(block, client, first, i + 1, count)) {
        _Atomic uint8_t *flags = &block->flags[first + i];
        bool dirty = (atomic_load_explicit(flags, memory_order_relaxed) & client) != 0;
        if (dirty) {
            atomic_fetch_and(flags, (uint8_t)~client);
            low = MIN(low, i);
            high = i;
        }
        ret_bits[i] = dirty;
    }
    if (low > high) {
        return false;
    }
    if (block->mem->clean_fn) {
        block->mem->clean_fn(block->mem->clean_opaque, block, first + low, high - low + 1);
    }
    return true;
}
