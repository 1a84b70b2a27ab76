#!/usr/bin/env python3
"""Firmware, loaders and small kernels from Debian packages, each read on its screen or serial line."""
import os
import struct
import subprocess
import tempfile

from guest import Guest, cloud_kernel, make_initrd, need, run


def seabios_without_disk(emulator):
    need('/usr/share/seabios/bios-256k.bin', 'seabios')
    with Guest(emulator, ['-m', '128', '-nodefaults', '-vga', 'std'], serial=False) as vm:
        vm.wait_screen(r'SeaBIOS \(version', 60)
        vm.wait_screen(r'No bootable device', 60)


def multiboot_example(emulator):
    kernel = need('/usr/lib/multiboot/examples/kernel', 'multiboot')
    with Guest(emulator, ['-m', '128', '-kernel', kernel, '-net', 'none'], serial=False) as vm:
        text = vm.wait_screen(r'Halted\.', 60).string
        assert 'mem_lower' in text or 'mmap' in text, text


def multiboot_low_kernel(emulator):
    """Kernels in low memory: neither the information structure nor the loader's own data may touch them."""
    for base, end in ((0x8000, 0xe000), (0x2000, 0x8000), (0x5000, 0x70000)):
        multiboot_kernel_at(emulator, base, end)


def multiboot_kernel_at(emulator, base, end):
    filler = b'\x5a'
    header = struct.pack('<8I', 0x1badb002, 0x10000, -0x1badb002 - 0x10000 & 0xffffffff, base, base, end, 0, base + 32)
    code = bytes.fromhex('3d02b0ad2b7524'      # cmp $0x2badb002,%eax; jne fail
                         'bf') + struct.pack('<I', base + 0x1000) + bytes.fromhex(  # mov $,%edi
                         'b9') + struct.pack('<I', (end - base - 0x1000) // 4) + bytes.fromhex(  # mov $,%ecx
                         'b85a5a5a5a'          # mov $0x5a5a5a5a,%eax
                         'fcf3af7510'          # cld; repe scasl; jne fail
                         '8b4304'              # mov 4(%ebx),%eax: mem_lower
                         '3d7f0200007506'      # cmp $639,%eax; jne fail
                         'b010e6f4ebfe'        # mov $16,%al; out %al,$0xf4; 1: jmp 1b
                         'b001e6f4ebfe')       # fail: mov $1,%al; out %al,$0xf4; 1: jmp 1b
    with tempfile.NamedTemporaryFile(suffix='.bin') as kernel:
        kernel.write((header + code).ljust(0x1000, b'\0') + filler * (end - base - 0x1000))
        kernel.flush()
        status = subprocess.run([emulator, '-m', '16', '-nodefaults', '-display', 'none', '-kernel', kernel.name, '-device',
                                 'isa-debug-exit,iobase=0xf4'], timeout=60, check=False).returncode
    assert status == 33, status


def grub_floppy(emulator):
    image = need('/usr/lib/grub-rescue/grub-rescue-floppy.img', 'grub-rescue-pc')
    with Guest(emulator, ['-m', '128', '-drive', f'file={image},if=floppy,format=raw,readonly=on', '-boot', 'a', '-net', 'none'],
               serial=False) as vm:
        vm.wait_screen(r'GNU GRUB', 120)


def grub_cd(emulator):
    image = need('/usr/lib/grub-rescue/grub-rescue-cdrom.iso', 'grub-rescue-pc')
    with Guest(emulator, ['-m', '128', '-cdrom', image, '-net', 'none'], serial=False) as vm:
        vm.wait_screen(r'GNU GRUB', 120)


def grub_disk(emulator, *device):
    image = need('/usr/lib/grub-rescue/grub-rescue-cdrom.iso', 'grub-rescue-pc')
    drive = f'file={image},format=raw,readonly=on,id=d'
    arguments = ['-m', '128', '-net', 'none', '-snapshot', '-drive', drive + ',if=none', '-device', *device]
    with Guest(emulator, arguments, serial=False) as vm:
        vm.wait_screen(r'GNU GRUB', 120)


def grub_ide_disk(emulator):
    grub_disk(emulator, 'ide-hd,drive=d')


def grub_virtio_disk(emulator):
    grub_disk(emulator, 'virtio-blk-pci,drive=d')


def grub_invaders(emulator):
    kernel = need('/boot/invaders.exec', 'grub-invaders')
    with Guest(emulator, ['-m', '64', '-kernel', kernel, '-net', 'none'], serial=False) as vm:
        vm.wait_screen(r'-\*-', 60)


def cloud_kernel_to_init(emulator, *more):
    with tempfile.TemporaryDirectory() as tmp:
        initrd = make_initrd(tmp, 'echo INIT-OK $(uname -r) cpus $(nproc)\npoweroff -f\n')
        arguments = ['-m', '512', '-kernel', cloud_kernel(), '-initrd', initrd, '-append', 'console=ttyS0', '-net', 'none', *more]
        with Guest(emulator, arguments) as vm:
            match = vm.wait_serial(r'INIT-OK (\S+) cpus (\d+)', 300)
            vm.wait_exit(60)
            return match


def cloud_kernel_one_cpu(emulator):
    cloud_kernel_to_init(emulator)


def cloud_kernel_two_cpus(emulator):
    match = cloud_kernel_to_init(emulator, '-smp', '2')
    assert match.group(2) == b'2', match.group(0)


def ipxe_dhcp(emulator, card):
    need('/usr/lib/ipxe/qemu/efi-e1000.rom', 'ipxe-qemu')
    arguments = ['-m', '128', '-netdev', 'user,id=n', '-device', f'{card},netdev=n', '-boot', 'n']
    with Guest(emulator, arguments, serial=False) as vm:
        vm.wait_screen(r'net0: 10\.0\.2\.15/255\.255\.255\.0', 120)


def ipxe_e1000(emulator):
    ipxe_dhcp(emulator, 'e1000')


def ipxe_virtio_net(emulator):
    ipxe_dhcp(emulator, 'virtio-net-pci')


def reset_from_monitor(emulator):
    with Guest(emulator, ['-m', '128', '-net', 'none'], serial=False) as vm:
        vm.wait_screen(r'No bootable device', 60)
        vm.qmp('system_reset')
        vm.wait_event('RESET', 10)
        vm.wait_screen(r'No bootable device', 60)


if __name__ == '__main__':
    run([seabios_without_disk, multiboot_example, multiboot_low_kernel, grub_floppy, grub_cd, grub_ide_disk,
         grub_virtio_disk, grub_invaders,
         cloud_kernel_one_cpu, cloud_kernel_two_cpus, ipxe_e1000, ipxe_virtio_net, reset_from_monitor])
