/*
 * Text consoles: every vc chardev becomes a console that shows what is written to it and takes what is typed.
 * Threads: the machine lock.
 */
#ifndef OSTRICH_UI_TEXT_CONSOLE_H
#define OSTRICH_UI_TEXT_CONSOLE_H

#include "ui/console.h"

/* For the vc chardevs there are and those that come. Once, when a display opens. */
void text_consoles_start(Machine *machine);
/* The bytes a terminal sends for a key that is no character (an arrow, F1, ...); NULL: none. */
const char *text_console_key(int key);

#endif
