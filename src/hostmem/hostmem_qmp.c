/* QMP: the memory that there is. */
#include "hostmem/hostmem.h"
#include "schema/qmp_commands.h"

static Value *nodes_value(uint64_t nodes)
{
    Value *list = value_list();
    for (unsigned node = 0; node < 64; node++) {
        if (nodes >> node & 1) {
            value_append(list, value_int(node));
        }
    }
    return list;
}

static Value *memdev_value(const char *id, uint64_t size, const RamOptions *options)
{
    static const char *const policies[] = {
        [RAM_POLICY_DEFAULT] = "default", [RAM_POLICY_PREFERRED] = "preferred", [RAM_POLICY_BIND] = "bind",
        [RAM_POLICY_INTERLEAVE] = "interleave",
    };
    Value *info = value_dict();
    value_put_str(info, "id", id);
    value_put(info, "size", value_uint(size));
    value_put_bool(info, "merge", options->merge);
    value_put_bool(info, "dump", !options->no_dump);
    value_put_bool(info, "prealloc", options->prealloc);
    value_put_bool(info, "share", options->share);
    value_put_bool(info, "reserve", !options->no_reserve);
    value_put(info, "host-nodes", nodes_value(options->nodes));
    value_put_str(info, "policy", policies[options->policy]);
    return info;
}

/* Memory that the board made without an object is listed under the board's name for it. */
Error *qmp_query_memdev(QmpContext *ctx, const QmpQueryMemdevArgs *args, Value **ret)
{
    const MachineConfig *config = ctx->machine->config;
    const Object *objects = object_container_at(ctx->machine->root, "/objects");

    *ret = value_list();
    LIST_FOREACH (object, &objects->children, Object, sibling) {
        if (object_is_a(object->type, &host_memory_type)) {
            const HostMemory *memory = (const HostMemory *)object;
            RamOptions options = { .share = memory->share, .prealloc = memory->prealloc, .merge = memory->merge,
                                   .no_dump = !memory->dump, .no_reserve = !memory->reserve, .policy = memory->policy,
                                   .nodes = host_memory_nodes(memory) };
            value_append(*ret, memdev_value(object->id, memory->size, &options));
        }
    }
    if (ctx->machine->type->ram_id && !config->memory_backend) {
        value_append(*ret, memdev_value(ctx->machine->type->ram_id, config->ram_size, &config->ram_options));
    }
    return NULL;
}
