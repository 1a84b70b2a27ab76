/* Layouts of the X keyboard database: see keymap.h. libxkbcommon is opened when one is wanted. */
#include "ui/keymap.h"

#include <xkbcommon/xkbcommon.h>

#include "base/library.h"

#define XKB_CALLS(C)                                                                               \
    C(xkb_context_new) C(xkb_context_unref) C(xkb_keymap_new_from_names) C(xkb_keymap_unref)       \
    C(xkb_keymap_key_get_syms_by_level) C(xkb_keysym_to_utf32)
typedef struct XkbApi {
    XKB_CALLS(LIBRARY_POINTER)
} XkbApi;
#define XKB_CALL(name) LIBRARY_CALL(XkbApi, name)
static const LibraryCall xkb_calls[] = { XKB_CALLS(XKB_CALL) };
static const Library xkb_library = { "the keyboard layouts", "libxkbcommon.so.0", "libxkbcommon0", xkb_calls,
                                     ARRAY_SIZE(xkb_calls) };

/* Key codes of X are evdev's and eight; levels 0 to 3 are plain, Shift, AltGr and both. */
static void fill_from_xkb(Keymap *keymap, const XkbApi *xkb, struct xkb_keymap *from)
{
    enum { X_OFFSET = 8, LAST_EVDEV = 127 };
    for (unsigned level = 0; level < 4; level++) {
        for (unsigned evdev = 1; evdev <= LAST_EVDEV; evdev++) {
            const xkb_keysym_t *syms;
            InputKey key = input_key_by_evdev(evdev);
            bool keypad = g_str_has_prefix(input_keys[key].name, "kp_");
            if (!keypad && xkb->xkb_keymap_key_get_syms_by_level(from, evdev + X_OFFSET, 0, level, &syms) == 1) {
                uint32_t unicode = xkb->xkb_keysym_to_utf32(syms[0]);
                keymap_add(keymap, unicode >= 32 && unicode != 127 ? unicode : 0, key, level);
            }
        }
    }
}

static MUST_USE Error *fill(Keymap *keymap, const char *layout, const char *variant)
{
    XkbApi xkb;
    struct xkb_rule_names names = { .model = "pc105", .layout = layout, .variant = variant };

    TRY(library_open(&xkb_library, &xkb));
    struct xkb_context *context = xkb.xkb_context_new(XKB_CONTEXT_NO_ENVIRONMENT_NAMES);
    struct xkb_keymap *from =
        context ? xkb.xkb_keymap_new_from_names(context, &names, XKB_KEYMAP_COMPILE_NO_FLAGS) : NULL;
    if (from) {
        fill_from_xkb(keymap, &xkb, from);
        xkb.xkb_keymap_unref(from);
    }
    if (context) {
        xkb.xkb_context_unref(context);
    }
    return from ? NULL : error_new("the X keyboard database has no layout '%s' (package xkb-data)", layout);
}

static const KeymapSource source = { fill };
SECTION_ENTRY(keymap_sources, KeymapSource, &source);
