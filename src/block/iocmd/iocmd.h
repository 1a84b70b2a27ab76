/*
 * The commands of qemu-io: single requests to a disk, typed by hand or by a test. The program
 * qemu-io and the monitor run them. A command line is split at spaces; options come before or after
 * the arguments. What a command has to say goes to `print`, a command line that cannot be
 * understood to `complain`, and errors of the program to `report`.
 */
#ifndef OSTRICH_BLOCK_IOCMD_H
#define OSTRICH_BLOCK_IOCMD_H

#include "block/node.h"

/* How the open file was opened, so that it can be opened again otherwise. */
typedef struct IoOpening {
    char *filename;  /* NULL: by options alone */
    KeyValues *opts; /* driver and its options; owned */
    bool read_only, writethrough, snapshot, copy_on_read, force_share;
    unsigned flags; /* OPEN_DIRECT, OPEN_NO_FLUSH */
} IoOpening;

typedef struct IoSession {
    BlockGraph *graph;
    BlockNode *node; /* NULL: no file open; counted */
    BlockEdge *root;
    IoOpening *opening; /* NULL: the file is somebody else's (the monitor) */
    bool misalign;
    bool claimed; /* who has the node open for the machine has the claims that the commands need */
    bool quit;
    unsigned in_flight; /* asynchronous requests */
    CoQueue idle;       /* woken when in_flight falls to 0 */
    void (*print)(void *opaque, const char *text);
    void (*complain)(void *opaque, const char *text); /* about the command line: a line */
    void (*report)(void *opaque, Error *err);         /* takes err */
    void *opaque;
} IoSession;

/* The caller then sets print, complain, report and opaque. */
void io_session_init(IoSession *io, BlockGraph *graph);
/* Waits for asynchronous requests and closes the file. */
void io_session_fini_co(IoSession *io);
/* Takes opening, also on failure. */
bool io_session_open_co(IoSession *io, IoOpening *opening);
void io_opening_free(IoOpening *opening); /* accepts NULL */
/* Cache modes as -t takes them. */
Error *io_opening_set_cache(IoOpening *opening, const char *mode) MUST_USE;
Error *io_opening_set_discard(IoOpening *opening, const char *mode) MUST_USE;
Error *io_opening_set_aio(IoOpening *opening, const char *mode) MUST_USE;

/* 0, or negative when the command failed. */
int io_command_co(IoSession *io, const char *line);

#endif
