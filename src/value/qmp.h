/*
 * What handlers of QMP commands see. A handler lives in the folder that owns the subject:
 *
 *     Error *qmp_pmemsave(QmpContext *ctx, const QmpPmemsaveArgs *args, Value **ret);
 *
 * Its argument struct and prototype are generated from schema/ (schema/qmp_commands.h in the build
 * directory). Arguments were checked against the schema: required ones are there, kinds and enum values
 * fit. Absent optional ones are zero, with has_NAME false. *ret is NULL on entry; left so, the client
 * gets {}. Handlers run on the main loop with the machine lock held.
 */
#ifndef OSTRICH_VALUE_QMP_H
#define OSTRICH_VALUE_QMP_H

#include "value/value.h"

struct Machine;
struct Monitor;

/*
 * How to take back what the commands of a transaction did. When all went well, each entry is
 * forgotten; else the entries are undone, last one first, and then forgotten.
 */
typedef struct QmpUndo {
    void (*undo)(void *opaque);
    void (*forget)(void *opaque); /* frees opaque */
    void *opaque;
} QmpUndo;

typedef struct QmpContext {
    struct Machine *machine;
    struct Monitor *monitor; /* who asks */
    GArray *undo;            /* QmpUndo; NULL: not in a transaction */
    bool grouped;            /* jobs of the transaction end well together or not at all */
    void *group;             /* of whoever starts such jobs; borrowed until the transaction ends */
} QmpContext;

/* opaque is forgotten at once when there is no transaction. */
static inline void qmp_undo_add(QmpContext *ctx, void (*undo)(void *), void (*forget)(void *),
                                void *opaque)
{
    QmpUndo entry = { undo, forget, opaque };
    if (ctx->undo) {
        g_array_append_val(ctx->undo, entry);
    } else {
        forget(opaque);
    }
}

/* --- the schema as tables (generated) --- */
typedef enum QmpKind { QMP_STR, QMP_INT, QMP_NUMBER, QMP_BOOL, QMP_NULL, QMP_ANY, QMP_ENUM, QMP_OBJECT, QMP_ARRAY, QMP_ALTERNATE } QmpKind;

typedef struct QmpType QmpType;
typedef struct QmpMember {
    const char *name; /* NULL ends */
    const QmpType *type;
    bool optional;
    const char *tag;  /* of a union's variant: the value of the tag that selects this type */
    uint16_t offset, has_offset; /* in the argument struct of a command */
} QmpMember;

struct QmpType {
    const char *name;
    QmpKind kind;
    const char *const *values; /* enum */
    const QmpMember *members;  /* object, alternate */
    const char *tag;           /* union: the member that selects */
    const QmpMember *variants; /* union: name is the tag's value */
    const QmpType *element;    /* array */
};

typedef struct QmpCommand {
    const char *name;
    const QmpMember *members;
    bool open;        /* takes further members */
    uint16_t args_size, all_offset;
    const QmpType *returns;
    const char *const *features; /* may be NULL */
    Error *(*fn)(QmpContext *ctx, const void *args, Value **ret);
    bool oob;
    bool daemon; /* qemu-storage-daemon has it too */
} QmpCommand;

typedef struct QmpEvent {
    const char *name;
    const QmpMember *members;
} QmpEvent;

extern const QmpCommand qmp_commands[];   /* sorted by name; NULL name ends */
extern const QmpEvent qmp_events[];
extern const QmpType *const qmp_types[];  /* enums, objects, alternates; NULL ends */

#endif
