#!/usr/bin/env python3
"""Debian from a SCSI disk: SeaBIOS, GRUB and Linux's virtio_scsi, sd and sr drivers. A file system on a second disk that is
written, synchronized, read again and discarded; a CD; disks that come, grow and go; an image that has no room, which the user
frees; all of it once more with an iothread."""
import hashlib
import os
import subprocess
import tempfile

from debian_test import Debian
from guest import GuestError, need, run

MiB = 1 << 20


class Scsi(Debian):
    def __init__(self, emulator, directory, arguments, controller):
        iso = need('/usr/lib/grub-rescue/grub-rescue-cdrom.iso', 'grub-rescue-pc')
        self.data = os.path.join(directory, 'data.qcow2')
        qemu_img = os.path.join(os.path.dirname(emulator), 'qemu-img')
        subprocess.run([qemu_img, 'create', '-q', '-f', 'qcow2', self.data, '512M'], check=True)
        with open(iso, 'rb') as f:
            self.iso_bytes = f.read()
        super().__init__(emulator, directory, [
            '-device', controller, '-device', 'scsi-hd,drive=none0,bus=s.0,bootindex=1,serial=SYSTEM,wwn=0x5000c50015ea71ac',
            '-drive', f'file={self.data},if=none,id=data,discard=unmap',
            '-device', 'scsi-hd,drive=data,id=d1,bus=s.0,scsi-id=5,serial=DATA,vendor=OSTRICH,product=FEATHER,ver=1.0,rotation_rate=1',
            '-drive', f'file={iso},if=none,id=cd,media=cdrom,readonly=on', '-device', 'scsi-cd,drive=cd,id=cd0,bus=s.0,scsi-id=6',
            *arguments], interface='none,id=none0')

    def disk_of(self, serial):
        """The name of the disk whose unit serial number page says so."""
        text = self.shell('for d in /sys/block/sd*; do echo "$(basename $d) $(tail -c +5 $d/device/vpd_pg80)"; done', 60)
        for line in text.splitlines():
            if line.endswith(' ' + serial):
                return line.split()[0]
        raise GuestError(f'no disk with the serial number {serial}:\n{text}')

    def wait_shell(self, test, seconds):
        self.shell(f'n=0; until {test}; do n=$((n + 1)); [ $n -lt {seconds * 2} ] || exit 1; sleep 0.5; done', seconds + 60)


def identity(vm):
    name = vm.disk_of('DATA')
    text = vm.shell(f'cd /sys/block/{name}; cat device/vendor device/model device/rev queue/rotational', 60).split()
    assert text == ['OSTRICH', 'FEATHER', '1.0', '0'], text
    assert '5000c50015ea71ac' in vm.shell('cat /sys/block/*/device/wwid || true', 60)
    return name


def file_system(vm, name):
    vm.shell(f'mkfs.ext4 -q /dev/{name} && mount /dev/{name} /mnt && head -c 96M /dev/urandom > /mnt/file && sync', 600)
    first = vm.shell('sha256sum /mnt/file', 300)
    vm.shell('umount /mnt && echo 3 > /proc/sys/vm/drop_caches && mount /dev/' + name + ' /mnt', 300)
    assert vm.shell('sha256sum /mnt/file', 300) == first
    used = os.stat(vm.data).st_blocks * 512
    assert used > 90 * MiB, used
    vm.shell(f'rm /mnt/file && fstrim /mnt && umount /mnt && blkdiscard -f /dev/{name} && sync', 300)
    vm.shell(f'blkdiscard -f -z -l 4M /dev/{name}; cmp -n 4194304 /dev/{name} /dev/zero', 300)
    return used


def cd(vm):
    """A disc is read, taken out, and another one put in its place."""
    assert vm.shell('sha256sum /dev/sr0', 300).split()[0] == hashlib.sha256(vm.iso_bytes).hexdigest()
    other = os.path.join(os.path.dirname(vm.data), 'other.iso')
    with open(other, 'wb') as f:
        f.write(os.urandom(3 * MiB))
    vm.qmp('eject', id='cd0', force=True)
    assert vm.wait_event('DEVICE_TRAY_MOVED', 60)['data']['tray-open']
    vm.shell('! head -c 1 /dev/sr0', 60)
    vm.qmp('blockdev-change-medium', id='cd0', filename=other, format='raw')
    with open(other, 'rb') as f:
        wanted = hashlib.sha256(f.read()).hexdigest()
    vm.wait_shell(f'sha256sum /dev/sr0 2>/dev/null | grep -q {wanted}', 60)


