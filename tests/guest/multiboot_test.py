#!/usr/bin/env python3
"""Kernels of other kinds: GNU Mach by Multiboot, and the Xen hypervisor with a Linux as its first domain, by Multiboot with
modules."""
import os
import subprocess
import tempfile

from guest import Guest, make_initrd, run
from packages import one_file, package


def unpacked(directory, packed):
    path = os.path.join(directory, os.path.basename(packed)[:-len('.gz')])
    with open(path, 'wb') as f:
        subprocess.run(['zcat', packed], stdout=f, check=True)
    return path


def gnumach(emulator):
    packed = one_file(package('gnumach-image-1.8-486', 'i386'), 'boot/gnumach-*.gz')
    with tempfile.TemporaryDirectory() as tmp:
        with Guest(emulator, ['-m', '128', '-kernel', unpacked(tmp, packed), '-append', 'console=com0', '-net', 'none']) as vm:
            vm.wait_serial('GNU Mach 1', 120)
            vm.wait_serial(r'ide: Intel 82371 PIIX3', 60)
            vm.wait_serial(r'hd2: QEMU DVD-ROM, ATAPI CDROM drive', 60)
            vm.wait_serial(r'FDC 0 is a S82078B', 60)
            vm.wait_serial(r'RTC time is \d{4}-', 120)
            vm.wait_serial('No bootstrap code loaded with the kernel', 60)


def xen(emulator):
    packed = one_file(package('xen-hypervisor-4.17-amd64'), 'boot/xen-*-amd64.gz')
    kernel = one_file(package('linux-image-amd64'), 'boot/vmlinuz-*')
    with tempfile.TemporaryDirectory() as tmp:
        initrd = make_initrd(tmp, 'echo INIT-OK $(cat /sys/hypervisor/type) $(nproc)\npoweroff -f\n')
        with Guest(emulator, ['-m', '1024', '-smp', '2', '-kernel', unpacked(tmp, packed), '-append',
                              'com1=115200,8n1 console=com1 dom0_mem=700M', '-initrd', f'{kernel} console=hvc0,{initrd}',
                              '-net', 'none']) as vm:
            vm.wait_serial(r'Xen version 4\.', 120)
            vm.wait_serial(r'\*\*\* Serial input to DOM0', 300)
            vm.wait_serial(r'INIT-OK xen 2', 600)
            vm.wait_exit(120)


if __name__ == '__main__':
    run([gnumach, xen])
