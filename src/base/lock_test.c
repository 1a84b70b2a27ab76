/* A thread that takes and gives a lock without end keeps nobody out. */
#include "base/lock.h"

enum { GREEDY = 2, TURNS = 50 };

typedef struct Contest {
    Lock lock;
    _Atomic bool over;
    unsigned inside;
} Contest;

static void *greedy(void *opaque)
{
    Contest *contest = opaque;
    while (!contest->over) {
        lock_acquire(&contest->lock);
        g_assert_cmpuint(contest->inside++, ==, 0);
        gint64 until = g_get_monotonic_time() + 20;
        while (g_get_monotonic_time() < until) { /* as long as an access to a device */
        }
        contest->inside--;
        lock_release(&contest->lock);
    }
    return NULL;
}

/* Each turn may cost a starved thread's patience and what the others hold; a host full of work gets ten times that. */
static void test_fair(void)
{
    Contest contest = { .over = false };
    pthread_t threads[GREEDY];
    gint64 begin = g_get_monotonic_time();

    lock_init(&contest.lock, "contested", LOCK_RANK_MACHINE);
    for (unsigned i = 0; i < GREEDY; i++) {
        g_assert_cmpint(pthread_create(&threads[i], NULL, greedy, &contest), ==, 0);
    }
    for (unsigned turn = 0; turn < TURNS; turn++) {
        g_usleep(100);
        lock_acquire(&contest.lock);
        g_assert_cmpuint(contest.inside++, ==, 0);
        contest.inside--;
        lock_release(&contest.lock);
    }
    gint64 took = g_get_monotonic_time() - begin;
    contest.over = true;
    for (unsigned i = 0; i < GREEDY; i++) {
        pthread_join(threads[i], NULL);
    }
    lock_fini(&contest.lock);
    g_test_message("%d turns took %d us", TURNS, (int)took);
    g_assert_cmpint(took, <, TURNS * 100000);
}

static void test_try(void)
{
    Lock lock;

    lock_init(&lock, "tried", LOCK_RANK_LEAF);
    g_assert_true(lock_try(&lock));
    g_assert_true(lock_held(&lock));
    lock_release(&lock);
    g_assert_false(lock_held(&lock));
    lock_fini(&lock);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/lock/fair", test_fair);
    g_test_add_func("/base/lock/try", test_try);
    return g_test_run();
}
