/* Options about the machine itself: type, accelerator, CPU, memory, boot order, name, clock. */
#include "cli/plan_priv.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "accel/accel.h"
#include "cpu/x86/sys.h"

static void merge(KeyValues *into, const KeyValues *from)
{
    for (guint n = 0; n < from->items->len; n++) {
        const KeyValue *item = g_ptr_array_index(from->items, n);
        keyvalues_set(into, item->key, item->value);
    }
}

static MUST_USE Error *merge_option(KeyValues *into, const char *text, const char *implied, bool *ret_help)
{
    g_autoptr(KeyValues) kv = NULL;

    TRY(keyvalues_parse(text, implied, &kv));
    merge(into, kv);
    *ret_help = kv->help;
    return NULL;
}

/* --- -machine --- */

static void describe_props(GString *out, const Prop *props)
{
    for (const Prop *prop = props; prop && prop->name; prop++) {
        g_string_append_printf(out, "  %s=<%s> - %s\n", prop->name, prop->kind->name, prop->help ? prop->help : "");
    }
}

static void machine_type_props(Plan *plan, const MachineType *type)
{
    GString *out = g_string_new(NULL);
    g_string_append_printf(out, "Options of machine %s:\n", type->name);
    g_string_append(out, "  accel=<str> - accelerators to try, separated by ':'\n");
    describe_props(out, machine_common_props);
    describe_props(out, type->props);
    plan->print = g_string_free(out, FALSE);
}

Error *opt_machine(Plan *plan, const Option *option, const char *arg)
{
    bool help;

    TRY(merge_option(plan->machine, arg, "type", &help));
    if (help) {
        const char *name = keyvalues_get(plan->machine, "type");
        if (!name) {
            plan->print = machine_types_help();
            return NULL;
        }
        const MachineType *type;
        TRY(machine_type_lookup(name, &type));
        machine_type_props(plan, type);
    }
    return NULL;
}

Error *opt_no_acpi(Plan *plan, const Option *option, const char *arg)
{
    keyvalues_set(plan->machine, "acpi", "off");
    return NULL;
}

Error *opt_no_hpet(Plan *plan, const Option *option, const char *arg)
{
    keyvalues_set(plan->machine, "hpet", "off");
    return NULL;
}

/* The board's own ones are set when it is there. */
/* smp.cpus= and the like are other ways to say -smp cpus=. */
static void move_group(Plan *plan, const char *prefix, KeyValues *to)
{
    for (guint n = 0; n < plan->machine->items->len;) {
        const KeyValue *item = g_ptr_array_index(plan->machine->items, n);
        if (g_str_has_prefix(item->key, prefix)) {
            keyvalues_set(to, item->key + strlen(prefix), item->value);
            g_ptr_array_remove_index(plan->machine->items, n);
        } else {
            n++;
        }
    }
}

static MUST_USE Error *machine_properties(Plan *plan)
{
    move_group(plan, "smp.", plan->smp);
    move_group(plan, "memory.", plan->memory);
    move_group(plan, "boot.", plan->boot);
    for (const Prop *prop = machine_common_props; prop->name; prop++) {
        const char *text = keyvalues_get(plan->machine, prop->name);
        Error *err = text ? prop->kind->set((Object *)plan->config, prop, text) : NULL;
        if (err) {
            return error_prefix(err, "%s=%s: ", prop->name, text);
        }
    }
    plan->config->ram_options.no_dump = !plan->config->dump_guest_core;
    return NULL;
}

/* --- -accel --- */

/* Whether this build and this host have it shows when the machine starts. */
static MUST_USE Error *accel_lookup(const char *name)
{
    static const char *const names[] = { "tcg", "kvm", "qtest", "xen", "hax", "hvf", "nvmm", "whpx", "mshv", NULL };

    if (g_strv_contains(names, name)) {
        return NULL;
    }
    const char *near = nearest_in(name, names);
    return error_new("invalid accelerator %s%s%s%s (see -accel help)", name, near ? ", did you mean '" : "",
                     near ? near : "", near ? "'?" : "");
}

