/*
 * Tests of the decoder: a table of encodings in the three modes with their text, and lengths
 * compared with objdump's over whole programs (more files may be named in X86_DECODE_FILES).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/x86/cpu.h"
#include "cpu/x86/decode_priv.h"

enum {
    M16 = 0,
    M32 = X86_MODE_CS32 | X86_MODE_PE,
    M64 = X86_MODE_CS64 | X86_MODE_PE | X86_MODE_LMA
};

static unsigned parse_hex(const char *s, uint8_t buf[15])
{
    unsigned n = 0;
    char *end;
    while (n < 15) {
        unsigned long v = strtoul(s, &end, 16);
        if (end == s) {
            break;
        }
        buf[n++] = (uint8_t)v;
        s = end;
    }
    return n;
}

static const struct {
    uint32_t mode;
    const char *bytes, *text; /* NULL: #UD */
} cases[] = {
    { M64, "00 c1", "add cl,al" },
    { M64, "40 00 f8", "add al,dil" },
    { M64, "00 fc", "add ah,bh" },
    { M64, "48 81 c4 00 ff ff ff", "add rsp,0xffffffffffffff00" },
    { M64, "66 83 c0 ff", "add ax,0xffff" },
    { M64, "4c 8b 24 8d 10 00 00 00", "mov r12,QWORD PTR ds:[rcx*4+0x10]" },
    { M64, "8b 05 10 00 00 00", "mov eax,DWORD PTR [rip+0x10]        # 0x1016" },
    { M64, "64 48 8b 04 25 28 00 00 00", "mov rax,QWORD PTR fs:[0x28]" },
    { M64, "48 b8 88 77 66 55 44 33 22 11", "mov rax,0x1122334455667788" },
    { M64, "90", "nop" },
    { M64, "41 90", "xchg r8d,eax" },
    { M64, "48 90", "nop" },
    { M64, "f3 41 90", "pause" },
    { M64, "f3 90", "pause" },
    { M64, "f3 0f 1e fa", "endbr64" },
    { M64, "0f 1f 84 00 00 00 00 00", "nop [rax+rax*1]" },
    { M64, "50", "push rax" },
    { M64, "66 50", "push ax" },
    { M64, "41 57", "push r15" },
    { M64, "6a ff", "push 0xffffffffffffffff" },
    { M64, "e8 fb ff ff ff", "call 0x1000" },
    { M64, "66 e8 fa ff ff ff", "call 0x1000" },
    { M64, "0f 84 00 01 00 00", "je 0x1106" },
    { M64, "f3 48 ab", "rep stosq" },
    { M64, "f2 ae", "repnz scasb" },
    { M64, "f0 48 0f b1 0a", "lock cmpxchg QWORD PTR [rdx],rcx" },
    { M64, "f0 48 0f b1 ca", NULL },
    { M64, "f0 8b 02", NULL },
    { M64, "06", NULL },
    { M64, "0f 01 f8", "swapgs" },
    { M64, "48 0f c7 0f", "cmpxchg16b XMMWORD PTR [rdi]" },
    { M64, "0f c7 0f", "cmpxchg8b QWORD PTR [rdi]" },
    { M64, "44 0f 20 c0", "mov rax,cr8" },
    { M64, "0f 20 c8", NULL },
    { M64, "66 0f 38 f1 07", "movbe WORD PTR [rdi],ax" },
    { M64, "f2 48 0f 38 f1 c1", "crc32 rax,rcx" },
    { M64, "66 f2 0f 38 f1 c1", "crc32 eax,cx" },
    { M64, "66 0f 6f 07", "movdqa xmm0,XMMWORD PTR [rdi]" },
    { M64, "0f 6f 07", "movq mm0,QWORD PTR [rdi]" },
    { M64, "f3 0f 10 c1", "movss xmm0,xmm1" },
    { M64, "f2 48 0f 2a c1", "cvtsi2sd xmm0,rcx" },
    { M64, "c5 f4 58 c2", "vaddps ymm0,ymm1,ymm2" },
    { M64, "c4 e2 f5 b8 07", "vfmadd231pd ymm0,ymm1,YMMWORD PTR [rdi]" },
    { M64, "c4 e2 78 f2 c1", "andn eax,eax,ecx" },
    { M64, "c4 e2 f3 f6 c2", "mulx rax,rcx,rdx" },
    { M64, "c4 e2 69 90 04 8f", "vpgatherdd xmm0,DWORD PTR [rdi+xmm1*4],xmm2" },
    { M64, "c5 f8 77", "vzeroupper" },
    { M64, "c5 f0 77", NULL },
    { M64, "66 c5 f8 58 c0", NULL },
    { M64, "62 f1 7c 48 58 c1", NULL },
    { M64, "d9 c9", "fxch st(0),st(1)" },
    { M64, "dd 07", "fld QWORD PTR [rdi]" },
    { M64, "df e0", "fnstsw ax" },
    { M64, "66 66 2e 0f 1f 84 00 00 00 00 00", "nop [rax+rax*1]" },
    { M64, "8e c8", NULL },
    { M64, "8e f0", NULL },
    { M64, "0f 0b", "ud2" },
    { M64, "63 c8", "movsxd ecx,eax" },
    { M64, "67 8b 00", "mov eax,DWORD PTR [eax]" },
    { M64, "a0 88 77 66 55 44 33 22 11", "mov al,BYTE PTR ds:[0x1122334455667788]" },
    { M64, "48 e9 00 00 00 00", "jmp 0x1006" },
    { M64, "48 64 8b 00", "mov eax,DWORD PTR fs:[rax]" },
    { M32, "40", "inc eax" },
    { M32, "62 01", "bound eax,QWORD PTR [ecx]" },
    { M32, "c4 01", "les eax,FWORD PTR [ecx]" },
    { M32, "c5 f8 58 c1", "vaddps xmm0,xmm0,xmm1" },
    { M32, "63 c8", "arpl ax,cx" },
    { M32, "9a 78 56 34 12 08 00", "call 0x12345678,0x8" },
    { M32, "66 67 8b 40 10", "mov ax,WORD PTR [bx+si+0x10]" },
    { M32, "0f 20 c0", "mov eax,cr0" },
    { M32, "cf", "iretd" },
    { M32, "8d 04 8d 00 00 00 00", "lea eax,ds:[ecx*4]" },
    { M32, "8d c0", NULL },
    { M32, "67 e3 fd", "jcxz 0x1000" },
    { M16, "8b 46 fe", "mov ax,WORD PTR [bp-0x2]" },
    { M16, "8b 06 34 12", "mov ax,WORD PTR ds:[0x1234]" },
    { M16, "66 8b 46 fe", "mov eax,DWORD PTR [bp-0x2]" },
    { M16, "67 66 8b 04 24", "mov eax,DWORD PTR [esp]" },
    { M16, "26 a1 34 12", "mov ax,WORD PTR es:[0x1234]" },
    { M16, "ea 5b e0 00 f0", "jmp 0xe05b,0xf000" },
    { M16, "66 ea 5b e0 00 00 00 f0", "jmp 0xe05b,0xf000" },
    { M16, "66 0f b2 26 34 12", "lss esp,FWORD PTR ds:[0x1234]" },
    { M16, "0f 01 16 34 12", "lgdt FWORD PTR ds:[0x1234]" },
    { M16, "e9 fd ff", "jmp 0x1000" },
    { M16, "98", "cbw" },
    { M16, "c8 10 00 01", "enter 0x10,0x1" },
    { M16, "f3 a7", "repz cmpsw" },
};

