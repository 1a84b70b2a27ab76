/*
 * Options that make devices and their back ends, except drives: -device, -object, -chardev and the
 * character device sugar, monitors, network, video, sound, USB; and the default devices.
 */
#include <string.h>

#include "chardev/chardev.h"
#include "cli/plan_priv.h"
#include "ui/display.h"
#include "ui/keymap.h"

/* --- -device --- */

Error *opt_device(Plan *plan, const Option *option, const char *arg)
{
    KeyValues *kv;

    TRY(plan_add(plan->devices, arg, "driver", &kv));
    const char *driver = keyvalues_get(kv, "driver");
    if (kv->help) {
        const DeviceType *type;
        if (!driver) {
            plan->print = device_types_help();
            return NULL;
        }
        TRY(device_type_lookup(driver, &type));
        plan->print = device_type_help(type);
        return NULL;
    }
    if (!driver) {
        return error_new("Parameter 'driver' is missing");
    }
    const char *id = keyvalues_get(kv, "id");
    if (id) {
        for (guint n = 0; n + 1 < plan->devices->len; n++) {
            if (g_strcmp0(keyvalues_get(g_ptr_array_index(plan->devices, n), "id"), id) == 0) {
                return error_new("two devices have the id '%s'", id);
            }
        }
    }
    return NULL;
}

/* --- -object --- */

Error *opt_object(Plan *plan, const Option *option, const char *arg)
{
    KeyValues *kv;

    TRY(plan_add(plan->objects, arg, "qom-type", &kv));
    const char *name = keyvalues_get(kv, "qom-type");
    if (kv->help) {
        const ObjectType *type = name ? object_type_find(name) : NULL;
        plan->print = type ? object_props_help(type) : object_types_help();
        return NULL;
    }
    if (!name) {
        return error_new("Parameter 'qom-type' is missing");
    }
    if (!keyvalues_get(kv, "id")) {
        return error_new("Parameter 'id' is missing");
    }
    return NULL;
}

/* --- character devices and monitors --- */

Error *opt_chardev(Plan *plan, const Option *option, const char *arg)
{
    KeyValues *kv;

    TRY(plan_add(plan->chardevs, arg, "backend", &kv));
    if (kv->help) {
        plan->print = chardev_types_help();
    }
    return NULL;
}

Error *opt_mon(Plan *plan, const Option *option, const char *arg)
{
    static const char *const known[] = { "chardev", "mode", "pretty", "id", NULL };
    KeyValues *kv;
    bool pretty;

    TRY(plan_add(plan->monitors, arg, "chardev", &kv));
    const char *mode = keyvalues_get(kv, "mode");
    if (mode && strcmp(mode, "readline") && strcmp(mode, "control")) {
        return error_new("unknown monitor mode \"%s\": readline or control", mode);
    }
    TRY(keyvalues_get_bool(kv, "pretty", false, &pretty));
    if (!keyvalues_get(kv, "chardev")) {
        return error_new("chardev= is missing");
    }
    keyvalues_get(kv, "id");
    plan->default_monitor = false;
    return keyvalues_check_used(kv, "-mon", known);
}

/* -monitor, -qmp: a chardev of its own and a monitor on it. */
static MUST_USE Error *add_monitor(Plan *plan, const char *text, const char *mode, bool pretty)
{
    g_autofree char *id = g_strdup_printf("compat_monitor%u", plan->monitor_count++);
    KeyValues *chardev;
    bool mux;

    TRY(chardev_parse_short(text, id, &chardev, &mux));
    if (!chardev) {
        return NULL;
    }
    const char *chardev_id = keyvalues_get(chardev, "id");
    plan_add_built(plan->monitors, "chardev", "%s,mode=%s%s", chardev_id, mode, pretty ? ",pretty=on" : "");
    if (keyvalues_has(chardev, "backend")) {
        g_ptr_array_add(plan->chardevs, chardev);
    } else {
        keyvalues_free(chardev);
    }
    return NULL;
}

Error *opt_monitor(Plan *plan, const Option *option, const char *arg)
{
    plan->default_monitor = false;
    g_ptr_array_add(plan->monitor_texts, g_strdup(arg));
    return NULL;
}

Error *opt_qmp(Plan *plan, const Option *option, const char *arg)
{
    plan->default_monitor = false;
    return add_monitor(plan, arg, "control", !strcmp(option->name, "qmp-pretty"));
}

