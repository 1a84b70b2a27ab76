/* What the monitor asks of the balloon. */
#ifndef OSTRICH_HW_VIRTIO_VIRTIO_BALLOON_H
#define OSTRICH_HW_VIRTIO_VIRTIO_BALLOON_H

#include "core/vm/machine.h"

/* Bytes that the guest has now; an error (class DeviceNotActive) when there is no balloon. */
Error *balloon_actual(Machine *machine, uint64_t *ret_bytes) MUST_USE;
/* Asks the guest to shrink or grow to this many bytes. */
Error *balloon_set_target(Machine *machine, uint64_t bytes) MUST_USE;

#endif
