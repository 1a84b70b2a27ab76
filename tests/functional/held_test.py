#!/usr/bin/env python3
"""held_test.py QEMU-SYSTEM: requests that failed and wait (werror=stop) are part of a saved machine and are made again where it
is loaded, or in the machine that goes on; in TAP."""
import os
import subprocess
import sys
import tempfile
import time

from machine import Machine, same

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

SIZE = 1 << 20
RING, DATA = 0x100000, 0x200000


class Disk:
    """An image whose first requests of a kind fail with ENOSPC, in one process; in the next it is sound."""

    def __init__(self, tmp, fmt, devices):
        self.path, self.fmt, self.devices = os.path.join(tmp, 'disk'), fmt, devices.split()
        self.state = os.path.join(tmp, 'state')
        subprocess.run(['/usr/bin/qemu-img', 'create', '-q', '-f', fmt, self.path, str(SIZE)], check=True)

    def options(self, errors=0, kind='write'):
        if errors:
            rules = ''.join(f',file.inject-error.{n}.event=none,file.inject-error.{n}.iotype={kind},file.inject-error.{n}.errno=28,'
                            f'file.inject-error.{n}.once=on' for n in range(errors))
            below = f'file.driver=blkdebug,file.image.driver=file,file.image.filename={self.path},file.image.discard=unmap{rules}'
        else:
            below = f'file.driver=file,file.filename={self.path}'
        return ['-blockdev', f'driver={self.fmt},node-name=d,discard=unmap,{below}', *(word for device in self.devices for word in ('-device', device))]

    def holds(self, at, value, count=512):
        raw = subprocess.run(['/usr/bin/qemu-img', 'dd', '-f', self.fmt, '-O', 'raw', f'if={self.path}', f'of={self.path}.raw', 'bs=512',
                              f'skip={at // 512}', f'count={at // 512 + count // 512}'], capture_output=True)
        assert raw.returncode == 0, raw
        with open(self.path + '.raw', 'rb') as f:
            got = f.read()[:count]
        same(got, bytes([value]) * count)


def wait_held(m):
    assert m.event('BLOCK_IO_ERROR')['data']['nospace']
    m.event('STOP')
    same(m.state(), 'io-error')


def saved(m, disk):
    m.run('migrate', uri='file:' + disk.state)
    end = time.time() + 60
    while (status := m.run('query-migrate')['status']) not in ('completed', 'failed') and time.time() < end:
        time.sleep(0.05)
    same(status, 'completed')


def loaded(disk):
    m = Machine(*disk.options(), '-incoming', 'file:' + disk.state)
    end = time.time() + 60
    while m.state() == 'inmigrate' and time.time() < end:
        time.sleep(0.05)
    return m


def wait_for(what, seconds=30):
    end = time.time() + seconds
    while not what():
        assert time.time() < end, 'nothing happened'
        time.sleep(0.02)


def moved(fmt, devices, begin, ended, errors=1, kind='write', check=None):
    """begin(m) makes requests that are held, ended(m) says whether they have ended. Saved and loaded, and saved and gone on with."""
    with tempfile.TemporaryDirectory() as tmp:
        disk = Disk(tmp, fmt, devices)
        with Machine(*disk.options(errors, kind)) as m:
            begin(m)
            wait_held(m)
            saved(m, disk)
        with loaded(disk) as m:
            assert not ended(m)
            m.run('cont')
            wait_for(lambda: ended(m))
        if check:
            check(disk)
    with tempfile.TemporaryDirectory() as tmp:
        disk = Disk(tmp, fmt, devices)
        with Machine(*disk.options(errors, kind)) as m:
            begin(m)
            wait_held(m)
            if fmt == 'qcow2':
                same(m.run('human-monitor-command', command_line='savevm one'), '')
                same(m.state(), 'io-error')
                m.run('cont')
                wait_for(lambda: ended(m))
                m.run('stop')
                same(m.run('human-monitor-command', command_line='loadvm one'), '')
                assert not ended(m)
            else:
                saved(m, disk)
            m.run('cont')
            wait_for(lambda: ended(m))
        if check:
            check(disk)


# --- virtio-blk, as a driver of before virtio 1.0 ---

