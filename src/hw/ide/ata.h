/* What the parts of the ATA disk share. */
#ifndef OSTRICH_HW_IDE_ATA_H
#define OSTRICH_HW_IDE_ATA_H

#include "hw/ide/ide.h"

enum { CHS_CYLS_MAX = 16383 };
#define LBA28_MAX 0x0fffffffu

/* Commands; under the machine lock, as all of them. */
void ata_identify(IdeDrive *drive);
void ata_smart(IdeDrive *drive);

#endif
