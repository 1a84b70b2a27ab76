#!/usr/bin/env python3
"""UEFI: Debian's OVMF from two flashes or as a ROM, its variables over restarts and snapshots, GRUB and Linux started by it."""
import os
import re
import shutil
import subprocess
import tempfile
import time

from guest import Guest, cloud_kernel, make_initrd, need, run

GUID = '11112222-3333-4444-5555-666677778888'
LINUX = '''
mount -t efivarfs none /sys/firmware/efi/efivars 2>/dev/null
[ -d /sys/firmware/efi ] && echo INIT-UEFI
poweroff -f
'''


def flash(directory, *more):
    """The arguments for OVMF with variables of its own, which are in directory/vars.fd."""
    code = need('/usr/share/OVMF/OVMF_CODE_4M.fd', 'ovmf')
    variables = os.path.join(directory, 'vars.fd')
    if not os.path.exists(variables):
        shutil.copy('/usr/share/OVMF/OVMF_VARS_4M.fd', variables)
    return ['-m', '256', '-net', 'none', '-drive', f'if=pflash,unit=0,format=raw,readonly=on,file={code}',
            '-drive', f'if=pflash,unit=1,format=raw,file={variables}', *more]


def plain(text):
    return re.sub(rb'\x1b\[[0-9;]*[A-Za-z]', b'', text)


def shell(vm):
    vm.wait_serial(r'any other key to continue', 300)
    vm.send('\r')
    vm.wait_serial(r'Shell> ', 120)


def command(vm, line):
    """What the UEFI shell answers."""
    vm.pause(0.2)
    start = vm.seen = len(vm.serial_text)
    for at in range(0, len(line), 4): # the serial port's buffer is small
        vm.send(line[at:at + 4])
        vm.pause(0.02)
    vm.send('\r')
    vm.wait_serial(r'Shell> ', 60)
    return plain(vm.serial_text[start:]).decode(errors='replace')


def set_variable(vm, value):
    command(vm, f'setvar OSTRICH -guid {GUID} -nv -bs =0x{value}')


def expect_variable(vm, value):
    answer = command(vm, f'setvar OSTRICH -guid {GUID}')
    shown = ' '.join(value[at:at + 2] for at in range(6, -2, -2)) # its bytes, the lowest first
    assert shown in answer, answer


