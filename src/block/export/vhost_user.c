#include "block/export/vhost_user.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/log.h"
#include "block/export/vhost_proto.h"

#define PROTOCOL_FEATURES                                                                                            \
    (1ull << VHOST_PROTOCOL_MQ | 1ull << VHOST_PROTOCOL_REPLY_ACK | 1ull << VHOST_PROTOCOL_CONFIG |                  \
     1ull << VHOST_PROTOCOL_RESET_DEVICE | 1ull << VHOST_PROTOCOL_MEM_SLOTS)
enum { PAYLOAD_MAX = 1024, MAX_FDS = 8, TABLE_REGIONS = 8, REGION = 32 };
enum { VRING_INDEX = 0xff, VRING_NO_FD = 0x100 };
enum { BUDGET = 256 /* requests taken from a ring before others have their turn */ };

struct VhostQueue {
    VhostUser *user;
    VhostRing ring;
    unsigned index;
    int kick, call, err; /* -1: none */
    LoopFd *source;      /* of kick */
    Work again;          /* more than the budget was there */
    bool addressed, started, enabled, broken;
    unsigned busy; /* requests */
};

struct VhostUser {
    VhostUserDevice device;
    Loop *loop;
    int fd;
    uint64_t features, protocol;
    VhostMemory memory;
    VhostQueue queues[VHOST_USER_MAX_QUEUES];
    unsigned busy;
    bool paused;  /* no requests begin */
    CoQueue idle; /* waits for the busy counts */
};

typedef struct Message {
    uint32_t request, flags, size;
    uint8_t payload[PAYLOAD_MAX];
    int fds[MAX_FDS];
    unsigned fd_count;
} Message;

/* --- requests --- */

static void signal_fd(int fd)
{
    uint64_t one = 1;
    if (fd >= 0) {
        ssize_t done = write(fd, &one, sizeof(one));
        (void)done; /* full: it has been told already */
    }
}

static void break_queue(VhostQueue *q)
{
    log_printf("vhost-user: the driver broke queue %u; it is stopped\n", q->index);
    q->broken = true;
    if (q->source) {
        loop_mod_fd(q->source, 0);
    }
    signal_fd(q->err);
}

static bool runs(const VhostQueue *q)
{
    return q->started && q->enabled && !q->broken && q->ring.desc && !q->user->paused;
}

static void take_requests(VhostQueue *q)
{
    VhostUser *u = q->user;
    const VhostUserDevice *d = &u->device;

    for (unsigned n = 0; runs(q); n++) {
        VhostElement *element;
        int ret = vhost_ring_pop(&q->ring, &u->memory, &element);
        if (ret < 0) {
            break_queue(q);
            return;
        }
        if (ret == 0 && !vhost_ring_want_kick(&q->ring)) {
            return;
        }
        if (ret > 0) {
            q->busy++;
            u->busy++;
            d->ops->request(d->opaque, q, element);
        }
        if (n >= BUDGET) {
            work_schedule(&q->again);
            return;
        }
    }
}

static void serve_queue(VhostQueue *q)
{
    take_requests(q);
    if (vhost_memory_is_lost(&q->user->memory)) {
        log_printf("vhost-user: the front end took its memory away; it is disconnected\n");
        vhost_user_disconnect(q->user);
    }
}

static void take_more(void *opaque)
{
    serve_queue(opaque);
}

static void kicked(void *opaque, unsigned events)
{
    VhostQueue *q = opaque;
    uint64_t count;
    ssize_t got = read(q->kick, &count, sizeof(count));

    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got != sizeof(count)) {
        break_queue(q); /* no eventfd; it would be readable for ever */
        return;
    }
    serve_queue(q);
}

void vhost_queue_done(VhostQueue *q, VhostElement *element, uint32_t bytes)
{
    VhostUser *u = q->user;

    vhost_ring_push(&q->ring, element->head, bytes);
    g_free(element);
    if (vhost_ring_should_signal(&q->ring)) {
        signal_fd(q->call);
    }
    u->busy--;
    if (--q->busy == 0) {
        co_queue_wake_all(&u->idle);
    }
}

