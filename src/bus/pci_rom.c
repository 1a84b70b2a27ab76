/*
 * Option ROMs: an image file behind the expansion ROM base address register.
 *
 * PCI Local Bus Specification 3.0, 6.2.5.2 (the register) and 6.3 (the image). An image whose PCI data
 * structure names another device is shown as if it named this one, so one image serves a family of cards.
 */
#include <errno.h>

#include "base/endian.h"
#include "bus/pci_priv.h"

enum { ROM_MAX = 16 * 1024 * 1024, CLASS_VGA = 0x0300 };

/* "efi-x.rom" may exist only in its older form, "pxe-x.rom". */
static Error *find_rom(PciDevice *pci, char **ret_path)
{
    const char *name = pci->romfile;
    Error *err = machine_find_file(pci->dev.machine, name, ret_path);
    if (err && g_str_has_prefix(name, "efi-")) {
        g_autofree char *older = g_strconcat("pxe-", name + 4, NULL);
        g_autoptr(Error) second = machine_find_file(pci->dev.machine, older, ret_path);
        if (!second) {
            error_free(err);
            return NULL;
        }
    }
    return err ? error_prefix(err, "failed to find romfile \"%s\": ", name) : NULL;
}

/* Gives the image this device's identity, keeping its checksum (byte 6 is free for that). */
static void patch_identity(PciDevice *pci, uint8_t *image, size_t length)
{
    if (length < 0x1c || ld16_le(image) != 0xaa55) {
        return;
    }
    size_t data = ld16_le(image + 0x18);
    if (data + 8 > length || memcmp(image + data, "PCIR", 4) != 0) {
        return;
    }
    for (unsigned i = 0; i < 4; i++) {
        uint8_t *at = image + data + 4 + i, wanted = pci->config[PCI_VENDOR_ID + i];
        image[6] += *at - wanted;
        *at = wanted;
    }
}

/* Without a BAR the image reaches the firmware as a file of its own. */
static Error *hand_to_firmware(PciDevice *pci)
{
    Machine *machine = pci->dev.machine;
    if (pci->dev.hotplugged) {
        return error_new("Without a ROM BAR (rombar=0) a device that is plugged in later cannot "
                         "have a ROM: leave out romfile");
    }
    if (ld16_le(pci->config + PCI_CLASS_DEVICE) == CLASS_VGA) {
        machine_set_service(machine, "vga-rom", pci->romfile);
    } else {
        g_ptr_array_add(machine->config->option_roms, g_strdup(pci->romfile));
    }
    return NULL;
}

Error *pci_rom_load(PciDevice *pci)
{
    const char *name = pci->romfile ? pci->romfile : device_type(&pci->dev)->pci->rom;
    if (!name || *name == '\0') {
        return NULL;
    }
    if (!pci->romfile) {
        pci->romfile = g_strdup(name);
    }
    if (!pci->rombar) {
        return hand_to_firmware(pci);
    }
    g_autofree char *path = NULL, *image = NULL;
    size_t length;
    g_autoptr(GError) gerror = NULL;
    TRY(find_rom(pci, &path));
    if (!g_file_get_contents(path, &image, &length, &gerror)) {
        return error_new("%s", gerror->message);
    }
    if (length == 0 || length > ROM_MAX) {
        return error_new("romfile \"%s\" is %s", path, length ? "too large (more than 16 MiB)" : "empty");
    }
    uint64_t size = MEM_PAGE_SIZE;
    while (size < length) {
        size *= 2;
    }
    if (pci->romsize == UINT32_MAX) {
        pci->romsize = (uint32_t)size;
    } else if (pci->romsize < length) {
        return error_new("romfile \"%s\" (%zu bytes) is too large for ROM size %u", path, length, pci->romsize);
    }
    size = MAX(size, ALIGN_UP((uint64_t)pci->romsize, MEM_PAGE_SIZE));
    patch_identity(pci, (uint8_t *)image, length);

    g_autofree char *block = g_strdup_printf("%s/%02x.%x/rom", pci->bus->bus.name, PCI_SLOT(pci->devfn),
                                             PCI_FUNC(pci->devfn));
    TRY(ram_block_new(pci->dev.machine->mem, block, size, NULL, &pci->rom_block));
    memcpy(pci->rom_block->host, image, length);
    mem_region_init_rom(&pci->rom, name, pci->rom_block, 0, size, NULL, NULL);
    pci->rom.owner = &pci->dev;
    pci_bar(pci, PCI_ROM_SLOT, PCI_BAR_MEM32, &pci->rom);
    return NULL;
}

void pci_rom_unload(PciDevice *pci)
{
    if (pci->rom_block) {
        mem_region_fini(&pci->rom);
        ram_block_free(pci->rom_block);
        pci->rom_block = NULL;
        pci->bar[PCI_ROM_SLOT].region = NULL;
    }
}
