#include "monitor/readline.h"

#include <stdlib.h>
#include <string.h>

enum { LINE_MAX_BYTES = 4095, HISTORY_MAX = 64 };

struct Readline {
    const ReadlineOps *ops;
    void *opaque;
    char *prompt;
    GString *line;
    size_t cursor;
    GPtrArray *history;
    int history_at; /* -1: the new line */
    char *draft;    /* the new line while history is shown */
    enum { KEY_PLAIN, KEY_ESC, KEY_CSI, KEY_SS3 } state;
    unsigned csi;
    bool was_cr;
};

Readline *readline_new(const char *prompt, const ReadlineOps *ops, void *opaque)
{
    Readline *rl = g_new0(Readline, 1);
    rl->ops = ops;
    rl->opaque = opaque;
    rl->prompt = g_strdup(prompt);
    rl->line = g_string_new(NULL);
    rl->history = g_ptr_array_new_with_free_func(g_free);
    rl->history_at = -1;
    return rl;
}

void readline_free(Readline *rl)
{
    if (rl) {
        g_free(rl->prompt);
        g_free(rl->draft);
        g_string_free(rl->line, TRUE);
        g_ptr_array_unref(rl->history);
        g_free(rl);
    }
}

const char *readline_history(const Readline *rl, unsigned n)
{
    return n < rl->history->len ? g_ptr_array_index(rl->history, n) : NULL;
}

static void print(Readline *rl, const char *text)
{
    rl->ops->print(rl->opaque, text);
}

void readline_show_prompt(Readline *rl)
{
    print(rl, rl->prompt);
    print(rl, rl->line->str);
    rl->cursor = rl->line->len;
}

/* Redraws from the cursor: the rest of the line, nothing behind it, the cursor back in its place. */
static void redraw_tail(Readline *rl)
{
    print(rl, rl->line->str + rl->cursor);
    print(rl, "\033[K");
    for (size_t n = rl->cursor; n < rl->line->len; n++) {
        print(rl, "\033[D");
    }
}

static void move_to(Readline *rl, size_t cursor)
{
    while (rl->cursor > cursor) {
        print(rl, "\033[D");
        rl->cursor--;
    }
    while (rl->cursor < cursor) {
        print(rl, "\033[C");
        rl->cursor++;
    }
}

static void insert(Readline *rl, const char *text)
{
    size_t length = strlen(text);

    if (rl->line->len + length > LINE_MAX_BYTES) {
        return;
    }
    g_string_insert(rl->line, (gssize)rl->cursor, text);
    print(rl, text);
    rl->cursor += length;
    if (rl->cursor < rl->line->len) {
        redraw_tail(rl);
    }
}

static void erase(Readline *rl, size_t from, size_t to)
{
    if (from < to) {
        move_to(rl, from);
        g_string_erase(rl->line, (gssize)from, (gssize)(to - from));
        redraw_tail(rl);
    }
}

static void replace_line(Readline *rl, const char *text)
{
    move_to(rl, 0);
    g_string_assign(rl->line, text);
    print(rl, rl->line->str);
    print(rl, "\033[K");
    rl->cursor = rl->line->len;
}

static size_t word_start(const Readline *rl)
{
    size_t at = rl->cursor;
    while (at > 0 && rl->line->str[at - 1] == ' ') {
        at--;
    }
    while (at > 0 && rl->line->str[at - 1] != ' ') {
        at--;
    }
    return at;
}

static void show_history(Readline *rl, int at)
{
    if (at < -1 || at >= (int)rl->history->len || at == rl->history_at) {
        return;
    }
    if (rl->history_at < 0) {
        g_free(rl->draft);
        rl->draft = g_strdup(rl->line->str);
    }
    rl->history_at = at;
    replace_line(rl, at < 0 ? rl->draft : g_ptr_array_index(rl->history, rl->history->len - 1 - (guint)at));
}

static void remember(Readline *rl, const char *line)
{
    guint count = rl->history->len;

    if (!*line || (count && !strcmp(g_ptr_array_index(rl->history, count - 1), line))) {
        return;
    }
    if (count == HISTORY_MAX) {
        g_ptr_array_remove_index(rl->history, 0);
    }
    g_ptr_array_add(rl->history, g_strdup(line));
}

static void enter(Readline *rl)
{
    g_autofree char *line = g_strdup(rl->line->str);

    print(rl, "\n");
    remember(rl, line);
    rl->history_at = -1;
    g_string_truncate(rl->line, 0);
    rl->cursor = 0;
    rl->ops->line(rl->opaque, line);
}

/* --- completion --- */

