/*
 * Instruction counting; see icount.h.
 *
 * Invariant: `count` and `seen` belong to the thread of the holder, or to whoever has stopped all vCPUs. Other
 * threads read `published`, which is what they were at the beginning of the holder's turn.
 */
#include "core/vm/icount.h"
#include "core/vm/inlet.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <time.h>

enum {
    SLICE_MIN = 30000, SLICE_SPREAD = 32768, /* instructions of a turn when there are several vCPUs */
    TURN_MAX = 1 << 30,      /* instructions between two looks at the clock */
    ADJUST_NS = 100000000,   /* shift=auto looks this often, and tolerates this much */
    ALIGN_NS = 3000000,      /* align=on holds a guest back that is ahead by more */
    LATE_NS = 100000000,     /* and warns of one that is behind by more */
    WARNINGS_MAX = 100,
};

struct Icount {
    Machine *machine;
    IcountConfig config;
    Loop *loop;
    unsigned shift;
    int64_t bias;
    uint64_t count, seen;     /* of all; executed() of the holder that is in it */
    _Atomic uint64_t published;
    _Atomic int64_t published_ns;
    Vcpu *_Atomic holder;
    uint64_t slice_left;
    bool yielded;
    uint64_t ran_at; /* count when a vCPU began to run last, or took an interrupt since */
    uint64_t random;
    int64_t host_start, virtual_start; /* shift=auto, align: where both clocks were together */
    int64_t adjusted;                  /* host time of the last look */
    bool measuring;                    /* the two above are set: cleared by a stop */
    bool deciding;                     /* the holder looks for what is due: it need not be told */
    int64_t ahead_max, late_max;
    unsigned warnings;
    MachineNotifier notifier;

    pthread_mutex_t lock; /* idle: guards kicked */
    pthread_cond_t wake;
    bool kicked;
    _Atomic bool idle;
};

static int64_t host_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

static uint64_t executed(Vcpu *vcpu)
{
    return vcpu->ops->executed(vcpu);
}

/* --- time --- */

static bool is_holders_thread(const Icount *icount)
{
    const Vcpu *self = vcpu_self();
    return self && self == atomic_load_explicit(&icount->holder, memory_order_relaxed);
}

uint64_t icount_count(const Icount *icount)
{
    if (is_holders_thread(icount)) {
        return icount->count + executed(icount->holder) - icount->seen;
    }
    return atomic_load(&icount->published);
}

static int64_t virtual_now(void *opaque)
{
    const Icount *icount = opaque;
    if (is_holders_thread(icount)) {
        return icount->bias + (int64_t)(icount_count(icount) << icount->shift);
    }
    return atomic_load(&icount->published_ns);
}

static void publish(Icount *icount)
{
    atomic_store(&icount->published, icount->count);
    atomic_store(&icount->published_ns, icount->bias + (int64_t)(icount->count << icount->shift));
}

static void account(Icount *icount)
{
    if (icount->holder) {
        uint64_t now = executed(icount->holder);
        icount->count += now - icount->seen;
        icount->seen = now;
    }
    publish(icount);
}

/* Virtual time jumps; the holder has just accounted. */
static void advance(Icount *icount, int64_t ns)
{
    icount->bias += ns;
    publish(icount);
    clocks_virtual_moved(icount->machine->clocks);
}

/* --- whose turn it is --- */

