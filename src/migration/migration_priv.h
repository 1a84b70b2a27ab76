/* Shared by the files of this folder that move a running machine. */
#ifndef OSTRICH_MIGRATION_MIGRATION_PRIV_H
#define OSTRICH_MIGRATION_MIGRATION_PRIV_H

#include <pthread.h>

#include "migration/blocktime.h"
#include "migration/channel.h"
#include "migration/machine_state.h"
#include "migration/migration.h"
#include "value/value.h"

#define MIGRATION_SERVICE "migration"

typedef enum MigrationStatus {
    MIGRATION_NONE,
    MIGRATION_SETUP,
    MIGRATION_CANCELLING,
    MIGRATION_CANCELLED,
    MIGRATION_ACTIVE,
    MIGRATION_POSTCOPY_ACTIVE,
    MIGRATION_POSTCOPY_PAUSED,
    MIGRATION_POSTCOPY_RECOVER,
    MIGRATION_PRE_SWITCHOVER,
    MIGRATION_DEVICE,
    MIGRATION_COMPLETED,
    MIGRATION_FAILED,
} MigrationStatus;
const char *migration_status_name(MigrationStatus status); /* as QMP spells it */

typedef struct MigrationParams {
    int64_t max_bandwidth;  /* bytes a second, 0: no limit */
    int64_t downtime_limit; /* ms */
    int64_t throttle_trigger, throttle_initial, throttle_increment, max_throttle; /* percent */
    bool throttle_tailslow;
    int64_t compress_level; /* of zlib */
    PackMethod multifd_compression;
    int64_t multifd_channels, multifd_zlib_level, multifd_zstd_level;
    int64_t xbzrle_cache_size;      /* bytes, a power of two */
    int64_t max_postcopy_bandwidth; /* bytes a second that nobody asked for, 0: no limit */
    int64_t announce_initial, announce_max, announce_rounds, announce_step; /* of the cards at the destination; net/announce.h */
    Value *bitmap_mapping; /* of the capability dirty-bitmaps; NULL: by their names */
} MigrationParams;

typedef struct MigrationCaps {
    bool auto_converge, events, return_path, pause_before_switchover, late_block_activate, dirty_bitmaps, validate_uuid, compress;
    bool multifd, xbzrle, postcopy, ignore_shared;
    bool postcopy_preempt; /* wanted pages go ahead of all others in any case */
    bool postcopy_blocktime; /* how long CPUs wait for pages is measured */
} MigrationCaps;

typedef struct MigrationOut MigrationOut;
typedef struct MigrationIn MigrationIn;

/* What query-migrate tells; of the last or current outgoing one. */
typedef struct MigrationStats {
    uint64_t total, remaining, transferred;        /* bytes */
    uint64_t zero_pages, data_pages, dirty_rate;   /* pages, pages, pages a second */
    uint64_t passes;
    uint64_t multifd_bytes, downtime_bytes, postcopy_bytes, postcopy_requests;
    bool has_xbzrle;
    uint64_t xbzrle_size;
    XbzrleStats xbzrle;
    double xbzrle_miss_rate, xbzrle_encoding_rate; /* of the last pass */
    double mbps;
    int64_t start_ms, total_ms, setup_ms, downtime_ms, expected_downtime_ms;
    unsigned throttle;
} MigrationStats;

enum { MIGRATION_TLS_CREDS, MIGRATION_TLS_HOSTNAME, MIGRATION_TLS_AUTHZ, MIGRATION_TLS_PARAMS };

