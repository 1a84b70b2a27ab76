/* HMP: info subcommands about CPUs, memory, interrupts and what a machine may lack. */
#include <inttypes.h>
#include <string.h>

#include "accel/accel.h"
#include "core/vm/machine.h"
#include "hw/mem/device_memory.h"
#include "monitor/hmp_priv.h"
#include "schema/qmp_commands.h"

static void info_balloon(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) info = NULL;

    if (hmp_qmp(hmp, "query-balloon", NULL, &info)) {
        hmp_printf(hmp, "balloon: actual=%" PRId64 "\n", value_find_int(info, "actual", 0) / (int64_t)MiB);
    }
}

static void info_dump(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) info = NULL;

    if (!hmp_qmp(hmp, "query-dump", NULL, &info)) {
        return;
    }
    int64_t total = value_find_int(info, "total", 0), completed = value_find_int(info, "completed", 0);
    hmp_printf(hmp, "Status: %s\n", value_find_str(info, "status"));
    if (!strcmp(value_find_str(info, "status"), "active") && total > 0) {
        hmp_printf(hmp, "Finished: %.2f %%\n", 100.0 * (double)completed / (double)total);
    }
}

static void info_history(Hmp *hmp, const HmpArgs *args)
{
    const char *line;

    for (unsigned n = 0; hmp->monitor && hmp->monitor->readline && (line = readline_history(hmp->monitor->readline, n)); n++) {
        hmp_printf(hmp, "%u: '%s'\n", n, line);
    }
}

static void print_property(Hmp *hmp, const Value *props, const char *name)
{
    if (value_find(props, name)) {
        hmp_printf(hmp, "    %s: \"%" PRId64 "\"\n", name, value_find_int(props, name, 0));
    }
}

static void info_hotpluggable_cpus(Hmp *hmp, const HmpArgs *args)
{
    static const char *const names[] = { "node-id", "socket-id", "die-id", "core-id", "thread-id" };
    g_autoptr(Value) list = NULL;

    if (!hmp_qmp(hmp, "query-hotpluggable-cpus", NULL, &list)) {
        return;
    }
    hmp_printf(hmp, "Hotpluggable CPUs:\n");
    for (size_t n = 0; n < value_length(list); n++) {
        const Value *item = value_at(list, n);
        hmp_printf(hmp, "  type: \"%s\"\n  vcpus_count: \"%" PRId64 "\"\n", value_find_str(item, "type"),
                   value_find_int(item, "vcpus-count", 0));
        if (value_find(item, "qom-path")) {
            hmp_printf(hmp, "  qom_path: \"%s\"\n", value_find_str(item, "qom-path"));
        }
        hmp_printf(hmp, "  CPUInstance Properties:\n");
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
            print_property(hmp, value_find(item, "props"), names[i]);
        }
    }
}

static void info_iothreads(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) list = NULL;

    if (hmp_qmp(hmp, "query-iothreads", NULL, &list)) {
        for (size_t n = 0; n < value_length(list); n++) {
            hmp_printf(hmp, "%s:\n  thread_id=%" PRId64 "\n", value_find_str(value_at(list, n), "id"),
                       value_find_int(value_at(list, n), "thread-id", 0));
        }
    }
}

static void info_irq(Hmp *hmp, const HmpArgs *args)
{
    for (Device *dev = NULL; (dev = machine_device_next(hmp->machine, dev));) {
        const DeviceType *type = device_type(dev);
        if (!type->irq_counts) {
            continue;
        }
        uint64_t counts[32];
        unsigned lines = type->irq_counts(dev, counts, ARRAY_SIZE(counts));
        hmp_printf(hmp, "IRQ statistics for %s:\n", type->object.name);
        for (unsigned line = 0; line < lines; line++) {
            if (counts[line]) {
                hmp_printf(hmp, "%2u: %" PRIu64 "\n", line, counts[line]);
            }
        }
    }
}

