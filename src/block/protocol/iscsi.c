/*
 * Driver "iscsi": a disk of an iSCSI target, through libiscsi, which is opened when first used. SCSI block commands: SBC-3.
 *
 * Missing: iSER, persistent reservations and SG_IO of guests; the unit's map of what is allocated is not asked for.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "base/library.h"
#include "block/protocol/remote.h"
#include "crypto/secret.h"

#define ISCSI_CALLS(C) \
    C(iscsi_create_context) C(iscsi_destroy_context) C(iscsi_get_error) C(iscsi_set_targetname) C(iscsi_set_session_type) \
    C(iscsi_set_header_digest) C(iscsi_set_initiator_username_pwd) C(iscsi_set_timeout) C(iscsi_full_connect_sync) \
    C(iscsi_logout_sync) C(iscsi_readcapacity16_sync) C(iscsi_readcapacity10_sync) C(iscsi_modesense6_sync) \
    C(iscsi_read16_iov_sync) C(iscsi_write16_iov_sync) C(iscsi_synchronizecache10_sync) C(iscsi_writesame16_sync) \
    C(iscsi_unmap_sync) C(iscsi_set_reconnect_max_retries) C(scsi_datain_unmarshall) C(scsi_free_scsi_task)
typedef struct IscsiApi {
    ISCSI_CALLS(LIBRARY_POINTER)
} IscsiApi;
#define ISCSI_CALL(name) LIBRARY_CALL(IscsiApi, name)
static const LibraryCall iscsi_calls[] = { ISCSI_CALLS(ISCSI_CALL) };
static const Library iscsi_library = { "the iSCSI library", "libiscsi.so.7", "libiscsi7", iscsi_calls, G_N_ELEMENTS(iscsi_calls) };

enum { DEFAULT_PORT = 3260, MAX_TRANSFER = 1 << 20, DEFAULT_TIMEOUT = 60, RECONNECTS = 10, WRITE_PROTECTED = 0x80 };
#define MAX_LUN 0xffff

typedef struct IscsiState {
    IscsiApi lib;
    struct iscsi_context *context;
    char *portal, *target, *user, *password, *initiator, *digest;
    uint64_t lun, timeout, blocks;
    uint32_t block_bytes;
    bool writes, read_only, unmaps, unmapped_is_zero, no_write_same;
    RemoteLine line;
} IscsiState;

static Error *iscsi_error(const IscsiState *s, const char *what)
{
    return error_new("iSCSI: %s: %s", what, s->context ? s->lib.iscsi_get_error(s->context) : "no memory");
}

/* Ends a command: 0 when it went well. */
static int finish(const IscsiState *s, struct scsi_task *task)
{
    int ret = -EIO;
    if (task) {
        bool invalid = task->status == SCSI_STATUS_CHECK_CONDITION && task->sense.key == SCSI_SENSE_ILLEGAL_REQUEST;
        bool late = task->status == SCSI_STATUS_TIMEOUT;
        ret = task->status == SCSI_STATUS_GOOD ? 0 : invalid ? -ENOTSUP : late ? -ETIMEDOUT : -EIO;
        s->lib.scsi_free_scsi_task(task);
    }
    return ret;
}

/* --- connecting: on a worker thread --- */

static Error *read_capacity(IscsiState *s)
{
    struct scsi_task *task = s->lib.iscsi_readcapacity16_sync(s->context, (int)s->lun);
    struct scsi_readcapacity16 *facts = task && task->status == SCSI_STATUS_GOOD ? s->lib.scsi_datain_unmarshall(task) : NULL;
    if (facts) {
        s->blocks = facts->returned_lba + 1;
        s->block_bytes = facts->block_length;
        s->unmaps = facts->lbpme;
        s->unmapped_is_zero = facts->lbpme && facts->lbprz;
    }
    if (task) {
        s->lib.scsi_free_scsi_task(task);
    }
    if (!facts) { /* a CD, or an old disk */
        task = s->lib.iscsi_readcapacity10_sync(s->context, (int)s->lun, 0, 0);
        struct scsi_readcapacity10 *old = task && task->status == SCSI_STATUS_GOOD ? s->lib.scsi_datain_unmarshall(task) : NULL;
        s->blocks = old ? (uint64_t)old->lba + 1 : 0;
        s->block_bytes = old ? old->block_size : 0;
        if (task) {
            s->lib.scsi_free_scsi_task(task);
        }
    }
    if (!s->block_bytes) {
        return iscsi_error(s, "the unit does not tell its size");
    }
    if (!IS_POW2(s->block_bytes) || s->block_bytes < 512 || s->block_bytes > 65536 || s->blocks > INT64_MAX / s->block_bytes) {
        return error_new("iSCSI: a unit of %" PRIu64 " blocks of %u bytes cannot be used", s->blocks, s->block_bytes);
    }
    return NULL;
}

