/*
 * Driver "virtio-blk-vhost-user": a disk that another program offers by vhost-user, as its front end. The rings and the data
 * lie in a piece of memory of our own that the other side maps, so requests are copied through it; nothing else of
 * this program can be reached from there. Every request has a slot: a header, a status byte and room for data.
 *
 * The back end is not trusted: what it puts in the used ring is checked, and only slots that are under way are taken
 * from it. Missing: connecting again, several queues, changes of the size.
 */
#include "block/protocol/vhost_user.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/export/vhost_proto.h"
#include "io/net.h"

enum { SLOTS = 16, SLOT_BYTES = 1 << 20, NUM = 64 /* descriptors: three a slot */, SECTOR = 512, CONFIG = 60, SEGMENT = 16, ID_BYTES = 20 };
enum { DESC_NEXT = 1, DESC_WRITE = 2 };
/* Where things lie in the memory, which begins at BASE for the other side. */
enum { DESC_AT = 0, AVAIL_AT = 0x800, USED_AT = 0x1000, HEADERS_AT = 0x2000, DATA_AT = 0x10000 };
enum { HEADER_STEP = 64, STATUS_IN = 32 };
#define BASE  0x10000000ull
#define BYTES ((size_t)DATA_AT + (size_t)SLOTS * SLOT_BYTES)

typedef struct Slot {
    Coroutine *waiter; /* NULL: free */
    bool done;
} Slot;

typedef struct VhostDisk {
    int sock, kick, call, memory_fd;
    LoopFd *call_source, *sock_source;
    uint8_t *memory;
    uint16_t next_avail, last_used;
    Slot slots[SLOTS];
    CoQueue free_slots;
    bool broken;
    uint64_t features;
    uint32_t max_discard, max_zeroes; /* bytes */
    char id[ID_BYTES + 1];            /* the disk's serial number; empty: it has none */
} VhostDisk;

/* --- messages --- */

static Error *lost(void)
{
    return error_new("The vhost-user back end does not speak the protocol, or has gone");
}

static Error *send_co(VhostDisk *d, uint32_t request, const void *payload, uint32_t size, int fd)
{
    uint8_t out[VHOST_HEADER + 64];
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control = { .space = { 0 } };
    struct iovec iov = { out, VHOST_HEADER + size };
    struct msghdr head = { .msg_iov = &iov, .msg_iovlen = 1 };

    st32_le(out, request);
    st32_le(out + 4, VHOST_FLAG_VERSION);
    st32_le(out + 8, size);
    if (size) {
        memcpy(out + VHOST_HEADER, payload, size);
    }
    if (fd >= 0) {
        head.msg_control = &control;
        head.msg_controllen = sizeof(control);
        struct cmsghdr *c = CMSG_FIRSTHDR(&head);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    for (;;) {
        ssize_t sent = sendmsg(d->sock, &head, MSG_NOSIGNAL);
        if (sent == (ssize_t)iov.iov_len) {
            return NULL;
        }
        if (sent >= 0 || (errno != EAGAIN && errno != EINTR)) {
            return lost();
        }
        co_wait_fd(d->sock, LOOP_WRITE);
    }
}

static Error *receive_co(VhostDisk *d, void *buffer, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        ssize_t got = recv(d->sock, (uint8_t *)buffer + at, bytes - at, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            return lost();
        }
        if (got < 0) {
            co_wait_fd(d->sock, LOOP_READ);
        }
        at += got > 0 ? (size_t)got : 0;
    }
    return NULL;
}

/* The answer has `size` bytes. */
static Error *answer_co(VhostDisk *d, uint32_t request, void *buffer, uint32_t size)
{
    uint8_t head[VHOST_HEADER];
    TRY(receive_co(d, head, sizeof(head)));
    if (ld32_le(head) != request || ld32_le(head + 4) != (VHOST_FLAG_VERSION | VHOST_FLAG_REPLY) || ld32_le(head + 8) != size) {
        return lost();
    }
    return receive_co(d, buffer, size);
}

static Error *ask_u64_co(VhostDisk *d, uint32_t request, uint64_t *ret_value)
{
    uint8_t raw[8];
    TRY(send_co(d, request, NULL, 0, -1));
    TRY(answer_co(d, request, raw, sizeof(raw)));
    *ret_value = ld64_le(raw);
    return NULL;
}

