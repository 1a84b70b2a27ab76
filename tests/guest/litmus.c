/*
 * Runs in a guest with several CPUs: what x86 processors promise each other about memory (SDM volume 3, 8.2; atomic
 * operations, 8.1; cross-modifying code, 8.1.3), and what the kernel promises about mprotect(). Each test runs for
 * some time on threads that are bound to a CPU each and start every round together.
 *
 * litmus SECONDS: one line for each test, exit status 1 when something happened that must not.
 */
#include <cpuid.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, LINE = 64, BATCH = 256 };

typedef struct Cell {
    volatile uint64_t v;
    char pad[LINE - 8];
} Cell;

typedef struct Round { /* one of a batch: every round has variables of its own */
    Cell x, y;
    uint64_t r[THREADS][2];
} Round;

typedef struct Test {
    const char *name;
    unsigned threads;
    void (*body)(unsigned thread, Round *round);
    bool (*forbidden)(const Round *round);
    bool (*weak)(const Round *round); /* allowed, and a sign that the CPUs really run side by side; may be NULL */
} Test;

static Round rounds[BATCH] __attribute__((aligned(4096)));
static _Atomic unsigned arrived, phase;
static _Atomic bool stop;
static const Test *running;

static void together(unsigned threads)
{
    unsigned now = atomic_load(&phase);
    if (atomic_fetch_add(&arrived, 1) + 1 == threads) {
        atomic_store(&arrived, 0);
        atomic_store(&phase, now + 1);
        return;
    }
    while (atomic_load(&phase) == now) {
        __builtin_ia32_pause();
    }
}

/* --- the tests; loads and stores as they stand --- */

#define STORE(cell, value) __asm__ volatile("movq %1, %0" : "=m"((cell).v) : "r"((uint64_t)(value)))
#define LOAD(reg, cell) __asm__ volatile("movq %1, %0" : "=r"(reg) : "m"((cell).v))
#define FENCE(text) __asm__ volatile(text ::: "memory")

static void sb(unsigned t, Round *r)
{
    STORE(*(t ? &r->y : &r->x), 1);
    LOAD(r->r[t][0], *(t ? &r->x : &r->y));
}
static void sb_mfence(unsigned t, Round *r)
{
    STORE(*(t ? &r->y : &r->x), 1);
    FENCE("mfence");
    LOAD(r->r[t][0], *(t ? &r->x : &r->y));
}
static void sb_locked(unsigned t, Round *r)
{
    STORE(*(t ? &r->y : &r->x), 1);
    FENCE("lock orl $0, (%%rsp)");
    LOAD(r->r[t][0], *(t ? &r->x : &r->y));
}
static void sb_xchg(unsigned t, Round *r)
{
    uint64_t one = 1;
    __asm__ volatile("xchgq %0, %1" : "+r"(one), "+m"((t ? &r->y : &r->x)->v)::"memory");
    LOAD(r->r[t][0], *(t ? &r->x : &r->y));
}
static void mp(unsigned t, Round *r)
{
    if (t == 0) {
        STORE(r->x, 1);
        STORE(r->y, 1);
    } else {
        LOAD(r->r[t][0], r->y);
        LOAD(r->r[t][1], r->x);
    }
}
static void lb(unsigned t, Round *r)
{
    LOAD(r->r[t][0], *(t ? &r->y : &r->x));
    STORE(*(t ? &r->x : &r->y), 1);
}
static void corr(unsigned t, Round *r)
{
    if (t == 0) {
        STORE(r->x, 1);
    } else {
        LOAD(r->r[t][0], r->x);
        LOAD(r->r[t][1], r->x);
    }
}
static void iriw(unsigned t, Round *r)
{
    if (t < 2) {
        STORE(*(t ? &r->y : &r->x), 1);
    } else {
        LOAD(r->r[t][0], *(t == 2 ? &r->x : &r->y));
        LOAD(r->r[t][1], *(t == 2 ? &r->y : &r->x));
    }
}
static void tear(unsigned t, Round *r)
{
    if (t == 0) {
        STORE(r->x, 0xffffffffffffffff);
    } else {
        LOAD(r->r[t][0], r->x);
    }
}

