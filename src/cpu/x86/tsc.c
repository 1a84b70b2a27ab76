/*
 * The time-stamp counter. Intel SDM volume 3, section 17.17.
 *
 * The machine's counter is the host's plus an offset that is taken anew whenever virtual time starts, so
 * that it continues where it stood; hosts without a constant-rate counter use the virtual clock.
 */
#include "cpu/x86/tsc.h"

#include <stdatomic.h>
#include <time.h>

#include "core/vm/machine.h"
#include "cpu/x86/apic.h"
#include "cpu/x86/sys.h"
#include "event/clock.h"
#if defined(__x86_64__)
#include <cpuid.h>
#include <x86intrin.h>
#endif

typedef struct TscTime {
    Machine *machine;
    bool host;              /* the host's counter is usable */
    uint64_t hz;
    uint64_t host_start;    /* for measuring the rate */
    int64_t ns_start;
    _Atomic uint64_t offset; /* added to the host's counter */
    _Atomic bool stopped;
    uint64_t frozen;        /* value while stopped */
    ClockFollower follower;
    unsigned users; /* CPUs */
} TscTime;

static uint64_t host_ticks(void)
{
#if defined(__x86_64__)
    return __rdtsc();
#else
    return 0;
#endif
}

static bool host_usable(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d & BIT(8));
#else
    return false;
#endif
}

static int64_t raw_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

static uint64_t machine_ticks(const TscTime *time)
{
    if (time->stopped) {
        return time->frozen;
    }
    if (time->host) {
        return host_ticks() + time->offset;
    }
    return (uint64_t)((unsigned __int128)clock_now(time->machine->clocks, CLOCK_VIRTUAL) * time->hz / NS_PER_SEC);
}

/* Guests compare it with the HPET and the ACPI timer, which are virtual time: it stops and starts at the same instant. */
static void time_switched(ClockFollower *follower, bool running, uint64_t host)
{
    TscTime *time = container_of(follower, TscTime, follower);
    if (running && time->stopped) {
        time->offset = time->frozen - host;
        time->stopped = false;
    } else if (!running && !time->stopped) {
        time->frozen = host + time->offset;
        time->stopped = true;
    }
}

static TscTime *time_new(Machine *machine)
{
    TscTime *time = g_new0(TscTime, 1);
    time->machine = machine;
    time->host = machine == NULL || (host_usable() && machine->icount == NULL);
    time->ns_start = raw_ns();
    time->host_start = host_ticks();
    time->offset = 0 - time->host_start;
    time->stopped = time->host && machine != NULL;
    if (!time->host) {
        time->hz = NS_PER_SEC;
    }
    if (time->stopped && machine->clocks) {
        time->follower = (ClockFollower){ host_ticks, time_switched };
        clocks_set_follower(machine->clocks, &time->follower);
    }
    return time;
}

void x86_time_attach(X86Cpu *cpu)
{
    Machine *machine = cpu->vcpu->machine;
    TscTime *time = machine ? machine_service(machine, "x86-tsc") : NULL;
    if (!time) {
        time = time_new(machine);
        if (machine) {
            machine_set_service(machine, "x86-tsc", time);
        }
    }
    time->users++;
    cpu->time = time;
}

void x86_time_detach(X86Cpu *cpu)
{
    TscTime *time = cpu->time;
    cpu->time = NULL;
    if (time && --time->users == 0) {
        if (time->machine) {
            machine_set_service(time->machine, "x86-tsc", NULL);
        }
        if (time->follower.host) {
            clocks_set_follower(time->machine->clocks, NULL);
        }
        g_free(time);
    }
}

/* Measured against the raw monotonic clock over at least 20 ms, once. */
uint64_t x86_tsc_hz(X86Cpu *cpu)
{
    TscTime *time = cpu->time;
    uint64_t hz = __atomic_load_n(&time->hz, __ATOMIC_ACQUIRE);
    while (!hz) {
        int64_t ns = raw_ns() - time->ns_start;
        if (ns < 20 * NS_PER_MS) {
            struct timespec pause = { .tv_nsec = 20 * NS_PER_MS - ns };
            nanosleep(&pause, NULL);
            continue;
        }
        uint64_t ticks = host_ticks() - time->host_start;
        hz = (uint64_t)((unsigned __int128)ticks * NS_PER_SEC / (uint64_t)ns);
        hz = (hz + 50000) / 100000 * 100000; /* the nearest 0.1 MHz */
        __atomic_store_n(&time->hz, hz, __ATOMIC_RELEASE);
    }
    return hz;
}

uint64_t x86_tsc(X86Cpu *cpu)
{
    return machine_ticks(cpu->time) + cpu->tsc_offset;
}

/* A deadline is a value of the counter: virtual time reaches it at another moment now. */
void x86_tsc_moved(X86Cpu *cpu)
{
    X86Apic *apic = cpu->apic;
    if (apic && apic->ops->tsc_moved) {
        apic->ops->tsc_moved(apic);
    }
}

void x86_tsc_reset(X86Cpu *cpu)
{
    cpu->tsc_offset = 0 - machine_ticks(cpu->time);
    cpu->tsc_adjust = 0;
    if (cpu->vcpu->machine) {
        /* All CPUs are reset together: they share the counter's zero, which the first one takes. */
        Machine *machine = cpu->vcpu->machine;
        if (cpu->vcpu->index != 0 && machine->vcpus && machine->vcpus->len > 0) {
            const Vcpu *first = g_ptr_array_index(machine->vcpus, 0);
            if (first->arch) {
                cpu->tsc_offset = ((const X86Cpu *)first->arch)->tsc_offset;
            }
        }
    }
}

void x86_tsc_write(X86Cpu *cpu, uint64_t value)
{
    /* In a guest of SVM it is the host's counter that is written; the guest's offset stays. */
    uint64_t delta = value - (x86_tsc(cpu) - (cpu->svm.guest ? cpu->svm.tsc_offset : 0));
    cpu->tsc_offset += delta;
    cpu->tsc_adjust += delta;
    x86_tsc_moved(cpu);
}

void x86_tsc_write_adjust(X86Cpu *cpu, uint64_t value)
{
    cpu->tsc_offset += value - cpu->tsc_adjust;
    cpu->tsc_adjust = value;
    x86_tsc_moved(cpu);
}

int64_t x86_tsc_to_ns(X86Cpu *cpu, uint64_t tsc)
{
    TscTime *time = cpu->time;
    int64_t now = time->machine ? clock_now(time->machine->clocks, CLOCK_VIRTUAL) : 0;
    int64_t delta = (int64_t)(tsc - x86_tsc(cpu));
    if (delta <= 0) {
        return now;
    }
    __int128 ns = (__int128)delta * NS_PER_SEC / x86_tsc_hz(cpu);
    return ns > INT64_MAX - now ? INT64_MAX : now + (int64_t)ns;
}
