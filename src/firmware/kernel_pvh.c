/*
 * ELF kernels with a PVH entry (Xen's x86/HVM direct boot ABI): the note "Xen", type 18, holds the 32-bit entry
 * address; ebx points to the start structure.
 */
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "firmware/elf.h"
#include "firmware/fw_cfg.h"
#include "firmware/kernel.h"
#include "firmware/rom/roms.h"

enum { NOTE_PHYS32_ENTRY = 18, START_ADDR = 0x9500, CMDLINE_ADDR = 0x20000, START_SIZE = 56, MODULE_SIZE = 32 };
#define START_MAGIC 0x336ec578u

/* Walks one note segment. */
static bool note_entry(const uint8_t *p, uint64_t size, uint64_t *ret_entry)
{
    uint64_t at = 0;
    while (at + 12 <= size) {
        uint64_t name_size = ld32_le(p + at), desc_size = ld32_le(p + at + 4);
        uint64_t name = at + 12, desc = name + ALIGN_UP(name_size, 4u);
        if (!range_inside(name, name_size, size) || !range_inside(desc, desc_size, size)) {
            return false;
        }
        if (ld32_le(p + at + 8) == NOTE_PHYS32_ENTRY && name_size == 4 && !memcmp(p + name, "Xen", 4) &&
            (desc_size == 4 || desc_size == 8)) {
            *ret_entry = ld_le(p + desc, (unsigned)desc_size);
            return true;
        }
        at = desc + ALIGN_UP(desc_size, 4u);
    }
    return false;
}

static bool find_entry(const KernelImage *image, const ElfImage *elf, uint64_t *ret_entry)
{
    for (guint i = 0; i < elf->segments->len; i++) {
        const ElfSegment *s = &g_array_index(elf->segments, ElfSegment, i);
        if (s->type == ELF_NOTE && note_entry(image->data + s->offset, s->file_size, ret_entry)) {
            return true;
        }
    }
    return false;
}

static Error *place_initrd(Machine *machine, uint64_t floor, uint64_t ram_below_4g, uint8_t *module)
{
    g_autofree uint8_t *data = NULL;
    size_t size;
    TRY(kernel_read_file("-initrd", machine->config->initrd, &data, &size));
    uint64_t limit = ram_below_4g > MiB ? ram_below_4g - MiB : 0;
    if (size > limit || limit - size < floor) {
        return error_new("-initrd: '%s' does not fit in the guest's memory; give it more with -m",
                         machine->config->initrd);
    }
    uint64_t addr = ALIGN_DOWN(limit - size, MEM_PAGE_SIZE);
    st64_le(module, addr);
    st64_le(module + 8, size);
    fw_cfg_set_u32(machine->fw_cfg, FW_CFG_INITRD_ADDR, (uint32_t)addr);
    fw_cfg_set_u32(machine->fw_cfg, FW_CFG_INITRD_SIZE, (uint32_t)size);
    fw_cfg_set_bytes(machine->fw_cfg, FW_CFG_INITRD_DATA, data, size);
    return NULL;
}

static Error *start(Machine *machine, const KernelImage *image, const ElfImage *elf, uint64_t entry,
                    uint64_t ram_below_4g)
{
    FwCfg *fw = machine->fw_cfg;
    const char *cmdline = machine->config->append ? machine->config->append : "";
    uint8_t info[START_SIZE + MODULE_SIZE] = { 0 };
    g_autofree uint8_t *memory = NULL;
    uint64_t base, size;

    TRY(elf_flatten(image->path, image->data, elf, ram_below_4g, &memory, &base, &size));
    st32_le(info, START_MAGIC);
    st32_le(info + 4, 1); /* version with a memory map */
    st64_le(info + 24, CMDLINE_ADDR);
    fw_cfg_set_u32(fw, FW_CFG_INITRD_SIZE, 0);
    if (machine->config->initrd) {
        TRY(place_initrd(machine, base + size, ram_below_4g, info + START_SIZE));
        st32_le(info + 12, 1);
        st64_le(info + 16, START_ADDR + START_SIZE);
    }
    fw_cfg_set_u32(fw, FW_CFG_CMDLINE_ADDR, CMDLINE_ADDR);
    fw_cfg_set_u32(fw, FW_CFG_CMDLINE_SIZE, (uint32_t)strlen(cmdline) + 1);
    fw_cfg_set_str(fw, FW_CFG_CMDLINE_DATA, cmdline);
    fw_cfg_set_u32(fw, FW_CFG_KERNEL_ADDR, (uint32_t)base);
    fw_cfg_set_u32(fw, FW_CFG_KERNEL_SIZE, (uint32_t)size);
    fw_cfg_set_bytes(fw, FW_CFG_KERNEL_DATA, memory, size);
    fw_cfg_set_u32(fw, FW_CFG_KERNEL_ENTRY, (uint32_t)entry);
    fw_cfg_set_u32(fw, FW_CFG_SETUP_ADDR, START_ADDR);
    fw_cfg_set_u32(fw, FW_CFG_SETUP_SIZE, sizeof(info));
    fw_cfg_set_bytes(fw, FW_CFG_SETUP_DATA, info, sizeof(info));
    return kernel_add_rom(machine, "pvh.bin", rom_pvh, rom_pvh_size);
}

Error *kernel_load_pvh(Machine *machine, KernelImage *image, uint64_t ram_below_4g, bool *ret_found)
{
    ElfImage elf;
    uint64_t entry;
    Error *err = NULL;

    if (!elf_is(image->data, image->size)) {
        return NULL;
    }
    TRY(elf_parse(image->path, image->data, image->size, &elf));
    if (find_entry(image, &elf, &entry)) {
        *ret_found = true;
        err = start(machine, image, &elf, entry, ram_below_4g);
    }
    elf_fini(&elf);
    return err;
}
