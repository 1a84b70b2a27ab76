/*
 * Saved state: the table of what a device remembers across save and load, beside its registers.
 * Every member of a device's struct is a property, a register, a state row, or named in `not_state`.
 */
#ifndef OSTRICH_CORE_DEV_STATE_H
#define OSTRICH_CORE_DEV_STATE_H

#include "base/error.h"
#include "event/loop.h"

typedef enum StateKind {
    STATE_KIND_U8 = 1,
    STATE_KIND_U16,
    STATE_KIND_U32,
    STATE_KIND_U64,
    STATE_KIND_BOOL,
    STATE_KIND_BYTES, /* raw bytes of `size` */
    STATE_KIND_TIMER, /* a Timer: armed and expiry */
    STATE_KIND_STRUCT,
    STATE_KIND_POINTER, /* a struct behind a pointer that is never NULL */
    STATE_KIND_BUFFER,  /* a GByteArray, owned; NULL: empty; `max` bytes at most */
} StateKind;

typedef struct StateField {
    const char *name; /* NULL ends the table */
    StateKind kind;
    size_t offset;
    uint32_t size;   /* of one element */
    uint32_t count;  /* elements of an array; 0: one */
    uint64_t min, max; /* a loaded integer must lie inside when max > min */
    const struct StateField *fields; /* STATE_KIND_STRUCT */
    bool equal;      /* configuration: a loaded value that differs from this machine's is refused */
    uint32_t since;  /* version of the device's state that added it */
    const char *not_state; /* why the member need not be saved; then the other fields do not matter */
} StateField;

#define STATE_MEMBER_(t, m) ((t *)0)->m
#define STATE_(k, t, m, n) { .name = #m, .kind = k, .offset = offsetof(t, m), .size = sizeof(STATE_MEMBER_(t, m)) / (n), .count = n }
#define STATE_U8(t, m) STATE_(STATE_KIND_U8, t, m, 1)
#define STATE_U16(t, m) STATE_(STATE_KIND_U16, t, m, 1)
#define STATE_U32(t, m) STATE_(STATE_KIND_U32, t, m, 1)
#define STATE_U64(t, m) STATE_(STATE_KIND_U64, t, m, 1)
#define STATE_BOOL(t, m) STATE_(STATE_KIND_BOOL, t, m, 1)
/* Integers and enums of any size by their own width; range-checked on load. */
#define STATE_INT(t, m)                                                                            \
    { .name = #m, .kind = sizeof(STATE_MEMBER_(t, m)) == 1 ? STATE_KIND_U8 :                       \
                          sizeof(STATE_MEMBER_(t, m)) == 2 ? STATE_KIND_U16 :                      \
                          sizeof(STATE_MEMBER_(t, m)) == 4 ? STATE_KIND_U32 : STATE_KIND_U64,      \
      .offset = offsetof(t, m), .size = sizeof(STATE_MEMBER_(t, m)), .count = 1 }
#define STATE_RANGE(t, m, lo, hi)                                                                  \
    { .name = #m, .kind = sizeof(STATE_MEMBER_(t, m)) == 1 ? STATE_KIND_U8 :                       \
                          sizeof(STATE_MEMBER_(t, m)) == 2 ? STATE_KIND_U16 :                      \
                          sizeof(STATE_MEMBER_(t, m)) == 4 ? STATE_KIND_U32 : STATE_KIND_U64,      \
      .offset = offsetof(t, m), .size = sizeof(STATE_MEMBER_(t, m)), .count = 1, .min = lo, .max = hi }
#define STATE_U8_ARRAY(t, m) STATE_(STATE_KIND_U8, t, m, ARRAY_SIZE(STATE_MEMBER_(t, m)))
#define STATE_U16_ARRAY(t, m) STATE_(STATE_KIND_U16, t, m, ARRAY_SIZE(STATE_MEMBER_(t, m)))
#define STATE_U32_ARRAY(t, m) STATE_(STATE_KIND_U32, t, m, ARRAY_SIZE(STATE_MEMBER_(t, m)))
#define STATE_U64_ARRAY(t, m) STATE_(STATE_KIND_U64, t, m, ARRAY_SIZE(STATE_MEMBER_(t, m)))
#define STATE_BYTES(t, m) STATE_(STATE_KIND_BYTES, t, m, 1)
#define STATE_TIMER(t, m) STATE_(STATE_KIND_TIMER, t, m, 1)
#define STATE_STRUCT(t, m, rows)                                                                   \
    { .name = #m, .kind = STATE_KIND_STRUCT, .offset = offsetof(t, m),                             \
      .size = sizeof(STATE_MEMBER_(t, m)), .count = 1, .fields = rows }
#define STATE_STRUCT_ARRAY(t, m, rows)                                                             \
    { .name = #m, .kind = STATE_KIND_STRUCT, .offset = offsetof(t, m),                             \
      .size = sizeof(STATE_MEMBER_(t, m)[0]), .count = ARRAY_SIZE(STATE_MEMBER_(t, m)), .fields = rows }
#define STATE_POINTER(t, m, rows) { .name = #m, .kind = STATE_KIND_POINTER, .offset = offsetof(t, m), .size = sizeof(void *), .count = 1, .fields = rows }
#define STATE_BUFFER(t, m, most, version)                                                          \
    { .name = #m, .kind = STATE_KIND_BUFFER, .offset = offsetof(t, m), .size = sizeof(STATE_MEMBER_(t, m)), .count = 1, .max = most, \
      .since = version }
/* What must be the same on both sides. */
#define STATE_EQUAL(t, m)                                                                          \
    { .name = #m, .kind = STATE_KIND_BYTES, .offset = offsetof(t, m), .size = sizeof(STATE_MEMBER_(t, m)), .count = 1, .equal = true }
#define STATE_NOT(t, m, why) { .name = #m, .offset = offsetof(t, m), .size = sizeof(STATE_MEMBER_(t, m)), .not_state = why }

/* Serialized form: self-describing (name, kind, count per row). The buffer is appended to. */
void state_save(const StateField *fields, const void *base, GByteArray *out);
/* Reads what state_save wrote; every length and range is checked; *data advances. `who` is for messages. */
Error *state_load(const char *who, const StateField *fields, void *base, const uint8_t **data, const uint8_t *end) MUST_USE;

#endif
