/* Waits for locks, counted: lock.h. The one table of the process, since locks know no machine. */
#include <stdatomic.h>

#include "base/lock.h"

typedef struct Row {
    const char *_Atomic name; /* a constant of the program; NULL: free, and so are those behind it */
    _Atomic uint64_t waits, wait_ns;
} Row;

static struct {
    _Atomic bool on;
    Row rows[LOCK_PROFILE_MAX];
} profile;

void lock_profile_set(bool on)
{
    atomic_store(&profile.on, on);
}

bool lock_profile_is_on(void)
{
    return atomic_load_explicit(&profile.on, memory_order_relaxed);
}

/* The row of a name; NULL when the table is full. Names are compared as pointers: the same lock_init() makes the same name. */
static Row *row_of(const char *name)
{
    for (size_t n = 0; n < LOCK_PROFILE_MAX; n++) {
        const char *own = NULL;
        if (atomic_compare_exchange_strong(&profile.rows[n].name, &own, name) || own == name) {
            return &profile.rows[n];
        }
    }
    return NULL;
}

void lock_profile_note(const char *name, uint64_t wait_ns)
{
    Row *row = row_of(name);
    if (row) {
        atomic_fetch_add_explicit(&row->waits, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&row->wait_ns, wait_ns, memory_order_relaxed);
    }
}

void lock_profile_reset(void)
{
    for (size_t n = 0; n < LOCK_PROFILE_MAX; n++) {
        atomic_store(&profile.rows[n].waits, 0);
        atomic_store(&profile.rows[n].wait_ns, 0);
    }
}

size_t lock_profile_read(LockProfile *ret_rows)
{
    size_t count = 0;

    for (size_t n = 0; n < LOCK_PROFILE_MAX; n++) {
        Row *row = &profile.rows[n];
        LockProfile read = { atomic_load(&row->name), atomic_load(&row->waits), atomic_load(&row->wait_ns) };
        if (read.name && read.waits) {
            ret_rows[count++] = read;
        }
    }
    return count;
}
