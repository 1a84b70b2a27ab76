/* Shared by the files of snapshots inside images. */
#ifndef OSTRICH_MIGRATION_SNAPSHOT_PRIV_H
#define OSTRICH_MIGRATION_SNAPSHOT_PRIV_H

#include "block/job.h"
#include "migration/machine_state.h"
#include "migration/migration_priv.h"
#include "migration/snapshot.h"

/* The images that a snapshot is made of. */
typedef struct SnapshotSet {
    GPtrArray *nodes;      /* BlockNode *, referenced */
    BlockNode *state_node; /* one of them: has the machine's state */
} SnapshotSet;

/* Image tests compare it. */
#define SNAPSHOT_NOWHERE "no block device can store vmstate for snapshot"

/* Every image that the guest may write, or that is open for nobody yet, or exported; the first one has the state. */
Error *snapshot_set_all(Machine *machine, SnapshotSet *ret_set) MUST_USE;
/* The nodes with these names; state_name NULL: the state is not asked for. */
Error *snapshot_set_named(Machine *machine, const Value *names, const char *state_name, SnapshotSet *ret_set) MUST_USE;
void snapshot_set_clear(SnapshotSet *set);
/* Nodes that the guest may write and that the machine's state does not have, each once; borrowed. */
GPtrArray *snapshot_written_nodes(Machine *machine);

/* By name or id; a copy, or NULL. */
BlockSnapshot *snapshot_find(BlockNode *node, const char *tag);

/* One call of an image's driver; in a coroutine or outside. */
typedef struct SnapshotCall {
    BlockNode *node;
    const BlockSnapshot *snapshot;
    const char *id;
    uint64_t offset;
    void *buffer;
    size_t length;
    int ret;
    Error *err;
} SnapshotCall;
typedef enum SnapshotVerb { SNAPSHOT_CREATE, SNAPSHOT_APPLY, SNAPSHOT_DELETE, SNAPSHOT_WRITE, SNAPSHOT_READ, SNAPSHOT_FLUSH } SnapshotVerb;
Error *snapshot_call(SnapshotCall *call, SnapshotVerb verb) MUST_USE;
/* ret_found is set to true when one of them had it, and left alone otherwise. */
Error *snapshot_delete_set(const SnapshotSet *set, const char *tag, bool *ret_found) MUST_USE;

/* The stream in an image; opaque of image_stream_write() and image_stream_read(). */
typedef struct ImageStream {
    BlockNode *node;
    uint64_t offset; /* of the buffer's begin */
    uint64_t size;   /* of the whole, when reading */
    size_t used, at;
    uint8_t *buffer;
} ImageStream;
void image_stream_init(ImageStream *s, BlockNode *node, uint64_t size);
void image_stream_fini(ImageStream *s);
Error *image_stream_write(void *opaque, const void *data, size_t length) MUST_USE;
Error *image_stream_read(void *opaque, void *data, size_t length) MUST_USE;
Error *image_stream_flush(ImageStream *s) MUST_USE;

/* No migration and no other snapshot is under way. */
Error *snapshot_check_free(Machine *machine) MUST_USE;
/* Runs fn on the main loop, outside of coroutines, with the machine lock; the coroutine waits. */
void snapshot_outside_co(Machine *machine, void (*fn)(void *opaque), void *opaque);

/* snapshot_save.c. In a coroutine of the main loop. job may be NULL. */
Error *snapshot_save_co(Machine *machine, const SnapshotSet *set, const char *tag, Job *job) MUST_USE;
/* snapshot.c. Outside of coroutines. */
Error *snapshot_load_set(Machine *machine, const SnapshotSet *set, const char *tag) MUST_USE;
/* After a state was loaded: runs when the machine ran before, as what was loaded says. */
void snapshot_go_on(Machine *machine, RunState loaded);

#endif
