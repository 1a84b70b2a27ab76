/* Shared by machine_state.c and ram.c. */
#ifndef OSTRICH_MIGRATION_STATE_PRIV_H
#define OSTRICH_MIGRATION_STATE_PRIV_H

#include "migration/machine_state.h"

/* The stream's blocks by number, as this machine has them. */
typedef struct RamLoader {
    GPtrArray *blocks; /* RamBlock *, borrowed */
} RamLoader;

void ram_loader_init(RamLoader *loader);
void ram_loader_fini(RamLoader *loader);
/* The list in the machine record. */
Error *ram_loader_blocks(RamLoader *loader, Machine *machine, StreamReader *r) MUST_USE;
Error *ram_loader_packed(RamLoader *loader, StreamReader *r) MUST_USE;
Error *ram_loader_pages(RamLoader *loader, StreamReader *r) MUST_USE;

#endif