Error *opt_accel(Plan *plan, const Option *option, const char *arg)
{
    KeyValues *kv;

    if (strchr(arg, ':') && !strpbrk(arg, ",={")) {
        g_auto(GStrv) names = g_strsplit(arg, ":", 0);
        for (char **each = names; *each; each++) {
            plan_add_built(plan->accels, "accel", "%s", *each);
        }
        return NULL;
    }
    TRY(plan_add(plan->accels, arg, "accel", &kv));
    const char *name = keyvalues_get(kv, "accel");
    if (kv->help) {
        if (!name) {
            plan->print = accel_types_help();
            return NULL;
        }
        const AccelType *type = accel_type_find(name);
        GString *out = g_string_new(NULL);
        for (const Prop *prop = type ? type->props : NULL; prop && prop->name; prop++) {
            g_string_append_printf(out, "%s=<%s> - %s\n", prop->name, prop->kind->name,
                                   prop->help ? prop->help : "");
        }
        plan->print = g_string_free(out, FALSE);
    } else if (!name) {
        return error_new("no accelerator given (see -accel help)");
    }
    return NULL;
}

Error *opt_enable_kvm(Plan *plan, const Option *option, const char *arg)
{
    plan_add_built(plan->accels, "accel", "%s", option->aux);
    if (!strcmp(option->aux, "kvm")) {
        /* Who asks this way wants a machine that runs; the line that says it is slower comes at start. */
        plan_add_built(plan->accels, "accel", "tcg");
    }
    return NULL;
}

static MUST_USE Error *finish_accels(Plan *plan)
{
    g_autofree char *list = keyvalues_take(plan->machine, "accel");

    if (list && plan->accels->len) {
        return error_new("-accel and -machine accel= both name accelerators: give one of them");
    }
    if (list) {
        g_auto(GStrv) names = g_strsplit(list, ":", 0);
        for (char **name = names; *name; name++) {
            plan_add_built(plan->accels, "accel", "%s", *name);
        }
    }
    for (guint n = 0; n < plan->accels->len; n++) {
        TRY(accel_lookup(keyvalues_get(g_ptr_array_index(plan->accels, n), "accel")));
    }
    return NULL;
}

/* --- -cpu, -smp --- */

Error *opt_cpu(Plan *plan, const Option *option, const char *arg)
{
    if (!strcmp(arg, "help") || !strcmp(arg, "?")) {
        plan->print = x86_models_help();
        return NULL;
    }
    g_free(plan->config->cpu_model);
    plan->config->cpu_model = g_strdup(arg);
    return NULL;
}

Error *opt_smp(Plan *plan, const Option *option, const char *arg)
{
    bool help;
    TRY(merge_option(plan->smp, arg, "cpus", &help));
    if (help) {
        plan->print = g_strdup("smp-opts options:\n  clusters=<num>\n  cores=<num>\n  cpus=<num>\n  dies=<num>\n"
                               "  maxcpus=<num>\n  sockets=<num>\n  threads=<num>\n");
    }
    return NULL;
}

static MUST_USE Error *smp_number(Plan *plan, const char *key, unsigned *ret)
{
    uint64_t number;

    TRY(keyvalues_get_u64(plan->smp, key, 0, &number));
    if (keyvalues_has(plan->smp, key) && number == 0) {
        return error_new("Invalid CPU topology: CPU topology parameters must be greater than zero");
    }
    if (number > 1u << 20) {
        return error_new("Invalid CPU topology: %s=%" G_GUINT64_FORMAT " is too large", key, (guint64)number);
    }
    *ret = (unsigned)number;
    return NULL;
}

/*
 * Missing numbers: sockets are made first (cores and threads default to 1), unless cores or threads
 * were given and sockets was not. The product of the topology is maxcpus.
 */