static void info_memdev(Hmp *hmp, const HmpArgs *args)
{
    static const char *const flags[] = { "merge", "dump", "prealloc", "share", "reserve" };
    g_autoptr(Value) list = NULL;

    if (!hmp_qmp(hmp, "query-memdev", NULL, &list)) {
        return;
    }
    for (size_t n = 0; n < value_length(list); n++) {
        const Value *item = value_at(list, n);
        hmp_printf(hmp, "memory backend: %s\n  size:  %" PRId64 "\n", value_find_str(item, "id"), value_find_int(item, "size", 0));
        for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
            hmp_printf(hmp, "  %s: %s\n", flags[i], value_find_bool(item, flags[i], false) ? "true" : "false");
        }
        hmp_printf(hmp, "  policy: %s\n  host nodes: \n", value_find_str(item, "policy"));
    }
    hmp_printf(hmp, "\n");
}

static void info_memory_devices(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) list = NULL;

    if (!hmp_qmp(hmp, "query-memory-devices", NULL, &list)) {
        return;
    }
    for (size_t n = 0; n < value_length(list); n++) {
        const Value *data = value_find(value_at(list, n), "data");
        const char *id = value_find_str(data, "id");
        hmp_printf(hmp, "Memory device [dimm]: \"%s\"\n  addr: 0x%" PRIx64 "\n  slot: %" PRId64 "\n  node: %" PRId64 "\n  size: %"
                   PRId64 "\n  memdev: %s\n  hotplugged: %s\n  hotpluggable: true\n", id ? id : "",
                   (uint64_t)value_find_int(data, "addr", 0), value_find_int(data, "slot", 0), value_find_int(data, "node", 0),
                   value_find_int(data, "size", 0), value_find_str(data, "memdev"),
                   value_find_bool(data, "hotplugged", false) ? "true" : "false");
    }
}

static void info_numa(Hmp *hmp, const HmpArgs *args)
{
    const MachineConfig *config = hmp->machine->config;
    const DeviceMemory *memory = device_memory_of(hmp->machine);

    hmp_printf(hmp, "%u nodes\n", config->numa.count);
    for (unsigned node = 0; node < config->numa.count; node++) {
        uint64_t plugged = memory ? device_memory_plugged_in(memory, node) : 0;
        hmp_printf(hmp, "node %u cpus:", node);
        for (guint n = 0; n < hmp->machine->vcpus->len; n++) {
            const Vcpu *vcpu = g_ptr_array_index(hmp->machine->vcpus, n);
            if (numa_node_of_cpu(config, vcpu->index) == (int)node) {
                hmp_printf(hmp, " %u", vcpu->index);
            }
        }
        hmp_printf(hmp, "\nnode %u size: %" PRIu64 " MB\nnode %u plugged: %" PRIu64 " MB\n", node,
                   (config->numa.nodes[node]->size + plugged) / MiB, node, plugged / MiB);
    }
}

static void info_qdm(Hmp *hmp, const HmpArgs *args)
{
    g_autofree char *text = device_types_help();
    hmp_printf(hmp, "%s", text);
}

static void info_replay(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) info = NULL;
    if (!hmp_qmp(hmp, "query-replay", NULL, &info)) {
        return;
    }
    const char *mode = value_find_str(info, "mode");
    if (!strcmp(mode, "none")) {
        hmp_printf(hmp, "Nothing is recorded or replayed\n");
        return;
    }
    hmp_printf(hmp, "%s execution '%s': instruction count = %" G_GINT64_FORMAT "\n",
               strcmp(mode, "record") ? "Replaying" : "Recording", value_find_str(info, "filename"),
               value_find_int(info, "icount", 0));
}

static void info_trace_events(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) list = NULL;

    if (hmp_qmp(hmp, "trace-event-get-state", hmp_dict("name", args->text[0] ? args->text[0] : "*", NULL), &list)) {
        for (size_t n = 0; n < value_length(list); n++) {
            const Value *item = value_at(list, n);
            hmp_printf(hmp, "%s : state %u\n", value_find_str(item, "name"), !strcmp(value_find_str(item, "state"), "enabled"));
        }
    }
}

static void info_sev(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) info = NULL;

    if (hmp_qmp(hmp, "query-sev", NULL, &info)) {
        hmp_printf(hmp, value_find_bool(info, "enabled", false) ? "SEV is enabled\n" : "SEV is not enabled\n");
    }
}

static void info_sgx(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "query-sgx", NULL, NULL);
}

