/* How fast the guest writes memory. One of a machine, owned by the migration service. Machine lock. */
#ifndef OSTRICH_MIGRATION_DIRTY_RATE_H
#define OSTRICH_MIGRATION_DIRTY_RATE_H

#include "core/vm/machine.h"

typedef struct DirtyRate DirtyRate;

DirtyRate *dirty_rate_new(Machine *machine);
void dirty_rate_free(DirtyRate *rate);
DirtyRate *dirty_rate_of(Machine *machine);

#endif
