#include "base/guard.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum { MAX_GUARDED = 512 };

typedef struct Guarded {
    atomic_uintptr_t start; /* 0: free. Written last when an entry is made, first when it goes */
    atomic_size_t bytes;
    atomic_bool lost;
} Guarded;

static Guarded table[MAX_GUARDED];
static atomic_bool installed;

static Guarded *entry_of(uintptr_t address)
{
    for (size_t i = 0; i < MAX_GUARDED; i++) {
        uintptr_t start = atomic_load(&table[i].start);
        if (start && address >= start && address - start < atomic_load(&table[i].bytes)) {
            return &table[i];
        }
    }
    return NULL;
}

/* Only what may be done in a handler: atomics and system calls. */
static void on_sigbus(int number, siginfo_t *info, void *context)
{
    Guarded *entry = entry_of((uintptr_t)info->si_addr);
    void *start = entry ? (void *)atomic_load(&entry->start) : NULL;

    if (entry && mmap(start, atomic_load(&entry->bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED) {
        atomic_store(&entry->lost, true);
        return; /* and the access is made again */
    }
    signal(SIGBUS, SIG_DFL);
}

static void install(void)
{
    struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
    if (!atomic_exchange(&installed, true)) {
        sigaction(SIGBUS, &action, NULL);
    }
}

bool guard_add(void *start, size_t bytes)
{
    install();
    for (size_t i = 0; i < MAX_GUARDED; i++) {
        size_t unused = 0;
        /* An entry is claimed by its size, which the handler does not look at before there is a start. */
        if (!atomic_load(&table[i].start) && atomic_compare_exchange_strong(&table[i].bytes, &unused, bytes)) {
            atomic_store(&table[i].lost, false);
            atomic_store(&table[i].start, (uintptr_t)start);
            return true;
        }
    }
    return false;
}

void guard_remove(void *start)
{
    Guarded *entry = entry_of((uintptr_t)start);
    if (entry) {
        atomic_store(&entry->start, 0);
        atomic_store(&entry->bytes, 0);
    }
}

bool guard_is_lost(void *start)
{
    Guarded *entry = entry_of((uintptr_t)start);
    return entry && atomic_load(&entry->lost);
}
