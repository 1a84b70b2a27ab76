/*
 * Routing of input events, and the queue of timed key presses: see input.h.
 */
#include "input/input.h"

#include "base/endian.h"
#include "core/vm/inlet.h"

#define INPUT_SERVICE "input"

enum { QUEUE_MAX = 1024, DEFAULT_HOLD_MS = 100 };

/* A step of the queue: a key goes down or up, then wait_ms pass. */
typedef struct QueuedKey {
    InputKey key;
    bool down;
    unsigned wait_ms;
    ListNode node;
} QueuedKey;

struct Input {
    Object object;
    Machine *machine;
    List handlers, notifiers;
    int next_id;
    unsigned leds;
    uint8_t down[KEY_COUNT];
    List queue;
    unsigned queued;
    Timer timer;
};

const char *const input_button_names[INPUT_BTN_COUNT + 1] = {
    "left", "middle", "right", "wheel-up", "wheel-down", "side", "extra", "wheel-left", "wheel-right", "touch", NULL,
};

static void input_finalize(Object *obj)
{
    Input *input = (Input *)obj;
    timer_fini(&input->timer);
    while (input->queue.head.next && !list_empty(&input->queue)) {
        g_free(container_of(list_pop(&input->queue), QueuedKey, node));
    }
}

static const ObjectType input_type = { .name = "input", .size = sizeof(Input), .finalize = input_finalize };

/* --- the queue --- */

static void queue_run(void *opaque)
{
    Input *input = opaque;
    while (!list_empty(&input->queue)) {
        QueuedKey *step = container_of(list_pop(&input->queue), QueuedKey, node);
        unsigned wait = step->wait_ms;
        input->queued--;
        input_send_key(input, NULL, step->key, step->down);
        g_free(step);
        if (wait) {
            timer_set(&input->timer, clock_now(input->machine->clocks, CLOCK_VIRTUAL) + wait * NS_PER_MS);
            return;
        }
    }
}

static void queue_add(Input *input, InputKey key, bool down, unsigned wait_ms)
{
    if (input->queued >= QUEUE_MAX) {
        return;
    }
    QueuedKey *step = g_new0(QueuedKey, 1);
    *step = (QueuedKey) { .key = key, .down = down, .wait_ms = wait_ms };
    list_append(&input->queue, &step->node);
    input->queued++;
}

void input_queue_keys(Input *input, const InputKey *keys, unsigned count, unsigned hold_ms)
{
    hold_ms = hold_ms ? hold_ms : DEFAULT_HOLD_MS;
    if (input->queued + 2 * count > QUEUE_MAX) {
        return; /* never half a group: a key would stay down */
    }
    for (unsigned i = 0; i < count; i++) {
        queue_add(input, keys[i], true, i + 1 == count ? hold_ms : 0);
    }
    for (unsigned i = count; i > 0; i--) {
        queue_add(input, keys[i - 1], false, i == 1 ? hold_ms : 0);
    }
    if (!timer_armed(&input->timer)) {
        queue_run(input);
    }
}

/* --- handlers --- */

Input *input_of(Machine *machine)
{
    Input *input = machine_service(machine, INPUT_SERVICE);
    if (!input) {
        input = (Input *)object_new(&input_type);
        input->machine = machine;
        list_init(&input->handlers);
        list_init(&input->notifiers);
        list_init(&input->queue);
        input->next_id = 1; /* as QEMU numbers them */
        timer_init(&input->timer, machine_guest_loop(machine), CLOCK_VIRTUAL, queue_run, input);
        object_add_child(machine->object, INPUT_SERVICE, &input->object);
        machine_set_service(machine, INPUT_SERVICE, input);
    }
    return input;
}

static void input_changed(Input *input)
{
    LIST_FOREACH_SAFE(notifier, &input->notifiers, InputNotifier, node) {
        notifier->fn(notifier);
    }
}

void input_notifier_add(Input *input, InputNotifier *notifier)
{
    list_append(&input->notifiers, &notifier->node);
}

void input_handler_add(Input *input, InputHandler *handler, const InputHandlerOps *ops, void *opaque)
{
    *handler = (InputHandler) { .ops = ops, .opaque = opaque, .input = input, .id = input->next_id++ };
    list_append(&input->handlers, &handler->node);
    input_changed(input);
}

void input_handler_remove(InputHandler *handler)
{
    if (list_linked(&handler->node)) {
        list_remove(&handler->node);
        input_changed(handler->input);
    }
}

void input_handler_activate(InputHandler *handler)
{
    list_remove(&handler->node);
    list_prepend(&handler->input->handlers, &handler->node);
    input_changed(handler->input);
}

void input_handler_deactivate(InputHandler *handler)
{
    list_remove(&handler->node);
    list_append(&handler->input->handlers, &handler->node);
    input_changed(handler->input);
}

void input_set_leds(Input *input, unsigned leds)
{
    if (leds != input->leds) {
        input->leds = leds;
        input_changed(input);
    }
}

unsigned input_leds(const Input *input)
{
    return input->leds;
}

/* The handler for an event: one that is bound to the event's display goes first. */
static InputHandler *input_find(Input *input, const void *console, unsigned mask)
{
    LIST_FOREACH(handler, &input->handlers, InputHandler, node) {
        if (console && handler->console == console && (handler->ops->mask & mask)) {
            return handler;
        }
    }
    LIST_FOREACH(handler, &input->handlers, InputHandler, node) {
        if (!handler->console && (handler->ops->mask & mask)) {
            return handler;
        }
    }
    return NULL;
}