def comes_and_goes(vm):
    vm.qmp('blockdev-add', **{'driver': 'null-co', 'node-name': 'n0', 'size': 64 * MiB, 'read-zeroes': True})
    vm.qmp('device_add', driver='scsi-hd', drive='n0', id='hot', bus='s.0', lun='3', **{'scsi-id': '5', 'serial': 'HOT'})
    vm.wait_shell('[ -b /dev/disk/by-path/*-scsi-0:0:5:3 ]', 60)
    name = vm.disk_of('HOT')
    assert vm.shell(f'cat /sys/block/{name}/size', 60).strip() == str(64 * MiB // 512)
    vm.shell(f'cmp -n {64 * MiB} /dev/{name} /dev/zero', 300)
    vm.qmp('device_del', id='hot')
    vm.wait_event('DEVICE_DELETED', 60)
    vm.wait_shell(f'[ ! -e /sys/block/{name} ]', 60)
    vm.qmp('blockdev-del', **{'node-name': 'n0'})


def grows(vm, name):
    vm.qmp('block_resize', device='data', size=640 * MiB)
    vm.wait_shell(f'[ $(cat /sys/block/{name}/size) = {640 * MiB // 512} ]', 60)


def no_room(vm):
    """A disk that fails once for want of space stops the machine; the write is made again when the user goes on."""
    path = os.path.join(os.path.dirname(vm.data), 'full.raw')
    with open(path, 'wb') as f:
        f.truncate(16 * MiB)
    vm.qmp('blockdev-add', **{
        'driver': 'raw', 'node-name': 'full', 'file': {
            'driver': 'blkdebug', 'image': {'driver': 'file', 'filename': path},
            'inject-error': [{'event': 'none', 'iotype': 'write', 'errno': 28, 'once': True}]}})
    vm.qmp('device_add', driver='scsi-hd', drive='full', id='full0', bus='s.0', werror='stop', **{'serial': 'FULL'})
    vm.wait_shell('grep -lq FULL /sys/block/sd*/device/vpd_pg80', 60)
    name = vm.disk_of('FULL')
    vm.shell(f'((head -c 1M /dev/zero | tr "\\0" "\\125" | dd of=/dev/{name} bs=64k oflag=direct; echo wrote $?) > /tmp/dd 2>&1 &)', 60)
    vm.wait_event('STOP', 60)
    assert vm.qmp('query-status')['status'] == 'io-error'
    vm.qmp('cont')
    vm.wait_shell('grep -q "wrote 0" /tmp/dd', 60)
    with open(path, 'rb') as f:
        assert f.read(MiB) == b'\x55' * MiB
    vm.qmp('device_del', id='full0')
    vm.wait_event('DEVICE_DELETED', 60)


def everything(emulator, controller, more=()):
    with tempfile.TemporaryDirectory() as tmp:
        with Scsi(emulator, tmp, ['-smp', '2', *more], controller) as vm:
            vm.boot()
            name = identity(vm)
            used = file_system(vm, name)
            grows(vm, name)
            cd(vm)
            comes_and_goes(vm)
            no_room(vm)
            text = vm.shell('dmesg | grep -iE "i/o error|timed out|call trace|abort" || true', 60)
            assert not text, text
            vm.end()
            left = os.stat(vm.data).st_blocks * 512
            assert left < used - 80 * MiB, (used, left)


def virtio_scsi(emulator):
    everything(emulator, 'virtio-scsi-pci,id=s')


def iothread(emulator):
    everything(emulator, 'virtio-scsi-pci-non-transitional,id=s,iothread=io,num_queues=2,packed=on', ['-object', 'iothread,id=io'])


if __name__ == '__main__':
    run([virtio_scsi, iothread])
