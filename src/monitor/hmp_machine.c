/* HMP: run state, input, screen, log. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "input/input.h"
#include "monitor/hmp_priv.h"

static void hmp_quit(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "quit", NULL, NULL);
}

static void hmp_stop(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "stop", NULL, NULL);
}

static void hmp_cont(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "cont", NULL, NULL);
}

static void hmp_system_reset(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "system_reset", NULL, NULL);
}

static void hmp_system_powerdown(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "system_powerdown", NULL, NULL);
}

static void hmp_system_wakeup(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "system_wakeup", NULL, NULL);
}

static void hmp_replay_break(Hmp *hmp, const HmpArgs *args)
{
    Value *request = value_dict();
    value_put(request, "icount", value_uint(args->number[0]));
    hmp_qmp(hmp, "replay-break", request, NULL);
}

static void hmp_replay_delete_break(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "replay-delete-break", NULL, NULL);
}

static void hmp_replay_seek(Hmp *hmp, const HmpArgs *args)
{
    Value *request = value_dict();
    value_put(request, "icount", value_uint(args->number[0]));
    hmp_qmp(hmp, "replay-seek", request, NULL);
}

static void hmp_nmi(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "inject-nmi", NULL, NULL);
}

static void hmp_balloon(Hmp *hmp, const HmpArgs *args)
{
    Value *request = value_dict();
    value_put(request, "value", value_uint(args->number[0] < (UINT64_C(1) << 43) ? args->number[0] << 20 : INT64_MAX));
    hmp_qmp(hmp, "balloon", request, NULL);
}

static void hmp_exit_preconfig(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "x-exit-preconfig", NULL, NULL);
}

static void hmp_dumpdtb(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "dumpdtb", hmp_dict("filename", args->text[0], NULL), NULL);
}

static void hmp_watchdog_action(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "set-action", hmp_dict("watchdog", args->text[0], NULL), NULL);
}

static void hmp_cpu_select(Hmp *hmp, const HmpArgs *args)
{
    if (args->number[0] > UINT32_MAX || !vcpu_at(hmp->machine, (unsigned)args->number[0])) {
        hmp_printf(hmp, "invalid CPU index\n");
    } else {
        hmp->cpu_index = (unsigned)args->number[0];
    }
}

static void hmp_boot_set(Hmp *hmp, const HmpArgs *args)
{
    void (*set)(Machine *machine, const char *order) = machine_service(hmp->machine, "boot-set");

    if (!set) {
        hmp_error(hmp, error_new("this machine cannot change its boot order while it runs"));
        return;
    }
    set(hmp->machine, args->text[0]);
    hmp_printf(hmp, "the machine boots from now on in the order %s\n", args->text[0]);
}

/* --- keys and pointer --- */

static void hmp_sendkey(Hmp *hmp, const HmpArgs *args)
{
    g_auto(GStrv) names = g_strsplit(args->text[0], "-", 0);
    Value *list = value_list(), *request = value_dict();

    for (char **name = names; *name; name++) {
        Value *key = value_dict();
        /* "<" is the key between left shift and z; 0x.. a number. */
        if (g_str_has_prefix(*name, "0x")) {
            value_put_str(key, "type", "number");
            value_put_int(key, "data", (int64_t)strtoul(*name, NULL, 16));
        } else {
            value_put_str(key, "type", "qcode");
            value_put_str(key, "data", !strcmp(*name, "<") ? "less" : **name ? *name : "minus");
        }
        value_append(list, key);
    }
    value_put(request, "keys", list);
    if (args->text[1]) {
        value_put_int(request, "hold-time", (int64_t)args->number[1]);
    }
    hmp_qmp(hmp, "send-key", request, NULL);
}

static void hmp_mouse_move(Hmp *hmp, const HmpArgs *args)
{
    Input *input = input_of(hmp->machine);
    int dx = atoi(args->text[0]), dy = atoi(args->text[1]), dz = args->text[2] ? atoi(args->text[2]) : 0;

    input_send_rel(input, NULL, INPUT_AXIS_X, dx);
    input_send_rel(input, NULL, INPUT_AXIS_Y, dy);
    if (dz) {
        InputButton wheel = dz > 0 ? INPUT_BTN_WHEEL_UP : INPUT_BTN_WHEEL_DOWN;
        input_send_btn(input, NULL, wheel, true);
        input_sync(input);
        input_send_btn(input, NULL, wheel, false);
    }
    input_sync(input);
}

static void hmp_mouse_button(Hmp *hmp, const HmpArgs *args)
{
    static const InputButton order[] = { INPUT_BTN_LEFT, INPUT_BTN_MIDDLE, INPUT_BTN_RIGHT };
    Input *input = input_of(hmp->machine);

    for (unsigned n = 0; n < ARRAY_SIZE(order); n++) {
        /* 1 left, 2 middle, 4 right; a button that is up already sends nothing. */
        input_send_btn(input, NULL, order[n], args->number[0] & BIT(n));
    }
    input_sync(input);
}