/* What the unit says of itself in the header of its mode pages. */
static void read_protection(IscsiState *s)
{
    struct scsi_task *task = s->lib.iscsi_modesense6_sync(s->context, (int)s->lun, 1, SCSI_MODESENSE_PC_CURRENT,
                                                          SCSI_MODEPAGE_RETURN_ALL_PAGES, 0, 255);
    if (task && task->status == SCSI_STATUS_GOOD && task->datain.size >= 3) {
        s->read_only = task->datain.data[2] & WRITE_PROTECTED;
    }
    if (task) {
        s->lib.scsi_free_scsi_task(task);
    }
}

static Error *set_digest(IscsiState *s)
{
    static const struct {
        const char *name;
        enum iscsi_header_digest value;
    } digests[] = { { "none", ISCSI_HEADER_DIGEST_NONE }, { "crc32c", ISCSI_HEADER_DIGEST_CRC32C },
                    { "none-crc32c", ISCSI_HEADER_DIGEST_NONE_CRC32C }, { "crc32c-none", ISCSI_HEADER_DIGEST_CRC32C_NONE } };
    for (size_t i = 0; i < ARRAY_SIZE(digests); i++) {
        if (!strcmp(s->digest ? s->digest : "none-crc32c", digests[i].name)) {
            s->lib.iscsi_set_header_digest(s->context, digests[i].value);
            return NULL;
        }
    }
    return error_new("header-digest=%s: none, crc32c, none-crc32c or crc32c-none is expected", s->digest);
}

static Error *connect_steps(IscsiState *s)
{
    TRY(library_open(&iscsi_library, &s->lib)); /* it may need more stack than coroutines have */
    s->context = s->lib.iscsi_create_context(s->initiator);
    if (!s->context) {
        return iscsi_error(s, "could not begin");
    }
    if (s->lib.iscsi_set_targetname(s->context, s->target) < 0 ||
        s->lib.iscsi_set_session_type(s->context, ISCSI_SESSION_NORMAL) < 0 ||
        (s->user && s->lib.iscsi_set_initiator_username_pwd(s->context, s->user, s->password ? s->password : "") < 0)) {
        return iscsi_error(s, "could not use the options");
    }
    TRY(set_digest(s));
    s->lib.iscsi_set_timeout(s->context, (int)s->timeout);
    s->lib.iscsi_set_reconnect_max_retries(s->context, s->timeout ? RECONNECTS : -1);
    if (s->lib.iscsi_full_connect_sync(s->context, s->portal, (int)s->lun) < 0) {
        g_autofree char *what = g_strdup_printf("could not log in to %s", s->portal);
        return iscsi_error(s, what);
    }
    TRY(read_capacity(s));
    read_protection(s);
    return s->writes && s->read_only ? error_new("iSCSI: the unit is write-protected: use read-only=on") : NULL;
}

static void hang_up(IscsiState *s)
{
    if (s->context) {
        s->lib.iscsi_destroy_context(s->context);
    }
    s->context = NULL;
}

typedef struct ConnectCall {
    IscsiState *s;
    Error *err;
} ConnectCall;

static int connect_call(void *opaque)
{
    ConnectCall *call = opaque;
    call->err = connect_steps(call->s);
    if (call->err) {
        hang_up(call->s);
    }
    return 0;
}

static int hang_up_call(void *opaque)
{
    IscsiState *s = opaque;
    if (!s->line.silent) {
        s->lib.iscsi_logout_sync(s->context);
    }
    hang_up(s);
    return 0;
}

