#!/usr/bin/env python3
"""Exports of the kind "vhost-user-blk": a front end written out here, right ones and wrong ones.

usage: vhost_user_test.py QEMU-STORAGE-DAEMON QEMU-IMG QEMU-IO [TEST...]
With a driver of an operating system they are tested by tests/guest/vhost_user_test.py.
"""
import mmap
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import qmp  # noqa: E402
import tap  # noqa: E402

DAEMON, IMG, IO = (os.path.abspath(p) for p in sys.argv[1:4])
MIB = 1 << 20
(GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE, SET_LOG_BASE, SET_LOG_FD, SET_NUM, SET_ADDR, SET_BASE, GET_BASE,
 SET_KICK, SET_CALL, SET_ERR, GET_PROTOCOL, SET_PROTOCOL, GET_QUEUES, ENABLE) = range(1, 19)
GET_CONFIG, SET_CONFIG, RESET_DEVICE, GET_SLOTS, ADD_REGION, REMOVE_REGION = 24, 25, 34, 36, 37, 38
IN, OUT, FLUSH, GET_ID, DISCARD, ZEROES = 0, 1, 4, 8, 11, 13
NEXT, WRITE, INDIRECT = 1, 2, 4
EVENT_IDX, VERSION_1, PROTOCOL = 1 << 29, 1 << 32, 1 << 30
GUEST, USER, SIZE = 0x40000000, 0x7F0000000000, 4 * MIB  # where the memory lies, for guest and front end
RING, STEP = 0x10000, 0x10000  # the rings in it, one every STEP; requests from DATA on
DATA = 0x100000


def run(*argv, code=0):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    assert done.returncode == code, (argv, done.returncode, done.stdout)
    return done.stdout


class Daemon(qmp.Program):
    def __init__(self, image, fmt="raw", **options):
        super().__init__([DAEMON, "--chardev", "stdio,id=qmp", "--monitor", "chardev=qmp,mode=control", "--blockdev",
                          f"driver={fmt},node-name=disk,discard=unmap,file.driver=file,file.filename={image},file.discard=unmap"],
                         stderr=subprocess.PIPE)
        self.add(**options)

    def add(self, **options):
        self.ok("block-export-add", type="vhost-user-blk", id="vub", node_name="disk",
                addr={"type": "unix", "path": os.path.abspath("sock")}, **options)


class Gone(Exception):
    """The daemon closed the connection."""


