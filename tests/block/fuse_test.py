#!/usr/bin/env python3
"""Exports of the kind "fuse": what the kernel and ordinary programs see of a mounted node.

usage: fuse_test.py QEMU-STORAGE-DAEMON QEMU-IMG QEMU-IO [TEST...]
Skipped where there is no /dev/fuse or mounting is not allowed.
"""
import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import qmp  # noqa: E402
import tap  # noqa: E402

DAEMON, IMG, IO = (os.path.abspath(p) for p in sys.argv[1:4])
MIB = 1 << 20
KEEP, PUNCH, ZERO = 1, 2, 16
libc = ctypes.CDLL(None, use_errno=True)


def run(*argv, code=0):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    assert done.returncode == code, (argv, done.returncode, done.stdout)
    return done.stdout


def is_mounted(path):
    with open("/proc/mounts") as f:
        return any(line.split()[1] == os.path.abspath(path) for line in f)


class Daemon(qmp.Program):
    """The image as node "disk", mounted over the file "mp" with the given options."""

    def __init__(self, image, fmt, options=None, mountpoint="mp"):
        if not os.path.exists("/dev/fuse"):
            raise tap.Skip("there is no /dev/fuse")
        if not os.path.exists(mountpoint):
            with open(mountpoint, "w"):
                pass
        self.mountpoint = mountpoint
        super().__init__([DAEMON, "--chardev", "stdio,id=qmp", "--monitor", "chardev=qmp,mode=control", "--blockdev",
                          f"driver=file,node-name=file,filename={image},discard=unmap", *(["--blockdev",
                          f"driver={fmt},node-name=disk,file=file,discard=unmap"] if fmt != "file" else [])])
        if options is not None:
            self.mount(options)

    def mount(self, options, node="disk", mountpoint="mp"):
        answer = self.command("block-export-add", type="fuse", id="fuse", node_name=node, mountpoint=mountpoint, **options)
        if "error" in answer and "could not be mounted" in answer["error"]["desc"]:
            raise tap.Skip("mounting is not allowed here")
        assert "return" in answer, answer

    def unmount(self):
        self.ok("block-export-del", id="fuse")
        self.wait_event("BLOCK_EXPORT_DELETED", id="fuse")

    def __exit__(self, *_):
        self.end()
        subprocess.run(["umount", "-l", self.mountpoint], capture_output=True)  # of a daemon that was killed


def fallocate(fd, mode, offset, length):
    """0 or an errno."""
    return 0 if libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0 else ctypes.get_errno()


def close(fd):
    """Also when nobody is there who could be told."""
    try:
        os.close(fd)
    except OSError:
        pass


def make_raw(path, size, seed=1):
    with open(path, "wb") as f:
        f.write(random.Random(seed).randbytes(size))


def make_qcow2(path, size, seed=1):
    make_raw(path + ".raw", size, seed)
    run(IMG, "convert", "-O", "qcow2", path + ".raw", path)


def test_reading():
    make_qcow2("a.qcow2", 8 * MIB + 512)
    with Daemon("a.qcow2", "qcow2", {}) as d:
        run("cmp", "mp", "a.qcow2.raw")
        facts = os.stat("mp")
        assert facts.st_size == 8 * MIB + 512 and facts.st_mode == 0o100400 and facts.st_nlink == 1, facts
        space = os.statvfs("mp")
        assert space.f_blocks * space.f_frsize == 8 * MIB + 512, space
        assert "identical" in run(IMG, "compare", "-f", "raw", "-F", "raw", "-U", "mp", "a.qcow2.raw")
        run("cp", "mp", "copy")
        run("cmp", "copy", "a.qcow2.raw")
        with open("mp", "rb") as f:  # odd pieces, and beyond the end
            f.seek(8 * MIB + 500)
            assert len(f.read(100)) == 12
            assert os.pread(f.fileno(), 10, 1 << 40) == b""
        try:
            fd = os.open("mp", os.O_RDWR)  # root may open it
            try:
                os.write(fd, b"x")
                sys.exit("a read-only export was written to")
            except PermissionError:
                pass
            assert fallocate(fd, 0, 0, 4096) and fallocate(fd, KEEP | PUNCH, 0, 4096)
            os.close(fd)
        except PermissionError:
            pass
        for change in (lambda: os.truncate("mp", 0), lambda: os.chmod("mp", 0o600)):
            try:
                change()
                sys.exit("a read-only export was changed")
            except OSError:
                pass
        assert is_mounted("mp")
        d.unmount()
        assert not is_mounted("mp") and os.path.getsize("mp") == 0
        d.quit()
    run(IMG, "check", "-q", "a.qcow2")


