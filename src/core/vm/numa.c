/*
 * NUMA nodes of the guest; see numa.h. What the options mean is in the manual of QEMU ("-numa"): places of CPUs that no
 * option names go to the node of their socket's number; distances that only one direction has hold for both.
 */
#include "core/vm/numa.h"

#include <string.h>

#include "core/vm/machine.h"
#include "value/keyvalues.h"

void numa_init(Numa *numa)
{
    for (unsigned index = 0; index < NUMA_CPUS; index++) {
        numa->cpu_node[index] = -1;
    }
    numa->rates = g_array_new(FALSE, TRUE, sizeof(NumaRate));
}

void numa_fini(Numa *numa)
{
    for (unsigned n = 0; n < NUMA_NODES; n++) {
        if (numa->nodes[n]) {
            g_free(numa->nodes[n]->memdev);
            g_free(numa->nodes[n]);
        }
    }
    g_array_unref(numa->rates);
}

/* --- reading options --- */

static MUST_USE Error *read_number(KeyValues *kv, const char *key, uint64_t max, bool required, uint64_t *ret)
{
    if (!keyvalues_has(kv, key)) {
        return required ? error_new("%s is missing", key) : NULL;
    }
    TRY(keyvalues_get_u64(kv, key, 0, ret));
    return *ret > max ? error_new("%s=%" G_GUINT64_FORMAT " is too large: at most %" G_GUINT64_FORMAT, key, *ret, max) : NULL;
}

static MUST_USE Error *read_node(const MachineConfig *config, KeyValues *kv, const char *key, unsigned *ret_node)
{
    uint64_t node = 0;
    TRY(read_number(kv, key, NUMA_NODES - 1, true, &node));
    if (!config->numa.nodes[node]) {
        return error_new("%s=%u: there is no such node; -numa node,nodeid=%u makes it, before it is named", key, (unsigned)node,
                         (unsigned)node);
    }
    *ret_node = (unsigned)node;
    return NULL;
}

static MUST_USE Error *read_word(KeyValues *kv, const char *key, const EnumName *names, bool required, unsigned *ret)
{
    const char *word = keyvalues_get(kv, key);
    g_autoptr(GString) known = g_string_new(NULL);
    if (!word) {
        return required ? error_new("%s is missing", key) : NULL;
    }
    for (; names->name; names++) {
        if (!strcmp(names->name, word)) {
            *ret = (unsigned)names->value;
            return NULL;
        }
        g_string_append_printf(known, "%s%s", known->len ? ", " : "", names->name);
    }
    return error_new("%s=%s: known are %s", key, word, known->str);
}

static MUST_USE Error *put_cpu(MachineConfig *config, unsigned index, unsigned node)
{
    if (index >= config->max_cpus || index >= NUMA_CPUS) {
        return error_new("CPU %u: this machine has places for %u", index, config->max_cpus);
    }
    if (config->numa.cpu_node[index] >= 0 && config->numa.cpu_node[index] != (int)node) {
        return error_new("CPU %u is in node %d already", index, config->numa.cpu_node[index]);
    }
    config->numa.cpu_node[index] = (int16_t)node;
    config->numa.nodes[node]->has_cpu = true;
    return NULL;
}

/* "3" or "0-2" */
static MUST_USE Error *put_cpus(MachineConfig *config, const char *text, unsigned node)
{
    g_auto(GStrv) ends = g_strsplit(text, "-", 2);
    uint64_t first, last;
    TRY(parse_u64(ends[0] ? ends[0] : "", &first));
    last = first;
    if (ends[0] && ends[1]) {
        TRY(parse_u64(ends[1], &last));
    }
    if (last < first || last >= NUMA_CPUS) {
        return error_new("cpus=%s is not a range of CPUs", text);
    }
    for (uint64_t index = first; index <= last; index++) {
        TRY(put_cpu(config, (unsigned)index, node));
    }
    return NULL;
}

/* mem= counts MiB unless it says otherwise; in QMP it is bytes. */
static MUST_USE Error *read_memory(NumaNode *node, KeyValues *kv, bool mem_option)
{
    const char *mem = keyvalues_get(kv, "mem"), *memdev = keyvalues_get(kv, "memdev");

    if (mem && memdev) {
        return error_new("mem and memdev exclude each other");
    }
    if (mem && !mem_option) {
        return error_hint(error_new("mem=%s: machines of versions from 5.1 on take the memory of a node from an object", mem),
                          "Give -object memory-backend-ram,id=m0,size=%s and -numa node,memdev=m0.", mem);
    }
    node->memdev = g_strdup(memdev);
    return mem ? parse_size(mem, MiB, &node->size) : NULL;
}

