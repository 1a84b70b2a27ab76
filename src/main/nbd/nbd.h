/* qemu-nbd: what its files share. */
#ifndef OSTRICH_MAIN_NBD_H
#define OSTRICH_MAIN_NBD_H

#include "block/nbd/server.h"

typedef struct NbdProgram {
    /* what to serve */
    const char *filename;
    KeyValues *open_opts; /* driver and options of the node */
    GPtrArray *objects;   /* of --object; borrowed */
    const char *snapshot; /* -l */
    uint64_t offset;
    bool image_opts, read_only, overlay, direct, no_flush, writethrough;
    /* how */
    const char *name, *description;
    GPtrArray *bitmaps; /* const char *: names */
    unsigned handshake_seconds; /* 0: no limit */
    const char *tls_creds, *tls_authz, *tls_hostname;
    bool allocation_depth;
    const char *bind, *port, *socket, *device, *disconnect, *pid_file;
    unsigned shared;
    bool persistent, verbose, fork, list;
    /* running */
    Loop *loop;
    BlockGraph *graph;
    BlockNode *node;
    int device_fd;
    bool was_used;
    Error *err;
} NbdProgram;

/* -1: go on, else the exit code. */
int nbd_parse_options(NbdProgram *p, int argc, char **argv);
/* Where to listen or connect. */
Error *nbd_program_address(const NbdProgram *p, NbdAddress *ret_address) MUST_USE;
int nbd_list_exports(NbdProgram *p);

/* --- the kernel's client --- */
Error *nbd_device_open(const char *device, int *ret_fd) MUST_USE;
/* Sends what the kernel wants to the server in this process; returns when the device is ready. A
 * thread stays in the kernel until it is disconnected, then quits the loop. */
Error *nbd_device_attach_co(NbdProgram *p) MUST_USE;
int nbd_device_disconnect(const char *device);

#endif
