/*
 * What a board asks of its floppy controller.
 */
#ifndef OSTRICH_HW_FLOPPY_FDC_H
#define OSTRICH_HW_FLOPPY_FDC_H

#include "core/vm/machine.h"

/* Drive kinds as CMOS byte 0x10 names them. */
typedef enum FloppyDriveKind { FLOPPY_NONE = 0, FLOPPY_120 = 2, FLOPPY_144 = 4, FLOPPY_288 = 5 } FloppyDriveKind;

/* Kind of drive 0 or 1 of the machine's controller; FLOPPY_NONE without one. */
FloppyDriveKind fdc_drive_kind(Machine *machine, unsigned unit);

#endif
