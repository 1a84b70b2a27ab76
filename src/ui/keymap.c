/* Keyboard layouts: see keymap.h. */
#include "ui/keymap.h"

#include <string.h>

typedef struct KeymapEntry {
    uint16_t key;
    uint8_t modifiers;
} KeymapEntry;

struct Keymap {
    GHashTable *by_unicode; /* KeymapEntry, by code point */
};

/* QEMU's names and those of the X keyboard database. */
static const struct {
    const char *name, *layout, *variant;
} layouts[] = {
    { "ar", "ara", NULL },   { "bepo", "fr", "bepo" }, { "cz", "cz", NULL },    { "da", "dk", NULL },
    { "de", "de", NULL },    { "de-ch", "ch", NULL },  { "en-gb", "gb", NULL }, { "en-us", NULL, NULL },
    { "es", "es", NULL },    { "et", "ee", NULL },     { "fi", "fi", NULL },    { "fo", "fo", NULL },
    { "fr", "fr", NULL },    { "fr-be", "be", NULL },  { "fr-ca", "ca", NULL }, { "fr-ch", "ch", "fr" },
    { "hr", "hr", NULL },    { "hu", "hu", NULL },     { "is", "is", NULL },    { "it", "it", NULL },
    { "ja", "jp", NULL },    { "lt", "lt", NULL },     { "lv", "lv", NULL },    { "mk", "mk", NULL },
    { "nl", "nl", NULL },    { "no", "no", NULL },     { "pl", "pl", NULL },    { "pt", "pt", NULL },
    { "pt-br", "br", NULL }, { "ru", "ru", NULL },     { "sl", "si", NULL },    { "sv", "se", NULL },
    { "th", "th", NULL },    { "tr", "tr", NULL },
};

const char *const keymap_names[ARRAY_SIZE(layouts) + 1] = {
    "ar", "bepo", "cz", "da", "de", "de-ch", "en-gb", "en-us", "es", "et", "fi", "fo", "fr", "fr-be", "fr-ca", "fr-ch", "hr",
    "hu", "is", "it", "ja", "lt", "lv", "mk", "nl", "no", "pl", "pt", "pt-br", "ru", "sl", "sv", "th", "tr",
};

Error *keymap_check(const char *name)
{
    if (g_strv_contains(keymap_names, name)) {
        return NULL;
    }
    const char *near = nearest_in(name, keymap_names);
    g_autofree char *all = g_strjoinv(", ", (char **)keymap_names);
    return near ? error_new("there is no keyboard layout '%s', did you mean '%s'?", name, near)
                : error_new("there is no keyboard layout '%s'; there are: %s", name, all);
}

/* The first key found for a character stays, and one without modifiers is better than one with. */
void keymap_add(Keymap *keymap, uint32_t unicode, InputKey key, unsigned modifiers)
{
    KeymapEntry *entry = g_hash_table_lookup(keymap->by_unicode, GUINT_TO_POINTER(unicode));
    if (unicode == 0 || key == KEY_UNMAPPED || (entry && entry->modifiers <= modifiers)) {
        return;
    }
    entry = g_new(KeymapEntry, 1);
    *entry = (KeymapEntry) { (uint16_t)key, (uint8_t)modifiers };
    g_hash_table_insert(keymap->by_unicode, GUINT_TO_POINTER(unicode), entry);
}

/* --- the built-in one --- */

static void fill_us(Keymap *keymap)
{
    static const char plain[] = "1234567890-=qwertyuiop[]asdfghjkl;'`\\zxcvbnm,./";
    static const char shifted[] = "!@#$%^&*()_+QWERTYUIOP{}ASDFGHJKL:\"~|ZXCVBNM<>?";
    static const uint8_t evdev[] = {
        2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27,
        30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53,
    };
    for (size_t n = 0; n < ARRAY_SIZE(evdev); n++) {
        keymap_add(keymap, (uint8_t)plain[n], input_key_by_evdev(evdev[n]), 0);
        keymap_add(keymap, (uint8_t)shifted[n], input_key_by_evdev(evdev[n]), KEYMAP_SHIFT);
    }
    keymap_add(keymap, ' ', KEY_SPC, 0);
}

static MUST_USE Error *fill_from_source(Keymap *keymap, const char *layout, const char *variant)
{
    SECTION_FOREACH (keymap_sources, KeymapSource, it) {
        return (*it)->fill(keymap, layout, variant);
    }
    return error_new("this build knows only the layout en-us (it was made without libxkbcommon)");
}

Error *keymap_new(const char *name, Keymap **ret_keymap)
{
    Keymap *keymap = g_new0(Keymap, 1);
    Error *err = NULL;

    keymap->by_unicode = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    for (size_t n = 0; n < ARRAY_SIZE(layouts); n++) {
        if (name && layouts[n].layout && !strcmp(layouts[n].name, name)) {
            err = fill_from_source(keymap, layouts[n].layout, layouts[n].variant);
        }
    }
    if (err) {
        keymap_free(keymap);
        return error_prefix(err, "-k %s: ", name);
    }
    if (g_hash_table_size(keymap->by_unicode) == 0) {
        fill_us(keymap);
    }
    *ret_keymap = keymap;
    return NULL;
}

void keymap_free(Keymap *keymap)
{
    if (keymap) {
        g_hash_table_unref(keymap->by_unicode);
        g_free(keymap);
    }
}

bool keymap_find(const Keymap *keymap, uint32_t unicode, InputKey *ret_key, unsigned *ret_modifiers)
{
    const KeymapEntry *entry = g_hash_table_lookup(keymap->by_unicode, GUINT_TO_POINTER(unicode));
    if (!entry) {
        return false;
    }
    *ret_key = entry->key;
    *ret_modifiers = entry->modifiers;
    return true;
}
