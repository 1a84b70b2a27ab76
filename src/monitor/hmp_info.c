/* HMP: info and its subcommands. */
#include <inttypes.h>
#include <string.h>

#include "accel/accel.h"
#include "block/drive.h"
#include "bus/pci.h"
#include "monitor/hmp_priv.h"
#include "net/user.h"

/* Prints text that a module made, and frees it. */
static void print_text(Hmp *hmp, char *text, const char *otherwise)
{
    hmp_printf(hmp, "%s", text ? text : otherwise);
    if (text && *text && text[strlen(text) - 1] != '\n') {
        hmp_printf(hmp, "\n");
    }
    g_free(text);
}

static void info_version(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) info = NULL;

    if (hmp_qmp(hmp, "query-version", NULL, &info)) {
        const Value *triple = value_find(info, "qemu");
        hmp_printf(hmp, "%" PRId64 ".%" PRId64 ".%" PRId64 "%s\n", value_find_int(triple, "major", 0),
                   value_find_int(triple, "minor", 0), value_find_int(triple, "micro", 0), value_find_str(info, "package"));
    }
}

static void info_status(Hmp *hmp, const HmpArgs *args)
{
    bool running = machine_running(hmp->machine);
    RunState state = hmp->machine->state;

    hmp_printf(hmp, "VM status: %s", running ? "running" : "paused");
    if (!running && state != RUN_STATE_PAUSED) {
        hmp_printf(hmp, " (%s)", run_state_name(state));
    }
    hmp_printf(hmp, "\n");
}

static void info_name(Hmp *hmp, const HmpArgs *args)
{
    if (hmp->machine->config->name) {
        hmp_printf(hmp, "%s\n", hmp->machine->config->name);
    }
}

static void info_uuid(Hmp *hmp, const HmpArgs *args)
{
    char text[37];
    format_uuid(hmp->machine->config->uuid.byte, text);
    hmp_printf(hmp, "%s\n", text);
}

static void info_kvm(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) info = NULL;

    if (hmp_qmp(hmp, "query-kvm", NULL, &info)) {
        hmp_printf(hmp, "kvm support: %s\n", !value_find_bool(info, "present", false) ? "not compiled"
                                             : value_find_bool(info, "enabled", false) ? "enabled" : "disabled");
    }
}

static void info_cpus(Hmp *hmp, const HmpArgs *args)
{
    for (guint n = 0; n < hmp->machine->vcpus->len; n++) {
        const Vcpu *vcpu = g_ptr_array_index(hmp->machine->vcpus, n);
        hmp_printf(hmp, "%c CPU #%u: thread_id=%d\n", vcpu->index == hmp->cpu_index ? '*' : ' ', vcpu->index,
                   (int)vcpu->thread_id);
    }
}

typedef struct Describe {
    char *(*fn)(Vcpu *vcpu);
    bool registers;
    char *text;
} Describe;

static void describe_on_cpu(Vcpu *vcpu, void *opaque)
{
    Describe *job = opaque;
    job->text = job->registers ? vcpu->ops->describe(vcpu, true) : job->fn(vcpu);
}

static void print_registers(Hmp *hmp, Vcpu *vcpu)
{
    Describe job = { .registers = true };

    if (vcpu->ops && vcpu->ops->describe) {
        hmp_on_cpu(vcpu, describe_on_cpu, &job);
    }
    hmp_printf(hmp, "\nCPU#%u\n", vcpu->index);
    print_text(hmp, job.text, "no registers\n");
}

static void info_registers(Hmp *hmp, const HmpArgs *args)
{
    Vcpu *vcpu = hmp_cpu(hmp);

    if (args->flag['a']) {
        for (guint n = 0; n < hmp->machine->vcpus->len; n++) {
            print_registers(hmp, g_ptr_array_index(hmp->machine->vcpus, n));
        }
    } else if (vcpu) {
        print_registers(hmp, vcpu);
    } else {
        hmp_printf(hmp, "No CPU available\n");
    }
}

static void print_cpu_text(Hmp *hmp, bool tlb)
{
    Vcpu *vcpu = hmp_cpu(hmp);
    Describe job = { 0 };

    if (vcpu && vcpu->ops) {
        job.fn = tlb ? vcpu->ops->describe_tlb : vcpu->ops->describe_mem;
    }
    if (!job.fn) {
        hmp_printf(hmp, "No CPU available\n");
        return;
    }
    hmp_on_cpu(vcpu, describe_on_cpu, &job);
    print_text(hmp, job.text, "");
}

