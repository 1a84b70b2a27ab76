/*
 * A SCSI disk or CD drive: what scsi_hd.c and scsi_cd.c share.
 *
 * A command is found in a table of ScsiCommand rows; the row says which bytes of the CDB tell the length of the data.
 * Requests to the back end come back through scsi_disk_begin()'s step, unless the request was cancelled meanwhile.
 */
#ifndef OSTRICH_HW_SCSI_SCSI_DISK_H
#define OSTRICH_HW_SCSI_SCSI_DISK_H

#include "bus/scsi.h"
#include "hw/scsi/mmc.h"

enum { TYPE_DISK = 0x00, TYPE_CD = 0x05 };

typedef struct ScsiDisk {
    ScsiDevice scsi;
    DiskConf conf;
    MmcDrive mmc; /* tray and medium; disks that cannot be removed leave it alone */
    char *serial, *vendor, *product, *version, *device_id;
    uint64_t wwn, port_wwn, max_io_size, max_unmap_size;
    uint16_t port_index, rotation_rate;
    int32_t scsi_version;
    uint32_t cyls, heads, secs, lcyls, lheads, lsecs;
    bool dpofua, removable;
    uint8_t type;        /* TYPE_* */
    bool original_wce, write_cache;
} ScsiDisk;

/* Where the length of a command's data stands. */
typedef enum ScsiLength {
    LENGTH_NONE,
    LENGTH_BYTE4,
    LENGTH_BE16_AT_3,
    LENGTH_BE16_AT_7,
    LENGTH_BE32_AT_10,
    LENGTH_EIGHT,      /* always 8 bytes */
    LENGTH_BLOCKS,     /* the range's */
    LENGTH_ONE_BLOCK,  /* WRITE SAME */
    LENGTH_COMPARE,    /* VERIFY: by BYTCHK */
} ScsiLength;

enum { NEEDS_MEDIUM = 1, WRITES = 2, TO_DEVICE = 4 };

typedef struct ScsiCommand {
    uint8_t opcode;
    void (*run)(ScsiDisk *disk, ScsiRequest *req);
    unsigned flags;
    ScsiLength length;
} ScsiCommand;

static inline ScsiDisk *scsi_disk_of(ScsiDevice *dev)
{
    return container_of(dev, ScsiDisk, scsi);
}

/* --- common life --- */
#define SCSI_DISK_PROPS                                                                            \
    DISK_CONF_PROPS(ScsiDisk, conf, scsi.dev),                                                     \
    PROP_STR("ver", ScsiDisk, version, .help = "Revision, 4 characters"),                          \
    PROP_STR("serial", ScsiDisk, serial, .help = "Serial number, 36 characters count"),            \
    PROP_STR("vendor", ScsiDisk, vendor, .help = "Vendor, 8 characters"),                          \
    PROP_STR("product", ScsiDisk, product, .help = "Product, 16 characters"),                      \
    PROP_STR("device_id", ScsiDisk, device_id, .help = "Identification of VPD page 83h; unset: the serial number or the drive's id"), \
    PROP_U64("wwn", ScsiDisk, wwn, 0, .help = "World wide name of the unit"),                      \
    PROP_U64("port_wwn", ScsiDisk, port_wwn, 0, .help = "World wide name of the target port"),     \
    PROP_U16("port_index", ScsiDisk, port_index, 0, .help = "Number of the target port"),          \
    PROP_U64("max_io_size", ScsiDisk, max_io_size, INT32_MAX, .help = "Bytes that one command may move"), \
    PROP_("scsi_version", prop_i32, ScsiDisk, scsi_version, .def = 5, .min = 0, .max = 7, .help = "Version that INQUIRY tells")
Error *scsi_disk_plug(ScsiDisk *disk, uint8_t type, const DiskTraits *traits, const char *product) MUST_USE;
void scsi_disk_unplug(Device *dev);
void scsi_disk_reset(Device *dev);
void scsi_disk_saving(Device *dev);
Error *scsi_disk_loaded(Device *dev);
#define SCSI_DISK_STATE                                                                            \
    STATE_STRUCT(ScsiDisk, scsi, scsi_device_state), STATE_STRUCT(ScsiDisk, mmc, mmc_state),       \
    STATE_BOOL(ScsiDisk, write_cache), STATE_NOT(ScsiDisk, type, "configuration"),                 \
    STATE_NOT(ScsiDisk, original_wce, "made by plug")
void scsi_disk_cancel(ScsiRequest *req);
void scsi_disk_drain(ScsiDevice *dev);
void scsi_disk_unit_reset(ScsiDevice *dev);

/* --- commands --- */
bool scsi_command_transfer(const ScsiDisk *disk, const ScsiCommand *command, const uint8_t *cdb, uint64_t *ret_bytes, bool *ret_to_device);
void scsi_inquiry(ScsiDisk *disk, ScsiRequest *req);      /* scsi_inquiry.c */
void scsi_mode_sense(ScsiDisk *disk, ScsiRequest *req);   /* scsi_mode.c */
void scsi_mode_select(ScsiDisk *disk, ScsiRequest *req);
const ScsiCommand *scsi_rw_find(uint8_t opcode);          /* scsi_rw.c; NULL: unknown */

/* Whether there is a medium; else the request has ended. */
bool scsi_disk_ready(ScsiDisk *disk, ScsiRequest *req);
uint32_t scsi_disk_block(const ScsiDisk *disk);   /* bytes */
uint64_t scsi_disk_blocks(const ScsiDisk *disk);
bool scsi_disk_discards(const ScsiDisk *disk);    /* UNMAP is offered */
/* The range of a READ, WRITE, VERIFY or WRITE SAME. */
void scsi_cdb_range(const uint8_t *cdb, uint64_t *ret_lba, uint32_t *ret_blocks);
void scsi_put_text(uint8_t *at, size_t length, const char *text); /* blank padded */

/* --- requests to the back end: step(req, ret) runs later --- */
typedef void ScsiStep(ScsiRequest *req, int ret);
void scsi_disk_read(ScsiRequest *req, uint64_t offset, const struct iovec *iov, unsigned count, ScsiStep *step);
void scsi_disk_write(ScsiRequest *req, uint64_t offset, const struct iovec *iov, unsigned count, bool fua, ScsiStep *step);
void scsi_disk_flush(ScsiRequest *req, ScsiStep *step);
void scsi_disk_discard(ScsiRequest *req, uint64_t offset, uint64_t bytes, ScsiStep *step);
void scsi_disk_zero(ScsiRequest *req, uint64_t offset, uint64_t bytes, bool unmap, ScsiStep *step);
/* Ends the request with what errno says. */
void scsi_disk_fail(ScsiRequest *req, int ret, bool reading);

#endif