def test_writing():
    """Random writes, holes and zeroes against a model; what is seen afterwards by others."""
    for fmt in "qcow2", "raw":
        size = 4 * MIB
        make_raw("w.raw", size, 2)
        with open("w.raw", "rb") as f:
            model = bytearray(f.read())
        run(IMG, "convert", "-f", "raw", "-O", fmt, "w.raw", "w.img")
        rng = random.Random(3)
        with Daemon("w.img", fmt, {"writable": True}) as d:
            fd = os.open("mp", os.O_RDWR)
            for _ in range(400):
                at = rng.randrange(size)
                length = min(rng.choice([1, 511, 512, 4096, 65536, 200000]), size - at)
                kind = rng.randrange(6)
                if kind < 2:
                    data = rng.randbytes(length)
                    assert os.pwrite(fd, data, at) == length
                    model[at:at + length] = data
                elif kind == 2:
                    assert fallocate(fd, KEEP | PUNCH, at, length) == 0
                    model[at:at + length] = bytes(length)
                elif kind == 3:
                    assert fallocate(fd, ZERO | (KEEP if rng.randrange(2) else 0), at, length) == 0
                    model[at:at + length] = bytes(length)
                elif kind == 4:
                    os.fsync(fd)
                else:
                    assert os.pread(fd, length, at) == model[at:at + length], (at, length)
            os.close(fd)
            with open("mp", "rb") as f:
                assert f.read() == bytes(model)
            d.quit()
        assert not is_mounted("mp")
        run(IMG, "check", "-q", "w.img", code=63 if fmt == "raw" else 0)
        run(IMG, "convert", "-f", fmt, "-O", "raw", "w.img", "out.raw")
        with open("out.raw", "rb") as f:
            assert f.read() == bytes(model), fmt


def test_durable():
    """What fsync returned for outlives the daemon's death."""
    run(IMG, "create", "-q", "-f", "qcow2", "s.qcow2", "16M")
    with Daemon("s.qcow2", "qcow2", {"writable": True}) as d:
        fd = os.open("mp", os.O_RDWR)
        for n in range(16):
            os.pwrite(fd, bytes([n + 1]) * 65536, n * MIB)
        os.fsync(fd)
        d.process.send_signal(signal.SIGKILL)
        d.process.wait()
        try:
            os.pread(fd, 512, 0)
            sys.exit("a dead daemon answers")
        except OSError:
            pass
        close(fd)
    for n in range(16):
        assert "failed" not in run(IO, "-r", "-f", "qcow2", "-c", f"read -P {n + 1} {n}M 64k", "s.qcow2")


