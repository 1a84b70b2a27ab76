/*
 * The consoles on a terminal, by ncurses: text screens with their colours, keyboard, Alt-1 to Alt-9 for the console to
 * look at. A guest in a graphics mode is told of in words. Terminals say which character was typed, not which key was
 * pressed: the layout (-k) turns characters into keys, each pressed and released at once.
 *
 * The library is opened when the display is wanted. Missing: the mouse.
 */
#include <errno.h>
#include <iconv.h>
#include <locale.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include "chardev/chardev.h"
#include "input/input.h"
#include "ui/cp437.h"
#include "ui/display.h"
#include "ui/keymap.h"
#include "ui/text_console.h"

/* ncurses has macros of the same names as our keys: these are the keys from here on. */
enum {
#define K(symbol, ...) GUEST_##symbol = KEY_##symbol,
    INPUT_KEYS(K)
#undef K
};

#define NCURSES_NOMACROS 1
#define NCURSES_WIDECHAR 1
#include <curses.h>

#include "base/library.h"

#define CURSES_CALLS(C)                                                                            \
    C(newterm) C(delscreen) C(endwin) C(raw) C(noecho) C(nonl) C(keypad) C(nodelay) C(newwin) C(delwin) C(wget_wch)  \
    C(has_colors) C(start_color) C(init_pair) C(tigetnum) C(setcchar) C(mvwadd_wch) C(wmove) C(curs_set) C(werase)   \
    C(wrefresh) C(resizeterm) C(set_escdelay) C(clearok) C(erasechar)
typedef struct CursesApi {
    CURSES_CALLS(LIBRARY_POINTER)
} CursesApi;
#define CURSES_CALL(name) LIBRARY_CALL(CursesApi, name)
static const LibraryCall curses_calls[] = { CURSES_CALLS(CURSES_CALL) };
static const Library curses_library = { "ncurses", "libncursesw.so.6", "libncursesw6", curses_calls,
                                        ARRAY_SIZE(curses_calls) };

typedef struct Curses {
    CursesApi api;
    DisplayListener listener;
    MachineNotifier notifier;
    Machine *machine;
    Chardevs *chardevs; /* whose standard input and output is taken; NULL: not yet */
    Keymap *keymap;
    SCREEN *screen;
    WINDOW *window;
    LoopFd *input;
    unsigned rows, columns;
    wchar_t glyph[256]; /* by the guest's characters */
    bool colours, bright_colours, dirty;
} Curses;

/* --- screen --- */

/* The colour numbers of terminals have red in bit 0, those of PC screens blue. */
static short terminal_colour(unsigned pc)
{
    return (short)((pc & 2) | (pc & 1) << 2 | (pc >> 2 & 1) | (pc & 8));
}

static void make_colours(Curses *c)
{
    c->colours = c->api.has_colors() && c->api.start_color() == OK;
    int colours = c->api.tigetnum("colors"), pairs = c->api.tigetnum("pairs");
    c->bright_colours = colours >= 16 && pairs >= 256;
    for (unsigned attr = 1; c->colours && attr < 256; attr++) {
        if (c->bright_colours || !(attr & 0x88)) {
            c->api.init_pair((short)attr, terminal_colour(attr & 15), terminal_colour(attr >> 4));
        }
    }
}

static void put_cell(Curses *c, unsigned y, unsigned x, TextCell cell)
{
    wchar_t text[2] = { c->glyph[cell.ch], 0 };
    attr_t attrs = 0;
    short pair = 0;
    cchar_t out;

    if (c->bright_colours) {
        pair = cell.attr;
    } else {
        pair = c->colours ? cell.attr & 0x77 : 0;
        attrs = cell.attr & 8 ? A_BOLD : 0;
        if (!c->colours && (cell.attr >> 4 & 7) > (cell.attr & 7u)) {
            attrs |= A_REVERSE;
        }
    }
    /* Pair 0 is the terminal's own colours, not black on black; nothing is to be seen of that either way. */
    if (pair == 0 && c->colours && cell.attr == 0) {
        text[0] = ' ';
    }
    c->api.setcchar(&out, text, attrs, pair, NULL);
    c->api.mvwadd_wch(c->window, (int)y, (int)x, &out);
}

