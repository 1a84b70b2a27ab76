#include "firmware/acpi.h"

#include <glib/gstdio.h>
#include <string.h>

#include "base/endian.h"
#include "bus/pci.h"
#include "firmware/fw_cfg.h"
#include "hw/acpi/cpu_hotplug.h"
#include "hw/acpi/memory_hotplug.h"
#include "value/keyvalues.h"

static const MachineType test_machine = { .name = "test", .desc = "test machine" };
static const char *const ports[] = { "COM1", "COM2", "LPT1", "FDC0", "KBD", NULL };
static const AcpiPcInfo info = { .pci_hole_start = 0x20000000, .pci_hole_end = 0xfec00000, .pci_hole64_start = 0x100000000,
                                 .pci_hole64_end = 0x180000000, .hpet = true, .s3 = true, .s4 = true, .ioapic = true,
                                 .pm_base = 0x600, .gpe_base = 0xafe0, .gpe_bytes = 4, .s4_type = 2, .ports = ports };

static PciBus root;
static AcpiCpuHotplug cpu_hotplug;
static AcpiMemoryHotplug memory_hotplug;
static DeviceMemory memory = { .base = 0x100000000, .size = 0x80000000, .slots = 2 };

static Error *request_unplug(void *opaque, PciDevice *pci)
{
    return NULL;
}

/* Two nodes, of which the second has no CPUs. */
static void add_nodes(MachineConfig *config)
{
    static const char *const options[] = {
        "node,mem=32M", "node,mem=96M,initiator=0", "cpu,node-id=0,socket-id=0", "dist,src=0,dst=1,val=21",
        "hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-latency,latency=10",
        "hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=access-latency,latency=25",
        "hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=read-bandwidth,bandwidth=4G",
        "hmat-cache,node-id=1,size=8K,level=1,associativity=direct,policy=write-back,line=64",
    };
    config->ram_size = 128 * MiB;
    config->numa.hmat = true;
    for (size_t n = 0; n < ARRAY_SIZE(options); n++) {
        KeyValues *kv;
        g_assert_null(keyvalues_parse(options[n], "type", &kv));
        g_assert_null(numa_configure(config, kv, true));
        keyvalues_free(kv);
    }
    g_assert_null(numa_complete(config, NULL, NULL));
}

static Machine *build(const AcpiPcInfo *info)
{
    Machine *machine = machine_new(&test_machine, machine_config_new());
    lock_acquire(&machine->lock);
    fw_cfg_create(machine);
    root = (PciBus) { 0 };
    pci_bus_init(&root, machine, NULL, "pci.0", &machine->memory, &machine->io);
    root.request_unplug = request_unplug;
    machine->config->max_cpus = machine->config->cores = 3;
    machine_set_service(machine, ACPI_CPU_HOTPLUG_SERVICE, &cpu_hotplug);
    machine_set_service(machine, ACPI_MEMORY_HOTPLUG_SERVICE, &memory_hotplug);
    machine_set_service(machine, DEVICE_MEMORY_SERVICE, &memory);
    add_nodes(machine->config);
    Error *err = acpi_build_pc(machine, info);
    g_assert_null(err);
    return machine;
}

static void destroy(Machine *machine)
{
    bus_fini(&root.bus);
    lock_release(&machine->lock);
    machine_free(machine);
}

/* Every table that the script checksums has a valid header, and the pointers stay inside the blob. */
static void test_loader_script(void)
{
    Machine *machine = build(&info);
    size_t script_length, blob_length;
    const uint8_t *script = fw_cfg_file_data(machine->fw_cfg, "etc/table-loader", &script_length);
    const uint8_t *blob = fw_cfg_file_data(machine->fw_cfg, "etc/acpi/tables", &blob_length);
    unsigned checksums = 0, pointers = 0;

    g_assert_cmpuint(script_length % 128, ==, 0);
    for (size_t at = 0; at < script_length; at += 128) {
        const uint8_t *e = script + at;
        if (ld32_le(e) == 3 && !strcmp((const char *)e + 4, "etc/acpi/tables")) {
            uint32_t start = ld32_le(e + 64), length = ld32_le(e + 68);
            g_assert_cmpuint(start + length, <=, blob_length);
            g_assert_cmpuint(ld32_le(blob + start + 4), ==, length);
            g_assert_cmpuint(ld32_le(e + 60), ==, start + 9);
            checksums++;
        } else if (ld32_le(e) == 2) {
            uint32_t offset = ld32_le(e + 116);
            bool in_tables = !strcmp((const char *)e + 4, "etc/acpi/tables");
            g_assert_cmpuint(offset + e[120], <=, in_tables ? blob_length : 20u);
            pointers++;
        }
    }
    g_assert_cmpuint(checksums, ==, 9); /* DSDT FACP APIC HPET WAET SRAT SLIT HMAT RSDT */
    g_assert_cmpuint(pointers, ==, 3 + 7 + 1);
    destroy(machine);
}

