/*
 * Snapshots inside disk images: the machine's state in one image, and a snapshot of the same name in every
 * image that the guest may write. savevm, loadvm, delvm, -loadvm.
 *
 * Threads: main loop with the machine lock.
 */
#ifndef OSTRICH_MIGRATION_SNAPSHOT_H
#define OSTRICH_MIGRATION_SNAPSHOT_H

#include "core/vm/machine.h"

/* tag NULL: a name from the date. One of that name is replaced. */
Error *snapshot_save(Machine *machine, const char *tag) MUST_USE;
/* On failure the machine stands still. */
Error *snapshot_load(Machine *machine, const char *tag) MUST_USE;
Error *snapshot_delete(Machine *machine, const char *tag) MUST_USE;
/* Text of info snapshots. Caller frees. */
Error *snapshot_describe(Machine *machine, char **ret_text) MUST_USE;

#endif
