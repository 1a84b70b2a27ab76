/*
 * File descriptors that came from outside: by -add-fd, or with a message to a monitor on a unix socket.
 * A set is opened as /dev/fdset/N: the descriptor in it whose access mode fits is duplicated.
 */
#ifndef OSTRICH_CORE_VM_FDSET_H
#define OSTRICH_CORE_VM_FDSET_H

#include "core/vm/machine.h"
#include "value/value.h"

/* Takes fd. set negative: a new one. opaque may be NULL; copied. */
Error *fdset_add(Machine *machine, int64_t set, int fd, const char *opaque, int64_t *ret_set) MUST_USE;
/* A new descriptor for "/dev/fdset/N", or -errno (-ENOENT when path is none). */
int fdset_open(Machine *machine, const char *path, int flags);
/* Closes one descriptor of a set, or with fd negative all. False: there was none. */
bool fdset_remove(Machine *machine, int64_t set, int64_t fd);
Value *fdsets_describe(Machine *machine); /* as query-fdsets shows them */
/* Takes fd; an older one of that name is closed. */
void named_fd_put(Machine *machine, const char *name, int fd);
bool named_fd_close(Machine *machine, const char *name); /* false: there is none */
/* The descriptor of getfd NAME, which is then the caller's; -1: none. */
int named_fd_take(Machine *machine, const char *name);
/* What fd=TEXT names: a descriptor of getfd, or the number of an inherited one. The caller's from then on. */
Error *machine_take_fd(Machine *machine, const char *text, int *ret_fd) MUST_USE;
void fdsets_free(Machine *machine);

#endif
