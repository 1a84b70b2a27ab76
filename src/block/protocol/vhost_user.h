/* The driver virtio-blk-vhost-user, for the device vhost-user-blk. */
#ifndef OSTRICH_BLOCK_PROTOCOL_VHOST_USER_H
#define OSTRICH_BLOCK_PROTOCOL_VHOST_USER_H

#include "block/node.h"

/* The disk's serial number, at most 20 characters; empty: it has none. Valid while the node, which is of the driver, is open. */
const char *vhost_user_disk_id(const BlockNode *node);

#endif