/* Where to start so that the cursor is in view, and the text in the middle when there is room. */
static int place(unsigned there, unsigned wanted, int cursor)
{
    if (wanted <= there) {
        return -(int)((there - wanted) / 2);
    }
    return cursor >= (int)there ? MIN(cursor - (int)there + 1, (int)(wanted - there)) : 0;
}

static void draw_text(Curses *c, const TextScreen *text)
{
    int left = place(c->columns, text->columns, text->cursor_x), top = place(c->rows, text->rows, text->cursor_y);
    for (int y = 0; y < (int)c->rows; y++) {
        for (int x = 0; x < (int)c->columns; x++) {
            int from_x = x + left, from_y = y + top;
            if (from_x >= 0 && from_y >= 0 && from_x < (int)text->columns && from_y < (int)text->rows) {
                put_cell(c, (unsigned)y, (unsigned)x, text->cells[from_y * (int)text->columns + from_x]);
            }
        }
    }
    bool on = text->cursor_x >= 0 && text->cursor_y >= 0;
    c->api.curs_set(on);
    if (on) {
        c->api.wmove(c->window, text->cursor_y - top, text->cursor_x - left);
    }
}

static void draw_words(Curses *c, const char *words)
{
    size_t length = strlen(words);
    for (size_t n = 0; n < length && n < c->columns; n++) {
        put_cell(c, c->rows / 2, (unsigned)((c->columns - MIN(length, c->columns)) / 2 + n), (TextCell) { (uint8_t)words[n], 7 });
    }
    c->api.curs_set(0);
}

static void draw(Curses *c)
{
    Console *console = c->listener.console;
    TextScreen text = { 0 };

    c->api.werase(c->window);
    if (!console) {
        draw_words(c, "[the machine has no display]");
    } else if (console_text(console, &text)) {
        draw_text(c, &text);
    } else if (console->placeholder) {
        draw_words(c, "[the guest has not used the display yet]");
    } else {
        g_autofree char *words = g_strdup_printf("[%ux%u pixels: a graphics mode, which a terminal cannot show]",
                                                 console->surface->width, console->surface->height);
        draw_words(c, words);
    }
    text_screen_free(&text);
    c->api.wrefresh(c->window);
}

static void follow_size(Curses *c)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_row || !size.ws_col ||
        (size.ws_row == c->rows && size.ws_col == c->columns)) {
        return;
    }
    c->rows = size.ws_row;
    c->columns = size.ws_col;
    c->api.resizeterm(size.ws_row, size.ws_col);
    c->api.clearok(c->window, TRUE);
    c->dirty = true;
}

/* --- keyboard --- */

/* Pasted text comes faster than a guest reads its keyboard, whose buffer is short: the queue paces it. */
static void press(Curses *c, unsigned key, unsigned modifiers, bool ctrl, bool alt)
{
    enum { HOLD_MS = 8 };
    InputKey keys[5];
    unsigned count = 0;

    if (ctrl) {
        keys[count++] = (InputKey)GUEST_CTRL;
    }
    if (alt) {
        keys[count++] = (InputKey)GUEST_ALT;
    }
    if (modifiers & KEYMAP_SHIFT) {
        keys[count++] = (InputKey)GUEST_SHIFT;
    }
    if (modifiers & KEYMAP_ALTGR) {
        keys[count++] = (InputKey)GUEST_ALT_R;
    }
    keys[count++] = (InputKey)key;
    input_queue_keys(input_of(c->machine), keys, count, HOLD_MS);
}

