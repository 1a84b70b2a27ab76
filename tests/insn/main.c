/*
 * insn-fuzz: the program. See docs/hacking/insn-fuzz.md.
 */
#include "insn_fuzz.h"

#include <cpuid.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cpu/x86/fpu.h"
#include "engine.h"

typedef struct Run {
    FuzzGen *gen;
    FuzzNative *native;
    FuzzGuest *guest;
    const InsnEngine *engine;
    FuzzCase *cases;   /* FUZZ_BATCH */
    FuzzResult *ours;
    uint64_t ran, differences, faults, hangs;
    unsigned max_reports;
    bool verbose;
} Run;

/* Feature words as the host's CPUID has them. */
static void host_features(uint32_t words[X86_FEAT_WORDS])
{
    uint32_t a, b, c, d;
    memset(words, 0, sizeof(uint32_t) * X86_FEAT_WORDS);
    __cpuid(1, a, b, words[X86_FEAT_1_ECX], words[X86_FEAT_1_EDX]);
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        words[X86_FEAT_7_EBX] = b;
        words[X86_FEAT_7_ECX] = c;
        words[X86_FEAT_7_EDX] = d;
    }
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) {
        words[X86_FEAT_7_1_EAX] = a;
    }
    if (__get_cpuid_count(13, 1, &a, &b, &c, &d)) {
        words[X86_FEAT_D_1_EAX] = a;
    }
    if (__get_cpuid(0x80000001, &a, &b, &c, &d)) {
        words[X86_FEAT_8000_0001_EDX] = d;
        words[X86_FEAT_8000_0001_ECX] = c;
    }
    if (__get_cpuid(0x80000008, &a, &b, &c, &d)) {
        words[X86_FEAT_8000_0008_EBX] = b;
    }
}

/* Runs cases[0..count) on both sides. Cases that kill the child are dropped from the front half. */
static const FuzzResult *run_both(Run *run, unsigned count)
{
    const FuzzResult *results;
    unsigned died;
    while (!native_run(run->native, run->cases, count, &results, &died)) {
        fprintf(stderr, "insn-fuzz: --one 0x%" PRIx64 " ends the native process; skipped\n", run->cases[died].seed);
        FuzzCase *c = &run->cases[died];
        c->count = 1; /* a NOP instead */
        memset(&c->insn[0], 0, sizeof(c->insn[0]));
        c->insn[0].bytes[0] = 0x90;
        c->insn[0].length = 1;
        c->insn[0].target = -1;
        c->undefined = 0;
        gen_assemble(c, died);
    }
    guest_load_code(run->guest, run->cases, count);
    for (unsigned i = 0; i < count; i++) {
        guest_run(run->guest, &run->cases[i], i, &run->ours[i]);
        FuzzState *ours = &run->ours[i].out;
        if (run->engine->dead_flags && ours->vector != FUZZ_END) {
            ours->rflags = (ours->rflags & ~(uint64_t)X86_ARITH) | (results[i].out.rflags & X86_ARITH);
        }
    }
    return results;
}

/* Whether this case alone, in slot 0, differs. */
static bool case_differs(Run *run, const FuzzCase *c, GString *text)
{
    run->cases[0] = *c;
    gen_assemble(&run->cases[0], 0);
    const FuzzResult *native = run_both(run, 1);
    return !compare_results(&run->cases[0], 0, native, &run->ours[0], text);
}

static void remove_insn(FuzzCase *c, unsigned n)
{
    memmove(&c->insn[n], &c->insn[n + 1], (c->count - n - 1) * sizeof(c->insn[0]));
    c->count--;
    for (unsigned i = 0; i < c->count; i++) {
        if (c->insn[i].target > (int)n) {
            c->insn[i].target--;
        }
    }
}

static void minimize(Run *run, FuzzCase *c)
{
    for (int n = c->count - 1; n >= 0; n--) {
        FuzzCase less = *c;
        if (less.count > 1) {
            remove_insn(&less, (unsigned)n);
            if (gen_follow_flags(&less) && case_differs(run, &less, NULL)) {
                *c = less;
            }
        }
    }
}