static MUST_USE Error *finish_smp(Plan *plan)
{
    static const char *const known[] = { "cpus", "maxcpus", "sockets", "dies", "clusters", "cores", "threads", NULL };
    MachineConfig *config = plan->config;
    unsigned cpus, max, sockets, dies, clusters, cores, threads;

    TRY(smp_number(plan, "cpus", &cpus));
    TRY(smp_number(plan, "maxcpus", &max));
    TRY(smp_number(plan, "sockets", &sockets));
    TRY(smp_number(plan, "dies", &dies));
    TRY(smp_number(plan, "clusters", &clusters));
    TRY(smp_number(plan, "cores", &cores));
    TRY(smp_number(plan, "threads", &threads));
    TRY(keyvalues_check_used(plan->smp, "-smp", known));
    if (clusters > 1) {
        return error_new("this machine's CPUs have no clusters");
    }
    dies = MAX(dies, 1);
    unsigned total = max ? max : cpus;
    if (total == 0) {
        sockets = MAX(sockets, 1);
        cores = MAX(cores, 1);
        threads = MAX(threads, 1);
    } else if (!cores) {
        /* Since version 6.2 machines prefer cores over sockets. */
        sockets = MAX(sockets, 1);
        threads = MAX(threads, 1);
        cores = total / (sockets * dies * threads);
    } else if (!sockets) {
        threads = MAX(threads, 1);
        sockets = total / (dies * cores * threads);
    } else if (!threads) {
        threads = total / (sockets * dies * cores);
    }
    uint64_t product = (uint64_t)sockets * dies * cores * threads;
    max = max ? max : cpus ? MAX(cpus, 1) : (unsigned)MIN(product, UINT32_MAX);
    cpus = cpus ? cpus : max;
    if (product != max) {
        return error_new("Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (%u) * dies (%u) "
                         "* cores (%u) * threads (%u) != maxcpus (%u)",
                         sockets, dies, cores, threads, max);
    }
    if (max < cpus) {
        return error_new("Invalid CPU topology: maxcpus must be equal to or greater than smp: sockets (%u) * dies (%u) "
                         "* cores (%u) * threads (%u) == maxcpus (%u) < smp_cpus (%u)",
                         sockets, dies, cores, threads, max, cpus);
    }
    config->cpus = cpus;
    config->max_cpus = max;
    config->sockets = sockets;
    config->dies = dies;
    config->clusters = 1;
    config->cores = cores;
    config->threads = threads;
    return NULL;
}

/* --- -numa --- */

Error *opt_numa(Plan *plan, const Option *option, const char *arg)
{
    KeyValues *kv;
    return plan_add(plan->numa, arg, "type", &kv);
}

Error *opt_preconfig(Plan *plan, const Option *option, const char *arg)
{
    plan->preconfig = true;
    return NULL;
}

/* --- -m --- */

Error *opt_memory(Plan *plan, const Option *option, const char *arg)
{
    bool help;
    TRY(merge_option(plan->memory, arg, "size", &help));
    if (help) {
        plan->print = g_strdup("memory options:\n  maxmem=<size>\n  size=<size>\n  slots=<num>\n");
    }
    return NULL;
}

static MUST_USE Error *finish_memory(Plan *plan)
{
    static const char *const known[] = { "size", "slots", "maxmem", NULL };
    MachineConfig *config = plan->config;
    const char *size = keyvalues_get(plan->memory, "size"), *max = keyvalues_get(plan->memory, "maxmem");
    uint64_t slots;

    TRY(keyvalues_get_u64(plan->memory, "slots", 0, &slots));
    TRY(keyvalues_check_used(plan->memory, "-m", known));
    if (size) {
        TRY(parse_size(size, MiB, &config->ram_size));
        if (config->ram_size == 0) {
            return error_new("-m %s: a machine needs memory", size);
        }
        config->ram_size = ALIGN_UP(config->ram_size, 8192);
    }
    if (max) {
        TRY(parse_size(max, 1, &config->max_ram_size));
        if (config->max_ram_size < config->ram_size) {
            return error_new("invalid value of maxmem: maximum memory size (0x%" G_GINT64_MODIFIER
                             "x) must be at least the initial memory size (0x%" G_GINT64_MODIFIER "x)",
                             (guint64)config->max_ram_size, (guint64)config->ram_size);
        }
        if (slots == 0 && config->max_ram_size != config->ram_size) {
            return error_new("invalid value of maxmem: memory slots were not specified but maximum memory size is "
                             "larger than the initial memory size");
        }
    } else if (slots) {
        return error_new("slots was specified without maxmem");
    }
    if (slots > 256) {
        return error_new("invalid number of memory slots: at most 256 are possible");
    }
    config->ram_slots = (unsigned)slots;
    return NULL;
}

/* --- -boot --- */

