/*
 * A terminal in memory: takes what a program writes to a terminal and keeps the screen as character cells.
 *
 * Understood: the C0 controls, UTF-8 (what code page 437 lacks becomes '?'), and of ECMA-48 and the VT100
 * cursor movement, erasing, inserting and deleting, the scrolling region, colours and attributes, saving of the
 * cursor. Other sequences are swallowed whole.
 */
#ifndef OSTRICH_UI_VT_H
#define OSTRICH_UI_VT_H

#include "ui/console.h"

enum { VT_COLUMNS_MAX = 1000, VT_ROWS_MAX = 1000, VT_HISTORY = 500 };

typedef struct Vt Vt;

/* Sizes are clamped to 1..VT_*_MAX. answer: what the program asked for (cursor position); may be NULL. */
Vt *vt_new(unsigned columns, unsigned rows, void (*answer)(void *opaque, const char *text), void *opaque);
void vt_free(Vt *vt); /* accepts NULL */
void vt_write(Vt *vt, const uint8_t *buf, size_t length);
unsigned vt_columns(const Vt *vt);
unsigned vt_rows(const Vt *vt);
/* Shows older lines: by so many rows, negative towards the newest. Output goes back to the newest. */
void vt_scroll_view(Vt *vt, int rows);
/* The row as it is to be shown. */
const TextCell *vt_row(const Vt *vt, unsigned y);
/* False: the cursor is hidden. */
bool vt_cursor(const Vt *vt, unsigned *ret_x, unsigned *ret_y);

#endif