/* seen: what differed in the batch. */
static void report(Run *run, const FuzzCase *failed, const char *seen)
{
    g_autoptr(GString) text = g_string_new(NULL);
    FuzzCase c = *failed;
    bool again = case_differs(run, &c, NULL);
    if (again) {
        minimize(run, &c);
    }
    gen_assemble(&c, 0);
    g_string_append_printf(text, "difference: --one 0x%" PRIx64 "%s%s\n", c.seed, c.code32 ? " --code32" : "",
                           again ? "" : " (does not show when run alone)");
    compare_print_case(&c, text);
    if (again) {
        case_differs(run, &c, text);
    } else {
        g_string_append(text, seen);
    }
    fputs(text->str, stdout);
    fflush(stdout);
}

typedef struct Failure {
    FuzzCase c;
    unsigned slot;
    FuzzResult native, ours;
    GString *seen;
} Failure;

static void failure_free(gpointer p)
{
    Failure *f = p;
    g_string_free(f->seen, TRUE);
    g_free(f);
}

/* The same batch once more: does each side do again what it did? */
static void repeat_batch(Run *run, unsigned count, GPtrArray *failures)
{
    const FuzzResult *native = run_both(run, count);
    for (unsigned i = 0; i < failures->len; i++) {
        Failure *f = failures->pdata[i];
        if (!compare_results(&f->c, f->slot, &f->native, &native[f->slot], NULL)) {
            g_string_append(f->seen, "  the host did something else the second time\n");
        }
        if (!compare_results(&f->c, f->slot, &f->ours, &run->ours[f->slot], NULL)) {
            g_string_append(f->seen, "  ours did something else the second time\n");
        }
    }
}

static void run_batch(Run *run, uint64_t seed, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        Rng rng = { seed + i };
        gen_case(run->gen, rng_next(&rng), &run->cases[i]);
        gen_assemble(&run->cases[i], i);
    }
    const FuzzResult *native = run_both(run, count);
    g_autoptr(GPtrArray) failures = g_ptr_array_new_with_free_func(failure_free);
    for (unsigned i = 0; i < count; i++) {
        run->faults += native[i].out.vector < 256;
        run->hangs += native[i].out.vector == FUZZ_HANG;
        if (compare_results(&run->cases[i], i, &native[i], &run->ours[i], NULL)) {
            continue;
        }
        run->differences++;
        if (run->differences <= run->max_reports) {
            Failure *f = g_new(Failure, 1);
            *f = (Failure){ run->cases[i], i, native[i], run->ours[i], g_string_new(NULL) };
            compare_results(&f->c, i, &f->native, &f->ours, f->seen);
            g_ptr_array_add(failures, f);
        }
    }
    run->ran += count;
    if (failures->len != 0) {
        repeat_batch(run, count, failures);
    }
    for (unsigned i = 0; i < failures->len; i++) {
        const Failure *f = failures->pdata[i];
        report(run, &f->c, f->seen->str);
    }
}

static void run_one(Run *run, uint64_t seed)
{
    g_autoptr(GString) text = g_string_new(NULL);
    FuzzCase c;
    gen_case(run->gen, seed, &c);
    gen_assemble(&c, 0);
    compare_print_case(&c, text);
    bool differs = case_differs(run, &c, text);
    g_string_append(text, differs ? "differs\n" : "equal\n");
    fputs(text->str, stdout);
    if (differs) {
        run->differences++;
        report(run, &c, text->str);
    }
    run->ran++;
}

static uint32_t parse_classes(const char *list)
{
    g_auto(GStrv) names = g_strsplit(list, ",", -1);
    uint32_t classes = 0;
    for (char **name = names; *name; name++) {
        uint32_t bits = gen_class_of(*name);
        if (!bits) {
            fprintf(stderr, "insn-fuzz: class '%s' is not known: int, x87, mmx, sse, avx, bmi, xsave\n", *name);
            exit(2);
        }
        classes |= bits;
    }
    return classes;
}

static const InsnEngine *find_engine(const char *name)
{
    for (unsigned i = 0; insn_engines[i]; i++) {
        if (strcmp(insn_engines[i]->name, name) == 0) {
            return insn_engines[i];
        }
    }
    fprintf(stderr, "insn-fuzz: engine '%s' is not known\n", name);
    exit(2);
}