typedef struct Migration {
    Machine *machine;
    char *tls[MIGRATION_TLS_PARAMS]; /* NULL or "": not set */
    MigrationParams params; /* read by the thread without lock: single words */
    MigrationCaps caps;
    MigrationStatus status;
    char *error;
    MigrationStats stats;
    MigrationOut *out; /* under way */
    MigrationIn *in;
    bool in_started;
    bool outgoing; /* what status and stats tell of */
    int lazy_host; /* for lazy_ram_new(); -1: this host has nothing for it */
    MachineNotifier notifier;
    bool snapshot; /* one is being made or loaded */
    Blocktime *blocktime; /* main loop, while no thread runs; of the last post-copy migration to here; NULL: none was measured */
    struct LazyLoad *lazy_load;    /* lazy_load.c: memory that is still to be loaded; NULL: none */
    struct MemorySnapshot *memory; /* memory_snapshot.c; NULL: none */
    struct DirtyRate *dirty_rate;
} Migration;

Migration *migration_of(Machine *machine);
/* Machine lock. Emits MIGRATION when that is wanted. */
void migration_set_status(Migration *migration, MigrationStatus status);
bool migration_busy(const Migration *migration);

/* params.c */
Error *migration_postcopy_check(const Migration *migration) MUST_USE; /* whether it can come here so */
void migration_params_init(MigrationParams *params);

/* tls.c */
typedef struct MigrationTls {
    TlsKeys *keys; /* NULL: not encrypted */
    char *hostname, *authz;
} MigrationTls;
Error *migration_tls_set(Migration *migration, const Value *parameters) MUST_USE;
void migration_tls_show(const Migration *migration, Value *parameters);
Error *migration_tls_prepare(const Migration *migration, const char *uri, bool server, MigrationTls *ret_tls) MUST_USE;
/* On the thread that moves the stream, without the lock. */
Error *migration_tls_begin(const MigrationTls *tls, Machine *machine, Channel *channel) MUST_USE;
void migration_tls_clear(MigrationTls *tls);

/* throttle.c: the guest gets less of the CPUs' time. Percent of it that is taken; *next_ns is the caller's, at first 0. */
void migration_throttle(Machine *machine, int64_t *next_ns, unsigned percent);

/* bitmaps.c. The machine stands still. */
Error *migration_bitmaps_write(Migration *migration, StreamWriter *w) MUST_USE;
Error *migration_bitmaps_load(Migration *migration, const GPtrArray *records) MUST_USE;

/* memory_snapshot.c. Accepts NULL. */
void memory_snapshot_free(struct MemorySnapshot *snapshot);

/* out.c */
Error *migration_out_start(Migration *migration, const char *uri) MUST_USE;
void migration_out_cancel(Migration *migration);
/* It fails, as when the other side were gone. */
void migration_out_yank(Migration *migration);
Error *migration_out_continue(Migration *migration) MUST_USE;
bool migration_out_is_gone(const Migration *migration); /* post-copy: the machine runs, or may run, at the destination */
Error *migration_out_start_postcopy(Migration *migration) MUST_USE;
Error *migration_out_resume(Migration *migration, const char *uri) MUST_USE;
void migration_out_free(Migration *migration); /* waits for the thread */
/* in.c */
Error *migration_in_start(Migration *migration, const char *uri) MUST_USE;
void migration_in_free(Migration *migration);
Value *migration_in_addresses(const Migration *migration); /* where it listens; NULL: it does not. The caller's */
Error *migration_in_recover(Migration *migration, const char *uri) MUST_USE;
void migration_in_shutdown(Migration *migration); /* the machine is about to end */
void migration_in_yank(Migration *migration);

/* main_call.c: what the thread of a migration has the main loop do, with the machine lock held, and waits for. */
typedef struct MainCall {
    Work work;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    void (*fn)(void *opaque);
    void *opaque;
    bool done, abandoned;
} MainCall;
void main_call_init(MainCall *call, Loop *loop);
void main_call_fini(MainCall *call); /* main loop; nobody waits any more */
/* The thread, without locks. Returns too, without fn having run, once the call is abandoned. */
void main_call(MainCall *call, void (*fn)(void *opaque), void *opaque);
void main_call_abandon(MainCall *call); /* main loop: it will not come to it */

enum { MSG_READY = 'R', MSG_FAILED = 'F', MSG_GO = 'G' };
enum { MSG_TEXT_MAX = 4096 };

#endif
