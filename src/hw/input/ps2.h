/*
 * PS/2 keyboard and mouse, as a controller sees them: bytes in, bytes out. Embedded in the controller.
 * Threads: the machine lock.
 */
#ifndef OSTRICH_HW_INPUT_PS2_H
#define OSTRICH_HW_INPUT_PS2_H

#include "input/input.h"

enum { PS2_QUEUE = 256 };

/* Bytes on their way to the controller. */
typedef struct Ps2Port {
    uint8_t data[PS2_QUEUE];
    uint16_t head, count;
    uint8_t last;                  /* the byte read last, for Resend */
    void (*ready)(void *opaque);   /* the queue is no longer empty */
    void *opaque;
} Ps2Port;

typedef struct Ps2Kbd {
    Ps2Port port;
    Machine *machine;
    InputHandler input;
    uint8_t scan_set;              /* 1, 2, 3 */
    uint8_t command;               /* waits for its parameter; 0: none */
    uint8_t rate, leds;
    bool enabled;
    uint8_t modifiers;             /* what Print and Pause depend on */
    uint8_t key_mode[256];         /* set 3: by scan code, KEY_MODE_* */
} Ps2Kbd;

typedef struct Ps2Mouse {
    Ps2Port port;
    Machine *machine;
    InputHandler input;
    uint8_t id;                    /* 0 standard, 3 wheel, 4 five buttons */
    uint8_t command;
    uint8_t rate, resolution;
    uint8_t knock;                 /* progress of the rate sequences that change the id */
    bool enabled, remote, wrap, scaling;
    uint8_t buttons, sent_buttons; /* bit 0 left, 1 right, 2 middle, 3 side, 4 extra */
    int32_t dx, dy, dz;
} Ps2Mouse;

void ps2_port_reset(Ps2Port *port);
void ps2_port_put(Ps2Port *port, uint8_t byte);
/* All bytes or, when there is no room, none; the controller hears of it when they are all there. */
void ps2_port_put_all(Ps2Port *port, const uint8_t *bytes, unsigned count);
/* The next byte; when there is none, the last one again. */
uint8_t ps2_port_get(Ps2Port *port);
extern const StateField ps2_port_state[];

void ps2_kbd_init(Ps2Kbd *kbd, Machine *machine, void (*ready)(void *opaque), void *opaque);
void ps2_kbd_fini(Ps2Kbd *kbd);
void ps2_kbd_reset(Ps2Kbd *kbd);
void ps2_kbd_write(Ps2Kbd *kbd, uint8_t byte);
extern const StateField ps2_kbd_state[];

void ps2_mouse_init(Ps2Mouse *mouse, Machine *machine, void (*ready)(void *opaque), void *opaque);
void ps2_mouse_fini(Ps2Mouse *mouse);
void ps2_mouse_reset(Ps2Mouse *mouse);
void ps2_mouse_write(Ps2Mouse *mouse, uint8_t byte);
/* The controller took a byte: movement that did not fit may now. */
void ps2_mouse_drained(Ps2Mouse *mouse);
extern const StateField ps2_mouse_state[];

#endif
