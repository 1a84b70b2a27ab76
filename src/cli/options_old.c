/*
 * Spellings that QEMU once had. What means exactly the same as something of today is rewritten to it, with a warning
 * that names it; the rest is refused with the option that took its place.
 */
#include <string.h>

#include "cli/plan_priv.h"

/* aux: the option of today and its argument, where %s stands for the old argument. */
Error *opt_old(Plan *plan, const Option *option, const char *arg)
{
    const char *space = strchr(option->aux, ' ');
    g_autofree char *name = space ? g_strndup(option->aux, (gsize)(space - option->aux)) : g_strdup(option->aux);
    g_autofree char *text = NULL;

    if (space) {
        g_auto(GStrv) parts = g_strsplit(space + 1, "%s", 2);
        text = g_strjoinv(arg ? arg : "", parts);
    }
    plan_warn(plan, "-%s%s%s is an old spelling of '-%s%s%s'", option->name, arg ? " " : "", arg ? arg : "", name,
              text ? " " : "", text ? text : "");
    return cli_option(plan, name, text);
}

/* aux: what to use instead. */
Error *opt_gone(Plan *plan, const Option *option, const char *arg)
{
    return error_new("this option is gone; %s", option->aux);
}

/* aux: why it is refused. */
Error *opt_refused(Plan *plan, const Option *option, const char *arg)
{
    return error_new("not supported: %s", option->aux);
}

Error *opt_old_balloon(Plan *plan, const Option *option, const char *arg)
{
    if (!strcmp(arg, "none")) {
        return NULL;
    }
    if (strcmp(arg, "virtio") && !g_str_has_prefix(arg, "virtio,")) {
        return error_new("this option is gone; use '-device virtio-balloon-pci'");
    }
    plan_warn(plan, "-balloon %s is an old spelling of '-device virtio-balloon-pci%s'", arg, arg + strlen("virtio"));
    g_autofree char *text = g_strdup_printf("virtio-balloon-pci%s", arg + strlen("virtio"));
    return cli_option(plan, "device", text);
}

Error *opt_old_realtime(Plan *plan, const Option *option, const char *arg)
{
    g_autoptr(KeyValues) kv = NULL;
    static const char *const known[] = { "mlock", NULL };

    TRY(keyvalues_parse(arg, NULL, &kv));
    const char *lock = keyvalues_get(kv, "mlock");
    TRY(keyvalues_check_used(kv, "-realtime", known));
    g_autofree char *text = g_strdup_printf("mem-lock=%s", lock ? lock : "on");
    plan_warn(plan, "-realtime %s is an old spelling of '-overcommit %s'", arg, text);
    return cli_option(plan, "overcommit", text);
}
