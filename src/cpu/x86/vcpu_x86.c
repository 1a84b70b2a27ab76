/*
 * The CPU as a device of the machine.
 */
#include "cpu/x86/vcpu_x86.h"

#include "accel/accel.h"
#include "core/vm/machine.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/sys.h"

static void cpu_reset(Device *dev)
{
    x86_cpu_reset(x86_cpu_of(container_of(dev, Vcpu, dev)), false);
}

static void cpu_unplug(Device *dev)
{
    Vcpu *vcpu = container_of(dev, Vcpu, dev);
    Machine *machine = dev->machine;
    if (!vcpu->machine) {
        return;
    }
    vcpu_fini(vcpu);
    if (vcpu->accel_data && machine->accel_type && machine->accel_type->vcpu_fini) {
        machine->accel_type->vcpu_fini(vcpu);
    }
    if (vcpu->arch) {
        vcpu->ops->finish(vcpu);
    }
    g_ptr_array_remove(machine->vcpus, vcpu);
    vcpu->machine = NULL;
}

static void cpu_saving(Device *dev)
{
    x86_cpu_saving(x86_cpu_of(container_of(dev, Vcpu, dev)));
}

static Error *cpu_loaded(Device *dev)
{
    return x86_cpu_loaded(x86_cpu_of(container_of(dev, Vcpu, dev)));
}

static const StateField state[] = {
    STATE_BOOL(Vcpu, halted),
    STATE_POINTER(Vcpu, arch, x86_cpu_state),
    STATE_NOT(Vcpu, index, "configuration"),
    STATE_NOT(Vcpu, machine, "wiring"),
    STATE_NOT(Vcpu, apic_id, "configuration"),
    STATE_NOT(Vcpu, ops, "constant"),
    STATE_NOT(Vcpu, accel_data, "the accelerator's"),
    STATE_NOT(Vcpu, as, "of the machine"),
    STATE_NOT(Vcpu, io, "of the machine"),
    STATE_NOT(Vcpu, exit_req, "inside arch"),
    STATE_NOT(Vcpu, thread, "host"),
    STATE_NOT(Vcpu, thread_id, "host"),
    STATE_NOT(Vcpu, run_lock, "host"),
    STATE_NOT(Vcpu, wake, "host"),
    STATE_NOT(Vcpu, stopped_cond, "host"),
    STATE_NOT(Vcpu, created, "host"),
    STATE_NOT(Vcpu, sandboxed, "host"),
    STATE_NOT(Vcpu, stop, "host"),
    STATE_NOT(Vcpu, stopped, "host"),
    STATE_NOT(Vcpu, exit, "host"),
    STATE_NOT(Vcpu, work, "host"),
    { 0 },
};

DEVICE_TYPE(x86_cpu, DEVICE_OBJECT("x86_64-cpu", Vcpu, NULL), .desc = "x86 processor", .category = DEV_INTERNAL, .state = state,
            .reset = cpu_reset, .unplug = cpu_unplug, .saving = cpu_saving, .loaded = cpu_loaded);

static unsigned width_of(unsigned n)
{
    return n > 1 ? 32 - (unsigned)__builtin_clz(n - 1) : 0;
}

uint32_t x86_apic_id_of(const Machine *machine, unsigned index)
{
    const MachineConfig *config = machine->config;
    unsigned threads = MAX(config->threads, 1u), cores = MAX(config->cores, 1u), dies = MAX(config->dies, 1u);
    unsigned thread = index % threads, core = index / threads % cores, die = index / threads / cores % dies;
    unsigned socket = index / threads / cores / dies;
    unsigned core_shift = width_of(threads), die_shift = core_shift + width_of(cores);
    return thread | core << core_shift | die << die_shift | socket << (die_shift + width_of(dies));
}

/* Drops every CPU's write permission to pages whose dirty bits were taken. */
typedef struct CleanRange {
    RamBlock *block;
    uint64_t first, count;
} CleanRange;

static void clean_one(Vcpu *vcpu, void *opaque)
{
    const CleanRange *range = opaque;
    x86_tlb_clean_range(x86_cpu_of(vcpu), range->block, range->first, range->count);
}

static void clean_hook(void *opaque, RamBlock *block, uint64_t first, uint64_t count)
{
    Machine *machine = opaque;
    CleanRange range = { block, first, count };
    for (guint n = 0; n < machine->vcpus->len; n++) {
        Vcpu *vcpu = g_ptr_array_index(machine->vcpus, n);
        if (vcpu->arch) {
            vcpu_run_sync(vcpu, clean_one, &range);
        }
    }
}

static Error *set_up(Vcpu *vcpu, const char *model_spec)
{
    Machine *machine = vcpu->machine;
    const MachineConfig *config = machine->config;
    X86Cpu *cpu;
    TRY(x86_cpu_new(vcpu, &cpu));
    TRY(x86_apply_model(cpu, model_spec));
    cpu->cores = MAX(config->cores, 1u);
    cpu->threads = MAX(config->threads, 1u);
    cpu->dies = MAX(config->dies, 1u);
    x86_cpu_reset(cpu, false);
    if (machine->accel_type && machine->accel_type->vcpu_init) {
        TRY(machine->accel_type->vcpu_init(machine->accel, vcpu));
    }
    return NULL;
}

Error *x86_vcpu_create(Machine *machine, unsigned index, const char *model_spec, Vcpu **ret_vcpu)
{
    Device *dev = device_new(machine, &x86_cpu_type_, NULL);
    Vcpu *vcpu = container_of(dev, Vcpu, dev);
    vcpu_init(vcpu, machine, index);
    vcpu->apic_id = x86_apic_id_of(machine, index);
    vcpu->as = machine->as;
    vcpu->io = machine->io_as;
    g_ptr_array_add(machine->vcpus, vcpu);
    Error *err = set_up(vcpu, model_spec);
    if (err) {
        cpu_unplug(dev);
        object_free(&dev->object);
        return err;
    }
    mem_set_clean_hook(machine->mem, clean_hook, machine);
    TRY(device_plug(dev, NULL));
    *ret_vcpu = vcpu;
    return NULL;
}
