#include "chardev/chardev.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "chardev/ringbuf.h"

typedef struct Fixture {
    Clocks *clocks;
    Loop *loop;
    Object *root;
    Chardevs *set;
    bool quit;
} Fixture;

typedef struct Reader {
    CharFront front;
    GString *got, *events;
    size_t room;
} Reader;

static size_t reader_room(void *opaque)
{
    return ((Reader *)opaque)->room;
}

static void reader_receive(void *opaque, const uint8_t *buf, size_t length)
{
    Reader *reader = opaque;
    g_assert_cmpuint(length, <=, reader->room);
    g_string_append_len(reader->got, (const char *)buf, (gssize)length);
}

static void reader_event(void *opaque, CharEvent event)
{
    g_string_append_c(((Reader *)opaque)->events, "OCBIM"[event]);
}

static const CharFrontOps reader_ops = {
    .can_receive = reader_room, .receive = reader_receive, .event = reader_event,
};

static void on_quit(void *opaque)
{
    ((Fixture *)opaque)->quit = true;
}

static void setup(Fixture *f)
{
    *f = (Fixture) { 0 };
    f->clocks = clocks_new();
    f->loop = loop_new("test", f->clocks, NULL);
    f->root = object_new_container();
    f->set = chardevs_new(object_container_at(f->root, "/chardevs"), f->loop);
    f->set->hooks = (ChardevHooks) { .quit = on_quit, .opaque = f };
}

static void teardown(Fixture *f)
{
    chardevs_free(f->set);
    object_free(f->root);
    loop_free(f->loop);
    clocks_free(f->clocks);
}

static void spin(Fixture *f)
{
    for (int n = 0; n < 20; n++) {
        loop_run_once(f->loop, NS_PER_MS);
    }
}

static Chardev *add(Fixture *f, const char *options)
{
    g_autoptr(KeyValues) kv = NULL;
    Chardev *chr = NULL;
    g_assert_null(keyvalues_parse(options, "backend", &kv));
    Error *err = chardev_add(f->set, kv, &chr);
    if (err) {
        g_error("%s", error_message(err));
    }
    return chr;
}

static char *add_error(Fixture *f, const char *options)
{
    g_autoptr(KeyValues) kv = NULL;
    g_assert_null(keyvalues_parse(options, "backend", &kv));
    Error *err = chardev_add(f->set, kv, NULL);
    g_assert_nonnull(err);
    char *text = g_strdup(error_message(err));
    error_free(err);
    return text;
}

static void reader_init(Reader *reader, Chardev *chr)
{
    *reader = (Reader) { .got = g_string_new(NULL), .events = g_string_new(NULL), .room = 1000 };
    g_assert_null(char_front_attach(&reader->front, chr));
    char_front_open(&reader->front, &reader_ops, reader);
}

static void reader_fini(Reader *reader)
{
    char_front_close(&reader->front);
    g_string_free(reader->got, TRUE);
    g_string_free(reader->events, TRUE);
}

static void test_mux(void)
{
    Fixture f;
    Reader a, b;
    setup(&f);
    Chardev *chr = add(&f, "ringbuf,id=m,mux=on");
    reader_init(&a, chr);
    reader_init(&b, chr);
    g_assert_cmpstr(a.events->str, ==, "OIM");
    g_assert_cmpstr(b.events->str, ==, "OI");
    char_back_input(chr, (const uint8_t *)"x\001cyz\001b\001\001\001x", 11);
    g_assert_cmpstr(b.got->str, ==, "x");
    g_assert_cmpstr(a.got->str, ==, "yz\001");
    g_assert_cmpstr(a.events->str, ==, "OIMIB");
    g_assert_true(f.quit);

    /* A front end without room gets its input later. */
    a.room = 0;
    char_back_input(chr, (const uint8_t *)"late", 4);
    a.room = 2;
    char_accept_input(&a.front);
    g_assert_cmpstr(a.got->str, ==, "yz\001late");

    uint8_t out[300];
    ringbuf_take(chr, out, sizeof(out));
    char_back_input(chr, (const uint8_t *)"\001h", 2);
    size_t length = ringbuf_take(chr, out, sizeof(out) - 1);
    out[length] = 0;
    g_assert_nonnull(strstr((char *)out, "C-a h    this help"));
    reader_fini(&a);
    reader_fini(&b);
    teardown(&f);
}

