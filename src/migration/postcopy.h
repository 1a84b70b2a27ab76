/*
 * Post-copy: the machine runs at the destination before its RAM is there. After the records of the devices the source sends
 *
 *     RAM of small blocks, RECORD_DISCARD (what is not there, or old), RECORD_RUN
 *
 * and from then on pages that are wanted, the others meanwhile, RECORD_GO once the destination is ready, RECORD_END after the last page.
 * What the destination says then:
 *
 *     P  block u32, page u64    somebody waits for this page
 *     R                         the devices are loaded: ready to run
 *     F  length u32, text       they are not: the source goes on
 *     D                         all pages are there
 *     B  blocks u32, and for each pages u64 and a bit for each page that is missing, at the beginning of a resumed connection
 *
 * Until the source has sent GO, it may go on itself; the destination does not run before it has it. From then on both keep what they
 * have when the connection breaks (postcopy-paused) and wait for another: the destination listens where migrate-recover says, the source
 * connects with "migrate resume=true" and begins with RECORD_RESUME and the token of RECORD_ADVISE.
 *
 * The threads that move pages take no machine lock once the destination may touch RAM: who holds it may be waiting for a page.
 */
#ifndef OSTRICH_MIGRATION_POSTCOPY_H
#define OSTRICH_MIGRATION_POSTCOPY_H

#include "migration/migration_priv.h"
#include "migration/state_priv.h"

enum { POSTCOPY_TOKEN = 16 };
#define POSTCOPY_EAGER_MAX (16 * MiB) /* blocks up to this size are complete before the machine runs */
enum { MSG_WANTED = 'P', MSG_DONE = 'D', MSG_MISSING = 'B' }; /* beside those of migration_priv.h */

/* --- the source --- */
typedef struct PostcopyOut PostcopyOut;
PostcopyOut *postcopy_out_new(MigrationOut *out);
void postcopy_out_free(PostcopyOut *post); /* accepts NULL */
Error *postcopy_out_advise(PostcopyOut *post) MUST_USE;
/* The devices' records were sent, the machine stands still. To the end, or an error before the destination was let go. */
Error *postcopy_out_run(PostcopyOut *post) MUST_USE;
/* Main loop: */
void postcopy_out_ask(PostcopyOut *post);            /* as soon as possible */
bool postcopy_out_asked(const PostcopyOut *post);    /* any thread */
bool postcopy_out_let_go(const PostcopyOut *post);   /* the machine runs, or may run, at the destination */
Error *postcopy_out_resume(PostcopyOut *post, const char *uri) MUST_USE;
void postcopy_out_abandon(PostcopyOut *post); /* it waits for nothing any more */

/* --- the destination --- */
typedef struct PostcopyIn PostcopyIn;
/* r is at RECORD_ADVISE. Fails when it was not expected here, or cannot be. */
Error *postcopy_in_new(MigrationIn *in, StreamReader *r, PostcopyIn **ret_post) MUST_USE;
void postcopy_in_free(PostcopyIn *post); /* accepts NULL; gives up the machine lock meanwhile */
Error *postcopy_in_discard(PostcopyIn *post, StreamReader *r) MUST_USE; /* at RECORD_DISCARD */
/* The thread: after RECORD_RUN, to the end. */
Error *postcopy_in_run(PostcopyIn *post) MUST_USE;
bool postcopy_in_is_paused(PostcopyIn *post);
Error *postcopy_in_recover(PostcopyIn *post, const char *uri) MUST_USE;
/* Main loop: it ends now; who waits for a page goes on with zeroes, so nothing may come of that. */
void postcopy_in_abandon(PostcopyIn *post);

#endif
