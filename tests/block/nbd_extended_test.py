#!/usr/bin/env python3
"""NBD's extended headers (the extension EXTENDED_HEADERS of proto.md), spoken here by hand: lengths of 64 bits, block status
with 64-bit extents and with a payload; a correct client and a correct server, then wrong ones.

usage: nbd_extended_test.py OUR-QEMU-NBD OUR-QEMU-IO OUR-QEMU-IMG [TEST...]
"""
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

NBD, IO, IMG = (os.path.abspath(p) for p in sys.argv[1:4])
MIB, GIB = 1 << 20, 1 << 30
MAGIC, OPTION, REPLY = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
REQUEST, EXTENDED, CHUNK = 0x25609513, 0x21E41C71, 0x6E8A278C
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST, PAYLOAD = (1 << n for n in range(6))
DATA, HOLE, EXTENTS = 1, 2, 6
EINVAL = 22


def run(*argv, code=0):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    assert done.returncode == code, (argv, done.returncode, done.stdout)
    return done.stdout


def uri():
    return f"nbd+unix:///?socket={os.path.abspath('sock')}"


class Server:
    """Ours, on ./sock."""

    def __init__(self, *options):
        self.process = subprocess.Popen([NBD, "-k", os.path.abspath("sock"), "-t", "-e", "0", *options])
        while not os.path.exists("sock"):
            assert self.process.poll() is None
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(60) in (0, -15)


