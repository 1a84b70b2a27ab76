/*
 * The machine: everything that one emulated computer is made of. There are no globals; a device reaches
 * the machine through dev->machine.
 *
 * Run states and what may call them: machine_start, machine_stop, machine_reset run on the main loop
 * with the machine lock held. A vCPU or a device asks for a change with machine_request_*(), from any
 * thread; the main loop carries it out. vCPUs are stopped while a reset runs.
 */
#ifndef OSTRICH_CORE_VM_MACHINE_H
#define OSTRICH_CORE_VM_MACHINE_H

#include "core/dev/dev.h"
#include "core/vm/action.h"
#include "core/vm/numa.h"
#include "core/vm/vcpu.h"

typedef struct MachineType MachineType;
typedef struct MachineConfig MachineConfig;
typedef struct Accel Accel; /* accel/accel.h */

typedef enum RunState {
    RUN_STATE_PRELAUNCH,
    RUN_STATE_RUNNING,
    RUN_STATE_PAUSED,
    RUN_STATE_DEBUG,
    RUN_STATE_SUSPENDED,
    RUN_STATE_SHUTDOWN,
    RUN_STATE_INMIGRATE,
    RUN_STATE_POSTMIGRATE,
    RUN_STATE_FINISH_MIGRATE,
    RUN_STATE_SAVE_VM,
    RUN_STATE_RESTORE_VM,
    RUN_STATE_IO_ERROR,
    RUN_STATE_WATCHDOG,
    RUN_STATE_GUEST_PANICKED,
    RUN_STATE_INTERNAL_ERROR,
    RUN_STATES,
} RunState;
const char *run_state_name(RunState state); /* as QMP spells it */

typedef enum ShutdownCause {
    SHUTDOWN_NONE,
    SHUTDOWN_HOST_ERROR,
    SHUTDOWN_HOST_QMP_QUIT,
    SHUTDOWN_HOST_QMP_SYSTEM_RESET,
    SHUTDOWN_HOST_SIGNAL,
    SHUTDOWN_HOST_UI,
    SHUTDOWN_GUEST_SHUTDOWN,
    SHUTDOWN_GUEST_RESET,
    SHUTDOWN_GUEST_PANIC,
    SHUTDOWN_SUBSYSTEM_RESET,
    SHUTDOWN_SNAPSHOT_LOAD,
} ShutdownCause;
const char *shutdown_cause_name(ShutdownCause cause); /* as QMP spells it */
bool shutdown_cause_is_guest(ShutdownCause cause);

/* What ends S3. */
typedef enum WakeReason {
    WAKE_NONE,
    WAKE_RTC,
    WAKE_PM_TIMER,
    WAKE_POWER_BUTTON,
    WAKE_OTHER, /* a key, a line, the user's command */
} WakeReason;

/* What the command line says about the machine; plain data, filled by cli/, owned by the machine. */
struct MachineConfig {
    uint64_t ram_size, max_ram_size;
    unsigned ram_slots;
    unsigned cpus, max_cpus, sockets, dies, clusters, cores, threads;
    Numa numa;
    char *cpu_model;      /* "qemu64,+avx"; NULL: the machine's default */
    char *firmware;       /* -bios */
    char *kernel, *initrd, *append, *dtb;
    char *boot_order, *boot_once; /* letters */
    bool boot_menu, boot_menu_set, boot_strict;
    int64_t boot_splash_time, boot_reboot_timeout; /* ms, -1: unset */
    char *boot_splash;
    char *name, *process_name;
    Uuid uuid;
    bool graphics;        /* false: -nographic */
    char *keyboard_layout; /* -k; NULL: en-us */
    char *vga;            /* "std", "none", ...; NULL: default */
    bool usb;
    bool no_defaults;
    bool acpi, hpet, i8042, pit, pic, dump_guest_core;
    int smm, vmport;      /* OnOffAuto */
    char *memory_backend;    /* id of the object that is main memory; NULL: ram_options say */
    RamOptions ram_options;  /* path is owned */
    enum { RTC_BASE_UTC, RTC_BASE_LOCALTIME, RTC_BASE_DATE } rtc_base;
    int64_t rtc_date;     /* seconds since 1970, with RTC_BASE_DATE */
    ClockId rtc_clock;
    bool rtc_slew;        /* driftfix=slew */
    GPtrArray *data_dirs; /* char *: -L, then the built-in ones */
    GPtrArray *option_roms;
    GPtrArray *fw_cfg_items; /* char *: arguments of -fw_cfg */
    GPtrArray *smbios;       /* char *: arguments of -smbios */
    GPtrArray *acpi_tables;
    bool cpu_pm; /* an idle CPU keeps its host CPU */
    bool win2k_hack, fd_bootchk;
};

