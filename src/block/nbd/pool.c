/*
 * The pool of an NBD client's connections. A lane is a connection with the number of commands on it;
 * a command takes the good lane with the fewest. One coroutine at most, the connector, makes
 * connections; commands without a lane wait until it succeeded, failed, or their time is over.
 *
 * A flush on one lane covers what was written on all: the server promises that with multi-conn, and
 * without it there is one lane.
 */
#include "block/nbd/pool.h"

#include <errno.h>
#include <string.h>

#define RETRY_NS     (500 * NS_PER_MS)
#define HANDSHAKE_NS (10 * NS_PER_SEC) /* of another connection than the first */
#define GROW_NS      (60 * NS_PER_SEC) /* after another lane could not be had */

enum { BUSY = 4 /* commands on every lane, before there is another one */ };

typedef struct Lane {
    NbdConnection *connection;
    unsigned commands;
} Lane;

struct NbdPool {
    Loop *loop;
    NbdTarget target;
    NbdInfo info; /* of the first connection; texts not used */
    Lane *lanes[NBD_POOL_MAX];
    unsigned lane_count;
    bool connecting;     /* the connector runs */
    IoStream *handshaking;
    unsigned attempts;   /* that have ended */
    int64_t lost_since;  /* ns; 0: there is a lane */
    int64_t next_try;    /* ns: no attempt before */
    int64_t next_growth; /* ns */
    CoQueue waiting;     /* for a lane, or for the connector to end */
    Timer tick;          /* wakes them to look at the clock */
};

static int64_t now_ns(const NbdPool *pool)
{
    return clock_now(loop_clocks(pool->loop), CLOCK_REALTIME_NS);
}

static void tick(void *opaque)
{
    NbdPool *pool = opaque;
    co_queue_wake_all(&pool->waiting);
}

/* --- one connection --- */

static void too_slow(void *opaque)
{
    stream_shutdown(opaque);
}

/* limit: ns for the handshake, 0: none. */
static Error *connect_co(NbdPool *pool, int64_t limit, NbdConnection **ret_connection)
{
    const NbdTarget *t = &pool->target;
    IoStream *stream;
    Timer timer;

    TRY(nbd_connect_co(pool->loop, &t->address, &stream));
    pool->handshaking = stream;
    timer_init(&timer, pool->loop, CLOCK_REALTIME_NS, too_slow, stream);
    if (limit) {
        timer_set(&timer, now_ns(pool) + limit);
    }
    const char *context = t->context ? t->context : "base:allocation";
    Error *err = nbd_connection_new_co(pool->loop, stream, t->tls, t->export, context,
                                       ret_connection);
    timer_fini(&timer);
    pool->handshaking = NULL;
    return err;
}

/* A new connection must be to the same disk. */
static bool still_fits(const NbdInfo *first, const NbdInfo *info)
{
    return info->size == first->size && info->min_block <= MAX(first->min_block, 1) &&
           !(first->flags & ~info->flags &
             (NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM |
              NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO)) &&
           !(info->flags & ~first->flags & NBD_FLAG_READ_ONLY) &&
           (info->has_context || !first->has_context) && (info->extended || !first->extended);
}

static void add_lane(NbdPool *pool, NbdConnection *connection)
{
    Lane *lane = g_new0(Lane, 1);
    lane->connection = connection;
    pool->lanes[pool->lane_count++] = lane;
    pool->lost_since = 0;
}

static void remove_lane_co(NbdPool *pool, Lane *lane)
{
    unsigned at = 0;
    while (pool->lanes[at] != lane) {
        at++;
    }
    pool->lanes[at] = pool->lanes[--pool->lane_count];
    nbd_connection_close_co(lane->connection);
    g_free(lane);
}

static Error *attempt_co(NbdPool *pool)
{
    NbdConnection *fresh;
    TRY(connect_co(pool, HANDSHAKE_NS, &fresh));
    if (!still_fits(&pool->info, nbd_connection_info(fresh)) || pool->lane_count == NBD_POOL_MAX) {
        nbd_connection_close_co(fresh);
        return error_new("The NBD server's export is another one now");
    }
    add_lane(pool, fresh);
    return NULL;
}

/* --- the connector --- */

static unsigned good_lanes(const NbdPool *pool)
{
    unsigned count = 0;
    for (unsigned i = 0; i < pool->lane_count; i++) {
        count += !nbd_connection_is_broken(pool->lanes[i]->connection);
    }
    return count;
}

static int64_t deadline(const NbdPool *pool)
{
    return pool->lost_since + pool->target.reconnect_delay;
}

static bool is_patient(const NbdPool *pool)
{
    return pool->lost_since && now_ns(pool) < deadline(pool) && !*pool->target.closing;
}

/* Until there is a lane, or nobody is going to wait any longer. */
static void connector_co(void *opaque)
{
    NbdPool *pool = opaque;

    for (;;) {
        int64_t wait = pool->next_try - now_ns(pool);
        if (wait > 0) {
            co_sleep_ns(CLOCK_REALTIME_NS, wait);
        }
        Error *err = attempt_co(pool);
        bool failed = err != NULL;
        error_free(err);
        pool->attempts++;
        pool->next_try = failed ? now_ns(pool) + RETRY_NS : 0;
        pool->next_growth = failed ? now_ns(pool) + GROW_NS : 0;
        if (!failed || !is_patient(pool)) {
            break;
        }
        co_queue_wake_all(&pool->waiting);
    }
    pool->connecting = false;
    co_queue_wake_all(&pool->waiting);
}

