/* Shared by the files of a migration's source. Functions here run on the migration's thread, without locks, unless they say otherwise. */
#ifndef OSTRICH_MIGRATION_OUT_PRIV_H
#define OSTRICH_MIGRATION_OUT_PRIV_H

#include "migration/migration_priv.h"
#include "migration/multifd.h"
#include "migration/postcopy.h"

struct MigrationOut {
    Migration *migration;
    Machine *machine;
    Channel *channel;
    StreamWriter writer;
    MigrationTls tls;
    char *uri;
    RamSaver *saver;
    MultifdOut *multifd; /* NULL: one connection carries all. Made under the mutex */
    PostcopyOut *postcopy; /* NULL: not wanted */
    Xbzrle *xbzrle;      /* NULL: without */
    XbzrleStats xbzrle_before; /* when the pass began */
    pthread_t thread;
    bool thread_made;
    _Atomic bool cancelled;
    Error *err;
    Work done; /* scheduled by the thread as its last act */
    MainCall call;
    pthread_mutex_t mutex; /* of go_on, multifd, channel; cancelled is set with it */
    pthread_cond_t cond;
    bool go_on;
    /* main loop */
    bool stopped;      /* the machine stands still for us */
    RunState state;    /* before that */
    int64_t stopped_at;
    GByteArray *devices; /* their records */
    /* measuring */
    int64_t measured_at, synced_at;
    uint64_t measured_bytes, synced_bytes;
    double bandwidth;  /* bytes a second */
    int64_t naps;
};

/* out.c */
Error *out_check_cancelled(const MigrationOut *out) MUST_USE;
Error *out_read_refusal(MigrationOut *out, uint8_t message) MUST_USE;
/* Waits until `bytes`, sent since `start`, have had their time. */
void out_pace(MigrationOut *out, int64_t start, uint64_t bytes, const int64_t *limit);

/* out_stats.c */
int64_t out_now_ns(const MigrationOut *out); /* any thread */
void out_set_status(MigrationOut *out, MigrationStatus status); /* takes the machine lock */
void out_update_stats(MigrationOut *out);
uint64_t out_bytes(MigrationOut *out); /* that were sent, through all connections */
void out_end_xbzrle_pass(MigrationOut *out);
/* After a pass in which so many pages were written again. */
void out_consider_throttle(MigrationOut *out, uint64_t dirtied);

#endif