static Error *tell_u64_co(VhostDisk *d, uint32_t request, uint64_t value, int fd)
{
    uint8_t raw[8];
    st64_le(raw, value);
    return send_co(d, request, raw, sizeof(raw), fd);
}

/* The index of the queue, which is 0, and a number. */
static Error *tell_queue_co(VhostDisk *d, uint32_t request, uint32_t value)
{
    return tell_u64_co(d, request, (uint64_t)value << 32, -1);
}

/* --- the ring --- */

static uint16_t load16(const uint8_t *p)
{
    return GUINT16_FROM_LE(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE));
}

static void fail_all(VhostDisk *d)
{
    d->broken = true;
    for (unsigned i = 0; i < SLOTS; i++) {
        if (d->slots[i].waiter && !d->slots[i].done) {
            d->slots[i].done = true;
            d->memory[HEADERS_AT + HEADER_STEP * i + STATUS_IN] = VIRTIO_BLK_S_IOERR;
            co_wake(d->slots[i].waiter);
        }
    }
    co_queue_wake_all(&d->free_slots);
}

static void take_done(VhostDisk *d)
{
    uint16_t done = (uint16_t)(load16(d->memory + USED_AT + 2) - d->last_used);

    if (done > NUM) {
        fail_all(d);
        return;
    }
    while (done--) {
        uint32_t id = ld32_le(d->memory + USED_AT + 4 + 8 * (d->last_used++ % NUM));
        Slot *slot = id % 3 == 0 && id / 3 < SLOTS ? &d->slots[id / 3] : NULL;
        if (!slot || !slot->waiter || slot->done) {
            fail_all(d);
            return;
        }
        slot->done = true;
        co_wake(slot->waiter);
    }
}

static void called(void *opaque, unsigned events)
{
    VhostDisk *d = opaque;
    uint64_t count;
    if (read(d->call, &count, sizeof(count)) == sizeof(count)) {
        take_done(d);
    }
}

/* Nothing is sent that was not asked for, so the other side has gone. */
static void socket_ready(void *opaque, unsigned events)
{
    VhostDisk *d = opaque;
    loop_mod_fd(d->sock_source, 0);
    fail_all(d);
}

static void put_descriptor(VhostDisk *d, unsigned index, uint64_t at, uint32_t length, uint16_t flags)
{
    uint8_t *p = d->memory + DESC_AT + 16 * index;
    st64_le(p, BASE + at);
    st32_le(p + 8, length);
    st16_le(p + 12, flags);
    st16_le(p + 14, (uint16_t)(index + 1));
}

static void publish(VhostDisk *d, unsigned head)
{
    uint8_t *avail = d->memory + AVAIL_AT;
    uint64_t one = 1;
    st16_le(avail + 4 + 2 * (d->next_avail % NUM), (uint16_t)head);
    __atomic_store_n((uint16_t *)(void *)(avail + 2), GUINT16_TO_LE(++d->next_avail), __ATOMIC_RELEASE);
    ssize_t done = write(d->kick, &one, sizeof(one));
    (void)done; /* the count is far from full */
}

typedef struct Command {
    uint32_t type;
    uint64_t sector;
    uint32_t bytes; /* of data, at most SLOT_BYTES */
    const BlockVec *vec;
    size_t at;
    const uint8_t *segment; /* instead of vec */
} Command;

static int start_co(VhostDisk *d, const Command *cmd, unsigned slot)
{
    uint8_t *header = d->memory + HEADERS_AT + HEADER_STEP * slot, *data = d->memory + DATA_AT + (size_t)SLOT_BYTES * slot;
    bool get = cmd->type == VIRTIO_BLK_T_IN || cmd->type == VIRTIO_BLK_T_GET_ID;
    unsigned next = 3 * slot;

    st32_le(header, cmd->type);
    st32_le(header + 4, 0);
    st64_le(header + 8, cmd->sector);
    header[STATUS_IN] = 0xff;
    if (cmd->segment) {
        memcpy(data, cmd->segment, cmd->bytes);
    } else if (!get && cmd->bytes) {
        block_vec_to_buffer(cmd->vec, cmd->at, data, cmd->bytes);
    }
    put_descriptor(d, next++, HEADERS_AT + HEADER_STEP * slot, 16, DESC_NEXT);
    if (cmd->bytes) {
        put_descriptor(d, next++, DATA_AT + (uint64_t)SLOT_BYTES * slot, cmd->bytes, DESC_NEXT | (get ? DESC_WRITE : 0));
    }
    put_descriptor(d, next, HEADERS_AT + HEADER_STEP * slot + STATUS_IN, 1, DESC_WRITE);
    publish(d, 3 * slot);
    while (!d->slots[slot].done) {
        co_yield ();
    }
    uint8_t status = __atomic_load_n(&header[STATUS_IN], __ATOMIC_ACQUIRE);
    if (status == VIRTIO_BLK_S_OK && get) {
        block_vec_from_buffer(cmd->vec, cmd->at, data, cmd->bytes);
    }
    return status == VIRTIO_BLK_S_OK ? 0 : status == VIRTIO_BLK_S_UNSUPP ? -ENOTSUP : -EIO;
}

