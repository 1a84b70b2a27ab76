/*
 * Memory mapped from files that another program may shorten while it is in use. An access behind a file's
 * new end would end this program with SIGBUS; in a guarded mapping it finds fresh memory instead, and the mapping is
 * lost: what is in it has nothing to do with the file any more.
 *
 * The handler of a signal belongs to the process, so the table of mappings does, too.
 */
#ifndef OSTRICH_BASE_GUARD_H
#define OSTRICH_BASE_GUARD_H

#include "base/base.h"

/* start and bytes as they were mapped. False: there are too many. Any thread. */
bool guard_add(void *start, size_t bytes);
/* Before it is unmapped. */
void guard_remove(void *start);
/* Whether something of it was missing when it was used. */
bool guard_is_lost(void *start);

#endif
