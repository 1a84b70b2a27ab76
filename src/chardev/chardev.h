/*
 * Character devices: host back ends for serial lines, monitors and everything else that is a stream of
 * bytes, and the front-end side that devices use.
 *
 *     static const CharFrontOps ops = { .can_receive = ..., .receive = ..., .event = ..., .writable = ... };
 *     PROP_CHARDEV("chardev", Uart, chr)                    the property, member CharFront chr
 *     char_front_open(&uart->chr, &ops, uart);              in plug; fine when no chardev was given
 *     size_t done = char_write(&uart->chr, buf, length);    less than length: wait for ops->writable
 *
 * Input flows only while can_receive() says how many bytes fit; a front end that had no room calls
 * char_accept_input() when it has again.
 *
 * Threads: everything happens on the main loop or with its lock held. A back end that is not connected
 * (a socket without a client) drops what is written, as a cable without a peer does.
 */
#ifndef OSTRICH_CHARDEV_CHARDEV_H
#define OSTRICH_CHARDEV_CHARDEV_H

#include "event/loop.h"
#include "object/object.h"
#include "value/keyvalues.h"

typedef struct Chardev Chardev;
typedef struct ChardevType ChardevType;
typedef struct Chardevs Chardevs;

typedef enum CharEvent {
    CHAR_EVENT_OPENED,  /* connected; also sent at once when a front end attaches to an open back end */
    CHAR_EVENT_CLOSED,
    CHAR_EVENT_BREAK,   /* a serial break was received */
    CHAR_EVENT_MUX_IN,  /* this front end of a multiplexer has the input now */
    CHAR_EVENT_MUX_OUT,
    CHAR_EVENTS, /* how many there are */
} CharEvent;

typedef struct CharFrontOps {
    size_t (*can_receive)(void *opaque);              /* NULL: never */
    void (*receive)(void *opaque, const uint8_t *buf, size_t length);
    void (*event)(void *opaque, CharEvent event);     /* may be NULL */
    void (*writable)(void *opaque);                   /* after a short char_write(); may be NULL */
} CharFrontOps;

/* What a device embeds. Zeroed: not attached; every call below accepts that. */
typedef struct CharFront {
    Chardev *chr; /* borrowed: the chardev cannot go while a front end is attached */
    const CharFrontOps *ops;
    void *opaque;
    bool open;          /* ops were set */
    bool guest;         /* a device of the guest */
    bool posted;        /* input was handed to hooks.post, and did not come back by char_take() yet */
    bool wants_write;   /* a short write is to be followed by writable() */
    uint8_t queue[32];  /* input that arrived for a multiplexed front end that had no room */
    unsigned queued;
} CharFront;

/* Reserves chr for this front end (fails when another has it and chr is no multiplexer). */
Error *char_front_attach(CharFront *front, Chardev *chr) MUST_USE;
/* Sets the callbacks and starts the flow. Events OPENED (and MUX_IN) may come before it returns. */
void char_front_open(CharFront *front, const CharFrontOps *ops, void *opaque);
/* Stops callbacks and releases the chardev. */
void char_front_close(CharFront *front);
static inline bool char_front_attached(const CharFront *front)
{
    return front->chr != NULL;
}
bool char_front_connected(const CharFront *front);

/* Never blocks. Bytes taken; without a chardev or a peer everything is taken and dropped. */
size_t char_write(CharFront *front, const void *buf, size_t length);
/* For text that must not be lost (monitors, notices): what the back end does not take is kept in a buffer
 * that is drained as it can, up to 64 MiB; beyond that the rest is dropped. */
void char_write_all(CharFront *front, const void *buf, size_t length);
void char_printf(CharFront *front, const char *fmt, ...) PRINTF(2, 3);
/* Bytes of char_write_all() that are still on their way. */
size_t char_pending(const CharFront *front);
/* There is room for input again. */
void char_accept_input(CharFront *front);
/* Whether the terminal should echo what is typed (monitors turn it off). */
void char_set_echo(CharFront *front, bool on);
/* Closes the connection of a socket (hang up); the next client may connect. */
void char_disconnect(CharFront *front);

/* --- serial line control: -ENOTSUP where the back end is no real line --- */
typedef struct CharLine {
    unsigned speed;    /* bits a second */
    char parity;       /* 'N', 'E', 'O' */
    unsigned data_bits, stop_bits;
} CharLine;
enum { CHAR_DTR = BIT(0), CHAR_RTS = BIT(1), CHAR_CTS = BIT(2), CHAR_DSR = BIT(3), CHAR_RI = BIT(4), CHAR_DCD = BIT(5) };
int char_set_line(CharFront *front, const CharLine *line);
int char_set_break(CharFront *front, bool on);
int char_set_modem(CharFront *front, unsigned dtr_rts);
int char_get_modem(CharFront *front, unsigned *ret_lines);
/* File descriptors that came with the last bytes on a unix socket (SCM_RIGHTS). -1: none. Caller closes. */
int char_take_fd(CharFront *front);
/* The connected socket itself, plain and without TLS, for whoever speaks a protocol with descriptors; for the chardev the
 * connection has ended. -1: there is none. Caller closes. */
int char_take_socket(CharFront *front);

/* --- the property of devices: a chardev by id; the member is a CharFront --- */
extern const PropKind prop_chardev;
#define PROP_CHARDEV(n, t, m, ...) PROP_(n, prop_chardev, t, m, ##__VA_ARGS__)

/* --- back ends --- */
struct Chardev {
    Object object;      /* /chardevs/ID */
    Chardevs *set;
    bool connected;
    GPtrArray *fronts;  /* CharFront *; at most one without mux */
    int focus;          /* index of the front end with the input, -1: none */
    /* Options that every kind has. */
    bool mux, logappend, logtimestamp;
    char *logfile;
    int log_fd;
    GByteArray *backlog; /* of char_write_all() */
    bool backlog_waits;
    bool mux_escape, mux_timestamps, mux_line_start;
    int64_t mux_start;
    bool muted;         /* not writing: closing */
};

