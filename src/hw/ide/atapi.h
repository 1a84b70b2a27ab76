/* Between the packet protocol (atapi.c) and the multimedia commands (mmc.c). */
#ifndef OSTRICH_HW_IDE_ATAPI_H
#define OSTRICH_HW_IDE_ATAPI_H

#include <errno.h>

#include "hw/ide/ide.h"

enum { CD_BLOCK = 2048, CD_RAW_BLOCK = 2352, CD_MAX_BLOCKS = 80 * 60 * 75 };
enum { SENSE_NONE = 0, SENSE_NOT_READY = 2, SENSE_MEDIUM_ERROR = 3, SENSE_ILLEGAL = 5, SENSE_ATTENTION = 6, SENSE_ABORTED = 11 };
enum {
    ASC_INVALID_OPCODE = 0x20, ASC_LBA_RANGE = 0x21, ASC_INVALID_FIELD = 0x24, ASC_INVALID_PARAMETER = 0x26,
    ASC_MEDIUM_CHANGED = 0x28, ASC_SAVING_UNSUPPORTED = 0x39, ASC_NO_MEDIUM = 0x3a, ASC_LOAD_EJECT_FAILED = 0x53,
    ASC_WRONG_MODE = 0x64,
};
/* GET EVENT STATUS NOTIFICATION, media class. */
enum { MEDIA_EVENT_NONE, MEDIA_EVENT_EJECT_REQUEST, MEDIA_EVENT_NEW, MEDIA_EVENT_REMOVED };

/* The packet in drive->atapi.packet is to be carried out. */
void mmc_command(IdeDrive *drive);
/* A parameter list came: bytes of it are in the buffer. */
void mmc_parameters(IdeDrive *drive, uint32_t bytes);
/* Sync pattern, header, and zeroes around the 2048 bytes at raw + 16 (mode 1). */
void mmc_raw_header(uint8_t *raw, uint32_t lba);

/* How a command ends or goes on; one of these for each. */
/* By the guest or the user; what is in it then counts. */
void atapi_move_tray(IdeDrive *drive, bool open);
void atapi_good(IdeDrive *drive);
void atapi_check(IdeDrive *drive, uint8_t key, uint8_t asc, uint8_t ascq);
/* Sends the first bytes of the buffer, no more than the guest allocated. */
void atapi_reply(IdeDrive *drive, uint32_t length, uint32_t allocated);
void atapi_read(IdeDrive *drive, uint64_t lba, uint32_t blocks, uint32_t block_size);
void atapi_receive(IdeDrive *drive, uint32_t bytes);

#endif
