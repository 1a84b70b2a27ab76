/* Shared by the files of this folder. */
#ifndef OSTRICH_REPLAY_REPLAY_PRIV_H
#define OSTRICH_REPLAY_REPLAY_PRIV_H

#include <stdio.h>

#include "core/vm/inlet.h"
#include "replay/replay.h"

typedef struct ReplayEvent {
    uint8_t kind;
    uint16_t cpu; /* whose turn it is */
    uint64_t count, pc;
    int64_t ns;
    GBytes *payload; /* owned */
} ReplayEvent;

typedef struct Replay {
    Inlet inlet;
    ReplayMode mode;
    char *path;
    FILE *file;       /* recording; NULL when it could not be written */
    uint32_t number;  /* records so far */
    GQueue posted;    /* ReplayEvent *: wait for delivery */
    GPtrArray *events; /* ReplayEvent *: playing, all of them but the header */
    unsigned at;      /* the next one */
    uint64_t stop_at; /* replay-break; UINT64_MAX: none */
    bool ended;
    GPtrArray *saved; /* reverse.c: Saved *, by count; NULL: nobody wants to go back */
    uint64_t save_step;
} Replay;

Replay *replay_of(Machine *machine); /* NULL: nothing is recorded or replayed */

#endif
