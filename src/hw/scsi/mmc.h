/*
 * Multimedia commands (MMC-3) of a CD/DVD drive, for ATAPI and for SCSI. A command is looked at and its outcome said;
 * moving data and reporting status is the transport's business. The tray is here, too, because both show it alike.
 */
#ifndef OSTRICH_HW_SCSI_MMC_H
#define OSTRICH_HW_SCSI_MMC_H

#include "bus/scsi.h"
#include "hw/block/disk_conf.h"

enum { CD_BLOCK = 2048, CD_RAW_BLOCK = 2352, CD_MAX_BLOCKS = 80 * 60 * 75, MMC_REPLY_MAX = 2052 };
/* GET EVENT STATUS NOTIFICATION, media class. */
enum { MEDIA_EVENT_NONE, MEDIA_EVENT_EJECT_REQUEST, MEDIA_EVENT_NEW, MEDIA_EVENT_REMOVED };

typedef struct MmcDrive {
    DiskConf *conf;
    uint8_t sense_key, asc, ascq; /* for REQUEST SENSE, where status does not carry it */
    uint8_t attention;            /* ASC of a pending unit attention, 0: none */
    uint8_t event;                /* pending media event code */
    bool tray_open, locked;
} MmcDrive;
extern const StateField mmc_state[];
/* Of a drive with a tray; opaque is the MmcDrive. */
extern const BlkDeviceOps mmc_blk_ops;

typedef struct MmcOutcome {
    enum { MMC_GOOD, MMC_CHECK, MMC_REPLY, MMC_READ, MMC_RECEIVE } kind;
    ScsiSense sense;            /* CHECK */
    uint32_t length, allocated; /* REPLY: bytes in the reply buffer, and how many the initiator wants */
    uint32_t lba, blocks, block_size; /* READ: inside the medium; block_size is as given out: 2048 or 2352 */
    uint32_t bytes;             /* RECEIVE: a parameter list of so many bytes is wanted */
} MmcOutcome;

/* Looks at a packet of 12 bytes; reply has room for MMC_REPLY_MAX bytes. */
void mmc_command(MmcDrive *drive, const uint8_t *packet, uint8_t *reply, MmcOutcome *ret_outcome);
/* The parameter list that MODE SELECT asked for came. */
void mmc_parameters(MmcDrive *drive, const uint8_t *packet, const uint8_t *list, uint32_t bytes, MmcOutcome *ret_outcome);
/* Bytes that a command of the set moves to the initiator (or from it: MODE SELECT); false: not of the set. */
bool mmc_transfer(const uint8_t *packet, uint64_t *ret_bytes, bool *ret_to_device);
/* Sync pattern, header, and zeroes around the 2048 bytes at raw + 16 (mode 1). */
void mmc_raw_header(uint8_t *raw, uint32_t lba);
bool mmc_medium_present(const MmcDrive *drive);
uint32_t mmc_blocks(const MmcDrive *drive); /* of CD_BLOCK bytes */
/* By the guest or the user; what is in it then counts. */
void mmc_move_tray(MmcDrive *drive, bool open);
void mmc_reset(MmcDrive *drive);

#endif
