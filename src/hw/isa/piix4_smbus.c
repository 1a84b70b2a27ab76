/*
 * SMBus host controller of the 82371AB (PIIX4): data sheet (order number 290562), 11.2 SMBus I/O space
 * registers. A transfer completes at once when START is written, so HOST_BUSY is never seen.
 * Missing: the slave side, interrupts (the guest polls), block process calls.
 */
#include "hw/isa/piix4_smbus.h"

#include "core/vm/machine.h"

/* Register offsets. */
enum {
    SMBHSTSTS = 0, SMBSLVSTS, SMBHSTCNT, SMBHSTCMD, SMBHSTADD, SMBHSTDAT0, SMBHSTDAT1, SMBBLKDAT,
};
enum { STS_INTER = 0x02, STS_DEV_ERR = 0x04, STS_BUS_ERR = 0x08, STS_FAILED = 0x10, STS_W1C = 0x1e };
enum { CNT_INTEREN = 0x01, CNT_KILL = 0x02, CNT_START = 0x40 };
enum { PROT_QUICK = 0, PROT_BYTE = 1, PROT_BYTE_DATA = 2, PROT_WORD_DATA = 3, PROT_BLOCK = 5 };
enum { EEPROM_FIRST = 0x50 };

static SmbusEeprom *addressed(Piix4Smbus *smbus)
{
    unsigned address = smbus->address >> 1;
    if (address < EEPROM_FIRST || address >= EEPROM_FIRST + SMBUS_EEPROMS) {
        return NULL;
    }
    SmbusEeprom *eeprom = &smbus->eeprom[address - EEPROM_FIRST];
    return eeprom->present ? eeprom : NULL;
}

static void eeprom_receive(SmbusEeprom *eeprom, uint8_t value)
{
    eeprom->bytes[eeprom->position++] = value;
}

static uint8_t eeprom_send(SmbusEeprom *eeprom)
{
    return eeprom->bytes[eeprom->position++];
}

static void transfer_block(Piix4Smbus *smbus, SmbusEeprom *eeprom, bool read)
{
    if (read) {
        /* The device says how many follow. */
        uint8_t count = eeprom_send(eeprom);
        smbus->data0 = MIN(count, (uint8_t)sizeof(smbus->block));
    }
    for (unsigned i = 0; i < MIN(smbus->data0, sizeof(smbus->block)); i++) {
        if (read) {
            smbus->block[i] = eeprom_send(eeprom);
        } else {
            eeprom_receive(eeprom, smbus->block[i]);
        }
    }
    smbus->block_at = 0;
}

static void transfer(Piix4Smbus *smbus)
{
    SmbusEeprom *eeprom = addressed(smbus);
    bool read = smbus->address & 1;
    unsigned protocol = (smbus->control >> 2) & 7;
    if (!eeprom) {
        smbus->status |= STS_DEV_ERR;
        return;
    }
    if (protocol != PROT_QUICK && (protocol != PROT_BYTE || !read)) {
        eeprom->position = smbus->command;
    }
    switch (protocol) {
    case PROT_QUICK:
        break;
    case PROT_BYTE:
        if (read) {
            smbus->data0 = eeprom_send(eeprom);
        }
        break;
    case PROT_BYTE_DATA:
        if (read) {
            smbus->data0 = eeprom_send(eeprom);
        } else {
            eeprom_receive(eeprom, smbus->data0);
        }
        break;
    case PROT_WORD_DATA:
        if (read) {
            smbus->data0 = eeprom_send(eeprom);
            smbus->data1 = eeprom_send(eeprom);
        } else {
            eeprom_receive(eeprom, smbus->data0);
            eeprom_receive(eeprom, smbus->data1);
        }
        break;
    case PROT_BLOCK:
        transfer_block(smbus, eeprom, read);
        break;
    default:
        smbus->status |= STS_DEV_ERR;
        return;
    }
    smbus->status |= STS_INTER;
}

static uint64_t smbus_read(void *opaque, uint64_t addr, unsigned size)
{
    Piix4Smbus *smbus = opaque;
    switch (addr) {
    case SMBHSTSTS:
        return smbus->status;
    case SMBHSTCNT:
        smbus->block_at = 0; /* reading the control register rewinds the block */
        return smbus->control & 0x1f;
    case SMBHSTCMD:
        return smbus->command;
    case SMBHSTADD:
        return smbus->address;
    case SMBHSTDAT0:
        return smbus->data0;
    case SMBHSTDAT1:
        return smbus->data1;
    case SMBBLKDAT:
        return smbus->block[smbus->block_at++ % sizeof(smbus->block)];
    default:
        return 0;
    }
}

static void smbus_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Piix4Smbus *smbus = opaque;
    switch (addr) {
    case SMBHSTSTS:
        smbus->status &= ~(value & STS_W1C);
        break;
    case SMBHSTCNT:
        smbus->control = value & (CNT_INTEREN | CNT_KILL | 0x1c);
        if (value & CNT_KILL) {
            smbus->status |= STS_FAILED;
        } else if (value & CNT_START) {
            transfer(smbus);
        }
        break;
    case SMBHSTCMD:
        smbus->command = value;
        break;
    case SMBHSTADD:
        smbus->address = value;
        break;
    case SMBHSTDAT0:
        smbus->data0 = value;
        break;
    case SMBHSTDAT1:
        smbus->data1 = value;
        break;
    case SMBBLKDAT:
        smbus->block[smbus->block_at++ % sizeof(smbus->block)] = value;
        break;
    default:
        break;
    }
}

static const MemOps smbus_ops = { .read = smbus_read, .write = smbus_write, .min = 1, .max = 1 };

static const StateField eeprom_state[] = {
    STATE_U8(SmbusEeprom, position),
    STATE_BYTES(SmbusEeprom, bytes),
    STATE_NOT(SmbusEeprom, present, "configuration"),
    { 0 },
};

const StateField piix4_smbus_state[] = {
    STATE_U8(Piix4Smbus, status),
    STATE_U8(Piix4Smbus, control),
    STATE_U8(Piix4Smbus, command),
    STATE_U8(Piix4Smbus, address),
    STATE_U8(Piix4Smbus, data0),
    STATE_U8(Piix4Smbus, data1),
    STATE_BYTES(Piix4Smbus, block),
    STATE_U8(Piix4Smbus, block_at),
    STATE_STRUCT_ARRAY(Piix4Smbus, eeprom, eeprom_state),
    STATE_NOT(Piix4Smbus, io, "mapped by the owner"),
    { 0 },
};

void piix4_smbus_init(Piix4Smbus *smbus, Device *dev)
{
    mem_region_init_io(&smbus->io, dev->machine->mem, "smbus", PIIX4_SMBUS_SIZE, &smbus_ops, smbus);
    device_region_own(dev, &smbus->io);
}

void piix4_smbus_reset(Piix4Smbus *smbus)
{
    smbus->status = smbus->control = smbus->command = smbus->address = 0;
    smbus->data0 = smbus->data1 = smbus->block_at = 0;
    memset(smbus->block, 0, sizeof(smbus->block));
}
