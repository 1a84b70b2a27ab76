/* HMP for who debugs guests or this program: machine checks, waits for locks. */
#include <inttypes.h>
#include <string.h>

#include "base/lock.h"
#include "cpu/x86/mce.h"
#include "monitor/hmp_priv.h"

/* --- machine checks --- */

static void hmp_mce(Hmp *hmp, const HmpArgs *args)
{
    const uint64_t *n = args->number;
    X86MachineCheck mce = { .bank = n[1], .status = n[2], .mcg_status = n[3], .addr = n[4], .misc = n[5] };
    Vcpu *chosen = n[0] <= UINT32_MAX ? vcpu_at(hmp->machine, (unsigned)n[0]) : NULL;

    if (!chosen) {
        hmp_printf(hmp, "invalid CPU index\n");
        return;
    }
    Error *err = x86_mce_check(chosen, &mce);
    if (err) {
        hmp_error(hmp, err);
        return;
    }
    /* To the others it says that somebody has one: no address, and their program may go on. */
    const X86MachineCheck seen = { .bank = 1, .status = UINT64_C(0xa000000000000000), .mcg_status = 1 };
    machine_pause_vcpus(hmp->machine);
    x86_mce_inject(chosen, &mce);
    for (guint i = 0; args->flag['b'] && i < hmp->machine->vcpus->len; i++) {
        Vcpu *vcpu = g_ptr_array_index(hmp->machine->vcpus, i);
        if (vcpu != chosen) {
            x86_mce_inject(vcpu, &seen);
        }
    }
    machine_resume_vcpus(hmp->machine);
}

/* --- locks --- */

static void hmp_sync_profile(Hmp *hmp, const HmpArgs *args)
{
    const char *what = args->text[0];

    if (!what) {
        hmp_printf(hmp, "sync-profile is %s\n", lock_profile_is_on() ? "on" : "off");
    } else if (!strcmp(what, "on") || !strcmp(what, "off")) {
        lock_profile_set(!strcmp(what, "on"));
    } else if (!strcmp(what, "reset")) {
        lock_profile_reset();
    } else {
        hmp_error(hmp, error_new("sync-profile %s: on, off or reset is expected", what));
    }
}

static int by_total(gconstpointer a, gconstpointer b)
{
    const LockProfile *x = a, *y = b;
    return x->wait_ns < y->wait_ns ? 1 : x->wait_ns > y->wait_ns ? -1 : 0;
}

static double mean(const LockProfile *row)
{
    return row->waits ? (double)row->wait_ns / (double)row->waits : 0;
}

static int by_mean(gconstpointer a, gconstpointer b)
{
    double x = mean(a), y = mean(b);
    return x < y ? 1 : x > y ? -1 : 0;
}

static void info_sync_profile(Hmp *hmp, const HmpArgs *args)
{
    enum { ROWS = 10 };
    LockProfile rows[LOCK_PROFILE_MAX];
    size_t count = lock_profile_read(rows), shown = args->text[0] ? MIN(count, args->number[0]) : MIN(count, (size_t)ROWS);

    qsort(rows, count, sizeof(rows[0]), args->flag['m'] ? by_mean : by_total);
    hmp_printf(hmp, "%-24s %14s %12s %14s\n", "Lock", "Wait Time (s)", "Count", "Average (us)");
    for (size_t n = 0; n < shown; n++) {
        hmp_printf(hmp, "%-24s %14.6f %12" PRIu64 " %14.2f\n", rows[n].name, (double)rows[n].wait_ns / 1e9, rows[n].waits,
                   mean(&rows[n]) / 1e3);
    }
}

const HmpCommand hmp_commands_debug[] = {
    { "mce", "-beeeeee", "[-b] cpu bank status mcgstatus addr misc", "machine check on a CPU (-b: the others are told that there is one)",
      hmp_mce },
    { "sync-profile", "?s", "[on|off|reset]", "count how long threads wait for locks; without an argument, whether it does", hmp_sync_profile },
    { 0 },
};

const HmpCommand hmp_info_debug[] = {
    { "sync-profile", "-m-n?e", "[-m] [-n] [max]", "how long threads waited for locks, the longest first (-m: the longest on average; "
                                "-n: each lock by itself, as always here)", info_sync_profile },
    { 0 },
};