class Client:
    """A connection to the server on ./sock up to the transmission phase."""

    def __init__(self, contexts=(), structured_first=False):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(os.path.abspath("sock"))
        assert struct.unpack(">QQH", self.take(18)) == (MAGIC, OPTION, 3)
        self.sock.sendall(struct.pack(">I", 3))
        if structured_first:
            assert self.option(8)[-1][0] == 1
        assert self.option(11, b"x")[-1][0] == 0x80000003  # with data: invalid
        assert self.option(11)[-1][0] == 1
        assert self.option(11)[-1][0] == 0x80000003  # again: invalid
        assert self.option(8)[-1][0] == 0x8000000A  # there is no way back
        self.ids = {}
        if contexts:
            data = struct.pack(">II", 0, len(contexts)) + b"".join(struct.pack(">I", len(c)) + c.encode() for c in contexts)
            for kind, body in self.option(10, data)[:-1]:
                assert kind == 4
                self.ids[body[4:].decode()] = struct.unpack(">I", body[:4])[0]
        replies = self.option(7, struct.pack(">IH", 0, 0))
        assert replies[-1][0] == 1, replies
        for kind, body in replies:
            if kind == 3 and body[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", body[2:])
        self.cookie = 0

    def take(self, length):
        data = b""
        while len(data) < length:
            piece = self.sock.recv(length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def option(self, number, data=b""):
        self.sock.sendall(struct.pack(">QII", OPTION, number, len(data)) + data)
        replies = []
        while True:
            magic, option, kind, length = struct.unpack(">QIII", self.take(20))
            assert (magic, option) == (REPLY, number)
            replies.append((kind, self.take(length)))
            if kind == 1 or kind & 1 << 31:
                return replies

    def send(self, command, offset=0, length=0, flags=0, payload=b"", magic=EXTENDED):
        self.cookie += 1
        self.sock.sendall(struct.pack(">IHHQQQ", magic, flags, command, self.cookie, offset, length) + payload)

    def chunks(self, offset):
        """All chunks of the reply to the last request: [(type, payload)]."""
        found = []
        while True:
            magic, flags, kind, cookie, at, length = struct.unpack(">IHHQQQ", self.take(32))
            assert (magic, cookie, at) == (CHUNK, self.cookie, offset), (hex(magic), cookie, at)
            assert length < 1 << 26
            found.append((kind, self.take(length)))
            if flags & 1:
                return found

    def call(self, command, offset=0, length=0, **more):
        self.send(command, offset, length, **more)
        return self.chunks(offset)

    def error(self, *args, **more):
        found = self.call(*args, **more)
        assert len(found) == 1
        return struct.unpack(">I", found[0][1][:4])[0] if found[0][0] & 0x8000 else 0

    def extents(self, chunk):
        kind, body = chunk
        context, count = struct.unpack(">II", body[:8])
        assert kind == EXTENTS and len(body) == 8 + 16 * count
        return context, [struct.unpack(">QQ", body[8 + 16 * n:24 + 16 * n]) for n in range(count)]


def test_server():
    run(IMG, "create", "-q", "-f", "qcow2", "s.qcow2", "64T")
    with Server("-f", "qcow2", "-A", "s.qcow2"):
        c = Client(["base:allocation", "qemu:allocation-depth"], structured_first=True)
        assert c.size == 64 << 40 and c.flags & 1 << 12 and len(c.ids) == 2, (c.size, hex(c.flags), c.ids)
        assert c.call(WRITE, 5 * GIB, MIB, flags=PAYLOAD, payload=b"\7" * MIB) == [(0, b"")]
        assert c.call(FLUSH) == [(0, b"")]
        # An extent over 4 GiB, and both contexts in one request
        found = c.call(STATUS, 0, c.size, flags=0)
        assert len(found) == 2
        maps = dict(c.extents(chunk) for chunk in found)
        hole, depth = maps[c.ids["base:allocation"]], maps[c.ids["qemu:allocation-depth"]]
        assert hole[:2] == [(5 * GIB, 3), (MIB, 0)] and sum(x[0] for x in hole) <= c.size, hole
        assert depth[:2] == [(5 * GIB, 0), (MIB, 1)], depth
        assert [len(c.extents(x)[1]) for x in c.call(STATUS, 0, c.size, flags=REQ_ONE)] == [1, 1]
        # The payload chooses contexts
        one = struct.pack(">QI", c.size, c.ids["qemu:allocation-depth"])
        found = c.call(STATUS, 0, len(one), flags=PAYLOAD, payload=one)
        assert [c.extents(x)[0] for x in found] == [c.ids["qemu:allocation-depth"]]
        twice = one + one[8:]
        for bad in (twice, one[:8], one[:8] + b"\0\0\0\77", one + b"x", one * 40):
            assert c.error(STATUS, 0, len(bad), flags=PAYLOAD, payload=bad) == EINVAL, bad
        # Reading: data and holes
        kinds = [(kind, body[:8]) for kind, body in c.call(READ, 5 * GIB - 65536, 131072)]
        assert kinds == [(HOLE, struct.pack(">Q", 5 * GIB - 65536)), (DATA, struct.pack(">Q", 5 * GIB))], kinds
        # Zeroes and trim over more than 32 bits can express
        assert c.call(ZEROES, 0, 40 * GIB) == [(0, b"")]
        assert c.call(TRIM, 0, 40 * GIB) == [(0, b"")]
        assert c.call(CACHE, 0, 40 * GIB) == [(0, b"")]
        found = c.call(READ, 5 * GIB, 65536)
        assert [kind for kind, _ in found] == [HOLE]
        # What is refused, without losing step
        assert c.error(WRITE, 0, 512) == EINVAL  # no payload flag
        assert c.error(TRIM, 0, 100, flags=PAYLOAD, payload=bytes(100)) == EINVAL
        assert c.error(READ, 0, 1 << 33) == EINVAL
        assert c.error(READ, (1 << 64) - 512, 1024) == EINVAL
        assert c.error(ZEROES, 1 << 45, (1 << 64) - 1) == 28
        assert c.error(STATUS, 0, 0) == EINVAL
        assert c.call(FLUSH) == [(0, b"")]
        c.send(WRITE, 0, (32 << 20) + 1, flags=PAYLOAD)  # more than was advertised: the end
        try:
            c.take(1)
            sys.exit("the connection goes on")
        except (EOFError, ConnectionError):
            pass
        c = Client()
        assert not c.flags & 1 << 12 and c.error(STATUS, 0, 512) == EINVAL
        c.send(READ, 0, 512, magic=REQUEST)
        try:
            c.take(1)
            sys.exit("a compact request was taken")
        except (EOFError, ConnectionError):
            pass
    run(IMG, "check", "-q", "s.qcow2")


class ExtendedServer(threading.Thread):
    """Serves a sparse disk with extended headers, and notes what it is asked. answer: may replace a reply's bytes."""

    def __init__(self, size, answer=None):
        super().__init__(daemon=True)
        self.size, self.answer, self.seen, self.blocks = size, answer, [], {}
        self.listener = socket.socket(socket.AF_UNIX)
        if os.path.exists("sock"):
            os.unlink("sock")
        self.listener.bind("sock")
        self.listener.listen(20)

    def run(self):
        while True:
            self.sock, _ = self.listener.accept()
            try:
                self.serve()
            except (OSError, EOFError, struct.error):
                pass
            self.sock.close()

    take = Client.take

    def serve(self):
        self.sock.sendall(struct.pack(">QQH", MAGIC, OPTION, 3))
        self.take(4)
        option = 0
        while option != 7:
            magic, option, length = struct.unpack(">QII", self.take(16))
            assert magic == OPTION
            self.take(length)
            if option == 10:
                self.sock.sendall(struct.pack(">QIII", REPLY, 10, 4, 19) + b"\0\0\0\5base:allocation")
            if option == 7:
                self.sock.sendall(struct.pack(">QIIIHQH", REPLY, 7, 3, 12, 0, self.size, 0xD6D))
            self.sock.sendall(struct.pack(">QIII", REPLY, option, 1, 0))
        while True:
            magic, flags, command, cookie, offset, length = struct.unpack(">IHHQQQ", self.take(32))
            assert magic == EXTENDED
            self.seen.append((command, flags, offset, length))
            payload = self.take(length) if flags & PAYLOAD else b""
            if command == DISC:
                return
            kind, body = self.act(command, offset, length, payload)
            whole = struct.pack(">IHHQQQ", CHUNK, 1, kind, cookie, offset, len(body)) + body
            self.sock.sendall(self.answer(whole) if self.answer else whole)

    def act(self, command, offset, length, payload):
        block = 65536
        if command == WRITE:
            for at in range(0, length, 512):
                self.blocks[(offset + at) // 512] = payload[at:at + 512]
        elif command in (TRIM, ZEROES):
            for n in [n for n in self.blocks if offset <= n * 512 < offset + length]:
                del self.blocks[n]
        elif command == READ:
            return DATA, struct.pack(">Q", offset) + b"".join(
                self.blocks.get(n, bytes(512)) for n in range(offset // 512, (offset + length) // 512))
        elif command == STATUS:
            first = min((n * 512 for n in self.blocks if n * 512 >= offset), default=self.size)
            run_length, state = (first - offset, 3) if first > offset else (block, 0)
            return EXTENTS, struct.pack(">IIQQ", 5, 1, min(run_length, self.size - offset), state)
        return 0, b""


def test_client():
    server = ExtendedServer(64 << 40)
    server.start()
    out = run(IO, "-f", "raw", "-t", "writeback", "-c", "write -P 3 20G 64k", "-c", "read -P 3 20G 64k", "-c", "map", "-c", "write -z -n 10G 5T",
              "-c", "discard 10G 1G", "-c", "read -P 0 20G 64k", "-c", "flush", uri())
    assert "failed" not in out and "error" not in out.lower(), out
    assert (WRITE, PAYLOAD, 20 * GIB, 65536) in server.seen, server.seen
    zeroes = [x for x in server.seen if x[0] == ZEROES]
    assert [(x[2], x[3]) for x in zeroes] == [(10 * GIB, 5 << 40)], zeroes
    assert (TRIM, 0, 10 * GIB, GIB) in server.seen, server.seen
    assert max(x[3] for x in server.seen if x[0] == STATUS) > 1 << 32, server.seen
    assert server.seen[-1][0] == DISC


def test_both():
    """Our client and our server over more than 4 GiB at once."""
    run(IMG, "create", "-q", "-f", "qcow2", "b.qcow2", "1T")
    with Server("-f", "qcow2", "--discard=unmap", "b.qcow2"):
        run(IO, "-f", "raw", "-c", "write -P 9 700G 1M", uri())
        out = run(IMG, "map", "--output=json", "-f", "raw", uri())
        assert out.count('"start"') == 3, out
        assert "failed" not in run(IO, "-f", "raw", "-c", "write -z -n -u 0 1T", "-c", "read -P 0 700G 1M", uri())
    run(IMG, "check", "-q", "b.qcow2")


def test_hostile_servers():
    rng = random.Random(12)

    def damage(whole):
        data = bytearray(whole)
        for _ in range(rng.randrange(3)):
            data[rng.choice([rng.randrange(32), rng.randrange(len(data))])] = rng.randrange(256)
        return bytes(data[:rng.choice([len(data)] * 6 + [rng.randrange(len(data))])])

    server = ExtendedServer(MIB, damage)
    server.start()
    for _ in range(40):
        io = subprocess.Popen([IO, "-f", "raw", "-c", "map", "-c", "write 0 4k", "-c", "read 0 4k", "-c", "discard 0 4k", "-c",
                               "write -z 0 64k", "-c", "flush", uri()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                code = io.wait(0.15)
                break
            except subprocess.TimeoutExpired:
                try:
                    server.sock.shutdown(socket.SHUT_RDWR)  # the client waits for the rest of a damaged reply
                except OSError:
                    pass
        assert code in (0, 1), code


def test_hostile_clients():
    run(IMG, "create", "-q", "-f", "qcow2", "h.qcow2", "1M")
    rng = random.Random(13)
    with Server("-f", "qcow2", "-A", "h.qcow2") as server:
        for _ in range(150):
            c = Client(["base:allocation"])
            c.sock.settimeout(0.02)
            try:
                for _ in range(rng.randrange(1, 20)):
                    payload = rng.randbytes(rng.choice([0, 12, 16, 512, 4096]))
                    length = rng.choice([len(payload), len(payload), 0, 512, 65536, rng.getrandbits(64), rng.getrandbits(26)])
                    c.send(rng.choice([0, 1, 3, 4, 5, 6, 7, 7, 8, 99]), rng.choice([0, 4096, rng.getrandbits(64)]), length,
                           flags=rng.choice([0, 1, 8, PAYLOAD, PAYLOAD, 63, rng.getrandbits(16)]), payload=payload)
                while c.sock.recv(65536):
                    pass
            except OSError:
                pass
            c.sock.close()
        assert "failed" not in run(IO, "-f", "raw", "-c", "read 0 64k", uri())
        with open(f"/proc/{server.process.pid}/status") as f:
            peak = [int(x.split()[1]) for x in f if x.startswith("VmHWM")][0]
        assert peak < 256 * 1024 or "asan" in os.environ.get("ASAN_OPTIONS", ""), peak
    run(IMG, "check", "-q", "h.qcow2")


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[4:], call=tap.in_scratch)
