/*
 * Objects: a const type, typed properties, a place in the tree that QMP shows.
 *
 * A type is a const struct. Its property table says everything about options: parsing, ranges, defaults,
 * help. A derived kind of thing (device, -object, CPU) embeds Object first and extends ObjectType by
 * embedding it first.
 *
 * Ownership: the parent owns its children; object_unparent() frees the object with its subtree. Links
 * are borrowed pointers. Threads: the machine lock.
 */
#ifndef OSTRICH_OBJECT_OBJECT_H
#define OSTRICH_OBJECT_OBJECT_H

#include "base/error.h"
#include "base/list.h"

typedef struct Object Object;
typedef struct ObjectType ObjectType;
typedef struct Prop Prop;
typedef struct PropKind PropKind;
typedef struct KeyValues KeyValues; /* value/keyvalues.h */

typedef struct EnumName {
    const char *name; /* NULL ends the table */
    int value;
} EnumName;

/*
 * How the values of a property are read, shown and released. Upper layers define kinds for references to
 * their own things (chardev, block node, netdev). get() gives text that set() takes back, caller frees.
 */
struct PropKind {
    const char *name; /* as help shows it: "uint32", "bool", "str", "size", ... */
    Error *(*set)(Object *obj, const Prop *prop, const char *text);
    char *(*get)(const Object *obj, const Prop *prop);
    void (*set_default)(Object *obj, const Prop *prop);
    void (*release)(Object *obj, const Prop *prop); /* may be NULL */
    char json; /* 'b' bool, 'i' integer, 's' string, 'j' JSON in the text: the form in QMP */
};

enum {
    PROP_READONLY = BIT(0),
    PROP_UNSTABLE = BIT(1),
    PROP_HIDDEN = BIT(2),   /* set by versioned machines only; not in help */
    PROP_RUNTIME = BIT(3),  /* may be set after the object is realized */
    PROP_REQUIRED = BIT(4),
};

struct Prop {
    const char *name; /* NULL ends the table */
    const PropKind *kind;
    size_t offset;
    int64_t def;        /* default of numbers, booleans, enums, bits */
    const char *def_str;
    int64_t min, max;   /* range of numbers when max > min; for bits, `min` is the bit number */
    const EnumName *names;
    const ObjectType *link; /* of prop_link */
    const char *help;
    unsigned flags;
    void (*changed)(Object *obj, const Prop *prop); /* after a PROP_RUNTIME set; may be NULL */
};

/* Kinds. The C type of the member stands beside each. */
extern const PropKind prop_bool;   /* bool */
extern const PropKind prop_bit32;  /* uint32_t, one bit */
extern const PropKind prop_bit64;  /* uint64_t, one bit */
extern const PropKind prop_u8;     /* uint8_t */
extern const PropKind prop_u16;    /* uint16_t */
extern const PropKind prop_u32;    /* uint32_t */
extern const PropKind prop_i32;    /* int32_t */
extern const PropKind prop_u64;    /* uint64_t */
extern const PropKind prop_i64;    /* int64_t */
extern const PropKind prop_size;   /* uint64_t; accepts k, M, G, T, P, E suffixes, powers of 1024 */
extern const PropKind prop_str;    /* char *, owned, NULL when unset */
extern const PropKind prop_enum;   /* int, by `names` */
extern const PropKind prop_on_off_auto; /* int: OnOffAuto */
extern const PropKind prop_link;   /* Object *: by id or path */
extern const PropKind prop_mac;    /* MacAddress */
extern const PropKind prop_uuid;   /* Uuid; "auto" makes one */

typedef enum OnOffAuto { AUTO_AUTO, AUTO_ON, AUTO_OFF } OnOffAuto;
typedef struct MacAddress {
    uint8_t octet[6];
    bool set;
} MacAddress;
typedef struct Uuid {
    uint8_t byte[16];
    bool set;
} Uuid;

#define PROP_(n, k, t, m, ...) { .name = n, .kind = &k, .offset = offsetof(t, m), ##__VA_ARGS__ }
#define PROP_BOOL(n, t, m, d, ...) PROP_(n, prop_bool, t, m, .def = d, ##__VA_ARGS__)
#define PROP_BIT32(n, t, m, b, d, ...) PROP_(n, prop_bit32, t, m, .min = b, .def = d, ##__VA_ARGS__)
#define PROP_BIT64(n, t, m, b, d, ...) PROP_(n, prop_bit64, t, m, .min = b, .def = d, ##__VA_ARGS__)
#define PROP_U8(n, t, m, d, ...) PROP_(n, prop_u8, t, m, .def = d, ##__VA_ARGS__)
#define PROP_U16(n, t, m, d, ...) PROP_(n, prop_u16, t, m, .def = d, ##__VA_ARGS__)
#define PROP_U32(n, t, m, d, ...) PROP_(n, prop_u32, t, m, .def = d, ##__VA_ARGS__)
#define PROP_I32(n, t, m, d, ...) PROP_(n, prop_i32, t, m, .def = d, ##__VA_ARGS__)
#define PROP_U64(n, t, m, d, ...) PROP_(n, prop_u64, t, m, .def = d, ##__VA_ARGS__)
#define PROP_SIZE(n, t, m, d, ...) PROP_(n, prop_size, t, m, .def = d, ##__VA_ARGS__)
#define PROP_STR(n, t, m, ...) PROP_(n, prop_str, t, m, ##__VA_ARGS__)
#define PROP_ENUM(n, t, m, table, d, ...) PROP_(n, prop_enum, t, m, .names = table, .def = d, ##__VA_ARGS__)
#define PROP_ON_OFF_AUTO(n, t, m, d, ...) PROP_(n, prop_on_off_auto, t, m, .def = d, ##__VA_ARGS__)
#define PROP_LINK(n, t, m, type, ...) PROP_(n, prop_link, t, m, .link = &type, ##__VA_ARGS__)