static inline const char *chardev_id(const Chardev *chr)
{
    return chr->object.id ? chr->object.id : "?";
}

/*
 * A kind of back end: registered by CHARDEV_TYPE, found by name or alias. Options are object properties.
 * object.name is "chardev-NAME".
 */
struct ChardevType {
    ObjectType object;
    const char *name, *alias, *desc;
    bool internal; /* not in -chardev help */
    Error *(*open)(Chardev *chr);  /* properties are set */
    void (*close)(Chardev *chr);   /* accepts a half-open one */
    /* Bytes taken, 0: not now, -errno: the peer is gone (counted as taken). */
    ssize_t (*write)(Chardev *chr, const uint8_t *buf, size_t length);
    void (*want_write)(Chardev *chr);   /* call char_back_writable() when write() can take more; may be NULL */
    void (*accept_input)(Chardev *chr); /* the front end has room again; may be NULL */
    void (*set_echo)(Chardev *chr, bool on);
    void (*disconnect)(Chardev *chr);
    char *(*describe)(Chardev *chr);    /* "filename" of query-chardev; NULL: the type's name */
    int (*set_line)(Chardev *chr, const CharLine *line);
    int (*set_break)(Chardev *chr, bool on);
    int (*set_modem)(Chardev *chr, unsigned dtr_rts);
    int (*get_modem)(Chardev *chr, unsigned *ret_lines);
    int (*take_fd)(Chardev *chr);
    int (*take_socket)(Chardev *chr);
};

extern const ObjectType chardev_object_type; /* parent of all; has logfile, logappend, mux */
SECTION_DECLARE(chardev_types, ChardevType);
#define CHARDEV_TYPE(ident, ...)                                                                   \
    static const ChardevType ident##_chardev_ = { __VA_ARGS__ };                                   \
    SECTION_ENTRY(chardev_types, ChardevType, &ident##_chardev_)

static inline const ChardevType *chardev_type(const Chardev *chr)
{
    return container_of(chr->object.type, ChardevType, object);
}

/* For back ends: room for input, input, state, and "write() can take more". */
size_t char_back_room(Chardev *chr);
void char_back_input(Chardev *chr, const uint8_t *buf, size_t length);
void char_back_event(Chardev *chr, CharEvent event); /* OPENED and CLOSED set chr->connected */
void char_back_writable(Chardev *chr);

/* --- the set: one a program; service "chardevs" of a machine --- */
typedef struct ChardevHooks {
    void (*quit)(void *opaque);   /* Ctrl-a x, or an interrupt typed at a terminal back end */
    void (*commit)(void *opaque); /* Ctrl-a s */
    /* Opens paths that are no files (/dev/fdset/N): a descriptor or -errno, -ENOENT: it is a plain path. */
    int (*open_special)(void *opaque, const char *path, int flags);
    /*
     * Input (event CHAR_EVENTS) or an event for a guest's front end; true: char_take() brings it when it is due.
     * NULL: it goes to the front end at once.
     */
    bool (*post)(void *opaque, const char *front, CharEvent event, const uint8_t *buf, size_t length);
    void (*vc_opened)(void *opaque, Chardev *chr); /* a text console is there; set by the display */
    void *opaque;
} ChardevHooks;

struct Chardevs {
    Object *container; /* borrowed */
    Loop *loop;
    ChardevHooks hooks;
    uint8_t escape;    /* 1: Ctrl-a */
    bool takes_all;    /* char_write() never is short, as char_write_all(): guests must not see how fast the host is */
    const char *stdio_user; /* who has taken the standard input and output; NULL: nobody */
};

/* Takes the process's standard input and output; who: for the next one's error. */
Error *chardevs_take_stdio(Chardevs *set, const char *who) MUST_USE;
void chardevs_give_stdio(Chardevs *set);

Chardevs *chardevs_new(Object *container, Loop *loop);
void chardevs_free(Chardevs *set); /* closes all; front ends are detached */
/* What hooks.post was given, event CHAR_EVENTS: input. */
void char_take(Chardevs *set, const char *front, CharEvent event, const uint8_t *buf, size_t length);
Chardev *chardev_find(Chardevs *set, const char *id);
/* NULL starts; in no special order. */
Chardev *chardev_next(Chardevs *set, Chardev *after);
/* kv: "backend"=type, "id"=..., options. */
Error *chardev_add(Chardevs *set, const KeyValues *kv, Chardev **ret_chr) MUST_USE;
/* Puts a new back end in the place of the one with that id; its front ends stay and go on with the new one. */
Error *chardev_change(Chardevs *set, const KeyValues *kv, Chardev **ret_chr) MUST_USE;
Error *chardev_remove(Chardevs *set, const char *id) MUST_USE; /* fails while it is in use */
/* What query-chardev shows as filename. Caller frees. */
char *chardev_describe(Chardev *chr);
/* Text of -chardev help. Caller frees. */
char *chardev_types_help(void);

/*
 * The short syntax of -serial, -parallel, -monitor, -debugcon, -qmp: stdio, mon:..., pty, file:, pipe:,
 * tcp:, telnet:, websocket:, unix:, udp:, /dev/..., vc[:WxH], null, msmouse.
 * Gives the canonical -chardev options with the id in it, and whether "mon:" asked for a monitor on the
 * same back end. "none" gives no options (NULL); "chardev:ID" gives just id=ID without a backend.
 */
Error *chardev_parse_short(const char *text, const char *id, KeyValues **ret_kv, bool *ret_monitor) MUST_USE;

#endif