static void test_table(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        uint8_t buf[15];
        char text[128] = "";
        X86Insn insn;
        unsigned n = parse_hex(cases[i].bytes, buf);
        int result = x86_decode(&insn, buf, n, cases[i].mode);
        if (cases[i].text == NULL) {
            if (result != DECODE_UD) {
                g_test_message("%s: expected #UD", cases[i].bytes);
                g_test_fail();
            }
            continue;
        }
        if (result == DECODE_OK) {
            x86_insn_text(&insn, 0x1000, text, sizeof(text));
        }
        if (result != DECODE_OK || insn.length != n || strcmp(text, cases[i].text) != 0) {
            g_test_message("%s: result %d length %u text '%s', expected '%s'", cases[i].bytes,
                           result, insn.length, text, cases[i].text);
            g_test_fail();
        }
        for (unsigned k = 0; k < n; k++) {
            g_assert_cmpint(x86_decode(&insn, buf, k, cases[i].mode), ==, DECODE_MORE);
        }
    }
}

static void test_length_limit(void)
{
    uint8_t buf[15];
    X86Insn insn;
    memset(buf, 0x66, sizeof(buf));
    g_assert_cmpint(x86_decode(&insn, buf, 15, M64), ==, DECODE_GP_LENGTH);
    g_assert_cmpint(x86_decode(&insn, buf, 14, M64), ==, DECODE_MORE);
    buf[14] = 0x90;
    g_assert_cmpint(x86_decode(&insn, buf, 15, M64), ==, DECODE_OK);
    buf[13] = 0x81;
    buf[14] = 0xc0; /* its immediate would be bytes 16 and 17 */
    g_assert_cmpint(x86_decode(&insn, buf, 15, M64), ==, DECODE_GP_LENGTH);
}

