/*
 * The SCSI bus (SAM-5, SPC-4): logical units at (channel, target, LUN), and requests to them.
 *
 * A host adapter embeds ScsiBus; its transport gives a request a CDB and scatter lists of guest memory and gets status,
 * sense data and the number of bytes moved. An adapter without scatter lists asks scsi_transfer() how much a CDB moves
 * and gathers the data itself. A logical unit embeds ScsiDevice first; its commands are a ScsiDeviceOps in the
 * descriptor's `extra`.
 *
 * What every target answers is here: REPORT LUNS, commands to a LUN that is not there, unit attentions.
 *
 * Threads: the machine lock. done() of the host runs once a request, possibly inside scsi_submit().
 */
#ifndef OSTRICH_BUS_SCSI_H
#define OSTRICH_BUS_SCSI_H

#include <sys/uio.h>

#include "core/vm/machine.h"

extern const BusType scsi_bus_type;

typedef struct ScsiBus ScsiBus;
typedef struct ScsiDevice ScsiDevice;
typedef struct ScsiRequest ScsiRequest;

enum { SCSI_CDB_MAX = 32, SCSI_SENSE_BYTES = 18, SCSI_LUN_BYTES = 8, SCSI_ATTENTIONS = 4 };

/* Status codes (SAM-5, 5.3.1). */
enum { SCSI_GOOD = 0x00, SCSI_CHECK_CONDITION = 0x02, SCSI_BUSY = 0x08, SCSI_RESERVATION_CONFLICT = 0x18, SCSI_TASK_ABORTED = 0x40 };

/* Sense keys (SPC-4, 4.5.6), and additional sense codes that more than one command set uses. */
enum {
    SENSE_NONE = 0, SENSE_NOT_READY = 2, SENSE_MEDIUM_ERROR = 3, SENSE_HARDWARE_ERROR = 4, SENSE_ILLEGAL = 5, SENSE_ATTENTION = 6,
    SENSE_DATA_PROTECT = 7, SENSE_ABORTED = 11, SENSE_MISCOMPARE = 14,
};
enum {
    ASC_WRITE_ERROR = 0x0c, ASC_UNRECOVERED_READ = 0x11, ASC_LIST_LENGTH = 0x1a, ASC_MISCOMPARE = 0x1d, ASC_INVALID_OPCODE = 0x20,
    ASC_LBA_RANGE = 0x21, ASC_INVALID_FIELD = 0x24, ASC_INVALID_LUN = 0x25, ASC_INVALID_PARAMETER = 0x26, ASC_WRITE_PROTECTED = 0x27,
    ASC_MEDIUM_CHANGED = 0x28, ASC_RESET = 0x29, ASC_PARAMETERS_CHANGED = 0x2a, ASC_SAVING_UNSUPPORTED = 0x39, ASC_NO_MEDIUM = 0x3a,
    ASC_TARGET_CHANGED = 0x3f, ASC_INTERNAL_FAILURE = 0x44, ASC_LOAD_EJECT_FAILED = 0x53, ASC_WRONG_MODE = 0x64,
};

typedef struct ScsiSense {
    uint8_t key, asc, ascq;
} ScsiSense;

typedef enum ScsiEnd {
    SCSI_ENDED,     /* status counts */
    SCSI_CANCELLED, /* by scsi_cancel() */
    SCSI_OVERRUN,   /* the CDB moves more than the host's buffers hold; nothing was done */
    SCSI_NO_TARGET, /* nobody is at this address */
    SCSI_RETURNED,  /* the machine is being saved: the host keeps the command and submits it again when the machine runs */
} ScsiEnd;

struct ScsiRequest {
    /* The host fills these; the lists are borrowed until done. Zero the rest. */
    uint8_t cdb[SCSI_CDB_MAX];
    uint64_t tag;
    const struct iovec *out, *in; /* data from and to the initiator */
    unsigned out_count, in_count;
    uint64_t out_bytes, in_bytes;
    void (*done)(ScsiRequest *req); /* the request is the host's again and may be freed */

    /* When done. */
    ScsiEnd end;
    uint8_t status;
    uint8_t sense[SCSI_SENSE_BYTES]; /* fixed format, with CHECK CONDITION */
    unsigned sense_length;
    uint64_t moved; /* bytes of data */

    /* The bus's. */
    ScsiBus *bus;
    ScsiDevice *dev;
    uint32_t channel, target, lun;
    uint64_t serial; /* grows with each request of the bus */
    bool cancelled;
    ListNode node; /* in bus->requests */

    /* The logical unit's. */
    struct BlkRequest *blk;      /* at the back end; NULL: none */
    void (*step)(ScsiRequest *req, int ret); /* runs when that comes back */
    uint64_t offset, left;       /* bytes on the medium still to do */
    uint32_t index;              /* what is done of a list */
    uint8_t *buffer;             /* g_malloc'ed, freed when done */
    uint32_t buffer_length;
    struct iovec *iov;           /* g_malloc'ed, freed when done */
    unsigned iov_count;
};

