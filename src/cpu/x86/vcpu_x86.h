/* Making a machine's x86 CPUs: the device, its state, its model. */
#ifndef OSTRICH_CPU_X86_VCPU_X86_H
#define OSTRICH_CPU_X86_VCPU_X86_H

#include "cpu/x86/cpu.h"

/*
 * Makes CPU `index` of the configured model below /machine/unattached and adds it to machine->vcpus. The accelerator must
 * be chosen; it is given the CPU. The APIC id follows from the index and the topology in the machine's configuration.
 */
Error *x86_vcpu_create(Machine *machine, unsigned index) MUST_USE;
/* APIC id of CPU `index` with the machine's topology. */
uint32_t x86_apic_id_of(const Machine *machine, unsigned index);

#endif