/* --- queues --- */

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/* Until resume_queues() nothing is under way. */
static void pause_queues_co(VhostUser *u)
{
    u->paused = true;
    while (u->busy) {
        co_queue_wait(&u->idle);
    }
}

static void stop_kicks(VhostQueue *q)
{
    loop_del_fd(g_steal_pointer(&q->source));
    work_cancel(&q->again);
    q->started = false;
    close_fd(&q->kick);
}

/* Nothing is under way on it afterwards. */
static void stop_queue_co(VhostQueue *q)
{
    stop_kicks(q);
    while (q->busy) {
        co_queue_wait(&q->user->idle);
    }
    close_fd(&q->call);
    close_fd(&q->err);
    vhost_ring_unmap(&q->ring);
    q->addressed = q->broken = false;
}

/* Whether a loop can watch it: files of a disk, for instance, cannot be. */
static bool can_be_watched(int fd)
{
    struct epoll_event event = { .events = EPOLLIN };
    int set = epoll_create1(EPOLL_CLOEXEC);
    bool can = set >= 0 && epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0;
    if (set >= 0) {
        close(set);
    }
    return can;
}

static bool map_queue(VhostQueue *q)
{
    q->ring.indirect = (q->user->features & 1ull << VIRTIO_RING_F_INDIRECT_DESC) != 0;
    q->ring.event_idx = (q->user->features & 1ull << VIRTIO_RING_F_EVENT_IDX) != 0;
    return vhost_ring_map(&q->ring, &q->user->memory);
}

/* After the memory has changed. A ring that is not in it any more stands still until it gets new addresses. */
static void resume_queues(VhostUser *u)
{
    u->paused = false;
    for (unsigned i = 0; i < u->device.queues; i++) {
        VhostQueue *q = &u->queues[i];
        vhost_ring_unmap(&q->ring);
        if (q->addressed && q->started && map_queue(q)) {
            take_requests(q);
        }
    }
}

/* --- messages: 0 or -errno; what is wrong beyond repair is -EPROTO --- */

static int send_reply(VhostUser *u, const Message *m, const void *data, uint32_t size)
{
    uint8_t out[VHOST_HEADER + PAYLOAD_MAX];

    st32_le(out, m->request);
    st32_le(out + 4, VHOST_FLAG_VERSION | VHOST_FLAG_REPLY);
    st32_le(out + 8, size);
    if (size) {
        memcpy(out + VHOST_HEADER, data, size);
    }
    for (size_t at = 0; at < VHOST_HEADER + size;) {
        ssize_t sent = send(u->fd, out + at, VHOST_HEADER + size - at, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            co_wait_fd(u->fd, LOOP_WRITE);
        } else if (sent < 0 && errno != EINTR) {
            return -EPROTO;
        }
        at += sent > 0 ? (size_t)sent : 0;
    }
    return 0;
}

static int reply_u64(VhostUser *u, const Message *m, uint64_t value)
{
    uint8_t data[8];
    st64_le(data, value);
    return send_reply(u, m, data, sizeof(data));
}

static uint64_t offered_features(const VhostUser *u)
{
    return u->device.features | 1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_RING_F_EVENT_IDX |
           1ull << VHOST_USER_F_PROTOCOL_FEATURES | 1ull << VIRTIO_F_VERSION_1;
}

static int set_features(VhostUser *u, uint64_t features)
{
    const VhostUserDevice *d = &u->device;

    if (features & ~offered_features(u)) {
        return -EINVAL;
    }
    u->features = features;
    d->ops->features_chosen(d->opaque, features);
    /* Without protocol features there is no message that enables rings. */
    for (unsigned i = 0; i < d->queues && !(features & 1ull << VHOST_USER_F_PROTOCOL_FEATURES); i++) {
        u->queues[i].enabled = true;
    }
    return 0;
}

static VhostRegion region_at(const uint8_t *p)
{
    return (VhostRegion) { ld64_le(p), ld64_le(p + 8), ld64_le(p + 16), ld64_le(p + 24) };
}

