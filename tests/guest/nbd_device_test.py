#!/usr/bin/env python3
"""qemu-nbd -c and -d with the kernel's NBD client, in a guest: the programs and their libraries are taken into its initramfs.

usage: nbd_device_test.py QEMU-SYSTEM QEMU-NBD QEMU-IMG [TEST...]"""
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

from guest import Guest, add_modules, cloud_kernel, make_initrd
import tap

SYSTEM, NBD, IMG = (os.path.abspath(p) for p in sys.argv[1:4])
MIB = 1 << 20
SIZE = 6 * MIB

JOB = '''{modules}mkdir -p /var/tmp
say() {{ echo "NBD $* end"; }}
sum() {{ set -- $(sha256sum $1); echo $1; }}
ls /dev/nbd0 >/dev/null && say module
qemu-nbd -c /dev/nbd0 -f raw /disk.raw; say connected $?
say size $(cat /sys/block/nbd0/size) ro $(cat /sys/block/nbd0/ro) pid $([ -n "$(cat /sys/block/nbd0/pid)" ] && echo there)
say read $(sum /dev/nbd0)
dd if=/dev/nbd0 of=/dev/nbd0 bs=64k count=16 skip=0 seek=32 conv=notrunc,fsync 2>/dev/null; say wrote $?
say copy $(dd if=/dev/nbd0 bs=64k skip=32 count=16 iflag=direct 2>/dev/null | sha256sum)
qemu-nbd -d /dev/nbd0; say disconnected $?
for n in 1 2 3 4 5 6 7 8 9; do [ "$(cat /sys/block/nbd0/pid 2>/dev/null)" ] || break; sleep 1; done
for n in 1 2 3 4 5 6 7 8 9; do pidof qemu-nbd >/dev/null || break; sleep 1; done
say left "[$(pidof qemu-nbd)]"
say file $(sum /disk.raw)
qemu-nbd --connect=/dev/nbd1 --fork --pid-file=/pid -r -f qcow2 /disk.qcow2; say again $?
say forked $(kill -0 $(cat /pid) && echo alive) ro $(cat /sys/block/nbd1/ro)
say qcow2 $(sum /dev/nbd1)
dd if=/dev/zero of=/dev/nbd1 bs=4k count=1 conv=fsync 2>/dev/null; say refused $?
kill -TERM $(cat /pid)
for n in 1 2 3 4 5 6 7 8 9; do pidof qemu-nbd >/dev/null || break; sleep 1; done
say stopped "[$(pidof qemu-nbd)]"
qemu-nbd -c /dev/nbd2 -s -f qcow2 /disk.qcow2; say snapshot $?
mke2fs /dev/nbd2 >/dev/null 2>&1; say filesystem $?
mount -t ext2 /dev/nbd2 /mnt 2>/dev/null; say mounted $?
qemu-nbd -c /dev/nbd2 -f raw /disk.raw; say busy $?
qemu-nbd -d /dev/nbd2; say ended $?
qemu-nbd -c /dev/nbd99 -f raw /disk.raw; say missing $?
poweroff -f
'''


def put_program(root, program):
    """With the libraries it names."""
    for path in [program, *re.findall(r'(/\S+) \(0x', subprocess.run(['ldd', program], capture_output=True, text=True, check=True).stdout)]:
        target = os.path.join(root, 'bin', os.path.basename(path)) if path == program else root + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(path, target)


def test_attach():
    with tempfile.TemporaryDirectory() as tmp:
        modules = add_modules(tmp, ['nbd'])
        if 'nbd' not in modules:
            raise tap.Skip('the kernel package has no nbd module')
        root = os.path.join(tmp, 'initrd-root')
        os.makedirs(os.path.join(root, 'bin'), exist_ok=True)
        put_program(root, NBD)
        data = bytearray(random.Random(1).randbytes(SIZE))
        with open(os.path.join(root, 'disk.raw'), 'wb') as f:
            f.write(data)
        subprocess.run([IMG, 'convert', '-f', 'raw', '-O', 'qcow2', os.path.join(root, 'disk.raw'), os.path.join(root, 'disk.qcow2')],
                       check=True)
        initrd = make_initrd(tmp, JOB.format(modules=modules))
        with Guest(SYSTEM, ['-m', '512', '-smp', '2', '-kernel', cloud_kernel(), '-initrd', initrd, '-append',
                            'console=ttyS0 quiet', '-net', 'none']) as vm:
            def says(text, timeout=300):
                name = text.split()[0]
                got = vm.wait_serial(f'NBD {name} ?(.*?) end', timeout).group(1).decode()
                want = text[len(name) + 1:]
                assert got == want or (want.endswith('*') and got.startswith(want[:-1])), f'{name}: {got}, expected {want}'

            digest = hashlib.sha256(data).hexdigest()
            says('module', 600)
            says('connected 0')
            says(f'size {SIZE // 512} ro 0 pid there')
            says('read ' + digest)
            says('wrote 0')
            data[2 * MIB:3 * MIB] = data[:MIB]
            says('copy ' + hashlib.sha256(data[:MIB]).hexdigest() + '*')
            says('disconnected 0')
            says('left []')
            says('file ' + hashlib.sha256(data).hexdigest())
            says('again 0')
            says('forked alive ro 1')
            says('qcow2 ' + digest)
            says('refused 1')
            says('stopped []')
            says('snapshot 0')
            says('filesystem 0')
            vm.wait_serial('NBD mounted', 60)  # if the kernel has that file system
            says('busy 1')
            says('ended 0')
            says('missing 1')
            vm.wait_exit(120)


if __name__ == '__main__':
    tap.run(tap.tests_in(globals()), names=sys.argv[4:])