struct Machine {
    const MachineType *type;
    MachineConfig *config;
    Object *root;       /* "/" */
    Object *object;     /* /machine */
    Lock lock;          /* the main lock domain */
    Clocks *clocks;
    Loop *loop;         /* the main loop; holds `lock` in callbacks */
    MemSystem *mem;
    MemRegion memory, io; /* roots: 2^64 bytes, 64 KiB of ports */
    AddressSpace *as, *io_as;
    List buses;         /* those without a parent device */
    GPtrArray *vcpus;   /* Vcpu *, sorted by index; changes while all stand still */
    const struct CpuBoard *cpu_board; /* NULL: no CPU can be added */
    bool preconfig;     /* -preconfig: the machine is not made yet */
    bool launched;      /* machine_launch_vcpus() has run */
    struct Inlet *inlet;   /* inlet.h; NULL: nothing is recorded or replayed. Borrowed */
    struct Icount *icount; /* icount.h; NULL: time is the host's */
    const struct AccelType *accel_type;
    Accel *accel;
    GHashTable *globals;   /* GPtrArray of Global by driver name */
    List reset_handlers, notifiers;
    GQueue *device_order; /* Device *, as plugged */
    RunState state;
    RunActions actions;
    bool start_paused;
    bool starting;         /* by the command line: it runs on from cli_start()'s end at the earliest */
    unsigned holds;        /* of machine_hold(): start and stop only set goes_on meanwhile */
    bool goes_on;
    bool sandboxed; /* vCPU threads to come enter the filter, too */
    bool stopped_suspended; /* stopped while in S3, to which machine_start() returns */
    bool wakeup_support;    /* the board has S3 */
    ShutdownCause requested_shutdown, requested_reset;
    bool requested_powerdown, requested_suspend, requested_stop;
    Work requests;
    WakeReason requested_wakeup;
    RunState requested_stop_state;
    unsigned pause_depth;
    int exit_code;
    void (*emit)(void *opaque, const char *event, const char *json);
    void *emit_opaque;
    void *board;          /* the board's own state */
    struct FwCfg *fw_cfg; /* firmware/fw_cfg.h; NULL: none */
    void *services;       /* GHashTable: key -> pointer; see machine_service */
};

/* A board: name, versions, what it builds. */
struct MachineType {
    const char *name, *alias, *desc;
    bool is_default;
    const char *deprecated; /* why, or NULL */
    unsigned max_cpus;
    bool numa_mem;     /* -numa node,mem= is possible */
    bool hotplug_cpus; /* CPUs come and go while the machine runs */
    uint64_t default_ram;
    const char *default_cpu, *default_nic, *default_display;
    const char *block_default; /* "ide", "virtio", "none" */
    const char *ram_id;
    bool no_serial, no_parallel, no_floppy, no_cdrom;
    const struct CompatProp *compat; /* driver, property, value; NULL driver ends */
    const Prop *props;               /* -M options beyond machine_common_props; offsets into the board */
    size_t board_size;
    const void *data;
    Error *(*build)(Machine *machine); /* memory, buses, built-in devices */
    /* After -device and before the first reset: firmware tables. */
    Error *(*finish)(Machine *machine);
};
extern const Prop machine_common_props[]; /* -M options that every board has; offsets into MachineConfig */
typedef struct CompatProp {
    const char *driver, *prop, *value;
} CompatProp;
SECTION_DECLARE(machine_types, MachineType);
#define MACHINE_REGISTER(type) SECTION_ENTRY(machine_types, MachineType, type)
const MachineType *machine_type_find(const char *name_or_alias);
Error *machine_type_lookup(const char *name_or_alias, const MachineType **ret_type) MUST_USE;
char *machine_types_help(void);

MachineConfig *machine_config_new(void);
void machine_config_free(MachineConfig *config); /* of one that no machine took; accepts NULL */
/* Takes config. The loop and clocks are made here. */
Machine *machine_new(const MachineType *type, MachineConfig *config);
void machine_free(Machine *machine);
/* -global and compat: applied when a device of that driver is made. */
void machine_add_global(Machine *machine, const char *driver, const char *prop, const char *value);
Error *machine_check_globals(Machine *machine) MUST_USE; /* names that no device has */

/* --- services: pointers that one part of the machine offers to others, by a name constant --- */
void machine_set_service(Machine *machine, const char *name, void *ptr);
void *machine_service(Machine *machine, const char *name);

/* Service: Spawner * of io/spawn.h, which starts programs once the filter is on. */
#define SPAWNER_SERVICE "spawner"

