/* The commands of the test protocol. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "hw/intc/ioapic.h"
#include "qtest/qtest_priv.h"

enum { WORDS_MAX = 8, LEVELS = 64 };
#define BLOCK_MAX (64 * MiB) /* bytes of one command */

typedef struct Words {
    char *at[WORDS_MAX];
    unsigned count;
} Words;

static bool number(const Words *words, unsigned index, uint64_t *ret_value)
{
    char *end;
    if (index >= words->count) {
        return false;
    }
    errno = 0;
    *ret_value = strtoull(words->at[index], &end, 0);
    return errno == 0 && end != words->at[index] && *end == '\0';
}

static void bad(Qtest *qtest, const Words *words)
{
    qtest_send(qtest, "FAIL bad arguments of '%s'", words->at[0]);
}

/* --- single accesses --- */

static unsigned size_of(char letter)
{
    return letter == 'b' ? 1 : letter == 'w' ? 2 : letter == 'l' ? 4 : letter == 'q' ? 8 : 0;
}

static void port_access(Qtest *qtest, const Words *words)
{
    bool out = words->at[0][0] == 'o';
    unsigned size = size_of(words->at[0][out ? 3 : 2]);
    uint64_t addr, value = 0;

    if (!number(words, 1, &addr) || addr > UINT16_MAX || (out && !number(words, 2, &value))) {
        bad(qtest, words);
    } else if (out) {
        (void)mem_store(qtest->machine->io_as, addr, size, value);
        qtest_send(qtest, "OK");
    } else {
        (void)mem_load(qtest->machine->io_as, addr, size, &value);
        qtest_send(qtest, "OK 0x%04" G_GINT64_MODIFIER "x", value);
    }
}

static void memory_access(Qtest *qtest, const Words *words)
{
    bool out = words->at[0][0] == 'w';
    unsigned size = size_of(words->at[0][out ? 5 : 4]);
    uint64_t addr, value = 0;

    if (!number(words, 1, &addr) || (out && !number(words, 2, &value))) {
        bad(qtest, words);
    } else if (out) {
        (void)mem_store(qtest->machine->as, addr, size, value);
        qtest_send(qtest, "OK");
    } else {
        (void)mem_load(qtest->machine->as, addr, size, &value);
        qtest_send(qtest, "OK 0x%016" G_GINT64_MODIFIER "x", value);
    }
}

/* --- blocks --- */

static bool take_range(const Words *words, uint64_t *ret_addr, uint64_t *ret_length)
{
    return number(words, 1, ret_addr) && number(words, 2, ret_length) && *ret_length <= BLOCK_MAX;
}

static void read_block(Qtest *qtest, const Words *words)
{
    uint64_t addr, length;

    if (!take_range(words, &addr, &length) || length == 0) {
        bad(qtest, words);
        return;
    }
    g_autofree uint8_t *buf = g_malloc0(length);
    (void)mem_read(qtest->machine->as, addr, buf, length);
    if (words->at[0][0] == 'b') {
        g_autofree char *text = g_base64_encode(buf, length);
        qtest_send(qtest, "OK %s", text);
        return;
    }
    g_autoptr(GString) text = g_string_sized_new(2 * length + 1);
    for (uint64_t i = 0; i < length; i++) {
        static const char digits[] = "0123456789abcdef";
        g_string_append_c(text, digits[buf[i] >> 4]);
        g_string_append_c(text, digits[buf[i] & 15]);
    }
    qtest_send(qtest, "OK 0x%s", text->str);
}

/* Digits that are missing are zeroes. */
static void from_hex(const char *text, uint8_t *buf, uint64_t length)
{
    text += g_str_has_prefix(text, "0x") ? 2 : 0;
    for (uint64_t i = 0; i < length && g_ascii_isxdigit(text[0]) && g_ascii_isxdigit(text[1]); i++, text += 2) {
        buf[i] = (uint8_t)(g_ascii_xdigit_value(text[0]) << 4 | g_ascii_xdigit_value(text[1]));
    }
}

static void write_block(Qtest *qtest, const Words *words)
{
    uint64_t addr, length;

    if (!take_range(words, &addr, &length) || words->count < 4) {
        bad(qtest, words);
        return;
    }
    g_autofree uint8_t *buf = g_malloc0(length + 1);
    if (words->at[0][0] == 'b') {
        gsize have;
        g_autofree uint8_t *data = g_base64_decode(words->at[3], &have);
        memcpy(buf, data, MIN(have, length));
    } else {
        from_hex(words->at[3], buf, length);
    }
    (void)mem_write(qtest->machine->as, addr, buf, length);
    qtest_send(qtest, "OK");
}

static void set_block(Qtest *qtest, const Words *words)
{
    uint64_t addr, length, pattern;

    if (!take_range(words, &addr, &length) || !number(words, 3, &pattern)) {
        bad(qtest, words);
        return;
    }
    g_autofree uint8_t *buf = g_malloc(length + 1);
    memset(buf, (int)(pattern & 0xff), length);
    (void)mem_write(qtest->machine->as, addr, buf, length);
    qtest_send(qtest, "OK");
}

/* --- time --- */

