/*
 * A window by SDL 2: scaled guest screen, keyboard, pointer grab (Ctrl-Alt-G), full screen (Ctrl-Alt-F).
 *
 * The library is opened when the display is wanted, so that the emulator starts without it. Everything happens on the
 * main thread, in the listener's tick.
 */
#include <string.h>

#include <SDL2/SDL.h>

#include "base/library.h"
#include "input/input.h"
#include "ui/display.h"
#include "ui/text_console.h"

#define SDL_CALLS(C)                                                                               \
    C(Init) C(QuitSubSystem) C(GetError) C(CreateWindow) C(DestroyWindow) C(SetWindowTitle) C(SetWindowSize) C(SetWindowFullscreen)  \
    C(CreateRenderer) C(DestroyRenderer) C(RenderSetLogicalSize) C(RenderClear) C(RenderCopy) C(RenderPresent) C(CreateTexture)     \
    C(DestroyTexture) C(UpdateTexture) C(PollEvent) C(SetRelativeMouseMode) C(SetWindowGrab) C(ShowCursor)           \
    C(GetWindowSize) C(SetHint)

typedef struct SdlApi {
#define SDL_POINTER(name) __typeof__(SDL_##name) *name;
    SDL_CALLS(SDL_POINTER)
} SdlApi;

#define SDL_CALL(name) { "SDL_" #name, offsetof(SdlApi, name) },
static const LibraryCall sdl_calls[] = { SDL_CALLS(SDL_CALL) };
static const Library sdl_library = { "the SDL library", "libSDL2-2.0.so.0", "libsdl2-2.0-0", sdl_calls,
                                     G_N_ELEMENTS(sdl_calls) };

typedef struct SdlDisplay {
    SdlApi sdl;
    DisplayListener listener;
    MachineNotifier notifier;
    Machine *machine;
    SDL_Window *window;
    SDL_Renderer *renderer;
    SDL_Texture *texture;
    Surface *shown;
    unsigned width, height;
    unsigned mods; /* of the last key event, KMOD_* */
    bool dirty, grabbed, full_screen, no_close, show_cursor;
    bool swallow_release; /* the key of a shortcut is still down */
} SdlDisplay;

/* Keyboard usages of USB HID, which SDL's scan codes are, to evdev codes. */
static const uint8_t evdev_of_usage[] = {
    [4] = 30,   [5] = 48,   [6] = 46,   [7] = 32,   [8] = 18,   [9] = 33,   [10] = 34,  [11] = 35,  [12] = 23,  [13] = 36,  [14] = 37,  [15] = 38,
    [16] = 50,  [17] = 49,  [18] = 24,  [19] = 25,  [20] = 16,  [21] = 19,  [22] = 31,  [23] = 20,  [24] = 22,  [25] = 47,  [26] = 17,  [27] = 45,
    [28] = 21,  [29] = 44,  [30] = 2,   [31] = 3,   [32] = 4,   [33] = 5,   [34] = 6,   [35] = 7,   [36] = 8,   [37] = 9,   [38] = 10,  [39] = 11,
    [40] = 28,  [41] = 1,   [42] = 14,  [43] = 15,  [44] = 57,  [45] = 12,  [46] = 13,  [47] = 26,  [48] = 27,  [49] = 43,  [50] = 43,  [51] = 39,
    [52] = 40,  [53] = 41,  [54] = 51,  [55] = 52,  [56] = 53,  [57] = 58,  [58] = 59,  [59] = 60,  [60] = 61,  [61] = 62,  [62] = 63,  [63] = 64,
    [64] = 65,  [65] = 66,  [66] = 67,  [67] = 68,  [68] = 87,  [69] = 88,  [70] = 99,  [71] = 70,  [72] = 119, [73] = 110, [74] = 102, [75] = 104,
    [76] = 111, [77] = 107, [78] = 109, [79] = 106, [80] = 105, [81] = 108, [82] = 103, [83] = 69,  [84] = 98,  [85] = 55,  [86] = 74,  [87] = 78,
    [88] = 96,  [89] = 79,  [90] = 80,  [91] = 81,  [92] = 75,  [93] = 76,  [94] = 77,  [95] = 71,  [96] = 72,  [97] = 73,  [98] = 82,  [99] = 83,
    [100] = 86, [101] = 127, [224] = 29, [225] = 42, [226] = 56, [227] = 125, [228] = 97, [229] = 54, [230] = 100, [231] = 126,
};

