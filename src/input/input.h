/*
 * Input: from those who have events (displays, the monitor) to the guest's keyboards and pointers.
 *
 * A handler is a guest device. For each kind of event the handler activated last gets it: plugging a USB
 * tablet takes the pointer away from the PS/2 mouse once the guest uses it. Threads: the machine lock.
 */
#ifndef OSTRICH_INPUT_INPUT_H
#define OSTRICH_INPUT_INPUT_H

#include "core/vm/machine.h"
#include "input/keys.h"

typedef struct Input Input;
typedef struct InputHandler InputHandler;

typedef enum InputButton {
    INPUT_BTN_LEFT, INPUT_BTN_MIDDLE, INPUT_BTN_RIGHT, INPUT_BTN_WHEEL_UP, INPUT_BTN_WHEEL_DOWN,
    INPUT_BTN_SIDE, INPUT_BTN_EXTRA, INPUT_BTN_WHEEL_LEFT, INPUT_BTN_WHEEL_RIGHT, INPUT_BTN_TOUCH,
    INPUT_BTN_COUNT
} InputButton;
extern const char *const input_button_names[INPUT_BTN_COUNT + 1]; /* as QMP spells them */

typedef enum InputAxis { INPUT_AXIS_X, INPUT_AXIS_Y } InputAxis;
#define INPUT_ABS_MAX 0x7fff /* absolute coordinates are 0..INPUT_ABS_MAX */

typedef enum InputEventKind { INPUT_EVENT_KEY, INPUT_EVENT_BTN, INPUT_EVENT_REL, INPUT_EVENT_ABS } InputEventKind;
enum { INPUT_MASK_KEY = 1, INPUT_MASK_BTN = 2, INPUT_MASK_REL = 4, INPUT_MASK_ABS = 8 };

typedef struct InputEvent {
    InputEventKind kind;
    union {
        struct { InputKey key; bool down; } key;
        struct { InputButton button; bool down; } btn;
        struct { InputAxis axis; int value; } move;
    };
} InputEvent;

typedef struct InputHandlerOps {
    const char *name; /* as query-mice shows it */
    unsigned mask;    /* INPUT_MASK_* it takes */
    void (*event)(void *opaque, const InputEvent *event);
    void (*sync)(void *opaque); /* a group of events is complete; may be NULL */
} InputHandlerOps;

struct InputHandler {
    const InputHandlerOps *ops;
    void *opaque;
    Input *input;
    int id;      /* index of query-mice and mouse_set */
    const void *console; /* the display it belongs to; NULL: any */
    bool dirty;  /* saw events since the last sync */
    ListNode node;
};

/* The machine's; made at the first call. */
Input *input_of(Machine *machine);

/* --- for guest devices --- */
/* A new handler comes last. Embedded in the device; ops and opaque are borrowed. */
void input_handler_add(Input *input, InputHandler *handler, const InputHandlerOps *ops, void *opaque);
void input_handler_remove(InputHandler *handler); /* accepts a zeroed one */
void input_handler_activate(InputHandler *handler);   /* moves to the front */
void input_handler_deactivate(InputHandler *handler); /* moves to the back */
enum { INPUT_LED_SCROLL = 1, INPUT_LED_NUM = 2, INPUT_LED_CAPS = 4 };
void input_set_leds(Input *input, unsigned leds);

/* --- for displays and the monitor --- */
/* console: which display the event comes from; NULL when there is none. Dropped unless the machine runs. */
void input_send_key(Input *input, const void *console, InputKey key, bool down);
void input_send_btn(Input *input, const void *console, InputButton button, bool down);
void input_send_rel(Input *input, const void *console, InputAxis axis, int delta);
/* value within [0, range): scaled to 0..INPUT_ABS_MAX. */
void input_send_abs(Input *input, const void *console, InputAxis axis, int value, int range);
void input_send(Input *input, const void *console, const InputEvent *event);
/* The handler of INLET_INPUT. */
void input_take(Machine *machine, const char *id, const uint8_t *data, size_t length);
/* Ends a group of events. Key events of input_send_key() need no sync. */
void input_sync(Input *input);
/* The buttons that changed between two masks of BIT(InputButton). */
void input_send_buttons(Input *input, const void *console, uint32_t old, uint32_t now);
/* Presses the keys together, holds them, releases them; groups queue up. hold_ms 0: the usual 100. */
void input_queue_keys(Input *input, const InputKey *keys, unsigned count, unsigned hold_ms);
/* Releases every key that is down (focus lost). */
void input_release_keys(Input *input);
/* Whether the active pointer takes absolute coordinates. */
bool input_is_absolute(Input *input, const void *console);
unsigned input_leds(const Input *input);
/* Pointers in order, the current one first; NULL ends. */
InputHandler *input_pointer_next(Input *input, InputHandler *after);
/* Makes the pointer with that id current. */
Error *input_pointer_select(Input *input, int id) MUST_USE;

/* Told when the pointer mode (absolute or not) or the LEDs may have changed. */
typedef struct InputNotifier {
    void (*fn)(struct InputNotifier *notifier);
    ListNode node;
} InputNotifier;
void input_notifier_add(Input *input, InputNotifier *notifier);

#endif