/* --- events --- */

static bool input_accepting(Input *input)
{
    return machine_running(input->machine) || input->machine->state == RUN_STATE_SUSPENDED;
}

void input_send(Input *input, const void *console, const InputEvent *event)
{
    if (!input_accepting(input)) {
        return;
    }
    if (event->kind == INPUT_EVENT_KEY) {
        if (event->key.key == KEY_UNMAPPED) {
            return;
        }
        input->down[event->key.key] = event->key.down;
    }
    const bool key = event->kind == INPUT_EVENT_KEY, button = event->kind == INPUT_EVENT_BTN;
    uint8_t bytes[9] = { (uint8_t)event->kind };
    st32_le(bytes + 1, key ? event->key.key : button ? event->btn.button : event->move.axis);
    st32_le(bytes + 5, key ? event->key.down : button ? event->btn.down : (uint32_t)event->move.value);
    if (inlet_post(input->machine, INLET_INPUT, "", bytes, sizeof(bytes))) {
        return;
    }
    InputHandler *handler = input_find(input, console, 1u << event->kind);
    if (handler) {
        handler->dirty = true;
        handler->ops->event(handler->opaque, event);
    }
}

void input_take(Machine *machine, const char *id, const uint8_t *data, size_t length)
{
    Input *input = input_of(machine);
    if (length != 9 || data[0] > INPUT_EVENT_ABS) {
        input_sync(input);
        return;
    }
    InputEvent event = { .kind = data[0] };
    uint32_t code = ld32_le(data + 1), value = ld32_le(data + 5);
    if (event.kind == INPUT_EVENT_KEY && code < KEY_COUNT) {
        event.key.key = code;
        event.key.down = value;
    } else if (event.kind == INPUT_EVENT_BTN && code < INPUT_BTN_COUNT) {
        event.btn.button = code;
        event.btn.down = value;
    } else if (event.kind != INPUT_EVENT_KEY && event.kind != INPUT_EVENT_BTN && code < 2) {
        event.move.axis = code;
        event.move.value = (int)value;
    } else {
        return;
    }
    input_send(input, NULL, &event);
}

void input_sync(Input *input)
{
    if (inlet_post(input->machine, INLET_INPUT, "", "", 0)) {
        return;
    }
    LIST_FOREACH(handler, &input->handlers, InputHandler, node) {
        if (handler->dirty) {
            handler->dirty = false;
            if (handler->ops->sync) {
                handler->ops->sync(handler->opaque);
            }
        }
    }
}

void input_send_key(Input *input, const void *console, InputKey key, bool down)
{
    InputEvent event = { .kind = INPUT_EVENT_KEY, .key = { key, down } };
    input_send(input, console, &event);
    input_sync(input);
}

void input_send_btn(Input *input, const void *console, InputButton button, bool down)
{
    InputEvent event = { .kind = INPUT_EVENT_BTN, .btn = { button, down } };
    input_send(input, console, &event);
}

void input_send_buttons(Input *input, const void *console, uint32_t old, uint32_t now)
{
    for (unsigned button = 0; button < INPUT_BTN_COUNT; button++) {
        if ((old ^ now) >> button & 1) {
            input_send_btn(input, console, button, now >> button & 1);
        }
    }
}

void input_send_rel(Input *input, const void *console, InputAxis axis, int delta)
{
    InputEvent event = { .kind = INPUT_EVENT_REL, .move = { axis, delta } };
    if (delta) {
        input_send(input, console, &event);
    }
}

void input_send_abs(Input *input, const void *console, InputAxis axis, int value, int range)
{
    int scaled = range > 1 ? (int)((int64_t)CLAMP(value, 0, range - 1) * INPUT_ABS_MAX / (range - 1)) : 0;
    InputEvent event = { .kind = INPUT_EVENT_ABS, .move = { axis, scaled } };
    input_send(input, console, &event);
}

void input_release_keys(Input *input)
{
    for (unsigned key = 0; key < KEY_COUNT; key++) {
        if (input->down[key]) {
            input_send_key(input, NULL, key, false);
            input->down[key] = 0;
        }
    }
}

bool input_is_absolute(Input *input, const void *console)
{
    InputHandler *handler = input_find(input, console, INPUT_MASK_REL | INPUT_MASK_ABS);
    return handler && (handler->ops->mask & INPUT_MASK_ABS);
}

InputHandler *input_pointer_next(Input *input, InputHandler *after)
{
    ListNode *node = after ? after->node.next : input->handlers.head.next;
    for (; node != &input->handlers.head; node = node->next) {
        InputHandler *handler = container_of(node, InputHandler, node);
        if (handler->ops->mask & (INPUT_MASK_REL | INPUT_MASK_ABS)) {
            return handler;
        }
    }
    return NULL;
}

Error *input_pointer_select(Input *input, int id)
{
    for (InputHandler *it = input_pointer_next(input, NULL); it; it = input_pointer_next(input, it)) {
        if (it->id == id) {
            input_handler_activate(it);
            return NULL;
        }
    }
    return error_new("there is no mouse %d (query-mice lists them)", id);
}