def variables_over_a_restart(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        with Guest(emulator, flash(tmp)) as vm:
            shell(vm)
            set_variable(vm, '1234ABCD')
            expect_variable(vm, '1234ABCD')
            vm.qmp('quit')
            vm.wait_exit(30)
        with Guest(emulator, flash(tmp)) as vm:
            shell(vm)
            expect_variable(vm, '1234ABCD')


def rom_image(emulator):
    with Guest(emulator, ['-m', '256', '-net', 'none', '-bios', need('/usr/share/ovmf/OVMF.fd', 'ovmf')]) as vm:
        shell(vm)


def block_nodes(emulator):
    """The same by -blockdev and -machine, with two megabytes of firmware."""
    need('/usr/share/OVMF/OVMF_CODE.fd', 'ovmf')
    with tempfile.TemporaryDirectory() as tmp:
        shutil.copy('/usr/share/OVMF/OVMF_VARS.fd', tmp)
        arguments = ['-m', '256', '-net', 'none', '-machine', 'pc,pflash0=code,pflash1=vars',
                     '-blockdev', 'raw,node-name=code,read-only=on,file.driver=file,file.filename=/usr/share/OVMF/OVMF_CODE.fd',
                     '-blockdev', f'raw,node-name=vars,file.driver=file,file.filename={tmp}/OVMF_VARS.fd']
        with Guest(emulator, arguments) as vm:
            shell(vm)
            vm.qmp('system_reset')
            vm.pause(0.5)
            vm.serial_text, vm.seen = b'', 0
            shell(vm)


def linux_by_kernel_option(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        initrd = make_initrd(tmp, LINUX)
        arguments = flash(tmp, '-kernel', cloud_kernel(), '-initrd', initrd, '-append', 'console=ttyS0')
        arguments[1] = '512'
        with Guest(emulator, arguments) as vm:
            vm.wait_serial(r'INIT-UEFI', 600)
            vm.wait_exit(60)


def linux_by_grub(emulator):
    grub = need('/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi', 'grub-efi-amd64-bin')
    need('/usr/bin/mcopy', 'mtools')
    with tempfile.TemporaryDirectory() as tmp:
        initrd = make_initrd(tmp, LINUX)
        disk, config = os.path.join(tmp, 'disk.img'), os.path.join(tmp, 'grub.cfg')
        with open(config, 'w') as out:
            out.write('linux /vmlinuz console=ttyS0\ninitrd /initrd\nboot\n')
        with open(disk, 'wb') as out:
            out.truncate(128 << 20)
        environment = dict(os.environ, MTOOLS_SKIP_CHECK='1')
        subprocess.run([need('/sbin/mkfs.vfat', 'dosfstools'), '-F', '32', disk], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(['mmd', '-i', disk, '::/EFI', '::/EFI/BOOT', '::/EFI/debian'], check=True, env=environment)
        for source, target in ((grub, 'EFI/BOOT/BOOTX64.EFI'), (config, 'EFI/debian/grub.cfg'), (cloud_kernel(), 'vmlinuz'),
                               (initrd, 'initrd')):
            subprocess.run(['mcopy', '-i', disk, source, f'::/{target}'], check=True, env=environment)
        for device in ('virtio-blk-pci', 'ide-hd'):
            if os.path.exists(os.path.join(tmp, 'vars.fd')):
                os.remove(os.path.join(tmp, 'vars.fd')) # the boot order in it is for the other disk
            arguments = flash(tmp, '-drive', f'file={disk},format=raw,if=none,id=d', '-device', f'{device},drive=d')
            arguments[1] = '512'
            with Guest(emulator, arguments) as vm:
                vm.wait_serial(r'INIT-UEFI', 600)
                vm.wait_exit(60)


def snapshot_has_the_variables(emulator):
    """The variables' image is raw: what the snapshot has of them is in the machine's state."""
    with tempfile.TemporaryDirectory() as tmp:
        disk = os.path.join(tmp, 'disk.qcow2')
        subprocess.run([need('/usr/bin/qemu-img', 'qemu-utils'), 'create', '-q', '-f', 'qcow2', disk, '64M'], check=True)
        arguments = flash(tmp, '-blockdev', f'qcow2,node-name=disk,file.driver=file,file.filename={disk}',
                          '-device', 'virtio-blk-pci,drive=disk')
        with Guest(emulator, arguments) as vm:
            shell(vm)
            set_variable(vm, 'AAAA1111')
            assert vm.monitor('savevm first') == '', 'savevm refused'
            with open(os.path.join(tmp, 'vars.fd'), 'rb') as image:
                before = image.read()
            set_variable(vm, 'BBBB2222')
            with open(os.path.join(tmp, 'vars.fd'), 'rb') as image:
                assert image.read() != before, 'the second value is not in the image'
            assert vm.monitor('loadvm first') == ''
            expect_variable(vm, 'AAAA1111')
            limit = time.time() + 20
            while open(os.path.join(tmp, 'vars.fd'), 'rb').read() != before:
                assert time.time() < limit, 'the image was not brought back'
                time.sleep(0.1)
            vm.qmp('snapshot-save', **{'job-id': 'j', 'tag': 'second', 'vmstate': 'disk', 'devices': ['disk']})
            while vm.qmp('query-jobs')[0]['status'] != 'concluded':
                vm.pause(0.1)
            assert 'error' not in vm.qmp('query-jobs')[0], vm.qmp('query-jobs')
            set_variable(vm, 'CCCC3333')
            vm.qmp('quit')
            vm.wait_exit(30)
        with Guest(emulator, arguments + ['-loadvm', 'second']) as vm:
            vm.pause(1) # what is typed before the state is loaded goes to the machine that is thrown away
            expect_variable(vm, 'AAAA1111')


if __name__ == '__main__':
    run([variables_over_a_restart, rom_image, block_nodes, linux_by_kernel_option, linux_by_grub, snapshot_has_the_variables])
