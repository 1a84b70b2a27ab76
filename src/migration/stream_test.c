/* A stream that was cut or altered anywhere is refused. */
#include "migration/stream.h"

static GByteArray *make(void)
{
    GByteArray *out = g_byte_array_new();
    StreamWriter w;

    stream_writer_init_array(&w, out);
    g_assert_null(stream_write_header(&w));
    stream_begin(&w, RECORD_MACHINE);
    stream_put_str(&w, "toy");
    stream_put_u32(&w, 5);
    g_assert_null(stream_end(&w));
    stream_begin(&w, RECORD_RAM);
    stream_put_u64(&w, 1ull << 40);
    stream_put(&w, "abc", 3);
    g_assert_null(stream_end(&w));
    stream_begin(&w, RECORD_END);
    g_assert_null(stream_end(&w));
    g_assert_cmpuint(w.bytes, ==, out->len);
    stream_writer_fini(&w);
    return out;
}

/* Reads all of it, checking what is read. */
static MUST_USE Error *read_back(const uint8_t *data, size_t length)
{
    StreamBytes source = { .data = data, .length = length };
    StreamReader r;
    g_autofree char *name = NULL;
    uint32_t five = 0;
    uint64_t big = 0;
    const uint8_t *abc = NULL;

    stream_reader_init_bytes(&r, &source);
    Error *err = stream_read_header(&r);
    for (unsigned n = 0; n < 3 && !err; n++) {
        err = stream_next(&r);
        if (!err && n == 0) {
            g_assert_cmpint(r.kind, ==, RECORD_MACHINE);
            g_assert_null(stream_get_str(&r, &name));
            g_assert_cmpstr(name, ==, "toy");
            g_assert_null(stream_get_u32(&r, &five));
            g_assert_cmpuint(five, ==, 5);
            Error *more = stream_get_u32(&r, &five);
            g_assert_nonnull(more); /* the record is over */
            error_free(more);
        } else if (!err && n == 1) {
            g_assert_null(stream_get_u64(&r, &big));
            g_assert_cmpuint(big, ==, 1ull << 40);
            g_assert_null(stream_get(&r, 3, &abc));
            g_assert_cmpmem(abc, 3, "abc", 3);
        }
    }
    stream_reader_fini(&r);
    return err;
}

static void test_whole(void)
{
    g_autoptr(GByteArray) stream = make();
    g_assert_null(read_back(stream->data, stream->len));
}

static void test_cut(void)
{
    g_autoptr(GByteArray) stream = make();
    for (guint length = 0; length < stream->len; length++) {
        Error *err = read_back(stream->data, length);
        g_assert_nonnull(err);
        error_free(err);
    }
}

static void test_altered(void)
{
    g_autoptr(GByteArray) stream = make();
    for (guint at = 0; at < stream->len; at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            stream->data[at] ^= (uint8_t)(1u << bit);
            Error *err = read_back(stream->data, stream->len);
            g_assert_nonnull(err);
            error_free(err);
            stream->data[at] ^= (uint8_t)(1u << bit);
        }
    }
}

/* A record that is missing is noticed, though every sum is right. */
static void test_lost_record(void)
{
    g_autoptr(GByteArray) stream = make();
    g_byte_array_remove_range(stream, 20, 8 + 4 + 3 + 4 + 4);
    Error *err = read_back(stream->data, stream->len);
    g_assert_nonnull(err);
    error_free(err);
}

static void test_newer(void)
{
    g_autoptr(GByteArray) stream = make();
    stream->data[16]++;
    Error *err = read_back(stream->data, stream->len);
    g_assert_nonnull(strstr(error_message(err), "version"));
    error_free(err);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/migration/stream/whole", test_whole);
    g_test_add_func("/migration/stream/cut", test_cut);
    g_test_add_func("/migration/stream/altered", test_altered);
    g_test_add_func("/migration/stream/lost-record", test_lost_record);
    g_test_add_func("/migration/stream/newer", test_newer);
    return g_test_run();
}
