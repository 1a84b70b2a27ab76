#!/usr/bin/env python3
"""Record and replay: what was typed and received while recording happens again, at the same instructions."""
import os
import re
import subprocess
import tempfile

from guest import Guest, GuestError, cloud_kernel, make_initrd, run

# A shell on the serial line.
SHELL = 'echo INIT-OK\nstty -echo\nwhile read line; do echo "got <$line>"; [ "$line" = end ] && break; head -c 16 /dev/urandom | od -An -tx1; ' \
        'date; done\npoweroff -f\n'


def machine(tmp, initrd, mode, *more):
    return ['-m', '192', '-net', 'none', '-kernel', cloud_kernel(), '-initrd', initrd, '-append', 'console=ttyS0 quiet',
            '-icount', f'shift=2,rr={mode},rrfile={tmp}/rr', '-no-shutdown', *more]


def finish(vm):
    vm.wait_event('STOP', 120)
    vm.pause(0.1)
    return vm.qmp('query-replay')['icount'], vm.serial_text


def record(emulator, tmp, initrd, *more):
    with Guest(emulator, machine(tmp, initrd, 'record', *more)) as vm:
        vm.wait_serial('INIT-OK', 300)
        for word in ('alpha', 'beta', 'a longer line with several words', 'end'):
            vm.pause(0.4)
            vm.qmp('query-status')
            vm.serial.sendall(word.encode() + b'\n')
            vm.wait_serial(f'got <{word}>', 60)
        result = finish(vm)
        assert vm.monitor('info replay').startswith('Recording'), vm.monitor('info replay')
        vm.qmp('quit')
        vm.wait_exit(60)
        return result


def replay(emulator, tmp, initrd, *more):
    with Guest(emulator, machine(tmp, initrd, 'replay', *more)) as vm:
        result = finish(vm)
        assert 'differs' not in vm.stderr(), vm.stderr()
        assert vm.monitor('info replay').startswith('Replaying'), vm.monitor('info replay')
        return result


def alike(recorded, replayed):
    if recorded != replayed:
        raise GuestError(f'{recorded[0]} and {replayed[0]} instructions\n{recorded[1].decode()}\n{replayed[1].decode()}')
    print(f'# {recorded[0]} instructions')


def typed(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        initrd = make_initrd(tmp, SHELL)
        recorded = record(emulator, tmp, initrd)
        alike(recorded, replay(emulator, tmp, initrd))


def typed_two_processors(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        initrd = make_initrd(tmp, SHELL)
        recorded = record(emulator, tmp, initrd, '-smp', '2')
        alike(recorded, replay(emulator, tmp, initrd, '-smp', '2'))


def breaks(emulator):
    """replay-break stops at the instruction, and what it stops at is the same each time."""
    with tempfile.TemporaryDirectory() as tmp:
        initrd = make_initrd(tmp, SHELL)
        record(emulator, tmp, initrd)
        seen = []
        for accelerator in ('tcg', 'tcg,one-insn-per-tb=on'):
            with Guest(emulator, machine(tmp, initrd, 'replay', '-S', '-accel', accelerator)) as vm:
                for count in (1000, 123456, 30000001):
                    vm.qmp('replay-break', icount=count)
                    vm.qmp('cont')
                    vm.wait_event('STOP', 120)
                    assert vm.qmp('query-replay')['icount'] == count, vm.qmp('query-replay')
                    seen.append(re.sub('[ER]FL=.*?\\]', '', vm.monitor('info registers')))
                try:
                    vm.qmp('replay-break', icount=5)
                    raise GuestError('a break in the past is taken')
                except GuestError as error:
                    assert 'executed before' in str(error), error
        assert seen[:3] == seen[3:], seen


def refused(emulator):
    """A recording that is cut, altered, or of another machine is refused with one line."""
    with tempfile.TemporaryDirectory() as tmp:
        initrd = make_initrd(tmp, 'poweroff -f\n')
        with Guest(emulator, machine(tmp, initrd, 'record')) as vm:
            finish(vm)
            vm.qmp('quit')
            vm.wait_exit(60)
        path = os.path.join(tmp, 'rr')
        with open(path, 'rb') as f:
            whole = f.read()

        def fails(data, pattern, *more):
            with open(path, 'wb') as f:
                f.write(data)
            result = subprocess.run([emulator, '-display', 'none', *machine(tmp, initrd, 'replay', *more)], capture_output=True,
                                    text=True, timeout=60, check=False)
            assert result.returncode == 1 and re.search(pattern, result.stderr) and result.stderr.count('\n') == 1, result

        for size in range(16, len(whole), 7):
            fails(whole[:size], 'cut short')
        fails(whole[:10], 'no recording')
        for at in range(20, len(whole), 11):
            fails(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1:], 'damaged|cut short')
        fails(whole[:15] + b'9' + whole[16:], 'version')
        fails(whole + b'x', 'follows the end')
        fails(whole, '2 CPUs', '-smp', '2')


run([typed, typed_two_processors, breaks, refused])