static void info_tlb(Hmp *hmp, const HmpArgs *args)
{
    print_cpu_text(hmp, true);
}

static void info_mem(Hmp *hmp, const HmpArgs *args)
{
    print_cpu_text(hmp, false);
}

static void info_mtree(Hmp *hmp, const HmpArgs *args)
{
    print_text(hmp, mem_describe(hmp->machine->mem, args->flag['f']), "");
}

static void info_qtree(Hmp *hmp, const HmpArgs *args)
{
    print_text(hmp, device_tree_describe(hmp->machine), "");
}

static void print_object(Hmp *hmp, const Object *object, const char *name, unsigned indent)
{
    hmp_printf(hmp, "%*s/%s (%s)\n", (int)indent, "", name, object->type->name);
    LIST_FOREACH (child, &object->children, Object, sibling) {
        print_object(hmp, child, child->id, indent + 2);
    }
}

static void info_qom_tree(Hmp *hmp, const HmpArgs *args)
{
    const char *path = args->text[0] ? args->text[0] : "/machine";
    Object *object = !strcmp(path, "/") ? hmp->machine->root : object_resolve(hmp->machine->root, path);

    if (!object) {
        hmp_printf(hmp, "Nothing in the tree has the path '%s'.\n", path);
        return;
    }
    print_object(hmp, object, object->id ? object->id : "", 0);
}

static void info_pci(Hmp *hmp, const HmpArgs *args)
{
    print_text(hmp, pci_bus_of(hmp->machine) ? pci_describe(hmp->machine) : NULL,
               "This machine has no PCI bus\n");
}

static void info_chardev(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) list = NULL;

    if (hmp_qmp(hmp, "query-chardev", NULL, &list)) {
        for (size_t n = 0; n < value_length(list); n++) {
            const Value *item = value_at(list, n);
            hmp_printf(hmp, "%s: filename=%s\n", value_find_str(item, "label"), value_find_str(item, "filename"));
        }
    }
}

static void info_mice(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) list = NULL;

    if (!hmp_qmp(hmp, "query-mice", NULL, &list)) {
        return;
    }
    if (value_length(list) == 0) {
        hmp_printf(hmp, "The machine has no pointing device\n");
    }
    for (size_t n = 0; n < value_length(list); n++) {
        const Value *item = value_at(list, n);
        hmp_printf(hmp, "%c Mouse #%" PRId64 ": %s%s\n", value_find_bool(item, "current", false) ? '*' : ' ',
                   value_find_int(item, "index", 0), value_find_str(item, "name"),
                   value_find_bool(item, "absolute", false) ? " (absolute)" : "");
    }
}

/* --- block --- */

static void info_blockstats(Hmp *hmp, const HmpArgs *args)
{
    static const char *const shown[] = { "rd_bytes", "wr_bytes", "rd_operations", "wr_operations", "flush_operations",
                                         "wr_total_time_ns", "rd_total_time_ns", "flush_total_time_ns" };
    g_autoptr(Value) list = NULL;

    if (!hmp_qmp(hmp, "query-blockstats", NULL, &list)) {
        return;
    }
    for (size_t n = 0; n < value_length(list); n++) {
        const Value *item = value_at(list, n), *stats = value_find(item, "stats");
        hmp_printf(hmp, "%s:", value_find_str(item, "device"));
        for (size_t i = 0; i < ARRAY_SIZE(shown); i++) {
            hmp_printf(hmp, " %s=%" PRId64, shown[i], value_find_int(stats, shown[i], 0));
        }
        hmp_printf(hmp, "\n");
    }
}

static void info_jit(Hmp *hmp, const HmpArgs *args)
{
    const Machine *machine = hmp->machine;
    bool can = machine->accel && machine->accel_type->describe;
    print_text(hmp, can ? machine->accel_type->describe(machine->accel) : NULL,
               "Only the translator has such information: start with -accel tcg\n");
}

static void info_roms(Hmp *hmp, const HmpArgs *args)
{
    char *(*describe)(Machine *machine) = machine_service(hmp->machine, "roms-describe");
    print_text(hmp, describe ? describe(hmp->machine) : NULL, "");
}