static Input *input(SdlDisplay *d)
{
    return input_of(d->machine);
}

static bool on_text_console(const SdlDisplay *d)
{
    return d->listener.console && console_takes_text(d->listener.console);
}

/* --- window --- */

static void set_title(SdlDisplay *d)
{
    const char *name = d->machine->config->name;
    g_autofree char *title = g_strdup_printf("QEMU%s%s%s%s%s", name ? " (" : "", name ? name : "", name ? ")" : "",
                                             machine_running(d->machine) ? "" : " [Paused]",
                                             d->grabbed ? " - Press Ctrl-Alt-G to exit grab" : "");
    d->sdl.SetWindowTitle(d->window, title);
}

static void set_grab(SdlDisplay *d, bool grab)
{
    if (d->grabbed == grab) {
        return;
    }
    bool absolute = input_is_absolute(input(d), d->listener.console);
    d->grabbed = grab;
    d->sdl.SetWindowGrab(d->window, grab);
    d->sdl.SetRelativeMouseMode(grab && !absolute);
    d->sdl.ShowCursor(grab && !d->show_cursor ? SDL_DISABLE : SDL_ENABLE);
    set_title(d);
}

static void set_full_screen(SdlDisplay *d, bool on)
{
    d->full_screen = on;
    d->sdl.SetWindowFullscreen(d->window, on ? SDL_WINDOW_FULLSCREEN_DESKTOP : 0);
    set_grab(d, on);
}

/* A texture of the surface's size; the window follows, unless it fills the screen. */
static void fit(SdlDisplay *d, const Surface *surface)
{
    if (d->texture && d->width == surface->width && d->height == surface->height) {
        return;
    }
    if (d->texture) {
        d->sdl.DestroyTexture(d->texture);
    }
    d->width = surface->width;
    d->height = surface->height;
    d->texture = d->sdl.CreateTexture(d->renderer, SDL_PIXELFORMAT_RGB888, SDL_TEXTUREACCESS_STREAMING, (int)d->width, (int)d->height);
    if (!d->full_screen) {
        d->sdl.SetWindowSize(d->window, (int)d->width, (int)d->height);
    }
    d->sdl.RenderSetLogicalSize(d->renderer, (int)d->width, (int)d->height);
}

static void sdl_updated(DisplayListener *listener, Console *console, unsigned x, unsigned y, unsigned width, unsigned height)
{
    SdlDisplay *d = container_of(listener, SdlDisplay, listener);
    const Surface *surface = console->surface;
    SDL_Rect rect = { (int)x, (int)y, (int)width, (int)height };

    fit(d, surface);
    if (!d->texture || x + width > surface->width || y + height > surface->height) {
        return;
    }
    d->dirty = true;
    if (surface->format == PIXMAN_x8r8g8b8 || surface->format == PIXMAN_a8r8g8b8) {
        d->sdl.UpdateTexture(d->texture, &rect, surface->data + y * surface->stride + x * 4, (int)surface->stride);
        return;
    }
    pixman_image_t *plain = pixman_image_create_bits(PIXMAN_x8r8g8b8, (int)width, (int)height, NULL, 0);
    if (plain) {
        pixman_image_composite32(PIXMAN_OP_SRC, surface->image, NULL, plain, (int)x, (int)y, 0, 0, 0, 0, (int)width, (int)height);
        d->sdl.UpdateTexture(d->texture, &rect, pixman_image_get_data(plain), pixman_image_get_stride(plain));
        pixman_image_unref(plain);
    }
}

