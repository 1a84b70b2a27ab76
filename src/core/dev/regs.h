/*
 * Register tables: one row per data-sheet register. From the table come dispatch, reset, save and load,
 * traces with register names, and the register dump of the monitor.
 *
 *     static const Reg regs[] = {
 *         REG32(Toy, 0x0, ctrl,   .ro = 0xffff0000, .wrote = toy_ctrl_wrote),
 *         REG32(Toy, 0x4, status, .reset = 1, .w1c = 2),
 *         { 0 } };
 *
 * A write changes the bits that are neither read-only nor write-one-to-clear, clears w1c bits that are
 * written as one, then calls wrote(dev, reg, old, raw): `old` is the value before, `raw` what was written;
 * the member already holds the new value, and the function may change it. read(dev, reg) replaces the
 * value that is read. An access narrower than the register touches only its bytes.
 */
#ifndef OSTRICH_CORE_DEV_REGS_H
#define OSTRICH_CORE_DEV_REGS_H

#include "core/mem/mem.h"

typedef struct Reg Reg;

struct Reg {
    const char *name; /* NULL ends the table */
    uint32_t addr;
    uint8_t size;     /* 1, 2, 4 or 8 bytes; 0 when the register is not stored (offset unused) */
    size_t offset;    /* of the member in the device */
    uint64_t reset;
    uint64_t ro, w1c;
    uint64_t (*read)(void *dev, const Reg *reg);
    void (*wrote)(void *dev, const Reg *reg, uint64_t old, uint64_t raw);
    uint16_t count, stride; /* an array of equal registers: reg->addr + i * stride */
    bool volatile_; /* has read side effects or no storage: not shown by dumps */
};

#define REG_(t, bytes, a, m, ...) { .name = #m, .addr = a, .size = bytes, .offset = offsetof(t, m), ##__VA_ARGS__ }
#define REG8(t, a, m, ...) REG_(t, 1, a, m, ##__VA_ARGS__)
#define REG16(t, a, m, ...) REG_(t, 2, a, m, ##__VA_ARGS__)
#define REG32(t, a, m, ...) REG_(t, 4, a, m, ##__VA_ARGS__)
#define REG64(t, a, m, ...) REG_(t, 8, a, m, ##__VA_ARGS__)

/* A table bound to a device instance; give &reg_bank_ops and the bank to mem_region_init_io(). */
typedef struct RegBank {
    const Reg *regs;
    void *dev;
    const char *name;   /* of the device, in messages */
    uint32_t size;      /* bytes covered */
    uint16_t *index;    /* byte address -> row + 1 */
} RegBank;

extern const MemOps reg_bank_ops; /* sizes 1, 2, 4, 8; naturally aligned */

void reg_bank_init(RegBank *bank, const Reg *regs, void *dev, const char *name, uint32_t size);
void reg_bank_fini(RegBank *bank);
void reg_bank_reset(RegBank *bank);
uint64_t reg_bank_read(RegBank *bank, uint64_t addr, unsigned size);
void reg_bank_write(RegBank *bank, uint64_t addr, uint64_t value, unsigned size);
/* The name of the register at an address, NULL: there is none. */
const char *reg_bank_name(const RegBank *bank, uint64_t addr);
/* Reset values of every stored row of a table that is not behind a bank. */
void regs_reset(const Reg *regs, void *dev);
/* "name = value" lines for the monitor. Caller frees. */
char *regs_dump(const Reg *regs, void *dev);

#endif