/* --- requests: on a worker thread --- */

static int read_call(void *opaque)
{
    RemoteCall *call = opaque;
    IscsiState *s = call->state;
    struct scsi_iovec iov = { call->data, call->bytes };
    return finish(s, s->lib.iscsi_read16_iov_sync(s->context, (int)s->lun, call->offset / s->block_bytes, (uint32_t)call->bytes,
                                                  (int)s->block_bytes, 0, 0, 0, 0, 0, &iov, 1));
}

static int write_call(void *opaque)
{
    RemoteCall *call = opaque;
    IscsiState *s = call->state;
    struct scsi_iovec iov = { call->data, call->bytes };
    return finish(s, s->lib.iscsi_write16_iov_sync(s->context, (int)s->lun, call->offset / s->block_bytes, NULL,
                                                   (uint32_t)call->bytes, (int)s->block_bytes, 0, 0, 0, 0, 0, &iov, 1));
}

static int flush_call(void *opaque)
{
    IscsiState *s = ((RemoteCall *)opaque)->state;
    return finish(s, s->lib.iscsi_synchronizecache10_sync(s->context, (int)s->lun, 0, 0, 0, 0));
}

static int unmap_call(void *opaque)
{
    RemoteCall *call = opaque;
    IscsiState *s = call->state;
    struct unmap_list list = { call->offset / s->block_bytes, (uint32_t)(call->bytes / s->block_bytes) };
    return finish(s, s->lib.iscsi_unmap_sync(s->context, (int)s->lun, 0, 0, &list, 1));
}

static int zero_call(void *opaque)
{
    RemoteCall *call = opaque;
    IscsiState *s = call->state;
    g_autofree uint8_t *block = g_malloc0(s->block_bytes);
    return finish(s, s->lib.iscsi_writesame16_sync(s->context, (int)s->lun, call->offset / s->block_bytes, block, s->block_bytes,
                                                   (uint32_t)(call->bytes / s->block_bytes), 0, 0, 0, 0));
}

static int preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    return remote_read_co(node, &((IscsiState *)node->state)->line, read_call, offset, bytes, vec, at);
}

static int pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at, unsigned flags)
{
    return remote_write_co(node, &((IscsiState *)node->state)->line, write_call, offset, bytes, vec, at);
}

static int flush_co(BlockNode *node)
{
    return remote_call_co(node, &((IscsiState *)node->state)->line, flush_call, 0, 0);
}

static int discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    IscsiState *s = node->state;
    return s->unmaps ? remote_call_co(node, &s->line, unmap_call, offset, bytes) : -ENOTSUP;
}

static int write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    IscsiState *s = node->state;
    if (s->no_write_same) {
        return -ENOTSUP;
    }
    int ret = remote_call_co(node, &s->line, zero_call, offset, bytes);
    s->no_write_same = ret == -ENOTSUP;
    return ret;
}

/* --- options --- */

/* iscsi://[USER[%PASSWORD]@]HOST[:PORT]/TARGET/LUN */
static Error *parse_filename(const char *filename, KeyValues *opts)
{
    const char *rest = strstr(filename, "://"), *at, *slash, *last;
    if (!rest || !(slash = strchr(rest + 3, '/')) || (last = strrchr(slash + 1, '/')) == NULL || !last[1] || last == slash + 1) {
        return error_new("'%s' is not of the form iscsi://[USER@]HOST[:PORT]/TARGET/LUN", filename);
    }
    rest += 3;
    at = memchr(rest, '@', (size_t)(slash - rest));
    if (at) {
        g_autofree char *user = g_strndup(rest, (gsize)(at - rest));
        if (strchr(user, '%') || strchr(user, ':')) {
            return error_new("a password in a URI would show everywhere: use the option password-secret");
        }
        keyvalues_set(opts, "user", user);
        rest = at + 1;
    }
    g_autofree char *portal = g_strndup(rest, (gsize)(slash - rest)), *target = g_strndup(slash + 1, (gsize)(last - slash - 1));
    keyvalues_set(opts, "transport", "tcp");
    keyvalues_set(opts, "portal", portal);
    keyvalues_set(opts, "target", target);
    keyvalues_set(opts, "lun", last + 1);
    return NULL;
}