static void sdl_switched(DisplayListener *listener, Console *console)
{
    fit(container_of(listener, SdlDisplay, listener), console->surface);
}

/* --- events --- */

static void select_console(SdlDisplay *d, unsigned index)
{
    Console *console = console_find(d->machine, index);
    if (!console) {
        return;
    }
    input_release_keys(input(d));
    d->listener.console = console;
    fit(d, console->surface);
    if (console->ops->invalidate) {
        console->ops->invalidate(console->opaque);
    }
    sdl_updated(&d->listener, console, 0, 0, console->surface->width, console->surface->height);
}

static bool shortcut(SdlDisplay *d, const SDL_KeyboardEvent *key)
{
    unsigned mods = key->keysym.mod; /* SDL's present state may be ahead of the event */
    if (!(mods & KMOD_CTRL) || !(mods & KMOD_ALT) || key->repeat) {
        return false;
    }
    switch (key->keysym.scancode) {
    case SDL_SCANCODE_G:
        set_grab(d, !d->grabbed);
        return true;
    case SDL_SCANCODE_F:
        set_full_screen(d, !d->full_screen);
        return true;
    case SDL_SCANCODE_1 ... SDL_SCANCODE_9:
        select_console(d, (unsigned)(key->keysym.scancode - SDL_SCANCODE_1));
        return true;
    case SDL_SCANCODE_U: /* back to the guest's own size */
        d->sdl.SetWindowSize(d->window, (int)d->width, (int)d->height);
        return true;
    default:
        return false;
    }
}

/* Keys that make no character, for a text console; the characters come as text events. */
static void text_key_event(SdlDisplay *d, const SDL_KeyboardEvent *event, InputKey key)
{
    Console *console = d->listener.console;
    const char *sequence = text_console_key((int)key);
    unsigned mods = event->keysym.mod;
    SDL_Keycode symbol = event->keysym.sym;

    if (event->type != SDL_KEYDOWN) {
        return;
    }
    if ((mods & (KMOD_SHIFT | KMOD_CTRL)) && (key == KEY_PGUP || key == KEY_PGDN) && console->ops->scroll) {
        console->ops->scroll(console->opaque, key == KEY_PGUP ? 12 : -12);
    } else if (sequence) {
        console->ops->typed(console->opaque, sequence, strlen(sequence));
    } else if ((mods & KMOD_CTRL) && symbol >= 'a' && symbol <= 'z') {
        char control = (char)(symbol & 31);
        console->ops->typed(console->opaque, &control, 1);
    }
}

static void key_event(SdlDisplay *d, const SDL_KeyboardEvent *key)
{
    unsigned usage = key->keysym.scancode;
    bool down = key->type == SDL_KEYDOWN;

    d->mods = key->keysym.mod;
    if (down && shortcut(d, key)) {
        d->swallow_release = true;
        return;
    }
    if (!down && d->swallow_release && usage < 224) {
        d->swallow_release = false;
        return;
    }
    if (usage < ARRAY_SIZE(evdev_of_usage) && evdev_of_usage[usage]) {
        InputKey code = input_key_by_evdev(evdev_of_usage[usage]);
        if (on_text_console(d)) {
            text_key_event(d, key, code);
        } else {
            input_send_key(input(d), d->listener.console, code, down);
        }
    }
}

static void motion_event(SdlDisplay *d, const SDL_MouseMotionEvent *motion)
{
    Console *console = d->listener.console;
    if (input_is_absolute(input(d), console)) {
        input_send_abs(input(d), console, INPUT_AXIS_X, motion->x, (int)d->width);
        input_send_abs(input(d), console, INPUT_AXIS_Y, motion->y, (int)d->height);
    } else if (d->grabbed) {
        input_send_rel(input(d), console, INPUT_AXIS_X, motion->xrel);
        input_send_rel(input(d), console, INPUT_AXIS_Y, motion->yrel);
    } else {
        return;
    }
    input_sync(input(d));
}