static int compare_words(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static size_t common_prefix(const GPtrArray *words)
{
    const char *first = g_ptr_array_index(words, 0);
    size_t length = strlen(first);

    for (guint n = 1; n < words->len; n++) {
        const char *word = g_ptr_array_index(words, n);
        size_t same = 0;
        while (same < length && word[same] == first[same]) {
            same++;
        }
        length = same;
    }
    return length;
}

static void list_words(Readline *rl, const GPtrArray *words)
{
    size_t width = 0, column = 0;

    for (guint n = 0; n < words->len; n++) {
        width = MAX(width, strlen(g_ptr_array_index(words, n)));
    }
    width = MIN(width + 2, 40);
    print(rl, "\n");
    for (guint n = 0; n < words->len; n++) {
        g_autofree char *cell = g_strdup_printf("%-*s", (int)width, (char *)g_ptr_array_index(words, n));
        print(rl, cell);
        column += width;
        if (column + width > 80 || n + 1 == words->len) {
            print(rl, "\n");
            column = 0;
        }
    }
    readline_show_prompt(rl);
}

static void complete(Readline *rl)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *text = g_strndup(rl->line->str, rl->cursor);
    const char *space = strrchr(text, ' ');
    size_t typed = strlen(space ? space + 1 : text);

    rl->ops->complete(rl->opaque, text, words);
    if (words->len == 0) {
        return;
    }
    g_ptr_array_sort(words, compare_words);
    size_t common = common_prefix(words);
    if (common > typed) {
        g_autofree char *rest = g_strndup((char *)g_ptr_array_index(words, 0) + typed, common - typed);
        insert(rl, rest);
    }
    if (words->len == 1) {
        size_t length = strlen(g_ptr_array_index(words, 0));
        if (length && ((char *)g_ptr_array_index(words, 0))[length - 1] != '/') {
            insert(rl, " ");
        }
    } else if (common <= typed) {
        list_words(rl, words);
    }
}

/* --- keys --- */

static void final_of_csi(Readline *rl, uint8_t byte)
{
    switch (byte) {
    case 'A':
        show_history(rl, rl->history_at + 1);
        break;
    case 'B':
        show_history(rl, rl->history_at - 1);
        break;
    case 'C':
        move_to(rl, MIN(rl->cursor + 1, rl->line->len));
        break;
    case 'D':
        move_to(rl, rl->cursor ? rl->cursor - 1 : 0);
        break;
    case 'H':
        move_to(rl, 0);
        break;
    case 'F':
        move_to(rl, rl->line->len);
        break;
    case '~':
        if (rl->csi == 1 || rl->csi == 7) {
            move_to(rl, 0);
        } else if (rl->csi == 4 || rl->csi == 8) {
            move_to(rl, rl->line->len);
        } else if (rl->csi == 3) {
            erase(rl, rl->cursor, MIN(rl->cursor + 1, rl->line->len));
        }
        break;
    }
}

static void control_key(Readline *rl, uint8_t byte)
{
    switch (byte) {
    case 'A' - '@':
        move_to(rl, 0);
        break;
    case 'B' - '@':
        move_to(rl, rl->cursor ? rl->cursor - 1 : 0);
        break;
    case 'D' - '@':
        erase(rl, rl->cursor, MIN(rl->cursor + 1, rl->line->len));
        break;
    case 'E' - '@':
        move_to(rl, rl->line->len);
        break;
    case 'F' - '@':
        move_to(rl, MIN(rl->cursor + 1, rl->line->len));
        break;
    case 'H' - '@':
        erase(rl, rl->cursor ? rl->cursor - 1 : 0, rl->cursor);
        break;
    case 'I' - '@':
        complete(rl);
        break;
    case 'K' - '@':
        erase(rl, rl->cursor, rl->line->len);
        break;
    case 'L' - '@':
        print(rl, "\033[2J\033[H");
        readline_show_prompt(rl);
        break;
    case 'N' - '@':
        show_history(rl, rl->history_at - 1);
        break;
    case 'P' - '@':
        show_history(rl, rl->history_at + 1);
        break;
    case 'U' - '@':
        erase(rl, 0, rl->cursor);
        break;
    case 'W' - '@':
        erase(rl, word_start(rl), rl->cursor);
        break;
    case 27:
        rl->state = KEY_ESC;
        break;
    }
}

static void plain_key(Readline *rl, uint8_t byte)
{
    if (byte == '\r' || (byte == '\n' && !rl->was_cr)) {
        enter(rl);
    } else if (byte == 127) {
        erase(rl, rl->cursor ? rl->cursor - 1 : 0, rl->cursor);
    } else if (byte < 32) {
        control_key(rl, byte);
    } else {
        char text[2] = { (char)byte, 0 };
        insert(rl, text);
    }
}

void readline_byte(Readline *rl, uint8_t byte)
{
    switch (rl->state) {
    case KEY_PLAIN:
        plain_key(rl, byte);
        rl->was_cr = byte == '\r';
        break;
    case KEY_ESC:
        rl->state = byte == '[' ? KEY_CSI : byte == 'O' ? KEY_SS3 : KEY_PLAIN;
        rl->csi = 0;
        break;
    case KEY_CSI:
        if (byte >= '0' && byte <= '9') {
            rl->csi = MIN(rl->csi * 10 + (byte - '0'), 999);
        } else if (byte != ';') {
            rl->state = KEY_PLAIN;
            final_of_csi(rl, byte);
        }
        break;
    case KEY_SS3:
        rl->state = KEY_PLAIN;
        final_of_csi(rl, byte);
        break;
    }
}