static MUST_USE Error *configure_node(MachineConfig *config, KeyValues *kv, bool mem_option)
{
    Numa *numa = &config->numa;
    uint64_t id = numa->count, initiator = UINT64_MAX;

    TRY(read_number(kv, "nodeid", NUMA_NODES - 1, false, &id));
    TRY(read_number(kv, "initiator", NUMA_NODES - 1, false, &initiator));
    if (id >= NUMA_NODES) {
        return error_new("nodeid is too large: there are at most %d nodes", NUMA_NODES);
    }
    if (numa->nodes[id]) {
        return error_new("node %u exists already", (unsigned)id);
    }
    if (initiator != UINT64_MAX && !numa->hmat) {
        return error_new("initiator needs -machine hmat=on");
    }
    NumaNode *node = numa->nodes[id] = g_new0(NumaNode, 1);
    node->present = true;
    node->initiator = initiator == UINT64_MAX ? -1 : (int)initiator;
    numa->count = MAX(numa->count, (unsigned)id + 1);
    TRY(read_memory(node, kv, mem_option));
    for (guint n = 0; n < kv->items->len; n++) {
        const KeyValue *item = g_ptr_array_index(kv->items, n);
        if (!strcmp(item->key, "cpus") || g_str_has_prefix(item->key, "cpus.")) {
            TRY(put_cpus(config, item->value, (unsigned)id));
        }
    }
    return NULL;
}

static MUST_USE Error *configure_cpu(MachineConfig *config, KeyValues *kv)
{
    static const char *const keys[] = { "socket-id", "die-id", "core-id", "thread-id" };
    const unsigned counts[] = { config->sockets, config->dies, config->cores, config->threads };
    uint64_t wanted[4] = { UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX };
    unsigned node, found = 0;

    TRY(read_node(config, kv, "node-id", &node));
    for (unsigned n = 0; n < 4; n++) {
        TRY(read_number(kv, keys[n], MAX(counts[n], 1u) - 1, false, &wanted[n]));
    }
    for (unsigned index = 0; index < config->max_cpus; index++) {
        unsigned at = index;
        bool fits = true;
        for (int n = 3; n >= 0; n--) {
            fits = fits && (wanted[n] == UINT64_MAX || wanted[n] == at % MAX(counts[n], 1u));
            at /= MAX(counts[n], 1u);
        }
        if (fits) {
            TRY(put_cpu(config, index, node));
            found++;
        }
    }
    return found ? NULL : error_new("no place of a CPU has these properties; query-hotpluggable-cpus lists them");
}

static MUST_USE Error *configure_distance(MachineConfig *config, KeyValues *kv)
{
    unsigned from, to;
    uint64_t value = 0;
    TRY(read_node(config, kv, "src", &from));
    TRY(read_node(config, kv, "dst", &to));
    TRY(read_number(kv, "val", NUMA_UNREACHABLE, true, &value));
    if (value < NUMA_DISTANCE_LOCAL || (from == to && value != NUMA_DISTANCE_LOCAL)) {
        return error_new("val=%u: the distance of a node to itself is %d, and others are larger", (unsigned)value, NUMA_DISTANCE_LOCAL);
    }
    config->numa.nodes[from]->distance[to] = (uint8_t)value;
    config->numa.distances = true;
    return NULL;
}

/* --- HMAT --- */

static const EnumName hierarchies[] = { { "memory", 0 }, { "first-level", 1 }, { "second-level", 2 }, { "third-level", 3 }, { NULL, 0 } };
static const EnumName rate_types[] = {
    { "access-latency", 0 }, { "read-latency", 1 }, { "write-latency", 2 },
    { "access-bandwidth", 3 }, { "read-bandwidth", 4 }, { "write-bandwidth", 5 }, { NULL, 0 },
};
enum { FIRST_BANDWIDTH = 3 };
static const EnumName associativities[] = { { "none", 0 }, { "direct", 1 }, { "complex", 2 }, { NULL, 0 } };
static const EnumName policies[] = { { "none", 0 }, { "write-back", 1 }, { "write-through", 2 }, { NULL, 0 } };


