/*
 * The CPU as a device of the machine: a type for each model, of which a machine takes the one that -cpu names. The places
 * of CPUs are numbered by thread, core, die, socket, as far as maxcpus; one is chosen by the properties.
 */
#include "cpu/x86/vcpu_x86.h"

#include <string.h>

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
    g_clear_pointer(&vcpu->options, g_free);
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
    vcpu_leave(vcpu);
    vcpu->machine = NULL;
    if (machine->cpu_board && machine->cpu_board->unplugged) {
        machine->cpu_board->unplugged(machine, vcpu->index);
    }
}

static Error *cpu_unplug_request(Device *dev)
{
    Vcpu *vcpu = container_of(dev, Vcpu, dev);
    const CpuBoard *board = dev->machine->cpu_board;

    if (vcpu->index == 0) {
        return error_new("%s: the first CPU cannot be unplugged: the machine boots with it", device_label(dev));
    }
    if (dev->machine->icount) {
        return error_new("with -icount no CPU can be removed while the machine exists");
    }
    return board->unplug_request(vcpu);
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
    STATE_NOT(Vcpu, options, "configuration"),
    STATE_NOT(Vcpu, ops, "constant"),
    STATE_NOT(Vcpu, accel_data, "the accelerator's"),
    STATE_NOT(Vcpu, as, "of the machine"),
    STATE_NOT(Vcpu, io, "of the machine"),
    STATE_NOT(Vcpu, exit_req, "inside arch"),
    STATE_NOT(Vcpu, thread, "host"),
    STATE_NOT(Vcpu, thread_id, "host"),
    STATE_NOT(Vcpu, run_lock, "host"),
    STATE_NOT(Vcpu, wake, "host"),
    STATE_NOT(Vcpu, naps, "host"),
    STATE_NOT(Vcpu, stopped_cond, "host"),
    STATE_NOT(Vcpu, created, "host"),
    STATE_NOT(Vcpu, sandboxed, "host"),
    STATE_NOT(Vcpu, stop, "host"),
    STATE_NOT(Vcpu, stopped, "host"),
    STATE_NOT(Vcpu, exit, "host"),
    STATE_NOT(Vcpu, work, "host"),
    { 0 },
};

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

static char *spec_of(const Vcpu *vcpu)
{
    const MachineConfig *config = vcpu->machine->config;
    return g_strconcat(config->cpu_model ? config->cpu_model : vcpu->machine->type->default_cpu, vcpu->options, NULL);
}

static Error *set_up(Vcpu *vcpu)
{
    Machine *machine = vcpu->machine;
    const MachineConfig *config = machine->config;
    g_autofree char *spec = spec_of(vcpu);
    X86Cpu *cpu;
    TRY(x86_cpu_new(vcpu, &cpu));
    TRY(x86_apply_model(cpu, spec));
    cpu->cores = MAX(config->cores, 1u);
    cpu->threads = MAX(config->threads, 1u);
    cpu->dies = MAX(config->dies, 1u);
    x86_cpu_reset(cpu, false);
    if (machine->accel_type && machine->accel_type->vcpu_init) {
        TRY(machine->accel_type->vcpu_init(machine->accel, vcpu));
    }
    return NULL;
}

/* --- places --- */

static MUST_USE Error *check_id(const char *name, int32_t value, unsigned count)
{
    if (value < 0) {
        return error_hint(error_new("%s is missing: it tells where the CPU sits", name),
                          "query-hotpluggable-cpus lists the free places.");
    }
    if ((unsigned)value >= count) {
        return error_new("%s=%d: this machine has places from 0 to %u", name, value, count - 1);
    }
    return NULL;
}

static MUST_USE Error *index_of_apic_id(const Machine *machine, uint32_t apic_id, unsigned *ret_index)
{
    for (unsigned index = 0; index < machine->config->max_cpus; index++) {
        if (x86_apic_id_of(machine, index) == apic_id) {
            *ret_index = index;
            return NULL;
        }
    }
    return error_new("apic-id=%u: no place of this machine's CPUs has that id", apic_id);
}

