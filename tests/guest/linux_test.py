#!/usr/bin/env python3
"""Debian's other kernels with a BusyBox of their kind: standard and real-time of 64 bits, 32 bits with and without PAE; and
the cloud kernel on named CPU models."""
import os
import re
import tempfile

from guest import Guest, GuestError, cloud_kernel, make_initrd, run
from packages import one_file, package

REPORT = 'echo INIT-OK $(uname -rm) cpus $(nproc)\ngrep -m1 "model name" /proc/cpuinfo\necho REPORT-END\npoweroff -f\n'
# What a kernel says when something is wrong with its machine.
COMPLAINTS = re.compile(rb'.*(?:Oops|BUG:|WARNING: CPU:|Call Trace|kernel panic|Kernel panic|nobody cared|soft lockup|MCE:|'
                        rb'ACPI Error|ACPI BIOS Error|unchecked MSR|invalid opcode).*')


def boot(emulator, kernel, *arguments, busybox=None, append='', init=REPORT):
    """Boots the kernel to its init; returns the match of INIT-OK and all that came on the serial line."""
    with tempfile.TemporaryDirectory() as tmp:
        initrd = make_initrd(tmp, init, busybox=busybox)
        with Guest(emulator, ['-m', '512', '-kernel', kernel, '-initrd', initrd, '-append', f'console=ttyS0 {append}', '-net',
                              'none', *arguments]) as vm:
            match = vm.wait_serial(r'INIT-OK (\S+) (\S+) cpus (\d+)', 600)
            vm.wait_serial('REPORT-END', 60)
            vm.wait_exit(120)
            complaint = COMPLAINTS.search(vm.serial_text)
            if complaint:
                raise GuestError('the kernel complains: ' + complaint.group(0).decode(errors='replace'))
            return match, vm.serial_text


def packaged(emulator, name, architecture, *arguments):
    kernel = one_file(package(name, architecture), 'boot/vmlinuz-*')
    busybox = one_file(package('busybox-static', architecture), 'bin/busybox')
    return boot(emulator, kernel, *arguments, busybox=busybox)[0]


def i386(emulator):
    return os.path.join(os.path.dirname(emulator), 'qemu-system-i386')


def kernel_686(emulator):
    match = packaged(i386(emulator), 'linux-image-686', 'i386', '-cpu', 'pentium3')
    assert match.group(2) == b'i686', match.group(0)


def kernel_686_pae(emulator):
    match = packaged(i386(emulator), 'linux-image-686-pae', 'i386', '-cpu', 'qemu32', '-smp', '2')
    assert match.group(1).endswith(b'-pae') and match.group(3) == b'2', match.group(0)


def kernel_amd64(emulator):
    packaged(emulator, 'linux-image-amd64', 'amd64')


def kernel_rt(emulator):
    packaged(emulator, 'linux-image-rt-amd64', 'amd64', '-smp', '2')


def model(emulator, name, brand):
    _, text = boot(emulator, cloud_kernel(), '-cpu', name)
    found = re.search(rb'model name\s*: ([^\r\n]*)', text).group(1).decode()
    assert re.search(brand, found), f'-cpu {name}: model name "{found}"'


def cpu_max(emulator):
    model(emulator, 'max', 'TCG CPU|max')


def cpu_qemu64(emulator):
    model(emulator, 'qemu64', 'QEMU Virtual CPU')


def cpu_kvm64(emulator):
    model(emulator, 'kvm64', 'KVM processor')


def cpu_nehalem(emulator):
    model(emulator, 'Nehalem', 'Nehalem')


def cpu_haswell(emulator):
    model(emulator, 'Haswell', 'Haswell')


def cpu_skylake_client(emulator):
    model(emulator, 'Skylake-Client', 'Skylake')


def cpu_epyc(emulator):
    model(emulator, 'EPYC', 'AMD EPYC')


if __name__ == '__main__':
    run([kernel_686, kernel_686_pae, kernel_amd64, kernel_rt, cpu_max, cpu_qemu64, cpu_kvm64, cpu_nehalem, cpu_haswell,
         cpu_skylake_client, cpu_epyc])
