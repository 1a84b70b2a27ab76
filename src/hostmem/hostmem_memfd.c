/* memory-backend-memfd: memory without a name in the file system whose descriptor other processes can be given. */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "hostmem/hostmem.h"

typedef struct MemfdMemory {
    HostMemory memory;
    bool hugetlb, seal;
    uint64_t hugetlb_size;
} MemfdMemory;

static Error *describe(HostMemory *memory, RamOptions *options)
{
    MemfdMemory *memfd = container_of(memory, MemfdMemory, memory);
    unsigned flags = MFD_CLOEXEC | (memfd->seal ? MFD_ALLOW_SEALING : 0);

    if (memfd->hugetlb_size && (!memfd->hugetlb || (memfd->hugetlb_size & (memfd->hugetlb_size - 1)))) {
        return error_new(memfd->hugetlb ? "hugetlbsize must be a power of two" : "hugetlbsize needs hugetlb=on");
    }
    if (memfd->hugetlb) {
        flags |= MFD_HUGETLB;
        if (memfd->hugetlb_size) {
            flags |= (unsigned)__builtin_ctzll(memfd->hugetlb_size) << MFD_HUGE_SHIFT;
        }
    }
    int fd = memfd_create(memory->object.id ? memory->object.id : "memory", flags);
    if (fd < 0) {
        return error_new_errno(errno, "cannot make a memory file");
    }
    if (ftruncate(fd, (off_t)memory->size) ||
        (memfd->seal && fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)) {
        Error *err = error_new_errno(errno, "cannot make a memory file of %" G_GUINT64_FORMAT " MiB", memory->size / MiB);
        close(fd);
        return err;
    }
    options->fd = fd;
    return NULL;
}

static const Prop props[] = {
    PROP_BOOL("share", MemfdMemory, memory.share, true, .help = "other processes may see changes"),
    PROP_BOOL("hugetlb", MemfdMemory, hugetlb, false, .help = "of huge pages"),
    PROP_SIZE("hugetlbsize", MemfdMemory, hugetlb_size, 0, .help = "their size; 0: the host's usual one"),
    PROP_BOOL("seal", MemfdMemory, seal, true, .help = "nobody can change its size"),
    { 0 },
};

static const HostMemoryType type = {
    .object = { .name = "memory-backend-memfd", .parent = &host_memory_type, .size = sizeof(MemfdMemory), .props = props },
    .describe = describe,
};
OBJECT_REGISTER(&type.object);
