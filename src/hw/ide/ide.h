/*
 * IDE drives and the registers of their channel: what controllers (PIIX, ISA, AHCI) and the drives' command
 * sets (ata.c, atapi.c) share.
 */
#ifndef OSTRICH_HW_IDE_IDE_H
#define OSTRICH_HW_IDE_IDE_H

#include "bus/ide.h"
#include "hw/block/disk_conf.h"
#include "hw/scsi/mmc.h"

/* Status, error, device and device control registers; interrupt reason of ATAPI. */
enum { ATA_BSY = 0x80, ATA_DRDY = 0x40, ATA_DF = 0x20, ATA_DSC = 0x10, ATA_DRQ = 0x08, ATA_ERR = 0x01 };
enum { ATA_UNC = 0x40, ATA_IDNF = 0x10, ATA_ABRT = 0x04 };
enum { ATA_LBA = 0x40, ATA_DEV1 = 0x10 };
enum { ATA_NIEN = 0x02, ATA_SRST = 0x04, ATA_HOB = 0x80 };
enum { ATAPI_CD = 0x01, ATAPI_IO = 0x02 };
/* Command block registers by their offset. */
enum { IDE_DATA, IDE_ERROR, IDE_NSECTOR, IDE_LBA_LOW, IDE_LBA_MID, IDE_LBA_HIGH, IDE_SELECT, IDE_STATUS };

enum { IDE_SECTOR = 512, IDE_BUFFER_SECTORS = 256, IDE_BUFFER = IDE_BUFFER_SECTORS * IDE_SECTOR, IDE_MULTIPLE_MAX = 16 };

typedef struct IdeDrive IdeDrive;
typedef void IdePhase(IdeDrive *drive);

/* What a command set gives. */
typedef struct IdeDriveOps {
    void (*command)(IdeDrive *drive, uint8_t command);
    void (*reset)(IdeDrive *drive); /* the command set's own state, on any reset; may be NULL */
    IdePhase *const *phases;        /* all that may wait for the guest, or make a request again, for saved state; NULL ends */
    IdePhase *(*again)(IdePhase *then); /* makes the request again whose end would have run `then` */
    bool (*plausible)(const IdeDrive *drive); /* whether loaded state can be gone on with */
    uint8_t signature_mid, signature_high, status_after_reset;
} IdeDriveOps;

/* A task file register with its previous content (LBA48). */
typedef struct IdeReg {
    uint8_t now, hob;
} IdeReg;

/* State of the packet command set. */
typedef struct Atapi {
    uint8_t packet[12];
    MmcDrive mmc;           /* what the multimedia commands keep */
    bool dma;               /* this command's data go by DMA */
    uint32_t byte_limit;    /* of a DRQ block */
    uint64_t lba;           /* next block */
    uint32_t blocks;        /* left to read */
    uint32_t block_size;    /* as given to the guest: 2048 or 2352 */
    uint32_t out_bytes;     /* parameter list */
} Atapi;

struct IdeDrive {
    IdeDevice ide;
    const IdeDriveOps *ops;
    DiskConf conf;
    char *serial, *model, *version;
    uint64_t wwn;
    uint32_t cyls, heads, secs;
    uint32_t lcyls, lheads, lsecs;
    int chs_trans;
    uint16_t rotation_rate;
    uint64_t sectors; /* of 512 bytes */

    /* Task file. */
    IdeReg features, nsector, lba_low, lba_mid, lba_high;
    uint8_t error, status, select, command;
    uint8_t cur_heads, cur_secs; /* of the CHS translation that the guest set */
    uint8_t multiple;            /* sectors a block of READ and WRITE MULTIPLE */
    uint8_t pio_mode, mdma_mode, udma_mode; /* 0xff: none */
    bool smart, smart_autosave;

    /* PIO: the guest moves buffer[at..end); then phase runs. */
    uint8_t buffer[IDE_BUFFER];
    uint32_t at, end;
    bool to_guest;
    IdePhase *phase;
    uint32_t filled; /* bytes that the buffer holds; of a DMA piece: that are being moved */

    /* A disk command under way. */
    uint64_t lba;
    uint32_t left, block; /* sectors; a DRQ block */
    bool writing, fua, dma;
    uint32_t next;               /* where in the buffer the next block begins */

