#!/usr/bin/env python3
"""KVM inside the guest: Debian's cloud kernel with kvm-amd runs Debian's QEMU, which boots the same kernel once more."""
import os
import shutil
import subprocess
import tempfile

from guest import Guest, add_modules, cloud_kernel, make_initrd, need, run

INNER = 'echo INNER-OK $(uname -r) $(grep -c "model name" /proc/cpuinfo) cpus; dmesg | grep -i "hypervisor detected"\npoweroff -f\n'


def copy_into(root, path):
    target = root + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy(path, target)


def copy_qemu(root):
    """Debian's emulator with its libraries and ROMs."""
    program = need('/usr/bin/qemu-system-x86_64', 'qemu-system-x86')
    copy_into(root, program)
    for line in subprocess.run(['ldd', program], capture_output=True, text=True, check=True).stdout.splitlines():
        for word in line.split():
            if word.startswith('/'):
                copy_into(root, word)
    copy_into(root, need('/usr/share/seabios/bios-256k.bin', 'seabios'))
    for name in ('linuxboot_dma.bin', 'kvmvapic.bin'):
        copy_into(root, '/usr/share/qemu/' + name)


def boot_inside(emulator, cpu, outer=(), inner=''):
    kernel = cloud_kernel()
    with tempfile.TemporaryDirectory() as tmp, tempfile.TemporaryDirectory() as inner_tmp:
        root = os.path.join(tmp, 'initrd-root')
        os.makedirs(root)
        copy_qemu(root)
        shutil.copy(kernel, os.path.join(root, 'vmlinuz'))
        shutil.copy(make_initrd(inner_tmp, INNER), os.path.join(root, 'inner.gz'))
        modules = add_modules(tmp, ['kvm-amd'])
        initrd = make_initrd(tmp, modules + 'ls -l /dev/kvm\n'
                             '/usr/bin/qemu-system-x86_64 -accel kvm -cpu host -m 192 -nodefaults -display none -serial stdio '
                             f'-kernel /vmlinuz -initrd /inner.gz -append "console=ttyS0" {inner}\n'
                             'echo OUTER-OK; poweroff -f\n')
        arguments = ['-m', '1024', '-cpu', cpu, '-kernel', kernel, '-initrd', initrd, '-append', 'console=ttyS0', '-net',
                     'none', *outer]
        with Guest(emulator, arguments) as vm:
            vm.wait_serial(r'INNER-OK \S+ (\d+) cpus', 2400)
            vm.wait_serial(r'Hypervisor detected: KVM', 60)
            vm.wait_serial(r'OUTER-OK', 120)
            vm.wait_exit(60)


def nested_paging(emulator):
    boot_inside(emulator, 'max,+svm')


def two_cpus(emulator):
    boot_inside(emulator, 'max,+svm', ('-smp', '2'), '-smp 2')


def shadow_paging(emulator):
    boot_inside(emulator, 'max,+svm,-npt')


if __name__ == '__main__':
    run([nested_paging, two_cpus, shadow_paging])