static Error *take_options(BlockNode *node, IscsiState *s, KeyValues *opts)
{
    g_autofree char *transport = keyvalues_take(opts, "transport"), *secret = keyvalues_take(opts, "password-secret");
    s->portal = keyvalues_take(opts, "portal");
    s->target = keyvalues_take(opts, "target");
    s->user = keyvalues_take(opts, "user");
    s->initiator = keyvalues_take(opts, "initiator-name");
    s->digest = keyvalues_take(opts, "header-digest");
    TRY(block_take_num(opts, "lun", 0, &s->lun));
    TRY(block_take_num(opts, "timeout", DEFAULT_TIMEOUT, &s->timeout));
    if (transport && strcmp(transport, "tcp")) {
        return error_new("transport=%s: only tcp is known here", transport);
    }
    if (!s->portal || !s->target) {
        return error_new("iscsi needs '%s'", s->portal ? "target" : "portal");
    }
    if (s->lun > MAX_LUN || s->timeout > 86400) {
        return error_new("iscsi: lun is at most %d, timeout at most 86400 seconds", MAX_LUN);
    }
    s->initiator = s->initiator ? s->initiator : g_strdup("iqn.2008-11.org.linux-kvm");
    return secret ? secret_get_text(block_graph_objects(node->graph), secret, &s->password) : NULL;
}

/* --- opening --- */

static void release(void *opaque)
{
    IscsiState *s = opaque;
    g_free(s->portal);
    g_free(s->target);
    g_free(s->user);
    g_free(s->initiator);
    g_free(s->digest);
    secret_free_text(s->password);
}

static Error *open_steps_co(BlockNode *node, KeyValues *opts)
{
    IscsiState *s = node->state;
    ConnectCall call = { .s = s };

    TRY(take_options(node, s, opts));
    s->writes = !node->read_only;
    remote_line_init(&s->line);
    co_blocking_long(connect_call, &call);
    TRY(call.err);
    node->size = s->blocks * s->block_bytes;
    node->limits.request_align = s->block_bytes;
    node->limits.max_transfer = MAX_TRANSFER;
    node->limits.max_discard = node->limits.max_zeroes = (uint64_t)0xffff * s->block_bytes;
    node->filename = g_strdup_printf("iscsi://%s%s%s/%s/%" PRIu64, s->user ? s->user : "", s->user ? "@" : "", s->portal, s->target, s->lun);
    return NULL;
}

static Error *open_co(BlockNode *node, KeyValues *opts)
{
    return remote_open_co(node, opts, open_steps_co, release);
}

static void close_co(BlockNode *node)
{
    remote_close_co(node, hang_up_call, release);
}

static const BlockOption options[] = {
    { "transport", OPT_STR, "How the target is reached: tcp" },
    { "portal", OPT_STR, "The target's address: HOST[:PORT]" },
    { "target", OPT_STR, "The target's name (iqn...)" },
    { "lun", OPT_NUM, "The unit (default: 0)" },
    { "user", OPT_STR, "Who logs in by CHAP" },
    { "password-secret", OPT_STR, "The secret object with the password for that" },
    { "initiator-name", OPT_STR, "The name to log in as (default: iqn.2008-11.org.linux-kvm)" },
    { "header-digest", OPT_STR, "none, crc32c, none-crc32c (default) or crc32c-none" },
    { "timeout", OPT_NUM, "Seconds until a command has failed (default: 60; 0: it waits as long as the target is silent)" },
    { 0 },
};

BLOCK_DRIVER(iscsi, .name = "iscsi", .desc = "A disk of an iSCSI target", .state_size = sizeof(IscsiState), .protocol = true,
             .parse_filename = parse_filename, .options = options, .open_co = open_co, .close_co = close_co,
             .preadv_co = preadv_co, .pwritev_co = pwritev_co, .flush_co = flush_co, .discard_co = discard_co,
             .write_zeroes_co = write_zeroes_co, .allocated_size = remote_allocated_size);