/* Any bytes give an answer, and the length is in bounds. */
static void test_random(void)
{
    GRand *rand = g_rand_new_with_seed(1);
    static const uint32_t modes[] = { M16, M32, M64 };
    for (unsigned i = 0; i < 300000; i++) {
        uint8_t buf[15];
        X86Insn insn;
        for (unsigned k = 0; k < 15; k++) {
            buf[k] = (uint8_t)g_rand_int(rand);
        }
        int result = x86_decode(&insn, buf, 15, modes[i % 3]);
        g_assert_cmpint(insn.length, <=, 15);
        if (result == DECODE_OK) {
            char text[256];
            g_assert_cmpint(insn.length, >=, 1);
            x86_insn_text(&insn, 0, text, sizeof(text));
        }
    }
    g_rand_free(rand);
}

/* The short way says what the long one says. */
static void test_short_way(void)
{
    static const uint32_t modes[] = { X86_MODE_CS64, X86_MODE_CS32, 0 };
    static const uint8_t starts[][3] = { { 0x66 }, { 0xf3 }, { 0xf2, 0x48 }, { 0x65 }, { 0x48 }, { 0x0f }, { 0x66, 0x0f }, { 0x66, 0xf3, 0x45 } };
    g_autoptr(GRand) rand = g_rand_new_with_seed(11);
    for (unsigned i = 0; i < 3000000; i++) {
        uint8_t bytes[16];
        X86Insn one, other;
        for (unsigned k = 0; k < sizeof(bytes); k += 4) {
            uint32_t word = g_rand_int(rand);
            memcpy(bytes + k, &word, 4);
        }
        if (i & 1) {
            const uint8_t *start = starts[bytes[15] % ARRAY_SIZE(starts)];
            memcpy(bytes, start, start[2] ? 3 : start[1] ? 2 : 1);
        }
        uint32_t mode = modes[i % ARRAY_SIZE(modes)];
        int status = x86_decode(&one, bytes, 15, mode);
        g_assert_cmpint(status, ==, x86_decode_any(&other, bytes, 15, mode));
        g_assert_cmpmem(&one, sizeof(one), &other, sizeof(other));
    }
}

static void compare_file(const char *path)
{
    g_autofree char *command = g_strdup_printf("objdump -d -w '%s' 2>/dev/null", path);
    FILE *f = popen(command, "r");
    char line[4096];
    unsigned total = 0, bad = 0;
    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        char *tab = strchr(line, '\t'), *tab2 = tab != NULL ? strchr(tab + 1, '\t') : NULL;
        if (line[0] != ' ' || tab2 == NULL || strstr(tab2, "(bad)") != NULL ||
            strstr(tab2, ".byte") != NULL) {
            continue;
        }
        *tab2 = 0;
        uint8_t buf[15] = { 0 };
        unsigned n = parse_hex(tab + 1, buf);
        X86Insn insn;
        int result = x86_decode(&insn, buf, 15, M64);
        bool evex = buf[0] == 0x62;
        total++;
        if (insn.length != n || (result != DECODE_OK && !evex)) {
            if (bad++ < 30) {
                g_test_message("%s: %s: result %d, length %u: %s", path, tab + 1, result,
                               insn.length, tab2 + 1);
            }
        }
    }
    if (f != NULL) {
        pclose(f);
    }
    g_test_message("%s: %u instructions, %u differ", path, total, bad);
    if (bad != 0) {
        g_test_fail();
    }
}

static void test_objdump(void)
{
    g_autofree char *objdump = g_find_program_in_path("objdump");
    const char *files = g_getenv("X86_DECODE_FILES");
    if (objdump == NULL || !g_file_test("/bin/bash", G_FILE_TEST_EXISTS)) {
        g_test_skip("needs objdump and /bin/bash");
        return;
    }
    g_auto(GStrv) list = g_strsplit(files != NULL ? files : "/bin/ls", ":", -1);
    for (char **it = list; *it != NULL; it++) {
        compare_file(*it);
    }
}

static void test_speed(void)
{
    static const uint8_t code[] = { 0x48, 0x8b, 0x44, 0x24, 0x08, 0x48, 0x01, 0xc8, 0x75,
                                    0x05, 0x0f, 0xb6, 0x07, 0x89, 0x04, 0x8a, 0xe8, 0x00,
                                    0x00, 0x00, 0x00, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
                                    0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90 };
    gint64 start = g_get_monotonic_time();
    unsigned n = 0;
    X86Insn insn;
    for (unsigned round = 0; round < 20000; round++) {
        for (unsigned pos = 0; pos < 21; pos += insn.length, n++) {
            g_assert_cmpint(x86_decode(&insn, code + pos, 15, M64), ==, DECODE_OK);
        }
    }
    g_test_message("%.1f ns an instruction", 1000.0 * (g_get_monotonic_time() - start) / n);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/x86/decode/table", test_table);
    g_test_add_func("/x86/decode/length-limit", test_length_limit);
    g_test_add_func("/x86/decode/random", test_random);
    g_test_add_func("/x86/decode/short-way", test_short_way);
    g_test_add_func("/x86/decode/objdump", test_objdump);
    g_test_add_func("/x86/decode/speed", test_speed);
    return g_test_run();
}