Error *opt_serial(Plan *plan, const Option *option, const char *arg)
{
    bool parallel = !strcmp(option->name, "parallel");

    *(parallel ? &plan->default_parallel : &plan->default_serial) = false;
    g_ptr_array_add(parallel ? plan->parallels : plan->serials, g_strdup(arg));
    /* "mon:" brings a monitor along. */
    if (g_str_has_prefix(arg, "mon:")) {
        plan->default_monitor = false;
    }
    return NULL;
}

Error *opt_debugcon(Plan *plan, const Option *option, const char *arg)
{
    g_ptr_array_add(plan->debugcons, g_strdup(arg));
    return NULL;
}

/* The chardev for a line's short text; *ret_id is NULL when there is to be none. */
static MUST_USE Error *line_chardev(Plan *plan, const char *text, const char *label, char **ret_id)
{
    KeyValues *chardev;
    bool mux;

    TRY(chardev_parse_short(text, label, &chardev, &mux));
    *ret_id = NULL;
    if (!chardev) {
        return NULL;
    }
    *ret_id = g_strdup(keyvalues_get(chardev, "id"));
    if (mux) {
        plan_add_built(plan->monitors, "chardev", "%s,mode=readline", *ret_id);
    }
    if (keyvalues_has(chardev, "backend")) {
        g_ptr_array_add(plan->chardevs, chardev);
    } else {
        keyvalues_free(chardev);
    }
    return NULL;
}

/* A machine without such ports still makes the back ends: others may use them. */
static MUST_USE Error *finish_lines(Plan *plan, const GPtrArray *texts, const char *kind, unsigned limit, bool no_ports)
{
    for (guint n = 0; n < texts->len; n++) {
        const char *text = g_ptr_array_index(texts, n);
        g_autofree char *label = g_strdup_printf("%s%u", kind, n);
        g_autofree char *id = NULL;
        if (n >= limit) {
            return error_new("-%s: at most %u are possible", kind, limit);
        }
        Error *err = line_chardev(plan, text, label, &id);
        if (err) {
            return error_prefix(err, "-%s %s: ", kind, text);
        }
        if (id && !no_ports) {
            plan_add_built(plan->board_devices, "driver", "isa-%s,index=%u,chardev=%s", kind, n, id);
        }
    }
    return NULL;
}

static MUST_USE Error *finish_debugcons(Plan *plan)
{
    for (guint n = 0; n < plan->debugcons->len; n++) {
        const char *text = g_ptr_array_index(plan->debugcons, n);
        g_autofree char *label = n ? g_strdup_printf("debugcon%u", n) : g_strdup("debugcon");
        g_autofree char *id = NULL;
        TRY(line_chardev(plan, text, label, &id));
        if (id) {
            plan_add_built(plan->board_devices, "driver", "isa-debugcon,iobase=0xe9,chardev=%s", id);
        }
    }
    return NULL;
}

/* --- video, sound, USB --- */

static const struct {
    const char *name, *device, *desc;
} video_cards[] = {
    { "none", NULL, "no graphic card" },
    { "std", "VGA", "standard VGA with Bochs extensions (default)" },
    { "cirrus", "cirrus-vga", "Cirrus Logic GD5446" },
    { "vmware", "vmware-svga", "VMware SVGA II" },
    { "qxl", "qxl-vga", "QXL for SPICE" },
    { "virtio", "virtio-vga", "virtio with VGA" },
    { "xenfb", NULL, NULL },
};

Error *opt_vga(Plan *plan, const Option *option, const char *arg)
{
    const char *names[ARRAY_SIZE(video_cards) + 1] = { NULL };
    unsigned count = 0;

    if (!strcmp(arg, "help") || !strcmp(arg, "?")) {
        GString *out = g_string_new(NULL);
        for (size_t n = 0; n < ARRAY_SIZE(video_cards); n++) {
            if (video_cards[n].desc) {
                g_string_append_printf(out, "%-20s %s\n", video_cards[n].name, video_cards[n].desc);
            }
        }
        plan->print = g_string_free(out, FALSE);
        return NULL;
    }
    for (size_t n = 0; n < ARRAY_SIZE(video_cards); n++) {
        if (video_cards[n].desc) {
            names[count++] = video_cards[n].name;
            if (!strcmp(video_cards[n].name, arg)) {
                g_free(plan->config->vga);
                plan->config->vga = g_strdup(arg);
                plan->default_vga = false;
                return NULL;
            }
        }
    }
    const char *near = nearest_in(arg, names);
    return error_new("invalid video card%s%s%s (see -vga help)", near ? ", did you mean '" : "", near ? near : "",
                     near ? "'?" : "");
}