/* What ncurses calls a key, the key, and what is held with it. */
static bool function_key(unsigned code, unsigned *ret_key, unsigned *ret_modifiers, bool *ret_ctrl, bool *ret_alt)
{
    static const struct {
        unsigned code;
        uint16_t key;
        bool shift;
    } keys[] = {
        { KEY_UP, GUEST_UP },          { KEY_DOWN, GUEST_DOWN },     { KEY_LEFT, GUEST_LEFT },
        { KEY_RIGHT, GUEST_RIGHT },    { KEY_HOME, GUEST_HOME },     { KEY_END, GUEST_END },
        { KEY_PPAGE, GUEST_PGUP },     { KEY_NPAGE, GUEST_PGDN },    { KEY_IC, GUEST_INSERT },
        { KEY_DC, GUEST_DELETE },      { KEY_ENTER, GUEST_KP_ENTER }, { KEY_BACKSPACE, GUEST_BACKSPACE },
        { KEY_PRINT, GUEST_PRINT },    { KEY_B2, GUEST_KP_5 },       { KEY_A1, GUEST_HOME },
        { KEY_A3, GUEST_PGUP },        { KEY_C1, GUEST_END },        { KEY_C3, GUEST_PGDN },
        { KEY_BTAB, GUEST_TAB, true }, { KEY_SLEFT, GUEST_LEFT, true }, { KEY_SRIGHT, GUEST_RIGHT, true },
        { KEY_SR, GUEST_UP, true },    { KEY_SF, GUEST_DOWN, true }, { KEY_SHOME, GUEST_HOME, true },
        { KEY_SEND, GUEST_END, true }, { KEY_SDC, GUEST_DELETE, true }, { KEY_SIC, GUEST_INSERT, true },
        { KEY_SPREVIOUS, GUEST_PGUP, true }, { KEY_SNEXT, GUEST_PGDN, true },
    };
    *ret_modifiers = 0;
    *ret_ctrl = *ret_alt = false;
    if (code > KEY_F0 && code <= KEY_F(60)) {
        /* Terminals number F1 with Shift 13, with Ctrl 25, with both 37, with Alt 49. */
        unsigned n = code - KEY_F(1), group = n / 12;
        *ret_key = n % 12 < 10 ? GUEST_F1 + n % 12 : GUEST_F11 + n % 12 - 10;
        *ret_modifiers = group == 1 || group == 3 ? KEYMAP_SHIFT : 0;
        *ret_ctrl = group == 2 || group == 3;
        *ret_alt = group == 4;
        return true;
    }
    for (size_t n = 0; n < ARRAY_SIZE(keys); n++) {
        if (keys[n].code == code) {
            *ret_key = keys[n].key;
            *ret_modifiers = keys[n].shift ? KEYMAP_SHIFT : 0;
            return true;
        }
    }
    return false;
}

/* A control character as the key and Ctrl; what has a key of its own is that. */
static void control_key(Curses *c, wint_t byte, bool alt)
{
    InputKey key;
    unsigned modifiers = 0;

    if (byte == 127 || byte == (unsigned char)c->api.erasechar()) {
        press(c, GUEST_BACKSPACE, 0, false, alt);
    } else if (byte == '\r' || byte == '\n') {
        press(c, GUEST_RET, 0, false, alt);
    } else if (byte == '\t') {
        press(c, GUEST_TAB, 0, false, alt);
    } else if (byte == 033) {
        press(c, GUEST_ESC, 0, false, alt);
    } else if (byte == 0) {
        press(c, GUEST_SPC, 0, true, alt);
    } else if (keymap_find(c->keymap, byte <= 26 ? byte + 'a' - 1 : byte + 64, &key, &modifiers)) {
        press(c, key, modifiers, true, alt);
    }
}

static void to_guest(Curses *c, wint_t code, bool is_function, bool alt)
{
    InputKey of_character;
    unsigned key, modifiers;
    bool ctrl, with_alt;

    if (is_function) {
        if (function_key(code, &key, &modifiers, &ctrl, &with_alt)) {
            press(c, key, modifiers, ctrl, alt || with_alt);
        }
    } else if (code < 32 || code == 127) {
        control_key(c, code, alt);
    } else if (keymap_find(c->keymap, code, &of_character, &modifiers)) {
        press(c, of_character, modifiers, false, alt);
    }
}

