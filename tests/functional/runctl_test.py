#!/usr/bin/env python3
"""runctl_test.py QEMU-SYSTEM: what follows when a watchdog runs out, a guest panics, shuts down or restarts: actions, events,
run states and exit codes, in TAP."""
import os
import sys
import tempfile
import time

from machine import Machine, same

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

SECOND = 10**9


def start_ib700(m, seconds):
    m.ok(f'outb 0x443 {(30 - seconds) // 2}')


def left_alone(m):
    """Lets 40 seconds pass and gives what the watchdog did."""
    m.ok(f'clock_step {40 * SECOND}')
    return m.event('WATCHDOG')['data']['action']


def test_watchdog_reset():
    with Machine('-device', 'ib700') as m:
        start_ib700(m, 10)
        m.ok(f'clock_step {9 * SECOND}')
        start_ib700(m, 10)
        m.ok(f'clock_step {9 * SECOND}')
        m.ok('outb 0x441 0')
        m.ok(f'clock_step {40 * SECOND}')
        same(m.state(), 'running')
        same([e['event'] for e in m.events if e['event'] == 'WATCHDOG'], [])
        start_ib700(m, 10)
        same(left_alone(m), 'reset')
        same(m.event('RESET')['data'], {'guest': True, 'reason': 'guest-reset'})


def test_watchdog_actions():
    with Machine('-device', 'ib700', '-action', 'watchdog=none') as m:
        start_ib700(m, 30)
        same(left_alone(m), 'none')
        same(m.state(), 'running')
        m.run('watchdog-set-action', action='debug')
        start_ib700(m, 30)
        same(left_alone(m), 'debug')
        m.run('set-action', watchdog='shutdown')
        start_ib700(m, 2)
        same(left_alone(m), 'shutdown')
        m.event('POWERDOWN')
        m.run('human-monitor-command', command_line='watchdog_action inject-nmi')
        start_ib700(m, 2)
        same(left_alone(m), 'inject-nmi')
        same(m.state(), 'running')
        m.run('watchdog-set-action', action='pause')
        start_ib700(m, 2)
        same(left_alone(m), 'pause')
        m.event('STOP')
        same(m.state(), 'watchdog')
    with Machine('-device', 'ib700', '-watchdog-action', 'poweroff') as m:
        start_ib700(m, 2)
        same(left_alone(m), 'poweroff')
        m.event('SHUTDOWN')
        same(m.process.wait(60), 0)


ESB, ESB_BASE = 6 << 3, 0xe0000000


def esb_unlock(m):
    m.ok(f'writew {ESB_BASE + 12} 0x80')
    m.ok(f'writew {ESB_BASE + 12} 0x86')


def esb_reload(m, value=0x100):
    esb_unlock(m)
    m.ok(f'writew {ESB_BASE + 12} {value}')


def esb_start(m):
    """Two stages of about a second each."""
    m.pci_config(ESB, 0x10, ESB_BASE)
    m.pci_config(ESB, 4, 2, size=2)
    for stage in range(2):
        esb_unlock(m)
        m.ok(f'writel {ESB_BASE + 4 * stage} 1024')
    m.pci_config(ESB, 0x68, 2, size=1)
    esb_reload(m)


def test_i6300esb():
    with Machine('-device', 'i6300esb,addr=6', '-action', 'watchdog=pause') as m:
        same(m.pci_config(ESB, 0), 0x25ab8086)
        esb_start(m)
        same(m.number(f'readw {ESB_BASE + 12}'), 0)
        for _ in range(5):
            m.ok(f'clock_step {SECOND * 3 // 2}')
            same(m.number(f'readl {ESB_BASE + 8}'), 1)
            m.ok(f'writel {ESB_BASE + 8} 1')
            same(m.number(f'readl {ESB_BASE + 8}'), 0)
            esb_reload(m)
        m.ok(f'writew {ESB_BASE + 12} 0x100')  # locked: of no effect
        m.ok(f'clock_step {SECOND * 3}')
        same(m.event('WATCHDOG')['data']['action'], 'pause')
        same(m.state(), 'watchdog')
        # That it timed out survives a reset, and is cleared by the driver.
        m.run('system_reset')
        m.event('RESET')
        m.pci_config(ESB, 0x10, ESB_BASE)
        m.pci_config(ESB, 4, 2, size=2)
        same(m.number(f'readw {ESB_BASE + 12}'), 0x200)
        esb_reload(m, 0x200)
        same(m.number(f'readw {ESB_BASE + 12}'), 0)
        # Locked: it cannot be stopped; no output: nothing happens but the bit.
        m.run('cont')
        m.pci_config(ESB, 0x60, 0x20, size=1)
        esb_start(m)
        m.pci_config(ESB, 0x68, 3, size=1)
        m.pci_config(ESB, 0x68, 0, size=1)
        same(m.pci_config(ESB, 0x68, size=1), 3)
        m.ok(f'clock_step {SECOND * 3}')
        same(m.number(f'readw {ESB_BASE + 12}'), 0x200)
        same(m.state(), 'running')


def test_panic():
    for how, action, state in (('pause', 'pause', 'guest-panicked'), ('none', 'run', 'running')):
        with Machine('-device', 'pvpanic', '-action', f'panic={how}') as m:
            same(m.number('inb 0x505'), 3)
            m.ok('outb 0x505 2')
            same(m.event('GUEST_CRASHLOADED')['data'], {'action': 'run'})
            m.ok('outb 0x505 1')
            same(m.event('GUEST_PANICKED')['data'], {'action': action})
            if how == 'pause':
                m.event('STOP')
            same(m.state(), state)
            if how == 'pause':
                assert 'eset' in m.error('cont')
                m.run('system_reset')
                m.event('RESET')
                m.run('cont')
                same(m.state(), 'running')


