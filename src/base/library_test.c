/* Opening libraries at run time, against the C library's mathematics. */
#include "base/library.h"

#include <math.h>

#define MATH_CALLS(C) C(cos) C(ldexp)
typedef struct MathApi {
    MATH_CALLS(LIBRARY_POINTER)
} MathApi;
#define MATH_CALL(name) LIBRARY_CALL(MathApi, name)
static const LibraryCall math_calls[] = { MATH_CALLS(MATH_CALL) };

static void test_opened(void)
{
    static const Library math = { "the mathematics", "libm.so.6", "libc6", math_calls, G_N_ELEMENTS(math_calls) };
    MathApi api;

    g_assert_null(library_open(&math, &api));
    g_assert_cmpfloat(api.ldexp(0.75, 4), ==, 12.0);
    g_assert_cmpfloat(api.cos(0.0), ==, 1.0);
}

static void test_missing_library(void)
{
    static const Library none = { "the nothing library", "libno-such-thing.so.9", "libnothing9", math_calls, 2 };
    MathApi api = { 0 };
    g_autoptr(Error) err = library_open(&none, &api);

    g_assert_nonnull(err);
    g_assert_nonnull(strstr(error_message(err), "the nothing library cannot be loaded: libno-such-thing.so.9"));
    g_assert_nonnull(strstr(error_hint_text(err), "libnothing9"));
    g_assert_null(api.cos);
}

static void test_missing_call(void)
{
    static const LibraryCall calls[] = { LIBRARY_CALL(MathApi, cos) { "cos_of_the_future", offsetof(MathApi, ldexp) } };
    static const Library math = { "the mathematics", "libm.so.6", "libc6", calls, G_N_ELEMENTS(calls) };
    MathApi api = { 0 };
    g_autoptr(Error) err = library_open(&math, &api);

    g_assert_nonnull(err);
    g_assert_nonnull(strstr(error_message(err), "lacks cos_of_the_future"));
    g_assert_null(api.cos); /* nothing, although the first was found */
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/library/opened", test_opened);
    g_test_add_func("/library/missing", test_missing_library);
    g_test_add_func("/library/missing-call", test_missing_call);
    return g_test_run();
}
