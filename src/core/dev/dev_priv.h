/* Shared by the files of core/dev. */
#ifndef OSTRICH_CORE_DEV_DEV_PRIV_H
#define OSTRICH_CORE_DEV_DEV_PRIV_H

#include "core/dev/dev.h"
#include "core/vm/machine.h"

/* Something the core takes down when its device goes: newest first. */
typedef struct Owned {
    ListNode node;
    void (*release)(struct Owned *owned);
    void *ptr;
    void (*fn)(void *opaque);
} Owned;

void device_release_owned(Device *dev);

#endif
