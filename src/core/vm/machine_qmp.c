/* QMP commands about the machine: run state, CPUs, memory, identity. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "accel/accel.h"
#include "core/vm/machine.h"
#include "io/iothread.h"
#include "schema/qmp_commands.h"

Error *qmp_query_status(QmpContext *ctx, const QmpQueryStatusArgs *args, Value **ret)
{
    *ret = value_dict();
    value_put_str(*ret, "status", run_state_name(ctx->machine->state));
    value_put_bool(*ret, "running", machine_running(ctx->machine));
    return NULL;
}

Error *qmp_stop(QmpContext *ctx, const QmpStopArgs *args, Value **ret)
{
    if (ctx->machine->state == RUN_STATE_INMIGRATE) {
        ctx->machine->start_paused = true;
    } else {
        machine_stop(ctx->machine, RUN_STATE_PAUSED);
    }
    return NULL;
}

Error *qmp_cont(QmpContext *ctx, const QmpContArgs *args, Value **ret)
{
    Machine *machine = ctx->machine;

    switch (machine->state) {
    case RUN_STATE_SHUTDOWN:
    case RUN_STATE_INTERNAL_ERROR:
    case RUN_STATE_GUEST_PANICKED:
        return error_hint(error_new("the machine has ended and runs again only after a reset"), "Use system_reset first.");
    case RUN_STATE_SUSPENDED:
        return NULL;
    case RUN_STATE_INMIGRATE: /* starts when it has arrived */
        machine->start_paused = false;
        return NULL;
    case RUN_STATE_FINISH_MIGRATE:
        return error_new("the machine is being moved");
    default:
        machine_start(machine);
        return NULL;
    }
}

Error *qmp_system_reset(QmpContext *ctx, const QmpSystemResetArgs *args, Value **ret)
{
    machine_request_reset(ctx->machine, SHUTDOWN_HOST_QMP_SYSTEM_RESET);
    return NULL;
}

Error *qmp_system_powerdown(QmpContext *ctx, const QmpSystemPowerdownArgs *args, Value **ret)
{
    machine_request_powerdown(ctx->machine);
    return NULL;
}

Error *qmp_system_wakeup(QmpContext *ctx, const QmpSystemWakeupArgs *args, Value **ret)
{
    if (ctx->machine->state != RUN_STATE_SUSPENDED) {
        return error_new("the guest is awake: it is not suspended");
    }
    machine_request_wakeup(ctx->machine, WAKE_OTHER);
    return NULL;
}

Error *qmp_inject_nmi(QmpContext *ctx, const QmpInjectNmiArgs *args, Value **ret)
{
    if (ctx->machine->vcpus->len == 0) {
        return error_new("machine does not support NMIs");
    }
    for (guint n = 0; n < ctx->machine->vcpus->len; n++) {
        vcpu_kick(g_ptr_array_index(ctx->machine->vcpus, n), VCPU_REQ_NMI);
    }
    return NULL;
}

Error *qmp_set_action(QmpContext *ctx, const QmpSetActionArgs *args, Value **ret)
{
    RunActions *actions = &ctx->machine->actions;

    if (args->has_panic) {
        TRY(panic_action_parse(args->panic, &actions->panic));
    }
    if (args->has_watchdog) {
        TRY(watchdog_action_parse(args->watchdog, &actions->watchdog));
    }
    if (args->has_reboot) {
        actions->no_reboot = !strcmp(args->reboot, "shutdown");
    }
    if (args->has_shutdown) {
        actions->no_shutdown = !strcmp(args->shutdown, "pause");
    }
    return NULL;
}

Error *qmp_watchdog_set_action(QmpContext *ctx, const QmpWatchdogSetActionArgs *args, Value **ret)
{
    return watchdog_action_parse(args->action, &ctx->machine->actions.watchdog);
}

