/*
 * Linux images, by the x86 boot protocol 2.00 to 2.15 (the kernel's Documentation/x86/boot.rst). The first
 * sectors are the real-mode setup code with its header at 0x1f1, the rest is the kernel proper.
 */
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "firmware/fw_cfg.h"
#include "firmware/kernel.h"
#include "firmware/rom/roms.h"

/* Offsets in the header. */
enum {
    SETUP_SECTS = 0x1f1, VID_MODE = 0x1fa, BOOT_FLAG = 0x1fe, HEADER = 0x202, VERSION = 0x206, LOADER_TYPE = 0x210,
    LOADFLAGS = 0x211, RAMDISK_IMAGE = 0x218, RAMDISK_SIZE = 0x21c, HEAP_END_PTR = 0x224, CMD_LINE_PTR = 0x228,
    INITRD_ADDR_MAX = 0x22c, XLOADFLAGS = 0x236, CMDLINE_SIZE = 0x238,
};
enum { LOADED_HIGH = BIT(0), CAN_USE_HEAP = BIT(7), XLF_CAN_BE_LOADED_ABOVE_4G = BIT(1) };
enum { LOADER_ID = 0xb0, ACPI_RESERVE = 0x28000 };
#define HDRS_MAGIC 0x53726448u

typedef struct Layout {
    uint16_t version;
    uint32_t setup_addr, cmdline_addr, kernel_addr;
    size_t setup_size;
} Layout;

static Layout layout_of(const KernelImage *image)
{
    Layout layout = { .version = ld16_le(image->data + VERSION) };
    unsigned sectors = image->data[SETUP_SECTS] ? image->data[SETUP_SECTS] : 4;

    layout.setup_size = (sectors + 1) * 512;
    if (layout.version >= 0x200 && (image->data[LOADFLAGS] & LOADED_HIGH)) {
        layout.setup_addr = 0x10000;
        layout.cmdline_addr = 0x20000;
        layout.kernel_addr = 0x100000;
    } else {
        layout.setup_addr = 0x90000;
        layout.cmdline_addr = 0x99000;
        layout.kernel_addr = 0x10000;
    }
    return layout;
}

/* vga= is the loader's to read: a number, or one of three words. */
static void set_video_mode(uint8_t *setup, const char *cmdline)
{
    const char *at = strstr(cmdline, "vga=");
    if (!at || (at != cmdline && at[-1] != ' ')) {
        return;
    }
    at += strlen("vga=");
    uint16_t mode = g_str_has_prefix(at, "normal") ? 0xffff
                    : g_str_has_prefix(at, "ext")  ? 0xfffe
                    : g_str_has_prefix(at, "ask")  ? 0xfffd
                                                   : (uint16_t)strtoul(at, NULL, 0);
    st16_le(setup + VID_MODE, mode);
}

static uint64_t initrd_limit(const KernelImage *image, const Layout *layout, uint64_t ram_below_4g)
{
    uint64_t max = 0x37ffffff;
    if (layout->version >= 0x20c && (ld16_le(image->data + XLOADFLAGS) & XLF_CAN_BE_LOADED_ABOVE_4G)) {
        max = 0xffffffff;
    } else if (layout->version >= 0x203) {
        max = ld32_le(image->data + INITRD_ADDR_MAX);
    }
    /* The firmware puts its tables at the end of memory. */
    uint64_t top = ram_below_4g > ACPI_RESERVE ? ram_below_4g - ACPI_RESERVE : 0;
    return MIN(max + 1, top);
}

