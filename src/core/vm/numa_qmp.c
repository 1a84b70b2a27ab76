/* QMP commands of a machine that is not made yet (-preconfig). */
#include "core/vm/machine.h"
#include "schema/qmp_commands.h"
#include "value/keyvalues.h"

Error *qmp_set_numa_node(QmpContext *ctx, const QmpSetNumaNodeArgs *args, Value **ret)
{
    Machine *machine = ctx->machine;
    g_autoptr(KeyValues) kv = NULL;

    if (!machine->preconfig) {
        return error_hint(error_new("NUMA nodes are set before the machine is made"), "Start the program with -preconfig.");
    }
    TRY(keyvalues_from_value(args->all, &kv));
    if (keyvalues_has(kv, "mem")) { /* bytes here */
        g_autofree char *bytes = g_strconcat(keyvalues_get(kv, "mem"), "b", NULL);
        keyvalues_set(kv, "mem", bytes);
    }
    return numa_configure(machine->config, kv, machine->type->numa_mem);
}

Error *qmp_x_exit_preconfig(QmpContext *ctx, const QmpXExitPreconfigArgs *args, Value **ret)
{
    if (!ctx->machine->preconfig) {
        return error_new("the machine has been made already, or it is not started with -preconfig");
    }
    ctx->machine->preconfig = false;
    loop_quit(ctx->machine->loop);
    return NULL;
}