class FrontEnd:
    def __init__(self, memory=SIZE):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(os.path.abspath("sock"))
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, memory)
        self.memory = mmap.mmap(self.fd, memory)
        self.queues = {}
        self.protocol = 0

    def close(self):
        self.sock.close()
        self.memory.close()
        os.close(self.fd)
        for q in self.queues.values():
            for fd in q["kick"], q["call"], q["err"]:
                os.close(fd)

    # --- messages ---

    def send(self, request, payload=b"", fds=(), flags=1, size=None):
        head = struct.pack("<III", request, flags, len(payload) if size is None else size)
        try:
            socket.send_fds(self.sock, [head + payload], fds)
        except (BrokenPipeError, ConnectionResetError):
            raise Gone from None

    def take(self, length):
        data = b""
        while len(data) < length:
            try:
                piece = self.sock.recv(length - len(data))
            except ConnectionResetError:
                raise Gone from None
            if not piece:
                raise Gone
            data += piece
        return data

    def ask(self, request, payload=b"", fds=()):
        self.send(request, payload, fds)
        got, flags, size = struct.unpack("<III", self.take(12))
        assert (got, flags & 7) == (request, 5), (got, flags)
        return self.take(size)

    def ask_u64(self, request, payload=b""):
        return struct.unpack("<Q", self.ask(request, payload))[0]

    def tell(self, request, payload=b"", fds=()):
        """With an acknowledgement: 0 is good."""
        self.send(request, payload, fds, flags=9)
        got, flags, size = struct.unpack("<III", self.take(12))
        assert (got, size) == (request, 8), (got, size)
        return struct.unpack("<Q", self.take(8))[0]

    def config(self, offset=0, size=60):
        answer = self.ask(GET_CONFIG, struct.pack("<III", offset, size, 0) + bytes(size))
        return answer[12:]

    def start(self, features=VERSION_1 | PROTOCOL, queues=1, num=64):
        offered = self.ask_u64(GET_FEATURES)
        assert offered & PROTOCOL and offered & VERSION_1
        self.send(SET_OWNER)
        self.protocol = self.ask_u64(GET_PROTOCOL)
        self.send(SET_PROTOCOL, struct.pack("<Q", self.protocol))
        self.features = offered & features
        assert self.tell(SET_FEATURES, struct.pack("<Q", self.features)) == 0
        self.send(SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, GUEST, SIZE, USER, 0), [self.fd])
        for index in range(queues):
            self.start_queue(index, num)
        return self

    def start_queue(self, index, num=64, base=0):
        at = RING + STEP * index
        q = self.queues[index] = dict(num=num, desc=at, avail=at + 0x8000, used=at + 0xC000, next=base, seen=base,
                                      kick=os.eventfd(0, os.EFD_NONBLOCK), call=os.eventfd(0, os.EFD_NONBLOCK),
                                      err=os.eventfd(0, os.EFD_NONBLOCK))
        assert self.tell(SET_NUM, struct.pack("<II", index, num)) == 0
        assert self.tell(SET_BASE, struct.pack("<II", index, base)) == 0
        assert self.tell(SET_ADDR, self.address(index)) == 0
        for request, name in (SET_CALL, "call"), (SET_ERR, "err"), (SET_KICK, "kick"):
            assert self.tell(request, struct.pack("<Q", index), [q[name]]) == 0
        assert self.tell(ENABLE, struct.pack("<II", index, 1)) == 0

    def address(self, index):
        at = RING + STEP * index
        return struct.pack("<IIQQQQ", index, 0, USER + at, USER + at + 0xC000, USER + at + 0x8000, 0)

    # --- rings ---

    def put(self, offset, data):
        self.memory[offset:offset + len(data)] = data

    def descriptor(self, table, index, address, length, flags=0, after=0):
        self.put(table + 16 * index, struct.pack("<QIHH", address, length, flags, after))

    def offer(self, index, head):
        q = self.queues[index]
        self.put(q["avail"] + 4 + 2 * (q["next"] % q["num"]), struct.pack("<H", head))
        q["next"] = (q["next"] + 1) & 0xFFFF
        self.put(q["avail"] + 2, struct.pack("<H", q["next"]))

    def kick(self, index=0):
        os.eventfd_write(self.queues[index]["kick"], 1)

    def used(self, index=0):
        """The next element that is done: (head, bytes); waits for it."""
        q = self.queues[index]
        while struct.unpack("<H", self.memory[q["used"] + 2:q["used"] + 4])[0] == q["seen"]:
            if not select.select([q["call"], q["err"]], [], [], 30)[0]:
                raise TimeoutError
            if select.select([q["err"]], [], [], 0)[0]:
                raise Gone
            os.eventfd_read(q["call"])
        at = q["used"] + 4 + 8 * (q["seen"] % q["num"])
        q["seen"] = (q["seen"] + 1) & 0xFFFF
        return struct.unpack("<II", self.memory[at:at + 8])

    def request(self, kind, sector=0, out=b"", get=0, index=0, pieces=1, indirect=False):
        """One request: (status, data)."""
        at = DATA + 0x20000 * index
        table = at + 0x8000 if indirect else self.queues[index]["desc"]
        self.put(at, struct.pack("<IIQ", kind, 0, sector) + out)
        parts = [(at, 16, 0)]
        for start, total, flags in ((at + 16, len(out), 0), (at + 0x10000, get + 1, WRITE)):
            step = -(-total // pieces) if total else 0
            for n in range(0, total, step or 1):
                parts.append((start + n, min(step, total - n), flags))
        for n, (where, length, flags) in enumerate(parts):
            last = n == len(parts) - 1
            self.descriptor(table, n, GUEST + where, length, flags | (0 if last else NEXT), 0 if last else n + 1)
        if indirect:
            self.descriptor(self.queues[index]["desc"], 5, GUEST + table, 16 * len(parts), INDIRECT)
        self.offer(index, 5 if indirect else 0)
        self.kick(index)
        head, length = self.used(index)
        assert head == (5 if indirect else 0)
        return self.memory[at + 0x10000 + get], self.memory[at + 0x10000:at + 0x10000 + get], length


def make_raw(path, size, seed=1):
    with open(path, "wb") as f:
        f.write(random.Random(seed).randbytes(size))


def test_requests():
    make_raw("a.raw", MIB)
    with open("a.raw", "rb") as f:
        model = bytearray(f.read())
    run(IMG, "convert", "-O", "qcow2", "a.raw", "a.qcow2")
    with Daemon("a.qcow2", "qcow2", writable=True, num_queues=2) as d:
        f = FrontEnd().start(queues=2)
        assert f.ask_u64(GET_QUEUES) == 2
        config = f.config()
        assert struct.unpack("<Q", config[:8])[0] == MIB // 512 and struct.unpack("<I", config[20:24])[0] == 512
        assert struct.unpack("<H", config[34:36])[0] == 2 and f.config(0, 8) == config[:8]
        rng = random.Random(2)
        for n in range(300):
            sector, count = rng.randrange(2000), rng.randrange(1, 48)
            at, index, pieces, indirect = sector * 512, n % 2, rng.randrange(1, 9), bool(rng.randrange(2)) and f.features >> 28 & 1
            if rng.randrange(2):
                data = rng.randbytes(count * 512)
                assert f.request(OUT, sector, data, 0, index, pieces, indirect)[0] == 0
                model[at:at + len(data)] = data
            else:
                status, data, length = f.request(IN, sector, b"", count * 512, index, pieces, indirect)
                assert status == 0 and data == model[at:at + count * 512] and length == count * 512 + 1, n
        assert f.request(GET_ID, get=20)[1] == b"vub" + bytes(17)
        assert f.request(ZEROES, out=struct.pack("<QII", 8, 16, 1))[0] == 0
        model[4096:4096 + 8192] = bytes(8192)
        assert f.request(DISCARD, out=struct.pack("<QII", 512, 8, 0))[0] == 0
        assert f.request(IN, 8, get=8192)[1] == bytes(8192)
        assert f.request(FLUSH)[0] == 0
        # What the device refuses
        for wrong in (dict(kind=IN, sector=MIB // 512, get=512), dict(kind=IN, sector=1 << 62, get=512),
                      dict(kind=OUT, sector=2047, out=bytes(1024)), dict(kind=IN, get=100), dict(kind=OUT, out=bytes(1)),
                      dict(kind=ZEROES, out=struct.pack("<QII", 2047, 2, 0)),
                      dict(kind=DISCARD, out=struct.pack("<QII", 1 << 63, 1, 0))):
            assert f.request(**wrong)[0] == 1, wrong
        for wrong in (dict(kind=77), dict(kind=DISCARD, out=struct.pack("<QII", 0, 1, 1)), dict(kind=DISCARD, out=bytes(32)),
                      dict(kind=ZEROES, out=bytes(3))):
            assert f.request(**wrong)[0] == 2, wrong
        d.fails("still in use", "block-export-del", id="vub")
        f.close()
        with FrontEndAgain() as again:  # the next one
            assert again.request(IN, 0, get=512)[1] == model[:512]
        d.quit()
    assert not os.path.exists("sock")
    run(IMG, "check", "-q", "a.qcow2")
    model[512 * 512:520 * 512] = b""
    run(IMG, "convert", "-O", "raw", "a.qcow2", "out.raw")
    with open("out.raw", "rb") as out:
        data = bytearray(out.read())
    data[512 * 512:520 * 512] = b""  # what was discarded may hold anything
    assert data == model


class FrontEndAgain(FrontEnd):
    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()


def test_durable():
    """A write without negotiated flush, or with the write cache off, is on the disk; with a flush anyway."""
    for features, flush in ((VERSION_1 | PROTOCOL, False), (VERSION_1 | PROTOCOL | 1 << 9 | 1 << 11, True)):
        run(IMG, "create", "-q", "-f", "qcow2", "d.qcow2", "4M")
        with Daemon("d.qcow2", "qcow2", writable=True) as d:
            f = FrontEnd().start(features)
            assert f.config()[32] == flush
            assert f.request(OUT, 64, b"5" * 4096)[0] == 0
            if flush:
                assert f.request(FLUSH)[0] == 0
                assert f.tell(SET_CONFIG, struct.pack("<IIIB", 32, 1, 0, 0)) == 0
                assert f.config()[32] == 0
                assert f.request(OUT, 4096, b"6" * 512)[0] == 0
                assert f.tell(SET_CONFIG, struct.pack("<IIIB", 20, 1, 0, 0)) == 1
            d.process.kill()
            d.process.wait()
            f.close()
        assert "failed" not in run(IO, "-r", "-f", "qcow2", "-c", "read -P 0x35 32k 4k", "d.qcow2")
        if flush:
            assert "failed" not in run(IO, "-r", "-f", "qcow2", "-c", "read -P 0x36 2M 512", "d.qcow2")


def test_read_only_and_options():
    make_raw("r.raw", MIB)
    with Daemon("r.raw", logical_block_size=4096) as d:
        f = FrontEnd().start()
        assert f.ask_u64(GET_FEATURES) >> 5 & 1 and not f.ask_u64(GET_FEATURES) >> 13 & 1
        assert struct.unpack("<I", f.config()[20:24])[0] == 4096
        assert f.request(OUT, 0, bytes(4096))[0] == 1 and f.request(ZEROES, out=struct.pack("<QII", 0, 8, 0))[0] == 1
        assert f.request(IN, 0, get=4096)[0] == 0 and f.request(IN, 1, get=4096)[0] == 1
        f.close()
        d.ok("block-export-del", id="vub", mode="hard")
        add = dict(type="vhost-user-blk", id="vub", node_name="disk")
        address = {"type": "unix", "path": os.path.abspath("sock")}
        d.fails("type", "block-export-add", **add)
        d.fails("num-queues", "block-export-add", addr=address, num_queues=0, **add)
        d.fails("num-queues", "block-export-add", addr=address, num_queues=1000, **add)
        d.fails("logical-block-size", "block-export-add", addr=address, logical_block_size=513, **add)
        d.fails("unix socket", "block-export-add", addr={"type": "inet", "host": "localhost", "port": "0"}, **add)
        d.fails("colour", "block-export-add", addr=address, colour="red", **add)
        assert not os.path.exists("sock")
        d.quit()


def test_event_index_and_stopping():
    make_raw("e.raw", MIB)
    with Daemon("e.raw", writable=True) as d:
        f = FrontEnd().start(VERSION_1 | PROTOCOL | EVENT_IDX, num=8)
        q = f.queues[0]
        f.put(q["avail"] + 4 + 16, struct.pack("<H", 0xFFFF))  # the guest is told of nothing before the 65535th
        for n in range(20):
            f.put(q["avail"] + 4 + 16, struct.pack("<H", n))
            assert f.request(IN, n, get=512)[0] == 0
        end, event = time.time() + 30, 0
        while event != 20:  # it is written when the device finds nothing more to do
            event = struct.unpack("<H", f.memory[q["used"] + 4 + 64:q["used"] + 4 + 66])[0]
            assert time.time() < end, event
        assert struct.unpack("<II", f.ask(GET_BASE, struct.pack("<II", 0, 0))) == (0, 20)
        f.offer(0, 0)
        os.eventfd_write(q["kick"], 1)  # nobody listens
        q["next"] -= 1
        f.put(q["avail"] + 2, struct.pack("<H", q["next"]))
        f.queues.clear()
        f.start_queue(0, 8, base=20)
        assert f.request(IN, 3, get=512)[0] == 0
        # The memory in two regions, one request across both; then the second one is taken away and comes back
        half = SIZE // 2
        table = struct.pack("<IIQQQQQQQQ", 2, 0, GUEST, half, USER, 0, GUEST + half, half, USER + (1 << 32), half)
        assert f.tell(SET_MEM_TABLE, table, [f.fd, f.fd]) == 0
        assert f.tell(SET_ADDR, f.address(0)) == 0
        f.put(DATA, struct.pack("<IIQ", IN, 0, 0))
        f.descriptor(q["desc"], 0, GUEST + DATA, 16, NEXT, 1)
        f.descriptor(q["desc"], 1, GUEST + half - 512, 1024 + 1, WRITE)
        f.offer(0, 0)
        f.kick()
        f.used()
        with open("e.raw", "rb") as raw:
            assert f.memory[half - 512:half + 512] == raw.read(1024)
        region = struct.pack("<QQQQQ", 0, GUEST + half, half, USER + (1 << 32), half)
        assert f.ask_u64(GET_SLOTS) >= 8
        assert f.tell(REMOVE_REGION, region) == 0 and f.tell(REMOVE_REGION, region) == 1
        assert f.tell(ADD_REGION, region, [f.fd]) == 0
        assert f.request(IN, 3, get=512)[0] == 0
        f.close()
        d.quit()


def broken(setup, num=64):
    """A ring that makes no sense: the error descriptor is told, the daemon serves the next front end."""
    f = FrontEnd().start(VERSION_1 | PROTOCOL | 1 << 28, num=num)
    setup(f, f.queues[0])
    f.kick()
    try:
        f.used()
        sys.exit("a request came back")
    except Gone:
        pass
    assert f.ask_u64(GET_QUEUES) == 1  # the connection is alive
    f.close()


def test_hostile_rings():
    make_raw("h.raw", MIB)
    with Daemon("h.raw", writable=True) as d:
        def chain(*parts):
            def setup(f, q):
                for n, part in enumerate(parts):
                    f.descriptor(q["desc"], n, *part)
                f.offer(0, 0)
            return setup

        broken(lambda f, q: f.offer(0, 64))  # a head beyond the table
        broken(lambda f, q: f.put(q["avail"] + 2, struct.pack("<H", 65)))  # more than there can be
        broken(chain((GUEST, 16, NEXT, 0)))  # a loop
        broken(chain((GUEST, 16, NEXT, 64)))  # beyond the table
        broken(chain((GUEST - 16, 32, 0, 0)))  # before the memory
        broken(chain((GUEST + SIZE - 8, 16, 0, 0)))  # behind it
        broken(chain((0xFFFFFFFFFFFFFFF0, 32, 0, 0)))  # around
        broken(chain((GUEST, 0xFFFFFFFF, 0, 0)))
        broken(chain((GUEST, 16, NEXT | WRITE, 1), (GUEST, 16, 0, 0)))  # readable behind writable
        broken(chain((GUEST + DATA, 33, INDIRECT, 0)))  # not whole descriptors
        broken(chain((GUEST + DATA, 0, INDIRECT, 0)))
        broken(chain((GUEST + DATA, 16 * 2000, INDIRECT, 0)))
        broken(chain((GUEST + DATA, 16, INDIRECT | NEXT, 1)))
        broken(lambda f, q: (f.put(SIZE - 16, struct.pack("<QIHH", GUEST, 16, NEXT, 1)),
                             chain((GUEST + SIZE - 16, 64, INDIRECT, 0))(f, q)))

        def nested(f, q):
            f.descriptor(DATA, 0, GUEST + DATA, 16, INDIRECT)
            f.descriptor(q["desc"], 0, GUEST + DATA, 16, INDIRECT)
            f.offer(0, 0)

        broken(nested)

        def loop(f, q):
            f.descriptor(DATA, 0, GUEST + DATA, 16, NEXT, 1)
            f.descriptor(DATA, 1, GUEST + DATA, 16, NEXT, 0)
            f.descriptor(q["desc"], 0, GUEST + DATA, 32, INDIRECT)
            f.offer(0, 0)

        broken(loop)
        # A request without a place for the status is given back.
        f = FrontEnd().start()
        f.descriptor(f.queues[0]["desc"], 0, GUEST + DATA, 16)
        f.offer(0, 0)
        f.kick()
        assert f.used() == (0, 0)
        # Cut off while requests are under way
        for n in range(60):
            f.put(DATA + 0x1000 * n, struct.pack("<IIQ", OUT, 0, n))
            f.offer(0, 0)
        f.kick()
        f.close()
        with FrontEndAgain() as f:
            assert f.request(IN, 0, get=512)[0] == 0
        d.quit()


def test_hostile_messages():
    make_raw("m.raw", MIB)
    rng = random.Random(5)
    with Daemon("m.raw", writable=True, num_queues=2) as d:
        def ends(*args, **more):
            f = FrontEnd().start()
            try:
                f.send(*args, **more)
                f.ask_u64(GET_FEATURES)
                sys.exit(f"{args}: the connection goes on")
            except Gone:
                pass
            f.close()

        file = os.open("m.raw", os.O_RDONLY)
        ends(SET_FEATURES, bytes(4))
        ends(SET_FEATURES, struct.pack("<Q", (1 << 64) - 1))
        ends(SET_MEM_TABLE, bytes(8), flags=0)  # another version
        ends(SET_MEM_TABLE, b"", size=0xFFFFFFFF)
        ends(SET_MEM_TABLE, struct.pack("<II", 9, 0) + bytes(32 * 9))
        ends(SET_MEM_TABLE, struct.pack("<II", 1, 0) + bytes(32))  # no descriptor
        for region in ((GUEST, 0, USER, 0), (GUEST, 1 << 40, USER, 0), (GUEST, 4096, USER, (1 << 64) - 4096),
                       ((1 << 64) - 100, 4096, USER, 0), (GUEST, 4096, (1 << 64) - 100, 0), (GUEST, 4096, USER, 1 << 30)):
            memfd = os.memfd_create("small")
            os.ftruncate(memfd, 65536)
            ends(SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, *region), [memfd])
            os.close(memfd)
        ends(SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, GUEST, 4096, USER, 0), [file])  # only readable
        ends(SET_NUM, struct.pack("<II", 2, 64))
        ends(SET_NUM, struct.pack("<II", 1, 63))
        ends(SET_NUM, struct.pack("<II", 1, 0x10040))
        ends(SET_BASE, struct.pack("<II", 0, 0x10000))
        ends(SET_ADDR, struct.pack("<IIQQQQ", 0, 0, USER + SIZE - 16, USER, USER, 0))
        ends(SET_ADDR, bytes(8))
        ends(SET_KICK, struct.pack("<Q", 0), [file])  # no event
        ends(SET_KICK, struct.pack("<Q", 0x100))  # polling
        ends(SET_KICK, struct.pack("<Q", 5), [file])
        ends(SET_CALL, struct.pack("<Q", 0), [file, file])
        ends(GET_BASE, struct.pack("<II", 7, 0))
        ends(99, bytes(100))
        assert FrontEnd().start().ask(GET_CONFIG, struct.pack("<III", 200, 100, 0) + bytes(100)) == b""
        # A kick that is no event: a socket that was closed is readable for ever
        a, b = socket.socketpair()
        f = FrontEnd().start()
        assert f.tell(SET_KICK, struct.pack("<Q", 0), [a.fileno()]) == 0
        b.close()
        select.select([f.queues[0]["err"]], [], [], 30)
        assert os.eventfd_read(f.queues[0]["err"]) == 1
        f.close()
        # A call that nobody reads
        r, w = os.pipe()
        f = FrontEnd().start()
        assert f.tell(SET_CALL, struct.pack("<Q", 0), [w]) == 0
        os.close(r)
        os.close(w)
        f.put(DATA, struct.pack("<IIQ", FLUSH, 0, 0))
        f.descriptor(f.queues[0]["desc"], 0, GUEST + DATA, 16, NEXT, 1)
        f.descriptor(f.queues[0]["desc"], 1, GUEST + DATA + 64, 1, WRITE)
        f.offer(0, 0)
        f.kick()
        assert f.ask_u64(GET_QUEUES) == 2
        f.close()
        # Anything
        for _ in range(300):
            f = FrontEnd()
            try:
                if rng.randrange(2):
                    f.start(queues=2)
                for _ in range(rng.randrange(1, 8)):
                    payload = bytearray(rng.choice([8, 12, 40, 72, 100]))
                    struct.pack_into("<II", payload, 0, rng.choice([0, 0, 1, 2, rng.getrandbits(32)]), rng.choice([0, 1, 64, rng.getrandbits(32)]))
                    for _ in range(rng.randrange(4)):
                        payload[rng.randrange(len(payload))] = rng.randrange(256)
                    f.send(rng.randrange(45), bytes(payload), [f.fd] * rng.randrange(3), flags=rng.choice([1, 1, 9, 9, 0]),
                           size=rng.choice([None, None, None, rng.randrange(200)]))
                if f.queues:
                    f.kick()
                    f.kick(1)
            except Gone:
                pass
            f.close()
        os.close(file)
        with FrontEndAgain() as f:
            assert f.request(IN, 0, get=512)[0] == 0
        assert len(os.listdir(f"/proc/{d.process.pid}/fd")) < 40  # no descriptor was kept
        d.quit()


def test_memory_that_shrinks():
    """The front end cuts its memory off under the rings."""
    make_raw("s.raw", MIB)
    with Daemon("s.raw", writable=True) as d:
        f = FrontEnd().start()
        assert f.request(IN, 0, get=512)[0] == 0
        os.ftruncate(f.fd, 0)
        f.kick()
        try:
            f.ask_u64(GET_QUEUES)
        except Gone:
            pass
        f.close()
        with FrontEndAgain() as f:
            assert f.request(IN, 0, get=512)[0] == 0
        d.quit()


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[4:], call=tap.in_scratch)