/* Timers run at their own times, in order. */
static bool go_to(Machine *machine, int64_t target)
{
    for (int64_t next; (next = loop_next_timer(machine->loop, CLOCK_VIRTUAL)) <= target;) {
        if (!qtest_clock_set(machine, MAX(next, clock_now(machine->clocks, CLOCK_VIRTUAL)))) {
            return false;
        }
        loop_run_timers(machine->loop);
    }
    return qtest_clock_set(machine, target);
}

static void move_clock(Qtest *qtest, const Words *words)
{
    Machine *machine = qtest->machine;
    int64_t now = clock_now(machine->clocks, CLOCK_VIRTUAL), target;
    uint64_t value;
    bool step = !strcmp(words->at[0], "clock_step");

    if (step && words->count == 1) {
        int64_t next = loop_next_timer(machine->loop, CLOCK_VIRTUAL);
        target = next == INT64_MAX ? now : MAX(next, now);
    } else if (!number(words, 1, &value) || value > (uint64_t)INT64_MAX - (step ? (uint64_t)now : 0)) {
        bad(qtest, words);
        return;
    } else {
        target = step ? now + (int64_t)value : (int64_t)value;
    }
    if (!go_to(machine, target)) {
        qtest_send(qtest, "FAIL time is not the test's without -accel qtest");
        return;
    }
    qtest_send(qtest, "OK %" G_GINT64_FORMAT, clock_now(machine->clocks, CLOCK_VIRTUAL));
}

/* --- interrupts --- */

static void line_changed(void *opaque, int n, int level)
{
    Qtest *qtest = opaque;
    if (n < 0 || n >= LEVELS || (qtest->levels >> n & 1) == (level != 0)) {
        return;
    }
    qtest->levels ^= BIT64(n);
    qtest_send(qtest, "IRQ %s %d", level ? "raise" : "lower", n);
}

void qtest_forget(Qtest *qtest)
{
    if (qtest->intercepted) {
        ioapic_intercept(ioapic_of(qtest->machine), NULL, NULL);
        qtest->intercepted = NULL;
    }
    qtest->levels = 0;
}

/* By path, id, or the name of the type, when it is one that can be listened to: the I/O APIC's pins. */
static bool is_ioapic(Machine *machine, const char *path, Device **ret_dev)
{
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    for (Device *dev = NULL; (dev = machine_device_next(machine, dev));) {
        g_autofree char *own = object_path(&dev->object);
        if (!strcmp(dev->object.type->name, "ioapic") && (!strcmp(own, path) || !strcmp(name, "ioapic"))) {
            *ret_dev = dev;
            return true;
        }
    }
    return false;
}

static void intercept(Qtest *qtest, const Words *words)
{
    Device *dev;

    if (words->count < 2 || !is_ioapic(qtest->machine, words->at[1], &dev)) {
        qtest_send(qtest, "FAIL the lines of '%s' cannot be intercepted", words->count > 1 ? words->at[1] : "");
        return;
    }
    qtest->intercepted = dev;
    ioapic_intercept(ioapic_of(qtest->machine), line_changed, qtest);
    qtest_send(qtest, "OK");
}

static void set_irq_in(Qtest *qtest, const Words *words)
{
    Device *dev;
    uint64_t pin, level;

    if (words->count < 5 || !number(words, 3, &pin) || !number(words, 4, &level)) {
        bad(qtest, words);
    } else if (!is_ioapic(qtest->machine, words->at[1], &dev) || pin >= IOAPIC_PINS) {
        qtest_send(qtest, "FAIL '%s' has no line %s that can be set", words->at[1], words->at[3]);
    } else {
        ioapic_set_irq(ioapic_of(qtest->machine), (int)pin, level != 0);
        qtest_send(qtest, "OK");
    }
}

static void endianness(Qtest *qtest, const Words *words)
{
    qtest_send(qtest, "OK little");
}

static const struct {
    const char *name;
    void (*run)(Qtest *qtest, const Words *words);
} commands[] = {
    { "inb", port_access },       { "inw", port_access },       { "inl", port_access },      { "outb", port_access },
    { "outw", port_access },      { "outl", port_access },      { "readb", memory_access },  { "readw", memory_access },
    { "readl", memory_access },   { "readq", memory_access },   { "writeb", memory_access }, { "writew", memory_access },
    { "writel", memory_access },  { "writeq", memory_access },  { "read", read_block },      { "write", write_block },
    { "b64read", read_block },    { "b64write", write_block },  { "memset", set_block },     { "clock_step", move_clock },
    { "clock_set", move_clock },  { "irq_intercept_in", intercept }, { "set_irq_in", set_irq_in },
    { "endianness", endianness },
};

void qtest_command(Qtest *qtest, char *line)
{
    Words words = { 0 };
    char *save = NULL;

    for (char *word = strtok_r(line, " \t\r", &save); word && words.count < WORDS_MAX; word = strtok_r(NULL, " \t\r", &save)) {
        words.at[words.count++] = word;
    }
    if (words.count == 0) {
        return;
    }
    for (size_t n = 0; n < ARRAY_SIZE(commands); n++) {
        if (!strcmp(words.at[0], commands[n].name)) {
            if (qtest->machine->preconfig && commands[n].run != endianness) {
                qtest_send(qtest, "FAIL the machine is not made yet");
                return;
            }
            commands[n].run(qtest, &words);
            return;
        }
    }
    qtest_send(qtest, "FAIL Unknown command '%s'", words.at[0]);
}
