/*
 * Tables of NUMA nodes (ACPI 6.4): SRAT (5.2.16), which CPU and memory is in which node; SLIT (5.2.17), how far apart they
 * are; HMAT (5.2.28), how fast.
 */
#include "cpu/x86/vcpu_x86.h"
#include "firmware/acpi.h"
#include "hw/mem/device_memory.h"

enum { SRAT_APIC = 0, SRAT_MEMORY = 1, SRAT_X2APIC = 2 };
enum { SRAT_ENABLED = BIT(0), SRAT_HOT_PLUGGABLE = BIT(1) };

static void put_cpu(AcpiTables *tables, uint32_t node, uint32_t apic_id)
{
    bool small = apic_id < 255;
    acpi_put(tables, small ? SRAT_APIC : SRAT_X2APIC, 1);
    acpi_put(tables, small ? 16 : 24, 1);
    if (small) {
        acpi_put(tables, node & 0xff, 1);
        acpi_put(tables, apic_id, 1);
        acpi_put(tables, SRAT_ENABLED, 4);
        acpi_put(tables, 0, 1);
        acpi_put(tables, node >> 8, 3);
        acpi_put(tables, 0, 4); /* clock domain */
    } else {
        acpi_put(tables, 0, 2);
        acpi_put(tables, node, 4);
        acpi_put(tables, apic_id, 4);
        acpi_put(tables, SRAT_ENABLED, 4);
        acpi_put(tables, 0, 8);
    }
}

static void put_memory(AcpiTables *tables, uint32_t node, uint64_t start, uint64_t end, uint32_t flags)
{
    if (end > start) {
        acpi_put(tables, SRAT_MEMORY, 1);
        acpi_put(tables, 40, 1);
        acpi_put(tables, node, 4);
        acpi_put(tables, 0, 2);
        acpi_put(tables, start, 8);
        acpi_put(tables, end - start, 8);
        acpi_put(tables, 0, 4);
        acpi_put(tables, flags | SRAT_ENABLED, 4);
        acpi_put(tables, 0, 8);
    }
}

/* Nodes follow each other in main memory, which has holes in the guest's addresses. */
static void put_main_memory(AcpiTables *tables, const Numa *numa, uint64_t below_4g)
{
    const struct {
        uint64_t start, end, shift; /* in main memory; how much higher the guest sees it */
    } pieces[] = { { 0, 640 * KiB, 0 }, { 1 * MiB, below_4g, 0 }, { below_4g, UINT64_MAX / 2, 4 * GiB - below_4g } };
    uint64_t at = 0;

    for (unsigned node = 0; node < numa->count; node++) {
        uint64_t end = at + numa->nodes[node]->size;
        for (size_t n = 0; n < ARRAY_SIZE(pieces); n++) {
            uint64_t first = MAX(at, pieces[n].start), last = MIN(end, pieces[n].end);
            if (first < last) {
                put_memory(tables, node, first + pieces[n].shift, last + pieces[n].shift, 0);
            }
        }
        at = end;
    }
}

static void build_srat(AcpiTables *tables, Machine *machine, uint64_t below_4g)
{
    const MachineConfig *config = machine->config;
    const DeviceMemory *memory = device_memory_of(machine);
    guint start = acpi_table_begin(tables, "SRAT", 3);

    acpi_put(tables, 1, 4);
    acpi_put(tables, 0, 8);
    for (unsigned index = 0; index < config->max_cpus; index++) {
        put_cpu(tables, (uint32_t)MAX(numa_node_of_cpu(config, index), 0), x86_apic_id_of(machine, index));
    }
    put_main_memory(tables, &config->numa, below_4g);
    if (memory) {
        put_memory(tables, config->numa.count - 1, memory->base, memory->base + memory->size, SRAT_HOT_PLUGGABLE);
    }
    acpi_table_end(tables, start);
    acpi_table_list(tables, start);
}

static void build_slit(AcpiTables *tables, const Numa *numa)
{
    guint start = acpi_table_begin(tables, "SLIT", 1);
    acpi_put(tables, numa->count, 8);
    for (unsigned from = 0; from < numa->count; from++) {
        for (unsigned to = 0; to < numa->count; to++) {
            acpi_put(tables, numa->nodes[from]->distance[to], 1);
        }
    }
    acpi_table_end(tables, start);
    acpi_table_list(tables, start);
}

/* --- HMAT --- */

enum { HMAT_DOMAIN = 0, HMAT_RATES = 1, HMAT_CACHE = 2, HMAT_INITIATOR_VALID = BIT(0), HIERARCHIES = 4, RATE_TYPES = 6 };
enum { FIRST_BANDWIDTH = 3, PS_PER_NS = 1000 };

