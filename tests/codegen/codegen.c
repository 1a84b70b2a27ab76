/*
 * Golden tests of translated code: guest bytes in, uops and host code out, as text.
 *
 * A file holds cases:  "= name mode hex-bytes" (mode 64, 32, or loop: a region of 64-bit code) followed by the expected text. `codegen FILE` compares,
 * `codegen --update FILE` writes the file anew; a change of generated code is then a visible diff, with
 * the count of host instructions and bytes. `codegen --budget BUDGET FILE` compares the counts alone. Addresses are made up, so the text does not depend on the run.
 *
 * `codegen --cost FILE...` says what translating costs: it translates the machine code in 64-bit ELF files, once. Run it
 * with valgrind --tool=callgrind for the instructions and where they go.
 */
#include <elf.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

#include "base/error.h"
#include "cpu/x86/insn.h"
#include "dbt/back/x86_64/lower.h"
#include "dbt/front/x86/front.h"

enum { HOT_AT = 0x10000, COLD_AT = 0x20000, THUNKS_AT = 0x1000, AREA = 16384 };
#define GUEST_PC 0x401000ull

static X86Cpu features_cpu;

static uint8_t *fake(unsigned n)
{
    return (uint8_t *)(uintptr_t)(THUNKS_AT + 0x100 * n);
}

static HostEnv fake_env(void)
{
    HostEnv env = { .slots = 0x100000, .jump_cache = 0x200000, .masks = 0x300000, .temp = -0x1000, .pauses = -0xff0, .flags_kind = -0x1008, .flags_a = -0x1010, .flags_b = -0x1018, .hosts = -0x1200, .hoisted = -0x1280, .turns = -0x12c0, .held = -0x1020, .tsc_aux = -0x1028,
                    .selectors = -0x1100, .selector_stride = 16, .vec = -0x1800,
                    .mxcsr = -0x900, .bmi2 = true };
    unsigned n = 0;
    for (unsigned i = 0; i < SLOW_KINDS; i++) {
        env.slow[i] = fake(n++);
        if (i < SLOW_FLAGS) {
            env.slow_va[i] = env.slow[i] + 16;
            env.site_miss[i] = env.slow[i] + 32;
        }
    }
    for (unsigned i = 0; i < LEAVE_KINDS; i++) {
        env.leave[i] = fake(n++);
    }
    env.vec_load = fake(n++);
    env.flags_load = fake(n++);
    env.flags_save = fake(n++);
    env.pushf = fake(n++);
    env.rdtsc = fake(n++);
    for (unsigned i = 0; i < STRING_KINDS; i++) {
        env.string[i] = fake(n);
    }
    return env;
}

/* Guest bytes with room behind them, as a page would have. */
static unsigned parse_hex(const char *hex, uint8_t *bytes)
{
    unsigned n = 0;
    while (n < 256 && g_ascii_isxdigit(hex[0]) && g_ascii_isxdigit(hex[1])) {
        bytes[n++] = (uint8_t)(g_ascii_xdigit_value(hex[0]) << 4 | g_ascii_xdigit_value(hex[1]));
        hex += 2;
    }
    return n;
}

static void host_text(GString *out, const uint8_t *code, size_t size, uint64_t at)
{
    unsigned count = 0;
    GString *lines = g_string_new(NULL);
    for (size_t pos = 0; pos < size; count++) {
        X86Insn insn;
        char text[128];
        if (x86_decode(&insn, code + pos, (unsigned)MIN(size - pos, 15), X86_MODE_CS64 | X86_MODE_SS32) != DECODE_OK) {
            g_string_append(lines, "  (data)\n");
            break;
        }
        g_string_append_printf(lines, "  %s\n", x86_insn_text(&insn, at + pos, text, sizeof(text)));
        pos += insn.length;
    }
    g_string_append_printf(out, "host: %u instructions, %zu bytes\n%s", count, size, lines->str);
    g_string_free(lines, TRUE);
}

/* Only what the code itself says makes a region here. */
static bool never_hot(void *opaque, uint64_t pc)
{
    return false;
}