static Error *place_initrd(Machine *machine, const KernelImage *image, const Layout *layout, uint8_t *setup,
                           uint64_t ram_below_4g)
{
    FwCfg *fw = machine->fw_cfg;
    g_autofree uint8_t *data = NULL;
    size_t size;

    if (layout->version < 0x200) {
        return error_new("-initrd: the kernel '%s' is too old to take an initial RAM disk", image->path);
    }
    TRY(kernel_read_file("-initrd", machine->config->initrd, &data, &size));
    uint64_t limit = initrd_limit(image, layout, ram_below_4g);
    uint64_t kernel_end = layout->kernel_addr + (uint64_t)image->size;
    if (size > limit || limit - size < kernel_end) {
        return error_hint(error_new("-initrd: '%s' (%zu MiB) does not fit in the guest's memory", machine->config->initrd,
                                    size / (size_t)MiB + 1),
                          "Give the guest more memory with -m.");
    }
    uint64_t addr = ALIGN_DOWN(limit - size, MEM_PAGE_SIZE);
    st32_le(setup + RAMDISK_IMAGE, (uint32_t)addr);
    st32_le(setup + RAMDISK_SIZE, (uint32_t)size);
    fw_cfg_set_u32(fw, FW_CFG_INITRD_ADDR, (uint32_t)addr);
    fw_cfg_set_u32(fw, FW_CFG_INITRD_SIZE, (uint32_t)size);
    fw_cfg_give_bytes(fw, FW_CFG_INITRD_DATA, g_steal_pointer(&data), size);
    return NULL;
}

static Error *check_cmdline(const KernelImage *image, const Layout *layout, const char *cmdline)
{
    size_t limit = layout->version >= 0x206 ? ld32_le(image->data + CMDLINE_SIZE) : 255;
    if (strlen(cmdline) > limit) {
        return error_new("-append: the kernel takes %zu characters at most, not %zu", limit, strlen(cmdline));
    }
    return NULL;
}

Error *kernel_load_linux(Machine *machine, KernelImage *image, uint64_t ram_below_4g, bool *ret_found)
{
    FwCfg *fw = machine->fw_cfg;
    const char *cmdline = machine->config->append ? machine->config->append : "";

    if (image->size < 0x400 || ld32_le(image->data + HEADER) != HDRS_MAGIC ||
        ld16_le(image->data + BOOT_FLAG) != 0xaa55) {
        return NULL;
    }
    *ret_found = true;
    Layout layout = layout_of(image);
    if (layout.setup_size >= image->size) {
        return error_new("-kernel: '%s' ends inside its setup code; it is cut short", image->path);
    }
    TRY(check_cmdline(image, &layout, cmdline));
    g_autofree uint8_t *setup = g_memdup2(image->data, layout.setup_size);
    set_video_mode(setup, cmdline);
    setup[LOADER_TYPE] = LOADER_ID;
    st32_le(setup + CMD_LINE_PTR, layout.cmdline_addr);
    if (layout.version >= 0x201) {
        setup[LOADFLAGS] |= CAN_USE_HEAP;
        st16_le(setup + HEAP_END_PTR, (uint16_t)(layout.cmdline_addr - layout.setup_addr - 0x200));
    }
    fw_cfg_set_u32(fw, FW_CFG_INITRD_SIZE, 0);
    if (machine->config->initrd) {
        TRY(place_initrd(machine, image, &layout, setup, ram_below_4g));
    }
    fw_cfg_set_u32(fw, FW_CFG_CMDLINE_ADDR, layout.cmdline_addr);
    fw_cfg_set_u32(fw, FW_CFG_CMDLINE_SIZE, (uint32_t)strlen(cmdline) + 1);
    fw_cfg_set_str(fw, FW_CFG_CMDLINE_DATA, cmdline);
    fw_cfg_set_u32(fw, FW_CFG_SETUP_ADDR, layout.setup_addr);
    fw_cfg_set_u32(fw, FW_CFG_SETUP_SIZE, (uint32_t)layout.setup_size);
    fw_cfg_set_bytes(fw, FW_CFG_SETUP_DATA, setup, layout.setup_size);
    fw_cfg_set_u32(fw, FW_CFG_KERNEL_ADDR, layout.kernel_addr);
    fw_cfg_set_u32(fw, FW_CFG_KERNEL_SIZE, (uint32_t)(image->size - layout.setup_size));
    memmove(image->data, image->data + layout.setup_size, image->size - layout.setup_size); /* cheaper than fresh memory */
    fw_cfg_give_bytes(fw, FW_CFG_KERNEL_DATA, g_steal_pointer(&image->data), image->size - layout.setup_size);
    return kernel_add_rom(machine, "linuxboot_dma.bin", rom_linuxboot, rom_linuxboot_size);
}
