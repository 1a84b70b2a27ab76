#!/usr/bin/env python3
"""Boot loaders and other firmware from Debian packages: isolinux with its menu, hardware detection tool and VESA table, GRUB
and U-Boot instead of the BIOS."""
import os
import shutil
import subprocess
import tempfile

from guest import Guest, need, run

MODULES = '/usr/lib/syslinux/modules/bios'
MENU = '''UI menu.c32
PROMPT 0
TIMEOUT 0
MENU TITLE A menu of isolinux
LABEL nothing
  MENU LABEL Do nothing
  LOCALBOOT -1
LABEL hdt
  MENU LABEL Hardware detection
  COM32 hdt.c32
LABEL vesa
  MENU LABEL VESA modes
  COM32 vesainfo.c32
LABEL memory
  MENU LABEL Memory map
  COM32 meminfo.c32
'''


def make_iso(directory):
    """A CD with isolinux and all of its modules; returns its path."""
    loader = need('/usr/lib/ISOLINUX/isolinux.bin', 'isolinux')
    need(f'{MODULES}/hdt.c32', 'syslinux-common')
    need('/usr/bin/xorriso', 'xorriso')
    root = os.path.join(directory, 'cd')
    target = os.path.join(root, 'isolinux')
    os.makedirs(target)
    shutil.copy(loader, target)
    for name in ('ldlinux', 'libcom32', 'libutil', 'libmenu', 'libgpl', 'menu', 'hdt', 'vesainfo', 'meminfo'):
        shutil.copy(f'{MODULES}/{name}.c32', target)
    with open(os.path.join(target, 'isolinux.cfg'), 'w') as f:
        f.write(MENU)
    iso = os.path.join(directory, 'cd.iso')
    subprocess.run(['xorriso', '-as', 'mkisofs', '-quiet', '-o', iso, '-b', 'isolinux/isolinux.bin', '-c', 'isolinux/boot.cat',
                    '-no-emul-boot', '-boot-load-size', '4', '-boot-info-table', root], check=True, stderr=subprocess.DEVNULL)
    return iso


def isolinux(emulator, entry, *patterns):
    """Boots the CD and chooses an entry of the menu; the patterns must come on the screen one after the other."""
    with tempfile.TemporaryDirectory() as tmp:
        with Guest(emulator, ['-m', '128', '-cdrom', make_iso(tmp), '-boot', 'd', '-net', 'none'], serial=False) as vm:
            vm.wait_screen('A menu of isolinux', 120)
            vm.wait_screen('Do nothing', 60)
            for _ in range(entry):
                vm.keys('down')
            vm.keys('ret')
            for pattern in patterns:
                vm.wait_screen(pattern, 120)


def isolinux_hdt(emulator):
    isolinux(emulator, 1, r'Hardware Detection Tool', r'PCI Devices', r'DMI|VESA')


def isolinux_vesainfo(emulator):
    isolinux(emulator, 2, r'VBE version \d', r'0x0?1(01|11) ')


def isolinux_meminfo(emulator):
    isolinux(emulator, 3, r'DOS RAM: 639K', r'0000000000000000x 000000000009fc00x .* usable', r'0000000000100000x 0000000007e[0-9a-f]{5}x .* usable')


def grub_as_firmware(emulator):
    rom = need('/usr/share/qemu/grub.bin', 'grub-firmware-qemu')
    with Guest(emulator, ['-m', '128', '-bios', rom, '-net', 'none'], serial=False) as vm:
        vm.wait_screen(r'GNU GRUB|grub>', 120)


def u_boot_as_firmware(emulator):
    # U-Boot runs the VGA BIOS in plain real mode, in which that BIOS cannot reach the memory-mapped registers (docs/compat).
    rom = need('/usr/lib/u-boot/qemu-x86/u-boot.rom', 'u-boot-qemu')
    with Guest(emulator, ['-m', '256', '-bios', rom, '-vga', 'none', '-device', 'VGA,mmio=off']) as vm:
        vm.wait_serial(r'Video: 1024x768x32', 120)
        vm.wait_serial(r'Hit any key to stop autoboot', 60)
        vm.send('\n')
        vm.wait_serial(r'=> ', 60)
        vm.send('pci 0\n')
        vm.wait_serial(r'00\.01\.01\s+0x8086\s+0x7010', 60)


def isapc(emulator):
    image = need('/usr/lib/grub-rescue/grub-rescue-floppy.img', 'grub-rescue-pc')
    with Guest(emulator, ['-M', 'isapc', '-cpu', '486', '-m', '16', '-drive', f'file={image},if=floppy,format=raw,readonly=on',
                          '-boot', 'a', '-net', 'none'], serial=False) as vm:
        vm.wait_screen(r'GNU GRUB', 120)
        assert 'pci' not in vm.monitor('info qtree').lower()


def no_machine(emulator):
    with Guest(emulator, ['-M', 'none'], serial=False) as vm:
        assert vm.qmp('query-status')['status'] == 'running'
        assert not vm.qmp('query-cpus-fast')
        vm.qmp('quit')
        assert vm.wait_exit(20) == 0


if __name__ == '__main__':
    run([isolinux_hdt, isolinux_vesainfo, isolinux_meminfo, grub_as_firmware, u_boot_as_firmware, isapc, no_machine])
