/* What the files of the qemu-io commands share. */
#ifndef OSTRICH_BLOCK_IOCMD_PRIV_H
#define OSTRICH_BLOCK_IOCMD_PRIV_H

#include "block/iocmd/iocmd.h"

enum { IO_MAX_OPTIONS = 16, IO_UNLIMITED = 10000 };

/* A command line, taken apart. */
typedef struct IoArgs {
    unsigned count;
    char **text; /* what is not an option; borrowed */
    bool flag[128];
    const char *value[128]; /* of an option with a value; borrowed */
} IoArgs;

typedef struct IoCommand {
    const char *name, *alias;
    const char *letters; /* options, with ':' behind those that take a value */
    unsigned min, max;   /* arguments, options counted in where letters is NULL */
    const char *synopsis, *summary;
    const char *help; /* NULL: nothing more to say */
    int (*run_co)(IoSession *io, const struct IoCommand *command, const IoArgs *args);
    bool no_file;                  /* works without an open file */
    unsigned claims;               /* beyond CLAIM_READ */
    unsigned min_plain, max_plain; /* arguments that are not options; 0: no limit */
    bool no_plain;                 /* options only */
} IoCommand;

extern const IoCommand io_commands_rw[], io_commands_aio[], io_commands_misc[];

void io_printf(IoSession *io, const char *fmt, ...) PRINTF(2, 3);
void io_complain(IoSession *io, const char *fmt, ...) PRINTF(2, 3);
/* Reports through the session; returns -EINVAL. */
int io_fail(IoSession *io, Error *err);
int io_usage(IoSession *io, const IoCommand *command);
void io_print_synopsis(IoSession *io, const IoCommand *command);

/* --- numbers --- */
/* False after it has said what is wrong. */
bool io_parse_number(IoSession *io, const char *text, uint64_t *ret_value);
bool io_parse_pattern(IoSession *io, const char *text, uint8_t *ret_byte);
/* Lengths, each and in sum below 2 GiB. The array is NULL after a failure; caller frees. */
struct iovec *io_parse_lengths(IoSession *io, char **text, unsigned count, uint64_t *ret_total);
enum { IO_MAX_LENGTH = 2147483136 };

/* --- buffers --- */
uint8_t *io_buffer_new(const IoSession *io, size_t size, uint8_t fill); /* NULL: no memory */
void io_buffer_free(const IoSession *io, uint8_t *buffer);              /* accepts NULL */
/* The elements of iov laid into one buffer. */
void io_lay_out(struct iovec *iov, unsigned count, uint8_t *buffer);

/* --- text --- */
typedef struct IoReport {
    const char *verb; /* "read", "wrote", "discard" */
    uint64_t offset, asked, done;
    int64_t start; /* ns, realtime clock */
    bool machine;  /* -C */
} IoReport;
int64_t io_now(const IoSession *io);
void io_report(IoSession *io, const IoReport *report);
char *io_size_text(double bytes); /* "64 KiB", "1.500 MiB", "5 bytes"; caller frees */
void io_dump(IoSession *io, const uint8_t *buffer, uint64_t offset, size_t bytes);
/* Whether [from, from + bytes) of the buffer is all `pattern`; says so when it is not. */
bool io_verify(IoSession *io, const uint8_t *buffer, uint8_t pattern, uint64_t offset,
               size_t bytes);

/* The range must lie in the disk; growing is what truncate is for. */
int io_check_range(const IoSession *io, uint64_t offset, uint64_t bytes);

#endif
