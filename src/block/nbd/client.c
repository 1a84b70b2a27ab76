/*
 * The NBD client's transmission phase. A command waits in a table until its reply is complete; one
 * coroutine, the reader, takes replies off the socket and puts what they carry where the command
 * wants it. When anything is wrong with the framing the connection is given up, and every command
 * with it.
 */
#include "block/nbd/client.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/nbd/client_priv.h"

enum { MAX_COMMANDS = 16, MAX_STATUS = 1 << 20 };

typedef struct Pending {
    const NbdCommand *command;
    Coroutine *waiter;
    uint64_t cookie;
    bool done, got_extent;
    uint64_t received; /* bytes of data */
    int result;
} Pending;

struct NbdConnection {
    Loop *loop;
    IoStream *stream;
    NbdInfo info;
    Pending *table[MAX_COMMANDS]; /* by the cookie's low bits */
    uint64_t generation;          /* the rest of the cookie, so that late replies are noticed */
    unsigned users;               /* commands, and the reader */
    CoMutex sending;
    CoQueue free_slots, all_gone;
    bool broken, reader_runs;
};

/* --- connecting --- */

typedef struct ConnectCall {
    const NbdAddress *address;
    int fd;
    Error *err;
} ConnectCall;

static int call_connect(void *opaque)
{
    ConnectCall *call = opaque;
    call->err = net_connect(&call->address->net, false, &call->fd);
    return 0;
}

