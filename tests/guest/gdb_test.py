#!/usr/bin/env python3
"""Debian's gdb on guests: from the reset vector to a multiboot kernel, a Linux kernel and its first user program."""
import os
import re
import subprocess
import sys
import tempfile

from guest import Guest, GuestError, Skip, cloud_kernel, make_initrd, need, run

GDB = ['gdb', '-batch', '-nx', '-iex', 'set debuginfod enabled off', '-iex', 'set confirm off', '-iex', 'set tcp connect-timeout 60']


def session(emulator, arguments, commands, seconds=600):
    """Starts the emulator stopped and gives gdb the commands; returns what gdb printed."""
    need('/usr/bin/gdb', 'gdb')
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, 'gdb')
        command = [emulator, '-display', 'none', '-net', 'none', '-serial', 'null', '-monitor', 'none', '-S', '-gdb',
                   f'unix:{path},server=on,wait=off', *arguments]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            try:
                for _ in range(600):
                    if os.path.exists(path):
                        break
                    subprocess.run(['sleep', '0.1'], check=False)
                script = [f'target remote {path}', *commands]
                try:
                    result = subprocess.run(GDB + [part for line in script for part in ('-ex', line)], stdout=subprocess.PIPE,
                                            stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False)
                except subprocess.TimeoutExpired as late:
                    raise GuestError(f'gdb does not end: {late.stdout}') from late
                return result.stdout
            finally:
                process.kill()


def expect(text, *patterns):
    """The patterns come in this order."""
    at = 0
    for pattern in patterns:
        match = re.search(pattern, text[at:], re.M)
        if not match:
            raise GuestError(f'"{pattern}" is not there (from position {at}) in:\n{text}')
        at += match.end()


def multiboot_symbols():
    kernel = need('/usr/lib/multiboot/examples/kernel', 'multiboot')
    out = subprocess.run(['nm', kernel], capture_output=True, text=True, check=True).stdout
    return kernel, {line.split()[2]: int(line.split()[0], 16) for line in out.splitlines()}


def reset_to_multiboot(emulator, *more):
    kernel, symbols = multiboot_symbols()
    start, main, video, xpos = symbols['start'], symbols['cmain'], symbols['video'], symbols['xpos']
    text = session(emulator, ['-m', '64', '-kernel', kernel, *more], [
        'printf "reset %x:%x\\n", $cs, $rip', 'stepi', 'printf "second %x\\n", $rip',
        'maint packet Qqemu.PhyMemMode:1', 'x/5xb 0xfffffff0', 'maint packet Qqemu.PhyMemMode:0',
        f'break *{start}', 'continue', 'printf "at %x cr0 %x\\n", $rip, $cr0 & 1', 'delete',
        f'hbreak *{main}', 'continue', 'printf "main %x\\n", $rip', 'delete',
        f'watch *(int *){video}', 'continue', f'printf "video %x\\n", *(int *){video}', 'delete',
        f'rwatch *(int *){xpos}', 'continue', 'delete',
        f'set *(int *){xpos} = 5', f'printf "xpos %d\\n", *(int *){xpos}', 'stepi', 'stepi',
        'set $rbx = 0x1234', 'printf "rbx %x\\n", $rbx', 'set $cr3 = 0x5000', 'set $cr4 = 0x10', 'set $cr2 = 0x77',
        'printf "system %x %x %x\\n", $cr2, $cr3, $cr4', 'set $cr4 = 0x80000000', 'printf "refused %x\\n", $cr4',
        'monitor info status', 'info threads', 'detach'])
    expect(text, r'^reset f000:fff0', r'^second e05b', r'0xfffffff0:\s+0xea\s+0x5b\s+0xe0', rf'^at {start:x} cr0 1',
           rf'^main {main:x}', r'Hardware watchpoint', r'^Old value = 0', r'^New value = 753664', r'^video b8000',
           r'Hardware read watchpoint', r'^Value = ', r'^xpos 5', r'^rbx 1234', r'^system 77 5000 10', r'^refused 10',
           r'^VM status: paused \(debug\)', r'Thread 1 \(CPU#0', r'detached')


def reset_to_multiboot_interpreted(emulator):
    reset_to_multiboot(emulator, '-accel', 'tcg,one-insn-per-tb=on')


def kernel_symbols(emulator, tmp, *names):
    """Where functions of the kernel lie without address randomization, as it says itself."""
    pattern = '|'.join(names)
    initrd = make_initrd(tmp, f"grep -E ' ({pattern})$' /proc/kallsyms\necho SYMBOLS-END\npoweroff -f\n")
    with Guest(emulator, ['-m', '192', '-net', 'none', '-kernel', cloud_kernel(), '-initrd', initrd, '-append',
                          'console=ttyS0 nokaslr quiet']) as vm:
        vm.wait_serial('SYMBOLS-END', 300)
        found = dict(re.findall(r'([0-9a-f]{16}) [tTdDbB] (\w+)', vm.serial_text.decode(errors='replace'))[::-1])
    return [int(address, 16) for name in names for address, symbol in found.items() if symbol == name]


def busybox_entry():
    with open(need('/bin/busybox', 'busybox-static'), 'rb') as f:
        head = f.read(64)
    if int.from_bytes(head[16:18], 'little') != 2:
        raise Skip('busybox has no fixed address')
    return int.from_bytes(head[24:32], 'little')


