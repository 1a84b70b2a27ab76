/*
 * Programs run by the shell with one descriptor of ours as their standard input or output.
 *
 * A process that gives up the right to start programs leaves a spawner behind first: a child that does nothing but start
 * them on request, and ends with its parent.
 *
 * Threads: a spawner is for one thread at a time.
 */
#ifndef OSTRICH_IO_SPAWN_H
#define OSTRICH_IO_SPAWN_H

#include <sys/types.h>

#include "base/error.h"

typedef struct Spawner Spawner;

/* Forks. */
Error *spawner_new(Spawner **ret_spawner) MUST_USE;
void spawner_free(Spawner *spawner); /* accepts NULL */

typedef struct SpawnedProgram {
    pid_t child;   /* ours, or 0 */
    int status_fd; /* where its status comes from when it is the spawner's, or -1 */
} SpawnedProgram;

/* fd becomes descriptor `as` (0 or 1) of the program and stays the caller's. spawner NULL: as a child of this process. */
Error *spawn_shell(Spawner *spawner, const char *command, int fd, int as, SpawnedProgram *ret_program) MUST_USE;
/* Waits for its end; the status as of waitpid(), -1 when nobody knows. Once; of a zeroed one, 0. */
int spawn_wait(SpawnedProgram *program);
/* Instead: nobody waits any more. A child of ours is killed; one of the spawner's finds its descriptor closed. */
void spawn_abandon(SpawnedProgram *program);

#endif