int main(int argc, char **argv)
{
    g_autofree char *engine = NULL, *classes = NULL, *one = NULL, *seed_text = NULL;
    gint64 count = 100000;
    int seconds = 0, reports = 5, ac = 1, stress = 0;
    gboolean verbose = FALSE, code32 = FALSE, loops = FALSE;
    GOptionEntry options[] = {
        { "engine", 'e', 0, G_OPTION_ARG_STRING, &engine, "t0 (default) or t1", "NAME" },
        { "class", 'c', 0, G_OPTION_ARG_STRING, &classes, "int,x87,mmx,sse,avx,bmi (default: all)", "LIST" },
        { "count", 'n', 0, G_OPTION_ARG_INT64, &count, "sequences", "N" },
        { "seconds", 't', 0, G_OPTION_ARG_INT, &seconds, "stop after this time", "S" },
        { "seed", 's', 0, G_OPTION_ARG_STRING, &seed_text, "first seed", "N" },
        { "one", 0, 0, G_OPTION_ARG_STRING, &one, "run one case", "SEED" },
        { "code32", 0, 0, G_OPTION_ARG_NONE, &code32, "32-bit code", NULL },
        { "loops", 0, 0, G_OPTION_ARG_NONE, &loops, "each sequence is the body of a loop", NULL },
        { "ac", 0, 0, G_OPTION_ARG_INT, &ac, "cases with alignment checking (default: 1)", "PERCENT" },
        { "stress", 0, 0, G_OPTION_ARG_INT, &stress, "bits of -accel tcg,x-stress=", "BITS" },
        { "reports", 0, 0, G_OPTION_ARG_INT, &reports, "differences to show", "N" },
        { "verbose", 'v', 0, G_OPTION_ARG_NONE, &verbose, "statistics", NULL },
        { NULL },
    };
    GError *error = NULL;
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        fprintf(stderr, "insn-fuzz: %s\n", error->message);
        return 2;
    }
    Run run = { .max_reports = (unsigned)reports, .verbose = verbose };
    run.engine = find_engine(engine ? engine : "t0");
    insn_engine_stress = (uint32_t)stress;
    insn_engine_verbose = verbose;
    run.native = native_new(); /* first: an engine may map memory that the child would have too */
    run.guest = guest_new(run.engine);
    uint32_t features[X86_FEAT_WORDS];
    host_features(features);
    for (unsigned i = 0; i < X86_FEAT_WORDS; i++) {
        features[i] &= guest_features(run.guest)[i];
    }
    unsigned skipped = 0;
    run.gen = gen_new(parse_classes(classes ? classes : "int,x87,mmx,sse,avx,bmi"), features, code32,
                      (unsigned)ac, &skipped);
    if (loops && code32) {
        fprintf(stderr, "insn-fuzz: --loops counts by r15, which --code32 does not have\n");
        return 2;
    }
    if (loops) {
        gen_set_loops(run.gen);
    }
    if (gen_rows(run.gen) == 0) {
        printf("insn-fuzz: nothing of this class can run on this host\n");
        native_free(run.native);
        return 77;
    }
    run.cases = g_new0(FuzzCase, FUZZ_BATCH);
    run.ours = g_new0(FuzzResult, FUZZ_BATCH);
    uint64_t seed = seed_text ? g_ascii_strtoull(seed_text, NULL, 0) : 1;
    gint64 start = g_get_monotonic_time();
    if (one) {
        run_one(&run, g_ascii_strtoull(one, NULL, 0));
    }
    for (gint64 done = 0; !one && done < count; done += FUZZ_BATCH) {
        run_batch(&run, (seed << 32) + (uint64_t)done, (unsigned)MIN(FUZZ_BATCH, count - done));
        if (seconds && g_get_monotonic_time() - start > seconds * G_USEC_PER_SEC) {
            break;
        }
    }
    double elapsed = (double)(g_get_monotonic_time() - start) / 1e6;
    printf("%" PRIu64 " sequences, %" PRIu64 " ended in an exception, %" PRIu64 " hung, %" PRIu64 " differ; "
           "%u of %u rows seen, %u not on this host; %.0f/s\n",
           run.ran, run.faults, run.hangs, run.differences, gen_covered(run.gen), gen_rows(run.gen), skipped,
           (double)run.ran / elapsed);
    gen_free(run.gen);
    native_free(run.native);
    guest_free(run.guest);
    g_free(run.cases);
    g_free(run.ours);
    return run.differences ? 1 : 0;
}