static void test_file(void)
{
    Fixture f;
    setup(&f);
    g_autofree char *path = g_strdup_printf("%s/chardev-test-%d", g_get_tmp_dir(), (int)getpid());
    g_autofree char *log = g_strconcat(path, ".log", NULL);
    g_autofree char *options = g_strdup_printf("file,id=f,path=%s,logfile=%s", path, log);
    g_autofree char *text = NULL, *log_text = NULL;
    CharFront front = { 0 };
    g_assert_null(char_front_attach(&front, add(&f, options)));
    g_assert_cmpuint(char_write(&front, "hello\n", 6), ==, 6);
    char_printf(&front, "%d\n", 42);
    CharFront second = { 0 };
    Error *err = char_front_attach(&second, chardev_find(f.set, "f"));
    g_assert_cmpstr(error_message(err), ==, "chardev 'f' is already in use");
    error_free(err);
    err = chardev_remove(f.set, "f");
    g_assert_cmpstr(error_message(err), ==, "Chardev 'f' is busy");
    error_free(err);
    char_front_close(&front);
    g_assert_null(chardev_remove(f.set, "f"));
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_true(g_file_get_contents(log, &log_text, NULL, NULL));
    g_assert_cmpstr(text, ==, "hello\n42\n");
    g_assert_cmpstr(log_text, ==, text);

    /* A regular file as input, with little room at a time. */
    g_autofree char *again = g_strdup_printf("file,id=g,path=/dev/null,input-path=%s", path);
    Reader reader = { .got = g_string_new(NULL), .events = g_string_new(NULL), .room = 4 };
    g_assert_null(char_front_attach(&reader.front, add(&f, again)));
    char_front_open(&reader.front, &reader_ops, &reader);
    spin(&f);
    g_assert_cmpstr(reader.got->str, ==, "hello\n42\n");
    g_assert_cmpstr(reader.events->str, ==, "OC");
    reader_fini(&reader);
    unlink(path);
    unlink(log);
    teardown(&f);
}

static int unix_client(const char *path)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    g_strlcpy(un.sun_path, path, sizeof(un.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&un, sizeof(un)), ==, 0);
    return fd;
}

static void test_socket(void)
{
    Fixture f;
    Reader reader;
    char buf[64];
    setup(&f);
    g_autofree char *path = g_strdup_printf("%s/chardev-test-%d.sock", g_get_tmp_dir(), (int)getpid());
    g_autofree char *options = g_strdup_printf("socket,id=s,path=%s,server=on,wait=off", path);
    Chardev *chr = add(&f, options);
    reader_init(&reader, chr);
    g_assert_cmpstr(reader.events->str, ==, "");
    g_assert_cmpuint(char_write(&reader.front, "lost", 4), ==, 4);
    for (int round = 0; round < 2; round++) {
        int fd = unix_client(path);
        g_assert_cmpint(write(fd, "ping", 4), ==, 4);
        spin(&f);
        char_write_all(&reader.front, "pong", 4);
        g_assert_cmpint(read(fd, buf, sizeof(buf)), ==, 4);
        close(fd);
        spin(&f);
    }
    g_assert_cmpstr(reader.got->str, ==, "pingping");
    g_assert_cmpstr(reader.events->str, ==, "OCOC");

    /* Back-pressure: a client that does not read; nothing is lost. */
    int fd = unix_client(path);
    spin(&f);
    g_autofree char *big = g_malloc0(3 << 20);
    char_write_all(&reader.front, big, 3 << 20);
    g_assert_cmpuint(char_pending(&reader.front), >, 0);
    g_assert_cmpuint(char_write(&reader.front, "x", 1), ==, 0);
    size_t total = 0;
    for (int n = 0; n < 10000 && total < 3 << 20; n++) {
        static char sink[65536];
        ssize_t got = recv(fd, sink, sizeof(sink), MSG_DONTWAIT);
        total += got > 0 ? (size_t)got : 0;
        loop_run_once(f.loop, 0);
    }
    g_assert_cmpuint(total, ==, 3 << 20);
    close(fd);
    spin(&f);
    reader_fini(&reader);
    teardown(&f);
    g_assert_cmpint(access(path, F_OK), <, 0);
}

