/*
 * Loading a machine whose state lies in a file: the devices are read at once, the memory when it is touched and in the background
 * (lazy_ram.h). The records of memory are looked through beforehand, without their pages, for what is the last copy of each page.
 *
 * Nothing of a record is used before its sum is right: a page that is wanted has its whole record read and checked.
 *
 * Threads: the machine lock, but for what is said of lazy_ram.h's threads.
 */
#ifndef OSTRICH_MIGRATION_LAZY_LOAD_H
#define OSTRICH_MIGRATION_LAZY_LOAD_H

#include "block/node.h"
#include "migration/machine_state.h"

typedef struct LazyLoad LazyLoad;

/*
 * Loads the state of `size` bytes in the node, which gets no other snapshot and loses none until the memory is there. False when that cannot
 * be done here (the host, the kind of image), and nothing was touched.
 */
bool lazy_load_state(Machine *machine, BlockNode *node, uint64_t size, RunState *ret_state, Error **ret_err);
/* Waits until all memory is there. */
void lazy_load_finish(Machine *machine);
/* The machine is about to go: what is not there yet is not read, unless CPUs still run. */
void lazy_load_drop(Machine *machine);

#endif
