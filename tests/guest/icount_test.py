#!/usr/bin/env python3
"""-icount: the same guest run twice executes the same instructions, however it is executed and whoever looks at it."""
import os
import sys
import tempfile

from guest import Guest, GuestError, cloud_kernel, make_initrd, run

INIT = 'echo INIT-OK $(nproc)\ndate\nhead -20 /proc/interrupts\ncat /proc/uptime\nsleep 1\ncat /proc/uptime\npoweroff -f\n'
FIXED = ['-icount', 'shift=2,sleep=off', '-rtc', 'base=2024-01-01,clock=vm']


def boot(emulator, initrd, *arguments, look=False):
    """Boots to the end; returns how many instructions that took, and the console's text."""
    with Guest(emulator, ['-m', '192', '-net', 'none', '-kernel', cloud_kernel(), '-initrd', initrd, '-append',
                          'console=ttyS0 quiet', '-no-shutdown', *arguments]) as vm:
        while look and b'INIT-OK' not in vm.serial_text:
            vm.qmp('query-replay')
            vm.monitor('info registers')
            vm.qmp('stop')
            vm.qmp('cont')
            vm.pause(0.05)
        vm.wait_serial('Power down', 600)
        vm.wait_event('STOP', 60)
        vm.pause(0.1)
        return vm.qmp('query-replay')['icount'], vm.serial_text


def same(emulator, *runs):
    """Each run is a tuple of arguments beyond FIXED; all must be alike."""
    with tempfile.TemporaryDirectory() as tmp:
        initrd = make_initrd(tmp, INIT)
        results = [boot(emulator, initrd, *FIXED, *(a for a in one if a != 'look'), look='look' in one) for one in runs]
        for one, result in zip(runs, results):
            print(f'# {" ".join(one) or "-"}: {result[0]} instructions')
            if result[0] != results[0][0] or result[1] != results[0][1]:
                text = os.linesep.join(r[1].decode(errors='replace') for r in (results[0], result))
                raise GuestError(f'{results[0][0]} and {result[0]} instructions:\n{text}')


def twice(emulator):
    same(emulator, (), ())


def two_processors(emulator):
    same(emulator, ('-smp', '2'), ('-smp', '2'))


def looked_at(emulator):
    """Stops, continues and queries at any moment change nothing."""
    same(emulator, (), ('look',))


def interpreted(emulator):
    same(emulator, (), ('-accel', 'tcg,one-insn-per-tb=on'))


def small_cache(emulator):
    """Where translated code is thrown away all the time."""
    same(emulator, (), ('-accel', 'tcg,tb-size=2'))


def paced(emulator):
    """Time that passes as on the host."""
    with tempfile.TemporaryDirectory() as tmp:
        initrd = make_initrd(tmp, INIT)
        for option in ('shift=2', 'shift=auto', 'shift=1,align=on'):
            boot(emulator, initrd, '-icount', option)


if __name__ == '__main__':
    FULL = [two_processors, looked_at, interpreted, small_cache, paced]
    if '--full' in sys.argv:
        sys.argv.remove('--full')
        run(FULL)
    else:
        run([twice])
