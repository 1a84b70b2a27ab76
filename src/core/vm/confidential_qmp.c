/* QMP about guests whose memory the host cannot read (AMD SEV, Intel SGX): it takes KVM and such a processor, so none is here. */
#include "core/vm/machine.h"
#include "schema/qmp_commands.h"

Error *qmp_query_sev(QmpContext *ctx, const QmpQuerySevArgs *args, Value **ret)
{
    static const char *const numbers[] = { "api-major", "api-minor", "build-id", "policy", "handle" };

    *ret = value_dict();
    value_put_bool(*ret, "enabled", false);
    for (size_t n = 0; n < ARRAY_SIZE(numbers); n++) {
        value_put_int(*ret, numbers[n], 0);
    }
    value_put_str(*ret, "state", "uninit");
    return NULL;
}

static Error *no_sev(void)
{
    return error_new("the guest's memory is not encrypted (SEV): that needs KVM on a processor that has it");
}

Error *qmp_query_sev_launch_measure(QmpContext *ctx, const QmpQuerySevLaunchMeasureArgs *args, Value **ret)
{
    return no_sev();
}

Error *qmp_query_sev_capabilities(QmpContext *ctx, const QmpQuerySevCapabilitiesArgs *args, Value **ret)
{
    return no_sev();
}

Error *qmp_sev_inject_launch_secret(QmpContext *ctx, const QmpSevInjectLaunchSecretArgs *args, Value **ret)
{
    return no_sev();
}

Error *qmp_query_sev_attestation_report(QmpContext *ctx, const QmpQuerySevAttestationReportArgs *args, Value **ret)
{
    return no_sev();
}

static Error *no_sgx(void)
{
    return error_new("the machine has no memory for enclaves (SGX): that needs KVM on a processor that has it");
}

Error *qmp_query_sgx(QmpContext *ctx, const QmpQuerySgxArgs *args, Value **ret)
{
    return no_sgx();
}

Error *qmp_query_sgx_capabilities(QmpContext *ctx, const QmpQuerySgxCapabilitiesArgs *args, Value **ret)
{
    return no_sgx();
}