def linux_to_user_space(emulator):
    user = busybox_entry()
    with tempfile.TemporaryDirectory() as tmp:
        start, write = kernel_symbols(emulator, tmp, 'start_kernel', 'ksys_write')
        initrd = make_initrd(tmp, 'while :; do echo hello; done\n')
        text = session(emulator, ['-m', '192', '-smp', '2', '-kernel', cloud_kernel(), '-initrd', initrd, '-append',
                                  'console=ttyS0 nokaslr quiet'], [
            f'hbreak *{start}', 'continue', 'printf "kernel %lx cs %x lma %x\\n", $rip, $cs, $efer & 0x400', 'delete',
            f'hbreak *{user}', 'continue', 'printf "user %lx cpl %d\\n", $rip, $cs & 3', 'x/2i $rip', 'stepi',
            'printf "stepped %lx\\n", $rip', 'delete', f'hbreak *{write}', 'continue', 'printf "write %lx fd %d cpl %d\\n", $rip, $rdi, $cs & 3',
            'delete', 'info threads', 'thread 2', 'printf "second %lx\\n", (unsigned long)$rip >> 32', 'detach'])
        expect(text, rf'^kernel {start:x} cs 10 lma 400', rf'^user {user:x} cpl 3', r'^=> 0x', r'^stepped [0-9a-f]+$',
               rf'^write {write:x} fd 1 cpl 0', r'CPU#0', r'CPU#1', r'^second ', r'detached')


def interrupt_and_kill(emulator):
    """An endless loop of the firmware is interrupted; kill ends the emulator."""
    need('/usr/bin/gdb', 'gdb')
    text = session(emulator, ['-m', '64'], [
        'python import threading; threading.Timer(2, lambda: gdb.post_event(lambda: gdb.execute("interrupt"))).start()',
        'continue', 'printf "stopped %d\\n", 1', 'kill'], 120)
    expect(text, r'SIGINT', r'^stopped 1', r'killed')


def record_multiboot(emulator, tmp, kernel):
    with Guest(emulator, ['-m', '64', '-net', 'none', '-kernel', kernel, '-icount', f'shift=3,rr=record,rrfile={tmp}/rr'],
               serial=False) as vm:
        vm.pause(2)
        vm.qmp('quit')
        vm.wait_exit(60)


def back_to_last_write(emulator):
    """reverse-continue finds the last write to a variable of a recorded run, and steps go both ways."""
    kernel, symbols = multiboot_symbols()
    start, xpos = symbols['start'], symbols['xpos']
    with tempfile.TemporaryDirectory() as tmp:
        record_multiboot(emulator, tmp, kernel)
        text = session(emulator, ['-m', '64', '-kernel', kernel, '-icount', f'shift=3,rr=replay,rrfile={tmp}/rr'], [
            'continue', f'printf "end %d\\n", *(int *){xpos}',
            f'watch *(int *){xpos}', 'reverse-continue', f'printf "before %d\\n", *(int *){xpos}', 'set $where = $rip', 'delete',
            'stepi', f'printf "after %d\\n", *(int *){xpos}',
            'reverse-stepi', f'printf "again %d same %d\\n", *(int *){xpos}, $rip == $where',
            f'break *{start}', 'reverse-continue', 'printf "start %d\\n", $rip == ' + str(start), 'delete',
            'reverse-continue', 'printf "first %x:%x\\n", $cs, $rip', 'stepi', 'printf "second %x\\n", $rip', 'kill'])
    expect(text, r'^end (\d+)', r'Hardware watchpoint', r'^before', r'^after', r'^again \d+ same 1', r'^start 1',
           r'No more reverse-execution history', r'^first f000:fff0', r'^second e05b')
    values = {name: int(re.search(rf'^{name} (-?\d+)', text, re.M).group(1)) for name in ('end', 'before', 'after', 'again')}
    assert values['end'] == values['after'] != values['before'] == values['again'], text


def linux_back_to_last_write(emulator):
    """The same on a recorded boot of Linux, from its end."""
    with tempfile.TemporaryDirectory() as tmp:
        where = kernel_symbols(emulator, tmp, 'system_state')[0]
        initrd = make_initrd(tmp, 'echo UP\npoweroff -f\n')
        machine = ['-m', '128', '-net', 'none', '-kernel', cloud_kernel(), '-initrd', initrd, '-append',
                   'console=ttyS0 nokaslr quiet', '-no-shutdown', '-icount']
        with Guest(emulator, [*machine, f'shift=2,rr=record,rrfile={tmp}/rr']) as vm:
            vm.wait_event('STOP', 300)
            vm.qmp('quit')
            vm.wait_exit(60)
        variable = f'*(int *)0x{where:x}'
        text = session(emulator, [*machine, f'shift=2,rr=replay,rrfile={tmp}/rr'], [
            'continue', f'printf "end %d\\n", {variable}', f'watch {variable}', 'reverse-continue',
            f'printf "before %d\\n", {variable}', 'delete', 'stepi', f'printf "after %d\\n", {variable}', 'kill'])
        expect(text, r'^end (\d+)', r'Hardware watchpoint', r'^before', r'^after')
        values = {name: int(re.search(rf'^{name} (-?\d+)', text, re.M).group(1)) for name in ('end', 'before', 'after')}
        assert values['end'] == values['after'] != values['before'], text
        print(f'# system_state went from {values["before"]} to {values["after"]}')


if __name__ == '__main__':
    if '--full' in sys.argv:
        sys.argv.remove('--full')
        run([linux_back_to_last_write])
    else:
        run([reset_to_multiboot, reset_to_multiboot_interpreted, interrupt_and_kill, linux_to_user_space, back_to_last_write])
