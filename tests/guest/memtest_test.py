#!/usr/bin/env python3
"""memtest86+: one whole pass without an error, with one CPU and two, in 64 and 32 bits."""
from guest import Guest, GuestError, need, run


def whole_pass(emulator, image, cpus):
    kernel = need(image, 'memtest86+')
    with Guest(emulator, ['-m', '64', '-smp', str(cpus), '-kernel', kernel, '-net', 'none'], serial=False) as vm:
        match = vm.wait_screen(r'Pass: +([1-9]\d*) +Errors: +(\d+)|Errors: +([1-9]\d*)', 1800)
        if match.group(2) != '0':
            raise GuestError(vm.screen_text())


def one_cpu(emulator):
    whole_pass(emulator, '/boot/memtest86+x64.bin', 1)


def two_cpus(emulator):
    whole_pass(emulator, '/boot/memtest86+x64.bin', 2)


def thirty_two_bits(emulator):
    whole_pass(emulator, '/boot/memtest86+ia32.bin', 1)


if __name__ == '__main__':
    run([one_cpu, two_cpus, thirty_two_bits])
