/*
 * multifd: pages go through several connections, each with a thread at either end that packs and unpacks. The first connection of a
 * migration carries everything else. There RECORD_CHANNELS says how many more there are, and a token that the first record of each,
 * RECORD_CHANNEL, repeats. RECORD_SYNC in all of them at once keeps passes apart: what was sent before it is in RAM before
 * anything behind it is.
 *
 * A record that a connection cannot take at the destination is remembered, and the rest of that connection is read and forgotten, until
 * the first connection comes to its next record and says why.
 *
 * Threads: as each function says; "the thread" is the migration's.
 */
#ifndef OSTRICH_MIGRATION_MULTIFD_H
#define OSTRICH_MIGRATION_MULTIFD_H

#include "migration/migration_priv.h"
#include "migration/state_priv.h"

enum { MULTIFD_MAX = 255, MULTIFD_TOKEN = 16 };

/* --- the source --- */
typedef struct MultifdOut MultifdOut;

typedef struct MultifdOptions {
    const char *uri; /* tcp: or unix: */
    unsigned channels;
    RamPacking packing;
} MultifdOptions;

/* The thread. Connects, and tells in `w`, the first connection. On failure free it, too. */
MultifdOut *multifd_out_new(Machine *machine, RamSaver *saver, const MigrationTls *tls);
Error *multifd_out_connect(MultifdOut *out, StreamWriter *w, const MultifdOptions *options) MUST_USE;
/* Sends about `budget` bytes of what is pending, or all of it. */
Error *multifd_out_send(MultifdOut *out, uint64_t budget) MUST_USE;
Error *multifd_out_sync(MultifdOut *out, StreamWriter *w) MUST_USE;
uint64_t multifd_out_bytes(MultifdOut *out);  /* any thread */
void multifd_out_cancel(MultifdOut *out); /* any thread: what is under way fails. Accepts NULL */
void multifd_out_free(MultifdOut *out); /* accepts NULL; no lock */

/* --- the destination --- */
typedef struct MultifdIn MultifdIn;

/* The thread. Takes the connections from the listener, which is borrowed; r is at RECORD_CHANNELS, `first` where it came from. */
Error *multifd_in_new(Machine *machine, const RamLoader *loader, StreamReader *r, Channel *first, int listener, const MigrationTls *tls,
                      MultifdIn **ret_in) MUST_USE;
Error *multifd_in_sync(MultifdIn *in, StreamReader *r) MUST_USE; /* r is at RECORD_SYNC; waits for all */
Error *multifd_in_check(MultifdIn *in) MUST_USE; /* whether one has failed */
/* It has failed in the first connection: the others are read to their ends, so that the source comes to hear why. Accepts NULL. */
void multifd_in_fail(MultifdIn *in);
void multifd_in_free(MultifdIn *in); /* accepts NULL; no lock */

#endif