Error *qmp_query_name(QmpContext *ctx, const QmpQueryNameArgs *args, Value **ret)
{
    *ret = value_dict();
    if (ctx->machine->config->name) {
        value_put_str(*ret, "name", ctx->machine->config->name);
    }
    return NULL;
}

Error *qmp_query_uuid(QmpContext *ctx, const QmpQueryUuidArgs *args, Value **ret)
{
    char text[37];

    format_uuid(ctx->machine->config->uuid.byte, text);
    *ret = value_dict();
    value_put_str(*ret, "UUID", text);
    return NULL;
}

const char *machine_target(void)
{
    return g_strrstr(g_get_prgname() ? g_get_prgname() : "", "i386") ? "i386" : "x86_64";
}

Error *qmp_query_target(QmpContext *ctx, const QmpQueryTargetArgs *args, Value **ret)
{
    *ret = value_dict();
    value_put_str(*ret, "arch", machine_target());
    return NULL;
}

Error *qmp_query_machines(QmpContext *ctx, const QmpQueryMachinesArgs *args, Value **ret)
{
    *ret = value_list();
    SECTION_FOREACH (machine_types, MachineType, it) {
        const MachineType *type = *it;
        Value *info = value_dict();
        value_put_str(info, "name", type->name);
        if (type->alias) {
            value_put_str(info, "alias", type->alias);
        }
        if (type->is_default) {
            value_put_bool(info, "is-default", true);
        }
        value_put_int(info, "cpu-max", MAX(type->max_cpus, 1));
        value_put_bool(info, "hotpluggable-cpus", type->hotplug_cpus);
        value_put_bool(info, "numa-mem-supported", type->numa_mem);
        value_put_bool(info, "deprecated", type->deprecated != NULL);
        if (type->default_cpu) {
            value_put(info, "default-cpu-type", value_strf("%s-x86_64-cpu", type->default_cpu));
        }
        if (type->ram_id) {
            value_put_str(info, "default-ram-id", type->ram_id);
        }
        value_append(*ret, info);
    }
    return NULL;
}

Error *qmp_query_current_machine(QmpContext *ctx, const QmpQueryCurrentMachineArgs *args, Value **ret)
{
    *ret = value_dict();
    value_put_bool(*ret, "wakeup-suspend-support", ctx->machine->wakeup_support);
    return NULL;
}

Error *qmp_query_kvm(QmpContext *ctx, const QmpQueryKvmArgs *args, Value **ret)
{
    const AccelType *kvm = accel_type_find("kvm");
    Error *err = kvm && kvm->usable ? kvm->usable() : NULL;

    *ret = value_dict();
    value_put_bool(*ret, "enabled", kvm && ctx->machine->accel_type == kvm);
    value_put_bool(*ret, "present", kvm && !err);
    error_free(err);
    return NULL;
}

Error *qmp_query_iothreads(QmpContext *ctx, const QmpQueryIothreadsArgs *args, Value **ret)
{
    *ret = value_list();
    LIST_FOREACH (object, &object_container_at(ctx->machine->root, "/objects")->children, Object, sibling) {
        if (object_is_a(object->type, &iothread_type)) {
            value_append(*ret, iothread_info(container_of(object, IoThread, object)));
        }
    }
    return NULL;
}

/* --- kinds of things that a machine can have and none has yet --- */

Error *qmp_query_tpm(QmpContext *ctx, const QmpQueryTpmArgs *args, Value **ret)
{
    *ret = value_list();
    return NULL;
}

Error *qmp_query_tpm_models(QmpContext *ctx, const QmpQueryTpmModelsArgs *args, Value **ret)
{
    *ret = value_list();
    return NULL;
}

Error *qmp_query_tpm_types(QmpContext *ctx, const QmpQueryTpmTypesArgs *args, Value **ret)
{
    *ret = value_list();
    return NULL;
}

Error *qmp_query_pr_managers(QmpContext *ctx, const QmpQueryPrManagersArgs *args, Value **ret)
{
    *ret = value_list();
    return NULL;
}

