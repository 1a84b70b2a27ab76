/* Register banks: dispatch by byte address over a const table. */
#include "core/dev/regs.h"

#include <inttypes.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/log.h"

static unsigned reg_count(const Reg *reg)
{
    return reg->count ? reg->count : 1;
}

static unsigned reg_stride(const Reg *reg)
{
    return reg->stride ? reg->stride : reg->size;
}

void reg_bank_init(RegBank *bank, const Reg *regs, void *dev, const char *name, uint32_t size)
{
    *bank = (RegBank) { .regs = regs, .dev = dev, .name = name, .size = size };
    bank->index = g_new0(uint16_t, size);
    for (const Reg *reg = regs; reg->name; reg++) {
        for (unsigned i = 0; i < reg_count(reg); i++) {
            uint32_t start = reg->addr + i * reg_stride(reg);
            assert(start + reg->size <= size);
            for (unsigned b = 0; b < reg->size; b++) {
                assert(!bank->index[start + b]);
                bank->index[start + b] = (uint16_t)(reg - regs + 1);
            }
        }
    }
}

void reg_bank_fini(RegBank *bank)
{
    g_clear_pointer(&bank->index, g_free);
}

/* The row at a byte address, and which element of an array of registers it is. */
static const Reg *find(const RegBank *bank, uint64_t addr, unsigned *ret_element)
{
    if (addr >= bank->size || !bank->index[addr]) {
        return NULL;
    }
    const Reg *reg = &bank->regs[bank->index[addr] - 1];
    *ret_element = (unsigned)((addr - reg->addr) / reg_stride(reg));
    return reg;
}

const char *reg_bank_name(const RegBank *bank, uint64_t addr)
{
    unsigned element;
    const Reg *reg = find(bank, addr, &element);
    return reg ? reg->name : NULL;
}

static void *storage(const RegBank *bank, const Reg *reg, unsigned element)
{
    return (char *)bank->dev + reg->offset + element * reg->size;
}

static uint64_t read_whole(RegBank *bank, const Reg *reg, unsigned element)
{
    if (!reg->read) {
        return ld_le(storage(bank, reg, element), reg->size);
    }
    /* Callbacks of arrays learn which element from a row of its own. */
    Reg row = *reg;
    row.addr += element * reg_stride(reg);
    row.offset += element * reg->size;
    return reg->read(bank->dev, reg->count > 1 ? &row : reg) & size_mask(reg->size);
}

uint64_t reg_bank_read(RegBank *bank, uint64_t addr, unsigned size)
{
    uint64_t value = 0;

    for (unsigned done = 0; done < size;) {
        unsigned element, step = 1;
        const Reg *reg = find(bank, addr + done, &element);
        if (reg) {
            unsigned inside = (unsigned)(addr + done - reg->addr - element * reg_stride(reg));
            step = MIN(size - done, reg->size - inside);
            value |= (read_whole(bank, reg, element) >> (8 * inside) & size_mask(step)) << (8 * done);
        } else {
            log_unimp("%s: read of unknown register 0x%" PRIx64, bank->name, addr + done);
        }
        done += step;
    }
    return value;
}

static void write_reg(RegBank *bank, const Reg *reg, unsigned element, unsigned inside, unsigned step,
                      uint64_t value)
{
    void *at = storage(bank, reg, element);
    uint64_t touched = size_mask(step) << (8 * inside);
    uint64_t old = ld_le(at, reg->size), raw = value << (8 * inside) & touched;
    uint64_t plain = touched & ~reg->ro & ~reg->w1c;
    uint64_t fresh = (old & ~plain) | (raw & plain);

    fresh &= ~(raw & reg->w1c & touched);
    st_le(at, fresh, reg->size);
    if (reg->wrote) {
        Reg row = *reg;
        row.addr += element * reg_stride(reg);
        row.offset += element * reg->size;
        reg->wrote(bank->dev, reg->count > 1 ? &row : reg, old, raw | (old & ~touched));
    }
}

void reg_bank_write(RegBank *bank, uint64_t addr, uint64_t value, unsigned size)
{
    for (unsigned done = 0; done < size;) {
        unsigned element, step = 1;
        const Reg *reg = find(bank, addr + done, &element);
        if (reg) {
            unsigned inside = (unsigned)(addr + done - reg->addr - element * reg_stride(reg));
            step = MIN(size - done, reg->size - inside);
            write_reg(bank, reg, element, inside, step, value >> (8 * done));
        } else {
            log_unimp("%s: write to unknown register 0x%" PRIx64, bank->name, addr + done);
        }
        done += step;
    }
}

static uint64_t ops_read(void *opaque, uint64_t addr, unsigned size)
{
    return reg_bank_read(opaque, addr, size);
}

static void ops_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    reg_bank_write(opaque, addr, value, size);
}

const MemOps reg_bank_ops = { .read = ops_read, .write = ops_write, .min = 1, .max = 8 };

void regs_reset(const Reg *regs, void *dev)
{
    for (const Reg *reg = regs; reg && reg->name; reg++) {
        for (unsigned i = 0; reg->size && i < reg_count(reg); i++) {
            st_le((char *)dev + reg->offset + i * reg->size, reg->reset, reg->size);
        }
    }
}

void reg_bank_reset(RegBank *bank)
{
    regs_reset(bank->regs, bank->dev);
}

char *regs_dump(const Reg *regs, void *dev)
{
    GString *out = g_string_new(NULL);
    for (const Reg *reg = regs; reg && reg->name; reg++) {
        for (unsigned i = 0; reg->size && !reg->volatile_ && i < reg_count(reg); i++) {
            g_string_append_printf(out, reg->count > 1 ? "%s[%u]" : "%s", reg->name, i);
            g_string_append_printf(out, " = 0x%0*" PRIx64 "\n", reg->size * 2,
                                   ld_le((char *)dev + reg->offset + i * reg->size, reg->size));
        }
    }
    return g_string_free(out, FALSE);
}
