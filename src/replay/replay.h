/*
 * Record and replay of a run that counts instructions: what enters from outside (core/vm/inlet.h) is written to a file
 * with the count at which the guest got it, and a later run gets the same at the same counts.
 *
 * The file: the magic, then records
 *
 *     kind u8 | count u64 | virtual time i64 | pc u64 | length u32 | CPU u16 | payload | CRC-32 u32 over that and its number
 *
 * little endian; the first is REPLAY_HEADER, the last REPLAY_END. A payload of INLET_* is the id with a zero byte, then the data.
 */
#ifndef OSTRICH_REPLAY_REPLAY_H
#define OSTRICH_REPLAY_REPLAY_H

#include "core/vm/machine.h"

typedef enum ReplayMode { REPLAY_NONE, REPLAY_RECORD, REPLAY_PLAY } ReplayMode;

#define REPLAY_SERVICE "replay"

/* Behind icount_new() and before there are devices: also fixes the guest's date and random numbers. */
Error *replay_start(Machine *machine, ReplayMode mode, const char *path) MUST_USE;
/* Ends the file; the vCPUs stand still. Accepts a machine without. */
void replay_stop(Machine *machine);

#endif