static void start_connector(NbdPool *pool)
{
    pool->connecting = true;
    co_start(pool->loop, connector_co, pool);
}

/* Another lane, when all are busy. */
static void consider_growth(NbdPool *pool, const Lane *least)
{
    if (pool->lane_count < pool->target.connections && least->commands >= BUSY &&
        !pool->connecting && (pool->info.flags & NBD_FLAG_CAN_MULTI_CONN) &&
        now_ns(pool) >= pool->next_growth) {
        start_connector(pool);
    }
}

/* --- commands --- */

/* The good lane with the fewest commands; NULL: there is none. */
static Lane *best_lane_co(NbdPool *pool)
{
    Lane *best = NULL;
    for (unsigned i = 0; i < pool->lane_count; i++) {
        Lane *lane = pool->lanes[i];
        if (nbd_connection_is_broken(lane->connection)) {
            if (!lane->commands) {
                remove_lane_co(pool, lane);
                return best_lane_co(pool); /* others may have changed the table meanwhile */
            }
        } else if (!best || lane->commands < best->commands) {
            best = lane;
        }
    }
    return best;
}

/* 0 when there is a good lane. */
static int wait_for_lane_co(NbdPool *pool)
{
    unsigned attempts = pool->attempts;

    if (!pool->lost_since) {
        pool->lost_since = now_ns(pool);
    }
    for (;;) {
        bool patient = is_patient(pool);
        if (!pool->connecting) {
            if (!patient && (pool->attempts != attempts || now_ns(pool) < pool->next_try)) {
                return -EIO;
            }
            start_connector(pool);
        }
        if (good_lanes(pool)) {
            return 0;
        }
        if (pool->connecting) {
            timer_set(&pool->tick, now_ns(pool) + RETRY_NS);
            co_queue_wait(&pool->waiting);
        }
        if (good_lanes(pool)) {
            return 0;
        }
        if (pool->target.reconnect_delay && !is_patient(pool)) {
            return -EIO; /* also while an attempt goes on that does not come to an end */
        }
    }
}

static int run_on_lane_co(NbdPool *pool, Lane *lane, const NbdCommand *cmd)
{
    lane->commands++;
    int ret = nbd_command_co(lane->connection, cmd);
    if (--lane->commands == 0 && nbd_connection_is_broken(lane->connection)) {
        remove_lane_co(pool, lane);
    }
    return ret;
}

int nbd_pool_command_co(NbdPool *pool, const NbdCommand *cmd)
{
    for (;;) {
        Lane *lane = best_lane_co(pool);
        int ret = lane ? 0 : wait_for_lane_co(pool);
        if (ret < 0) {
            return ret;
        }
        if (!lane) {
            continue;
        }
        consider_growth(pool, lane);
        ret = run_on_lane_co(pool, lane, cmd);
        if (ret != -ENOTCONN) {
            return ret;
        }
        if (!pool->target.reconnect_delay) {
            return -EIO;
        }
    }
}

/* --- opening and closing --- */

static Error *first_connection_co(NbdPool *pool, int64_t timeout, NbdConnection **ret_connection)
{
    int64_t end = now_ns(pool) + timeout;

    for (;;) {
        int64_t left = MAX(end - now_ns(pool), NS_PER_MS);
        Error *err = connect_co(pool, timeout ? left : 0, ret_connection);
        if (!err || now_ns(pool) >= end) {
            return err;
        }
        error_free(err);
        co_sleep_ns(CLOCK_REALTIME_NS, MIN(RETRY_NS, MAX(end - now_ns(pool), 0)));
    }
}

Error *nbd_pool_open_co(Loop *loop, const NbdTarget *target, int64_t open_timeout,
                        NbdPool **ret_pool)
{
    NbdPool *pool = g_new0(NbdPool, 1);
    NbdConnection *first;

    pool->loop = loop;
    pool->target = *target;
    *ret_pool = pool; /* for nbd_pool_yank() */
    Error *err = first_connection_co(pool, open_timeout, &first);
    if (err) {
        *ret_pool = NULL;
        g_free(pool);
        return err;
    }
    co_queue_init(&pool->waiting);
    timer_init(&pool->tick, loop, CLOCK_REALTIME_NS, tick, pool);
    pool->info = *nbd_connection_info(first);
    pool->info.name = pool->info.description = NULL;
    pool->info.contexts = NULL;
    add_lane(pool, first);
    return NULL;
}

void nbd_pool_yank(NbdPool *pool)
{
    if (pool->handshaking) {
        stream_shutdown(pool->handshaking);
    }
    for (unsigned n = 0; n < pool->lane_count; n++) {
        nbd_connection_yank(pool->lanes[n]->connection);
    }
}

void nbd_pool_close_co(NbdPool *pool)
{
    if (!pool) {
        return;
    }
    while (pool->connecting) {
        if (pool->handshaking) {
            stream_shutdown(pool->handshaking);
        }
        co_queue_wait(&pool->waiting);
    }
    while (pool->lane_count) {
        remove_lane_co(pool, pool->lanes[0]);
    }
    timer_fini(&pool->tick);
    g_free(pool);
}

const NbdInfo *nbd_pool_info(const NbdPool *pool)
{
    return &pool->info;
}