static void finish_vga(Plan *plan)
{
    for (size_t n = 0; n < ARRAY_SIZE(video_cards); n++) {
        if (plan->config->vga && !strcmp(video_cards[n].name, plan->config->vga) && video_cards[n].device) {
            plan_add_built(plan->board_devices, "driver", "%s", video_cards[n].device);
        }
    }
}

Error *opt_soundhw(Plan *plan, const Option *option, const char *arg)
{
    if (!strcmp(arg, "help") || !strcmp(arg, "?")) {
        plan->print = g_strdup("Valid sound card names (comma separated):\nac97        Intel 82801AA AC97 Audio\n"
                               "hda         Intel HD Audio\nsb16        Creative Sound Blaster 16\n"
                               "pcspk       PC speaker\n");
        return NULL;
    }
    plan_warn(plan, "-soundhw %s: sound cards are not supported yet; the machine starts without it", arg);
    return NULL;
}

Error *opt_audiodev(Plan *plan, const Option *option, const char *arg)
{
    g_autoptr(KeyValues) kv = NULL;

    TRY(keyvalues_parse(arg, "driver", &kv));
    const char *driver = keyvalues_get(kv, "driver");
    if (g_strcmp0(driver, "none") != 0) {
        return error_new("sound output is not supported yet (only driver=none)");
    }
    if (keyvalues_has(kv, "model")) {
        return error_new("sound cards are not supported yet");
    }
    return NULL;
}

Error *opt_usb(Plan *plan, const Option *option, const char *arg)
{
    keyvalues_set(plan->machine, "usb", "on");
    return NULL;
}

Error *opt_usbdevice(Plan *plan, const Option *option, const char *arg)
{
    static const struct {
        const char *name, *device;
    } devices[] = {
        { "mouse", "usb-mouse" },  { "tablet", "usb-tablet" }, { "keyboard", "usb-kbd" },
        { "braille", "usb-braille" }, { "wacom-tablet", "usb-wacom-tablet" }, { "audio", "usb-audio" },
    };
    for (size_t n = 0; n < ARRAY_SIZE(devices); n++) {
        if (!strcmp(devices[n].name, arg)) {
            keyvalues_set(plan->machine, "usb", "on");
            plan_add_built(plan->devices, "driver", "%s", devices[n].device);
            return NULL;
        }
    }
    return error_new("could not add USB device '%s': mouse, tablet, keyboard, braille, wacom-tablet or audio", arg);
}

Error *opt_display(Plan *plan, const Option *option, const char *arg)
{
    if (!strcmp(arg, "help") || !strcmp(arg, "?")) {
        plan->print = display_help();
        return NULL;
    }
    TRY(display_check(arg));
    g_free(plan->display);
    plan->display = g_strdup(arg);
    plan->display_set = true;
    return NULL;
}

Error *opt_keyboard(Plan *plan, const Option *option, const char *arg)
{
    if (!strcmp(arg, "help") || !strcmp(arg, "?")) {
        g_autofree char *names = g_strjoinv("\n", (char **)keymap_names);
        plan->print = g_strdup_printf("Keyboard layouts:\n%s\n", names);
        return NULL;
    }
    TRY(keymap_check(arg));
    g_free(plan->config->keyboard_layout);
    plan->config->keyboard_layout = g_strdup(arg);
    return NULL;
}

/* For the display that there will be; display_check() of the whole is in finish_display(). */
Error *opt_display_flag(Plan *plan, const Option *option, const char *arg)
{
    g_autofree char *old = plan->display_flags;
    plan->display_flags = g_strdup_printf("%s,%s", old ? old : "", option->aux);
    plan_warn(plan, "-%s is an old spelling of '-display TYPE,%s'", option->name, option->aux);
    return NULL;
}

Error *opt_full_screen(Plan *plan, const Option *option, const char *arg)
{
    g_autofree char *old = plan->display_flags;
    plan->display_flags = g_strdup_printf("%s,full-screen=on", old ? old : "");
    return NULL;
}

/* Flags that came as options of their own go to the display; without one they wait for a window. */
static MUST_USE Error *finish_display(Plan *plan)
{
    if (!plan->display_flags || plan->nographic) {
        return NULL;
    }
    g_autofree char *old = plan->display;
    plan->display = g_strconcat(old ? old : "sdl", plan->display_flags, NULL);
    return display_check(plan->display);
}

Error *opt_vnc(Plan *plan, const Option *option, const char *arg)
{
    return strcmp(arg, "none") ? error_new("the VNC server is not supported yet") : NULL;
}