/* Service "snapshots": what savevm, loadvm, delvm and info snapshots do. tag NULL (save): a name from the date. */
typedef struct SnapshotOps {
    Error *(*save)(Machine *machine, const char *tag);
    Error *(*load)(Machine *machine, const char *tag);
    Error *(*remove)(Machine *machine, const char *tag);
    Error *(*describe)(Machine *machine, char **ret_text); /* caller frees */
} SnapshotOps;

/* The loop of what belongs to the guest's time: virtual timers, deferred work of devices. */
Loop *machine_guest_loop(Machine *machine);

/* --- life --- */
/* Makes the vCPU threads that are missing; they stand still until machine_start(). After the board is built. */
void machine_launch_vcpus(Machine *machine);
void machine_start(Machine *machine);           /* vCPUs run */
void machine_stop(Machine *machine, RunState state); /* returns when every vCPU stands still */
void machine_reset(Machine *machine, ShutdownCause cause);
bool machine_running(const Machine *machine);
/* From one state in which it stands still to another; a machine that runs is stopped, without an event. */
void machine_set_state(Machine *machine, RunState state);
/*
 * Stops the machine for a while of `state` (saving, restoring, a dump, a move) and returns the state before.
 * machine_release() lets it go on, or back to that state, as start and stop that came meanwhile want it;
 * machine_release_still() leaves it in another state in which it stands still. Main loop.
 */
RunState machine_hold(Machine *machine, RunState state);
void machine_release(Machine *machine, RunState before);
void machine_release_still(Machine *machine, RunState state);
/* What machine_request_*() asked for is looked at once more. */
void machine_handle_later(Machine *machine);
/* Stops all vCPUs for a moment and lets them go; nests. Machine lock. */
/* Not on a vCPU's thread. The machine lock is released while it waits for them. */
void machine_pause_vcpus(Machine *machine);
void machine_resume_vcpus(Machine *machine);

/* Any thread. */
void machine_request_reset(Machine *machine, ShutdownCause cause);
void machine_request_shutdown(Machine *machine, ShutdownCause cause);
/* The same at once. Main loop. */
void machine_shutdown(Machine *machine, ShutdownCause cause);
void machine_request_powerdown(Machine *machine);
void machine_request_suspend(Machine *machine); /* S3 entered */
/* Of no effect unless the machine is suspended by then; a suspension requested before comes first. */
void machine_request_wakeup(Machine *machine, WakeReason reason);
void machine_request_stop(Machine *machine, RunState state);

/* The handler of INLET_REQUEST. */
void machine_take_request(Machine *machine, const char *id, const uint8_t *data, size_t length);

/* Reset handlers run after all devices, in order of registration. */
typedef struct ResetHandler {
    void (*fn)(void *opaque);
    void *opaque;
    ListNode node;
} ResetHandler;
void machine_add_reset(Machine *machine, ResetHandler *handler, void (*fn)(void *opaque), void *opaque);

typedef enum MachineEvent {
    MACHINE_EVENT_STATE,     /* run state changed */
    MACHINE_EVENT_RESET,     /* data: const ShutdownCause *; SHUTDOWN_NONE at start and at the end of S3 */
    MACHINE_EVENT_POWERDOWN, /* the power button */
    MACHINE_EVENT_SHUTDOWN,
    MACHINE_EVENT_SUSPEND,
    MACHINE_EVENT_WAKEUP,    /* data: const WakeReason * */
    MACHINE_EVENT_DEVICE_ADDED,
    MACHINE_EVENT_DEVICE_DELETED,
    MACHINE_EVENT_EXIT,
} MachineEvent;
typedef struct MachineNotifier {
    void (*fn)(struct MachineNotifier *notifier, MachineEvent event, void *data);
    ListNode node;
} MachineNotifier;
void machine_notifier_add(Machine *machine, MachineNotifier *notifier);
void machine_notify(Machine *machine, MachineEvent event, void *data);
/* Events for QMP: name and a JSON object text (NULL: no data). Set by the monitor, called anywhere under the lock. */
void machine_emit(Machine *machine, const char *event, const char *json_data);
void machine_set_emitter(Machine *machine, void (*fn)(void *opaque, const char *event, const char *json), void *opaque);

const char *machine_target(void); /* "x86_64" or "i386", by the program's name */

/* A data file (firmware, ROM, keymap): searched in config->data_dirs. Caller frees; the error names where it looked and the Debian package. */
Error *machine_find_file(Machine *machine, const char *name, char **ret_path) MUST_USE;

/* Devices in the order they were plugged (save, load, reset use it). NULL ends. */
Device *machine_device_next(Machine *machine, Device *after);

#endif
