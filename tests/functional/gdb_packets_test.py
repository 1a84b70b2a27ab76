#!/usr/bin/env python3
"""gdb_packets_test.py QEMU-SYSTEM [COUNT [SEED]]: a peer of the debugger's stub that is not gdb: packets that are broken, come while
the machine runs, or ask for what is not there, and COUNT random ones. The emulator answers each, and lives. TAP."""
import os
import random
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
COUNT = int(sys.argv[2]) if len(sys.argv) > 2 else 1500
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else 1


class Stub:
    """A connection, and the emulator behind it: two CPUs of which one loops in the reset vector's page."""

    def __init__(self, *more):
        self.dir = tempfile.TemporaryDirectory()
        path, rom = (os.path.join(self.dir.name, name) for name in ('gdb', 'rom'))
        with open(rom, 'wb') as file:
            file.write(b'\xf4' * 65520 + b'\xeb\xfe' + b'\xf4' * 14)  # 1: jmp 1b
        self.process = subprocess.Popen([PROGRAM, '-display', 'none', '-net', 'none', '-serial', 'null', '-monitor', 'none', '-m', '16',
                                         '-smp', '2', '-bios', rom, '-gdb', f'unix:{path},server=on,wait=off', *more],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.data = b''
        for _ in range(1200):
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(path)
                break
            except OSError:
                self.socket.close()
                assert self.process.poll() is None, self.process.stderr.read()
                time.sleep(0.05)
        self.socket.settimeout(120)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.errors = self.process.communicate(timeout=60)[1]
        assert self.process.returncode == 0, (self.process.returncode, self.errors[-2000:])
        self.socket.close()
        self.dir.cleanup()

    def raw(self, data):
        self.socket.sendall(data)

    def send(self, payload):
        self.raw(b'$' + payload + b'#%02x' % (sum(payload) & 0xff))

    def answer(self):
        """The next packet; acknowledgements and what is between packets are passed over."""
        while True:
            start = self.data.find(b'$')
            end = self.data.find(b'#', start)
            if 0 <= start < end and len(self.data) >= end + 3:
                payload, self.data = self.data[start + 1:end], self.data[end + 3:]
                return payload
            got = self.socket.recv(65536)
            assert got, f'the connection is closed; the emulator: {self.process.poll()}'
            self.data += got

    def ask(self, payload):
        self.send(payload if isinstance(payload, bytes) else payload.encode())
        return self.answer().decode('latin1')

    def alive(self):
        """What has been asked before is answered before this is."""
        self.send(b'qC')
        while not self.answer().startswith(b'QC'):
            pass
        assert self.process.poll() is None

    def running(self):
        self.send(b'c')


def expect(got, *wanted):
    assert got in wanted, f'{got!r}, not {wanted}'


def test_numbers_that_are_none():
    with Stub() as stub:
        for packet in ('m', 'm,', 'm0', 'm0,', 'm,4', 'm0,4x', 'mfffffffffffffffff,4', 'm0,ffffffffffffffff', 'm0,4001', 'M0,4', 'M0,4:',
                       'M0,4:0011', 'M0,4:001122zz', 'X0,4:a', 'X0,ffffffff:', 'p', 'px', 'pffffffff', 'P', 'P0', 'P0=', 'P0=00', 'Pff=00',
                       'Z0', 'Z0,', 'Z0,0', 'Z0,0,0', 'Z2,ffffffffffffffff,2', 'Z2,0,100000', 'z1', 'H', 'Hg', 'Hgx', 'Hg3', 'Hgffffffffff',
                       'Hc9', 'T', 'T3', 'Tx', 'Tffffffffffffffff', 'qThreadExtraInfo,', 'qThreadExtraInfo,0', 'qThreadExtraInfo,7', 'vCont;',
                       'vCont;x', 'vCont;c:9', 'vCont;s:', 'vCont;c:1z', 'qXfer:features:read:target.xml:', 'qXfer:features:read:target.xml:ffffff,1',
                       'qXfer:features:read:other.xml:0,10'):
            got = stub.ask(packet)
            assert got[:1] == 'E' and len(got) == 3, (packet, got)
        for packet in ('', 'Z9,0,1', 'y', 'vMustReplyEmpty', 'qFoo', 'QFoo', 'R00', '!', 'i', 'Z'):
            expect(stub.ask(packet), '')
        expect(stub.ask('m0,0'), '')
        expect(stub.ask('X0,0:'), 'OK')
        expect(stub.ask('Z0,1234,1'), 'OK')
        expect(stub.ask('z0,1234,1'), 'OK')
        expect(stub.ask('z0,1234,1'), 'OK')


def test_frames_that_are_none():
    with Stub() as stub:
        stub.raw(b'$g#00$g#zz$$$$#00++++---' + b'\x00\xff\x04' * 100 + b'#12$}#5d')
        stub.alive()
        stub.raw(b'$' + b'm' * 20000 + b'#aa')
        stub.alive()
        stub.raw(b'+' * 70000 + b'-' * 200)
        stub.alive()


def test_while_the_machine_runs():
    with Stub() as stub:
        for packet in (b'g', b'p10', b'mfffffff0,10', b'M1000,2:aabb', b'Z0,1234,1', b'z0,1234,1', b'Z2,2000,4', b'z2,2000,4', b'P0=1122334455667788'):
            stub.running()
            stub.send(packet)
            assert stub.answer()
            stub.alive()
        expect(stub.ask('m1000,2'), 'aabb')
        # A step of a machine that runs has one answer; then it stands still.
        for packet in (b's', b'vCont;s:1', b'sfff0'):
            stub.running()
            stub.send(packet)
            got = stub.answer()
            assert got.startswith(b'T'), got
            stub.alive()
        stub.running()
        stub.raw(b'\x03')
        expect(stub.answer()[:3], b'T02')


def test_bases_that_are_none():
    with Stub() as stub:
        for number in (57, 58):
            expect(stub.ask(f'P{number:x}=0000000000000080'), 'E16')  # no canonical address
            expect(stub.ask(f'P{number:x}=0010000000000000'), 'OK')


def test_its_own_connection():
    with Stub() as stub:
        for line in (b'gdbserver none', b'gdbserver', b'gdbserver tcp::0'):
            stub.send(b'qRcmd,' + line.hex().encode())
            text = b''
            while (got := stub.answer()) != b'OK':
                text += bytes.fromhex(got[1:].decode())
            assert b'connection is in use' in text, text
        stub.alive()


LETTERS = (b'?gGpPmMXZzcCsHTvqQD', b'0123456789abcdef,:;=-', b'\x00}\x7f\xff')


def random_packet(rand):
    kind = rand.randrange(6)
    if kind == 0:
        noise = bytes(rand.randrange(256) for _ in range(rand.randrange(40))).replace(b'$', b'').replace(b'#', b'')
        return noise if noise[:1] != b'k' else b''  # it ends the emulator
    head = bytes([rand.choice(LETTERS[0])])
    if kind == 1:
        head = rand.choice((b'vCont;', b'vCont;c:', b'vCont;s:', b'qXfer:features:read:target.xml:', b'Z2,', b'Z0,', b'z', b'qThreadExtraInfo,',
                            b'Qqemu.PhyMemMode:', b'qsThreadInfo', b'Hg', b'Hc', b'vCont;S'))
    if kind == 2:
        return head + b'%x,%x:' % (rand.randrange(1 << 24), rand.randrange(64)) + rand.randbytes(4).hex().encode()
    if kind == 3:
        return head + b'%x,%x' % (rand.choice((0, 0xfffffff0, 0xfee00000, 0xfec00000, 0xfed00000, 1 << 63)), rand.randrange(1 << rand.randrange(14)))
    return head + bytes(rand.choice(LETTERS[1] if rand.random() < 0.95 else LETTERS[2]) for _ in range(rand.randrange(30)))


def test_random():
    rand = random.Random(SEED)
    with Stub() as stub:
        for n in range(COUNT):
            stub.send(random_packet(rand))
            if rand.randrange(20) == 0:
                stub.raw(b'\x03')
            if n % 50 == 49:
                stub.alive()
        stub.alive()
    assert b'runtime error' not in stub.errors and b'Sanitizer' not in stub.errors, stub.errors


if __name__ == '__main__':
    tap.run(tap.tests_in(globals()), names=[])
