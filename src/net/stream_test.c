/* The stream back end between a card that takes nothing and a program at the other end of a socket. */
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "net/sockets.h"

enum { FRAME = 1514, ROUNDS = 1000 };

typedef struct Fixture {
    Machine *machine;
    NetPort card, *stream;
    bool card_takes;
    unsigned taken;
    int peer; /* the program's end */
} Fixture;

static bool card_receive(NetPort *port, const uint8_t *frame, size_t length)
{
    Fixture *f = port->opaque;
    f->taken += f->card_takes;
    return f->card_takes;
}

static const MachineType machine_type = { .name = "net-test", .desc = "test machine" };
static const NetPortOps card_ops = { .kind = "nic", .receive = card_receive };

static void setup(Fixture *f, gconstpointer unused)
{
    NetStreamConf conf = { .ops = &net_stream_ops, .end = { .fd = (char *)"wire" } };
    int pair[2];

    f->machine = machine_new(&machine_type, machine_config_new());
    lock_acquire(&f->machine->lock);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), ==, 0);
    conf.fd = pair[0];
    f->peer = pair[1];
    g_assert_null(net_stream_new(f->machine, "n", &conf, &f->stream));
    net_port_init(&f->card, f->machine, "card", &card_ops, f);
    g_assert_null(net_link(&f->card, f->stream));
}

static void teardown(Fixture *f, gconstpointer unused)
{
    net_port_fini(&f->card);
    net_finish(f->machine);
    if (f->peer >= 0) {
        close(f->peer);
    }
    lock_release(&f->machine->lock);
    machine_free(f->machine);
}

/* Rounds of the loop in which something was done, up to ROUNDS. */
static unsigned run(Fixture *f)
{
    unsigned rounds = 0;

    lock_release(&f->machine->lock);
    while (rounds < ROUNDS && loop_run_once(f->machine->loop, 0)) {
        rounds++;
    }
    lock_acquire(&f->machine->lock);
    return rounds;
}

/* The program sends frames until the socket takes no more; how many were whole. */
static unsigned fill(Fixture *f)
{
    uint8_t message[4 + FRAME] = { 0 };
    unsigned frames = 0;

    st32_be(message, FRAME);
    while (send(f->peer, message, sizeof(message), MSG_DONTWAIT) == sizeof(message)) {
        frames++;
    }
    return frames;
}

/* The card sends until frames wait for the socket. */
static void congest(Fixture *f)
{
    static const uint8_t frame[FRAME];

    for (unsigned n = 0; n < ROUNDS * 10 && !net_congested(&f->card); n++) {
        net_send(&f->card, frame, sizeof(frame));
    }
    g_assert_true(net_congested(&f->card));
}

static bool is_connected(const Fixture *f)
{
    g_autofree char *text = f->stream->ops->describe(f->stream);
    return text[0] != '\0';
}

static void test_waits(Fixture *f, gconstpointer unused)
{
    unsigned sent = fill(f);
    g_assert_cmpuint(run(f), <, ROUNDS);
    g_assert_true(net_congested(f->stream));
    f->card_takes = true;
    net_port_ready(&f->card);
    run(f);
    g_assert_cmpuint(f->taken, ==, sent);
}

static void test_gone_while_both_wait(Fixture *f, gconstpointer unused)
{
    fill(f);
    run(f);
    congest(f);
    g_assert_true(net_congested(f->stream));
    close(f->peer);
    f->peer = -1;
    g_assert_cmpuint(run(f), <, ROUNDS);
    g_assert_false(is_connected(f));
    g_assert_false(net_congested(&f->card));
}

static void test_hostile_length(Fixture *f, gconstpointer unused)
{
    static const uint8_t message[] = { 0xff, 0xff, 0xff, 0xff, 0 };

    g_assert_cmpint(send(f->peer, message, sizeof(message), 0), ==, sizeof(message));
    run(f);
    g_assert_false(is_connected(f));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/stream/waits", Fixture, NULL, setup, test_waits, teardown);
    g_test_add("/stream/gone-while-both-wait", Fixture, NULL, setup, test_gone_while_both_wait, teardown);
    g_test_add("/stream/hostile-length", Fixture, NULL, setup, test_hostile_length, teardown);
    return g_test_run();
}