Error *opt_boot(Plan *plan, const Option *option, const char *arg)
{
    bool help;
    TRY(merge_option(plan->boot, arg, "order", &help));
    if (help) {
        plan->print = g_strdup("boot-opts options:\n  menu=<bool (on/off)>\n  once=<str>\n  order=<str>\n"
                               "  reboot-timeout=<num>\n  splash=<str>\n  splash-time=<num>\n"
                               "  strict=<bool (on/off)>\n");
    }
    return NULL;
}

static MUST_USE Error *check_boot_letters(const char *letters)
{
    uint32_t seen = 0;

    for (const char *c = letters; c && *c; c++) {
        if (*c < 'a' || *c > 'p') {
            return error_new("Invalid boot device '%c': a, b floppy; c disk; d CD-ROM; n to p network", *c);
        }
        if (seen & BIT(*c - 'a')) {
            return error_new("boot order names '%c' twice", *c);
        }
        seen |= BIT(*c - 'a');
    }
    return NULL;
}

static MUST_USE Error *boot_number(Plan *plan, const char *key, int64_t *ret)
{
    const char *text = keyvalues_get(plan->boot, key);
    char *end;

    if (text) {
        gint64 number = g_ascii_strtoll(text, &end, 10);
        if (!*text || *end || number < -1 || number > 0xffff) {
            return error_new("%s=%s: expected milliseconds up to 65535", key, text);
        }
        *ret = number;
    }
    return NULL;
}

static MUST_USE Error *finish_boot(Plan *plan)
{
    static const char *const known[] = { "order", "once",        "menu",           "strict",
                                         "splash", "splash-time", "reboot-timeout", NULL };
    MachineConfig *config = plan->config;

    config->boot_order = g_strdup(keyvalues_get(plan->boot, "order"));
    config->boot_once = g_strdup(keyvalues_get(plan->boot, "once"));
    config->boot_menu_set = keyvalues_has(plan->boot, "menu");
    TRY(keyvalues_get_bool(plan->boot, "menu", false, &config->boot_menu));
    TRY(keyvalues_get_bool(plan->boot, "strict", false, &config->boot_strict));
    config->boot_splash = g_strdup(keyvalues_get(plan->boot, "splash"));
    TRY(boot_number(plan, "splash-time", &config->boot_splash_time));
    TRY(boot_number(plan, "reboot-timeout", &config->boot_reboot_timeout));
    TRY(keyvalues_check_used(plan->boot, "-boot", known));
    TRY(check_boot_letters(config->boot_order));
    return check_boot_letters(config->boot_once);
}

/* --- the rest --- */

Error *opt_name(Plan *plan, const Option *option, const char *arg)
{
    static const char *const known[] = { "guest", "process", "debug-threads", NULL };
    g_autoptr(KeyValues) kv = NULL;
    bool threads;

    TRY(keyvalues_parse(arg, "guest", &kv));
    plan->config->name = g_strdup(keyvalues_get(kv, "guest"));
    plan->config->process_name = g_strdup(keyvalues_get(kv, "process"));
    TRY(keyvalues_get_bool(kv, "debug-threads", true, &threads)); /* threads always have names */
    return keyvalues_check_used(kv, "-name", known);
}

Error *opt_uuid(Plan *plan, const Option *option, const char *arg)
{
    TRY(parse_uuid(arg, plan->config->uuid.byte));
    plan->config->uuid.set = true;
    return NULL;
}

static MUST_USE Error *rtc_base(MachineConfig *config, const char *text)
{
    struct tm tm = { 0 };

    if (!text || !strcmp(text, "utc")) {
        config->rtc_base = RTC_BASE_UTC;
    } else if (!strcmp(text, "localtime")) {
        config->rtc_base = RTC_BASE_LOCALTIME;
    } else {
        const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
        if (!rest) {
            memset(&tm, 0, sizeof(tm));
            rest = strptime(text, "%Y-%m-%d", &tm);
        }
        if (!rest || *rest) {
            return error_new("invalid date '%s'; valid are: utc, localtime, '2006-06-17T16:01:21' or '2006-06-17'",
                             text);
        }
        config->rtc_base = RTC_BASE_DATE;
        config->rtc_date = timegm(&tm);
    }
    return NULL;
}