static MUST_USE Error *chosen_index(const Vcpu *vcpu, unsigned *ret_index)
{
    const Machine *machine = vcpu->dev.machine;
    const MachineConfig *config = machine->config;
    unsigned dies = MAX(config->dies, 1u), cores = MAX(config->cores, 1u), threads = MAX(config->threads, 1u);
    int32_t die = vcpu->place.die < 0 && dies == 1 ? 0 : vcpu->place.die;

    if (vcpu->apic_id != UINT32_MAX) {
        return index_of_apic_id(machine, vcpu->apic_id, ret_index);
    }
    TRY(check_id("socket-id", vcpu->place.socket, MAX(config->sockets, 1u)));
    TRY(check_id("die-id", die, dies));
    TRY(check_id("core-id", vcpu->place.core, cores));
    TRY(check_id("thread-id", vcpu->place.thread, threads));
    *ret_index = (((unsigned)vcpu->place.socket * dies + (unsigned)die) * cores + (unsigned)vcpu->place.core) * threads +
                 (unsigned)vcpu->place.thread;
    return NULL;
}

static MUST_USE Error *set_id(const char *name, int32_t *id, unsigned value)
{
    if (*id >= 0 && (unsigned)*id != value) {
        return error_new("%s=%d contradicts the other properties, which say %u", name, *id, value);
    }
    *id = (int32_t)value;
    return NULL;
}

/* All ways to say it agree, and tell the same afterwards. */
static MUST_USE Error *take_place(Vcpu *vcpu, unsigned *ret_index)
{
    const Machine *machine = vcpu->dev.machine;
    const MachineConfig *config = machine->config;
    unsigned dies = MAX(config->dies, 1u), cores = MAX(config->cores, 1u), threads = MAX(config->threads, 1u);
    unsigned index;

    TRY(chosen_index(vcpu, &index));
    if (index >= config->max_cpus) {
        return error_new("CPU %u is beyond the %u that maxcpus allows", index, config->max_cpus);
    }
    TRY(set_id("thread-id", &vcpu->place.thread, index % threads));
    TRY(set_id("core-id", &vcpu->place.core, index / threads % cores));
    TRY(set_id("die-id", &vcpu->place.die, index / threads / cores % dies));
    TRY(set_id("socket-id", &vcpu->place.socket, index / threads / cores / dies));
    if (vcpu_at(machine, index)) {
        return error_new("there is a CPU at socket-id=%d, core-id=%d, thread-id=%d already", vcpu->place.socket, vcpu->place.core,
                         vcpu->place.thread);
    }
    int node = numa_node_of_cpu(machine->config, index);
    if (vcpu->node_id >= 0 && vcpu->node_id != node) {
        return error_new("node-id=%d: -numa puts this place in node %d", vcpu->node_id, node);
    }
    vcpu->node_id = node;
    vcpu->apic_id = x86_apic_id_of(machine, index);
    *ret_index = index;
    return NULL;
}

/* --- plugging --- */

#define TYPE_SUFFIX "-x86_64-cpu"

static char *type_name_of(const Machine *machine)
{
    const char *spec = machine->config->cpu_model ? machine->config->cpu_model : machine->type->default_cpu;
    return g_strdup_printf("%.*s" TYPE_SUFFIX, (int)strcspn(spec, ","), spec);
}

static Error *cpu_plug(Device *dev)
{
    Vcpu *vcpu = container_of(dev, Vcpu, dev);
    Machine *machine = dev->machine;
    unsigned index;

    if (!machine->cpu_board) {
        return error_new("the board '%s' has no places for CPUs", machine->type->name);
    }
    g_autofree char *expected = type_name_of(machine);
    if (strcmp(dev->object.type->name, expected)) {
        return error_new("all CPUs of a machine are alike: this one's are %s", expected);
    }
    if (dev->hotplugged && machine->icount) {
        return error_new("with -icount no CPU can be added while the machine exists");
    }
    TRY(take_place(vcpu, &index));
    vcpu_init(vcpu, machine, index);
    vcpu->as = machine->as;
    vcpu->io = machine->io_as;
    vcpu_enter(vcpu);
    TRY(set_up(vcpu));
    mem_set_clean_hook(machine->mem, clean_hook, machine);
    TRY(machine->cpu_board->plugged(vcpu));
    if (machine->launched) {
        machine_launch_vcpus(machine);
    }
    return NULL;
}

