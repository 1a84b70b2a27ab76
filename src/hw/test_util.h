/* For tests of disk controllers: a machine with memory and a PCI bus, images with a pattern, drives. */
#ifndef OSTRICH_HW_TEST_UTIL_H
#define OSTRICH_HW_TEST_UTIL_H

#include "hw/pci_host/i440fx.h"

#include "block/backend.h"

typedef struct PciFixture {
    Machine *machine;
    BlockGraph *graph;
    RamBlock *block;
    MemRegion ram;
    PciBus *pci;
} PciFixture;

static const MachineType pci_fixture_machine = { .name = "pci-test", .desc = "test machine" };

/* The machine lock is held by the test from here on. */
static inline void pci_fixture_setup(PciFixture *f, uint64_t ram_size)
{
    MemRegion *pci_memory;

    f->machine = machine_new(&pci_fixture_machine, machine_config_new());
    lock_acquire(&f->machine->lock);
    f->graph = block_graph_new(f->machine->loop);
    machine_set_service(f->machine, BLOCK_SERVICE, f->graph);
    error_never(ram_block_new(f->machine->mem, "ram", ram_size, NULL, &f->block));
    mem_region_init_ram(&f->ram, "ram", f->block, 0, ram_size);
    error_never(i440fx_create(f->machine, &f->ram, ram_size, &f->pci, &pci_memory));
}

static inline void pci_fixture_teardown(PciFixture *f)
{
    bus_fini(&f->pci->bus); /* the board's bridge goes with everything on it */
    lock_release(&f->machine->lock);
    block_graph_free(f->graph);
    lock_acquire(&f->machine->lock);
    device_unplug(f->pci->bus.parent);
    mem_region_fini(&f->ram);
    lock_release(&f->machine->lock);
    machine_free(f->machine);
}

/* What a driver does first: the device may use memory. */
static inline void pci_fixture_bus_master(PciFixture *f, const PciDevice *pci)
{
    (void)mem_store(f->machine->io_as, 0xcf8, 4, 0x80000000 | pci->devfn << 8 | PCI_COMMAND);
    (void)mem_store(f->machine->io_as, 0xcfc, 2, 7); /* I/O, memory, bus master */
}

/* Byte `at` of the images that test_image() makes. */
static inline uint8_t test_pattern(size_t at)
{
    return (uint8_t)(at / 512 * 3 + at);
}

/* dir/name; the caller frees the path and removes the file. */
static inline char *test_image(const char *dir, const char *name, size_t size)
{
    char *path = g_build_filename(dir, name, NULL);
    g_autofree uint8_t *data = g_malloc(size);

    for (size_t i = 0; i < size; i++) {
        data[i] = test_pattern(i);
    }
    g_assert_true(g_file_set_contents(path, (char *)data, (gssize)size, NULL));
    return path;
}

/* A back end of that name for a raw image; for the property drive=. The caller, who holds the machine lock, unrefs it. */
static inline BlockBackend *test_drive(Machine *machine, BlockGraph *graph, const char *name, const char *path, unsigned flags)
{
    BlockBackend *blk = blk_new(graph, name);
    BlockNode *node;

    lock_release(&machine->lock);
    error_never(block_open_file(graph, path, "raw", flags, NULL, &node));
    error_never(blk_insert(blk, node));
    lock_acquire(&machine->lock);
    node_unref(node);
    return blk;
}

#endif
