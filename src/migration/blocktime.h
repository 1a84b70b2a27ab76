/*
 * How long CPUs wait for pages while memory comes by post-copy (the capability postcopy-blocktime).
 *
 * Threads: any, but for new and free.
 */
#ifndef OSTRICH_MIGRATION_BLOCKTIME_H
#define OSTRICH_MIGRATION_BLOCKTIME_H

#include "core/vm/machine.h"
#include "value/value.h"

typedef struct Blocktime Blocktime;

/* Of the CPUs that there are now. Machine lock. */
Blocktime *blocktime_new(Machine *machine);
void blocktime_free(Blocktime *blocktime); /* accepts NULL */
/* The thread, when it is a CPU's, begins to wait for the page. */
void blocktime_wait(Blocktime *blocktime, pid_t thread, const RamBlock *block, uint64_t page);
/* Pages came: who waits for one of them goes on. */
void blocktime_came(Blocktime *blocktime, const RamBlock *block, uint64_t first, uint64_t count);
/* Adds to what query-migrate tells: what each CPU waited, and how long all of them waited at once. */
void blocktime_show(Blocktime *blocktime, Value *info);

#endif
