/*
 * Multiboot 1 kernels (specification 0.6.96): a header in the first 8 KiB, an ELF file or addresses
 * in the header. -initrd names modules: "FILE ARGS,FILE ARGS".
 */
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "firmware/elf.h"
#include "firmware/fw_cfg.h"
#include "firmware/kernel.h"
#include "firmware/rom/roms.h"

#define MULTIBOOT_MAGIC 0x1badb002u
enum { INFO_SIZE = 88, MODULE_SIZE = 16 };
enum { INFO_CMDLINE = BIT(2), INFO_MODS = BIT(3), INFO_BOOTLOADER = BIT(9) };
enum { HEADER_ADDRESSES = BIT(16), HEADER_UNKNOWN = 0xfff8 };

typedef struct Loaded {
    uint8_t *memory; /* owned */
    uint64_t start, size, entry;
} Loaded;

static const uint8_t *find_header(const KernelImage *image)
{
    size_t limit = MIN(image->size, (size_t)8192);
    for (size_t at = 0; at + 12 <= limit; at += 4) {
        const uint8_t *p = image->data + at;
        if (ld32_le(p) == MULTIBOOT_MAGIC && ld32_le(p) + ld32_le(p + 4) + ld32_le(p + 8) == 0) {
            return p;
        }
    }
    return NULL;
}

static Error *load_by_header(const KernelImage *image, const uint8_t *header, uint64_t limit,
                             Loaded *ret_loaded)
{
    size_t at = (size_t)(header - image->data);
    if (at + 32 > image->size) {
        return error_new("-kernel: '%s' ends inside its Multiboot header", image->path);
    }
    uint32_t header_addr = ld32_le(header + 12), load_addr = ld32_le(header + 16),
             load_end = ld32_le(header + 20);
    uint32_t bss_end = ld32_le(header + 24), entry = ld32_le(header + 28);
    uint64_t skipped = header_addr - load_addr; /* from the load address to the header */
    if (load_addr > header_addr || skipped > at) {
        return error_new("-kernel: '%s' has a Multiboot header with impossible addresses",
                         image->path);
    }
    size_t first = at - (size_t)skipped;
    uint64_t bytes = load_end ? (uint64_t)load_end - load_addr : image->size - first;
    uint64_t total = bss_end ? MAX(bytes, (uint64_t)bss_end - load_addr) : bytes;
    if ((load_end && load_end < load_addr) || (bss_end && bss_end < load_addr) ||
        !range_inside(first, bytes, image->size)) {
        return error_new("-kernel: '%s' has a Multiboot header with impossible addresses",
                         image->path);
    }
    if (load_addr + total > limit) {
        return error_new("-kernel: '%s' does not fit in the guest's memory; give it more with -m",
                         image->path);
    }
    uint8_t *memory = g_malloc0(total);
    memcpy(memory, image->data + first, bytes);
    *ret_loaded = (Loaded) { memory, load_addr, total, entry };
    return NULL;
}

static Error *load_elf(const KernelImage *image, uint64_t limit, Loaded *ret_loaded)
{
    ElfImage elf;
    if (!elf_is(image->data, image->size)) {
        return error_new(
            "-kernel: '%s' has a Multiboot header without addresses and is no ELF file",
            image->path);
    }
    TRY(elf_parse(image->path, image->data, image->size, &elf));
    Error *err;
    if (elf.is64) {
        err = error_new(
            "-kernel: '%s' is a 64-bit Multiboot kernel; the protocol starts 32-bit code only",
            image->path);
    } else {
        ret_loaded->entry = elf_physical(&elf, elf.entry);
        err = elf_flatten(image->path, image->data, &elf, limit, &ret_loaded->memory,
                          &ret_loaded->start, &ret_loaded->size);
    }
    elf_fini(&elf);
    return err;
}

/* --- the information structure --- */

/* The structure, its strings and the list of modules. */
typedef struct Info {
    GByteArray *bytes;
    uint32_t addr;
} Info;

/* The loader works in a part of low memory where the kernel is not: the ROM's own data, behind them
 * the structure. */
enum { WINDOW_FIRST = 0x8000, WINDOW_LAST = 0x90000, WINDOW_SIZE = 0x8000 };
enum {
    ROM_DATA = 0x2000,
    INFO_LIMIT = WINDOW_SIZE - ROM_DATA
}; /* ROM_DATA is SCRATCH_SIZE of rom.inc */

static Error *info_place(const KernelImage *image, const Loaded *loaded, uint32_t *ret_addr)
{
    for (uint64_t at = WINDOW_FIRST; at <= WINDOW_LAST; at += WINDOW_SIZE) {
        if (at + WINDOW_SIZE <= loaded->start || at >= loaded->start + loaded->size) {
            *ret_addr = (uint32_t)at + ROM_DATA;
            return NULL;
        }
    }
    return error_new(
        "-kernel: '%s' fills the first 640 KiB of memory; loading it needs %d KiB of them",
        image->path, WINDOW_SIZE / 1024);
}

static uint32_t put_text(Info *info, const char *text)
{
    uint32_t addr = info->addr + info->bytes->len;
    g_byte_array_append(info->bytes, (const uint8_t *)text, (guint)strlen(text) + 1);
    return addr;
}