static char *translate(const char *mode, const char *hex)
{
    static FrontBlock front;
    static Lowered lowered;
    uint8_t bytes[256 + 16] = { 0 }, hot_area[AREA], cold_area[AREA];
    bool wide = strcmp(mode, "32") != 0;
    memset(&front, 0, sizeof(front));
    front.pc = GUEST_PC;
    front.mode = X86_MODE_PE | X86_MODE_SS32 | X86_MODE_FLAT | X86_MODE_PG | X86_MODE_OSFXSR | X86_MODE_AVX |
                 X86_MODE_IOPL_OK |
                 (wide ? X86_MODE_CS64 | X86_MODE_LMA : X86_MODE_CS32);
    front.cpu = &features_cpu;
    front.bytes = bytes;
    front.available = parse_hex(hex, bytes);
    if (!front_translate(&front)) {
        return g_strdup("(interpreted)\n");
    }
    static RegionPlan region;
    bool loop = strcmp(mode, "loop") == 0;
    if (loop && (!front_region(&front, never_hot, NULL) ||
                 !region_plan(front.uops, front.uop_count, front.parts, front.part_count, &region))) {
        return g_strdup("(no region)\n");
    }
    HostEnv env = fake_env();
    Asm hot = { .p = hot_area, .run_delta = (ptrdiff_t)HOT_AT - (ptrdiff_t)(uintptr_t)hot_area };
    Asm cold = { .p = cold_area, .run_delta = (ptrdiff_t)COLD_AT - (ptrdiff_t)(uintptr_t)cold_area };
    LowerBlock block = { .uops = front.uops, .count = front.uop_count, .flags_in = front.flags_in, .mode64 = wide,
                         .region = loop ? &region : NULL, .turns = 255,
                         .pc = front.pc, .offsets = front.offset, .number = 1, .page_id = 1, .slot = 1 };
    lower_block(&env, &block, &hot, &cold, &lowered);
    GString *out = g_string_new(NULL);
    for (unsigned i = 0; i < front.insn_count; i++) {
        char text[128];
        uint64_t pc = front.pc + front.offset[i];
        g_string_append_printf(out, "  %s\n", x86_insn_text(&front.insns[i], pc, text, sizeof(text)));
    }
    for (unsigned n = 0; n < MAX(front.part_count, 1u); n++) {
        UopPart part = loop ? front.parts[n] : (UopPart){ 0, (uint16_t)front.uop_count };
        g_autofree char *uops = uop_text(front.uops + part.first, part.count);
        g_string_append_printf(out, "uops:\n%s", uops);
    }
    size_t skip = (size_t)(lowered.entry - lowered.guarded);
    host_text(out, hot_area + skip, (size_t)(hot.p - hot_area) - skip, HOT_AT + skip);
    return g_string_free(out, FALSE);
}

/* The file with its expected texts made again. */
static char *regenerate(const char *contents)
{
    GString *out = g_string_new(NULL);
    g_auto(GStrv) lines = g_strsplit(contents, "\n", -1);
    for (unsigned i = 0; lines[i] != NULL; i++) {
        if (lines[i][0] == '#') {
            g_string_append_printf(out, "%s\n", lines[i]);
        } else if (lines[i][0] == '=') {
            g_auto(GStrv) words = g_strsplit(lines[i], " ", 4);
            if (g_strv_length(words) == 4) {
                g_autofree char *text = translate(words[2], words[3]);
                g_string_append_printf(out, "%s\n%s", lines[i], text);
            }
        }
    }
    return g_string_free(out, FALSE);
}

static void show_difference(const char *expected, const char *got)
{
    g_auto(GStrv) a = g_strsplit(expected, "\n", -1), b = g_strsplit(got, "\n", -1);
    const char *name = "";
    for (unsigned i = 0; a[i] != NULL && b[i] != NULL; i++) {
        if (a[i][0] == '=') {
            name = a[i];
        }
        if (strcmp(a[i], b[i]) != 0) {
            fprintf(stderr, "%s\n  expected: %s\n  got:      %s\n", name, a[i], b[i]);
            return;
        }
    }
}

/*
 * The speed gate: a file of "name instructions" lines, and the expected texts made now. More than a tenth above what a
 * line says, for a case or for all together, is a regression.
 */
static int check_budget(const char *budget, const char *made)
{
    g_auto(GStrv) lines = g_strsplit(made, "\n", -1);
    char name[64] = "";
    unsigned total = 0, allowed = 0, cases = 0;
    int status = 0;
    for (unsigned i = 0; lines[i] != NULL; i++) {
        unsigned count, limit;
        if (sscanf(lines[i], "= %63s", name) == 1 || sscanf(lines[i], "host: %u", &count) != 1) {
            continue;
        }
        g_autofree char *key = g_strdup_printf("\n%s ", name);
        const char *line = strstr(budget, key);
        if (line == NULL || sscanf(line + strlen(key), "%u", &limit) != 1) {
            fprintf(stderr, "%s: %u host instructions; the budget has no line for it\n", name, count);
            return 1;
        }
        cases++;
        total += count;
        allowed += limit;
        if (count * 10 > limit * 11) {
            fprintf(stderr, "%s: %u host instructions, budget %u\n", name, count, limit);
            status = 1;
        }
    }
    printf("%u cases, %u host instructions, budget %u\n", cases, total, allowed);
    return cases == 0 || total * 10 > allowed * 11 ? 1 : status;
}

/* --- what translation costs --- */

typedef struct Cost {
    uint64_t blocks, insns, ticks, code_bytes;
} Cost;

