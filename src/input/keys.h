/*
 * Keys: their QMP names, the numbers other interfaces know them by, and PS/2 scan codes.
 */
#ifndef OSTRICH_INPUT_KEYS_H
#define OSTRICH_INPUT_KEYS_H

#include "base/base.h"

/* One row a key: symbol, QMP name, evdev code, scan codes of set 1, 2 and 3 (0xe0xx: prefixed; 0: none). */
#define INPUT_KEYS(K)                                                                              \
    K(UNMAPPED, "unmapped", 0, 0, 0, 0)                                                            \
    K(ESC, "esc", 1, 0x01, 0x76, 0x08)                                                             \
    K(1, "1", 2, 0x02, 0x16, 0x16)                                                                 \
    K(2, "2", 3, 0x03, 0x1e, 0x1e)                                                                 \
    K(3, "3", 4, 0x04, 0x26, 0x26)                                                                 \
    K(4, "4", 5, 0x05, 0x25, 0x25)                                                                 \
    K(5, "5", 6, 0x06, 0x2e, 0x2e)                                                                 \
    K(6, "6", 7, 0x07, 0x36, 0x36)                                                                 \
    K(7, "7", 8, 0x08, 0x3d, 0x3d)                                                                 \
    K(8, "8", 9, 0x09, 0x3e, 0x3e)                                                                 \
    K(9, "9", 10, 0x0a, 0x46, 0x46)                                                                \
    K(0, "0", 11, 0x0b, 0x45, 0x45)                                                                \
    K(MINUS, "minus", 12, 0x0c, 0x4e, 0x4e)                                                        \
    K(EQUAL, "equal", 13, 0x0d, 0x55, 0x55)                                                        \
    K(BACKSPACE, "backspace", 14, 0x0e, 0x66, 0x66)                                                \
    K(TAB, "tab", 15, 0x0f, 0x0d, 0x0d)                                                            \
    K(Q, "q", 16, 0x10, 0x15, 0x15)                                                                \
    K(W, "w", 17, 0x11, 0x1d, 0x1d)                                                                \
    K(E, "e", 18, 0x12, 0x24, 0x24)                                                                \
    K(R, "r", 19, 0x13, 0x2d, 0x2d)                                                                \
    K(T, "t", 20, 0x14, 0x2c, 0x2c)                                                                \
    K(Y, "y", 21, 0x15, 0x35, 0x35)                                                                \
    K(U, "u", 22, 0x16, 0x3c, 0x3c)                                                                \
    K(I, "i", 23, 0x17, 0x43, 0x43)                                                                \
    K(O, "o", 24, 0x18, 0x44, 0x44)                                                                \
    K(P, "p", 25, 0x19, 0x4d, 0x4d)                                                                \
    K(BRACKET_LEFT, "bracket_left", 26, 0x1a, 0x54, 0x54)                                          \
    K(BRACKET_RIGHT, "bracket_right", 27, 0x1b, 0x5b, 0x5b)                                        \
    K(RET, "ret", 28, 0x1c, 0x5a, 0x5a)                                                            \
    K(CTRL, "ctrl", 29, 0x1d, 0x14, 0x11)                                                          \
    K(A, "a", 30, 0x1e, 0x1c, 0x1c)                                                                \
    K(S, "s", 31, 0x1f, 0x1b, 0x1b)                                                                \
    K(D, "d", 32, 0x20, 0x23, 0x23)                                                                \
    K(F, "f", 33, 0x21, 0x2b, 0x2b)                                                                \
    K(G, "g", 34, 0x22, 0x34, 0x34)                                                                \
    K(H, "h", 35, 0x23, 0x33, 0x33)                                                                \
    K(J, "j", 36, 0x24, 0x3b, 0x3b)                                                                \
    K(K, "k", 37, 0x25, 0x42, 0x42)                                                                \
    K(L, "l", 38, 0x26, 0x4b, 0x4b)                                                                \
    K(SEMICOLON, "semicolon", 39, 0x27, 0x4c, 0x4c)                                                \
    K(APOSTROPHE, "apostrophe", 40, 0x28, 0x52, 0x52)                                              \
    K(GRAVE_ACCENT, "grave_accent", 41, 0x29, 0x0e, 0x0e)                                          \
    K(SHIFT, "shift", 42, 0x2a, 0x12, 0x12)                                                        \
    K(BACKSLASH, "backslash", 43, 0x2b, 0x5d, 0x5c)                                                \
    K(Z, "z", 44, 0x2c, 0x1a, 0x1a)                                                                \
    K(X, "x", 45, 0x2d, 0x22, 0x22)                                                                \
    K(C, "c", 46, 0x2e, 0x21, 0x21)                                                                \
    K(V, "v", 47, 0x2f, 0x2a, 0x2a)                                                                \
    K(B, "b", 48, 0x30, 0x32, 0x32)                                                                \
    K(N, "n", 49, 0x31, 0x31, 0x31)                                                                \
    K(M, "m", 50, 0x32, 0x3a, 0x3a)                                                                \
    K(COMMA, "comma", 51, 0x33, 0x41, 0x41)                                                        \
    K(DOT, "dot", 52, 0x34, 0x49, 0x49)                                                            \
    K(SLASH, "slash", 53, 0x35, 0x4a, 0x4a)                                                        \
    K(SHIFT_R, "shift_r", 54, 0x36, 0x59, 0x59)                                                    \
    K(KP_MULTIPLY, "kp_multiply", 55, 0x37, 0x7c, 0x7e)                                            \
    K(ASTERISK, "asterisk", 0, 0x37, 0x7c, 0x7e)                                                   \
    K(ALT, "alt", 56, 0x38, 0x11, 0x19)                                                            \
    K(SPC, "spc", 57, 0x39, 0x29, 0x29)                                                            \
    K(CAPS_LOCK, "caps_lock", 58, 0x3a, 0x58, 0x14)                                                \
    K(F1, "f1", 59, 0x3b, 0x05, 0x07)                                                              \
    K(F2, "f2", 60, 0x3c, 0x06, 0x0f)                                                              \
    K(F3, "f3", 61, 0x3d, 0x04, 0x17)                                                              \
    K(F4, "f4", 62, 0x3e, 0x0c, 0x1f)                                                              \
    K(F5, "f5", 63, 0x3f, 0x03, 0x27)                                                              \
    K(F6, "f6", 64, 0x40, 0x0b, 0x2f)                                                              \
    K(F7, "f7", 65, 0x41, 0x83, 0x37)                                                              \
    K(F8, "f8", 66, 0x42, 0x0a, 0x3f)                                                              \
    K(F9, "f9", 67, 0x43, 0x01, 0x47)                                                              \
    K(F10, "f10", 68, 0x44, 0x09, 0x4f)                                                            \
    K(NUM_LOCK, "num_lock", 69, 0x45, 0x77, 0x76)                                                  \
    K(SCROLL_LOCK, "scroll_lock", 70, 0x46, 0x7e, 0x5f)                                            \
    K(KP_7, "kp_7", 71, 0x47, 0x6c, 0x6c)                                                          \
    K(KP_8, "kp_8", 72, 0x48, 0x75, 0x75)                                                          \
    K(KP_9, "kp_9", 73, 0x49, 0x7d, 0x7d)                                                          \
    K(KP_SUBTRACT, "kp_subtract", 74, 0x4a, 0x7b, 0x84)                                            \
    K(KP_4, "kp_4", 75, 0x4b, 0x6b, 0x6b)                                                          \
    K(KP_5, "kp_5", 76, 0x4c, 0x73, 0x73)                                                          \
    K(KP_6, "kp_6", 77, 0x4d, 0x74, 0x74)                                                          \
    K(KP_ADD, "kp_add", 78, 0x4e, 0x79, 0x7c)                                                      \
    K(KP_1, "kp_1", 79, 0x4f, 0x69, 0x69)                                                          \
    K(KP_2, "kp_2", 80, 0x50, 0x72, 0x72)                                                          \
    K(KP_3, "kp_3", 81, 0x51, 0x7a, 0x7a)                                                          \
    K(KP_0, "kp_0", 82, 0x52, 0x70, 0x70)                                                          \
    K(KP_DECIMAL, "kp_decimal", 83, 0x53, 0x71, 0x71)                                              \
    K(LESS, "less", 86, 0x56, 0x61, 0x13)                                                          \
    K(F11, "f11", 87, 0x57, 0x78, 0x56)                                                            \
    K(F12, "f12", 88, 0x58, 0x07, 0x5e)                                                            \
    K(RO, "ro", 89, 0x73, 0x51, 0x51)                                                              \
    K(HIRAGANA, "hiragana", 91, 0x77, 0x62, 0x87)                                                  \
    K(HENKAN, "henkan", 92, 0x79, 0x64, 0x86)                                                      \
    K(KATAKANAHIRAGANA, "katakanahiragana", 93, 0x70, 0x13, 0x87)                                  \
    K(MUHENKAN, "muhenkan", 94, 0x7b, 0x67, 0x85)                                                  \
    K(KP_ENTER, "kp_enter", 96, 0xe01c, 0xe05a, 0x79)                                              \
    K(CTRL_R, "ctrl_r", 97, 0xe01d, 0xe014, 0x58)                                                  \
    K(KP_DIVIDE, "kp_divide", 98, 0xe035, 0xe04a, 0x77)                                            \
    K(PRINT, "print", 99, 0xe037, 0xe07c, 0x57)                                                    \
    K(SYSRQ, "sysrq", 0, 0x54, 0x84, 0x57)                                                         \
    K(ALT_R, "alt_r", 100, 0xe038, 0xe011, 0x39)                                                   \
    K(LF, "lf", 101, 0x5b, 0, 0)                                                                   \
    K(HOME, "home", 102, 0xe047, 0xe06c, 0x6e)                                                     \
    K(UP, "up", 103, 0xe048, 0xe075, 0x63)                                                         \
    K(PGUP, "pgup", 104, 0xe049, 0xe07d, 0x6f)                                                     \
    K(LEFT, "left", 105, 0xe04b, 0xe06b, 0x61)                                                     \
    K(RIGHT, "right", 106, 0xe04d, 0xe074, 0x6a)                                                   \
    K(END, "end", 107, 0xe04f, 0xe069, 0x65)                                                       \
    K(DOWN, "down", 108, 0xe050, 0xe072, 0x60)                                                     \
    K(PGDN, "pgdn", 109, 0xe051, 0xe07a, 0x6d)                                                     \
    K(INSERT, "insert", 110, 0xe052, 0xe070, 0x67)                                                 \
    K(DELETE, "delete", 111, 0xe053, 0xe071, 0x64)                                                 \
    K(AUDIOMUTE, "audiomute", 113, 0xe020, 0xe023, 0x9c)                                           \
    K(VOLUMEDOWN, "volumedown", 114, 0xe02e, 0xe021, 0x9d)                                         \
    K(VOLUMEUP, "volumeup", 115, 0xe030, 0xe032, 0x95)                                             \
    K(POWER, "power", 116, 0xe05e, 0xe037, 0)                                                      \
    K(KP_EQUALS, "kp_equals", 117, 0x59, 0x0f, 0)                                                  \
    K(PAUSE, "pause", 119, 0xe046, 0xe07e, 0x62)                                                   \
    K(KP_COMMA, "kp_comma", 121, 0x7e, 0x6d, 0)                                                    \
    K(LANG1, "lang1", 122, 0x72, 0xf2, 0)                                                          \
    K(LANG2, "lang2", 123, 0x71, 0xf1, 0)                                                          \
    K(YEN, "yen", 124, 0x7d, 0x6a, 0x5d)                                                           \
    K(META_L, "meta_l", 125, 0xe05b, 0xe01f, 0x8b)                                                 \
    K(META_R, "meta_r", 126, 0xe05c, 0xe027, 0x8c)                                                 \
    K(COMPOSE, "compose", 127, 0xe05d, 0xe02f, 0x8d)                                               \
    K(STOP, "stop", 128, 0xe068, 0xe028, 0x0a)                                                     \
    K(AGAIN, "again", 129, 0xe005, 0, 0)                                                           \
    K(PROPS, "props", 130, 0xe006, 0, 0)                                                           \
    K(UNDO, "undo", 131, 0xe007, 0, 0)                                                             \
    K(FRONT, "front", 132, 0xe00c, 0, 0)                                                           \
    K(COPY, "copy", 133, 0xe078, 0, 0)                                                             \
    K(OPEN, "open", 134, 0xe064, 0, 0)                                                             \
    K(PASTE, "paste", 135, 0xe065, 0, 0)                                                           \
    K(FIND, "find", 136, 0xe041, 0, 0)                                                             \
    K(CUT, "cut", 137, 0xe03c, 0, 0)                                                               \
    K(HELP, "help", 138, 0xe075, 0, 0)                                                             \
    K(MENU, "menu", 139, 0xe01e, 0, 0)                                                             \
    K(CALCULATOR, "calculator", 140, 0xe021, 0xe02b, 0)                                            \
    K(SLEEP, "sleep", 142, 0xe05f, 0xe03f, 0)                                                      \
    K(WAKE, "wake", 143, 0xe063, 0xe05e, 0)                                                        \
    K(MAIL, "mail", 155, 0xe06c, 0xe048, 0)                                                        \
    K(AC_BOOKMARKS, "ac_bookmarks", 156, 0xe066, 0xe018, 0)                                        \
    K(COMPUTER, "computer", 157, 0xe06b, 0xe040, 0)                                                \
    K(AC_BACK, "ac_back", 158, 0xe06a, 0xe038, 0)                                                  \
    K(AC_FORWARD, "ac_forward", 159, 0xe069, 0xe030, 0)                                            \
    K(AUDIONEXT, "audionext", 163, 0xe019, 0xe04d, 0x93)                                           \
    K(AUDIOPLAY, "audioplay", 164, 0xe022, 0xe034, 0)                                              \
    K(AUDIOPREV, "audioprev", 165, 0xe010, 0xe015, 0x94)                                           \
    K(AUDIOSTOP, "audiostop", 166, 0xe024, 0xe03b, 0x98)                                           \
    K(AC_HOME, "ac_home", 172, 0xe032, 0xe03a, 0)                                                  \
    K(AC_REFRESH, "ac_refresh", 173, 0xe067, 0xe020, 0)                                            \
    K(F13, "f13", 183, 0x64, 0x08, 0)                                                              \
    K(F14, "f14", 184, 0x65, 0x10, 0)                                                              \
    K(F15, "f15", 185, 0x66, 0x18, 0)                                                              \
    K(F16, "f16", 186, 0x67, 0x20, 0)                                                              \
    K(F17, "f17", 187, 0x68, 0x28, 0)                                                              \
    K(F18, "f18", 188, 0x69, 0x30, 0)                                                              \
    K(F19, "f19", 189, 0x6a, 0x38, 0)                                                              \
    K(F20, "f20", 190, 0x6b, 0x40, 0)                                                              \
    K(F21, "f21", 191, 0x6c, 0x48, 0)                                                              \
    K(F22, "f22", 192, 0x6d, 0x50, 0)                                                              \
    K(F23, "f23", 193, 0x6e, 0x57, 0)                                                              \
    K(F24, "f24", 194, 0x76, 0x5f, 0)                                                              \
    K(MEDIASELECT, "mediaselect", 226, 0xe06d, 0xe050, 0)

typedef enum InputKey {
#define K(symbol, name, evdev, set1, set2, set3) KEY_##symbol,
    INPUT_KEYS(K)
#undef K
    KEY_COUNT
} InputKey;

typedef struct InputKeyInfo {
    const char *name;
    uint16_t evdev, set1, set2, set3;
} InputKeyInfo;

extern const InputKeyInfo input_keys[KEY_COUNT];

/* Unknown names and numbers give KEY_UNMAPPED. */
InputKey input_key_by_name(const char *name);
InputKey input_key_by_evdev(unsigned code);
/* The numbers of sendkey and VNC's extended key events: set 1, with bit 7 for the 0xe0 prefix. */
InputKey input_key_by_number(unsigned number);
unsigned input_key_number(InputKey key);

#endif
