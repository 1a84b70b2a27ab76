/*
 * A machine as records: what both sides must have in common, RAM, clock, devices. Used by migration,
 * files and snapshots alike.
 */
#ifndef OSTRICH_MIGRATION_MACHINE_STATE_H
#define OSTRICH_MIGRATION_MACHINE_STATE_H

#include "core/vm/machine.h"
#include "migration/pack.h"
#include "migration/stream.h"
#include "migration/xbzrle.h"

/* --- saving --- */
/* Machine lock. The first record. */
Error *state_write_machine(Machine *machine, StreamWriter *w) MUST_USE;
/* Devices finish their requests or give them back. The machine is stopped. Machine lock. */
void state_rest_devices(Machine *machine);
/* The machine is stopped, no request of a back end is under way. Machine lock. Clock and devices. */
Error *state_write_devices(Machine *machine, RunState state, StreamWriter *w) MUST_USE;
/* The destination must have the machine's UUID. */
Error *state_write_uuid(Machine *machine, StreamWriter *w) MUST_USE;
/* The last record. answer: the source waits for the destination's word. */
Error *state_write_end(StreamWriter *w, bool answer) MUST_USE;

/* Pages that have to be sent. */
typedef struct RamPages {
    RamBlock *block;
    uint8_t *pending; /* one byte a page */
    uint64_t pages, left;
    bool skipped;
} RamPages;
/* How the records of RAM are made smaller. */
typedef struct RamPacking {
    PackMethod method;
    int level;
    Xbzrle *xbzrle; /* NULL: without; borrowed */
} RamPacking;

/* Pages of one block that one record takes. */
enum { RAM_CHUNK_PAGES = 128, RAM_CHUNK_RUNS = 64 };
typedef struct RamChunk {
    RamBlock *block; /* borrowed from the saver */
    unsigned index, pages, runs;
    struct {
        uint64_t first;
        unsigned count;
    } run[RAM_CHUNK_RUNS];
    uint64_t zero_pages, data_pages; /* found while it was written */
} RamChunk;

typedef struct RamSaver {
    Machine *machine;
    GArray *blocks; /* RamPages */
    unsigned at_block;
    uint64_t at_page;
    bool tracking;
    RamPacking packing; /* of ram_saver_send() */
    uint64_t left, total; /* pages */
    uint64_t zero_pages, data_pages, synced; /* statistics */
} RamSaver;
/* All pages are pending. track: from now on writes are noted, for ram_saver_sync(). Machine lock. */
bool ram_page_is_zero(const void *page);
RamSaver *ram_saver_new(Machine *machine, bool track);
/* Nothing is sent of memory that lies in a file which others share: the other side has the same file. */
void ram_saver_skip_shared(RamSaver *saver);
void ram_saver_free(RamSaver *saver); /* machine lock; accepts NULL */
/* Whether the machine still has the blocks that it had. Machine lock. */
Error *ram_saver_check(const RamSaver *saver) MUST_USE;
/* Adds what was written since the last time. Machine lock, given up meanwhile. Pages found. */
uint64_t ram_saver_sync(RamSaver *saver);
/* Sends about `budget` bytes, or what is left. No lock: the guest may be writing. */
Error *ram_saver_send(RamSaver *saver, StreamWriter *w, uint64_t budget) MUST_USE;
/*
 * The same in steps, for several threads: some of the pages that are pending are taken (one thread at a time), written, and counted
 * (one thread at a time).
 */
bool ram_saver_take(RamSaver *saver, unsigned limit, RamChunk *ret_chunk);
Error *ram_chunk_write(RamChunk *chunk, StreamWriter *w, const RamPacking *packing) MUST_USE;
void ram_saver_count(RamSaver *saver, const RamChunk *chunk);
/* For post-copy, whose machine stands still. */
uint64_t ram_saver_pages(const RamSaver *saver, unsigned index);
bool ram_saver_is_pending(const RamSaver *saver, uint32_t index, uint64_t page); /* false too where there is none */
/* Just those whose bits are set. */
void ram_saver_set_pending(RamSaver *saver, unsigned index, const uint8_t *bits);
/* What is pending of blocks up to that size. */
Error *ram_saver_send_small(RamSaver *saver, StreamWriter *w, uint64_t size) MUST_USE;
/* RECORD_DISCARD of what is pending of larger ones. */
Error *ram_saver_send_discard(RamSaver *saver, StreamWriter *w, uint64_t size) MUST_USE;
/* The next pages are taken from there on. */
void ram_saver_go_to(RamSaver *saver, unsigned index, uint64_t page);

/* --- loading --- */
typedef struct StateLoader StateLoader;
StateLoader *state_loader_new(Machine *machine);
void state_loader_free(StateLoader *loader);
/* Reads header and records up to the end, or RECORD_RUN (r->kind tells). RAM is written as it comes; no lock is needed, the machine stands still. */
Error *state_loader_read(StateLoader *loader, StreamReader *r) MUST_USE;
/* Asked before each record: whether it was taken, by whoever reads the stream, together with its number, and is not read here. */
void state_loader_set_skip(StateLoader *loader, Error *(*skip)(void *opaque, StreamReader *r, bool *ret_skipped), void *opaque);
const GPtrArray *state_loader_blocks(const StateLoader *loader); /* RamBlock *, by the stream's numbers; none before the first record */
/* Devices take over what was read. Machine lock; on failure the machine is in no usable state. */
Error *state_loader_finish(StateLoader *loader, RunState *ret_state) MUST_USE;
/* Payloads of RECORD_BITMAP that were read (GByteArray *); borrowed. Before, they must be wanted; otherwise they are an error. */
void state_loader_want_bitmaps(StateLoader *loader);
const GPtrArray *state_loader_bitmaps(const StateLoader *loader);
/*
 * Records that only a migration has, of other kinds than those of machine_state.c: fn reads one. check, before every record, says whether
 * to go on.
 */
typedef struct StateLoaderMore {
    Error *(*record)(void *opaque, StreamReader *r);
    Error *(*check)(void *opaque);
    void *opaque;
} StateLoaderMore;
void state_loader_set_more(StateLoader *loader, const StateLoaderMore *more);
struct RamLoader *state_loader_ram(StateLoader *loader); /* borrowed */
/* Whether the source waits for an answer; known when all was read. */
bool state_loader_answers(const StateLoader *loader);

#endif