/* One block at `text`, which lies at an address of its own; returns the bytes that it covers, or 1. */
static unsigned translate_real(Cost *cost, const uint8_t *text, unsigned available, uint64_t pc, const HostEnv *env)
{
    static FrontBlock front;
    static Lowered lowered;
    static uint8_t hot_area[4 * AREA], cold_area[4 * AREA];
    uint64_t start = __rdtsc();
    front.pc = pc;
    front.mode = X86_MODE_PE | X86_MODE_SS32 | X86_MODE_FLAT | X86_MODE_PG | X86_MODE_OSFXSR | X86_MODE_AVX | X86_MODE_CS64 | X86_MODE_LMA;
    front.cpu = &features_cpu;
    front.bytes = text;
    front.available = available;
    if (!front_translate(&front)) {
        return 1;
    }
    Asm hot = { .p = hot_area, .run_delta = (ptrdiff_t)HOT_AT - (ptrdiff_t)(uintptr_t)hot_area };
    Asm cold = { .p = cold_area, .run_delta = (ptrdiff_t)COLD_AT - (ptrdiff_t)(uintptr_t)cold_area };
    LowerBlock block = { .uops = front.uops, .count = front.uop_count, .flags_in = front.flags_in, .mode64 = true,
                         .pc = front.pc, .offsets = front.offset, .number = 1, .page_id = 1, .slot = 1 };
    lower_block(env, &block, &hot, &cold, &lowered);
    cost->ticks += __rdtsc() - start;
    cost->blocks++;
    cost->insns += front.insn_count;
    cost->code_bytes += (uint64_t)(hot.p - hot_area) + (uint64_t)(cold.p - cold_area);
    return front.length;
}

static void cost_of_text(Cost *cost, const uint8_t *text, uint64_t size, const HostEnv *env)
{
    for (uint64_t at = 0; at < size;) {
        uint64_t pc = GUEST_PC + at;
        at += translate_real(cost, text + at, (unsigned)MIN(size - at, 4096 - (pc & 4095)), pc, env);
    }
}

static int cost_main(int argc, char **argv)
{
    Cost cost = { 0 };
    HostEnv env = fake_env();
    for (int i = 2; i < argc; i++) {
        g_autofree char *file = NULL;
        gsize size;
        if (!g_file_get_contents(argv[i], &file, &size, NULL) || size < sizeof(Elf64_Ehdr) || memcmp(file, ELFMAG, SELFMAG) != 0) {
            fprintf(stderr, "codegen: %s is no ELF file\n", argv[i]);
            return 2;
        }
        const Elf64_Ehdr *header = (const void *)file;
        for (unsigned n = 0; n < header->e_phnum && header->e_phoff + (n + 1) * sizeof(Elf64_Phdr) <= size; n++) {
            const Elf64_Phdr *segment = (const void *)(file + header->e_phoff + n * sizeof(Elf64_Phdr));
            if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X) && segment->p_offset < size &&
                segment->p_filesz <= size - segment->p_offset) {
                cost_of_text(&cost, (const uint8_t *)file + segment->p_offset, segment->p_filesz, &env);
            }
        }
    }
    printf("%" PRIu64 " blocks, %" PRIu64 " instructions, %.1f ticks and %.1f bytes of code each\n", cost.blocks, cost.insns,
           (double)cost.ticks / (double)MAX(cost.insns, 1u), (double)cost.code_bytes / (double)MAX(cost.insns, 1u));
    return 0;
}

/* --- */

static int budget_main(int argc, char **argv)
{
    g_autofree char *budget = NULL;
    int status = 0;
    if (argc < 4 || !g_file_get_contents(argv[2], &budget, NULL, NULL)) {
        fprintf(stderr, "usage: codegen --budget BUDGET FILE...\n");
        return 2;
    }
    for (int i = 3; i < argc; i++) {
        g_autofree char *contents = NULL;
        if (!g_file_get_contents(argv[i], &contents, NULL, NULL)) {
            return 2;
        }
        g_autofree char *made = regenerate(contents);
        status |= check_budget(budget, made);
    }
    return status;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--budget") == 0) {
        memset(features_cpu.features, 0xff, sizeof(features_cpu.features));
        return budget_main(argc, argv);
    }
    if (argc > 1 && strcmp(argv[1], "--cost") == 0) {
        memset(features_cpu.features, 0xff, sizeof(features_cpu.features));
        return cost_main(argc, argv);
    }
    bool update = argc > 1 && strcmp(argv[1], "--update") == 0;
    memset(features_cpu.features, 0xff, sizeof(features_cpu.features));
    int status = 0;
    for (int i = 1 + update; i < argc; i++) {
        g_autofree char *contents = NULL;
        if (!g_file_get_contents(argv[i], &contents, NULL, NULL)) {
            fprintf(stderr, "codegen: cannot read %s\n", argv[i]);
            return 2;
        }
        g_autofree char *made = regenerate(contents);
        if (update) {
            g_file_set_contents(argv[i], made, -1, NULL);
        } else if (strcmp(contents, made) != 0) {
            show_difference(contents, made);
            status = 1;
        }
    }
    return status;
}