/* What a provider of statistics counted, of the machine or of the selected CPU. */
static void info_stats(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) list = NULL;

    hmp_qmp(hmp, "query-stats", hmp_dict("target", args->text[0], NULL), &list);
    for (size_t n = 0; list && n < value_length(list); n++) {
        const Value *item = value_at(list, n), *stats = value_find(item, "stats");
        hmp_printf(hmp, "provider: %s\n", value_find_str(item, "provider"));
        for (size_t i = 0; i < value_length(stats); i++) {
            g_autofree char *value = json_write(value_find(value_at(stats, i), "value"), false);
            hmp_printf(hmp, "    %s: %s\n", value_find_str(value_at(stats, i), "name"), value);
        }
    }
}

static void info_usb(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "x-query-usb", NULL, NULL);
}

static void info_vm_generation_id(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "query-vm-generation-id", NULL, NULL);
}

static void info_nothing(Hmp *hmp, const HmpArgs *args)
{
}

static void info_vnc(Hmp *hmp, const HmpArgs *args)
{
    hmp_printf(hmp, "None\n");
}

const HmpCommand hmp_info_more[] = {
    { "balloon", "", "", "show balloon information", info_balloon },
    { "capture", "", "", "show capture information", info_nothing },
    { "dump", "", "", "show the status of a dump of the guest's memory", info_dump },
    { "history", "", "", "commands that were typed", info_history },
    { "hotpluggable-cpus", "", "", "show information about hotpluggable CPUs", info_hotpluggable_cpus },
    { "iothreads", "", "", "show iothreads", info_iothreads },
    { "irq", "", "", "show the interrupts statistics", info_irq },
    { "memdev", "", "", "show memory backends", info_memdev },
    { "memory-devices", "", "", "show memory devices", info_memory_devices },
    { "numa", "", "", "show NUMA information", info_numa },
    { "qdm", "", "", "show the device types", info_qdm },
    { "replay", "", "", "show record and replay information", info_replay },
    { "sev", "", "", "whether the guest's memory is encrypted (AMD SEV)", info_sev },
    { "sgx", "", "", "memory for enclaves (Intel SGX)", info_sgx },
    { "stats", "s", "vm|vcpu", "statistics of the accelerator", info_stats },
    { "tpm", "", "", "show the TPM device", info_nothing },
    { "trace-events", "?s", "[name]", "show the trace events and their state", info_trace_events },
    { "usb", "", "", "show guest USB devices", info_usb },
    { "vm-generation-id", "", "", "show the virtual machine generation id", info_vm_generation_id },
    { "vnc", "", "", "show the VNC server status", info_vnc },
    { 0 },
};

/* --- the same text for programs --- */

Error *qmp_x_query_usb(QmpContext *ctx, const QmpXQueryUsbArgs *args, Value **ret)
{
    return error_new("the machine has no USB");
}

static MUST_USE Error *human_text(QmpContext *ctx, const char *line, Value **ret)
{
    g_autofree char *text = monitor_run_hmp(ctx->machine, 0, line);
    g_auto(GStrv) parts = g_strsplit(text, "\r", -1);

    *ret = value_dict();
    value_put(*ret, "human-readable-text", value_take_str(g_strjoinv("", parts)));
    return NULL;
}

#define HUMAN_TEXT(name, Name, line)                                                               \
    Error *qmp_x_query_##name(QmpContext *ctx, const QmpXQuery##Name##Args *args, Value **ret)     \
    {                                                                                              \
        return human_text(ctx, line, ret);                                                         \
    }
HUMAN_TEXT(irq, Irq, "info irq")

Error *qmp_x_query_jit(QmpContext *ctx, const QmpXQueryJitArgs *args, Value **ret)
{
    const AccelType *accel = ctx->machine->accel_type;

    if (!accel || strcmp(accel->name, "tcg")) {
        return error_new("nothing is translated: this machine does not run by -accel tcg");
    }
    return human_text(ctx, "info jit", ret);
}

HUMAN_TEXT(numa, Numa, "info numa")
HUMAN_TEXT(ramblock, Ramblock, "info ramblock")
HUMAN_TEXT(roms, Roms, "info roms")