static int command_co(BlockNode *node, const Command *cmd)
{
    VhostDisk *d = node->state;
    unsigned slot = SLOTS;

    while (!d->broken && slot == SLOTS) {
        for (slot = 0; slot < SLOTS && d->slots[slot].waiter; slot++) {
        }
        if (slot == SLOTS) {
            co_queue_wait(&d->free_slots);
        }
    }
    if (d->broken) {
        return -EIO;
    }
    d->slots[slot] = (Slot) { .waiter = co_self() };
    int ret = start_co(d, cmd, slot);
    d->slots[slot] = (Slot) { 0 };
    co_queue_wake_one(&d->free_slots);
    return d->broken ? -EIO : ret;
}

/* --- requests --- */

static int vhost_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    Command cmd = { VIRTIO_BLK_T_IN, offset / SECTOR, (uint32_t)bytes, vec, at, NULL };
    return command_co(node, &cmd);
}

static int vhost_pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at, unsigned flags)
{
    Command cmd = { VIRTIO_BLK_T_OUT, offset / SECTOR, (uint32_t)bytes, vec, at, NULL };
    return command_co(node, &cmd);
}

static bool has(const BlockNode *node, unsigned feature)
{
    return ((const VhostDisk *)node->state)->features >> feature & 1;
}

static int segment_co(BlockNode *node, uint32_t type, uint64_t offset, uint64_t bytes, uint32_t flags)
{
    uint8_t segment[SEGMENT];
    Command cmd = { type, 0, SEGMENT, NULL, 0, segment };

    st64_le(segment, offset / SECTOR);
    st32_le(segment + 8, (uint32_t)(bytes / SECTOR));
    st32_le(segment + 12, flags);
    return command_co(node, &cmd);
}

static int vhost_write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return has(node, VIRTIO_BLK_F_WRITE_ZEROES)
               ? segment_co(node, VIRTIO_BLK_T_WRITE_ZEROES, offset, bytes, flags & REQ_MAY_UNMAP ? 1 : 0)
               : -ENOTSUP;
}

static int vhost_discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    const VhostDisk *d = node->state;

    if (!has(node, VIRTIO_BLK_F_DISCARD)) {
        return -ENOTSUP;
    }
    while (bytes) {
        uint64_t part = MIN(bytes, d->max_discard);
        int ret = segment_co(node, VIRTIO_BLK_T_DISCARD, offset, part, 0);
        if (ret < 0) {
            return ret;
        }
        offset += part;
        bytes -= part;
    }
    return 0;
}

static int vhost_flush_co(BlockNode *node)
{
    Command cmd = { .type = VIRTIO_BLK_T_FLUSH };
    return has(node, VIRTIO_BLK_F_FLUSH) ? command_co(node, &cmd) : 0;
}

static void read_id_co(BlockNode *node)
{
    VhostDisk *d = node->state;
    BLOCK_VEC_BUFFER(vec, d->id, ID_BYTES);
    Command cmd = { VIRTIO_BLK_T_GET_ID, 0, ID_BYTES, &vec, 0, NULL };
    if (command_co(node, &cmd) < 0) {
        d->id[0] = 0;
    }
}

const char *vhost_user_disk_id(const BlockNode *node)
{
    return ((const VhostDisk *)node->state)->id;
}

/* --- opening --- */

