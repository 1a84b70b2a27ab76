/* memory-backend-file: memory that is a file, or on a directory of huge pages; changes stay there with share=on. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hostmem/hostmem.h"

typedef struct FileMemory {
    HostMemory memory;
    char *path;
    bool readonly, discard;
} FileMemory;

static Error *describe(HostMemory *memory, RamOptions *options)
{
    FileMemory *file = container_of(memory, FileMemory, memory);

    if (!file->path) {
        return error_new("property 'mem-path' of memory-backend-file is missing");
    }
    options->path = file->path;
    options->readonly = file->readonly;
    return NULL;
}

/* What is in the file is of no use to anyone any more: the host need not write it to the disk. */
static void finalize(Object *obj)
{
    FileMemory *file = (FileMemory *)obj;
    int fd = file->discard && file->path && obj->realized ? open(file->path, O_RDWR | O_CLOEXEC) : -1;

    if (fd >= 0) {
        if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)file->memory.size) < 0) {
            /* The file system cannot; the file keeps its content. */
        }
        close(fd);
    }
}

static const Prop props[] = {
    PROP_STR("mem-path", FileMemory, path, .flags = PROP_REQUIRED, .help = "file, or directory for a file without name"),
    PROP_BOOL("readonly", FileMemory, readonly, false, .help = "the file is opened for reading"),
    PROP_BOOL("discard-data", FileMemory, discard, false, .help = "the file's content is dropped at the end"),
    { 0 },
};

static const HostMemoryType type = {
    .object = { .name = "memory-backend-file", .parent = &host_memory_type, .size = sizeof(FileMemory), .props = props,
                .finalize = finalize },
    .describe = describe,
};
OBJECT_REGISTER(&type.object);