static void to_text_console(Curses *c, wint_t code, bool is_function, bool alt)
{
    const ConsoleOps *ops = c->listener.console->ops;
    unsigned key, modifiers;
    bool ctrl, with_alt;
    char text[8];

    if (is_function && function_key(code, &key, &modifiers, &ctrl, &with_alt)) {
        const char *sequence = text_console_key((int)key);
        if (modifiers && ops->scroll && (key == GUEST_PGUP || key == GUEST_PGDN)) {
            ops->scroll(c->listener.console->opaque, key == GUEST_PGUP ? 12 : -12);
        } else if (sequence) {
            ops->typed(c->listener.console->opaque, sequence, strlen(sequence));
        }
    } else if (!is_function) {
        if (alt) {
            ops->typed(c->listener.console->opaque, "\033", 1);
        }
        ops->typed(c->listener.console->opaque, text, (size_t)g_unichar_to_utf8(code, text));
    }
}

static void select_console(Curses *c, unsigned index)
{
    Console *console = console_find(c->machine, index);
    if (console) {
        c->listener.console = console;
        if (console->ops->invalidate) {
            console->ops->invalidate(console->opaque);
        }
        console_refresh(console);
        c->api.clearok(c->window, TRUE);
        c->dirty = true;
    }
}

static void key_typed(Curses *c, wint_t code, bool is_function, bool alt)
{
    if (is_function && code == KEY_RESIZE) {
        return; /* follow_size() has seen it or will */
    }
    if (alt && !is_function && code >= '1' && code <= '9') {
        select_console(c, code - '1');
    } else if (c->listener.console && console_takes_text(c->listener.console)) {
        to_text_console(c, code, is_function, alt);
    } else {
        to_guest(c, code, is_function, alt);
    }
    c->dirty = true;
}

static void read_keys(void *opaque, unsigned events)
{
    enum { BUDGET = 256 };
    Curses *c = opaque;
    wint_t code;

    if (events & LOOP_HANGUP) {
        loop_mod_fd(c->input, 0);
        machine_request_shutdown(c->machine, SHUTDOWN_HOST_UI);
        return;
    }
    for (unsigned n = 0; n < BUDGET; n++) {
        bool alt = false;
        int kind = c->api.wget_wch(c->window, &code);
        if (kind == OK && code == 033) {
            /* Alt with a key comes as Escape and the key in one go. */
            wint_t next;
            int next_kind = c->api.wget_wch(c->window, &next);
            if (next_kind != ERR) {
                alt = true;
                code = next;
                kind = next_kind;
            }
        }
        if (kind == ERR) {
            break;
        }
        key_typed(c, code, kind == KEY_CODE_YES, alt);
    }
}

/* --- listener --- */

static void curses_switched(DisplayListener *listener, Console *console)
{
    container_of(listener, Curses, listener)->dirty = true;
}

static void curses_updated(DisplayListener *listener, Console *console, unsigned x, unsigned y, unsigned width,
                           unsigned height)
{
    container_of(listener, Curses, listener)->dirty = true;
}

static void curses_added(DisplayListener *listener, Console *console)
{
    if (!listener->console) {
        listener->console = console;
    }
}

static void curses_removed(DisplayListener *listener, Console *console)
{
    if (listener->console == console && console_besides(console)) {
        listener->console = console_besides(console);
    }
    container_of(listener, Curses, listener)->dirty = true;
}

static void curses_tick(DisplayListener *listener)
{
    Curses *c = container_of(listener, Curses, listener);
    follow_size(c);
    if (c->dirty) {
        c->dirty = false;
        draw(c);
    }
}

static const DisplayListenerOps listener_ops = {
    .name = "curses", .switched = curses_switched, .updated = curses_updated, .added = curses_added,
    .removed = curses_removed, .tick = curses_tick,
};

/* --- life --- */

static void curses_close(Curses *c)
{
    if (c->listener.machine) {
        display_listener_remove(&c->listener);
    }
    loop_del_fd(c->input);
    if (c->window) {
        c->api.delwin(c->window);
    }
    if (c->screen) {
        c->api.endwin();
        c->api.delscreen(c->screen);
    }
    if (c->chardevs) {
        chardevs_give_stdio(c->chardevs);
    }
    keymap_free(c->keymap);
    g_free(c);
}

static void machine_event(MachineNotifier *notifier, MachineEvent event, void *data)
{
    if (event == MACHINE_EVENT_EXIT) {
        Curses *c = container_of(notifier, Curses, notifier);
        c->chardevs = NULL; /* gone already */
        list_remove(&notifier->node);
        curses_close(c);
    }
}

