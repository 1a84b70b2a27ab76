/*
 * RAM that comes later: the guest runs while its memory is still somewhere else (a snapshot, the source of a migration), and a page
 * is brought when it is first touched. The host's userfaultfd(2) stops whoever touches a missing page: CPUs, devices, the
 * kernel on behalf of a read() into guest memory, a saver, a dump. None of them knows about it.
 *
 *     ram = lazy_ram_new(host_fd, &provider, opaque);
 *     lazy_ram_add(ram, block, NULL);       machine lock, vCPUs stand still; what was in the block is gone
 *     lazy_ram_start(ram);
 *     ... lazy_ram_place() from provider->want(), provider->fill() or elsewhere ...
 *     lazy_ram_end(ram);                    what was not placed is zero; nothing is missing any more
 *     lazy_ram_free(ram);
 *
 * Rules
 * 1. A page's content is placed once; a page that is missing again later was discarded by the guest (balloon) and is zero.
 * 2. Provider callbacks run on threads of the mechanism. They take no lock that is ever held by somebody who touches guest
 *    memory (so not the machine lock), and do not touch guest memory themselves.
 * 3. When pages cannot be had any more, lazy_ram_fail() lets everybody who waits go on with zeroes, after provider->failed() has seen to
 *    it that nothing comes of that.
 */
#ifndef OSTRICH_MIGRATION_LAZY_RAM_H
#define OSTRICH_MIGRATION_LAZY_RAM_H

#include "core/mem/mem.h"

typedef struct LazyRam LazyRam;

typedef struct LazyRamProvider {
    /* The thread waits for the page: it should be placed soon, by this call or later. On the fault thread. */
    void (*want)(void *opaque, LazyRam *ram, RamBlock *block, uint64_t page, pid_t thread);
    /*
     * Places everything, on a thread of its own, and returns early once lazy_ram_is_over(). Then lazy_ram_end() or, with an error,
     * lazy_ram_fail() follows. NULL: the owner does that in its own way.
     */
    Error *(*fill)(void *opaque, LazyRam *ram);
    /* See rule 3. err is borrowed. Any thread; once at most. */
    void (*failed)(void *opaque, const Error *err);
    /* Pages were placed, whoever did it. May be NULL. */
    void (*placed)(void *opaque, RamBlock *block, uint64_t first, uint64_t count);
    /* The last act of the thread of fill(): the owner may free now. May be NULL. */
    void (*ended)(void *opaque);
} LazyRamProvider;

/*
 * A descriptor for lazy_ram_new(), to be opened before the system call filter; -1: this host or user has no userfaultfd that covers the kernel's
 * accesses, and memory must be loaded before the guest runs.
 */
int lazy_ram_open_host(void);

/* One at a time for a host descriptor, which is borrowed. */
LazyRam *lazy_ram_new(int host_fd, const LazyRamProvider *provider, void *opaque);
/*
 * missing: a byte a page, those with 1 lose their content; NULL: all. 0 or -errno when the block's memory is of a kind that cannot
 * be missing (files, memory that others share or that is locked): then it must be filled as before.
 */
int lazy_ram_add(LazyRam *ram, RamBlock *block, const uint8_t *missing);
Error *lazy_ram_start(LazyRam *ram) MUST_USE;

/* Any thread. Pages that are there already keep what they have. data: page aligned or not, no guest memory. */
void lazy_ram_place(LazyRam *ram, RamBlock *block, uint64_t first, uint64_t count, const void *data);
void lazy_ram_place_zero(LazyRam *ram, RamBlock *block, uint64_t first, uint64_t count);
/* Whether the block was added. Any thread, after the start. */
bool lazy_ram_has(const LazyRam *ram, const RamBlock *block);
/* Whether the page has been placed or was never missing. */
bool lazy_ram_is_present(LazyRam *ram, const RamBlock *block, uint64_t page);

/* Any thread. */
void lazy_ram_end(LazyRam *ram);
void lazy_ram_fail(LazyRam *ram, Error *err); /* takes err */
bool lazy_ram_is_over(const LazyRam *ram); /* ended or failed */
/* Waits for that; must not be called by a provider. */
void lazy_ram_wait(LazyRam *ram);
uint64_t lazy_ram_faults(const LazyRam *ram); /* pages that somebody had to wait for */
/* Ends it first when it is not over: the machine must stand still then. Waits for the threads. Accepts NULL. */
void lazy_ram_free(LazyRam *ram);

#endif
