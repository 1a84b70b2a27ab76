/*
 * The back end's side of the vhost-user protocol ("Vhost-user Protocol" of the QEMU project's interoperability
 * documents): one front end on one socket, its memory, its rings. What a device does with requests is the owner's.
 *
 * All of it runs on one loop. The front end is not trusted: a message that makes no sense ends the connection, a
 * ring that makes no sense is stopped and its error descriptor is told.
 *
 * Missing: packed rings, the log of dirty pages, inflight descriptors, post-copy, IOMMU.
 */
#ifndef OSTRICH_BLOCK_VHOST_USER_H
#define OSTRICH_BLOCK_VHOST_USER_H

#include "block/export/vhost_ring.h"
#include "event/coroutine.h"

enum { VHOST_USER_MAX_QUEUES = 64, VHOST_USER_CONFIG_MAX = 256 };
typedef struct VhostUser VhostUser;
typedef struct VhostQueue VhostQueue;

typedef struct VhostUserOps {
    /* Takes the element and ends in vhost_queue_done(), perhaps at once. */
    void (*request)(void *opaque, VhostQueue *queue, VhostElement *element);
    void (*get_config)(void *opaque, uint8_t config[VHOST_USER_CONFIG_MAX]);
    bool (*set_config)(void *opaque, unsigned offset, const uint8_t *data, unsigned bytes);
    void (*features_chosen)(void *opaque, uint64_t features);
} VhostUserOps;

typedef struct VhostUserDevice {
    uint64_t features; /* virtio's, without those of every device */
    unsigned queues;
    const VhostUserOps *ops;
    void *opaque;
} VhostUserDevice;

/* Serves the front end on fd, which it takes, until it leaves; in a coroutine. *ret_user is set meanwhile, for
 * vhost_user_disconnect(). */
void vhost_user_serve_co(const VhostUserDevice *device, int fd, VhostUser **ret_user);
void vhost_user_disconnect(VhostUser *user);
/* The element is done, and freed; bytes: that the guest got. */
void vhost_queue_done(VhostQueue *queue, VhostElement *element, uint32_t bytes);

#endif
