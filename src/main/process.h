/*
 * What the long-running programs do with the process they are: signals, going to the background, the file
 * with the process id. A program has one of each, so the state is the process's.
 */
#ifndef OSTRICH_MAIN_PROCESS_H
#define OSTRICH_MAIN_PROCESS_H

#include <sys/types.h>

#include "base/error.h"
#include "event/loop.h"

/* SIGINT, SIGTERM and SIGHUP: fn runs on the loop. pid: who sent it, 0: the kernel. NULL: it failed. */
LoopFd *process_catch_signals(Loop *loop, void (*fn)(void *opaque, int signo, pid_t pid), void *opaque);

/* Goes on in a child. The parent leaves when the child tells it that all is well (status 0), or ends (1). Before threads. */
void process_go_to_background(void);
/* The standard descriptors go to /dev/null, standard error unless it is kept. */
void process_tell_parent(bool keep_stderr);

/* The file stays open and locked: that says that the process lives. Whoever made it removes it. */
Error *process_write_pidfile(const char *path) MUST_USE;
/* From now on SIGTERM comes when the parent ends; an error when it has ended already. */
Error *process_end_with_parent(pid_t parent) MUST_USE;
/*
 * A child that shares the memory and ends behind this process, so that whoever waits for this one does not wait until a large
 * guest's memory has been given back.
 */
Error *process_leave_memory_to_child(void) MUST_USE;
/* A caller may have closed them; what opens next must not take their numbers. */
void process_open_standard_descriptors(void);

#endif