Error *nbd_connect_co(Loop *loop, const NbdAddress *address, IoStream **ret_stream)
{
    ConnectCall call = { .address = address };
    int one = 1;

    if (address->fd >= 0) {
        call.fd = fcntl(address->fd, F_DUPFD_CLOEXEC, 3);
        if (call.fd < 0) {
            return error_new_errno(errno, "File descriptor %d cannot be used", address->fd);
        }
        fcntl(call.fd, F_SETFL, fcntl(call.fd, F_GETFL) | O_NONBLOCK);
    } else {
        co_blocking_long(call_connect, &call);
        TRY(call.err);
    }
    setsockopt(call.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* fails on unix sockets */
    *ret_stream = stream_new(loop, call.fd);
    return NULL;
}

/* Returns its size. */
static size_t put_header(const NbdConnection *c, uint8_t head[NBD_EXTENDED_SIZE],
                         const NbdCommand *cmd, uint64_t cookie)
{
    bool payload = c->info.extended && cmd->type == NBD_CMD_WRITE;

    st32_be(head, c->info.extended ? NBD_EXTENDED_MAGIC : NBD_REQUEST_MAGIC);
    st16_be(head + 4, (uint16_t)(cmd->flags | (payload ? NBD_CMD_FLAG_PAYLOAD_LEN : 0)));
    st16_be(head + 6, cmd->type);
    st64_be(head + 8, cookie);
    st64_be(head + 16, cmd->offset);
    if (c->info.extended) {
        st64_be(head + 24, cmd->length);
        return NBD_EXTENDED_SIZE;
    }
    st32_be(head + 24, (uint32_t)cmd->length);
    return NBD_REQUEST_SIZE;
}

/* --- the reader --- */

static void complete(Pending *p)
{
    p->done = true;
    co_wake(p->waiter);
}

static void break_connection(NbdConnection *c)
{
    c->broken = true;
    stream_shutdown(c->stream);
    for (unsigned i = 0; i < MAX_COMMANDS; i++) {
        Pending *p = c->table[i];
        if (p && !p->done) {
            p->result = -ENOTCONN;
            complete(p);
        }
    }
    co_queue_wake_all(&c->free_slots);
}

static Pending *find_pending(NbdConnection *c, uint64_t cookie)
{
    Pending *p = c->table[cookie % MAX_COMMANDS];
    return p && p->cookie == cookie && !p->done ? p : NULL;
}

static int skip_co(NbdConnection *c, uint64_t bytes)
{
    uint8_t scratch[1024];
    int ret = 0;
    while (bytes && ret == 0) {
        size_t part = (size_t)MIN(bytes, sizeof(scratch));
        ret = stream_read_co(c->stream, scratch, part);
        bytes -= part;
    }
    return ret;
}

/* Data of a read, for [from, from + bytes) of it. */
static int read_into_co(NbdConnection *c, Pending *p, uint64_t from, uint64_t bytes)
{
    const NbdCommand *cmd = p->command;
    struct iovec iov[16];

    while (bytes) {
        size_t part;
        unsigned count = block_vec_slice(cmd->vec, cmd->at + (size_t)from, (size_t)bytes, iov,
                                         ARRAY_SIZE(iov), &part);
        for (unsigned i = 0; i < count; i++) {
            int ret = stream_read_co(c->stream, iov[i].iov_base, iov[i].iov_len);
            if (ret < 0) {
                return ret;
            }
        }
        from += part;
        bytes -= part;
    }
    return 0;
}

static int simple_co(NbdConnection *c)
{
    uint8_t head[12];
    int ret = stream_read_co(c->stream, head, sizeof(head));
    if (ret < 0) {
        return ret;
    }
    Pending *p = find_pending(c, ld64_be(head + 4));
    uint32_t error = ld32_be(head);
    if (!p || (c->info.structured && p->command->type == NBD_CMD_READ) ||
        p->command->type == NBD_CMD_BLOCK_STATUS) {
        return -EPROTO;
    }
    p->result = error ? nbd_error_from_wire(error) : 0;
    if (!error && p->command->type == NBD_CMD_READ) {
        ret = read_into_co(c, p, 0, p->command->length);
    }
    if (ret == 0) {
        complete(p);
    }
    return ret;
}

static int data_chunk_co(NbdConnection *c, Pending *p, uint64_t length, bool hole)
{
    const NbdCommand *cmd = p->command;
    uint8_t fixed[12];
    size_t fixed_length = hole ? 12 : 8;

    if (cmd->type != NBD_CMD_READ || length < fixed_length || (hole && length != 12)) {
        return -EPROTO;
    }
    int ret = stream_read_co(c->stream, fixed, fixed_length);
    if (ret < 0) {
        return ret;
    }
    uint64_t offset = ld64_be(fixed), bytes = hole ? ld32_be(fixed + 8) : length - 8;
    if (!bytes || offset < cmd->offset || bytes > cmd->length ||
        p->received + bytes > cmd->length || offset - cmd->offset > cmd->length - bytes) {
        return -EPROTO;
    }
    p->received += bytes;
    if (hole) {
        block_vec_zero(cmd->vec, cmd->at + (size_t)(offset - cmd->offset), (size_t)bytes);
        return 0;
    }
    return read_into_co(c, p, offset - cmd->offset, bytes);
}

static int status_chunk_co(NbdConnection *c, Pending *p, uint64_t length)
{
    bool extended = c->info.extended;
    size_t head = extended ? 8 : 4, pair = extended ? 16 : 8;
    uint8_t fixed[24];

    if (p->command->type != NBD_CMD_BLOCK_STATUS || length < head + pair || length > MAX_STATUS) {
        return -EPROTO;
    }
    int ret = stream_read_co(c->stream, fixed, head + pair);
    if (ret < 0) {
        return ret;
    }
    NbdExtent x = extended ? (NbdExtent) { ld64_be(fixed + 8), ld64_be(fixed + 16) }
                           : (NbdExtent) { ld32_be(fixed + 4), ld32_be(fixed + 8) };
    if (ld32_be(fixed) != c->info.context_id || p->got_extent || !x.length ||
        (extended && length != head + (uint64_t)pair * ld32_be(fixed + 4))) {
        return -EPROTO;
    }
    x.length = MIN(x.length, p->command->length);
    *p->command->extent = x;
    p->got_extent = true;
    return skip_co(c, length - head - pair);
}

static int error_chunk_co(NbdConnection *c, Pending *p, uint64_t length)
{
    uint8_t fixed[6];
    if (length < sizeof(fixed) || length > sizeof(fixed) + 2 * NBD_MAX_STRING) {
        return -EPROTO;
    }
    int ret = stream_read_co(c->stream, fixed, sizeof(fixed));
    if (ret < 0) {
        return ret;
    }
    if (!p->result) {
        uint32_t error = ld32_be(fixed);
        p->result = error ? nbd_error_from_wire(error) : -EIO;
    }
    return skip_co(c, length - sizeof(fixed));
}

static int chunk_co(NbdConnection *c, Pending *p, uint16_t type, uint64_t length)
{
    switch (type) {
    case NBD_REPLY_NONE:
        return length ? -EPROTO : 0;
    case NBD_REPLY_OFFSET_DATA:
        return data_chunk_co(c, p, length, false);
    case NBD_REPLY_OFFSET_HOLE:
        return data_chunk_co(c, p, length, true);
    case NBD_REPLY_BLOCK_STATUS:
        return c->info.extended ? -EPROTO : status_chunk_co(c, p, length);
    case NBD_REPLY_BLOCK_STATUS_EXT:
        return c->info.extended ? status_chunk_co(c, p, length) : -EPROTO;
    default:
        return type & 0x8000 ? error_chunk_co(c, p, length) : -EPROTO;
    }
}

/* All that was asked for must have come. */
static void check_complete(Pending *p)
{
    const NbdCommand *cmd = p->command;
    if (p->result == 0 && ((cmd->type == NBD_CMD_READ && p->received != cmd->length) ||
                           (cmd->type == NBD_CMD_BLOCK_STATUS && !p->got_extent))) {
        p->result = -EIO;
    }
    complete(p);
}

/* A chunk, with the header's part behind the magic number. */
static int structured_co(NbdConnection *c)
{
    bool extended = c->info.extended;
    uint8_t head[28];
    int ret = stream_read_co(c->stream, head, extended ? 28 : 16);
    if (ret < 0) {
        return ret;
    }
    Pending *p = find_pending(c, ld64_be(head + 4));
    uint64_t length = extended ? ld64_be(head + 20) : ld32_be(head + 12);
    if (!p || (extended && ld64_be(head + 12) != p->command->offset)) {
        return -EPROTO;
    }
    ret = chunk_co(c, p, ld16_be(head + 2), length);
    if (ret == 0 && (ld16_be(head) & NBD_REPLY_FLAG_DONE)) {
        check_complete(p);
    }
    return ret;
}

/* Which kinds of replies there may be was agreed on. */
static int reply_co(NbdConnection *c, uint32_t magic)
{
    if (magic == NBD_SIMPLE_MAGIC && !c->info.extended) {
        return simple_co(c);
    }
    uint32_t wanted = c->info.extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_MAGIC;
    return magic == wanted && c->info.structured ? structured_co(c) : -EPROTO;
}

static void reader_co(void *opaque)
{
    NbdConnection *c = opaque;
    int ret = 0;

    while (ret == 0) {
        uint8_t magic[4];
        ret = stream_read_co(c->stream, magic, sizeof(magic));
        ret = ret < 0 ? ret : reply_co(c, ld32_be(magic));
    }
    break_connection(c);
    c->reader_runs = false;
    co_queue_wake_all(&c->all_gone);
}

/* --- the connection --- */

Error *nbd_connection_new_co(Loop *loop, IoStream *stream, const TlsUse *tls, const char *export,
                             const char *context, NbdConnection **ret_connection)
{
    NbdInfo info = { 0 };
    Error *err = nbd_negotiate_co(stream, tls, NBD_FORM_EXTENDED, export, context, &info);
    if (err) {
        stream_free(stream);
        return err;
    }
    NbdConnection *c = g_new0(NbdConnection, 1);
    c->loop = loop;
    c->stream = stream;
    c->info = info;
    c->reader_runs = true;
    co_mutex_init(&c->sending);
    co_queue_init(&c->free_slots);
    co_queue_init(&c->all_gone);
    co_start(loop, reader_co, c);
    *ret_connection = c;
    return NULL;
}

const NbdInfo *nbd_connection_info(const NbdConnection *c)
{
    return &c->info;
}

bool nbd_connection_is_broken(const NbdConnection *c)
{
    return c->broken;
}

void nbd_connection_yank(NbdConnection *c)
{
    stream_shutdown(c->stream); /* the reader finds it closed and ends the commands */
}

void nbd_connection_close_co(NbdConnection *c)
{
    if (!c) {
        return;
    }
    if (!c->broken) {
        uint8_t head[NBD_EXTENDED_SIZE];
        size_t size = put_header(c, head, &(NbdCommand) { .type = NBD_CMD_DISC }, 0);
        co_mutex_lock(&c->sending);
        stream_write_co(c->stream, head, size);
        co_mutex_unlock(&c->sending);
        stream_shutdown(c->stream);
    }
    while (c->reader_runs || c->users) {
        co_queue_wait(&c->all_gone);
    }
    stream_free(c->stream);
    nbd_info_clear(&c->info);
    g_free(c);
}

/* --- commands --- */

static int send_command_co(NbdConnection *c, const NbdCommand *cmd, uint64_t cookie)
{
    uint8_t head[NBD_EXTENDED_SIZE];
    struct iovec iov[17] = { { head, put_header(c, head, cmd, cookie) } };

    co_mutex_lock(&c->sending);
    unsigned count = 1;
    uint64_t sent = 0, data = cmd->type == NBD_CMD_WRITE ? cmd->length : 0;
    int ret;
    do {
        size_t part = 0;
        if (sent < data) {
            count += block_vec_slice(cmd->vec, cmd->at + (size_t)sent, (size_t)(data - sent),
                                     iov + count, ARRAY_SIZE(iov) - count, &part);
        }
        ret = c->broken ? -ENOTCONN : stream_writev_co(c->stream, iov, count);
        sent += part;
        count = 0;
    } while (ret == 0 && sent < data);
    co_mutex_unlock(&c->sending);
    return ret;
}

static int free_slot_co(NbdConnection *c)
{
    for (;;) {
        for (int i = 0; i < MAX_COMMANDS && !c->broken; i++) {
            if (!c->table[i]) {
                return i;
            }
        }
        if (c->broken) {
            return -ENOTCONN;
        }
        co_queue_wait(&c->free_slots);
    }
}

static int run_command_co(NbdConnection *c, const NbdCommand *cmd)
{
    int slot = free_slot_co(c);
    if (slot < 0) {
        return slot;
    }
    Pending p = { .command = cmd,
                  .waiter = co_self(),
                  .cookie = ++c->generation * MAX_COMMANDS + (unsigned)slot };
    c->table[slot] = &p;
    if (send_command_co(c, cmd, p.cookie) < 0 && !c->broken) {
        break_connection(c);
    }
    while (!p.done && !c->broken) {
        co_yield ();
    }
    /* The reader may be putting data where this command wants them. */
    while (c->broken && c->reader_runs) {
        co_queue_wait(&c->all_gone);
    }
    c->table[slot] = NULL;
    co_queue_wake_one(&c->free_slots);
    return p.done ? p.result : -ENOTCONN;
}

int nbd_command_co(NbdConnection *c, const NbdCommand *cmd)
{
    c->users++;
    int ret = run_command_co(c, cmd);
    c->users--;
    co_queue_wake_all(&c->all_gone);
    return ret;
}