static bool both_zero(const Round *r)
{
    return r->r[0][0] == 0 && r->r[1][0] == 0;
}
static bool both_one(const Round *r)
{
    return r->r[0][0] == 1 && r->r[1][0] == 1;
}
static bool new_then_old(const Round *r)
{
    return r->r[1][0] == 1 && r->r[1][1] == 0;
}
static bool orders_differ(const Round *r)
{
    return r->r[2][0] == 1 && r->r[2][1] == 0 && r->r[3][0] == 1 && r->r[3][1] == 0;
}
static bool torn(const Round *r)
{
    return r->r[1][0] + 1 > 1;
}

static const Test tests[] = {
    { "store buffering", 2, sb, NULL, both_zero },
    { "store buffering, mfence", 2, sb_mfence, both_zero, NULL },
    { "store buffering, locked operation", 2, sb_locked, both_zero, NULL },
    { "store buffering, xchg", 2, sb_xchg, both_zero, NULL },
    { "message passing", 2, mp, new_then_old, NULL },
    { "load buffering", 2, lb, both_one, NULL },
    { "coherence of reads", 2, corr, new_then_old, NULL },
    { "independent reads of independent writes", 4, iriw, orders_differ, NULL },
    { "no torn word", 2, tear, torn, NULL },
};

static uint64_t forbidden, weak, rounds_run;
static double until;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void look(void)
{
    for (unsigned n = 0; n < BATCH; n++) {
        forbidden += running->forbidden && running->forbidden(&rounds[n]);
        weak += running->weak && running->weak(&rounds[n]);
    }
    rounds_run += BATCH;
    memset(rounds, 0, sizeof(rounds));
    if (now() > until) {
        atomic_store(&stop, true);
    }
}

static void *run_thread(void *opaque)
{
    unsigned thread = (unsigned)(uintptr_t)opaque;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(thread % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
    sched_setaffinity(0, sizeof(set), &set);
    for (;;) {
        together(running->threads);
        if (atomic_load(&stop)) {
            return NULL;
        }
        for (unsigned n = 0; n < BATCH; n++) {
            running->body(thread, &rounds[thread & 1 ? n : (n + 1) % BATCH]);
        }
        together(running->threads);
        if (thread == 0) { /* the first one looks at what came out, the others wait in the next round */
            look();
        }
    }
}

static bool run(const Test *test, double seconds)
{
    pthread_t threads[THREADS];
    forbidden = weak = rounds_run = 0;
    running = test;
    until = now() + seconds;
    atomic_store(&stop, false);
    memset(rounds, 0, sizeof(rounds));
    for (unsigned t = 0; t < test->threads; t++) {
        pthread_create(&threads[t], NULL, run_thread, (void *)(uintptr_t)t);
    }
    for (unsigned t = 0; t < test->threads; t++) {
        pthread_join(threads[t], NULL);
    }
    printf("%s %s: %llu rounds, %llu forbidden, %llu weak\n", forbidden ? "BAD" : "ok", test->name,
           (unsigned long long)rounds_run, (unsigned long long)forbidden, (unsigned long long)weak);
    return forbidden == 0;
}

/* --- counters: no addition is lost --- */

enum { ADDS = 20480, SPLIT_EVERY = 256 }; /* operands on two lines are slow where the kernel makes them so */
static uint8_t counters[8192] __attribute__((aligned(4096)));
static struct { uint64_t low, high; } pair __attribute__((aligned(16)));

static void *add_thread(void *opaque)
{
    for (unsigned n = 0; n < ADDS; n++) {
        __asm__ volatile("lock incq (%0)" ::"r"(counters + 8) : "memory", "cc");
        if (n % SPLIT_EVERY == 0) {
            __asm__ volatile("lock incq (%0)\n\tlock incq (%1)" ::"r"(counters + 4092), "r"(counters + 60) : "memory", "cc");
        }
        uint64_t low = pair.low, high = pair.high;
        bool done;
        do {
            __asm__ volatile("lock cmpxchg16b %1\n\tsete %0"
                             : "=q"(done), "+m"(pair), "+a"(low), "+d"(high)
                             : "b"(low + 1), "c"(high - 1) : "memory", "cc");
        } while (!done);
    }
    return NULL;
}

static bool run_counters(void)
{
    pthread_t threads[THREADS];
    for (unsigned t = 0; t < THREADS; t++) {
        pthread_create(&threads[t], NULL, add_thread, NULL);
    }
    for (unsigned t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
    }
    uint64_t aligned, page, line, want = THREADS * ADDS;
    memcpy(&aligned, counters + 8, 8);
    memcpy(&page, counters + 4092, 8);
    memcpy(&line, counters + 60, 8);
    bool good = aligned == want && page == want / SPLIT_EVERY && line == want / SPLIT_EVERY && pair.low == want && pair.high == 0 - want;
    printf("%s counters: %llu %llu %llu %llu of %llu\n", good ? "ok" : "BAD", (unsigned long long)aligned,
           (unsigned long long)line, (unsigned long long)page, (unsigned long long)pair.low, (unsigned long long)want);
    return good;
}

/* --- code that another CPU rewrites --- */

static uint8_t *code; /* mov eax, imm32 at 4 mod 8; ret */
static _Atomic uint32_t version, seen;
static _Atomic bool patch_bad;

static void *call_thread(void *opaque)
{
    uint32_t last = 0;
    while (last != UINT32_MAX) {
        uint32_t wanted = atomic_load(&version);
        if (wanted == last) {
            __builtin_ia32_pause();
            continue;
        }
        uint32_t a, b, c, d;
        __cpuid(0, a, b, c, d); /* serializes */
        uint32_t got = ((uint32_t (*)(void))(uintptr_t)(code + 3))();
        if (got != wanted) {
            atomic_store(&patch_bad, true);
        }
        last = wanted;
        atomic_store(&seen, wanted);
    }
    return NULL;
}

static bool run_patching(double seconds)
{
    static const uint8_t text[] = { 0x90, 0x90, 0x90, 0xb8, 0, 0, 0, 0, 0xc3 };
    pthread_t thread;
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code, text, sizeof(text));
    pthread_create(&thread, NULL, call_thread, NULL);
    uint32_t n = 0;
    for (double end = now() + seconds; now() < end;) {
        n++;
        atomic_store((_Atomic uint32_t *)(void *)(code + 4), n);
        atomic_store(&version, n);
        while (atomic_load(&seen) != n) {
            __builtin_ia32_pause();
        }
    }
    atomic_store((_Atomic uint32_t *)(void *)(code + 4), UINT32_MAX);
    atomic_store(&version, UINT32_MAX);
    pthread_join(thread, NULL);
    printf("%s patched code: %u versions\n", patch_bad ? "BAD" : "ok", n);
    return !patch_bad;
}

