/*
 * Drives: what -drive describes. A drive is a backend with an id, a place (interface, bus, unit),
 * and the options of its medium. Boards ask for the drives of their controllers and make devices
 * for them; a drive with if=none waits for a -device.
 */
#ifndef OSTRICH_BLOCK_DRIVE_H
#define OSTRICH_BLOCK_DRIVE_H

#include "block/backend.h"

typedef enum DriveInterface {
    DRIVE_IF_NONE,
    DRIVE_IF_IDE,
    DRIVE_IF_SCSI,
    DRIVE_IF_FLOPPY,
    DRIVE_IF_PFLASH,
    DRIVE_IF_MTD,
    DRIVE_IF_SD,
    DRIVE_IF_VIRTIO,
    DRIVE_IF_XEN,
    DRIVE_INTERFACES,
} DriveInterface;
const char *drive_interface_name(DriveInterface interface);
Error *drive_interface_parse(const char *name, DriveInterface *ret_interface) MUST_USE;

typedef struct Drive {
    char *id;
    BlockBackend *blk; /* counted; also found by id */
    DriveInterface interface;
    unsigned bus, unit;
    bool cdrom;      /* media=cdrom */
    char *serial;    /* NULL: none */
    bool is_default; /* made by the board, not by the user */
    bool claimed;    /* a device took it */
    ListNode node;
} Drive;

/*
 * kv: the keys of -drive, all of them QEMU's: file, if, index, bus, unit, media, format, cache,
 * aio, snapshot, readonly, copy-on-read, discard, detect-zeroes, werror, rerror, serial, id,
 * node-name, and options of the block drivers in dotted form. Without a file, an empty drive. The
 * graph owns the drive. warnings: called with a line each for what the user should know (a guessed
 * raw format); may be NULL.
 */
Error *block_drive_new(BlockGraph *graph, const KeyValues *kv, DriveInterface default_interface,
                       bool snapshot, void (*warn)(const char *text), Drive **ret_drive) MUST_USE;
void block_drive_free(Drive *drive); /* accepts NULL */
void block_drives_free(BlockGraph *graph);
Drive *block_drive_get(BlockGraph *graph, DriveInterface interface, unsigned bus, unsigned unit);
Drive *block_drive_of(const BlockBackend *blk); /* NULL: it is no drive's */
Drive *block_drive_find(BlockGraph *graph, const char *id);
Drive *block_drive_next(BlockGraph *graph, Drive *after);
/* The highest bus number + 1 in use on an interface. */
unsigned block_drive_buses(BlockGraph *graph, DriveInterface interface);
/* An unused drive with an interface that is not "none" is a mistake of the user: names it. */
Error *block_drives_check_claimed(BlockGraph *graph) MUST_USE;

/* Puts a temporary overlay over the node, as snapshot=on does; *node is replaced. In a
 * coroutine or outside. */
Error *block_temporary_overlay(BlockGraph *graph, BlockNode **node) MUST_USE;

#endif
