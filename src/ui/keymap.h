/*
 * Keyboard layouts: which keys make a character, for displays that hear of characters (terminals, VNC clients without
 * key codes). "en-us" is built in; the others come from the X keyboard database through libxkbcommon.
 */
#ifndef OSTRICH_UI_KEYMAP_H
#define OSTRICH_UI_KEYMAP_H

#include "base/error.h"
#include "input/keys.h"

typedef struct Keymap Keymap;

enum { KEYMAP_SHIFT = BIT(0), KEYMAP_ALTGR = BIT(1) };

/* The names that -k takes ("de", "fr-ch", ...), NULL-terminated. */
extern const char *const keymap_names[];
/* Whether there is such a layout, without opening it. */
Error *keymap_check(const char *name) MUST_USE;
/* name NULL: "en-us". */
Error *keymap_new(const char *name, Keymap **ret_keymap) MUST_USE;
void keymap_free(Keymap *keymap); /* accepts NULL */
/* False: no key makes it. */
bool keymap_find(const Keymap *keymap, uint32_t unicode, InputKey *ret_key, unsigned *ret_modifiers);

/* --- for what knows layouts --- */
/* The first key given for a character stays, unless a later one needs fewer modifiers. */
void keymap_add(Keymap *keymap, uint32_t unicode, InputKey key, unsigned modifiers);
typedef struct KeymapSource {
    /* By the names of the X keyboard database; variant may be NULL. */
    Error *(*fill)(Keymap *keymap, const char *layout, const char *variant);
} KeymapSource;
SECTION_DECLARE(keymap_sources, KeymapSource);

#endif
