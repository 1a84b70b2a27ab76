/*
 * Moving a machine: out to another process or a file, and in from there. Service "migration" of the
 * machine; parameters and capabilities are kept there.
 *
 * Out (out.c): a thread sends all RAM while the guest runs, then what the guest wrote meanwhile, until
 * the rest fits in the allowed downtime; then the machine is stopped, and the rest, clock and devices
 * follow. A failure or cancellation at any point before the end lets the machine run on.
 *
 * In (in.c): a thread reads the stream into RAM and memory; when it is complete and its sums are right,
 * the devices take it over on the main loop.
 *
 * Over a socket the two sides agree at the end, so that never both run and a refusal reaches the source:
 * the destination says MSG_READY or MSG_FAILED and a text, the source MSG_GO.
 *
 * Threads: everything here runs on the main loop with the machine lock unless it says otherwise.
 */
#ifndef OSTRICH_MIGRATION_MIGRATION_H
#define OSTRICH_MIGRATION_MIGRATION_H

#include "core/vm/machine.h"

Error *migration_init(Machine *machine) MUST_USE;
/* Cancels and waits. Before devices go. Accepts a machine without the service. */
void migration_free(Machine *machine);

/* -incoming: "defer" or a URI. The machine waits in the state inmigrate and then starts, or pauses when it was told to. */
Error *migration_incoming(Machine *machine, const char *uri) MUST_USE;

#endif