uint64_t numa_rate_unit(const Numa *numa, unsigned hierarchy, unsigned type)
{
    uint64_t unit = 0;
    for (guint n = 0; n < numa->rates->len; n++) {
        const NumaRate *rate = &g_array_index(numa->rates, NumaRate, n);
        uint64_t value = rate->hierarchy == hierarchy && rate->type == type ? rate->value : 0;
        while (value) { /* the greatest common divisor */
            uint64_t rest = unit % value;
            unit = value;
            value = rest;
        }
    }
    /* Bandwidths count a power of two MiB. */
    return MAX(type >= FIRST_BANDWIDTH ? unit & -unit : unit, 1);
}

static MUST_USE Error *add_rate(Numa *numa, const NumaRate *rate)
{
    for (guint n = 0; n < numa->rates->len; n++) {
        const NumaRate *other = &g_array_index(numa->rates, NumaRate, n);
        if (other->hierarchy == rate->hierarchy && other->type == rate->type && other->initiator == rate->initiator &&
            other->target == rate->target) {
            return error_new("this figure from node %u to node %u was given before", rate->initiator, rate->target);
        }
    }
    g_array_append_val(numa->rates, *rate);
    uint64_t unit = numa_rate_unit(numa, rate->hierarchy, rate->type), most = 0;
    for (guint n = 0; n < numa->rates->len; n++) {
        const NumaRate *each = &g_array_index(numa->rates, NumaRate, n);
        if (each->hierarchy == rate->hierarchy && each->type == rate->type) {
            most = MAX(most, each->value);
        }
    }
    if (most / unit >= UINT16_MAX) {
        g_array_set_size(numa->rates, numa->rates->len - 1);
        return error_new("the figures of this kind lie too far apart: they are written as 16-bit multiples of one unit");
    }
    return NULL;
}

static MUST_USE Error *configure_rate(MachineConfig *config, KeyValues *kv)
{
    unsigned initiator, target;
    NumaRate rate = { 0 };

    if (!config->numa.hmat) {
        return error_new("hmat-lb needs -machine hmat=on");
    }
    TRY(read_node(config, kv, "initiator", &initiator));
    TRY(read_node(config, kv, "target", &target));
    TRY(read_word(kv, "hierarchy", hierarchies, true, &rate.hierarchy));
    TRY(read_word(kv, "data-type", rate_types, true, &rate.type));
    bool bandwidth = rate.type >= FIRST_BANDWIDTH;
    const char *wanted = bandwidth ? "bandwidth" : "latency", *other = bandwidth ? "latency" : "bandwidth";
    const char *figure = keyvalues_get(kv, wanted);
    if (!figure || keyvalues_has(kv, other)) {
        return error_new("data-type=%s takes a %s and nothing else", keyvalues_get(kv, "data-type"), wanted);
    }
    if (!config->numa.nodes[initiator]->has_cpu) {
        return error_new("initiator=%u: a node without CPUs accesses no memory", initiator);
    }
    rate.initiator = (uint16_t)initiator;
    rate.target = (uint16_t)target;
    if (bandwidth) {
        TRY(parse_size(figure, 1, &rate.value));
        if (rate.value % MiB) {
            return error_new("bandwidth=%s: the figure counts MiB a second", figure);
        }
        rate.value /= MiB;
    } else {
        TRY(parse_u64(figure, &rate.value));
    }
    return add_rate(&config->numa, &rate);
}

/* Figures of a node's own memory, of either kind; 0 says that it is not known. */
static bool has_figures(const Numa *numa, unsigned node, bool bandwidth)
{
    for (guint n = 0; n < numa->rates->len; n++) {
        const NumaRate *rate = &g_array_index(numa->rates, NumaRate, n);
        if (rate->value && rate->hierarchy == 0 && rate->target == node && (rate->type >= FIRST_BANDWIDTH) == bandwidth) {
            return true;
        }
    }
    return false;
}

