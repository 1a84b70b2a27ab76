/*
 * Displays: where the consoles are shown to a person. -display NAME,option=value.
 */
#ifndef OSTRICH_UI_DISPLAY_H
#define OSTRICH_UI_DISPLAY_H

#include "ui/console.h"
#include "value/keyvalues.h"

typedef struct DisplayDriver {
    const char *name, *desc;
    const char *const *options; /* names, NULL-terminated */
    /* Opens it; the driver closes itself on MACHINE_EVENT_EXIT. */
    Error *(*start)(Machine *machine, KeyValues *options);
    /* Whether it is worth trying without having been asked for. */
    bool (*available)(void);
    int preference; /* among the available ones the highest wins */
} DisplayDriver;
SECTION_DECLARE(display_drivers, DisplayDriver);
#define DISPLAY_SERVICE "display" /* the machine's const DisplayDriver *; none: no display */
#define DISPLAY_REGISTER(driver) SECTION_ENTRY(display_drivers, DisplayDriver, driver)

/* text: "sdl,full-screen=on", "none"; NULL: the best that is available, or none with a warning. Machine lock. */
Error *display_start(Machine *machine, const char *text) MUST_USE;
/* Checks the text without opening anything. */
Error *display_check(const char *text) MUST_USE;
char *display_help(void); /* caller frees */

#endif
