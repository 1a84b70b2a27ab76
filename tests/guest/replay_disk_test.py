#!/usr/bin/env python3
"""Record and replay of machines with disks: a replay makes the same requests, which complete at the same instructions."""
import os
import sys
import tempfile

from guest import Guest, GuestError, add_modules, cloud_kernel, make_initrd, run
import debian_disk

# Reads, writes, flushes and discards at once, with sums of what is read on the serial line.
WORK = '''
i=0; until ls /dev/[sv]d[ab] 2>/dev/null | grep -q . ; do sleep 0.2; i=$((i+1)); [ $i = 100 ] && break; done
disk=$(ls /dev/[sv]d[ab] | head -1); echo "disk $disk"
dd if=$disk bs=64k count=40 2>/dev/null | md5sum
for i in 1 2 3 4; do dd if=/dev/urandom of=$disk bs=32k count=16 seek=$((i*20)) conv=notrunc 2>/dev/null & done
dd if=$disk bs=4k skip=3000 count=1000 2>/dev/null | md5sum
wait; sync; echo 3 > /proc/sys/vm/drop_caches
dd if=$disk bs=256k 2>/dev/null | md5sum
cat /proc/interrupts /proc/diskstats
date; echo END-OF-WORK
poweroff -f
'''
DISKS = {
    'virtio': ['-device', 'virtio-blk-pci,drive=d0'],
    'ide': ['-device', 'ide-hd,drive=d0,bus=ide.0'],
    'scsi': ['-device', 'virtio-scsi-pci', '-device', 'scsi-hd,drive=d0'],
}
MODULES = ['virtio_pci', 'virtio_blk', 'ahci', 'ata_piix', 'sd_mod', 'virtio_scsi']


def machine(tmp, mode, device, drive, *more):
    return ['-m', '192', '-net', 'none', '-kernel', cloud_kernel(), '-initrd', os.path.join(tmp, 'initrd.gz'),
            '-append', 'console=ttyS0 quiet', '-icount', f'shift=2,rr={mode},rrfile={tmp}/rr', '-no-shutdown',
            *drive, *DISKS[device], *more]


def finish(vm, seconds=600):
    vm.wait_event('STOP', seconds)
    vm.pause(0.1)
    return vm.qmp('query-replay')['icount'], vm.serial_text


def ended(emulator, arguments, quits):
    with Guest(emulator, arguments) as vm:
        result = finish(vm)
        assert b'END-OF-WORK' in result[1], result[1]
        assert 'differs' not in vm.stderr() and 'replay:' not in vm.stderr().replace('replay: the recording ends', ''), vm.stderr()
        if quits:
            vm.qmp('quit')
            vm.wait_exit(60)
    return result


def both(emulator, tmp, device, drive, *more):
    recorded = ended(emulator, machine(tmp, 'record', device, drive, *more), True)
    for _ in range(2):
        replayed = ended(emulator, machine(tmp, 'replay', device, drive, *more), False)
        if recorded != replayed:
            raise GuestError(f'{recorded[0]} and {replayed[0]} instructions\n{recorded[1].decode()}\n{replayed[1].decode()}')
    print(f'# {device}: {recorded[0]} instructions, {os.path.getsize(tmp + "/rr")} bytes of recording')


def prepared(tmp):
    make_initrd(tmp, '')
    make_initrd(tmp, add_modules(tmp, MODULES) + WORK)
    with open(f'{tmp}/disk', 'wb') as f:
        block = bytes(range(256)) * 256
        for n in range(256):
            f.write(n.to_bytes(8, 'little') * 16 + block[128:])
    return f'{tmp}/disk'


def disks(device, more=()):
    def test(emulator):
        with tempfile.TemporaryDirectory() as tmp:
            path = prepared(tmp)
            both(emulator, tmp, device, ['-drive', f'id=d0,if=none,format=raw,snapshot=on,file={path}'], *more)
    test.__name__ = device + ('_two_processors' if more else '')
    return test


def filtered(emulator):
    """As command lines for other emulators have it: blkreplay above the image."""
    with tempfile.TemporaryDirectory() as tmp:
        path = prepared(tmp)
        both(emulator, tmp, 'virtio', ['-drive', f'id=img,if=none,format=raw,snapshot=on,file={path}',
                                       '-drive', 'driver=blkreplay,if=none,image=img,id=d0'])


def slow_replay(emulator):
    """The host's disk is slower when replaying than it was."""
    with tempfile.TemporaryDirectory() as tmp:
        path = prepared(tmp)
        drive = ['-drive', f'id=d0,if=none,format=raw,snapshot=on,file={path}']
        recorded = ended(emulator, machine(tmp, 'record', 'virtio', drive), True)
        drive[1] += ',throttling.iops-total=60,throttling.bps-total=6000000'
        replayed = ended(emulator, machine(tmp, 'replay', 'virtio', drive), False)
        assert recorded == replayed, (recorded[0], replayed[0])


def no_sleep(emulator):
    """Idle time is skipped, but not past a disk that works."""
    with tempfile.TemporaryDirectory() as tmp:
        path = prepared(tmp)
        drive = ['-drive', f'id=d0,if=none,format=raw,snapshot=on,file={path}']
        runs = []
        for mode in ('record', 'replay'):
            arguments = machine(tmp, mode, 'virtio', drive)
            arguments[arguments.index('-icount') + 1] += ',sleep=off'
            runs.append(ended(emulator, arguments, mode == 'record'))
        assert runs[0] == runs[1], (runs[0][0], runs[1][0])


def debian(emulator):
    """Debian starts from a disk up to a shell, which turns the machine off."""
    disk = debian_disk.disk('cloud', emulator)
    with tempfile.TemporaryDirectory() as tmp:
        def arguments(mode):
            return ['-m', '512', '-net', 'none', '-icount', f'shift=1,rr={mode},rrfile={tmp}/rr', '-no-shutdown',
                    '-drive', f'file={disk},if=virtio,format=qcow2,snapshot=on']
        with Guest(emulator, arguments('record')) as vm:
            vm.wait_serial(r'guest login: ', 2400)
            vm.send('root\n')
            vm.wait_serial(r'# $', 600)
            vm.send('systemctl is-system-running --wait; dmesg | tail -3; md5sum /usr/bin/* | md5sum; poweroff\n')
            recorded = finish(vm, 1800)
            vm.qmp('quit')
            vm.wait_exit(60)
        with Guest(emulator, arguments('replay')) as vm:
            replayed = finish(vm, 3600)
            assert 'differs' not in vm.stderr(), vm.stderr()
        if recorded != replayed:
            raise GuestError(f'{recorded[0]} and {replayed[0]} instructions\n{recorded[1][-2000:].decode(errors="replace")}\n'
                             f'{replayed[1][-2000:].decode(errors="replace")}')
        print(f'# {recorded[0]} instructions, {os.path.getsize(tmp + "/rr")} bytes of recording')


run([disks('virtio'), disks('virtio', ('-smp', '2')), disks('ide'), disks('scsi'), filtered, slow_replay, no_sleep,
     debian])
