#include "firmware/kernel.h"

#include <stdio.h>
#include <string.h>

#include "firmware/bootorder.h"
#include "firmware/fw_cfg.h"

Error *kernel_read_file(const char *what, const char *path, uint8_t **ret_data, size_t *ret_size)
{
    g_autoptr(GError) gerr = NULL;
    char *data;
    gsize size;
    if (!g_file_get_contents(path, &data, &size, &gerr)) {
        return error_new("%s: cannot read '%s': %s", what, path, gerr->message);
    }
    *ret_data = (uint8_t *)data;
    *ret_size = size;
    return NULL;
}

Error *kernel_add_rom(Machine *machine, const char *name, const uint8_t *rom, size_t size)
{
    g_autofree char *file = g_strconcat("genroms/", name, NULL);
    g_autofree char *path = g_strconcat("/rom@", file, NULL);
    TRY(fw_cfg_add_file(machine->fw_cfg, file, rom, size));
    bootorder_add(machine, 0, path);
    return NULL;
}

static Error *not_a_kernel(const KernelImage *image)
{
    return error_hint(error_new("-kernel: '%s' is not a kernel this machine can start", image->path),
                      "It takes Linux bzImage files, Multiboot 1 kernels (32-bit ELF or a.out) and ELF files "
                      "with a PVH entry note.");
}

static Error *load_by_kind(Machine *machine, KernelImage *image, uint64_t ram_below_4g)
{
    typedef Error *Loader(Machine *, KernelImage *, uint64_t, bool *);
    static Loader *const loaders[] = { kernel_load_linux, kernel_load_multiboot, kernel_load_pvh };
    bool found = false;

    for (size_t i = 0; i < ARRAY_SIZE(loaders) && !found; i++) {
        TRY(loaders[i](machine, image, ram_below_4g, &found));
    }
    return found ? NULL : not_a_kernel(image);
}

Error *kernel_load(Machine *machine, uint64_t ram_below_4g)
{
    KernelImage image = { .path = machine->config->kernel };
    TRY(kernel_read_file("-kernel", image.path, &image.data, &image.size));
    Error *err = load_by_kind(machine, &image, ram_below_4g);
    g_free(image.data);
    return err;
}
