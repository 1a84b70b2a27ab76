/*
 * Terminal settings. The settings of the process's own terminal must be given back however the process
 * ends or pauses, by handlers that have no argument: that is why the saved settings are file-scope.
 */
#include "chardev/chardev_priv.h"

#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static struct termios tty_saved, tty_wanted;
static volatile sig_atomic_t tty_claimed;

static void raw_settings(struct termios *tty, bool signals)
{
    tty->c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    tty->c_oflag |= OPOST;
    tty->c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN);
    if (!signals) {
        tty->c_lflag &= ~(tcflag_t)ISIG;
    }
    tty->c_cflag &= ~(tcflag_t)(CSIZE | PARENB);
    tty->c_cflag |= CS8;
    tty->c_cc[VMIN] = 1;
    tty->c_cc[VTIME] = 0;
}

void tty_make_raw(int fd, bool signals)
{
    struct termios tty;

    if (tcgetattr(fd, &tty) == 0) {
        raw_settings(&tty, signals);
        tty.c_oflag &= ~(tcflag_t)OPOST;
        tcsetattr(fd, TCSANOW, &tty);
    }
}

/* A background process that touches its terminal is stopped: wait for SIGCONT then. */
static void apply(const struct termios *tty)
{
    if (tcgetpgrp(0) == getpgrp()) {
        tcsetattr(0, TCSANOW, tty);
    }
}

static void give_back(void)
{
    if (tty_claimed) {
        apply(&tty_saved);
    }
}

static void on_stop(int signo)
{
    give_back();
    raise(SIGSTOP);
}

static void on_continue(int signo)
{
    if (tty_claimed) {
        apply(&tty_wanted);
    }
}

void tty_claim(bool signals)
{
    if (tcgetattr(0, &tty_saved) < 0) {
        return;
    }
    tty_wanted = tty_saved;
    raw_settings(&tty_wanted, signals);
    if (!tty_claimed) {
        atexit(give_back);
        struct sigaction stop = { .sa_handler = on_stop, .sa_flags = SA_RESTART };
        struct sigaction cont = { .sa_handler = on_continue, .sa_flags = SA_RESTART };
        sigaction(SIGTSTP, &stop, NULL);
        sigaction(SIGCONT, &cont, NULL);
    }
    tty_claimed = 1;
    apply(&tty_wanted);
}

void tty_set_echo(bool on)
{
    if (!tty_claimed) {
        return;
    }
    tty_wanted.c_lflag &= ~(tcflag_t)(ECHO | ICANON | IEXTEN);
    tty_wanted.c_iflag &= ~(tcflag_t)ICRNL;
    if (on) {
        tty_wanted.c_lflag |= tty_saved.c_lflag & (ECHO | ICANON | IEXTEN);
        tty_wanted.c_iflag |= tty_saved.c_iflag & ICRNL;
    }
    apply(&tty_wanted);
}

void tty_release(void)
{
    give_back();
    tty_claimed = 0;
}