Error *qmp_query_vm_generation_id(QmpContext *ctx, const QmpQueryVmGenerationIdArgs *args, Value **ret)
{
    return error_new("this machine has no vmgenid device");
}

Error *qmp_dumpdtb(QmpContext *ctx, const QmpDumpdtbArgs *args, Value **ret)
{
    return error_new("this machine describes itself by ACPI tables: it has no device tree to write");
}

/* --- memory to files --- */

typedef struct Dump {
    Machine *machine;
    Vcpu *vcpu; /* NULL: addresses are physical */
    uint64_t addr, size;
    const char *path;
} Dump;

/* A page at most; addresses without memory read as ones, as the guest would see them. */
static MUST_USE Error *dump_piece(const Dump *dump, uint64_t addr, uint8_t *buf, uint64_t length)
{
    uint64_t pa = addr;

    if (dump->vcpu && !dump->vcpu->ops->translate(dump->vcpu, addr, &pa)) {
        return error_new("Invalid addr 0x%016" G_GINT64_MODIFIER "x/size %" G_GINT64_FORMAT " specified",
                         (guint64)dump->addr, (gint64)dump->size);
    }
    mem_read(dump->vcpu ? dump->vcpu->as : dump->machine->as, pa, buf, length);
    return NULL;
}

static MUST_USE Error *dump_memory(const Dump *dump)
{
    uint8_t buf[4096];
    Error *err = NULL;
    FILE *file = fopen(dump->path, "wbe");

    if (!file) {
        return error_new_errno(errno, "Could not open '%s'", dump->path);
    }
    for (uint64_t done = 0; done < dump->size && !err;) {
        uint64_t addr = dump->addr + done;
        uint64_t length = MIN(dump->size - done, MEM_PAGE_SIZE - (addr & (MEM_PAGE_SIZE - 1)));
        err = dump_piece(dump, addr, buf, length);
        if (!err && fwrite(buf, 1, length, file) != length) {
            err = error_new_errno(errno, "writing memory to '%s' failed", dump->path);
        }
        done += length;
    }
    if (fclose(file) != 0 && !err) {
        err = error_new_errno(errno, "writing memory to '%s' failed", dump->path);
    }
    return err;
}

Error *qmp_pmemsave(QmpContext *ctx, const QmpPmemsaveArgs *args, Value **ret)
{
    return dump_memory(&(Dump) { .machine = ctx->machine, .addr = (uint64_t)args->val, .size = (uint64_t)args->size,
                                 .path = args->filename });
}

Error *qmp_memsave(QmpContext *ctx, const QmpMemsaveArgs *args, Value **ret)
{
    GPtrArray *vcpus = ctx->machine->vcpus;
    int64_t index = args->has_cpu_index ? args->cpu_index : 0;

    if (index < 0 || (uint64_t)index >= vcpus->len) {
        return error_new("Parameter 'cpu-index' expects a CPU number");
    }
    Dump dump = { .machine = ctx->machine, .vcpu = g_ptr_array_index(vcpus, index), .addr = (uint64_t)args->val,
                  .size = (uint64_t)args->size, .path = args->filename };
    if (!dump.vcpu->ops || !dump.vcpu->ops->translate) {
        return error_new("this CPU cannot translate addresses");
    }
    /* The CPU's tables must not change while they are walked. */
    machine_pause_vcpus(ctx->machine);
    Error *err = dump_memory(&dump);
    machine_resume_vcpus(ctx->machine);
    return err;
}

/* The only provider that QMP knows is KVM, which is not here. */
Error *qmp_query_stats(QmpContext *ctx, const QmpQueryStatsArgs *args, Value **ret)
{
    *ret = value_list();
    return NULL;
}

Error *qmp_query_stats_schemas(QmpContext *ctx, const QmpQueryStatsSchemasArgs *args, Value **ret)
{
    *ret = value_list();
    return NULL;
}
