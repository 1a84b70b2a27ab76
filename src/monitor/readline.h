/*
 * The line editor of the monitor: bytes of a terminal in, lines out. History, completion, the usual keys
 * (arrows, Ctrl-A E B F D K U W P N L, Home, End, Delete).
 */
#ifndef OSTRICH_MONITOR_READLINE_H
#define OSTRICH_MONITOR_READLINE_H

#include "base/base.h"

typedef struct Readline Readline;

typedef struct ReadlineOps {
    void (*print)(void *opaque, const char *text);
    void (*line)(void *opaque, const char *line);
    /* Adds candidates (whole words) for the last word of text to `words`. */
    void (*complete)(void *opaque, const char *text, GPtrArray *words);
} ReadlineOps;

Readline *readline_new(const char *prompt, const ReadlineOps *ops, void *opaque);
void readline_free(Readline *readline); /* accepts NULL */
void readline_byte(Readline *readline, uint8_t byte);
/* Line n of the history, the oldest is 0; NULL: there is none. */
const char *readline_history(const Readline *readline, unsigned n);
void readline_show_prompt(Readline *readline); /* and what was typed so far */

#endif
