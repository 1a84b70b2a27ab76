#!/usr/bin/env python3
"""Disks by vhost-user: qemu-storage-daemon's export with Linux's virtio_blk driver, in another emulator and in ours.

usage: vhost_user_test.py QEMU-SYSTEM QEMU-STORAGE-DAEMON QEMU-IMG [TEST...]"""
import hashlib
import os
import random
import subprocess
import sys
import tempfile

from guest import Guest, add_modules, cloud_kernel, make_initrd, need
import qmp
import tap

OURS, DAEMON, IMG = (os.path.abspath(p) for p in sys.argv[1:4])
MIB = 1 << 20
SIZE = 48 * MIB

# Reads all of it, writes with several processes at once, zeroes, discards, and does so again after the driver was away.
JOB = '''{modules}
for n in 1 2 3 4 5 6 7 8 9 10; do [ -e /dev/vda ] && break; sleep 1; done
Q=$(ls /sys/block/vda/mq | wc -l)
echo "VUB size $(cat /sys/block/vda/size) ro $(cat /sys/block/vda/ro) queues $Q block $(cat /sys/block/vda/queue/logical_block_size) end"
echo "VUB serial $(cat /sys/block/vda/serial) end"
set -- $(sha256sum /dev/vda); echo "VUB before $1 end"
for n in 0 1 2 3; do (dd if=/dev/vda of=/tmp/x$n bs=64k count=16 skip=$((n * 16)) 2>/dev/null
    dd if=/tmp/x$n of=/dev/vda bs=64k seek=$((n * 16 + 256)) conv=notrunc,fsync 2>/dev/null) & done; wait
dd if=/dev/zero of=/dev/vda bs=64k count=16 seek=600 conv=notrunc,fsync 2>/dev/null
blkdiscard -o 8388608 -l 1048576 /dev/vda && echo "VUB discarded end"
D=$(readlink -f /sys/block/vda/device/..); echo 1 > $D/remove; sleep 1; echo 1 > /sys/bus/pci/rescan
for n in 1 2 3 4 5 6 7 8 9 10; do [ -e /dev/vda ] && break; sleep 1; done
set -- $(dd if=/dev/vda bs=64k skip=256 count=64 iflag=direct 2>/dev/null | sha256sum); echo "VUB after $1 end"
dd if=/dev/vda of=/dev/null bs=100k count=200000 iflag=direct 2>/dev/null; echo "VUB bulk $? end"
poweroff -f
'''


class Daemon(qmp.Program):
    def __init__(self, image, fmt, sock, **options):
        super().__init__([DAEMON, '--chardev', 'stdio,id=qmp', '--monitor', 'chardev=qmp,mode=control', '--blockdev',
                          f'driver={fmt},node-name=disk,discard=unmap,file.driver=file,file.filename={image},file.discard=unmap'])
        self.ok('block-export-add', type='vhost-user-blk', id='the-disk', node_name='disk', writable=True,
                addr={'type': 'unix', 'path': sock}, **options)


def field(vm, name, timeout=600):
    return vm.wait_serial(f'VUB {name} (.*) end', timeout).group(1).decode()


def disk(emulator, accelerator):
    with tempfile.TemporaryDirectory() as tmp:
        os.chdir(tmp)
        data = bytearray(random.Random(1).randbytes(SIZE))
        with open('raw', 'wb') as f:
            f.write(data)
        subprocess.run([IMG, 'convert', '-f', 'raw', '-O', 'qcow2', 'raw', 'disk.qcow2'], check=True)
        initrd_script = JOB.format(modules=add_modules(tmp, ['virtio_pci', 'virtio_blk']))
        initrd = make_initrd(tmp, initrd_script)
        with Daemon('disk.qcow2', 'qcow2', 'sock', num_queues=2) as daemon:
            with Guest(emulator, [*accelerator, '-m', '256', '-smp', '2', '-object', 'memory-backend-memfd,id=mem,size=256M,share=on',
                                  '-machine', 'pc,memory-backend=mem', '-chardev', f'socket,id=vu,path={tmp}/sock', '-device',
                                  'vhost-user-blk-pci,chardev=vu,num-queues=2', '-kernel', cloud_kernel(), '-initrd', initrd,
                                  '-append', 'console=ttyS0 quiet', '-net', 'none']) as vm:
                assert field(vm, 'size') == f'{SIZE // 512} ro 0 queues 2 block 512'
                assert field(vm, 'serial') == 'the-disk'
                assert field(vm, 'before') == hashlib.sha256(data).hexdigest()
                vm.wait_serial('VUB discarded end', 300)
                data[256 * 65536:320 * 65536] = data[:64 * 65536]
                data[600 * 65536:616 * 65536] = bytes(MIB)
                assert field(vm, 'after') == hashlib.sha256(data[256 * 65536:320 * 65536]).hexdigest()
                assert field(vm, 'bulk') == '0'
                vm.wait_exit(120)
            daemon.quit()
        assert not os.path.exists('sock')
        subprocess.run([IMG, 'check', '-q', 'disk.qcow2'], check=True)
        subprocess.run([IMG, 'convert', '-O', 'raw', 'disk.qcow2', 'out'], check=True)
        with open('out', 'rb') as f:
            out = bytearray(f.read())
        data[8 * MIB:9 * MIB] = out[8 * MIB:9 * MIB] = bytes(MIB)  # was discarded
        assert out == data
        os.chdir('/')


def test_other_emulator():
    other = need('/usr/bin/qemu-system-x86_64', 'qemu-system-x86')
    disk(other, ['-accel', 'tcg'])


def test_our_emulator():
    disk(OURS, [])


if __name__ == '__main__':
    tap.run(tap.tests_in(globals()), names=sys.argv[4:])