Error *opt_rtc(Plan *plan, const Option *option, const char *arg)
{
    static const char *const known[] = { "base", "clock", "driftfix", NULL };
    g_autoptr(KeyValues) kv = NULL;

    TRY(keyvalues_parse(arg, NULL, &kv));
    TRY(rtc_base(plan->config, keyvalues_get(kv, "base")));
    const char *clock = keyvalues_get(kv, "clock"), *driftfix = keyvalues_get(kv, "driftfix");
    if (!clock || !strcmp(clock, "host")) {
        plan->config->rtc_clock = CLOCK_HOST;
    } else if (!strcmp(clock, "rt")) {
        plan->config->rtc_clock = CLOCK_REALTIME_NS;
    } else if (!strcmp(clock, "vm")) {
        plan->config->rtc_clock = CLOCK_VIRTUAL;
    } else {
        return error_new("invalid clock '%s': host, rt or vm", clock);
    }
    plan->config->rtc_slew = driftfix && !strcmp(driftfix, "slew");
    if (driftfix && !plan->config->rtc_slew && strcmp(driftfix, "none")) {
        return error_new("invalid driftfix '%s': none or slew", driftfix);
    }
    return keyvalues_check_used(kv, "-rtc", known);
}

static MUST_USE Error *icount_shift(IcountConfig *config, const char *text)
{
    uint64_t shift;

    if (!strcmp(text, "auto")) {
        config->automatic = true;
        config->shift = ICOUNT_SHIFT_AUTO;
        return NULL;
    }
    if (!g_ascii_string_to_unsigned(text, 10, 0, ICOUNT_SHIFT_MAX, &shift, NULL)) {
        return error_new("icount: Invalid shift value '%s': a number from 0 to %d, or auto", text, ICOUNT_SHIFT_MAX);
    }
    config->shift = (unsigned)shift;
    return NULL;
}

static MUST_USE Error *icount_rr(Plan *plan, KeyValues *kv)
{
    const char *rr = keyvalues_get(kv, "rr"), *file = keyvalues_get(kv, "rrfile"), *snapshot = keyvalues_get(kv, "rrsnapshot");

    if (!rr) {
        return file || snapshot ? error_new("%s needs rr=record or rr=replay", file ? "rrfile" : "rrsnapshot") : NULL;
    }
    plan->record = !strcmp(rr, "record");
    if (!plan->record && strcmp(rr, "replay")) {
        return error_new("rr is record or replay, not '%s'", rr);
    }
    if (!file) {
        return error_new("rr= needs rrfile=, the file of the recording");
    }
    g_free(plan->rrfile);
    plan->rrfile = g_strdup(file);
    g_free(plan->rrsnapshot);
    plan->rrsnapshot = g_strdup(snapshot);
    return NULL;
}

Error *opt_icount(Plan *plan, const Option *option, const char *arg)
{
    static const char *const known[] = { "shift", "align", "sleep", "rr", "rrfile", "rrsnapshot", NULL };
    g_autoptr(KeyValues) kv = NULL;
    IcountConfig config = { .sleep = true };

    TRY(keyvalues_parse(arg, "shift", &kv));
    const char *shift = keyvalues_get(kv, "shift");
    TRY(keyvalues_get_bool(kv, "align", false, &config.align));
    TRY(keyvalues_get_bool(kv, "sleep", true, &config.sleep));
    TRY(icount_rr(plan, kv));
    TRY(keyvalues_check_used(kv, "-icount", known));
    if (!shift) {
        return error_new(config.align ? "align=on needs shift="
                                      : "shift= is needed: a number, or auto");
    }
    TRY(icount_shift(&config, shift));
    if (!config.sleep && (config.align || config.automatic)) {
        return error_new("%s and sleep=off are incompatible", config.align ? "align=on" : "shift=auto");
    }
    if (plan->rrfile && (config.automatic || config.align)) {
        return error_new("rr cannot be had with %s", config.align ? "align=on" : "shift=auto");
    }
    plan->icount = config;
    plan->count_instructions = true;
    return NULL;
}