def virtio_begin(m):
    bar = 0xc000
    m.pci_config(0x28, 0x10, bar)
    m.pci_config(0x28, 4, 5, 2)
    m.ok(f'outb {bar + 18} 3')
    m.ok(f'outl {bar + 8} {RING >> 12:#x}')
    m.ok(f'outb {bar + 18} 7')
    size = m.number(f'inw {bar + 12}')
    for n in range(3): # header, data, status; the second of three requests works
        sector, data = 8 * n, DATA + 0x1000 * n
        m.ok(f'write {data:#x} 16 0x{(1).to_bytes(8, "little").hex()}{sector.to_bytes(8, "little").hex()}')
        m.ok(f'memset {data + 0x200:#x} 0x200 {0x41 + n:#x}')
        m.ok(f'memset {data + 0x400:#x} 1 0xff')
        for k, (at, length, flags) in enumerate([(data, 16, 1), (data + 0x200, 512, 1), (data + 0x400, 1, 2)]):
            i = 3 * n + k
            entry = at.to_bytes(8, 'little') + length.to_bytes(4, 'little') + flags.to_bytes(2, 'little') + (i + 1).to_bytes(2, 'little')
            m.ok(f'write {RING + 16 * i:#x} 16 0x{entry.hex()}')
        m.ok(f'writew {RING + 16 * size + 4 + 2 * n:#x} {3 * n}')
    m.ok(f'writew {RING + 16 * size + 2:#x} 3')
    m.ok(f'outw {bar + 16} 0')


def virtio_ended(m):
    return [m.number(f'readb {DATA + 0x1000 * n + 0x400:#x}') for n in range(3)] == [0, 0, 0]


def virtio_written(disk):
    for n in range(3):
        disk.holds(4096 * n, 0x41 + n)


VIRTIO = 'virtio-blk-pci,drive=d,werror=stop,addr=5,disable-modern=on,num-queues=1'


def virtio_blk():
    moved('raw', VIRTIO, virtio_begin, virtio_ended, errors=2, check=virtio_written)


def virtio_blk_snapshot():
    moved('qcow2', VIRTIO, virtio_begin, virtio_ended, errors=2, check=virtio_written)


def packed_begin(m):
    """A packed ring: the completion of the request that works overwrites descriptors of those that are held."""
    bar = 0xfe000000
    m.pci_config(0x28, 0x20, bar)
    m.pci_config(0x28, 0x24, 0)
    m.pci_config(0x28, 4, 6, 2)
    for status in 1, 3:
        m.ok(f'writeb {bar + 20:#x} {status}')
    m.ok(f'writel {bar + 8:#x} 1')
    m.ok(f'writel {bar + 12:#x} 5') # VERSION_1, RING_PACKED
    m.ok(f'writeb {bar + 20:#x} 11')
    same(m.number(f'readb {bar + 20:#x}'), 11)
    m.ok(f'writew {bar + 22:#x} 0')
    for n, at in enumerate([RING, RING + 0x4000, RING + 0x5000]):
        m.ok(f'writel {bar + 32 + 8 * n:#x} {at:#x}')
    m.ok(f'writew {bar + 28:#x} 1')
    m.ok(f'writeb {bar + 20:#x} 15')
    for n in range(3):
        sector, data = 8 * n, DATA + 0x1000 * n
        m.ok(f'write {data:#x} 16 0x{(1).to_bytes(8, "little").hex()}{sector.to_bytes(8, "little").hex()}')
        m.ok(f'memset {data + 0x200:#x} 0x200 {0x41 + n:#x}')
        m.ok(f'memset {data + 0x400:#x} 1 0xff')
        for k, (at, length, flags) in enumerate([(data, 16, 0x81), (data + 0x200, 512, 0x81), (data + 0x400, 1, 0x82)]):
            entry = at.to_bytes(8, 'little') + length.to_bytes(4, 'little') + n.to_bytes(2, 'little') + flags.to_bytes(2, 'little')
            m.ok(f'write {RING + 16 * (3 * n + k):#x} 16 0x{entry.hex()}')
    m.ok(f'writew {bar + 0x3000:#x} 0')


def packed_ended(m):
    """Every third entry is a used one, of the three buffers in some order."""
    used = [m.number(f'readl {RING + 48 * n + 12:#x}') for n in range(3)]
    return virtio_ended(m) and all(value >> 16 & 0x8080 == 0x8080 for value in used) and {value & 0xffff for value in used} == {0, 1, 2}


def virtio_blk_packed():
    moved('raw', 'virtio-blk-pci,drive=d,werror=stop,addr=5,num-queues=1,packed=on', packed_begin, packed_ended, errors=2, check=virtio_written)


# --- ide-hd ---

IDE = 'ide-hd,drive=d,werror=stop,bus=ide.0,unit=0'


def ide_command(m, command, sectors, lba=16, features=0):
    for port, value in (0x1f6, 0xe0), (0x1f1, features), (0x1f2, 0), (0x1f2, sectors), (0x1f3, lba), (0x1f4, 0), (0x1f5, 0), (0x1f7, command):
        m.ok(f'outb {port:#x} {value:#x}')


def ide_ended(m):
    status = m.number('inb 0x3f6')
    assert not status & 0x21, hex(status)
    return not status & 0x80


def ide_pio_begin(m):
    ide_command(m, 0x30, 2)
    for n in range(512):
        m.ok(f'outw 0x1f0 {0x5a5a if n < 256 else 0x6b6b:#x}')