static void test_telnet(void)
{
    Fixture f;
    Reader reader;
    uint8_t buf[64];
    setup(&f);
    g_autofree char *path = g_strdup_printf("%s/chardev-test-%d.tel", g_get_tmp_dir(), (int)getpid());
    g_autofree char *options = g_strdup_printf("socket,id=s,path=%s,server=on,wait=off,telnet=on", path);
    reader_init(&reader, add(&f, options));
    int fd = unix_client(path);
    static const uint8_t in[] = { 'a', 255, 255, 255, 253, 1, 'b', 255, 250, 1, 2, 255, 240, 'c', 255, 243, '\r', 0 };
    g_assert_cmpint(write(fd, in, sizeof(in)), ==, sizeof(in));
    spin(&f);
    g_assert_cmpstr(reader.got->str, ==, "a\xff" "bc\r");
    g_assert_cmpstr(reader.events->str, ==, "OB");
    char_write_all(&reader.front, "x\xffy", 3);
    g_assert_cmpint(read(fd, buf, sizeof(buf)), ==, 16);
    g_assert_cmpmem(buf + 12, 4, "x\xff\xffy", 4);
    close(fd);
    reader_fini(&reader);
    teardown(&f);
}

static void test_port_in_use(void)
{
    Fixture f;
    setup(&f);
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof(in);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&in, sizeof(in)), ==, 0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    getsockname(fd, (struct sockaddr *)&in, &length);
    g_autofree char *options =
        g_strdup_printf("backend=socket,id=s,host=127.0.0.1,port=%d,server=on,wait=off", ntohs(in.sin_port));
    g_autoptr(KeyValues) kv = NULL;
    g_assert_null(keyvalues_parse(options, "backend", &kv));
    Error *err = chardev_add(f.set, kv, NULL);
    g_assert_nonnull(strstr(error_message(err), "Address already in use"));
    g_assert_nonnull(error_hint_text(err));
    g_assert_nonnull(strstr(error_hint_text(err), "chardev-test"));
    error_free(err);
    close(fd);
    teardown(&f);
}

static void test_errors(void)
{
    static const struct {
        const char *options, *message;
    } cases[] = {
        { "sockett,id=a", "'sockett' is not a valid char driver, did you mean 'socket'? (see -chardev help)" },
        { "null", "a character device needs id=" },
        { "null,id=1a", "Parameter 'id' expects an identifier, not '1a'" },
        { "socket,id=a", "chardev: socket: one of path, fd, or host and port is needed" },
        { "socket,id=a,path=/x,wait=on", "wait= is for server=on: this socket connects by itself" },
        { "ringbuf,id=a,size=1000", "size of ringbuf chardev must be power of two, at most 1 GiB" },
    };
    Fixture f;
    setup(&f);
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        g_autofree char *message = add_error(&f, cases[n].options);
        g_assert_cmpstr(message, ==, cases[n].message);
    }
    teardown(&f);
}

static void test_short(void)
{
    static const struct {
        const char *text, *options;
    } cases[] = {
        { "stdio", "backend=stdio,id=x" },
        { "mon:stdio", "backend=stdio,id=x,mux=on,signal=off" },
        { "file:a,,b=c", "backend=file,id=x,path=a,,,,b=c" },
        { "tcp::4444,server,nowait", "backend=socket,id=x,host=,port=4444,server=on,wait=off" },
        { "telnet:[::1]:23,server=on", "backend=socket,id=x,host=::1,port=23,server=on,telnet=on" },
        { "unix:/tmp/s,server=on,wait=off", "backend=socket,id=x,path=/tmp/s,server=on,wait=off" },
        { "udp:h:1@:2", "backend=udp,id=x,host=h,port=1,localport=2" },
        { "vc:80Cx24C", "backend=vc,id=x,cols=80,rows=24" },
        { "vc", "backend=vc,id=x" },
        { "/dev/ttyS0", "backend=serial,id=x,path=/dev/ttyS0" },
        { "chardev:foo", "id=foo" },
    };
    for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
        g_autoptr(KeyValues) kv = NULL;
        bool monitor;
        g_assert_null(chardev_parse_short(cases[n].text, "x", &kv, &monitor));
        g_autofree char *text = keyvalues_format(kv, NULL);
        g_assert_cmpstr(text, ==, cases[n].options);
        g_assert_cmpint(monitor, ==, g_str_has_prefix(cases[n].text, "mon:"));
    }
    KeyValues *kv = NULL;
    bool monitor;
    Error *err = chardev_parse_short("stdoi", "x", &kv, &monitor);
    g_assert_cmpstr(error_message(err), ==, "'stdoi' is no character device, did you mean 'stdio'?");
    error_free(err);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/chardev/mux", test_mux);
    g_test_add_func("/chardev/file", test_file);
    g_test_add_func("/chardev/socket", test_socket);
    g_test_add_func("/chardev/telnet", test_telnet);
    g_test_add_func("/chardev/port-in-use", test_port_in_use);
    g_test_add_func("/chardev/errors", test_errors);
    g_test_add_func("/chardev/short", test_short);
    return g_test_run();
}