static void button_event(SdlDisplay *d, const SDL_MouseButtonEvent *event)
{
    static const struct {
        uint8_t sdl;
        InputButton button;
    } buttons[] = { { SDL_BUTTON_LEFT, INPUT_BTN_LEFT }, { SDL_BUTTON_MIDDLE, INPUT_BTN_MIDDLE }, { SDL_BUTTON_RIGHT, INPUT_BTN_RIGHT },
                    { SDL_BUTTON_X1, INPUT_BTN_SIDE }, { SDL_BUTTON_X2, INPUT_BTN_EXTRA } };
    bool down = event->type == SDL_MOUSEBUTTONDOWN;

    if (!d->grabbed && !input_is_absolute(input(d), d->listener.console)) {
        if (down && event->button == SDL_BUTTON_LEFT) {
            set_grab(d, true);
        }
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(buttons); i++) {
        if (buttons[i].sdl == event->button) {
            input_send_btn(input(d), d->listener.console, buttons[i].button, down);
            input_sync(input(d));
        }
    }
}

static void wheel_event(SdlDisplay *d, const SDL_MouseWheelEvent *wheel)
{
    if (wheel->y) {
        InputButton button = wheel->y > 0 ? INPUT_BTN_WHEEL_UP : INPUT_BTN_WHEEL_DOWN;
        input_send_btn(input(d), d->listener.console, button, true);
        input_sync(input(d));
        input_send_btn(input(d), d->listener.console, button, false);
        input_sync(input(d));
    }
}

static void window_event(SdlDisplay *d, const SDL_WindowEvent *event)
{
    switch (event->event) {
    case SDL_WINDOWEVENT_EXPOSED:
    case SDL_WINDOWEVENT_SIZE_CHANGED:
        d->dirty = true;
        break;
    case SDL_WINDOWEVENT_FOCUS_LOST:
        input_release_keys(input(d));
        if (!d->full_screen) {
            set_grab(d, false);
        }
        break;
    default:
        break;
    }
}

static void handle_event(SdlDisplay *d, const SDL_Event *event)
{
    switch (event->type) {
    case SDL_KEYDOWN:
    case SDL_KEYUP:
        key_event(d, &event->key);
        break;
    case SDL_TEXTINPUT:
        if (on_text_console(d) && !(d->mods & KMOD_CTRL)) {
            d->listener.console->ops->typed(d->listener.console->opaque, event->text.text, strlen(event->text.text));
        }
        break;
    case SDL_MOUSEMOTION:
        motion_event(d, &event->motion);
        break;
    case SDL_MOUSEBUTTONDOWN:
    case SDL_MOUSEBUTTONUP:
        button_event(d, &event->button);
        break;
    case SDL_MOUSEWHEEL:
        wheel_event(d, &event->wheel);
        break;
    case SDL_WINDOWEVENT:
        window_event(d, &event->window);
        break;
    case SDL_QUIT:
        if (!d->no_close) {
            machine_request_shutdown(d->machine, SHUTDOWN_HOST_UI);
        }
        break;
    default:
        break;
    }
}

static void sdl_tick(DisplayListener *listener)
{
    SdlDisplay *d = container_of(listener, SdlDisplay, listener);
    SDL_Event event;

    while (d->sdl.PollEvent(&event)) {
        handle_event(d, &event);
    }
    if (d->dirty && d->texture) {
        d->dirty = false;
        d->sdl.RenderClear(d->renderer);
        d->sdl.RenderCopy(d->renderer, d->texture, NULL, NULL);
        d->sdl.RenderPresent(d->renderer);
    }
}

/* A window without a console shows the first that comes. */
static void sdl_added(DisplayListener *listener, Console *console)
{
    if (!listener->console) {
        listener->console = console;
    }
}

