/*
 * For tests: a CPU with RAM at 0 and no machine.
 */
#ifndef OSTRICH_CPU_X86_GUEST_BOX_H
#define OSTRICH_CPU_X86_GUEST_BOX_H

#include "cpu/x86/interp.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/sys.h"

typedef struct GuestBox {
    Lock lock;
    MemSystem *mem;
    MemRegion root, io, ram;
    AddressSpace *as, *io_as;
    RamBlock *block;
    uint8_t *host; /* its bytes */
    Vcpu vcpu;
    X86Cpu *cpu;
} GuestBox;

static inline void guest_box_check(Error *err)
{
    if (err) {
        g_error("%s", error_message(err));
    }
}

/* The CPU has all features that there are. */
static inline void guest_box_init(GuestBox *box, uint64_t ram_size)
{
    memset(box, 0, sizeof(*box));
    lock_init(&box->lock, "machine", LOCK_RANK_MACHINE);
    lock_acquire(&box->lock);
    box->mem = mem_system_new(&box->lock);
    mem_region_init(&box->root, box->mem, "memory", 0);
    mem_region_init(&box->io, box->mem, "io", 65536);
    guest_box_check(ram_block_new(box->mem, "ram", ram_size, NULL, &box->block));
    mem_region_init_ram(&box->ram, "ram", box->block, 0, ram_size);
    mem_region_map(&box->root, 0, &box->ram, 0);
    box->as = mem_as_new(box->mem, "memory", &box->root);
    box->io_as = mem_as_new(box->mem, "io", &box->io);
    lock_release(&box->lock);
    box->host = box->block->host;
    box->vcpu.as = box->as;
    box->vcpu.io = box->io_as;
    guest_box_check(x86_cpu_new(&box->vcpu, &box->cpu));
    x86_supported_features(box->cpu->features);
}

static inline void guest_box_fini(GuestBox *box)
{
    x86_interp_free(box->cpu);
    x86_cpu_free(box->cpu);
    lock_acquire(&box->lock);
    mem_as_free(box->as);
    mem_as_free(box->io_as);
    mem_region_fini(&box->ram);
    mem_region_fini(&box->root);
    mem_region_fini(&box->io);
    ram_block_free(box->block);
    mem_system_free(box->mem);
    lock_release(&box->lock);
    lock_fini(&box->lock);
}

#endif
