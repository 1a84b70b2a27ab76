/* A font for text that the emulator itself draws. */
#ifndef OSTRICH_UI_FONT_H
#define OSTRICH_UI_FONT_H

#include "base/base.h"

enum { FONT_WIDTH = 8, FONT_HEIGHT = 16 };

extern const uint8_t font_glyphs[256][FONT_HEIGHT]; /* by code page 437 byte */

#endif