static int set_mem_table_co(VhostUser *u, Message *m)
{
    uint32_t count = m->size >= 8 ? ld32_le(m->payload) : UINT32_MAX;

    if (count > TABLE_REGIONS || count != m->fd_count || m->size < 8 + REGION * count) {
        return -EPROTO;
    }
    pause_queues_co(u);
    vhost_memory_clear(&u->memory);
    for (uint32_t i = 0; i < count; i++) {
        VhostRegion region = region_at(m->payload + 8 + (size_t)REGION * i);
        if (vhost_memory_add(&u->memory, &region, m->fds[i]) < 0) {
            return -EPROTO;
        }
    }
    resume_queues(u);
    return 0;
}

static int change_region_co(VhostUser *u, Message *m)
{
    if (m->size < 8 + REGION || (m->request == VHOST_MSG_ADD_MEM_REG && m->fd_count != 1)) {
        return -EPROTO;
    }
    VhostRegion region = region_at(m->payload + 8);
    pause_queues_co(u);
    int ret = m->request == VHOST_MSG_ADD_MEM_REG ? vhost_memory_add(&u->memory, &region, m->fds[0])
                                            : vhost_memory_remove(&u->memory, &region);
    resume_queues(u);
    return ret;
}

static VhostQueue *queue_at(VhostUser *u, uint64_t index)
{
    return index < u->device.queues ? &u->queues[index] : NULL;
}

static int set_address(VhostQueue *q, const Message *m)
{
    if (m->size < 40) {
        return -EPROTO;
    }
    q->ring.desc_user = ld64_le(m->payload + 8);
    q->ring.used_user = ld64_le(m->payload + 16);
    q->ring.avail_user = ld64_le(m->payload + 24);
    q->addressed = true;
    return !q->started || map_queue(q) ? 0 : -EINVAL;
}

static int set_base(VhostQueue *q, uint32_t base)
{
    if (base > UINT16_MAX || q->busy) {
        return -EINVAL;
    }
    q->ring.last_avail = (uint16_t)base;
    return 0;
}

static int get_base_co(VhostQueue *q, const Message *m)
{
    uint8_t data[8];

    stop_queue_co(q);
    st32_le(data, q->index);
    st32_le(data + 4, q->ring.last_avail);
    return send_reply(q->user, m, data, sizeof(data));
}

/* Messages whose payload is the queue's index and a number. */
static int queue_state_co(VhostUser *u, const Message *m)
{
    VhostQueue *q = m->size >= 8 ? queue_at(u, ld32_le(m->payload)) : NULL;
    uint32_t value = ld32_le(m->payload + 4);

    if (!q) {
        return -EPROTO;
    }
    switch (m->request) {
    case VHOST_MSG_SET_VRING_NUM:
        if (!value || value > VHOST_RING_MAX || !IS_POW2(value) || q->started) {
            return -EINVAL;
        }
        q->ring.num = (uint16_t)value;
        return 0;
    case VHOST_MSG_SET_VRING_BASE:
        return set_base(q, value);
    case VHOST_MSG_GET_VRING_BASE:
        return get_base_co(q, m);
    case VHOST_MSG_SET_VRING_ENABLE:
        q->enabled = value != 0;
        take_requests(q);
        return 0;
    default:
        return set_address(q, m);
    }
}

