/* Notes of ELF core files about a CPU. */
#ifndef OSTRICH_CPU_X86_CORE_NOTE_H
#define OSTRICH_CPU_X86_CORE_NOTE_H

#include "core/vm/vcpu.h"

/* While the CPU stands still. */
void x86_core_notes(Vcpu *vcpu, GByteArray *notes);

#endif
