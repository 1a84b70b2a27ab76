/* See cache.h. */
#include "dbt/run/cache.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static Error *map_failed(size_t size)
{
    return error_new_errno(errno, "cannot map %zu MiB for translated code", size >> 20);
}

static Error *map_split(CodeCache *cache)
{
    int fd = memfd_create("translated-code", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)cache->size) < 0) {
        Error *err = map_failed(cache->size);
        if (fd >= 0) {
            close(fd);
        }
        return err;
    }
    void *run = mmap(NULL, cache->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    void *write = mmap(NULL, cache->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (run == MAP_FAILED || write == MAP_FAILED) {
        return map_failed(cache->size);
    }
    cache->run = run;
    cache->write = write;
    return NULL;
}

Error *code_cache_init(CodeCache *cache, size_t size, bool split)
{
    *cache = (CodeCache){ .size = size };
    if (split) {
        return map_split(cache);
    }
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) { /* hosts that forbid writable code */
        return map_split(cache);
    }
    madvise(p, size, MADV_HUGEPAGE); /* fewer misses of the instruction TLB; a hint */
    cache->run = cache->write = p;
    return NULL;
}

void code_cache_fini(CodeCache *cache)
{
    if (cache->run != NULL) {
        munmap(cache->run, cache->size);
    }
    if (cache->write != NULL && cache->write != cache->run) {
        munmap(cache->write, cache->size);
    }
    *cache = (CodeCache){ 0 };
}

void code_cache_start(CodeCache *cache, size_t used)
{
    cache->hot_start = ALIGN_UP(used, 4096);
    cache->hot_end = ALIGN_DOWN(cache->hot_start + (cache->size - cache->hot_start) * 11 / 20, 4096);
    cache->cold_end = cache->size;
    code_cache_reset(cache);
}

void code_cache_reset(CodeCache *cache)
{
    cache->hot = cache->hot_start;
    cache->cold = cache->hot_end;
}
