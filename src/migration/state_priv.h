/* Shared by machine_state.c and ram.c. */
#ifndef OSTRICH_MIGRATION_STATE_PRIV_H
#define OSTRICH_MIGRATION_STATE_PRIV_H

#include "migration/lazy_ram.h"
#include "migration/machine_state.h"

/* Kinds of runs in RECORD_RAM. */
enum { RUN_ZERO, RUN_DATA, RUN_DELTA };

/* One run of pages in a record of RAM. A record's runs go upwards, so that it cannot ask for more work than its block has pages. */
typedef struct RamRun {
    uint64_t first, count;
    uint32_t kind;
} RamRun;
enum { RAM_RUN_HEAD = 16 };
/* head: RAM_RUN_HEAD bytes of the stream. *run: the one before, or zeroes; becomes this one. */
Error *ram_run_next(RamRun *run, const uint8_t *head, const RamBlock *block) MUST_USE;

/* Where the pages of a record go. */
typedef struct RamSink {
    void (*zeroes)(void *opaque, RamBlock *block, uint64_t first, uint64_t count); /* NULL: they are passed over */
    void (*data)(void *opaque, RamBlock *block, uint64_t first, uint64_t count, const uint8_t *data);
    Error *(*delta)(void *opaque, RamBlock *block, uint64_t page, StreamReader *r); /* NULL: there can be none */
} RamSink;
/* r is at the beginning of a RECORD_RAM; blocks by the stream's number, NULL: has no pages there. */
Error *ram_record_read(StreamReader *r, const GPtrArray *blocks, const RamSink *sink, void *opaque) MUST_USE;

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