struct ObjectType {
    const char *name;
    const ObjectType *parent; /* NULL: plain object */
    size_t size;
    const char *c_type;       /* the struct's name, for scripts/check_state.py; NULL: not a device's */
    bool abstract;
    bool late;                /* names back ends: -object makes it after them */
    const Prop *props;        /* own ones; the parent's come too, unless one here has the same name (another default) */
    /* What is no property in the table: members of lists ("rules.0.match"), names from another table (a CPU's features). */
    Error *(*set_member)(Object *obj, const char *name, const char *text); /* before complete() or plug; may be NULL */
    Error *(*get_member)(const Object *obj, const char *name, char **ret_text); /* may be NULL */
    Error *(*complete)(Object *obj); /* after properties are set (-object); may be NULL, the parent's runs then */
    bool (*in_use)(const Object *obj); /* object-del is refused; may be NULL, the parent's counts then */
    void (*finalize)(Object *obj);   /* releases what complete() made; may be NULL, sees a half-built object */
};

struct Object {
    const ObjectType *type;
    char *id; /* name in the parent */
    Object *parent;
    Object *scope; /* the tree that references are looked up in while it has no parent; may be NULL */
    List children;
    ListNode sibling;
    bool realized;
};

/* Types that users name: registered in a linker section, found by name. */
SECTION_DECLARE(object_types, ObjectType);
#define OBJECT_REGISTER(type) SECTION_ENTRY(object_types, ObjectType, type)
const ObjectType *object_type_find(const char *name);
bool object_is_a(const ObjectType *type, const ObjectType *ancestor);

/* Allocates a zeroed object with defaults set. It has no parent yet. */
Object *object_new(const ObjectType *type);
void object_free(Object *obj); /* of one without a parent; accepts NULL */
/* Gives the child to the parent under id (copied; "name[*]" takes the next free number). */
void object_add_child(Object *parent, const char *id, Object *child);
void object_unparent(Object *obj);
Object *object_child(const Object *parent, const char *id);
/* "/machine/peripheral/id" or a bare id that is unique. NULL when there is none. */
Object *object_resolve(Object *root, const char *path);
char *object_path(const Object *obj); /* caller frees */
/* A container without properties. */
Object *object_new_container(void);
/* The root of a program's tree, whose parts may ask for its main loop. */
struct Loop;
Object *object_new_root(struct Loop *loop, void *owner);
/* That loop; NULL: the tree has none. */
struct Loop *object_loop(const Object *obj);
/* Whose tree it is: the Machine; looked up from its scope while it has no parent. NULL: nobody's. */
void *object_owner(const Object *obj);
Object *object_container_at(Object *root, const char *path); /* makes what is missing */

/* -object: "qom-type" names a registered type, "id" the name in `container`, the rest are properties. */
Error *object_make(Object *container, const KeyValues *options) MUST_USE;

/* The registered types that users can make, as -object help shows them. Caller frees. */
char *object_types_help(void);

const Prop *object_prop_find(const ObjectType *type, const char *name);
/* Errors name the object, the property, the value, the range or names, and the nearest property. */
Error *object_set(Object *obj, const char *name, const char *text) MUST_USE;
Error *object_get(const Object *obj, const char *name, char **ret_text) MUST_USE;
/* Calls fn for each property, the parent types' first. */
void object_props_foreach(const ObjectType *type, void (*fn)(void *opaque, const Prop *prop), void *opaque);
/* "name=<kind> - help (default: x)" lines, sorted, for -device NAME,help. Caller frees. */
char *object_props_help(const ObjectType *type);
static inline void *prop_ptr(const Object *obj, const Prop *prop)
{
    return (char *)obj + prop->offset;
}

/* Text to number with the suffixes k M G T P E (powers of 1024) and b; a bare number counts `unit`. */
Error *parse_size(const char *text, uint64_t unit, uint64_t *ret_size) MUST_USE;
Error *parse_u64(const char *text, uint64_t *ret_value) MUST_USE;
Error *parse_bool(const char *text, bool *ret_value) MUST_USE; /* on/off, yes/no, true/false, y/n */
Error *parse_mac(const char *text, uint8_t ret_mac[6]) MUST_USE;
Error *parse_uuid(const char *text, uint8_t ret_uuid[16]) MUST_USE;
void format_uuid(const uint8_t uuid[16], char text[37]);

#endif
