/* QMP commands about the CPUs that there are, and the places for more. */
#include <string.h>

#include "core/vm/machine.h"
#include "schema/qmp_commands.h"

static Value *topology_value(const MachineConfig *config, unsigned index)
{
    Value *props = value_dict();
    unsigned threads = MAX(config->threads, 1), cores = MAX(config->cores, 1), dies = MAX(config->dies, 1);

    if (numa_node_of_cpu(config, index) >= 0) {
        value_put_int(props, "node-id", numa_node_of_cpu(config, index));
    }
    value_put_int(props, "thread-id", index % threads);
    value_put_int(props, "core-id", index / threads % cores);
    if (dies > 1) {
        value_put_int(props, "die-id", index / threads / cores % dies);
    }
    value_put_int(props, "socket-id", index / threads / cores / dies);
    return props;
}

/* The CPUs there are, and the places up to maxcpus that are free, the last place first. */
Error *qmp_query_hotpluggable_cpus(QmpContext *ctx, const QmpQueryHotpluggableCpusArgs *args, Value **ret)
{
    const Machine *machine = ctx->machine;
    const char *model = machine->config->cpu_model ? machine->config->cpu_model : machine->type->default_cpu;

    if (!model) {
        return error_new("the machine '%s' has no CPUs", machine->type->name);
    }
    *ret = value_list();
    for (unsigned index = machine->config->max_cpus; index-- > 0;) {
        const Vcpu *vcpu = vcpu_at(machine, index);
        Value *info = value_dict();
        value_put(info, "props", topology_value(machine->config, index));
        value_put_int(info, "vcpus-count", 1);
        if (vcpu) {
            value_put(info, "qom-path", value_take_str(object_path(&vcpu->dev.object)));
        }
        value_put(info, "type", value_strf("%.*s-x86_64-cpu", (int)strcspn(model, ","), model));
        value_append(*ret, info);
    }
    return NULL;
}

Error *qmp_query_cpus_fast(QmpContext *ctx, const QmpQueryCpusFastArgs *args, Value **ret)
{
    *ret = value_list();
    for (guint n = 0; n < ctx->machine->vcpus->len; n++) {
        const Vcpu *vcpu = g_ptr_array_index(ctx->machine->vcpus, n);
        g_autofree char *path = object_path(&vcpu->dev.object);
        Value *info = value_dict();
        value_put_int(info, "cpu-index", vcpu->index);
        value_put_str(info, "qom-path", path);
        value_put_int(info, "thread-id", vcpu->thread_id);
        value_put(info, "props", topology_value(ctx->machine->config, vcpu->index));
        value_put_str(info, "target", machine_target());
        value_append(*ret, info);
    }
    return NULL;
}
