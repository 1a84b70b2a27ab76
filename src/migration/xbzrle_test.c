/* What is encoded is decoded again; what is damaged is refused. */
#include "migration/xbzrle.h"

#include <string.h>

#include "core/mem/mem.h"

static void change(GRand *rand, uint8_t *page)
{
    for (int n = g_rand_int_range(rand, 0, 20); n--;) {
        int at = g_rand_int_range(rand, 0, MEM_PAGE_SIZE), count = g_rand_int_range(rand, 1, 300);
        for (int i = at; i < MIN(at + count, (int)MEM_PAGE_SIZE); i++) {
            page[i] = (uint8_t)g_rand_int_range(rand, 0, 3);
        }
    }
}

static void test_round(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    uint8_t old[MEM_PAGE_SIZE] = { 0 }, page[MEM_PAGE_SIZE], delta[MEM_PAGE_SIZE];
    unsigned shorter = 0;

    for (unsigned n = 0; n < 20000; n++) {
        memcpy(page, old, sizeof(page));
        change(rand, page);
        int length = xbzrle_encode(old, page, delta);
        g_assert_cmpint(length == 0, ==, !memcmp(old, page, sizeof(page)));
        if (length >= 0) {
            g_assert_true(xbzrle_decode(old, delta, (size_t)length));
            g_assert_cmpmem(old, sizeof(old), page, sizeof(page));
            shorter++;
        }
        memcpy(old, page, sizeof(page));
    }
    g_assert_cmpuint(shorter, >, 10000);
}

/* One byte in the middle: 2 + 1 lengths and the byte. The last byte of a page, all of a page. */
static void test_known(void)
{
    static uint8_t old[MEM_PAGE_SIZE], page[MEM_PAGE_SIZE], delta[MEM_PAGE_SIZE];
    const uint8_t middle[] = { 0x80, 0x10, 1, 7 }, last[] = { 0xff, 0x1f, 1, 9 };

    page[2048] = 7;
    g_assert_cmpint(xbzrle_encode(old, page, delta), ==, 4);
    g_assert_cmpmem(delta, 4, middle, 4);
    page[2048] = 0;
    page[MEM_PAGE_SIZE - 1] = 9;
    g_assert_cmpint(xbzrle_encode(old, page, delta), ==, 4);
    g_assert_cmpmem(delta, 4, last, 4);
    memset(page, 1, sizeof(page));
    g_assert_cmpint(xbzrle_encode(old, page, delta), ==, -1);
}

static void test_damaged(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(2);
    uint8_t page[MEM_PAGE_SIZE + 16];

    for (unsigned n = 0; n < 200000; n++) {
        uint8_t delta[64];
        size_t length = (size_t)g_rand_int_range(rand, 0, sizeof(delta));
        for (size_t i = 0; i < length; i++) {
            delta[i] = (uint8_t)g_rand_int(rand);
        }
        memset(page, 0xaa, sizeof(page));
        xbzrle_decode(page, delta, length);
        for (unsigned i = 0; i < 16; i++) {
            g_assert_cmphex(page[MEM_PAGE_SIZE + i], ==, 0xaa);
        }
    }
    g_assert_false(xbzrle_decode(page, (const uint8_t[]) { 0, 5, 1 }, 3));
    g_assert_false(xbzrle_decode(page, (const uint8_t[]) { 0x80, 0x20, 1, 1 }, 4));
    g_assert_false(xbzrle_decode(page, (const uint8_t[]) { 0x80 }, 1));
}

/* Two pages with one slot drive each other out; a page of zeroes is known as such afterwards. */
static void test_cache(void)
{
    Xbzrle *xbzrle;
    static uint8_t page[MEM_PAGE_SIZE], zero[MEM_PAGE_SIZE], delta[MEM_PAGE_SIZE];
    size_t length = 0;

    g_assert_null(xbzrle_new(2 * MEM_PAGE_SIZE, &xbzrle));
    page[5] = 1;
    g_assert_cmpint(xbzrle_page(xbzrle, 0, page, false, delta, &length), ==, XBZRLE_WHOLE);
    g_assert_cmpint(xbzrle_page(xbzrle, 0, page, false, delta, &length), ==, XBZRLE_SAME);
    page[6] = 1;
    g_assert_cmpint(xbzrle_page(xbzrle, 0, page, false, delta, &length), ==, XBZRLE_DELTA);
    g_assert_cmpuint(length, ==, 3);
    g_assert_cmpint(xbzrle_page(xbzrle, 2, page, false, delta, &length), ==, XBZRLE_WHOLE);
    g_assert_cmpint(xbzrle_page(xbzrle, 0, page, false, delta, &length), ==, XBZRLE_WHOLE);
    g_assert_cmpint(xbzrle_page(xbzrle, 0, zero, true, delta, &length), ==, XBZRLE_WHOLE);
    g_assert_cmpint(xbzrle_page(xbzrle, 0, page, false, delta, &length), ==, XBZRLE_DELTA);
    g_assert_cmpuint(length, ==, 4);
    g_assert_cmpuint(xbzrle_stats(xbzrle)->misses, ==, 3);
    xbzrle_free(xbzrle);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/xbzrle/round", test_round);
    g_test_add_func("/xbzrle/known", test_known);
    g_test_add_func("/xbzrle/damaged", test_damaged);
    g_test_add_func("/xbzrle/cache", test_cache);
    return g_test_run();
}