static int start_queue(VhostQueue *q, int fd)
{
    if (!can_be_watched(fd)) {
        return -EINVAL;
    }
    stop_kicks(q);
    if (!q->addressed || !map_queue(q)) {
        return -EINVAL;
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    q->kick = dup(fd);
    if (q->kick < 0) {
        return -errno;
    }
    fcntl(q->kick, F_SETFD, FD_CLOEXEC);
    q->started = true;
    q->source = loop_add_fd(q->user->loop, q->kick, LOOP_READ, kicked, q);
    take_requests(q); /* those that were there before */
    return 0;
}

static int set_queue_fd(VhostUser *u, Message *m)
{
    uint64_t value = m->size >= 8 ? ld64_le(m->payload) : UINT64_MAX;
    VhostQueue *q = queue_at(u, value & VRING_INDEX);
    bool none = (value & VRING_NO_FD) != 0;

    if (m->size < 8 || !q || m->fd_count != (none ? 0 : 1)) {
        return -EPROTO;
    }
    if (m->request == VHOST_MSG_SET_VRING_KICK) {
        return none ? -EOPNOTSUPP : start_queue(q, m->fds[0]);
    }
    int *fd = m->request == VHOST_MSG_SET_VRING_CALL ? &q->call : &q->err;
    close_fd(fd);
    if (!none) {
        *fd = m->fds[0];
        m->fd_count = 0; /* kept */
        fcntl(*fd, F_SETFL, fcntl(*fd, F_GETFL) | O_NONBLOCK);
    }
    if (m->request == VHOST_MSG_SET_VRING_CALL && runs(q)) {
        signal_fd(q->call); /* the old one may have been told of what nobody saw */
    }
    return 0;
}

/* Payload: offset, size, flags, and the bytes. */
static int config(VhostUser *u, Message *m)
{
    const VhostUserDevice *d = &u->device;
    uint32_t offset = ld32_le(m->payload), size = ld32_le(m->payload + 4);
    uint8_t whole[VHOST_USER_CONFIG_MAX] = { 0 };

    bool bad = m->size < 12 || offset > sizeof(whole) || size > sizeof(whole) - offset || m->size < 12 + size;
    if (m->request == VHOST_MSG_SET_CONFIG) {
        return !bad && d->ops->set_config(d->opaque, offset, m->payload + 12, size) ? 0 : -EINVAL;
    }
    if (bad) {
        return send_reply(u, m, NULL, 0); /* empty: refused */
    }
    d->ops->get_config(d->opaque, whole);
    memcpy(m->payload + 12, whole + offset, size);
    return send_reply(u, m, m->payload, 12 + size);
}

static void reset_co(VhostUser *u)
{
    for (unsigned i = 0; i < u->device.queues; i++) {
        stop_queue_co(&u->queues[i]);
        u->queues[i].enabled = false;
    }
}

/* *ret_replied: the message has an answer of its own. */
static int process_co(VhostUser *u, Message *m, bool *ret_replied)
{
    uint64_t value = m->size >= 8 ? ld64_le(m->payload) : 0;

    *ret_replied = true;
    switch (m->request) {
    case VHOST_MSG_GET_FEATURES:
        return reply_u64(u, m, offered_features(u));
    case VHOST_MSG_GET_PROTOCOL_FEATURES:
        return reply_u64(u, m, PROTOCOL_FEATURES);
    case VHOST_MSG_GET_QUEUE_NUM:
        return reply_u64(u, m, u->device.queues);
    case VHOST_MSG_GET_MAX_MEM_SLOTS:
        return reply_u64(u, m, VHOST_MEMORY_SLOTS);
    case VHOST_MSG_GET_VRING_BASE:
        return queue_state_co(u, m);
    case VHOST_MSG_GET_CONFIG:
        return config(u, m);
    }
    *ret_replied = false;
    switch (m->request) {
    case VHOST_MSG_SET_FEATURES:
        return m->size >= 8 ? set_features(u, value) : -EPROTO;
    case VHOST_MSG_SET_PROTOCOL_FEATURES:
        u->protocol = value & PROTOCOL_FEATURES;
        return m->size >= 8 && !(value & ~PROTOCOL_FEATURES) ? 0 : -EPROTO;
    case VHOST_MSG_SET_OWNER:
        return 0;
    case VHOST_MSG_RESET_OWNER:
    case VHOST_MSG_RESET_DEVICE:
        reset_co(u);
        return 0;
    case VHOST_MSG_SET_MEM_TABLE:
        return set_mem_table_co(u, m);
    case VHOST_MSG_ADD_MEM_REG:
    case VHOST_MSG_REM_MEM_REG:
        return change_region_co(u, m);
    case VHOST_MSG_SET_VRING_NUM:
    case VHOST_MSG_SET_VRING_ADDR:
    case VHOST_MSG_SET_VRING_BASE:
    case VHOST_MSG_SET_VRING_ENABLE:
        return queue_state_co(u, m);
    case VHOST_MSG_SET_VRING_KICK:
    case VHOST_MSG_SET_VRING_CALL:
    case VHOST_MSG_SET_VRING_ERR:
        return set_queue_fd(u, m);
    case VHOST_MSG_SET_CONFIG:
        return config(u, m);
    default:
        return -EOPNOTSUPP;
    }
}

/* --- the socket --- */

static void drop_fds(Message *m)
{
    while (m->fd_count) {
        close(m->fds[--m->fd_count]);
    }
}

static int take_fds(Message *m, struct msghdr *head)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(head); c; c = CMSG_NXTHDR(head, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            size_t bytes = c->cmsg_len - CMSG_LEN(0);
            for (size_t i = 0; i < bytes / sizeof(int); i++) {
                int fd;
                memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
                if (m->fd_count < MAX_FDS) {
                    m->fds[m->fd_count++] = fd;
                } else {
                    close(fd);
                }
            }
        }
    }
    return head->msg_flags & MSG_CTRUNC ? -EPROTO : 0;
}

