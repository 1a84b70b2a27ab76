/* The assembler, byte for byte, against encodings worked out from the manual. */
#include "dbt/back/x86_64/encode.h"

static void check(const Asm *a, const uint8_t *start, const char *hex)
{
    GString *got = g_string_new(NULL);
    for (const uint8_t *p = start; p < a->p; p++) {
        g_string_append_printf(got, "%02x", *p);
    }
    g_assert_cmpstr(got->str, ==, hex);
    g_string_free(got, TRUE);
}

#define EXPECT(hex, emit)                                                                          \
    do {                                                                                           \
        uint8_t buf[64];                                                                           \
        Asm a = { .p = buf };                                                                      \
        emit;                                                                                      \
        check(&a, buf, hex);                                                                       \
    } while (0)

static void test_moves(void)
{
    EXPECT("4989c4", enc_op(&a, 0x89 | E_W, H_RAX, enc_reg(H_R12)));
    EXPECT("4c8be0", enc_mov(&a, 8, H_R12, H_RAX));
    EXPECT("448bf1", enc_mov(&a, 4, H_R14, H_RCX));
    EXPECT("b878563412", enc_mov_imm(&a, H_RAX, 0x12345678));
    EXPECT("49c7c6ffffffff", enc_mov_imm(&a, H_R14, ~0ull));
    EXPECT("49be8877665544332211", enc_mov_imm(&a, H_R14, 0x1122334455667788));
    EXPECT("408a3e", enc_op(&a, 0x8a | E_BYTE_REG, H_RDI, enc_mem(H_RSI, 0)));
    EXPECT("8a26", enc_op(&a, 0x8a | E_HIGH, 4, enc_mem(H_RSI, 0)));
}

static void test_addresses(void)
{
    EXPECT("488b4580", enc_load(&a, 8, H_RAX, enc_mem(H_RBP, -128)));
    EXPECT("4e8b3431", enc_load(&a, 8, H_R14, enc_mem_index(H_RCX, H_R14, 0, 0)));
    EXPECT("4c2b740d00", enc_alu(&a, ALU_SUB, 8, H_R14, enc_mem_index(H_RBP, H_RCX, 0, 0)));
    EXPECT("498d0424", enc_lea(&a, 8, H_RAX, enc_mem(H_R12, 0)));
    EXPECT("498d4500", enc_lea(&a, 8, H_RAX, enc_mem(H_R13, 0)));
    EXPECT("8b042578563412", enc_load(&a, 4, H_RAX, enc_abs(0x12345678)));
}

static void test_arithmetic(void)
{
    EXPECT("4981fef80f0000", enc_alu_imm(&a, ALU_CMP, 8, enc_reg(H_R14), 4088));
    EXPECT("83e101", enc_alu_imm(&a, ALU_AND, 4, enc_reg(H_RCX), 1));
    EXPECT("c1e907", enc_shr_imm(&a, 4, H_RCX, 7));
    EXPECT("c4c37bf0ce07", { enc_rorx(&a, 4, H_RCX, H_R14, 7); });
    EXPECT("c4e20af5c9", { enc_pext(&a, 4, H_RCX, H_R14, enc_reg(H_RCX)); });
    EXPECT("410fc8", enc_bswap(&a, 4, H_R8));
    EXPECT("f0480fb111", enc_op(&a, 0xb1 | E_0F | E_W | E_LOCK, H_RDX, enc_mem(H_RCX, 0)));
}

static void test_branches(void)
{
    uint8_t buf[64];
    Asm a = { .p = buf };
    uint8_t *over = enc_jcc8(&a, CC_E);
    enc_u8(&a, 0x90);
    enc_here_rel8(&a, over);
    check(&a, buf, "740190");
    uint8_t *field = enc_jmp(&a, NULL);
    enc_patch_rel32(field, 0, buf);
    check(&a, buf, "740190e9f8ffffff");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dbt/encode/moves", test_moves);
    g_test_add_func("/dbt/encode/addresses", test_addresses);
    g_test_add_func("/dbt/encode/arithmetic", test_arithmetic);
    g_test_add_func("/dbt/encode/branches", test_branches);
    return g_test_run();
}