Error *opt_global(Plan *plan, const Option *option, const char *arg)
{
    const char *dot = strchr(arg, '.'), *equals = strchr(arg, '=');

    if (dot && equals && dot < equals && !g_str_has_prefix(arg, "driver=")) {
        g_autofree char *driver = g_strndup(arg, dot - arg), *prop = g_strndup(dot + 1, equals - dot - 1);
        KeyValues *kv = keyvalues_new();
        keyvalues_add(kv, "driver", driver);
        keyvalues_add(kv, "property", prop);
        keyvalues_add(kv, "value", equals + 1);
        g_ptr_array_add(plan->globals, kv);
        return NULL;
    }
    KeyValues *kv;
    TRY(plan_add(plan->globals, arg, NULL, &kv));
    if (!keyvalues_get(kv, "driver") || !keyvalues_get(kv, "property") || !keyvalues_get(kv, "value")) {
        return error_new("expected DRIVER.PROPERTY=VALUE or driver=,property=,value=");
    }
    return NULL;
}

Error *opt_overcommit(Plan *plan, const Option *option, const char *arg)
{
    static const char *const known[] = { "mem-lock", "cpu-pm", NULL };
    g_autoptr(KeyValues) kv = NULL;
    bool lock, pm;

    TRY(keyvalues_parse(arg, NULL, &kv));
    TRY(keyvalues_get_bool(kv, "mem-lock", false, &lock));
    TRY(keyvalues_get_bool(kv, "cpu-pm", false, &pm));
    TRY(keyvalues_check_used(kv, "-overcommit", known));
    if (lock) {
        return error_new("mem-lock=on is not supported yet");
    }
    plan->config->cpu_pm = pm;
    return NULL;
}

Error *opt_action(Plan *plan, const Option *option, const char *arg)
{
    static const char *const known[] = { "reboot", "shutdown", "panic", "watchdog", NULL };
    g_autofree char *text = option->aux ? g_strconcat(option->aux, arg, NULL) : g_strdup(arg);
    g_autoptr(KeyValues) kv = NULL;

    TRY(keyvalues_parse(text, NULL, &kv));
    const char *reboot = keyvalues_get(kv, "reboot"), *shutdown = keyvalues_get(kv, "shutdown");
    const char *panic = keyvalues_get(kv, "panic"), *watchdog = keyvalues_get(kv, "watchdog");
    if (reboot && strcmp(reboot, "reset") && strcmp(reboot, "shutdown")) {
        return error_new("invalid reboot action '%s': reset or shutdown", reboot);
    }
    if (shutdown && strcmp(shutdown, "poweroff") && strcmp(shutdown, "pause")) {
        return error_new("invalid shutdown action '%s': poweroff or pause", shutdown);
    }
    if (panic) {
        TRY(panic_action_parse(panic, &plan->actions.panic));
    }
    if (watchdog) {
        TRY(watchdog_action_parse(watchdog, &plan->actions.watchdog));
    }
    plan->actions.no_reboot = reboot ? !strcmp(reboot, "shutdown") : plan->actions.no_reboot;
    plan->actions.no_shutdown = shutdown ? !strcmp(shutdown, "pause") : plan->actions.no_shutdown;
    return keyvalues_check_used(kv, "-action", known);
}

static const MachineType *default_machine(void)
{
    SECTION_FOREACH (machine_types, MachineType, it) {
        if ((*it)->is_default) {
            return *it;
        }
    }
    return NULL;
}

Error *finish_machine(Plan *plan)
{
    TRY(finish_accels(plan));
    if (!keyvalues_has(plan->machine, "type")) {
        const MachineType *type = default_machine();
        if (!type) {
            return error_hint(error_new("no machine is named, and none is the default"),
                              "-machine help lists the machines.");
        }
        keyvalues_prepend(plan->machine, "type", type->alias ? type->alias : type->name);
    }
    TRY(machine_properties(plan));
    if (plan->is_i386 && !plan->config->cpu_model) {
        plan->config->cpu_model = g_strdup("qemu32");
    }
    TRY(finish_smp(plan));
    TRY(finish_memory(plan));
    TRY(finish_boot(plan));
    if (plan->config->append && !plan->config->kernel) {
        return error_new("-append is the command line of a kernel: give -kernel too");
    }
    if (plan->config->initrd && !plan->config->kernel) {
        return error_new("-initrd is loaded for a kernel: give -kernel too");
    }
    return NULL;
}