Error *opt_nographic(Plan *plan, const Option *option, const char *arg)
{
    plan->nographic = true;
    plan->config->graphics = false;
    g_free(plan->display);
    plan->display = g_strdup("none");
    plan->display_set = true;
    return NULL;
}

/* --- default devices --- */

/* A device that the user gives takes the place of a default one. */
static void drop_replaced_defaults(Plan *plan)
{
    static const struct {
        const char *driver;
        size_t flag;
    } replaces[] = {
#define REPLACES(d, f) { d, offsetof(Plan, f) }
        REPLACES("isa-serial", default_serial), REPLACES("isa-parallel", default_parallel),
        REPLACES("isa-fdc", default_floppy),    REPLACES("floppy", default_floppy),
        REPLACES("ide-cd", default_cdrom),      REPLACES("ide-hd", default_cdrom),
        REPLACES("scsi-cd", default_cdrom),     REPLACES("scsi-hd", default_cdrom),
        REPLACES("VGA", default_vga),           REPLACES("isa-vga", default_vga),
        REPLACES("cirrus-vga", default_vga),    REPLACES("isa-cirrus-vga", default_vga),
        REPLACES("vmware-svga", default_vga),   REPLACES("qxl-vga", default_vga),
        REPLACES("virtio-vga", default_vga),    REPLACES("ati-vga", default_vga),
        REPLACES("bochs-display", default_vga), REPLACES("virtio-vga-gl", default_vga),
#undef REPLACES
    };
    for (guint n = 0; n < plan->devices->len; n++) {
        const char *driver = keyvalues_get(g_ptr_array_index(plan->devices, n), "driver");
        for (size_t i = 0; driver && i < ARRAY_SIZE(replaces); i++) {
            if (!strcmp(replaces[i].driver, driver)) {
                *(bool *)((char *)plan + replaces[i].flag) = false;
            }
        }
    }
}

/* stdio can serve one line; with -nographic the serial port and the monitor share it. */
static void nographic_defaults(Plan *plan)
{
    if (plan->default_parallel) {
        g_ptr_array_add(plan->parallels, g_strdup("null"));
    }
    if (plan->default_serial && plan->default_monitor) {
        g_ptr_array_add(plan->serials, g_strdup("mon:stdio"));
    } else {
        if (plan->default_serial) {
            g_ptr_array_add(plan->serials, g_strdup("stdio"));
        }
        if (plan->default_monitor) {
            g_ptr_array_add(plan->monitor_texts, g_strdup("stdio"));
        }
    }
}

static MUST_USE Error *add_defaults(Plan *plan)
{
    const MachineType *type;

    TRY(machine_type_lookup(keyvalues_get(plan->machine, "type"), &type));
    drop_replaced_defaults(plan);
    bool none = plan->config->no_defaults;
    plan->default_serial = plan->default_serial && !none && !type->no_serial;
    plan->default_parallel = plan->default_parallel && !none && !type->no_parallel;
    plan->default_floppy = plan->default_floppy && !none && !type->no_floppy;
    plan->default_cdrom = plan->default_cdrom && !none && !type->no_cdrom;
    plan->default_monitor = plan->default_monitor && !none;
    if (plan->default_vga && !none && !plan->config->vga && type->default_display) {
        plan->config->vga = g_strdup(type->default_display);
    }
    if (plan->nographic) {
        nographic_defaults(plan);
        return NULL;
    }
    if (plan->default_serial) {
        g_ptr_array_add(plan->serials, g_strdup("vc:80Cx24C"));
    }
    if (plan->default_parallel) {
        g_ptr_array_add(plan->parallels, g_strdup("vc:80Cx24C"));
    }
    if (plan->default_monitor) {
        g_ptr_array_add(plan->monitor_texts, g_strdup("vc:80Cx24C"));
    }
    return NULL;
}

Error *finish_devices(Plan *plan)
{
    const MachineType *type;

    TRY(finish_display(plan));
    TRY(add_defaults(plan));
    for (guint n = 0; n < plan->monitor_texts->len; n++) {
        Error *err = add_monitor(plan, g_ptr_array_index(plan->monitor_texts, n), "readline", false);
        if (err) {
            return error_prefix(err, "-monitor: ");
        }
    }
    finish_vga(plan);
    TRY(machine_type_lookup(keyvalues_get(plan->machine, "type"), &type));
    TRY(finish_lines(plan, plan->serials, "serial", 4, type->no_serial));
    TRY(finish_lines(plan, plan->parallels, "parallel", 3, type->no_parallel));
    return finish_debugcons(plan);
}
