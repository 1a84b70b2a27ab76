/* What memory objects have in common, and anonymous memory (memory-backend-ram). */
#include "hostmem/hostmem.h"

#include <string.h>
#include <unistd.h>

static const EnumName policies[] = {
    { "default", RAM_POLICY_DEFAULT }, { "preferred", RAM_POLICY_PREFERRED }, { "bind", RAM_POLICY_BIND },
    { "interleave", RAM_POLICY_INTERLEAVE }, { NULL, 0 },
};

/* "0-2,5": bits of host NUMA nodes. */
static Error *parse_nodes(const char *text, uint64_t *ret_nodes)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    uint64_t nodes = 0;

    for (char **part = parts; *part; part++) {
        char *dash = strchr(*part, '-');
        uint64_t first, last;
        if (dash) {
            *dash = 0;
        }
        TRY(parse_u64(*part, &first));
        last = first;
        if (dash) {
            TRY(parse_u64(dash + 1, &last));
        }
        if (first > last || last > 63) {
            return error_new("host-nodes: '%s' is not a range of nodes from 0 to 63", text);
        }
        nodes |= (~0ull >> (63 - (last - first))) << first;
    }
    *ret_nodes = nodes;
    return NULL;
}

uint64_t host_memory_nodes(const HostMemory *memory)
{
    uint64_t nodes = 0;
    Error *err = memory->host_nodes ? parse_nodes(memory->host_nodes, &nodes) : NULL;
    error_free(err); /* complete() has refused what is wrong */
    return nodes;
}

static Error *describe(HostMemory *memory, RamOptions *options)
{
    const HostMemoryType *type = container_of(memory->object.type, const HostMemoryType, object);

    *options = (RamOptions){ .share = memory->share, .prealloc = memory->prealloc, .merge = memory->merge,
                             .no_dump = !memory->dump, .no_reserve = !memory->reserve, .policy = memory->policy };
    if (memory->host_nodes) {
        TRY(parse_nodes(memory->host_nodes, &options->nodes));
    }
    if ((memory->policy == RAM_POLICY_DEFAULT) != (options->nodes == 0)) {
        return error_new(options->nodes ? "host-nodes must be empty for policy default"
                                        : "host-nodes must name the nodes of the policy");
    }
    return type->describe ? type->describe(memory, options) : NULL;
}

static Error *complete(Object *obj)
{
    HostMemory *memory = (HostMemory *)obj;
    RamOptions options;

    if (!memory->size) {
        return error_new("property 'size' of %s is missing", obj->type->name);
    }
    if (memory->prealloc && !memory->reserve) {
        return error_new("'prealloc=on' and 'reserve=off' are incompatible");
    }
    Error *err = describe(memory, &options); /* says now what would fail later */
    if (!err && options.fd > 0) {
        close(options.fd);
    }
    return err;
}

static bool in_use(const Object *obj)
{
    return ((const HostMemory *)obj)->taken;
}

static const Prop props[] = {
    PROP_SIZE("size", HostMemory, size, 0, .flags = PROP_REQUIRED, .help = "bytes"),
    PROP_BOOL("share", HostMemory, share, false, .help = "other processes may see changes"),
    PROP_BOOL("prealloc", HostMemory, prealloc, false, .help = "all pages are there from the start"),
    PROP_BOOL("reserve", HostMemory, reserve, true, .help = "swap space is reserved where the host does that"),
    PROP_BOOL("merge", HostMemory, merge, true, .help = "the host may merge equal pages (KSM)"),
    PROP_BOOL("dump", HostMemory, dump, true, .help = "in core dumps of the emulator"),
    PROP_STR("host-nodes", HostMemory, host_nodes, .help = "NUMA nodes of the host, such as 0-1,3"),
    PROP_ENUM("policy", HostMemory, policy, policies, RAM_POLICY_DEFAULT, .help = "how the nodes are used"),
    PROP_BOOL("x-use-canonical-path-for-ramblock-id", HostMemory, canonical_name, false,
              .help = "name in the machine's saved state is the object's path"),
    { 0 },
};

const ObjectType host_memory_type = {
    .name = "memory-backend", .size = sizeof(HostMemory), .abstract = true, .props = props, .complete = complete, .in_use = in_use,
};

static const HostMemoryType ram_type = {
    .object = { .name = "memory-backend-ram", .parent = &host_memory_type, .size = sizeof(HostMemory) },
};
OBJECT_REGISTER(&ram_type.object);

Error *host_memory_find(Machine *machine, const char *id, HostMemory **ret_memory)
{
    Object *obj = object_child(object_container_at(machine->root, "/objects"), id);

    if (!obj) {
        return error_hint(error_new("there is no memory object '%s'", id), "-object memory-backend-ram,id=%s,size=... makes one.", id);
    }
    if (!object_is_a(obj->type, &host_memory_type)) {
        return error_new("object '%s' is a %s, not memory", id, obj->type->name);
    }
    *ret_memory = (HostMemory *)obj;
    return NULL;
}

Error *host_memory_take(HostMemory *memory, MemSystem *mem, RamBlock **ret_block)
{
    g_autofree char *path = object_path(&memory->object);
    RamOptions options;

    if (memory->taken) {
        return error_new("memory object '%s' is in use already", memory->object.id);
    }
    TRY(describe(memory, &options));
    Error *err = ram_block_new(mem, memory->canonical_name ? path : memory->object.id, memory->size, &options, ret_block);
    if (err) {
        if (options.fd > 0) {
            close(options.fd);
        }
        return err;
    }
    memory->taken = true;
    return NULL;
}

void host_memory_give_back(HostMemory *memory, RamBlock *block)
{
    ram_block_retire(block);
    memory->taken = false;
}

Error *main_memory_new(Machine *machine, const char *id, uint64_t size, RamBlock **ret_block)
{
    const MachineConfig *config = machine->config;
    HostMemory *memory;

    if (!config->memory_backend) {
        return ram_block_new(machine->mem, id, size, &config->ram_options, ret_block);
    }
    TRY(host_memory_find(machine, config->memory_backend, &memory));
    return host_memory_take(memory, machine->mem, ret_block);
}
