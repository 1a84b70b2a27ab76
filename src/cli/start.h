/* The plan carried out: a machine that is ready to run. */
#ifndef OSTRICH_CLI_START_H
#define OSTRICH_CLI_START_H

#include "cli/plan.h"

/*
 * Takes the plan's configuration. On failure *ret_machine may hold a half-made machine, which the caller
 * frees. Afterwards the machine was reset and stands; machine_start() is the caller's.
 */
Error *cli_start(Plan *plan, Machine **ret_machine) MUST_USE;
/* Takes down what cli_start() made. Accepts NULL. */
void cli_stop(Machine *machine);

#endif