static void put_domain(AcpiTables *tables, unsigned node, int initiator)
{
    acpi_put(tables, HMAT_DOMAIN, 4);
    acpi_put(tables, 40, 4);
    acpi_put(tables, initiator >= 0 ? HMAT_INITIATOR_VALID : 0, 4);
    acpi_put(tables, (uint64_t)MAX(initiator, 0), 4);
    acpi_put(tables, node, 4);
    acpi_put(tables, 0, 4);
    acpi_put(tables, 0, 8);
    acpi_put(tables, 0, 8);
}

static uint64_t rate_between(const Numa *numa, unsigned hierarchy, unsigned type, unsigned from, unsigned to)
{
    for (guint n = 0; n < numa->rates->len; n++) {
        const NumaRate *rate = &g_array_index(numa->rates, NumaRate, n);
        if (rate->hierarchy == hierarchy && rate->type == type && rate->initiator == from && rate->target == to) {
            return rate->value;
        }
    }
    return 0;
}

static bool has_rates(const Numa *numa, unsigned hierarchy, unsigned type)
{
    for (guint n = 0; n < numa->rates->len; n++) {
        const NumaRate *rate = &g_array_index(numa->rates, NumaRate, n);
        if (rate->hierarchy == hierarchy && rate->type == type) {
            return true;
        }
    }
    return false;
}

static void put_rates(AcpiTables *tables, const Numa *numa, unsigned hierarchy, unsigned type)
{
    uint64_t unit = numa_rate_unit(numa, hierarchy, type);
    unsigned initiators = 0;
    for (unsigned node = 0; node < numa->count; node++) {
        initiators += numa->nodes[node]->has_cpu;
    }
    acpi_put(tables, HMAT_RATES, 4);
    acpi_put(tables, 32 + 4 * initiators + 4 * numa->count + 2 * initiators * numa->count, 4);
    acpi_put(tables, hierarchy, 1);
    acpi_put(tables, type, 1);
    acpi_put(tables, 0, 2);
    acpi_put(tables, initiators, 4);
    acpi_put(tables, numa->count, 4);
    acpi_put(tables, 0, 4);
    acpi_put(tables, type >= FIRST_BANDWIDTH ? unit : unit * PS_PER_NS, 8);
    for (unsigned node = 0; node < numa->count; node++) {
        if (numa->nodes[node]->has_cpu) {
            acpi_put(tables, node, 4);
        }
    }
    for (unsigned node = 0; node < numa->count; node++) {
        acpi_put(tables, node, 4);
    }
    for (unsigned from = 0; from < numa->count; from++) {
        for (unsigned to = 0; numa->nodes[from]->has_cpu && to < numa->count; to++) {
            acpi_put(tables, rate_between(numa, hierarchy, type, from, to) / unit, 2);
        }
    }
}

static void put_caches(AcpiTables *tables, const NumaNode *node, unsigned number)
{
    unsigned levels = 0;
    for (unsigned n = 0; n < NUMA_CACHE_LEVELS; n++) {
        levels += node->cache[n].set;
    }
    for (unsigned n = 0; n < NUMA_CACHE_LEVELS; n++) {
        const NumaCache *cache = &node->cache[n];
        if (cache->set) {
            acpi_put(tables, HMAT_CACHE, 4);
            acpi_put(tables, 32, 4);
            acpi_put(tables, number, 4);
            acpi_put(tables, 0, 4);
            acpi_put(tables, cache->size, 8);
            acpi_put(tables, levels | cache->level << 4 | cache->associativity << 8 | cache->policy << 12 | (uint32_t)cache->line << 16, 4);
            acpi_put(tables, 0, 4);
        }
    }
}

static void build_hmat(AcpiTables *tables, const Numa *numa)
{
    guint start = acpi_table_begin(tables, "HMAT", 2);
    acpi_put(tables, 0, 4);
    for (unsigned node = 0; node < numa->count; node++) {
        put_domain(tables, node, numa->nodes[node]->initiator);
    }
    for (unsigned hierarchy = 0; hierarchy < HIERARCHIES; hierarchy++) {
        for (unsigned type = 0; type < RATE_TYPES; type++) {
            if (has_rates(numa, hierarchy, type)) {
                put_rates(tables, numa, hierarchy, type);
            }
        }
    }
    for (unsigned node = 0; node < numa->count; node++) {
        put_caches(tables, numa->nodes[node], node);
    }
    acpi_table_end(tables, start);
    acpi_table_list(tables, start);
}

void acpi_numa(AcpiTables *tables, Machine *machine, const AcpiPcInfo *info)
{
    const Numa *numa = &machine->config->numa;
    if (numa->count == 0) {
        return;
    }
    build_srat(tables, machine, info->pci_hole_start);
    if (numa->distances) {
        build_slit(tables, numa);
    }
    if (numa->hmat) {
        build_hmat(tables, numa);
    }
}
