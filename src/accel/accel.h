/*
 * Accelerators: what runs vCPUs. tcg (the translator), kvm, qtest.
 */
#ifndef OSTRICH_ACCEL_ACCEL_H
#define OSTRICH_ACCEL_ACCEL_H

#include "core/vm/machine.h"

typedef struct AccelType AccelType;

struct Accel {
    const AccelType *type;
    Machine *machine;
};

struct AccelType {
    const char *name; /* as -accel names it */
    const char *desc;
    size_t size;      /* of the struct that embeds Accel first */
    const Prop *props; /* -accel NAME,prop=value: offsets into that struct */
    /* Cheap check before a machine exists: NULL when usable here. */
    Error *(*usable)(void);
    Error *(*init)(Accel *accel);
    void (*fini)(Accel *accel);
    /* Prepares vcpu->accel_data, sets vcpu->exit_req. */
    Error *(*vcpu_init)(Accel *accel, Vcpu *vcpu);
    void (*vcpu_fini)(Vcpu *vcpu);
    /* Body of the vCPU's thread: loops on vcpu_wait_until_runnable() until it says false. */
    void (*vcpu_thread)(Vcpu *vcpu);
    /* Kicks the CPU out of the guest after exit_req was set, if setting the word is not enough. */
    void (*vcpu_kick)(Vcpu *vcpu);
    /* The debugger's points changed: translated code must not run over them. On the CPU's thread. May be NULL. */
    void (*debug_changed)(Vcpu *vcpu);
    char *(*describe)(Accel *accel); /* info jit / info kvm; may be NULL */
};

SECTION_DECLARE(accel_types, AccelType);
#define ACCEL_REGISTER(type) SECTION_ENTRY(accel_types, AccelType, type)
const AccelType *accel_type_find(const char *name);
/* Its properties have their defaults. accel_start() takes it. */
Accel *accel_new(Machine *machine, const AccelType *type);
/* Makes it the machine's, which frees it; on failure it is freed here. */
Error *accel_start(Accel *accel) MUST_USE;
/* Text of -accel help. Caller frees. */
char *accel_types_help(void);

#endif
