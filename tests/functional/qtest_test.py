#!/usr/bin/env python3
"""qtest_test.py QEMU-SYSTEM: the test protocol, in TAP: ports, memory, blocks, time, interrupts of a PC without a CPU."""
import base64
import json
import os
import socket
import sys
import time

from machine import Machine, same

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402


def ports():
    with Machine() as m:
        m.ok('outb 0x70 0x10')
        m.ok('outb 0x71 0x5a')
        same(m.ok('inb 0x71'), '0x005a')
        m.ok('outl 0xcf8 0x80000000')
        same(m.number('inl 0xcfc'), 0x12378086)
        same(m.number('inw 0xcfe'), 0x1237)
        same(m.number('inb 0x1234'), 0xff)
        same(m.ok('endianness'), 'little')


def memory():
    with Machine() as m:
        m.ok('writeq 0x100000 0x1122334455667788')
        same(m.ok('readq 0x100000'), '0x1122334455667788')
        same(m.number('readl 0x100004'), 0x11223344)
        same(m.number('readw 0x100001'), 0x6677)
        same(m.number('readb 0x100007'), 0x11)
        m.ok('writeb 0x100000 0xff')
        same(m.ok('read 0x100000 8'), '0xff77665544332211')
        m.ok('write 0x200000 4 0xdeadbeef')
        same(m.number('readl 0x200000'), 0xefbeadde)
        data = bytes(range(256)) * 3
        m.ok(f'b64write 0x300000 {len(data)} {base64.b64encode(data).decode()}')
        same(base64.b64decode(m.ok(f'b64read 0x300000 {len(data)}')), data)
        m.ok('memset 0x300010 0x20 0x7')
        same(m.ok('read 0x30000f 3'), '0x0f0707')
        same(m.ask('read 0x0 0xffffffffffff')[0], 'FAIL')
        same(m.ask('frobnicate')[0], 'FAIL')
        same(m.ask('outb 1')[0], 'FAIL')


def time_and_interrupts():
    with Machine() as m:
        m.ok('irq_intercept_in ioapic')
        # Counter 0, mode 2, 11932 ticks: 10 ms of the 1.193182 MHz.
        m.ok('outb 0x43 0x34')
        m.ok('outb 0x40 0x9c')
        m.ok('outb 0x40 0x2e')
        start = m.number('clock_step 0')
        m.irqs.clear()
        same(m.number('clock_step 100000000'), start + 100000000)
        raised = m.irqs.count(('raise', 2)) + m.irqs.count(('raise', 0))
        assert 9 <= raised <= 10, m.irqs
        now = m.number('clock_step 0')
        after = m.number('clock_step')
        assert now < after <= now + 11000000, (now, after)
        same(m.number('clock_set 900000000000'), 900000000000)
        same(m.ask('irq_intercept_in nothing')[0], 'FAIL')
        same(m.ok('set_irq_in ioapic unnamed-gpio-in 5 1'), None)


def no_cpu_runs():
    with Machine() as m:
        same(m.number('clock_step 0'), 0)
        time.sleep(0.3)
        same(m.number('clock_step 0'), 0)


def before_the_machine():
    """-preconfig: the peer learns the byte order; there is nothing else to ask yet."""
    with Machine('-preconfig') as m:
        same(m.ok('endianness'), 'little')
        assert 'not made yet' in ' '.join(m.ask('readb 0x1000'))
        m.run('x-exit-preconfig')
        m.event('RESUME')
        same(m.number('inw 0x1234'), 0xffff)


def while_a_server_is_silent():
    """A command that waits for a disk's server holds up neither the guest nor another monitor."""
    with socket.socket() as server, Machine() as m:
        server.bind(('127.0.0.1', 0))
        server.listen(5)
        request = {'execute': 'blockdev-add', 'arguments': {
            'driver': 'iscsi', 'transport': 'tcp', 'portal': '127.0.0.1:%d' % server.getsockname()[1], 'target': 'iqn.x', 'node-name': 'd',
            'timeout': 4, 'initiator-name': 'iqn.y'}}
        m.qmp.sendall(json.dumps(request).encode() + b'\n')
        server.settimeout(30)
        connection = server.accept()[0]
        start = time.time()
        for _ in range(10):
            m.number('inb 0x70')
        assert time.time() - start < 2, 'the guest waited'
        while (reply := m.read_qmp(60)) and 'event' in reply:
            pass
        if 'not' in reply['error']['desc'] and 'library' in reply['error']['desc']:
            raise tap.Skip('no libiscsi')
        connection.close()


tap.run([while_a_server_is_silent, before_the_machine, ports, memory, time_and_interrupts, no_cpu_runs])