static Error *make_memory(VhostDisk *d)
{
    d->memory_fd = memfd_create("vhost-user", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    d->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    d->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    /* Sealed, so that the other side cannot shorten it under us. */
    if (d->memory_fd < 0 || d->kick < 0 || d->call < 0 || ftruncate(d->memory_fd, (off_t)BYTES) < 0 ||
        fcntl(d->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        return error_new_errno(errno, "Memory for the vhost-user back end cannot be made");
    }
    void *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, d->memory_fd, 0);
    if (memory == MAP_FAILED) {
        return error_new_errno(errno, "Memory for the vhost-user back end cannot be mapped");
    }
    d->memory = memory;
    return NULL;
}

static Error *negotiate_co(VhostDisk *d)
{
    const uint64_t wanted = 1ull << VIRTIO_BLK_F_RO | 1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH |
                            1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES | 1ull << VIRTIO_F_VERSION_1 |
                            1ull << VHOST_USER_F_PROTOCOL_FEATURES;
    uint64_t offered, protocol;

    TRY(ask_u64_co(d, VHOST_MSG_GET_FEATURES, &offered));
    if (!(offered & 1ull << VHOST_USER_F_PROTOCOL_FEATURES) || !(offered & 1ull << VIRTIO_F_VERSION_1)) {
        return error_new("The vhost-user back end is too old: it lacks protocol features or version 1 of virtio");
    }
    TRY(ask_u64_co(d, VHOST_MSG_GET_PROTOCOL_FEATURES, &protocol));
    if (!(protocol & 1ull << VHOST_PROTOCOL_CONFIG)) {
        return error_new("The vhost-user back end does not tell its configuration");
    }
    TRY(tell_u64_co(d, VHOST_MSG_SET_PROTOCOL_FEATURES, 1ull << VHOST_PROTOCOL_CONFIG, -1));
    TRY(send_co(d, VHOST_MSG_SET_OWNER, NULL, 0, -1));
    d->features = offered & wanted;
    return tell_u64_co(d, VHOST_MSG_SET_FEATURES, d->features, -1);
}

static Error *start_ring_co(VhostDisk *d)
{
    uint8_t table[8 + 32] = { 0 }, address[40] = { 0 };

    st32_le(table, 1);
    st64_le(table + 8, BASE);
    st64_le(table + 16, BYTES);
    st64_le(table + 24, BASE);
    TRY(send_co(d, VHOST_MSG_SET_MEM_TABLE, table, sizeof(table), d->memory_fd));
    TRY(tell_queue_co(d, VHOST_MSG_SET_VRING_NUM, NUM));
    TRY(tell_queue_co(d, VHOST_MSG_SET_VRING_BASE, 0));
    st64_le(address + 8, BASE + DESC_AT);
    st64_le(address + 16, BASE + USED_AT);
    st64_le(address + 24, BASE + AVAIL_AT);
    TRY(send_co(d, VHOST_MSG_SET_VRING_ADDR, address, sizeof(address), -1));
    TRY(tell_u64_co(d, VHOST_MSG_SET_VRING_CALL, 0, d->call));
    TRY(tell_u64_co(d, VHOST_MSG_SET_VRING_KICK, 0, d->kick));
    return tell_queue_co(d, VHOST_MSG_SET_VRING_ENABLE, 1);
}

static Error *read_config_co(BlockNode *node)
{
    VhostDisk *d = node->state;
    uint8_t raw[12 + CONFIG] = { 0 };

    st32_le(raw + 4, CONFIG);
    uint8_t head[VHOST_HEADER + sizeof(raw)];
    st32_le(head, VHOST_MSG_GET_CONFIG);
    st32_le(head + 4, VHOST_FLAG_VERSION);
    st32_le(head + 8, sizeof(raw));
    memcpy(head + VHOST_HEADER, raw, sizeof(raw));
    if (send(d->sock, head, sizeof(head), MSG_NOSIGNAL) != (ssize_t)sizeof(head)) {
        return lost();
    }
    TRY(answer_co(d, VHOST_MSG_GET_CONFIG, raw, sizeof(raw)));
    const uint8_t *config = raw + 12;
    uint64_t sectors = ld64_le(config);
    uint32_t block = has(node, VIRTIO_BLK_F_BLK_SIZE) ? ld32_le(config + 20) : SECTOR;
    if (sectors > INT64_MAX / SECTOR || block < SECTOR || block > 64 * KiB || !IS_POW2(block) || sectors * SECTOR % block) {
        return error_new("The vhost-user back end's disk has %" PRIu64 " sectors in blocks of %u bytes, which cannot be", sectors,
                         block);
    }
    uint64_t largest = ALIGN_DOWN((uint64_t)INT32_MAX, (uint64_t)block);
    d->max_discard = (uint32_t)MIN(ALIGN_DOWN((uint64_t)ld32_le(config + 36) * SECTOR, (uint64_t)block), largest);
    d->max_zeroes = (uint32_t)MIN(ALIGN_DOWN((uint64_t)ld32_le(config + 48) * SECTOR, (uint64_t)block), largest);
    d->features &= ~(d->max_discard ? 0 : 1ull << VIRTIO_BLK_F_DISCARD);
    d->features &= ~(d->max_zeroes ? 0 : 1ull << VIRTIO_BLK_F_WRITE_ZEROES);
    node->size = sectors * SECTOR;
    node->limits.request_align = block;
    node->limits.max_transfer = SLOT_BYTES;
    node->limits.max_zeroes = d->max_zeroes;
    return NULL;
}

/* By path, or a socket that is connected already ("x-fd", of the device): then *ret_path is NULL. */
static Error *connect_to(VhostDisk *d, KeyValues *opts, char **ret_path)
{
    g_autofree char *path = keyvalues_take(opts, "path");
    uint64_t fd;

    TRY(block_take_num(opts, "x-fd", INT32_MAX, &fd));
    if (path) {
        TRY(net_connect(&(NetAddress) { .path = path, .tight = true }, false, &d->sock));
    } else {
        d->sock = fd < INT32_MAX ? fcntl((int)fd, F_DUPFD_CLOEXEC, 3) : -1;
        if (d->sock < 0) {
            return error_new("Parameter 'path' is missing: the back end's unix socket");
        }
        fcntl(d->sock, F_SETFL, fcntl(d->sock, F_GETFL) | O_NONBLOCK);
    }
    *ret_path = g_steal_pointer(&path);
    return NULL;
}

static Error *open_steps_co(BlockNode *node, KeyValues *opts)
{
    VhostDisk *d = node->state;
    Loop *loop = block_graph_loop(node->graph);
    g_autofree char *path = NULL;

    TRY(connect_to(d, opts, &path));
    TRY(make_memory(d));
    TRY(negotiate_co(d));
    TRY(read_config_co(node));
    if (!node->read_only && has(node, VIRTIO_BLK_F_RO)) {
        if (path) {
            return error_new("The disk at '%s' can only be read", path);
        }
        node->read_only = true; /* the device can do with it */
    }
    TRY(start_ring_co(d));
    d->call_source = loop_add_fd(loop, d->call, LOOP_READ, called, d);
    d->sock_source = loop_add_fd(loop, d->sock, LOOP_READ, socket_ready, d);
    read_id_co(node);
    node->filename = g_strdup("");
    return NULL;
}

static void vhost_close_co(BlockNode *node)
{
    VhostDisk *d = node->state;
    int fds[] = { d->sock, d->kick, d->call, d->memory_fd };

    loop_del_fd(d->call_source);
    loop_del_fd(d->sock_source);
    if (d->memory) {
        munmap(d->memory, BYTES);
    }
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
}

static Error *vhost_open_co(BlockNode *node, KeyValues *opts)
{
    VhostDisk *d = node->state;

    d->sock = d->kick = d->call = d->memory_fd = -1;
    co_queue_init(&d->free_slots);
    Error *err = open_steps_co(node, opts);
    if (err) {
        vhost_close_co(node);
    }
    return err;
}

static uint64_t vhost_allocated_size(BlockNode *node)
{
    return UINT64_MAX;
}

static const BlockOption vhost_options[] = {
    { "path", OPT_STR, "The back end's unix socket" },
    { 0 },
};

BLOCK_DRIVER(vhost_user_disk, .name = "virtio-blk-vhost-user", .desc = "Disk of another program, by vhost-user",
             .state_size = sizeof(VhostDisk), .protocol = true, .options = vhost_options, .open_co = vhost_open_co,
             .close_co = vhost_close_co, .preadv_co = vhost_preadv_co, .pwritev_co = vhost_pwritev_co,
             .write_zeroes_co = vhost_write_zeroes_co, .discard_co = vhost_discard_co, .flush_co = vhost_flush_co,
             .allocated_size = vhost_allocated_size);
