/* Shared by the files that turn options into the plan. */
#ifndef OSTRICH_CLI_PLAN_PRIV_H
#define OSTRICH_CLI_PLAN_PRIV_H

#include "cli/plan.h"

typedef struct Option Option;
typedef Error *OptionFn(Plan *plan, const Option *option, const char *arg);

/* A row of the option table. `aux` is what several options that share a handler differ in. */
struct Option {
    const char *name;
    bool has_arg;
    const char *syntax; /* behind the name, for the help */
    const char *help;   /* NULL: hidden */
    OptionFn *fn;
    const char *aux;
    size_t offset;      /* of a char * in MachineConfig or of a list in Plan, for the generic handlers */
};
extern const Option option_table[]; /* a row without a handler is a heading of the help; NULL name ends */

/* options_machine.c */
OptionFn opt_numa, opt_preconfig, opt_machine, opt_accel, opt_enable_kvm, opt_cpu, opt_smp, opt_memory, opt_boot, opt_name, opt_uuid,
    opt_icount, opt_rtc, opt_no_acpi, opt_no_hpet, opt_global, opt_overcommit, opt_action;
Error *finish_machine(Plan *plan) MUST_USE;
/* options_devices.c */
OptionFn opt_device, opt_object, opt_chardev, opt_mon, opt_monitor, opt_qmp, opt_serial, opt_debugcon, opt_vga, opt_soundhw, opt_usb, opt_usbdevice, opt_display, opt_nographic, opt_audiodev,
    opt_vnc, opt_keyboard, opt_full_screen, opt_display_flag;
Error *finish_devices(Plan *plan) MUST_USE;
/* options_net.c */
OptionFn opt_nic, opt_net, opt_netdev;
Error *finish_net(Plan *plan) MUST_USE;
/* options_drive.c */
OptionFn opt_drive, opt_blockdev, opt_disk, opt_cdrom, opt_floppy, opt_pflash, opt_snapshot;
Error *finish_drives(Plan *plan) MUST_USE;
/* options_misc.c */
OptionFn opt_old, opt_gone, opt_refused, opt_old_balloon, opt_old_realtime; /* options_old.c */
OptionFn opt_trace, opt_dfilter, opt_run_with, opt_compat, opt_dump_config;
OptionFn opt_help, opt_version, opt_string, opt_list, opt_flag, opt_unsupported, opt_other_target, opt_log,
    opt_readconfig, opt_msg, opt_sandbox, opt_echr, opt_datadir, opt_set, opt_plan_string, opt_gdb,
    opt_nodefaults, opt_config_flag, opt_add_fd;
Error *apply_sets(Plan *plan) MUST_USE;

/* dump_config.c: remembers an option for the dump; reads a dump. */
void plan_note_option(Plan *plan, const char *name, const char *arg);
Error *plan_read_config(Plan *plan, const char *text) MUST_USE;
/* Parses and appends to a list of KeyValues; *ret_kv may be NULL. */
Error *plan_add(GPtrArray *list, const char *text, const char *implied, KeyValues **ret_kv) MUST_USE;
KeyValues *plan_find(GPtrArray *list, const char *id);
/* A new one at the end of the list from "key=value,..." that cannot be wrong. */
KeyValues *plan_add_built(GPtrArray *list, const char *implied, const char *fmt, ...) PRINTF(3, 4);
/* The drive's devices, by its interface (options_drive.c); used by the defaults. */
Error *plan_add_drive(Plan *plan, KeyValues *drive) MUST_USE;

#endif
