/* Shared by the files of a migration's destination. */
#ifndef OSTRICH_MIGRATION_IN_PRIV_H
#define OSTRICH_MIGRATION_IN_PRIV_H

#include "migration/migration_priv.h"
#include "migration/multifd.h"
#include "migration/postcopy.h"

struct MigrationIn {
    Migration *migration;
    Machine *machine;
    int listener; /* -1: none */
    LoopFd *source;
    pthread_mutex_t mutex; /* of channel, once the thread runs */
    Channel *channel;      /* NULL: a post-copy migration is paused */
    StreamReader reader;
    MigrationTls tls;
    StateLoader *loader;
    MultifdIn *multifd;   /* NULL: one connection carries all */
    PostcopyIn *postcopy; /* NULL: all comes before the machine runs. Made under the mutex */
    pthread_t thread;
    bool thread_made, cancelled, refused;
    bool heard; /* the thread: the source has said something */
    bool started; /* main loop: the machine is what the source had */
    MainCall call;
    Work begin; /* without a listener: once the main loop runs */
    Work done; /* scheduled by the thread as its last act */
    Error *err;
    RunState state;
};

/* Main loop: as the source had it. */
void migration_in_run_machine(MigrationIn *in);
/* A thread of the migration, without locks. */
Error *migration_in_take_disks(MigrationIn *in) MUST_USE;
/* The source hears why; once. */
void migration_in_refuse(MigrationIn *in, const Error *why);

#endif