/* What a character looks like that the terminal's own character set lacks. */
static wchar_t replacement(uint8_t ch)
{
    if (ch >= 0xb0 && ch <= 0xb2) {
        return '#';
    }
    if (ch >= 0xb3 && ch <= 0xdf) {
        return ch == 0xb3 || ch == 0xba ? '|' : ch == 0xc4 || ch == 0xcd ? '-' : ch >= 0xdb ? '#' : '+';
    }
    return ch < 32 ? ' ' : '?';
}

/* Fills the table of glyphs: the guest's 8-bit characters by their Unicode numbers. */
static MUST_USE Error *make_glyphs(Curses *c, const char *charset)
{
    iconv_t convert = (iconv_t)-1;
    bool own = !charset || !g_ascii_strcasecmp(charset, "CP437");

    if (!own && (convert = iconv_open("UCS-4LE", charset)) == (iconv_t)-1) {
        return error_new("-display curses: the character set '%s' is not known (iconv -l lists them)", charset);
    }
    for (unsigned ch = 0; ch < 256; ch++) {
        uint8_t out[4] = { 0 };
        char in = (char)ch, *from = &in, *to = (char *)out;
        size_t from_left = 1, to_left = sizeof(out);
        uint32_t unicode = cp437_unicode[ch];
        if (!own && ch >= 128) {
            bool good = iconv(convert, &from, &from_left, &to, &to_left) != (size_t)-1 && to_left == 0;
            unicode = good ? out[0] | out[1] << 8 | out[2] << 16 : '?';
        }
        mbstate_t state = { 0 };
        char encoded[16];
        bool shown = wcrtomb(encoded, (wchar_t)unicode, &state) != (size_t)-1;
        c->glyph[ch] = shown ? (wchar_t)unicode : replacement((uint8_t)ch);
    }
    if (!own) {
        iconv_close(convert);
    }
    return NULL;
}

static MUST_USE Error *open_terminal(Curses *c)
{
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        return error_hint(error_new("-display curses: standard input and output are not a terminal"),
                          "-nographic and -display none need no terminal.");
    }
    Chardevs *chardevs = machine_service(c->machine, "chardevs");
    if (chardevs) {
        TRY(chardevs_take_stdio(chardevs, "-display curses"));
        c->chardevs = chardevs;
    }
    c->screen = c->api.newterm(NULL, stdout, stdin);
    if (!c->screen) {
        return error_new("-display curses: the terminal type '%s' is not known (package ncurses-term has many)",
                         g_getenv("TERM") ? g_getenv("TERM") : "");
    }
    c->api.raw();
    c->api.noecho();
    c->api.nonl();
    c->window = c->api.newwin(0, 0, 0, 0);
    c->api.keypad(c->window, TRUE);
    c->api.nodelay(c->window, TRUE);
    c->api.set_escdelay(5);
    make_colours(c);
    return NULL;
}

static MUST_USE Error *open_display(Curses *c, KeyValues *options)
{
    TRY(library_open(&curses_library, &c->api));
    setlocale(LC_CTYPE, "");
    TRY(make_glyphs(c, keyvalues_get(options, "charset")));
    TRY(keymap_new(c->machine->config->keyboard_layout, &c->keymap));
    return open_terminal(c);
}

static Error *curses_start(Machine *machine, KeyValues *options)
{
    Curses *c = g_new0(Curses, 1);

    c->machine = machine;
    Error *err = open_display(c, options);
    if (err) {
        curses_close(c);
        return err;
    }
    text_consoles_start(machine);
    c->listener.ops = &listener_ops;
    c->listener.console = console_find(machine, 0);
    c->notifier.fn = machine_event;
    machine_notifier_add(machine, &c->notifier);
    follow_size(c);
    c->dirty = true;
    display_listener_add(machine, &c->listener);
    c->input = loop_add_fd(machine->loop, STDIN_FILENO, LOOP_READ, read_keys, c);
    return NULL;
}

static const char *const option_names[] = { "charset", NULL };
static const DisplayDriver driver = { "curses", "the terminal, by ncurses", option_names, curses_start, NULL, 0 };
DISPLAY_REGISTER(&driver);
