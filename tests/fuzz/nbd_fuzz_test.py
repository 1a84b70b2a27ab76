#!/usr/bin/env python3
"""Hostile peers of NBD: clients that send our server altered handshakes and requests, servers that answer our client so. Nobody
crashes, hangs or grows.

usage: nbd_fuzz_test.py QEMU-NBD QEMU-IMG ROUNDS [SEED]
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

NBD, IMG = (os.path.abspath(p) for p in sys.argv[1:3])
ROUNDS = int(sys.argv[3])
SEED = int(sys.argv[4]) if len(sys.argv) > 4 else int(time.time())
RSS_MIB = 1024 if "-sanitized" in NBD else 256 # what sanitizers put beside the data counts, too
SIZE = 64 << 20
OPTION, REPLY = 0x49484156454F5054, 0x3E889045565A9
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = 1, 2, 3, 5, 6, 7, 8, 9, 10, 11


def altered(rng, data, likely=0.5):
    data = bytearray(data)
    if rng.random() < likely:
        for _ in range(rng.choice([1, 1, 2, 5])):
            if data:
                data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        if rng.random() < 0.1:
            del data[rng.randrange(len(data) + 1):]
    return bytes(data)


# --- clients ---

def option(number, data=b""):
    return struct.pack(">QII", OPTION, number, len(data)) + data


def named(rng):
    name = rng.choice([b"exp", b"exp", b"", b"x" * 300, b"exp\0", rng.randbytes(5)])
    return struct.pack(">I", len(name)) + name


def queries(rng):
    names = rng.choices([b"base:allocation", b"qemu:dirty-bitmap:bm", b"qemu:", b"base:", b"q" * 5000, rng.randbytes(8)], k=rng.choice([0, 1, 3, 50]))
    text = b"".join(struct.pack(">I", rng.choice([len(name)] * 9 + [2**32 - 1])) + name for name in names)
    return struct.pack(">I", rng.choice([len(names)] * 9 + [2**31])) + text


def strange_option(rng):
    number = rng.choice([LIST, STARTTLS, INFO, STRUCTURED, LIST_META, SET_META, EXTENDED, 99])
    if number == INFO:
        data = named(rng) + struct.pack(">HH", rng.choice([0, 1, 2]), 3)
    elif number in (LIST_META, SET_META):
        data = named(rng) + queries(rng)
    else:
        data = rng.randbytes(rng.choice([0, 0, 1, 10, 5000]))
    return altered(rng, option(number, data), 0.2)


def request(rng, extended):
    """Mostly one that can be served: after data that do not come, or a disconnect, the server reads no more."""
    command = rng.choice([0, 0, 0, 1, 1, 3, 4, 5, 6, 7, 7, 8, 9] if rng.random() < 0.98 else [2])
    flags = rng.choice([0, 0, 0, 1, 2, 4, 8, 16, 32, 0xFFFF])
    offset = rng.choice([0, 512, 1000, SIZE, SIZE - 512, 2**63, 2**64 - 1, rng.randrange(SIZE)])
    length = rng.choice([0, 1, 512, 4096, 65536, rng.randrange(1 << 16)])
    if rng.random() < (0.01 if command == 1 else 0.3):
        length = rng.choice([32 << 20, (32 << 20) + 1, 2**31, 2**32 - 1])
    head = struct.pack(">IHHQQ", 0x21E41C71 if extended else 0x25609513, flags, command, rng.randrange(2**64), offset)
    return head + struct.pack(">Q" if extended else ">I", length) + (rng.randbytes(length) if command == 1 and length <= 70000 else b"")


def connect_strangely(rng):
    kind = rng.choice([b"", option(STRUCTURED), option(STRUCTURED) + option(EXTENDED)])
    meta = option(SET_META, struct.pack(">I", 3) + b"exp" + struct.pack(">II", 1, 15) + b"base:allocation")
    go = option(GO, struct.pack(">I", 3) + b"exp" + struct.pack(">H", 0))
    text = struct.pack(">I", rng.choice([3, 3, 3, 3, 3, 1, 0, 2, 0xFFFFFFFF]))
    text += b"".join(strange_option(rng) for _ in range(rng.choice([0, 0, 1, 3]))) + kind + meta + go
    text += b"".join(request(rng, kind.count(b"IHAVEOPT") == 2) for _ in range(rng.randrange(1, 30)))
    taken = 0
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect("sock")
        try:
            peer.sendall(text)
            peer.shutdown(socket.SHUT_WR)
            most = rng.choice([0, 1 << 16, 4 << 20])
            while taken < most and (got := peer.recv(1 << 20)):
                taken += len(got)
        except (ConnectionError, socket.timeout):
            pass
    return taken


def test_clients():
    rng = random.Random(SEED)
    subprocess.run([IMG, "create", "-q", "-f", "qcow2", "disk", str(SIZE)], check=True)
    subprocess.run([IMG, "bitmap", "--add", "disk", "bm"], check=True)
    server = subprocess.Popen([NBD, "-t", "-e", "0", "-k", os.path.abspath("sock"), "-f", "qcow2", "-x", "exp", "--discard=unmap", "-B", "bm", "disk"],
                              stderr=subprocess.DEVNULL)
    try:
        while not os.path.exists("sock"):
            assert server.poll() is None
            time.sleep(0.02)
        served = 0
        for n in range(ROUNDS):
            served += connect_strangely(rng) > 4096
            assert server.poll() is None, f"it ended in round {n} of seed {SEED}"
        assert served > ROUNDS // 50, f"only {served} got as far as to data"
        with open(f"/proc/{server.pid}/status") as f:
            peak = next(int(line.split()[1]) // 1024 for line in f if line.startswith("VmHWM"))
        assert peak < RSS_MIB, f"it took {peak} MiB with seed {SEED}"
        out = subprocess.run([IMG, "info", "nbd+unix:///exp?socket=" + os.path.abspath("sock")], capture_output=True, text=True, timeout=60)
        assert out.returncode == 0, out
        server.terminate()
        assert server.wait(60) == 0
    finally:
        server.kill()
    subprocess.run([IMG, "check", "-q", "disk"], check=True)


# --- servers ---

class StrangeServer:
    """Speaks the protocol well enough for a client to go on, with some bytes altered."""

    def __init__(self, rng, connection):
        self.rng, self.peer, self.structured, self.left = rng, connection, False, 200
        self.likely = rng.choice([0, 0.02, 0.1])

    def take(self, count):
        data = b""
        while len(data) < count:
            got = self.peer.recv(count - len(data))
            if not got:
                raise ConnectionError
            data += got
        return data

    def send(self, data):
        self.left -= 1
        if not self.left:
            raise ConnectionError
        self.peer.sendall(altered(self.rng, data, self.likely))

    def reply(self, number, kind, data=b""):
        self.send(struct.pack(">QIII", REPLY, number, kind, len(data)) + data)

    def options(self):
        self.send(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        self.take(4)
        while True:
            _, number, length = struct.unpack(">QII", self.take(16))
            self.take(min(length, 1 << 20))
            if number == STRUCTURED:
                self.structured = True
                self.reply(number, 1)
            elif number in (LIST_META, SET_META):
                for n in range(self.rng.choice([1, 1, 1, 0, 3])):
                    self.reply(number, 4, struct.pack(">I", 7 + n) + self.rng.choice([b"base:allocation", b"base:allocation", b"x" * 4096]))
                self.reply(number, 1)
            elif number in (INFO, GO):
                self.reply(number, 3, struct.pack(">HQH", 0, self.rng.choice([SIZE, SIZE, SIZE, 1, 2**63, 2**64 - 1]), 0x16D))
                if self.rng.random() < 0.5:
                    self.reply(number, 3, struct.pack(">HIII", 3, *self.rng.choice([(1, 4096, 32 << 20), (512, 4096, 2**32 - 1), (0, 0, 0), (3, 5, 7)])))
                self.reply(number, 1)
                if number == GO:
                    return
            else:
                self.reply(number, 0x80000001)

    def chunk(self, cookie, kind, data, last=True):
        self.send(struct.pack(">IHHQI", 0x668E33EF, last, kind, cookie, len(data)) + data)

    def answer(self, command, cookie, offset, length):
        if command == 0 and self.structured:
            half = length // 2
            if self.rng.random() < 0.5:
                self.chunk(cookie, 2, struct.pack(">QI", offset, half), False)
            else:
                self.chunk(cookie, 1, struct.pack(">Q", offset) + bytes(half), False)
            self.chunk(cookie, 1, struct.pack(">Q", offset + half) + bytes(length - half))
        elif command == 7 and self.structured:
            extents = [(self.rng.choice([length, 512, 0, 2**32 - 1]), self.rng.choice([0, 1, 2, 3, 99])) for _ in range(self.rng.choice([1, 1, 2, 300]))]
            self.chunk(cookie, 5, struct.pack(">I", 7) + b"".join(struct.pack(">II", *extent) for extent in extents))
        elif self.structured and self.rng.random() < 0.2:
            self.chunk(cookie, 0x8001, struct.pack(">IH", 5, 4) + b"dust")
        else:
            self.send(struct.pack(">IIQ", 0x67446698, 0, cookie) + (bytes(length) if command == 0 else b""))

    def serve(self):
        try:
            self.options()
            while True:
                _, _, command, cookie, offset, length = struct.unpack(">IHHQQI", self.take(28))
                if command == 1:
                    self.take(length)
                self.answer(command, cookie, offset, length)
        except (ConnectionError, OSError):
            pass
        finally:
            self.peer.close()


def accept_all(rng, listener):
    while True:
        try:
            connection = listener.accept()[0]
        except OSError:
            return
        connection.settimeout(20)
        threading.Thread(target=StrangeServer(random.Random(rng.random()), connection).serve, daemon=True).start()


def run_client(n, argv):
    process = subprocess.Popen([IMG, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    timer = threading.Timer(60, process.kill)
    timer.start()
    _, status, usage = os.wait4(process.pid, 0)
    timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    assert 0 <= process.returncode <= 4, f"{argv} ended with {process.returncode} in round {n} of seed {SEED}"
    assert usage.ru_maxrss >> 10 < RSS_MIB, f"{argv} took {usage.ru_maxrss >> 10} MiB in round {n} of seed {SEED}"


def test_servers():
    rng = random.Random(SEED + 1)
    uri = "nbd+unix:///exp?socket=" + os.path.abspath("peer")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("peer")
        listener.listen(8)
        threading.Thread(target=accept_all, args=(random.Random(SEED + 2), listener), daemon=True).start()
        for n in range(ROUNDS // 4):
            run_client(n, rng.choice([["info", uri], ["map", uri], ["convert", "-O", "raw", uri, "copy"], ["compare", uri, uri],
                                      ["bench", "-c", "50", "-w", "-f", "raw", uri]]))
        listener.shutdown(socket.SHUT_RDWR)


tap.run(tap.tests_in(globals()), call=tap.in_scratch)
