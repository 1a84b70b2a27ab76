/* Shared by the files of this folder. */
#ifndef OSTRICH_GDB_GDB_PRIV_H
#define OSTRICH_GDB_GDB_PRIV_H

#include "chardev/chardev.h"
#include "core/vm/debug.h"
#include "gdb/gdb.h"
#include "gdb/packet.h"

#define GDB_SERVICE "gdb"

typedef struct Gdb {
    Machine *machine;
    CharFront front;
    char *own_chardev;  /* id of the one that was made for this; NULL: somebody else's */
    GdbReader reader;
    GString *last;      /* the packet sent last, for a peer that did not get it */
    bool no_ack, physical;
    bool commanding;    /* a packet is being carried out */
    bool busy;          /* going back: rounds of the main loop are made */
    bool resumed;       /* gdb waits for the machine to stop */
    unsigned general, control; /* vCPUs that following packets are about */
    unsigned listed;    /* of qsThreadInfo */
    DebugPoints points;
    MachineNotifier notifier;
} Gdb;

Vcpu *gdb_vcpu(Gdb *gdb, unsigned index); /* any that exists when there is none of that number */
void gdb_send(Gdb *gdb, const char *payload);
void gdb_send_bytes(Gdb *gdb, const char *payload, size_t length);
void gdb_send_stop(Gdb *gdb); /* why the machine stands still */
void gdb_forget_points(Gdb *gdb);

/* commands.c */
void gdb_command(Gdb *gdb, const char *text, size_t length);
/* query.c */
void gdb_query(Gdb *gdb, const char *text);

#endif