static void write_table(const uint8_t *blob, const char *signature, size_t blob_length, const char *dir)
{
    for (size_t at = 0; at + 36 <= blob_length; at += 8) {
        if (!memcmp(blob + at, signature, 4)) {
            uint32_t length = ld32_le(blob + at + 4);
            g_autofree uint8_t *table = g_memdup2(blob + at, length);
            uint8_t sum = 0;
            for (uint32_t i = 0; i < length; i++) {
                sum += table[i];
            }
            table[9] = (uint8_t)-sum;
            g_autofree char *path = g_strdup_printf("%s/%.4s.dat", dir, signature);
            g_assert_true(g_file_set_contents(path, (char *)table, length, NULL));
            return;
        }
    }
    g_assert_not_reached();
}

/* Debian's iasl takes the tables apart, and its output compiles again without an error. */
static void test_iasl(void)
{
    static const char *const tables[] = { "DSDT", "FACP", "APIC", "HPET", "WAET", "SRAT", "SLIT", "HMAT" };
    g_autofree char *iasl = g_find_program_in_path("iasl");
    if (!iasl) {
        g_test_skip("iasl (package acpica-tools) is not installed");
        return;
    }
    Machine *machine = build(&info);
    size_t length;
    const uint8_t *blob = fw_cfg_file_data(machine->fw_cfg, "etc/acpi/tables", &length);
    g_autofree char *dir = g_dir_make_tmp("acpi-XXXXXX", NULL);
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        write_table(blob, tables[i], length, dir);
        g_autofree char *command = g_strdup_printf(
            "cd %s && %s -d %s.dat >log 2>&1 && %s -ve %s.dsl >>log 2>&1 || { cat log; exit 1; }", dir, iasl,
            tables[i], iasl, tables[i]);
        g_assert_cmpint(system(command), ==, 0);
        g_autofree char *log_path = g_build_filename(dir, "log", NULL);
        g_autofree char *log = NULL;
        g_assert_true(g_file_get_contents(log_path, &log, NULL, NULL));
        if (strstr(log, "Error") && !strstr(log, " 0 Errors")) {
            g_error("%s", log);
        }
    }
    g_autofree char *clean = g_strdup_printf("rm -rf %s", dir);
    g_assert_cmpint(system(clean), ==, 0);
    destroy(machine);
}

/* What the board cannot do, the tables do not offer. */
static void test_sleep_states(void)
{
    AcpiPcInfo few = info;
    few.s3 = false;
    few.s4_type = 5;
    Machine *machine = build(&few);
    size_t length;
    const char *blob = (const char *)fw_cfg_file_data(machine->fw_cfg, "etc/acpi/tables", &length);
    const uint8_t *s4 = memmem(blob, length, "_S4_", 4);
    g_assert_null(memmem(blob, length, "_S3_", 4));
    g_assert_nonnull(memmem(blob, length, "_S5_", 4));
    /* Package of four: length, count, two bytes with their prefix. */
    static const uint8_t package[] = { 0x12, 0x08, 4, 0x0a, 5, 0x0a, 5, 0, 0 };
    g_assert_nonnull(s4);
    g_assert_cmpmem(s4 + 4, sizeof(package), package, sizeof(package));
    destroy(machine);
}

/* Every place of a CPU is in the tables; no CPU is there in this machine. */
static void test_cpus(void)
{
    Machine *machine = build(&info);
    size_t length;
    const uint8_t *blob = fw_cfg_file_data(machine->fw_cfg, "etc/acpi/tables", &length);
    const uint8_t *madt = memmem(blob, length, "APIC", 4);
    g_assert_nonnull(madt);
    for (uint8_t index = 0; index < 3; index++) {
        const uint8_t disabled[8] = { 0, 8, index, index, 0, 0, 0, 0 }, enabled[8] = { 0, 8, index, index, 1, 0, 0, 0 };
        g_assert_cmpmem(madt + 44 + 8 * index, 8, disabled, 8);
        g_assert_nonnull(memmem(blob, length, enabled, 8)); /* _MAT */
    }
    g_assert_nonnull(memmem(blob, length, "_E02", 4));
    g_assert_nonnull(memmem(blob, length, "C002", 4));
    g_assert_null(memmem(blob, length, "C003", 4));
    destroy(machine);
}

/* The methods of PCI hot-plug are there for slots that may change, and only where the bus can. */
static void test_hotplug(void)
{
    Machine *machine = build(&info);
    size_t length, without;
    const char *blob = (const char *)fw_cfg_file_data(machine->fw_cfg, "etc/acpi/tables", &length);
    g_assert_nonnull(memmem(blob, length, "_E01", 4));
    g_assert_nonnull(memmem(blob, length, "S18_\x08_SUN", 9));
    destroy(machine);

    machine = machine_new(&test_machine, machine_config_new());
    lock_acquire(&machine->lock);
    fw_cfg_create(machine);
    g_assert_null(acpi_build_pc(machine, &info));
    blob = (const char *)fw_cfg_file_data(machine->fw_cfg, "etc/acpi/tables", &without);
    g_assert_null(memmem(blob, without, "_E01", 4));
    g_assert_null(memmem(blob, without, "BSEL", 4));
    lock_release(&machine->lock);
    machine_free(machine);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/firmware/acpi/loader-script", test_loader_script);
    g_test_add_func("/firmware/acpi/iasl", test_iasl);
    g_test_add_func("/firmware/acpi/sleep-states", test_sleep_states);
    g_test_add_func("/firmware/acpi/hotplug", test_hotplug);
    g_test_add_func("/firmware/acpi/cpus", test_cpus);
    return g_test_run();
}
