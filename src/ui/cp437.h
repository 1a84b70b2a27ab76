/* Code page 437, the character set of PC text screens. */
#ifndef OSTRICH_UI_CP437_H
#define OSTRICH_UI_CP437_H

#include "base/base.h"

/* What each byte looks like on the screen, also those below 32. */
extern const uint16_t cp437_unicode[256];
/* The byte for a character, -1: there is none. */
int cp437_of_unicode(uint32_t unicode);

#endif