/* Features and the like are checked when the model is put together. */
static Error *cpu_set_member(Object *obj, const char *name, const char *text)
{
    Vcpu *vcpu = (Vcpu *)obj;
    if (strpbrk(name, ",=") || strchr(text, ',')) {
        return error_new("Property '%s.%s': a comma cannot be part of it", obj->type->name, name);
    }
    g_autofree char *before = vcpu->options;
    vcpu->options = g_strdup_printf("%s,%s=%s", before ? before : "", name, text);
    return NULL;
}

static Error *cpu_get_member(const Object *obj, const char *name, char **ret_text)
{
    Vcpu *vcpu = (Vcpu *)obj;
    if (vcpu->arch && !strcmp(name, "filtered-features")) {
        g_autofree char *spec = spec_of(vcpu);
        uint32_t words[X86_FEAT_WORDS] = { 0 };
        TRY(x86_filtered_features(x86_cpu_of(vcpu), spec, words));
        *ret_text = x86_feature_words_json(words);
        return NULL;
    }
    return x86_get_property(x86_cpu_of(vcpu), name, ret_text);
}

static const Prop props[] = {
    PROP_I32("socket-id", Vcpu, place.socket, -1, .help = "socket that it sits in"),
    PROP_I32("die-id", Vcpu, place.die, -1, .help = "die of the socket"),
    PROP_I32("core-id", Vcpu, place.core, -1, .help = "core of the die"),
    PROP_I32("thread-id", Vcpu, place.thread, -1, .help = "thread of the core"),
    PROP_I32("node-id", Vcpu, node_id, -1, .help = "NUMA node"),
    PROP_U32("apic-id", Vcpu, apic_id, UINT32_MAX, .help = "another way to tell where it sits"),
    { 0 },
};
static const ObjectType cpu_type = { .name = "cpu", .parent = &device_object_type, .size = sizeof(Vcpu), .abstract = true };
static const ObjectType x86_cpu_type = {
    .name = "x86_64-cpu", .parent = &cpu_type, .size = sizeof(Vcpu), .abstract = true, .props = props,
};

#define CPU_MODEL(model) CPU_MODEL_(model, __LINE__)
#define CPU_MODEL_(model, line) CPU_MODEL_TYPE(model, line)
#define CPU_MODEL_TYPE(model, line)                                                                            \
    DEVICE_TYPE(model_##line,                                                                                  \
                .object = { .name = model TYPE_SUFFIX, .parent = &x86_cpu_type, .size = sizeof(Vcpu), .c_type = "Vcpu", \
                            .set_member = cpu_set_member, .get_member = cpu_get_member },                      \
                .category = DEV_CPU, .state = state, .hotplug = true, .plug_still = true, .plug = cpu_plug,    \
                .unplug = cpu_unplug, .unplug_request = cpu_unplug_request, .reset = cpu_reset,                \
                .saving = cpu_saving, .loaded = cpu_loaded);
#include "cpu/x86/model_names.inc"

Error *x86_vcpu_create(Machine *machine, unsigned index)
{
    g_autofree char *name = type_name_of(machine);
    const DeviceType *type = device_type_find(name);
    if (!type) {
        const char *spec = machine->config->cpu_model ? machine->config->cpu_model : machine->type->default_cpu;
        return x86_unknown_model(spec);
    }
    Device *dev = device_new(machine, type, NULL);
    container_of(dev, Vcpu, dev)->apic_id = x86_apic_id_of(machine, index);
    return device_plug(dev, NULL);
}
