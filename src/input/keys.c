/* The key table and look-ups in it. */
#include "input/keys.h"

#include <string.h>

const InputKeyInfo input_keys[KEY_COUNT] = {
#define K(symbol, name, evdev, set1, set2, set3) [KEY_##symbol] = { name, evdev, set1, set2, set3 },
    INPUT_KEYS(K)
#undef K
};

InputKey input_key_by_name(const char *name)
{
    for (unsigned i = 0; i < KEY_COUNT; i++) {
        if (strcmp(input_keys[i].name, name) == 0) {
            return i;
        }
    }
    return KEY_UNMAPPED;
}

InputKey input_key_by_evdev(unsigned code)
{
    for (unsigned i = 1; code && i < KEY_COUNT; i++) {
        if (input_keys[i].evdev == code) {
            return i;
        }
    }
    return KEY_UNMAPPED;
}

unsigned input_key_number(InputKey key)
{
    uint16_t code = input_keys[key].set1;
    if (key == KEY_PAUSE) {
        return 0xc6;
    }
    return code >> 8 ? 0x80 | (code & 0x7f) : code;
}

InputKey input_key_by_number(unsigned number)
{
    for (unsigned i = 1; number && i < KEY_COUNT; i++) {
        if (input_key_number(i) == number) {
            return i;
        }
    }
    return KEY_UNMAPPED;
}