static void info_ramblock(Hmp *hmp, const HmpArgs *args)
{
    hmp_printf(hmp, "%24s %8s  %18s %18s\n", "Block Name", "PSize", "Offset", "Total");
    for (RamBlock *block = NULL; (block = ram_block_next(hmp->machine->mem, block));) {
        hmp_printf(hmp, "%24s %8s  0x%016" PRIx64 " 0x%016" PRIx64 "\n", block->name, "4 KiB", block->id, block->size);
    }
}

static void info_network(Hmp *hmp, const HmpArgs *args)
{
    print_text(hmp, net_describe(hmp->machine), "");
}

#pragma weak user_net_describe /* a build without libslirp has no user network */

static void info_usernet(Hmp *hmp, const HmpArgs *args)
{
    print_text(hmp, user_net_describe ? user_net_describe(hmp->machine) : NULL, "");
}

static void info_memory_size(Hmp *hmp, const HmpArgs *args)
{
    hmp_printf(hmp, "base memory: %" PRIu64 "\nplugged memory: 0\n", hmp->machine->config->ram_size);
}

/* Register tables of the devices whose type name has one of the words in it. */
static void print_device_registers(Hmp *hmp, const char *const *words)
{
    for (Device *dev = NULL; (dev = machine_device_next(hmp->machine, dev));) {
        const DeviceType *type = device_type(dev);
        for (const char *const *word = words; *word; word++) {
            if (type->describe && !strcmp(type->object.name, *word)) {
                print_text(hmp, type->describe(dev), "");
            } else if (type->regs && strstr(type->object.name, *word)) {
                hmp_printf(hmp, "%s:\n", device_label(dev));
                print_text(hmp, regs_dump(type->regs, dev), "");
                break;
            }
        }
    }
}

static void info_pic(Hmp *hmp, const HmpArgs *args)
{
    print_device_registers(hmp, (const char *const[]) { "isa-i8259", "ioapic", NULL });
}

static void info_lapic(Hmp *hmp, const HmpArgs *args)
{
    unsigned index = 0;

    for (Device *dev = NULL; (dev = machine_device_next(hmp->machine, dev));) {
        if (!strcmp(dev->object.type->name, "apic") && index++ == hmp->cpu_index) {
            print_text(hmp, device_type(dev)->describe(dev), "");
        }
    }
}

const HmpCommand hmp_info_commands[] = {
    { "blockstats", "", "", "what each disk read, wrote and waited for", info_blockstats },
    { "chardev", "", "", "character devices and where they lead", info_chardev },
    { "cpus", "", "", "show infos for each CPU", info_cpus },
    { "jit", "", "", "counters of the translator", info_jit },
    { "kvm", "", "", "show KVM information", info_kvm },
    { "lapic", "", "", "show local APIC state", info_lapic },
    { "mem", "", "", "ranges of virtual memory that are mapped, and how", info_mem },
    { "memory_size_summary", "", "", "show the amount of initially allocated memory", info_memory_size },
    { "mice", "", "", "pointing devices, and which gets the movements", info_mice },
    { "mtree", "-f", "[-f]", "show memory tree (-f: flat view)", info_mtree },
    { "name", "", "", "name of the machine (-name)", info_name },
    { "network", "", "", "show the network state", info_network },
    { "pci", "", "", "show PCI info", info_pci },
    { "pic", "", "", "show the state of the interrupt controllers", info_pic },
    { "qom-tree", "?s", "[path]", "show the object composition tree", info_qom_tree },
    { "qtree", "", "", "show the device tree", info_qtree },
    { "ramblock", "", "", "show RAM blocks", info_ramblock },
    { "registers", "-a", "[-a]", "show the CPU registers (-a: of all CPUs)", info_registers },
    { "roms", "", "", "show firmware and option ROMs", info_roms },
    { "status", "", "", "whether the machine runs, and why not", info_status },
    { "tlb", "", "", "each page of virtual memory with its physical address", info_tlb },
    { "usernet", "", "", "connections of the user network", info_usernet },
    { "uuid", "", "", "UUID of the machine", info_uuid },
    { "version", "", "", "show the version", info_version },
    { 0 },
};
