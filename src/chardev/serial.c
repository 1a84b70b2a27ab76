/* -chardev serial: a serial port or terminal of the host, with its line settings and modem lines. */
#include "chardev/chardev_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

typedef struct HostSerial {
    Chardev chr;
    char *path;
    CharPump pump;
    struct termios saved;
    bool have_saved;
} HostSerial;

static const Prop serial_props[] = {
    PROP_STR("path", HostSerial, path, .flags = PROP_REQUIRED, .help = "device file of the host"),
    { 0 },
};

static const struct {
    unsigned baud;
    speed_t code;
} speeds[] = {
    { 50, B50 }, { 75, B75 }, { 110, B110 }, { 134, B134 }, { 150, B150 }, { 200, B200 }, { 300, B300 },
    { 600, B600 }, { 1200, B1200 }, { 1800, B1800 }, { 2400, B2400 }, { 4800, B4800 }, { 9600, B9600 },
    { 19200, B19200 }, { 38400, B38400 }, { 57600, B57600 }, { 115200, B115200 }, { 230400, B230400 },
    { 460800, B460800 }, { 500000, B500000 }, { 576000, B576000 }, { 921600, B921600 },
    { 1000000, B1000000 }, { 1500000, B1500000 }, { 2000000, B2000000 }, { 3000000, B3000000 },
    { 4000000, B4000000 },
};

static int serial_set_line(Chardev *chr, const CharLine *line)
{
    HostSerial *s = (HostSerial *)chr;
    static const tcflag_t sizes[] = { CS5, CS6, CS7, CS8 };
    struct termios tty;
    size_t n = 0;

    if (tcgetattr(s->pump.in, &tty) < 0) {
        return -errno;
    }
    /* Divisors give odd rates: take the first that is not more than 3% below. */
    while (n + 1 < ARRAY_SIZE(speeds) && speeds[n].baud * 103ull < line->speed * 100ull) {
        n++;
    }
    cfmakeraw(&tty);
    cfsetspeed(&tty, speeds[n].code);
    tty.c_cflag &= ~(tcflag_t)(CSIZE | CSTOPB | PARENB | PARODD | CRTSCTS);
    tty.c_cflag |= sizes[CLAMP(line->data_bits, 5, 8) - 5] | CREAD | CLOCAL;
    tty.c_cflag |= line->stop_bits > 1 ? CSTOPB : 0;
    tty.c_cflag |= line->parity == 'N' ? 0 : line->parity == 'O' ? PARENB | PARODD : PARENB;
    return tcsetattr(s->pump.in, TCSANOW, &tty) < 0 ? -errno : 0;
}

static int serial_set_break(Chardev *chr, bool on)
{
    return ioctl(((HostSerial *)chr)->pump.in, on ? TIOCSBRK : TIOCCBRK) < 0 ? -errno : 0;
}

static int serial_set_modem(Chardev *chr, unsigned lines)
{
    int fd = ((HostSerial *)chr)->pump.in, bits;

    if (ioctl(fd, TIOCMGET, &bits) < 0) {
        return -errno;
    }
    bits &= ~(TIOCM_DTR | TIOCM_RTS);
    bits |= (lines & CHAR_DTR ? TIOCM_DTR : 0) | (lines & CHAR_RTS ? TIOCM_RTS : 0);
    return ioctl(fd, TIOCMSET, &bits) < 0 ? -errno : 0;
}

static int serial_get_modem(Chardev *chr, unsigned *ret_lines)
{
    int bits;

    if (ioctl(((HostSerial *)chr)->pump.in, TIOCMGET, &bits) < 0) {
        return -errno;
    }
    *ret_lines = (bits & TIOCM_CTS ? CHAR_CTS : 0) | (bits & TIOCM_DSR ? CHAR_DSR : 0) |
                 (bits & TIOCM_RI ? CHAR_RI : 0) | (bits & TIOCM_CAR ? CHAR_DCD : 0);
    return 0;
}

static Error *serial_open(Chardev *chr)
{
    HostSerial *s = (HostSerial *)chr;
    const CharLine line = { .speed = 115200, .parity = 'N', .data_bits = 8, .stop_bits = 1 };

    if (!s->path) {
        return error_new("chardev: serial: no path given (path=/dev/ttyS0)");
    }
    int fd = open(s->path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return error_new_errno(errno, "Could not open '%s'", s->path);
    }
    s->have_saved = tcgetattr(fd, &s->saved) == 0;
    pump_start(&s->pump, chr, fd, fd);
    serial_set_line(chr, &line);
    char_back_event(chr, CHAR_EVENT_OPENED);
    return NULL;
}

static void serial_close(Chardev *chr)
{
    HostSerial *s = (HostSerial *)chr;

    if (s->have_saved) {
        tcsetattr(s->pump.in, TCSANOW, &s->saved);
    }
    pump_stop(&s->pump);
}

static ssize_t serial_write(Chardev *chr, const uint8_t *buf, size_t length)
{
    return pump_write(&((HostSerial *)chr)->pump, buf, length);
}

static void serial_want_write(Chardev *chr)
{
    pump_want_write(&((HostSerial *)chr)->pump);
}

static void serial_accept_input(Chardev *chr)
{
    pump_accept_input(&((HostSerial *)chr)->pump);
}

CHARDEV_TYPE(serial, .object = { .name = "chardev-serial", .parent = &chardev_object_type,
                                 .size = sizeof(HostSerial), .props = serial_props },
             .name = "serial", .alias = "tty", .desc = "a serial port of the host", .open = serial_open,
             .close = serial_close, .write = serial_write, .want_write = serial_want_write,
             .accept_input = serial_accept_input, .set_line = serial_set_line,
             .set_break = serial_set_break, .set_modem = serial_set_modem, .get_modem = serial_get_modem);