static MUST_USE Error *configure_cache(MachineConfig *config, KeyValues *kv)
{
    unsigned node;
    uint64_t level = 0, line = 0;
    NumaCache cache = { .set = true };

    if (!config->numa.hmat) {
        return error_new("hmat-cache needs -machine hmat=on");
    }
    TRY(read_node(config, kv, "node-id", &node));
    if (!has_figures(&config->numa, node, false) || !has_figures(&config->numa, node, true)) {
        return error_new("node-id=%u: hmat-lb gives the latency and bandwidth of its memory before its caches are told of", node);
    }
    TRY(read_number(kv, "level", NUMA_CACHE_LEVELS, true, &level));
    TRY(read_number(kv, "line", UINT16_MAX, false, &line));
    const char *size = keyvalues_get(kv, "size");
    TRY(size ? parse_size(size, 1, &cache.size) : NULL);
    TRY(read_word(kv, "associativity", associativities, false, &cache.associativity));
    TRY(read_word(kv, "policy", policies, false, &cache.policy));
    if (level == 0 || cache.size == 0) {
        return error_new("a cache has a level from 1 to %d and a size", NUMA_CACHE_LEVELS);
    }
    NumaCache *caches = config->numa.nodes[node]->cache;
    if (caches[level - 1].set) {
        return error_new("node %u has a cache of level %u already", node, (unsigned)level);
    }
    if (level > 1 && !caches[level - 2].set) {
        return error_new("node %u: its cache of level %u comes first", node, (unsigned)level - 1);
    }
    if (level > 1 && caches[level - 2].size >= cache.size) {
        return error_new("node %u: a cache of level %u is larger than that of level %u", node, (unsigned)level, (unsigned)level - 1);
    }
    cache.level = (unsigned)level;
    cache.line = (uint16_t)line;
    caches[level - 1] = cache;
    return NULL;
}

static const struct {
    const char *type;
    Error *(*configure)(MachineConfig *config, KeyValues *kv);
    const char *keys[10];
} kinds[] = {
    { "node", NULL, { "type", "nodeid", "cpus", "mem", "memdev", "initiator" } },
    { "cpu", configure_cpu, { "type", "node-id", "socket-id", "die-id", "core-id", "thread-id" } },
    { "dist", configure_distance, { "type", "src", "dst", "val" } },
    { "hmat-lb", configure_rate, { "type", "initiator", "target", "hierarchy", "data-type", "latency", "bandwidth" } },
    { "hmat-cache", configure_cache, { "type", "node-id", "size", "level", "associativity", "policy", "line" } },
};

static MUST_USE Error *check_keys(const KeyValues *kv, const char *const *known, const char *type)
{
    for (guint n = 0; n < kv->items->len; n++) {
        const KeyValue *item = g_ptr_array_index(kv->items, n);
        if (!g_strv_contains(known, item->key) && !(!strcmp(type, "node") && g_str_has_prefix(item->key, "cpus."))) {
            return error_new("'%s' has no parameter '%s'", type, item->key);
        }
    }
    return NULL;
}

Error *numa_configure(MachineConfig *config, const KeyValues *options, bool mem_option)
{
    g_autoptr(KeyValues) kv = keyvalues_copy(options);
    const char *type = keyvalues_get(kv, "type");

    for (size_t n = 0; type && n < ARRAY_SIZE(kinds); n++) {
        if (!strcmp(kinds[n].type, type)) {
            TRY(check_keys(kv, kinds[n].keys, type));
            return kinds[n].configure ? kinds[n].configure(config, kv) : configure_node(config, kv, mem_option);
        }
    }
    return error_new("the first word tells what is configured: node, cpu, dist, hmat-lb or hmat-cache%s%s", type ? ", not " : "",
                     type ? type : "");
}

/* --- at the end --- */

static MUST_USE Error *check_nodes(const Numa *numa)
{
    for (unsigned n = 0; n < numa->count; n++) {
        if (!numa->nodes[n]) {
            return error_new("-numa: node %u is missing: nodes are numbered without holes", n);
        }
    }
    return NULL;
}

static MUST_USE Error *complete_memory(MachineConfig *config, Error *(*size_of)(void *, const char *, uint64_t *), void *opaque)
{
    Numa *numa = &config->numa;
    uint64_t total = 0;
    unsigned objects = 0, sizes = 0;

    for (unsigned n = 0; n < numa->count; n++) {
        NumaNode *node = numa->nodes[n];
        if (node->memdev) {
            TRY(size_of(opaque, node->memdev, &node->size));
            objects++;
        } else {
            sizes += node->size != 0;
        }
        total += node->size;
    }
    if (objects && sizes) {
        return error_new("-numa: if one node has memdev, none can have mem");
    }
    if (objects && config->memory_backend) {
        return error_new("-numa node,memdev= and -machine memory-backend= exclude each other: both are the main memory");
    }
    if (total != config->ram_size) {
        return error_hint(error_new("-numa: the nodes have %" G_GUINT64_FORMAT " MiB of memory together, the machine has %"
                                    G_GUINT64_FORMAT " MiB", total / MiB, config->ram_size / MiB),
                          "Give each node its memdev, an object memory-backend-ram with a size.");
    }
    return NULL;
}