static void sdl_removed(DisplayListener *listener, Console *console)
{
    Console *other = console_besides(console);
    if (listener->console == console && other) {
        listener->console = other;
        fit(container_of(listener, SdlDisplay, listener), other->surface);
    }
}

static const DisplayListenerOps listener_ops = { .name = "sdl", .switched = sdl_switched, .updated = sdl_updated,
                                                 .added = sdl_added, .removed = sdl_removed, .tick = sdl_tick };

/* --- life --- */

static void close_display(SdlDisplay *d)
{
    if (d->listener.machine) {
        display_listener_remove(&d->listener);
    }
    if (d->texture) {
        d->sdl.DestroyTexture(d->texture);
    }
    if (d->renderer) {
        d->sdl.DestroyRenderer(d->renderer);
    }
    if (d->window) {
        d->sdl.DestroyWindow(d->window);
        d->sdl.QuitSubSystem(SDL_INIT_VIDEO);
    }
    g_free(d);
}

static void machine_event(MachineNotifier *notifier, MachineEvent event, void *data)
{
    SdlDisplay *d = container_of(notifier, SdlDisplay, notifier);
    if (event == MACHINE_EVENT_STATE) {
        set_title(d);
    } else if (event == MACHINE_EVENT_EXIT) {
        list_remove(&notifier->node);
        close_display(d);
    }
}

static Error *open_window(SdlDisplay *d)
{
    d->sdl.SetHint(SDL_HINT_NO_SIGNAL_HANDLERS, "1");
    if (d->sdl.Init(SDL_INIT_VIDEO)) {
        return error_hint(error_new("-display sdl: no window system: %s", d->sdl.GetError()),
                          "Is DISPLAY right? -nographic and -display none need no window.");
    }
    d->window = d->sdl.CreateWindow("QEMU", SDL_WINDOWPOS_UNDEFINED, SDL_WINDOWPOS_UNDEFINED, 640, 480, SDL_WINDOW_RESIZABLE);
    d->renderer = d->window ? d->sdl.CreateRenderer(d->window, -1, 0) : NULL;
    if (!d->renderer) {
        return error_new("-display sdl: cannot open a window: %s", d->sdl.GetError());
    }
    return NULL;
}

static Error *read_options(SdlDisplay *d, KeyValues *options, bool *ret_full_screen)
{
    bool close = true;
    TRY(keyvalues_get_bool(options, "full-screen", false, ret_full_screen));
    TRY(keyvalues_get_bool(options, "show-cursor", false, &d->show_cursor));
    TRY(keyvalues_get_bool(options, "window-close", true, &close));
    d->no_close = !close;
    return NULL;
}

static Error *sdl_start(Machine *machine, KeyValues *options)
{
    SdlDisplay *d = g_new0(SdlDisplay, 1);
    bool full_screen = false;

    d->machine = machine;
    Error *err = read_options(d, options, &full_screen);
    if (!err) {
        err = library_open(&sdl_library, &d->sdl);
        err = err ? error_prefix(err, "-display sdl: ") : NULL;
    }
    if (!err) {
        err = open_window(d);
    }
    if (err) {
        close_display(d);
        return err;
    }
    text_consoles_start(machine);
    d->listener.ops = &listener_ops;
    d->listener.console = console_find(machine, 0);
    d->notifier.fn = machine_event;
    machine_notifier_add(machine, &d->notifier);
    set_title(d);
    display_listener_add(machine, &d->listener);
    if (full_screen) {
        set_full_screen(d, true);
    }
    return NULL;
}

static bool sdl_available(void)
{
    return g_getenv("DISPLAY") || g_getenv("WAYLAND_DISPLAY");
}

static const char *const option_names[] = { "full-screen", "show-cursor", "window-close", NULL };
static const DisplayDriver driver = { "sdl", "a window by SDL 2", option_names, sdl_start, sdl_available, 10 };
DISPLAY_REGISTER(&driver);
