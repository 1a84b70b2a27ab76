/*
 * SMBus host controller of the PIIX4, with read-write EEPROMs of 256 bytes on its bus. Embedded in the
 * power-management function.
 */
#ifndef OSTRICH_HW_ISA_PIIX4_SMBUS_H
#define OSTRICH_HW_ISA_PIIX4_SMBUS_H

#include "core/dev/dev.h"

enum { PIIX4_SMBUS_SIZE = 16, SMBUS_EEPROMS = 8, SMBUS_EEPROM_SIZE = 256 };

typedef struct SmbusEeprom {
    bool present;
    uint8_t position; /* of the next byte without a command */
    uint8_t bytes[SMBUS_EEPROM_SIZE];
} SmbusEeprom;

typedef struct Piix4Smbus {
    uint8_t status, control, command, address, data0, data1;
    uint8_t block[32], block_at;
    SmbusEeprom eeprom[SMBUS_EEPROMS]; /* at addresses 0x50... */
    MemRegion io;
} Piix4Smbus;

extern const StateField piix4_smbus_state[];

/* io (PIIX4_SMBUS_SIZE bytes) belongs to dev, who maps it. */
void piix4_smbus_init(Piix4Smbus *smbus, Device *dev);
void piix4_smbus_reset(Piix4Smbus *smbus);

#endif
