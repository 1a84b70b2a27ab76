#!/usr/bin/env python3
"""pflash_test.py QEMU-SYSTEM: the NOR flash below 4 GiB, driven as the Intel data sheet says, in TAP; how it is asked for and refused."""
import os
import subprocess
import sys
import tempfile

from machine import PROGRAM, Machine, same

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

SIZE, SECTOR = 0x40000, 0x1000
BASE = (1 << 32) - SIZE
# Sizes in it: 2^18 bytes, 2^8 of the write buffer, 64 sectors of 16 * 256 bytes.
QUERY = ('515259010031000000000045550000' '07070a000404040012020008000' '13f001000' '5052493130')


class Flash:
    def __init__(self, machine, base=BASE):
        self.m, self.base = machine, base

    def write(self, at, *values):
        for value in values:
            self.m.ok(f'writeb {self.base + at:#x} {value:#x}')

    def read(self, at):
        return self.m.number(f'readb {self.base + at:#x}')

    def status(self):
        self.write(0, 0x70)
        status = self.read(0)
        self.write(0, 0x50, 0xff)
        return status


class Image:
    def __init__(self, fill=b'\xff', size=SIZE):
        self.file = tempfile.NamedTemporaryFile()
        self.file.write(fill * size)
        self.file.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def drive(self, more=''):
        return ['-drive', f'if=pflash,format=raw,file={self.file.name}{more}']

    def bytes(self, at, count):
        with open(self.file.name, 'rb') as f:
            return f.read()[at:at + count]


def identity():
    with Image() as image, Machine(*image.drive()) as m:
        flash = Flash(m)
        flash.write(0x55, 0x98)
        same(''.join(f'{flash.read(at):02x}' for at in range(0x10, 0x36)), QUERY)
        flash.write(0, 0x90)
        same([flash.read(at) for at in (0, 1, 2)], [0, 0, 0])
        flash.write(0, 0xff)
        same(flash.read(0x10), 0xff)


def probing_as_ovmf_does():
    with Image() as image, Machine(*image.drive()) as m:
        flash = Flash(m)
        flash.write(0, 0x50)
        same(flash.read(0), 0xff)
        flash.write(0, 0x70)
        same(flash.read(0), 0)
        flash.write(0, 0xff)


def program_and_erase():
    with Image() as image:
        with Machine(*image.drive()) as m:
            flash = Flash(m)
            flash.write(0x10, 0x40, 0xa5)
            same(flash.read(0x10), 0x80)
            flash.write(0x10, 0x10, 0x0f, 0xff)
            same(flash.read(0x10), 0x05) # bits are only cleared
            flash.write(SECTOR, 0x40, 0x11, 0xff)
            flash.write(0x123, 0x20, 0xd0, 0xff)
            same([flash.read(0x10), flash.read(SECTOR)], [0xff, 0x11])
            flash.write(0x20, 0x40, 0x77, 0xff)
            flash.write(0x20, 0x20, 0x33) # no confirmation
            same(flash.status(), 0xb0)
            same(flash.read(0x20), 0x77)
            m.ok(f'writel {BASE + 0x40:#x} 0x40')
            m.ok(f'writel {BASE + 0x40:#x} 0x11223344')
            flash.write(0, 0xff)
            same(m.number(f'readl {BASE + 0x40:#x}'), 0x11223344)
        same(image.bytes(0x20, 1), b'\x77')
        same(image.bytes(0x40, 4), b'\x44\x33\x22\x11')
        same(image.bytes(SECTOR, 2), b'\x11\xff')


def write_buffer():
    with Image() as image:
        with Machine(*image.drive()) as m:
            flash = Flash(m)
            flash.write(SECTOR, 0xe8, 3)
            for n in range(4):
                flash.write(SECTOR + 8 + n, n + 1)
            same(flash.read(SECTOR), 0x80)
            flash.write(SECTOR, 0xd0, 0xff)
            same(m.number(f'readl {BASE + SECTOR + 8:#x}'), 0x04030201)
            same(flash.read(SECTOR + 7), 0xff)
            flash.write(0, 0xe8, 1, 0) # the second byte is beyond the buffer that the first one chose
            flash.write(0x3000, 0, 0xd0)
            same(flash.status() & 0x10, 0x10)
            same([flash.read(0), flash.read(0x3000)], [0xff, 0xff])
        same(image.bytes(SECTOR + 8, 4), b'\1\2\3\4')


def read_only():
    with Image() as image:
        with Machine(*image.drive(',readonly=on')) as m:
            flash = Flash(m)
            flash.write(0x10, 0x40, 0)
            same(flash.status(), 0x90)
            flash.write(0x10, 0x20, 0xd0)
            same(flash.status() & 0x20, 0x20)
            same(flash.read(0x10), 0xff)
        same(image.bytes(0, SIZE), b'\xff' * SIZE)


def secure():
    """Nobody is in system management mode here: the array is seen, and cannot be changed."""
    with Image() as image, Machine('-global', 'driver=cfi.pflash01,property=secure,value=on', *image.drive()) as m:
        flash = Flash(m)
        flash.write(0x10, 0x40, 0)
        same(flash.read(0x10), 0xff)
        flash.write(0, 0x70)
        same(flash.read(0), 0xff)


def two_of_them():
    with Image(b'\x11') as code, Image(b'\x22', 0x10000) as variables:
        nodes = ['-blockdev', f'file,node-name=c,filename={code.file.name},read-only=on',
                 '-blockdev', f'file,node-name=v,filename={variables.file.name}', '-M', 'pc,pflash0=c,pflash1=v']
        with Machine(*nodes) as m:
            same(m.number(f'readl {BASE:#x}'), 0x11111111)
            same(m.number(f'readl {BASE - 4:#x}'), 0x22222222)
            same(m.number('readl 0xffffc'), 0x11111111)
            Flash(m, BASE - 0x10000).write(0, 0x70)
            same(m.number(f'readb {BASE - 1:#x}'), 0x80)
            same(m.number(f'readl {BASE:#x}'), 0x11111111)


def refused():
    def message(*arguments):
        done = subprocess.run([PROGRAM, '-display', 'none', '-accel', 'qtest', *arguments], capture_output=True, text=True, timeout=60)
        same(done.returncode, 1)
        return done.stderr
    with Image() as image, Image(size=SIZE + 1) as odd, Image(size=9 << 20) as large:
        drive, name = image.drive(), image.file.name
        assert 'pflash1' in message('-drive', drive[1] + ',unit=1')
        assert 'unit=2' in message('-drive', drive[1] + ',unit=2')
        assert 'if=pflash' in message('-M', 'isapc', *drive)
        assert 'both' in message('-blockdev', f'file,node-name=a,filename={name},read-only=on', '-M', 'pc,pflash0=a', '-drive',
                                 drive[1] + ',readonly=on')
        assert 'nothing' in message('-M', 'pc,pflash0=nothing')
        assert '4096' in message(*odd.drive())
        assert 'room' in message(*large.drive())
        assert 'pluggable' in message('-device', 'cfi.pflash01')


if __name__ == '__main__':
    tap.run([identity, probing_as_ovmf_does, program_and_erase, write_buffer, read_only, secure, two_of_them, refused])