/* Reads the modules behind one another, page aligned; their list goes into info. */
static Error *load_modules(Machine *machine, Info *info, uint64_t base, GByteArray *modules,
                           unsigned *ret_count, uint32_t *ret_list)
{
    g_auto(GStrv) names = g_strsplit(machine->config->initrd, ",", -1);
    unsigned count = g_strv_length(names);
    guint list = info->bytes->len;

    g_byte_array_set_size(info->bytes, list + count * MODULE_SIZE);
    for (unsigned i = 0; i < count; i++) {
        g_autofree uint8_t *data = NULL;
        size_t size;
        g_autofree char *path = g_strndup(names[i], strcspn(names[i], " "));
        TRY(kernel_read_file("-initrd", path, &data, &size));
        g_byte_array_set_size(modules, (guint)ALIGN_UP(modules->len, 4096u));
        uint64_t start = base + modules->len;
        g_byte_array_append(modules, data, (guint)size);
        uint32_t text = put_text(info, names[i]);
        uint8_t *entry = info->bytes->data + list + i * MODULE_SIZE;
        st32_le(entry, (uint32_t)start);
        st32_le(entry + 4, (uint32_t)(start + size));
        st32_le(entry + 8, text);
        st32_le(entry + 12, 0);
    }
    *ret_count = count;
    *ret_list = info->addr + list;
    return NULL;
}

static Error *build_info(Machine *machine, const KernelImage *image, const Loaded *loaded,
                         uint64_t limit, Info *info)
{
    FwCfg *fw = machine->fw_cfg;
    g_autoptr(GByteArray) modules = g_byte_array_new();
    uint64_t base = ALIGN_UP(loaded->start + loaded->size, MEM_PAGE_SIZE);
    uint32_t flags = INFO_CMDLINE | INFO_BOOTLOADER, list = 0;
    unsigned count = 0;

    g_byte_array_set_size(info->bytes, INFO_SIZE);
    memset(info->bytes->data, 0, INFO_SIZE);
    g_autofree char *cmdline = machine->config->append
                                   ? g_strdup_printf("%s %s", image->path, machine->config->append)
                                   : g_strdup(image->path);
    uint32_t cmdline_addr = put_text(info, cmdline), name_addr = put_text(info, "ostrich");
    if (machine->config->initrd) {
        flags |= INFO_MODS;
        TRY(load_modules(machine, info, base, modules, &count, &list));
    }
    if (base + modules->len > limit) {
        return error_new(
            "-initrd: the modules do not fit in the guest's memory; give it more with -m");
    }
    if (info->bytes->len > INFO_LIMIT) {
        return error_new("-append: the command lines of kernel and modules are too long together");
    }
    uint8_t *data = info->bytes->data;
    st32_le(data, flags);
    st32_le(data + 16, cmdline_addr);
    st32_le(data + 20, count);
    st32_le(data + 24, list);
    st32_le(data + 64, name_addr);
    fw_cfg_set_u32(fw, FW_CFG_INITRD_ADDR, (uint32_t)base);
    fw_cfg_set_u32(fw, FW_CFG_INITRD_SIZE, modules->len);
    fw_cfg_set_bytes(fw, FW_CFG_INITRD_DATA, modules->data, modules->len);
    return NULL;
}

Error *kernel_load_multiboot(Machine *machine, KernelImage *image, uint64_t ram_below_4g,
                             bool *ret_found)
{
    FwCfg *fw = machine->fw_cfg;
    const uint8_t *header = find_header(image);
    Loaded loaded = { 0 };

    if (!header) {
        return NULL;
    }
    *ret_found = true;
    uint32_t flags = ld32_le(header + 4);
    if (flags & HEADER_UNKNOWN) {
        return error_new("-kernel: '%s' asks for Multiboot features (flags 0x%x) that do not exist",
                         image->path, flags);
    }
    TRY((flags & HEADER_ADDRESSES) ? load_by_header(image, header, ram_below_4g, &loaded)
                                   : load_elf(image, ram_below_4g, &loaded));
    g_autofree uint8_t *memory = loaded.memory;
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    Info info = { .bytes = bytes };
    TRY(info_place(image, &loaded, &info.addr));
    TRY(build_info(machine, image, &loaded, ram_below_4g, &info));
    fw_cfg_set_u32(fw, FW_CFG_KERNEL_ADDR, (uint32_t)loaded.start);
    fw_cfg_set_u32(fw, FW_CFG_KERNEL_SIZE, (uint32_t)loaded.size);
    fw_cfg_set_bytes(fw, FW_CFG_KERNEL_DATA, memory, loaded.size);
    fw_cfg_set_u32(fw, FW_CFG_KERNEL_ENTRY, (uint32_t)loaded.entry);
    fw_cfg_set_u32(fw, FW_CFG_SETUP_ADDR, info.addr);
    fw_cfg_set_u32(fw, FW_CFG_SETUP_SIZE, bytes->len);
    fw_cfg_set_bytes(fw, FW_CFG_SETUP_DATA, bytes->data, bytes->len);
    return kernel_add_rom(machine, "multiboot_dma.bin", rom_multiboot, rom_multiboot_size);
}
