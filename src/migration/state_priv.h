/* Shared by machine_state.c and ram.c. */
#ifndef OSTRICH_MIGRATION_STATE_PRIV_H
#define OSTRICH_MIGRATION_STATE_PRIV_H

#include "migration/lazy_ram.h"
#include "migration/machine_state.h"

/* Kinds of runs in RECORD_RAM. */
enum { RUN_ZERO, RUN_DATA, RUN_DELTA };

/* The stream's blocks by number, as this machine has them. */
typedef struct RamLoader {
    GPtrArray *blocks; /* RamBlock *, borrowed */
    LazyRam *lazy;     /* pages that are missing are placed there; NULL: none is */
} RamLoader;

#define RAM_RECORD_MAX (8 * MiB) /* of a record that was packed */

/* Pages may be loaded by several threads at once, once the blocks are known. */
void ram_loader_init(RamLoader *loader);
void ram_loader_fini(RamLoader *loader);
/* The list in the machine record. */
Error *ram_loader_blocks(RamLoader *loader, Machine *machine, StreamReader *r) MUST_USE;
Error *ram_loader_packed(const RamLoader *loader, StreamReader *r) MUST_USE;
Error *ram_loader_pages(const RamLoader *loader, StreamReader *r) MUST_USE;

#endif
