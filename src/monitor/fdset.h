/*
 * File descriptors that came from outside: by -add-fd, or with a message to a monitor on a unix socket.
 * A set is opened as /dev/fdset/N: the descriptor in it whose access mode fits is duplicated.
 */
#ifndef OSTRICH_MONITOR_FDSET_H
#define OSTRICH_MONITOR_FDSET_H

#include "core/vm/machine.h"

/* Takes fd. set negative: a new one. opaque may be NULL; copied. */
Error *fdset_add(Machine *machine, int64_t set, int fd, const char *opaque, int64_t *ret_set) MUST_USE;
/* A new descriptor for "/dev/fdset/N", or -errno (-ENOENT when path is none). */
int fdset_open(Machine *machine, const char *path, int flags);
/* The descriptor of getfd NAME, which is then the caller's; -1: none. */
int named_fd_take(Machine *machine, const char *name);
void fdsets_free(Machine *machine);

#endif