static uint64_t mix(uint64_t x)
{
    /* The finalizer of SplitMix64 (Steele, Lea, Flood 2014). */
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* Turns of one length could meet a loop of the guest's in the same place for ever. */
static uint64_t new_slice(const Icount *icount)
{
    return SLICE_MIN + mix(icount->count) % SLICE_SPREAD;
}

static void hand_to(Icount *icount, Vcpu *vcpu)
{
    account(icount);
    icount->seen = vcpu ? executed(vcpu) : 0;
    icount->slice_left = new_slice(icount);
    atomic_store(&icount->holder, vcpu);
}

static void pass(Icount *icount, Vcpu *to)
{
    if (to == icount->holder) {
        account(icount); /* the slice follows from the count here, not from where the turn happened to begin */
        icount->slice_left = new_slice(icount);
        return;
    }
    hand_to(icount, to);
    pthread_mutex_lock(&to->run_lock);
    pthread_cond_broadcast(&to->wake);
    pthread_mutex_unlock(&to->run_lock);
}

static bool runnable(Vcpu *vcpu)
{
    return vcpu->created && (!atomic_load(&vcpu->halted) || vcpu->ops->has_work(vcpu));
}

/* The next one after this that can run, perhaps this one itself; NULL: none. */
static Vcpu *next_runnable(Icount *icount, const Vcpu *from)
{
    const GPtrArray *vcpus = icount->machine->vcpus;
    unsigned at = 0;
    while (at < vcpus->len && g_ptr_array_index(vcpus, at) != from) {
        at++;
    }
    for (unsigned n = 1; n <= vcpus->len; n++) {
        Vcpu *vcpu = g_ptr_array_index(vcpus, (at + n) % vcpus->len);
        if (runnable(vcpu)) {
            return vcpu;
        }
    }
    return NULL;
}

bool icount_may_run(Icount *icount, const Vcpu *vcpu)
{
    Vcpu *none = NULL;
    if (vcpu == g_ptr_array_index(icount->machine->vcpus, 0) &&
        atomic_compare_exchange_strong(&icount->holder, &none, (Vcpu *)vcpu)) {
        icount->seen = executed((Vcpu *)vcpu);
    }
    return atomic_load(&icount->holder) == vcpu;
}

void icount_hold(Icount *icount, Vcpu *vcpu)
{
    if (icount->holder != vcpu) {
        hand_to(icount, vcpu);
    }
}

void icount_set(Icount *icount, uint64_t count, int64_t virtual_ns)
{
    account(icount);
    icount->count = count;
    icount->bias = virtual_ns - (int64_t)(count << icount->shift);
    icount->slice_left = new_slice(icount);
    publish(icount);
}

/* --- idle --- */

void icount_kick(Icount *icount)
{
    if (atomic_load(&icount->idle)) {
        pthread_mutex_lock(&icount->lock);
        icount->kicked = true;
        pthread_cond_broadcast(&icount->wake);
        pthread_mutex_unlock(&icount->lock);
    }
}

void icount_look(Icount *icount)
{
    Vcpu *holder = atomic_load(&icount->holder);
    if (is_holders_thread(icount) && icount->deciding) {
        return;
    }
    if (holder) { /* the turn ends behind the instruction under way: its length was wrong */
        atomic_fetch_or(holder->exit_req, VCPU_REQ_WORK);
    }
    icount_kick(icount);
}

static void guest_loop_kicked(void *opaque)
{
    icount_look(opaque);
}

static bool wanted(Icount *icount, const Vcpu *vcpu)
{
    return (atomic_load(vcpu->exit_req) & (VCPU_REQ_STOP | VCPU_REQ_WORK | VCPU_REQ_RESET)) ||
           loop_has_work(icount->loop) || next_runnable(icount, vcpu);
}

/* What a replay waits for is there, or the machine shall stop. */
static bool inlet_came(Icount *icount, const Vcpu *vcpu)
{
    Machine *machine = icount->machine;
    lock_acquire(&machine->lock);
    bool ready = machine->inlet->came(machine->inlet);
    lock_release(&machine->lock);
    return ready || (atomic_load(vcpu->exit_req) & VCPU_REQ_STOP);
}

/* Until `ns` have passed (negative: no end), or something is wanted. The time that passed. */
static int64_t wait_ns(Icount *icount, const Vcpu *vcpu, int64_t ns)
{
    Inlet *inlet = icount->machine->inlet;
    int64_t start = host_now(), until = 0;
    int timed_out = 0;

    if (ns >= 0 && __builtin_add_overflow(start, ns, &until)) {
        ns = -1;
    }
    struct timespec ts = { until / NS_PER_SEC, until % NS_PER_SEC };
    pthread_mutex_lock(&icount->lock);
    icount->kicked = false;
    atomic_store(&icount->idle, true);
    pthread_mutex_unlock(&icount->lock);
    bool now = inlet && inlet->blocked ? inlet_came(icount, vcpu) : wanted(icount, vcpu);
    pthread_mutex_lock(&icount->lock);
    while (!now && !icount->kicked && !timed_out) {
        timed_out = ns < 0 ? pthread_cond_wait(&icount->wake, &icount->lock)
                           : pthread_cond_timedwait(&icount->wake, &icount->lock, &ts);
    }
    atomic_store(&icount->idle, false);
    pthread_mutex_unlock(&icount->lock);
    return timed_out ? ns : MIN(host_now() - start, ns < 0 ? INT64_MAX : ns);
}

/* All vCPUs are halted: goes on to the next timer. */
static void pass_idle_time(Icount *icount, const Vcpu *vcpu)
{
    Inlet *inlet = icount->machine->inlet;
    int64_t next = loop_next_timer(icount->loop, CLOCK_VIRTUAL);
    if (inlet) {
        next = MIN(next, inlet->next_ns(inlet));
    }
    int64_t left = next == INT64_MAX ? -1 : MAX(next - virtual_now(icount), 0);

    account(icount);
    if (inlet && inlet->awaited && !icount->config.sleep && !inlet->replays) {
        wait_ns(icount, vcpu, -1); /* a disk is as fast as the host's: time does not run away from it */
    } else if (icount->config.sleep && !inlet_replays(icount->machine)) {
        advance(icount, wait_ns(icount, vcpu, left));
    } else if (left >= 0) {
        advance(icount, left);
    } else {
        wait_ns(icount, vcpu, -1);
    }
}

/* --- keeping step with the host's clock --- */

static void set_shift(Icount *icount, unsigned shift)
{
    int64_t now = virtual_now(icount);
    icount->shift = shift;
    icount->bias = now - (int64_t)(icount->count << shift);
    publish(icount);
}

static void adjust_shift(Icount *icount, int64_t ahead)
{
    if (ahead > ADJUST_NS && icount->shift > 0) {
        set_shift(icount, icount->shift - 1);
    } else if (ahead < -ADJUST_NS && icount->shift < ICOUNT_SHIFT_MAX) {
        set_shift(icount, icount->shift + 1);
    }
}

static void align(Icount *icount, const Vcpu *vcpu, int64_t ahead)
{
    icount->ahead_max = MAX(icount->ahead_max, ahead);
    icount->late_max = MAX(icount->late_max, -ahead);
    if (ahead > ALIGN_NS) {
        wait_ns(icount, vcpu, ahead);
    } else if (ahead < -LATE_NS && icount->warnings < WARNINGS_MAX) {
        icount->warnings++;
        warn_report("the guest is late by %.1f seconds", (double)-ahead / NS_PER_SEC);
        icount->measuring = false; /* it cannot make up for it: from here */
    }
}

static void follow_host(Icount *icount, const Vcpu *vcpu)
{
    if (!icount->config.automatic && !icount->config.align) {
        return;
    }
    int64_t host = host_now(), guest = virtual_now(icount);
    if (!icount->measuring) {
        icount->measuring = true;
        icount->host_start = icount->adjusted = host;
        icount->virtual_start = guest;
        return;
    }
    int64_t ahead = (guest - icount->virtual_start) - (host - icount->host_start);
    if (icount->config.automatic && host - icount->adjusted > ADJUST_NS) {
        icount->adjusted = host;
        adjust_shift(icount, ahead);
    }
    if (icount->config.align) {
        align(icount, vcpu, ahead);
    }
}

static void state_changed(MachineNotifier *notifier, MachineEvent event, void *data)
{
    if (event == MACHINE_EVENT_STATE) {
        container_of(notifier, Icount, notifier)->measuring = false;
    }
}

/* --- turns --- */

/* Instructions until the next timer is due, at least one. */
static uint64_t until_timer(Icount *icount)
{
    int64_t next = loop_next_timer(icount->loop, CLOCK_VIRTUAL), now = virtual_now(icount);
    if (next <= now) {
        return 1;
    }
    uint64_t left = (uint64_t)next - (uint64_t)now;
    uint64_t count = (left >> icount->shift) + ((left & (BIT64(icount->shift) - 1)) != 0);
    return count;
}

uint64_t icount_begin(Vcpu *vcpu)
{
    Machine *machine = vcpu->machine;
    Icount *icount = machine->icount;

    account(icount);
    follow_host(icount, vcpu);
    lock_acquire(&machine->lock);
    icount->deciding = true;
    loop_run_due(icount->loop);
    if (machine->inlet) {
        machine->inlet->fresh_runs = runnable(vcpu);
        machine->inlet->fresh = icount->ran_at != icount->count || !machine->inlet->fresh_runs;
        machine->inlet->deliver(machine->inlet);
    }
    icount->deciding = false;
    lock_release(&machine->lock);
    if (atomic_load(vcpu->exit_req) & VCPU_REQ_STOP) {
        return 0;
    }
    if (machine->inlet && machine->inlet->blocked) {
        wait_ns(icount, vcpu, -1);
        return 0;
    }
    if (!runnable(vcpu)) {
        Vcpu *next = next_runnable(icount, vcpu);
        if (next) {
            pass(icount, next);
        } else {
            pass_idle_time(icount, vcpu);
        }
        return 0;
    }
    uint64_t turn = machine->vcpus->len > 1 ? icount->slice_left : TURN_MAX;
    if (icount->config.automatic || icount->config.align) { /* look often enough */
        turn = MIN(turn, (uint64_t)ALIGN_NS >> icount->shift);
    }
    turn = MIN(turn, until_timer(icount));
    icount->ran_at = icount->count;
    return machine->inlet ? MIN(turn, machine->inlet->until(machine->inlet)) : turn;
}

void icount_end(Vcpu *vcpu)
{
    Icount *icount = vcpu->machine->icount;

    if (vcpu->machine->vcpus->len > 1) {
        uint64_t used = executed(vcpu) - icount->seen;
        icount->slice_left -= icount->yielded ? icount->slice_left : MIN(used, icount->slice_left);
        icount->yielded = false;
        if (icount->slice_left == 0) {
            Vcpu *next = next_runnable(icount, vcpu);
            pass(icount, next ? next : vcpu);
            return;
        }
    }
    account(icount);
}

void icount_note_event(Vcpu *vcpu)
{
    Icount *icount = vcpu->machine->icount;
    icount->ran_at = icount_count(icount);
}

void icount_yield(Vcpu *vcpu)
{
    if (vcpu->machine->vcpus->len > 1) {
        vcpu->machine->icount->yielded = true;
        atomic_fetch_or(vcpu->exit_req, VCPU_REQ_WORK);
    }
}

void icount_leave(Vcpu *vcpu)
{
    Icount *icount = vcpu->machine->icount;
    if (icount->holder == vcpu) {
        const GPtrArray *vcpus = icount->machine->vcpus;
        Vcpu *other = NULL;
        for (unsigned n = 0; n < vcpus->len && !other; n++) {
            Vcpu *each = g_ptr_array_index(vcpus, n);
            other = each != vcpu && each->created ? each : NULL;
        }
        other ? pass(icount, other) : hand_to(icount, NULL);
    }
}

void icount_save(const Icount *icount, IcountState *ret_state)
{
    *ret_state = (IcountState) {
        .count = icount->count,
        .slice_left = icount->slice_left,
        .random = icount->random,
        .bias = icount->bias,
        .holder = icount->holder,
        .yielded = icount->yielded,
    };
}

void icount_restore(Icount *icount, const IcountState *state)
{
    icount->count = state->count;
    icount->slice_left = state->slice_left;
    icount->random = state->random;
    icount->bias = state->bias;
    icount->yielded = state->yielded;
    icount->holder = state->holder;
    icount->seen = state->holder ? executed(state->holder) : 0;
    publish(icount);
}

/* --- random numbers --- */

uint64_t icount_random(Icount *icount)
{
    return mix(icount->random += 0x9e3779b97f4a7c15ull);
}

uint64_t icount_random_state(const Icount *icount)
{
    return icount->random;
}

void icount_set_random_state(Icount *icount, uint64_t state)
{
    icount->random = state;
}

/* --- life --- */

void icount_new(Machine *machine, const IcountConfig *config)
{
    Icount *icount = g_new0(Icount, 1);
    pthread_condattr_t attr;

    icount->machine = machine;
    icount->config = *config;
    icount->shift = config->shift;
    icount->ran_at = UINT64_MAX;
    icount->slice_left = new_slice(icount);
    pthread_mutex_init(&icount->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&icount->wake, &attr);
    pthread_condattr_destroy(&attr);
    icount->loop = loop_new("guest", machine->clocks, &machine->lock);
    loop_set_kicked(icount->loop, guest_loop_kicked, icount);
    icount->notifier.fn = state_changed;
    machine_notifier_add(machine, &icount->notifier);
    machine->icount = icount;
    clocks_set_virtual_source(machine->clocks, virtual_now, icount);
}

void icount_free(Icount *icount)
{
    if (icount) {
        list_remove(&icount->notifier.node);
        loop_free(icount->loop);
        pthread_cond_destroy(&icount->wake);
        pthread_mutex_destroy(&icount->lock);
        g_free(icount);
    }
}

const IcountConfig *icount_config(const Icount *icount)
{
    return &icount->config;
}

Loop *icount_loop(Icount *icount)
{
    return icount->loop;
}

char *icount_describe(const Icount *icount)
{
    GString *text = g_string_new(NULL);
    g_string_append_printf(text, "instructions        %" PRIu64 "\n", icount_count(icount));
    g_string_append_printf(text, "instruction time    %u ns\n", 1u << icount->shift);
    if (icount->config.align) {
        g_string_append_printf(text, "Max guest delay     %" PRId64 " ms\n", (int64_t)(icount->late_max / NS_PER_MS));
        g_string_append_printf(text, "Max guest advance   %" PRId64 " ms\n", (int64_t)(icount->ahead_max / NS_PER_MS));
    }
    return g_string_free(text, FALSE);
}
