/*
 * For tests: a "pc" with every device that needs no window to the outside, random accesses to it, and its state in
 * memory as the stream that snapshots and migration use.
 *
 * Threads: one; the machine lock is held between test_pc_setup() and test_pc_tear_down().
 */
#ifndef OSTRICH_MACHINE_X86_TEST_PC_H
#define OSTRICH_MACHINE_X86_TEST_PC_H

#include "block/backend.h"
#include "core/vm/machine.h"

typedef struct TestPc {
    Machine *machine;
    BlockGraph *graph;
    char *dir, *disk;
    GRand *rand;     /* owned by the test; NULL at set-up: of GLib's test seed */
    bool everything; /* devices that need back ends, too */
    bool keeps_cards; /* random accesses eject none */
} TestPc;

/* False when the firmware is not installed. */
bool test_pc_setup(TestPc *pc);
void test_pc_tear_down(TestPc *pc);
unsigned test_pc_dice(TestPc *pc, unsigned sides);
/* One random access to ports, configuration space, BARs or memory. */
void test_pc_access(TestPc *pc);
/* Many of them, while guest time passes. */
void test_pc_noise(TestPc *pc, unsigned rounds, int64_t *now);
/* The whole machine as a stream. */
GByteArray *test_pc_save(Machine *machine);
Error *test_pc_load(Machine *machine, const GByteArray *bytes) MUST_USE;

#endif
