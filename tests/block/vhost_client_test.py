#!/usr/bin/env python3
"""The driver virtio-blk-vhost-user: with our back end, with another one, with one that dies and one that talks nonsense.

usage: vhost_client_test.py QEMU-STORAGE-DAEMON QEMU-IMG QEMU-IO [TEST...]
"""
import mmap
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

DAEMON, IMG, IO = (os.path.abspath(p) for p in sys.argv[1:4])
OTHER = shutil.which("qemu-storage-daemon", path="/usr/bin:/usr/local/bin")
MIB = 1 << 20


def run(*argv, code=0):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    assert done.returncode == code, (argv, done.returncode, done.stdout)
    return done.stdout


def node(fmt="raw"):
    return ["--image-opts", f"driver={fmt},file.driver=virtio-blk-vhost-user,file.path={os.path.abspath('sock')},file.cache.direct=on"]


class Daemon:
    def __init__(self, tool, image, more="", fmt="raw"):
        if os.path.exists("sock"):
            os.unlink("sock")
        self.process = subprocess.Popen([tool, "--blockdev", f"driver={fmt},node-name=disk,discard=unmap,file.driver=file,"
                                         f"file.filename={image},file.discard=unmap", "--export", "vhost-user-blk,id=e,node-name=disk,"
                                         f"addr.type=unix,addr.path={os.path.abspath('sock')}{more}"])
        end = time.time() + 60
        while not os.path.exists("sock"):
            if self.process.poll() is not None:
                raise tap.Skip(f"{tool} has no such exports")
            assert time.time() < end
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)


def exchange(tool):
    rng, size = random.Random(1), 8 * MIB
    data = bytearray(rng.randbytes(size))
    with open("disk.raw", "wb") as f:
        f.write(data)
    run(IMG, "convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2")
    with Daemon(tool, "disk.qcow2", ",writable=on", "qcow2"):
        commands = []
        for _ in range(200):
            at, length = rng.randrange(size - 3 * MIB) // 512 * 512, rng.choice([512, 4096, 65536, 3 * MIB, 123 * 512])
            kind, byte = rng.randrange(5), rng.randrange(1, 256)
            if kind < 2:
                commands.append(f"aio_write -q -P {byte} {at} {length}" if rng.randrange(2) else f"write -q -P {byte} {at} {length}")
                commands.append("aio_flush")
                data[at:at + length] = bytes([byte]) * length
            elif kind == 2:
                commands.append(f"write -q -z {rng.choice(['', '-u '])}{at} {length}")
                data[at:at + length] = bytes(length)
            elif kind == 3:
                commands.append("flush")
            else:
                same = 1
                while same < 70000 and data[at + same] == data[at]:
                    same += 1
                commands.append(f"read -q -P {data[at]} {at} {same}")
        out = run(IO, "-t", "none", *[x for c in commands for x in ("-c", c)], *node())
        assert "failed" not in out and "rror" not in out, out
        run(IMG, "convert", "-O", "raw", *node(), "out.raw")
        with open("out.raw", "rb") as f:
            assert f.read() == data
        # many at once
        out = run(IMG, "bench", "-c", "2000", "-d", "32", "-s", "8192", *node())
        assert "Run completed" in out, out
    run(IMG, "check", "-q", "disk.qcow2")
    run(IMG, "convert", "-O", "raw", "disk.qcow2", "out.raw")
    with open("out.raw", "rb") as f:
        assert f.read() == data


def test_our_back_end():
    exchange(DAEMON)


def test_other_back_end():
    if not OTHER:
        raise tap.Skip("no other qemu-storage-daemon is installed")
    exchange(OTHER)


