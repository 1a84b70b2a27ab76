/* QMP commands about the display and input. */
#include <string.h>

#include "input/input.h"
#include "schema/qmp_commands.h"
#include "ui/console.h"
#include "ui/display.h"

Error *qmp_screendump(QmpContext *ctx, const QmpScreendumpArgs *args, Value **ret)
{
    bool png = args->has_format && !strcmp(args->format, "png");
    Console *console;

    if (args->has_device) {
        Device *dev = device_find(ctx->machine, args->device);
        if (!dev) {
            return error_new_class(ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", args->device);
        }
        console = console_find_device(ctx->machine, dev, args->has_head ? (unsigned)args->head : 0);
        if (!console) {
            return error_new("Device '%s' has no display", args->device);
        }
    } else {
        if (args->has_head) {
            return error_new("'head' counts the heads of a 'device': give that too");
        }
        console = console_find_device(ctx->machine, NULL, 0);
        if (!console) {
            return error_new("There is no console to take a screendump from.");
        }
    }
    return console_dump(console, args->filename, png ? IMAGE_PNG : IMAGE_PPM);
}

Error *qmp_query_display_options(QmpContext *ctx, const QmpQueryDisplayOptionsArgs *args, Value **ret)
{
    const DisplayDriver *driver = machine_service(ctx->machine, DISPLAY_SERVICE);

    *ret = value_dict();
    value_put_str(*ret, "type", driver ? driver->name : "none");
    return NULL;
}

/* --- keys --- */

static const char *next_key(void *opaque)
{
    unsigned *key = opaque;
    return *key < KEY_COUNT ? input_keys[(*key)++].name : NULL;
}

static MUST_USE Error *key_of(const Value *value, InputKey *ret_key)
{
    const Value *data = value_find(value, "data");
    double number;

    if (value_get_double(data, &number)) {
        *ret_key = number >= 0 && number < 0x10000 ? input_key_by_number((unsigned)number) : KEY_UNMAPPED;
        return NULL;
    }
    *ret_key = input_key_by_name(value_get_str(data));
    if (*ret_key == KEY_UNMAPPED && strcmp(value_get_str(data), "unmapped")) {
        unsigned first = 0;
        const char *near = nearest_name(value_get_str(data), next_key, &first);
        return error_new("Parameter 'data' does not accept value '%s'%s%s%s", value_get_str(data),
                         near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
    }
    return NULL;
}

Error *qmp_send_key(QmpContext *ctx, const QmpSendKeyArgs *args, Value **ret)
{
    InputKey keys[16];
    unsigned count = (unsigned)value_length(args->keys);

    if (count > ARRAY_SIZE(keys)) {
        return error_new("at most %zu keys can be pressed together", ARRAY_SIZE(keys));
    }
    for (unsigned n = 0; n < count; n++) {
        TRY(key_of(value_at(args->keys, n), &keys[n]));
    }
    unsigned hold = args->has_hold_time && args->hold_time > 0 ? (unsigned)MIN(args->hold_time, 60000) : 0;
    input_queue_keys(input_of(ctx->machine), keys, count, hold);
    return NULL;
}

static int name_index(const char *const *names, const char *name)
{
    for (int n = 0; names[n]; n++) {
        if (!strcmp(names[n], name)) {
            return n;
        }
    }
    return 0; /* the schema has checked it */
}

static MUST_USE Error *event_of(const Value *value, InputEvent *event)
{
    const char *type = value_find_str(value, "type");
    const Value *data = value_find(value, "data");

    *event = (InputEvent) { 0 };
    if (!strcmp(type, "key")) {
        event->kind = INPUT_EVENT_KEY;
        event->key.down = value_find_bool(data, "down", false);
        return key_of(value_find(data, "key"), &event->key.key);
    }
    if (!strcmp(type, "btn")) {
        event->kind = INPUT_EVENT_BTN;
        event->btn.down = value_find_bool(data, "down", false);
        event->btn.button = (InputButton)name_index(input_button_names, value_find_str(data, "button"));
        return NULL;
    }
    event->kind = !strcmp(type, "rel") ? INPUT_EVENT_REL : INPUT_EVENT_ABS;
    event->move.axis = !strcmp(value_find_str(data, "axis"), "x") ? INPUT_AXIS_X : INPUT_AXIS_Y;
    event->move.value = (int)CLAMP(value_find_int(data, "value", 0), INT32_MIN, INT32_MAX);
    if (event->kind == INPUT_EVENT_ABS) {
        event->move.value = CLAMP(event->move.value, 0, INPUT_ABS_MAX);
    }
    return NULL;
}

Error *qmp_input_send_event(QmpContext *ctx, const QmpInputSendEventArgs *args, Value **ret)
{
    Input *input = input_of(ctx->machine);
    Console *console = NULL;
    InputEvent event;

    if (args->has_device) {
        Device *dev = device_find(ctx->machine, args->device);
        console = dev ? console_find_device(ctx->machine, dev, args->has_head ? (unsigned)args->head : 0) : NULL;
        if (!console) {
            return error_new_class(ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", args->device);
        }
    }
    if (!machine_running(ctx->machine)) {
        return error_new("VM not running");
    }
    for (size_t n = 0; n < value_length(args->events); n++) {
        TRY(event_of(value_at(args->events, n), &event));
    }
    for (size_t n = 0; n < value_length(args->events); n++) {
        Error *err = event_of(value_at(args->events, n), &event);
        assert(!err);
        input_send(input, console, &event);
    }
    input_sync(input);
    return NULL;
}

Error *qmp_query_mice(QmpContext *ctx, const QmpQueryMiceArgs *args, Value **ret)
{
    Input *input = input_of(ctx->machine);
    bool first = true;

    *ret = value_list();
    for (InputHandler *handler = NULL; (handler = input_pointer_next(input, handler));) {
        Value *info = value_dict();
        value_put_str(info, "name", handler->ops->name);
        value_put_int(info, "index", handler->id);
        value_put_bool(info, "current", first);
        value_put_bool(info, "absolute", handler->ops->mask & INPUT_MASK_ABS);
        value_append(*ret, info);
        first = false;
    }
    return NULL;
}