/* How a logical unit does its work; DeviceType.extra. */
typedef struct ScsiDeviceOps {
    /* Bytes that the CDB moves, and in which direction; false: the opcode is not known. */
    bool (*transfer)(ScsiDevice *dev, const uint8_t *cdb, uint64_t *ret_bytes, bool *ret_to_device);
    /* Ends with one of the functions below, now or later. A pending attention was reported before. */
    void (*command)(ScsiRequest *req);
    /* Asks for an early end of a request under way; the command ends as usual. */
    void (*cancel)(ScsiRequest *req);
    /* Back to the state after power-on; its requests have ended or were cancelled. */
    void (*reset)(ScsiDevice *dev);
    /* Returns when nothing is at the back end, except what an error policy holds there. */
    void (*drain)(ScsiDevice *dev);
} ScsiDeviceOps;

/* Embedded first in every logical unit; types use SCSI_DEVICE_OBJECT() and inherit channel, scsi-id and lun. */
struct ScsiDevice {
    Device dev;
    ScsiBus *bus;
    uint32_t channel, id, lun; /* id, lun: UINT32_MAX: the first that is free */
    ScsiSense attention[SCSI_ATTENTIONS]; /* pending, oldest first; a key of 0 ends the list */
};

extern const ObjectType scsi_device_object_type;
#define SCSI_DEVICE_OBJECT(nm, tp, pr) .object = { .name = nm, .parent = &scsi_device_object_type, .size = sizeof(tp), .c_type = #tp, .props = pr }
extern const StateField scsi_device_state[];

typedef struct ScsiHostOps {
    /* A logical unit came or is gone while the guest runs. May be NULL. */
    void (*plugged)(ScsiBus *bus, ScsiDevice *dev);
    void (*unplugged)(ScsiBus *bus, ScsiDevice *dev);
    /* Something that the unit reports about itself changed: capacity, mode parameters. May be NULL. */
    void (*changed)(ScsiBus *bus, ScsiDevice *dev, ScsiSense why);
} ScsiHostOps;

struct ScsiBus {
    Bus bus;
    const ScsiHostOps *ops;
    uint32_t max_channel, max_target, max_lun; /* highest numbers */
    uint32_t own_target; /* the adapter's own number, which no target gets; UINT32_MAX: none */
    Loop *loop;          /* of the adapter's iothread: its units' images are used there; NULL: none */
    bool queueing;       /* the adapter gives more than one request to a unit */
    uint64_t serial;
    List requests;       /* under way */
};

/* --- for host adapters --- */
/* ops and the numbers are set by the caller afterwards. */
void scsi_bus_init(ScsiBus *bus, Machine *machine, Device *parent, const ScsiHostOps *ops, uint32_t max_channel, uint32_t max_target,
                   uint32_t max_lun);
/* NULL: there is none. */
ScsiDevice *scsi_find(ScsiBus *bus, uint32_t channel, uint32_t target, uint32_t lun);
/* Any logical unit of the target; NULL: no such target. */
ScsiDevice *scsi_find_target(ScsiBus *bus, uint32_t channel, uint32_t target);
void scsi_submit(ScsiBus *bus, uint32_t channel, uint32_t target, uint32_t lun, ScsiRequest *req);
/* The request will end, as SCSI_CANCELLED unless it has ended its work already. */
void scsi_cancel(ScsiRequest *req);
/* What a CDB moves, for adapters that gather the data; false: unknown, nothing. */
bool scsi_transfer(ScsiBus *bus, uint32_t channel, uint32_t target, uint32_t lun, const uint8_t *cdb, uint64_t *ret_bytes, bool *ret_to_device);
/* LOGICAL UNIT RESET: requests are cancelled, the unit goes back to its power-on state and says so. */
void scsi_reset_unit(ScsiDevice *dev);
/* Bus reset or power-on of the adapter. */
void scsi_reset_bus(ScsiBus *bus);
/* Waits for the units, see blk_drain(). Requests that were cancelled have ended then. */
void scsi_drain_bus(ScsiBus *bus);
/* Length of a CDB by its group code; 0: unknown. */
unsigned scsi_cdb_length(const uint8_t *cdb);

/* --- for logical units --- */
/* At the end of plug. */
void scsi_device_plugged(ScsiDevice *dev);
void scsi_complete(ScsiRequest *req, uint8_t status);
void scsi_good(ScsiRequest *req);
void scsi_return(ScsiRequest *req); /* as if it had not begun: SCSI_RETURNED */
void scsi_check(ScsiRequest *req, uint8_t key, uint8_t asc, uint8_t ascq);
/* Data to the initiator, no more than it allocated; GOOD. */
void scsi_reply(ScsiRequest *req, const void *data, uint64_t length, uint64_t allocated);
/* Data from the initiator: how many bytes there were, at most length. */
uint64_t scsi_take(ScsiRequest *req, void *buf, uint64_t length);
/* A list over exactly the first `bytes` of the initiator's data, in req->iov. */
void scsi_cut(ScsiRequest *req, uint64_t offset, uint64_t bytes, bool to_device);
/* Reported by the next command that asks for readiness. */
void scsi_attention(ScsiDevice *dev, uint8_t asc, uint8_t ascq);
/* An attention, and the adapter is told. */
void scsi_changed(ScsiDevice *dev, uint8_t asc, uint8_t ascq);

#endif