def test_options_and_errors():
    with open("e.raw", "wb") as f:
        f.truncate(MIB)
    assert "path" in run(IMG, "info", "--image-opts", "driver=virtio-blk-vhost-user", code=1)
    run(IMG, "info", "--image-opts", "driver=virtio-blk-vhost-user,path=nothing", code=1)
    with Daemon(DAEMON, "e.raw"):  # read-only
        assert "1 MiB" in run(IMG, "info", *node())
        assert "only be read" in run(IO, "-c", "read 0 4k", *node(), code=1)
    with Daemon(DAEMON, "e.raw", ",writable=on,logical-block-size=4096"):
        assert "failed" not in run(IO, "-c", "write -P 1 512 512", "-c", "read -P 1 512 512", "-c", "read -P 0 1k 3k", *node())
    # The back end dies: requests fail, nobody hangs.
    with Daemon(DAEMON, "e.raw", ",writable=on") as d:
        io = subprocess.Popen([IO, *node()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        io.stdin.write("read 0 4k\n")
        io.stdin.flush()
        while "read 4096" not in io.stdout.readline():
            pass
        d.process.kill()
        d.process.wait()
        out, _ = io.communicate("read 0 4k\naio_write 0 64k\naio_flush\n", timeout=60)
        assert "failed" in out, out


class Nonsense(threading.Thread):
    """A back end that answers as it should up to a point, then damages what it sends and what it puts in the ring."""

    def __init__(self, rng):
        super().__init__(daemon=True)
        self.rng = rng
        if os.path.exists("sock"):
            os.unlink("sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("sock")
        self.listener.listen(5)

    def run(self):
        while True:
            s, _ = self.listener.accept()
            s.settimeout(1)
            try:
                self.serve(s)
            except (OSError, struct.error, ValueError):
                pass
            s.close()

    def serve(self, s):
        rng, memory, call, kick = self.rng, None, None, None
        wild = rng.randrange(3)
        while True:
            data, fds, _, _ = socket.recv_fds(s, 12, 4)
            if len(data) < 12:
                return
            request, _, size = struct.unpack("<III", data)
            body = s.recv(size) if size else b""
            answer = {1: struct.pack("<Q", 1 << 32 | 1 << 30 | 1 << 9 | 1 << 6 | 1 << 13), 15: struct.pack("<Q", 1 << 9)}.get(request)
            if request == 24:
                config = bytearray(60)
                struct.pack_into("<Q", config, 0, 2048 if wild != 1 else rng.getrandbits(rng.choice([8, 64])))
                struct.pack_into("<I", config, 20, 512 if wild != 1 else rng.getrandbits(20))
                answer = body[:12] + bytes(config)
            if request == 5:
                memory = mmap.mmap(fds[0], os.fstat(fds[0]).st_size)
                try:
                    os.ftruncate(fds[0], 0)
                    os._exit(1)  # it must be sealed
                except PermissionError:
                    pass
            if answer is not None:
                head = bytearray(struct.pack("<III", request, 5, len(answer)))
                if wild == 2 and rng.randrange(3) == 0:
                    head[rng.randrange(12)] = rng.randrange(256)
                s.sendall(bytes(head) + answer)
            call, kick = fds[0] if request == 13 else call, fds[0] if request == 12 else kick
            if request == 18:
                break
        for _ in range(rng.randrange(4)):
            used = 0x1000
            struct.pack_into("<II", memory, used + 4, rng.choice([0, 1, 3, 45, 48, rng.getrandbits(32)]), 1)
            for _ in range(rng.randrange(20)):
                memory[rng.randrange(0x3000)] = rng.randrange(256)
            struct.pack_into("<H", memory, used + 2, rng.choice([1, 1, 2, 64, 65, rng.getrandbits(16)]))
            os.eventfd_write(call, 1)
            time.sleep(0.01)


def test_hostile_back_ends():
    rng = random.Random(7)
    Nonsense(rng).start()
    for _ in range(60):
        io = subprocess.Popen([IO, "-c", "read 0 4k", "-c", "write 0 1M", "-c", "read 0 64k", "-c", "discard 0 4k", "-c", "flush", *node()],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert io.wait(60) in (0, 1), io.returncode


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[4:], call=tap.in_scratch)