static void complete_cpus(MachineConfig *config)
{
    Numa *numa = &config->numa;
    unsigned a_socket = MAX(config->dies, 1u) * MAX(config->cores, 1u) * MAX(config->threads, 1u);
    unsigned named = 0, places = MIN(config->max_cpus, (unsigned)NUMA_CPUS), missing = 0;

    for (unsigned index = 0; index < places; index++) {
        named += numa->cpu_node[index] >= 0;
    }
    for (unsigned index = 0; index < places; index++) {
        if (numa->cpu_node[index] < 0) {
            unsigned node = index / a_socket % numa->count;
            numa->cpu_node[index] = (int16_t)node;
            numa->nodes[node]->has_cpu = true;
            missing = index;
        }
    }
    if (named && named < places) {
        warn_report("-numa: %u of %u places of CPUs are in no node, such as CPU %u; they go to the node of their socket", places - named,
                    places, missing);
    }
}

static MUST_USE Error *complete_distances(Numa *numa)
{
    bool one_way = false;

    for (unsigned from = 0; numa->distances && from < numa->count; from++) {
        for (unsigned to = 0; to < numa->count; to++) {
            uint8_t there = numa->nodes[from]->distance[to], back = numa->nodes[to]->distance[from];
            one_way |= there && back && there != back;
            if (from != to && !there && !back) {
                return error_new("-numa dist: the distance between the nodes %u and %u is missing; all pairs need one", from, to);
            }
        }
    }
    for (unsigned from = 0; numa->distances && from < numa->count; from++) {
        for (unsigned to = 0; to < numa->count; to++) {
            uint8_t *there = &numa->nodes[from]->distance[to];
            if (!*there && from != to && one_way) {
                return error_new("-numa dist: a pair differs by direction, so all need both directions; from %u to %u is missing",
                                 from, to);
            }
            *there = from == to ? NUMA_DISTANCE_LOCAL : *there ? *there : numa->nodes[to]->distance[from];
        }
    }
    return NULL;
}

static MUST_USE Error *complete_initiators(Numa *numa)
{
    for (unsigned n = 0; numa->hmat && n < numa->count; n++) {
        NumaNode *node = numa->nodes[n];
        if (node->has_cpu && node->initiator >= 0 && node->initiator != (int)n) {
            return error_new("-numa: node %u has CPUs, so it is its own initiator, not %d", n, node->initiator);
        }
        if (node->has_cpu) {
            node->initiator = (int)n;
        }
        if (node->initiator < 0) {
            return error_new("-numa: node %u has no CPUs and needs an initiator", n);
        }
        if ((unsigned)node->initiator >= numa->count || !numa->nodes[node->initiator]->has_cpu) {
            return error_new("-numa: node %u: initiator=%d is no node with CPUs", n, node->initiator);
        }
    }
    return NULL;
}

Error *numa_complete(MachineConfig *config, Error *(*size_of)(void *opaque, const char *memdev, uint64_t *ret_size), void *opaque)
{
    Numa *numa = &config->numa;

    if (numa->count == 0 && config->ram_slots) { /* memory that comes is told of by node */
        numa->nodes[0] = g_new0(NumaNode, 1);
        numa->nodes[0]->present = true;
        numa->nodes[0]->initiator = -1;
        numa->nodes[0]->size = config->ram_size;
        numa->count = 1;
    }
    if (numa->count == 0) {
        return numa->hmat ? error_new("-machine hmat=on needs NUMA nodes (-numa node)") : NULL;
    }
    TRY(check_nodes(numa));
    TRY(complete_memory(config, size_of, opaque));
    complete_cpus(config);
    TRY(complete_distances(numa));
    return complete_initiators(numa);
}

int numa_node_of_cpu(const MachineConfig *config, unsigned index)
{
    return config->numa.count && index < NUMA_CPUS ? config->numa.cpu_node[index] : -1;
}