/* --- translations that another CPU takes away --- */

static volatile uint64_t *page;
static _Atomic bool protect_over;
static __thread sigjmp_buf *fault;

static void on_fault(int number)
{
    siglongjmp(*fault, 1);
}

static void *write_thread(void *opaque)
{
    sigjmp_buf here;
    fault = &here;
    while (!atomic_load(&protect_over)) {
        if (sigsetjmp(here, 1) == 0) {
            for (unsigned n = 0; n < 1000; n++) {
                (*page)++;
            }
        }
    }
    return NULL;
}

static bool run_protection(double seconds)
{
    pthread_t thread;
    unsigned turns = 0, late = 0;
    signal(SIGSEGV, on_fault);
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_create(&thread, NULL, write_thread, NULL);
    for (double end = now() + seconds; now() < end; turns++) {
        mprotect((void *)page, 4096, PROT_READ);
        uint64_t value = *page;
        for (unsigned n = 0; n < 300; n++) {
            late += *page != value;
        }
        mprotect((void *)page, 4096, PROT_READ | PROT_WRITE);
        for (unsigned n = 0; n < 300; n++) {
            __builtin_ia32_pause();
        }
    }
    atomic_store(&protect_over, true);
    pthread_join(thread, NULL);
    printf("%s protection: %u turns, %u late writes, %llu writes\n", late ? "BAD" : "ok", turns, late,
           (unsigned long long)*page);
    return late == 0;
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    bool good = true;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (unsigned i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        good &= run(&tests[i], seconds);
    }
    good &= run_counters();
    good &= run_patching(seconds);
    good &= run_protection(seconds);
    puts(good ? "LITMUS-OK" : "LITMUS-BAD");
    return !good;
}