static void hmp_mouse_set(Hmp *hmp, const HmpArgs *args)
{
    hmp_error(hmp, input_pointer_select(input_of(hmp->machine), (int)args->number[0]));
}

static void hmp_screendump(Hmp *hmp, const HmpArgs *args)
{
    Value *request = hmp_dict("filename", args->text[0], "device", args->text[1], NULL);

    if (args->text[2]) {
        value_put_int(request, "head", (int64_t)args->number[2]);
    }
    value_put_str(request, "format", args->flag['p'] || g_str_has_suffix(args->text[0], ".png") ? "png" : "ppm");
    hmp_qmp(hmp, "screendump", request, NULL);
}

static void hmp_gdbserver(Hmp *hmp, const HmpArgs *args)
{
    Error *(*start)(Machine *machine, const char *device) = machine_service(hmp->machine, "gdbserver");
    const char *device = args->text[0] ? args->text[0] : "tcp::1234";
    Error *err = start ? start(hmp->machine, device) : error_new("there is no debugger stub");

    if (err) {
        hmp_error(hmp, err);
    } else if (!strcmp(device, "none")) {
        hmp_printf(hmp, "Disabled gdbserver\n");
    } else {
        hmp_printf(hmp, "gdb can connect to '%s'\n", device);
    }
}

/* --- log --- */

static void hmp_log(Hmp *hmp, const HmpArgs *args)
{
    unsigned mask = 0;

    if (strcmp(args->text[0], "none")) {
        Error *err = log_parse_items(args->text[0], &mask);
        if (err) {
            hmp_error(hmp, err);
            return;
        }
    }
    log_mask = mask;
}

static void hmp_trace_event(Hmp *hmp, const HmpArgs *args)
{
    Value *request = hmp_dict("name", args->text[0], NULL);
    bool on = false;
    Error *err = parse_bool(args->text[1], &on);

    if (err) {
        value_free(request);
        hmp_error(hmp, err);
        return;
    }
    value_put_bool(request, "enable", on);
    hmp_qmp(hmp, "trace-event-set-state", request, NULL);
}

static void hmp_logfile(Hmp *hmp, const HmpArgs *args)
{
    hmp_error(hmp, log_open(args->text[0]));
}

const HmpCommand hmp_commands_machine[] = {
    { "quit|q", "", "", "quit the emulator", hmp_quit },
    { "stop|s", "", "", "stop emulation", hmp_stop },
    { "cont|c", "", "", "resume emulation", hmp_cont },
    { "system_reset", "", "", "reset the system", hmp_system_reset },
    { "system_powerdown", "", "", "send a power down event", hmp_system_powerdown },
    { "replay_break", "e", "icount", "stop the replay at an instruction count", hmp_replay_break },
    { "replay_delete_break", "", "", "remove the replay's stop", hmp_replay_delete_break },
    { "replay_seek", "e", "icount", "replay to an instruction count ahead", hmp_replay_seek },
    { "system_wakeup", "", "", "wake the guest up from suspend", hmp_system_wakeup },
    { "balloon", "e", "target", "ask the guest to change its memory to so many MiB", hmp_balloon },
    { "exit_preconfig", "", "", "make the machine as configured (ends --preconfig)",
                                hmp_exit_preconfig },
    { "dumpdtb", "s", "filename", "write the device tree to a file", hmp_dumpdtb, 'f' },
    { "watchdog_action", "s", "action", "change what a watchdog does", hmp_watchdog_action },
    { "nmi", "", "", "inject an NMI", hmp_nmi },
    { "cpu", "e", "index", "set the default CPU", hmp_cpu_select },
    { "boot_set", "s", "bootdevice", "set the order in which devices are booted from",
                                     hmp_boot_set },
    { "sendkey", "s?e", "keys [hold_ms]", "send keys to the guest (e.g. 'sendkey ctrl-alt-f1', default hold time=100 ms)",
      hmp_sendkey, 'k' },
    { "mouse_move", "ss?s", "dx dy [dz]", "send mouse move events", hmp_mouse_move },
    { "mouse_button", "e", "state", "press these mouse buttons and no others (1 left, 2 middle, 4 "
                                    "right)", hmp_mouse_button },
    { "mouse_set", "e", "index", "set which pointer device receives events", hmp_mouse_set },
    { "screendump", "-ps?se", "[-p] filename [device [head]]", "save the screen as PPM image, or PNG with -p",
      hmp_screendump, 'f' },
    { "gdbserver", "?s", "[device]", "let gdb connect there (default 'tcp::1234'), or no more "
                                     "('none')", hmp_gdbserver },
    { "log", "s", "item1[,...]", "activate logging of the items; none deactivates it", hmp_log },
    { "trace-event", "ss", "name on|off", "switch trace events", hmp_trace_event },
    { "logfile", "?s", "filename", "output logs to a file", hmp_logfile, 'f' },
    { 0 },
};