def test_size():
    """Growing only where that is allowed, truncating where writing is."""
    with open("g.raw", "wb") as f:
        f.truncate(MIB)
    with Daemon("g.raw", "file") as d:
        d.mount({"writable": True}, "file")
        with open("mp", "r+b", buffering=0) as f:
            f.seek(MIB - 512)
            assert f.write(b"x" * 1024) == 512
            try:
                f.write(b"x")
                sys.exit("it grew")
            except OSError:
                pass
        assert os.path.getsize("mp") == os.path.getsize("g.raw") == MIB
        os.truncate("mp", 2 * MIB)  # explicitly it may
        assert os.path.getsize("mp") == os.path.getsize("g.raw") == 2 * MIB
        fd = os.open("mp", os.O_RDWR)
        before = os.stat("g.raw").st_blocks
        assert fallocate(fd, 0, 2 * MIB, MIB) == 0
        assert os.path.getsize("mp") == 3 * MIB and os.stat("g.raw").st_blocks > before
        assert fallocate(fd, KEEP | 8, 0, 4096) == 95  # another kind of it
        os.close(fd)
        d.unmount()
        d.mount({"writable": True, "growable": True}, "file")
        run("dd", "if=/dev/urandom", "of=mp", "bs=64k", "count=32", "seek=64", "conv=notrunc,fsync")
        assert os.path.getsize("mp") == os.path.getsize("g.raw") == 6 * MIB
        run("cmp", "mp", "g.raw")
        run("cp", DAEMON, "mp")  # truncates to nothing first
        length = os.path.getsize(DAEMON)
        assert os.path.getsize("mp") == -(-length // 512) * 512
        run("cmp", "-n", str(length), "mp", DAEMON)
        run("truncate", "-s", str(MIB), "mp")
        assert os.path.getsize("g.raw") == MIB
        d.quit()


def test_over_the_image():
    """The image's own file is the mount point: any format is a raw file to everybody."""
    make_qcow2("o.qcow2", 4 * MIB, 5)
    with Daemon("o.qcow2", "qcow2", mountpoint="o.qcow2") as d:
        d.mount({"writable": True}, mountpoint="o.qcow2")
        run("cmp", "o.qcow2", "o.qcow2.raw")
        run("dd", "if=/dev/zero", "of=o.qcow2", "bs=64k", "count=1", "conv=notrunc")
        d.quit()
    assert "failed" not in run(IO, "-r", "-f", "qcow2", "-c", "read -P 0 0 64k", "o.qcow2")
    run(IMG, "check", "-q", "o.qcow2")


def test_holes():
    run(IMG, "create", "-q", "-f", "qcow2", "h.qcow2", "1G")
    run(IO, "-f", "qcow2", "-c", "write 100M 64k", "-c", "write 500M 128k", "h.qcow2")
    with Daemon("h.qcow2", "qcow2", {}) as d:
        fd = os.open("mp", os.O_RDONLY)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 100 * MIB
        assert os.lseek(fd, 100 * MIB, os.SEEK_HOLE) == 100 * MIB + 65536
        assert os.lseek(fd, 200 * MIB, os.SEEK_DATA) == 500 * MIB
        assert os.lseek(fd, 501 * MIB, os.SEEK_HOLE) == 501 * MIB
        for at, whence in ((501 * MIB, os.SEEK_DATA), (1 << 30, os.SEEK_HOLE)):
            try:
                os.lseek(fd, at, whence)
                sys.exit("there is nothing")
            except OSError as e:
                assert e.errno == 6
        os.close(fd)
        run("cp", "--sparse=auto", "mp", "sparse.raw")
        assert os.stat("sparse.raw").st_blocks * 512 < 2 * MIB
        d.quit()


def test_many_at_once():
    make_qcow2("m.qcow2", 16 * MIB, 6)
    with Daemon("m.qcow2", "qcow2", {"writable": True}) as d:
        wrong = []

        def work(number):
            rng = random.Random(number)
            fd = os.open("mp", os.O_RDWR)
            base = number * MIB
            for _ in range(60):
                data = rng.randbytes(rng.randrange(1, 100000))
                at = base + rng.randrange(MIB - len(data))
                os.pwrite(fd, data, at)
                if os.pread(fd, len(data), at) != data:
                    wrong.append(number)
            os.close(fd)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not wrong, wrong
        d.quit()
    run(IMG, "check", "-q", "m.qcow2")


def test_errors():
    make_raw("e.raw", MIB)
    with Daemon("e.raw", "raw") as d:
        add = {"type": "fuse", "id": "x", "node_name": "disk"}
        d.fails("mountpoint", "block-export-add", **add)
        d.fails("No such file", "block-export-add", mountpoint="nothing", **add)
        os.mkdir("dir")
        d.fails("not a regular file", "block-export-add", mountpoint="dir", **add)
        d.fails("allow-other", "block-export-add", mountpoint="mp", allow_other="perhaps", **add)
        d.fails("colour", "block-export-add", mountpoint="mp", colour="red", **add)
        d.fails("growable", "block-export-add", mountpoint="mp", growable="maybe", **add)
        assert not is_mounted("mp")
        d.mount({})
        d.fails("already is a FUSE export", "block-export-add", mountpoint="mp", **add)
        d.fails("already is a FUSE export", "block-export-add", mountpoint="./mp", **add)
        assert d.ok("query-block-exports")[0]["type"] == "fuse"
        d.unmount()
        d.quit()


def test_unmounted_by_somebody():
    make_raw("u.raw", MIB)
    with Daemon("u.raw", "raw", {}) as d:
        if os.geteuid():
            raise tap.Skip("only root can unmount it")
        run("umount", "mp")
        d.wait_event("BLOCK_EXPORT_DELETED", id="fuse")
        d.mount({})
        run("cmp", "mp", "u.raw")
        # A file that is open does not keep the export from ending.
        fd = os.open("mp", os.O_RDONLY)
        d.unmount()
        try:
            os.pread(fd, 10, 0)
            sys.exit("there is nobody who could answer")
        except OSError:
            pass
        close(fd)
        d.quit()


def test_command_line_and_signals():
    make_raw("c.raw", MIB)
    for number in (signal.SIGTERM, signal.SIGINT):
        with open("mp", "w"):
            pass
        if not os.path.exists("/dev/fuse"):
            raise tap.Skip("there is no /dev/fuse")
        p = subprocess.Popen([DAEMON, "--blockdev", "driver=file,node-name=f,filename=c.raw", "--export",
                              "type=fuse,id=e,node-name=f,mountpoint=mp,writable=on,growable=on,allow-other=off"])
        end = time.time() + 60
        while not is_mounted("mp") and p.poll() is None:
            assert time.time() < end
            time.sleep(0.02)
        if p.poll() is not None:
            raise tap.Skip("mounting is not allowed here")
        run("cmp", "mp", "c.raw")
        p.send_signal(number)
        assert p.wait(60) == 0 and not is_mounted("mp")


def test_writethrough_and_modes():
    make_raw("t.raw", MIB)
    with Daemon("t.raw", "raw", {"writable": True, "writethrough": True, "allow_other": "on"}) as d:
        assert os.stat("mp").st_mode == 0o100600
        os.chmod("mp", 0o666)
        os.utime("mp", (1000, 2000))
        if not os.geteuid():
            os.chown("mp", 1, 2)
            assert (os.stat("mp").st_uid, os.stat("mp").st_gid) == (1, 2)
        facts = os.stat("mp")
        assert facts.st_mode == 0o100666 and (facts.st_atime, facts.st_mtime) == (1000, 2000), facts
        with open("mp", "r+b") as f:
            f.write(b"hello")
        d.unmount()
        d.quit()
    with open("t.raw", "rb") as f:
        assert f.read(5) == b"hello"


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[4:], call=tap.in_scratch)