/* All of the bytes, and the descriptors that come with them. */
static int receive_co(VhostUser *u, Message *m, void *buffer, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        union {
            struct cmsghdr align;
            char space[CMSG_SPACE(sizeof(int) * MAX_FDS)];
        } control;
        struct iovec iov = { (uint8_t *)buffer + at, bytes - at };
        struct msghdr head = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
        ssize_t got = recvmsg(u->fd, &head, MSG_CMSG_CLOEXEC);
        if (got < 0 && errno == EAGAIN) {
            co_wait_fd(u->fd, LOOP_READ);
            continue;
        }
        if (got == 0 || (got < 0 && errno != EINTR)) {
            return -ECONNRESET;
        }
        if (got > 0 && take_fds(m, &head) < 0) {
            return -EPROTO;
        }
        at += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

static int receive_message_co(VhostUser *u, Message *m)
{
    uint8_t head[VHOST_HEADER];
    int ret = receive_co(u, m, head, sizeof(head));

    if (ret < 0) {
        return ret;
    }
    m->request = ld32_le(head);
    m->flags = ld32_le(head + 4);
    m->size = ld32_le(head + 8);
    if ((m->flags & VHOST_FLAG_VERSION_MASK) != VHOST_FLAG_VERSION || m->size > PAYLOAD_MAX) {
        return -EPROTO;
    }
    memset(m->payload, 0, sizeof(m->payload));
    return receive_co(u, m, m->payload, m->size);
}

static int next_message_co(VhostUser *u, Message *m)
{
    bool replied;

    m->fd_count = 0;
    int ret = receive_message_co(u, m);
    if (ret == 0) {
        ret = process_co(u, m, &replied);
        bool acknowledge = (m->flags & VHOST_FLAG_NEED_REPLY) && (u->protocol & 1ull << VHOST_PROTOCOL_REPLY_ACK) && !replied;
        if (acknowledge && ret != -EPROTO) {
            ret = reply_u64(u, m, ret < 0);
        } else if (ret < 0) {
            log_printf("vhost-user: message %u of %u bytes cannot be obeyed\n", m->request, m->size);
            ret = -EPROTO; /* nobody would be told */
        }
    }
    drop_fds(m);
    return ret;
}

void vhost_user_serve_co(const VhostUserDevice *device, int fd, VhostUser **ret_user)
{
    VhostUser *u = g_new0(VhostUser, 1);
    g_autofree Message *m = g_new(Message, 1);

    u->device = *device;
    u->loop = co_loop();
    u->fd = fd;
    co_queue_init(&u->idle);
    for (unsigned i = 0; i < device->queues; i++) {
        VhostQueue *q = &u->queues[i];
        q->user = u;
        q->index = i;
        q->kick = q->call = q->err = -1;
        work_init(&q->again, u->loop, take_more, q);
    }
    *ret_user = u;
    while (next_message_co(u, m) == 0) {
    }
    *ret_user = NULL;
    for (unsigned i = 0; i < device->queues; i++) {
        stop_kicks(&u->queues[i]);
    }
    reset_co(u);
    for (unsigned i = 0; i < device->queues; i++) {
        work_fini(&u->queues[i].again);
    }
    vhost_memory_clear(&u->memory);
    close(u->fd);
    g_free(u);
}

void vhost_user_disconnect(VhostUser *u)
{
    shutdown(u->fd, SHUT_RDWR);
}
