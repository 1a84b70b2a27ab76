/*
 * A floppy drive on its controller's bus: medium geometry and head position.
 */
#ifndef OSTRICH_HW_FLOPPY_FLOPPY_H
#define OSTRICH_HW_FLOPPY_FLOPPY_H

#include "hw/block/disk_conf.h"
#include "hw/floppy/fdc.h"

enum { FLOPPY_UNITS = 2, FLOPPY_SECTOR = 512, FLOPPY_MAX_SECTORS = 48 };

extern const BusType floppy_bus_type;

typedef struct FloppyDrive {
    Device dev;
    DiskConf conf;
    uint32_t unit;          /* UINT32_MAX: the first free one */
    int kind_opt;           /* FloppyDriveKind or FLOPPY_AUTO */
    FloppyDriveKind kind;
    /* The medium. */
    uint8_t heads, tracks, sectors;
    uint8_t rate;           /* code of the data rate register: 0 500, 1 300, 2 250, 3 1000 kbit/s */
    bool readonly;
    /* The mechanism. */
    uint8_t track;
    bool changed;           /* disk change line */
} FloppyDrive;

enum { FLOPPY_AUTO = 6 };
extern const EnumName floppy_kind_names[];

typedef struct FloppyBus {
    Bus bus;
    FloppyDrive *drives[FLOPPY_UNITS];
    int kind[FLOPPY_UNITS];        /* what the controller's options say, or FLOPPY_AUTO */
    int fallback;                  /* of an automatic drive without a known medium */
    int32_t bootindex[FLOPPY_UNITS];
} FloppyBus;

bool floppy_has_medium(const FloppyDrive *drive);
/* Moves the head; a step clears the disk change line when a medium is in. */
void floppy_seek(FloppyDrive *drive, uint8_t track);
extern const StateField floppy_state[];

#endif