    /* The request at the back end. A reset while one is out is done when it comes back. */
    BlkRequest *request;
    IdePhase *then;
    int result;
    struct iovec vec;
    bool reset_wanted;
    bool dma_waiting; /* DMARQ: the host's engine shall call ide_dma_run() */
    IdePhase *dma_step;
    IdePhase *again; /* a request that failed was given back so that the machine can be saved: makes it when the machine runs */
    /* Saved state only: phase, dma_step and again as numbers; whether there is such a request. */
    uint8_t phase_id, dma_step_id, again_id;
    bool held;

    Atapi atapi;
};

static inline IdeDrive *ide_drive_of(IdeDevice *ide)
{
    return container_of(ide, IdeDrive, ide);
}

/* --- controllers --- */
/* reg: 1 to 7. */
uint8_t ide_reg_read(IdeBus *ide, unsigned reg);
void ide_reg_write(IdeBus *ide, unsigned reg, uint8_t value);
uint32_t ide_data_read(IdeBus *ide, unsigned size); /* 1, 2 or 4 bytes */
void ide_data_write(IdeBus *ide, uint32_t value, unsigned size);
uint8_t ide_alt_status(IdeBus *ide);
void ide_control_write(IdeBus *ide, uint8_t value);
/* The bus master's engine is started; drives that wait for it go on. */
void ide_dma_run(IdeBus *ide);
/* Power-on or bus reset of the channel. */
void ide_channel_reset(IdeBus *ide);
/* An MemOps pair over the command block (8 ports) and the control block (alternate status at 0); opaque is the IdeBus. */
extern const MemOps ide_command_ops, ide_control_ops;
extern const StateField ide_bus_state[];

/* --- command sets --- */
void ide_raise(IdeDrive *drive);
/* Ready for the next command, with or without an error; INTRQ. */
void ide_stall(IdeDrive *drive); /* the command is over without an interrupt */
void ide_complete(IdeDrive *drive);
void ide_fail(IdeDrive *drive, uint8_t error);
/* Moves buffer[start, start + bytes) through the data register, then phase. INTRQ first unless quiet. */
void ide_pio(IdeDrive *drive, uint32_t start, uint32_t bytes, bool to_guest, bool quiet, IdePhase *phase);
/* Asks for DMA; step runs when the host's engine does. */
void ide_dma(IdeDrive *drive, IdePhase *step);
bool ide_has_dma(const IdeDrive *drive);
void ide_set_signature(IdeDrive *drive);
/* Requests: then(drive) runs with drive->result, unless a reset came meanwhile. The drive is BSY. */
void ide_read(IdeDrive *drive, uint64_t offset, const struct iovec *iov, unsigned count, IdePhase *then);
void ide_write(IdeDrive *drive, uint64_t offset, const struct iovec *iov, unsigned count, IdePhase *then);
void ide_flush(IdeDrive *drive, IdePhase *then);
void ide_discard(IdeDrive *drive, uint64_t offset, uint64_t bytes, IdePhase *then);
/* EXECUTE DEVICE DIAGNOSTIC, for both drives. */
void ide_diagnose(IdeBus *ide);
void ide_transfer_mode(IdeDrive *drive, uint8_t mode, bool *ret_good); /* SET FEATURES 03h */
/* Words 62, 63 and 88 of IDENTIFY. */
void ide_identify_modes(const IdeDrive *drive, uint16_t *words);
/* Text as IDENTIFY has it: blank padded, the bytes of each word swapped. */
void ide_identify_text(uint16_t *words, unsigned count, const char *text);

/* --- the drives' common life --- */
extern const StateField ide_drive_state[];
Error *ide_drive_plug(IdeDrive *drive, const IdeDriveOps *ops, const DiskTraits *traits, const char *model) MUST_USE;
void ide_drive_unplug(Device *dev);
void ide_drive_reset(Device *dev);
void ide_drive_saving(Device *dev);
Error *ide_drive_loaded(Device *dev);
void ide_drive_resumed(Device *dev);

extern const IdeDriveOps ata_ops, atapi_ops;

/* --- boards: what firmware is told about a disk --- */
enum { CHS_TRANS_NONE, CHS_TRANS_LBA, CHS_TRANS_LARGE, CHS_TRANS_RECHS };
typedef struct IdeGeometry {
    uint32_t cyls, heads, secs;
    unsigned translation; /* CHS_TRANS_* */
} IdeGeometry;
/* Of the ATA disk at "ide.<channel>", unit; false: there is none. */
bool ide_disk_geometry(Machine *machine, unsigned channel, unsigned unit, IdeGeometry *ret_geometry);

#endif