def test_panic_exit():
    for options, code in ((['-device', 'pvpanic,ioport=0x600'], 0),
                          (['-device', 'pvpanic,ioport=0x600', '-action', 'panic=exit-failure'], 1)):
        with Machine(*options, machine='pc,acpi=off') as m:
            m.ok('outb 0x600 1')
            same(m.event('GUEST_PANICKED')['data'], {'action': 'poweroff'})
            same(m.event('SHUTDOWN')['data'], {'guest': True, 'reason': 'guest-panic'})
            same(m.process.wait(60), code)


def test_panic_pci():
    with Machine('-device', 'pvpanic-pci,addr=6,events=1', '-no-shutdown') as m:
        same(m.pci_config(6 << 3, 0), 0x00111b36)
        m.pci_config(6 << 3, 0x10, 0xe0000000)
        m.pci_config(6 << 3, 4, 2, size=2)
        same(m.number('readb 0xe0000000'), 1)
        m.ok('writeb 0xe0000000 1')
        same(m.event('GUEST_PANICKED')['data'], {'action': 'pause'})
        m.event('STOP')
        same(m.state(), 'guest-panicked')


def test_reboot_and_shutdown():
    with Machine('-action', 'reboot=shutdown,shutdown=pause') as m:
        m.ok('outb 0x92 1')
        same(m.event('SHUTDOWN')['data'], {'guest': True, 'reason': 'guest-reset'})
        m.event('STOP')
        same(m.state(), 'shutdown')
        m.run('set-action', reboot='reset', shutdown='poweroff')
        m.run('system_reset')
        m.event('RESET')
        m.run('cont')
        m.ok('outb 0x92 0')
        m.ok('outb 0x92 1')
        same(m.event('RESET')['data'], {'guest': True, 'reason': 'guest-reset'})
    with Machine('-device', 'isa-debug-exit') as m:
        m.ok('outb 0x501 3')
        same(m.process.wait(60), 7)


PM, PM_BASE = 1 << 3 | 3, 0x600  # function 3 of the PIIX4


def sleep(m):
    """S3, as firmware and a guest would ask for it: PMBASE and PMIOSE, then SLP_TYP 1 and SLP_EN."""
    m.pci_config(PM, 0x40, PM_BASE | 1)
    m.pci_config(PM, 0x80, 1, size=1)
    m.ok(f'outw {PM_BASE + 4} {0x2000 | 1 << 10}')
    m.event('SUSPEND')
    same(m.state(), 'suspended')


def moved(m, uri):
    m.run('migrate', uri=uri)
    end = time.time() + 60
    while m.run('query-migrate')['status'] not in ('completed', 'failed'):
        assert time.time() < end
        time.sleep(.05)
    return m.run('query-migrate')['status']


def test_sleep_is_saved():
    """A machine that is suspended to RAM is saved as one, and woken up elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        state = os.path.join(folder, 'state')
        with Machine() as m:
            m.ok('writel 0x200000 0x12345678')
            sleep(m)
            assert 'awake' not in m.run('human-monitor-command', command_line='system_wakeup')
            m.event('WAKEUP')
            assert 'awake' in m.error('system_wakeup')
            sleep(m)
            same(moved(m, f'exec:cat > {state}'), 'completed')
        with Machine('-incoming', f'exec:cat {state}') as m:
            end = time.time() + 60
            while m.state() == 'inmigrate':
                assert time.time() < end
                time.sleep(.05)
            same(m.state(), 'suspended')
            m.run('stop')
            m.run('cont')
            same(m.number('readl 0x200000'), 0x12345678)
            m.run('system_wakeup')
            m.event('WAKEUP')
            same(m.state(), 'running')


def test_actions_together():
    """Each event of the guest follows its own action, and set-action changes only what it names."""
    with Machine('-device', 'pvpanic', '-device', 'ib700', '-action', 'panic=exit-failure,watchdog=none,shutdown=pause,reboot=shutdown') as m:
        start_ib700(m, 2)
        same(left_alone(m), 'none')
        m.run('set-action', watchdog='pause')
        m.ok('outb 0x92 1')  # a restart, which is a shutdown, which is a pause
        same(m.event('SHUTDOWN')['data'], {'guest': True, 'reason': 'guest-reset'})
        same(m.state(), 'shutdown')
        m.run('system_reset')  # so is this one
        same(m.event('SHUTDOWN')['data'], {'guest': False, 'reason': 'host-qmp-system-reset'})
        assert 'reset' in m.error('cont')
        m.run('set-action', reboot='reset')
        m.run('system_reset')
        m.event('RESET')
        m.run('cont')
        start_ib700(m, 2)
        same(left_alone(m), 'pause')
        m.run('cont')
        m.run('set-action', shutdown='poweroff')
        m.ok('outb 0x505 1')
        same(m.process.wait(60), 1)
    for options, code in ((['-no-shutdown'], None), (['-no-shutdown', '-action', 'shutdown=poweroff'], 0), (['-no-reboot'], 0)):
        with Machine(*options) as m:
            if '-no-reboot' in options:
                m.ok('outb 0x92 1')
            else:
                m.pci_config(PM, 0x40, PM_BASE | 1)
                m.pci_config(PM, 0x80, 1, size=1)
                m.ok(f'outw {PM_BASE + 4} 0x2000')
            m.event('SHUTDOWN')
            if code is None:
                same(m.state(), 'shutdown')
            else:
                same(m.process.wait(60), code)


tap.run(tap.tests_in(globals()), names=sys.argv[2:])