def ide_flush_begin(m):
    """Only after a write is there something to flush."""
    ide_pio_begin(m)
    wait_for(lambda: ide_ended(m))
    m.ok('outb 0x1f6 0xe0')
    m.ok('outb 0x1f7 0xe7')


def ide_dma_begin(m, command=0xca, sectors=4, data=None):
    m.pci_config(9, 0x20, 0xc040)
    m.pci_config(9, 4, 5, 2)
    for n in range(4):
        m.ok(f'memset {DATA + 512 * n:#x} 0x200 {0x31 + n:#x}')
    if data:
        m.ok(f'write {DATA:#x} {len(data)} 0x{data.hex()}')
    # Three pieces that are no whole sectors.
    at, table = DATA, b''
    for length, last in (700, 0), (900, 0), (448, 0x80000000):
        table += at.to_bytes(4, 'little') + (length | last).to_bytes(4, 'little')
        at += length
    m.ok(f'write {RING:#x} {len(table)} 0x{table.hex()}')
    m.ok(f'outl 0xc044 {RING:#x}')
    ide_command(m, command, sectors, features=1 if command == 6 else 0)
    m.ok('outb 0xc040 1')


def ide_pio():
    def check(disk):
        disk.holds(16 * 512, 0x5a)
        disk.holds(17 * 512, 0x6b)
    moved('raw', IDE, ide_pio_begin, ide_ended, check=check)


def ide_dma():
    def check(disk):
        for n in range(4):
            disk.holds((16 + n) * 512, 0x31 + n)
    moved('raw', IDE, ide_dma_begin, ide_ended, check=check)
    moved('qcow2', IDE, ide_dma_begin, ide_ended, check=check)


def ide_flush():
    moved('raw', IDE, ide_flush_begin, ide_ended, kind='flush')


def ide_trim():
    ranges = b''.join((lba | 8 << 48).to_bytes(8, 'little') for lba in (0, 64, 128))
    moved('raw', IDE, lambda m: ide_dma_begin(m, 6, 1, ranges.ljust(512, b'\0')), ide_ended, kind='discard')


# --- scsi-hd behind virtio-scsi, as a driver of before virtio 1.0 ---

def scsi_begin(m):
    bar = 0xc000
    m.pci_config(0x28, 0x10, bar)
    m.pci_config(0x28, 4, 5, 2)
    m.ok(f'outb {bar + 18} 3')
    for queue in range(3):
        m.ok(f'outw {bar + 14} {queue}')
        m.ok(f'outl {bar + 8} {(RING >> 12) + 4 * queue:#x}')
    m.ok(f'outb {bar + 18} 7')
    size = m.number(f'inw {bar + 12}')
    ring = RING + 0x8000
    cdbs = [bytes(6)] + [bytes([0x2a, 0, 0, 0, 0, 8 * n, 0, 0, 1]) for n in range(2)] # the first takes the attention of the reset
    for n, cdb in enumerate(cdbs):
        data = DATA + 0x1000 * n
        m.ok(f'write {data:#x} 51 0x{(bytes([1, 0, 0x40, 0]) + bytes(15) + cdb.ljust(32, bytes(1))).hex()}')
        m.ok(f'memset {data + 0x200:#x} 0x200 {0x60 + n:#x}')
        m.ok(f'memset {data + 0x400:#x} 108 0xff')
        chain = [(data, 51, 1), (data + 0x200, 512, 1), (data + 0x400, 108, 2)] if n else [(data, 51, 1), (data + 0x400, 108, 2)]
        for k, (at, length, flags) in enumerate(chain):
            i = 3 * n + k
            entry = at.to_bytes(8, 'little') + length.to_bytes(4, 'little') + flags.to_bytes(2, 'little') + (i + 1).to_bytes(2, 'little')
            m.ok(f'write {ring + 16 * i:#x} 16 0x{entry.hex()}')
        m.ok(f'writew {ring + 16 * size + 4 + 2 * n:#x} {3 * n}')
    m.ok(f'writew {ring + 16 * size + 2:#x} 3')
    m.ok(f'outw {bar + 16} 2')


def scsi_ended(m):
    """Response and status of both writes."""
    return all(m.number(f'readw {DATA + 0x1000 * n + 0x400 + 10:#x}') == 0 for n in (1, 2))


def scsi_disk():
    def check(disk):
        disk.holds(0, 0x61)
        disk.holds(4096, 0x62)
    moved('raw', 'virtio-scsi-pci,id=s,addr=5,disable-modern=on,num_queues=1 scsi-hd,drive=d,werror=stop,bus=s.0,lun=0', scsi_begin, scsi_ended,
          errors=2, check=check)


if not os.path.exists('/usr/bin/qemu-img'):
    print('1..0 # SKIP qemu-img is not installed')
    sys.exit(0)
tap.run([virtio_blk, virtio_blk_snapshot, virtio_blk_packed, scsi_disk, ide_pio, ide_dma, ide_flush, ide_trim])
