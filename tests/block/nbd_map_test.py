#!/usr/bin/env python3
"""What exports say of allocation, depth and bitmaps, compared with another qemu-storage-daemon over the same images; several clients.

usage: nbd_map_test.py QEMU-STORAGE-DAEMON QEMU-IMG QEMU-IO [TEST...]
"""
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

DAEMON, IMG, IO = (os.path.abspath(p) for p in sys.argv[1:4])
PATH = "/usr/bin:/usr/local/bin"
OTHER, NBDINFO, NBDCOPY = (shutil.which(name, path=PATH) for name in ("qemu-storage-daemon", "nbdinfo", "nbdcopy"))
MIB = 1 << 20


def run(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=240)
    assert done.returncode == 0, (argv, done.returncode, done.stdout)
    return done.stdout


class Daemon:
    """The image as export "x"."""

    def __init__(self, tool, node, more="", connections=0):
        self.sock = os.path.abspath("sock")
        if os.path.exists(self.sock):
            os.unlink(self.sock)
        self.process = subprocess.Popen([tool, "--blockdev", json.dumps(dict(node, **{"node-name": "disk"})), "--nbd-server",
                                         f"addr.type=unix,addr.path={self.sock},max-connections={connections}", "--export",
                                         "nbd,id=e,node-name=disk,name=x" + more])
        end = time.time() + 60
        while True:  # until the export is there
            try:
                if subprocess.run([NBDINFO, "--size", self.uri()], capture_output=True).returncode == 0:
                    break
            except OSError:
                pass
            assert self.process.poll() is None and time.time() < end
            time.sleep(0.02)

    def uri(self):
        return f"nbd+unix:///x?socket={self.sock}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)


def need():
    for tool, name in ((OTHER, "qemu-storage-daemon"), (NBDINFO, "nbdinfo")):
        if not tool:
            raise tap.Skip(f"no other {name} is installed")


def merged(extents):
    """As (offset, flags) where the flags change. Allocated and zero counts as data: who looks closer may say so."""
    found = []
    for e in extents:
        flags = 0 if e["type"] == 2 else e["type"]
        if not found or found[-1][1] != flags:
            found.append((e["offset"], flags))
    return found


def maps(tool, node, contexts, more):
    with Daemon(tool, node, more) as d:
        return {c: (merged if c.startswith("base") else list)(json.loads(run(NBDINFO, "--json", f"--map={c}", d.uri()))) for c in contexts}


def compare(node, contexts=("base:allocation", "qemu:allocation-depth"), more=",allocation-depth=on"):
    theirs, ours = (maps(tool, node, contexts, more) for tool in (OTHER, DAEMON))
    for c in contexts:
        assert theirs[c] == ours[c], f"{node} {c}:\n{theirs[c]}\n{ours[c]}"


def fill(path, fmt, size, rng, count=24):
    commands = []
    for _ in range(count):
        length = rng.choice([512, 4096, 65536, 200000, MIB]) // 512 * 512
        at = rng.randrange((size - length) // 512) * 512
        kind = rng.randrange(5)
        commands += ["-c", f"write -P {rng.randrange(1, 256)} {at} {length}" if kind < 3 else
                     f"write -z {'-u ' if rng.randrange(2) else ''}{at} {length}" if kind == 3 else f"discard {at} {length}"]
    run(IO, "-f", fmt, "-d", "unmap", *commands, path)


def opened(path, fmt, **more):
    return {"driver": fmt, "read-only": True, "file": {"driver": "file", "filename": path}, **more}


def test_formats():
    need()
    rng = random.Random(1)
    for fmt, options in (("raw", ""), ("qcow2", ""), ("qcow2", "cluster_size=4k"), ("qcow2", "extended_l2=on"), ("qcow2", "compat=0.10"),
                         ("qcow2", "preallocation=metadata"), ("qcow2", "cluster_size=2M"), ("vmdk", ""), ("vdi", ""), ("vhdx", ""), ("qed", "")):
        size = 20 * MIB
        run(IMG, "create", "-q", "-f", fmt, *(["-o", options] if options else []), "f.img", str(size))
        fill("f.img", fmt, size, rng)
        compare(opened("f.img", fmt))
    run(IMG, "convert", "-c", "-O", "qcow2", "-f", "qed", "f.img", "c.qcow2")  # compressed clusters
    compare(opened("c.qcow2", "qcow2"))


def test_chains():
    """Layers of other sizes and formats."""
    need()
    rng = random.Random(2)
    for sizes in ((8, 8, 8), (4, 8, 12), (12, 6, 9)):
        run(IMG, "create", "-q", "-f", "raw", "0.img", f"{sizes[0]}M")
        fill("0.img", "raw", sizes[0] * MIB, rng, 8)
        below = "raw"
        for n in (1, 2):
            run(IMG, "create", "-q", "-f", "qcow2", "-b", f"{n - 1}.img", "-F", below, f"{n}.img", f"{sizes[n]}M")
            fill(f"{n}.img", "qcow2", sizes[n] * MIB, rng, 8)
            below = "qcow2"
        compare(opened("2.img", "qcow2"))
        compare(opened("1.img", "qcow2"))


def test_bitmaps():
    need()
    rng = random.Random(3)
    for granularity in ("4k", "64k", "1M"):
        run(IMG, "create", "-q", "-f", "qcow2", "b.img", "20M")
        for name in ("b0", "b1"):
            run(IMG, "bitmap", "--add", "-g", granularity, "b.img", name)
            fill("b.img", "qcow2", 20 * MIB, rng, 6)
            run(IMG, "bitmap", "--disable", "b.img", name)
        compare(opened("b.img", "qcow2"), ("base:allocation", "qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1"),
                ",bitmaps.0=b0,bitmaps.1=b1")


def greeted(path, timeout):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(timeout)
    s.connect(path)
    try:
        return s if s.recv(18) else None
    except TimeoutError:
        return None


def test_max_connections():
    need()
    with open("m.raw", "wb") as f:
        f.write(random.Random(4).randbytes(8 * MIB))
    for tool in (OTHER, DAEMON):
        with Daemon(tool, opened("m.raw", "raw"), connections=3) as d:
            info = json.loads(run(NBDINFO, "--json", "--no-content", d.uri()))["exports"][0]
            assert info["can_multi_conn"]
            inside = [greeted(d.sock, 60) for _ in range(3)]
            assert all(inside) and greeted(d.sock, 0.3) is None
        with Daemon(tool, opened("m.raw", "raw"), connections=1) as d:
            assert not json.loads(run(NBDINFO, "--json", "--no-content", d.uri()))["exports"][0]["can_multi_conn"]


def test_clients_at_once():
    """Eight copies in both directions at the same time."""
    need()
    if not NBDCOPY:
        raise tap.Skip("nbdcopy is not installed")
    with open("a.raw", "wb") as f:
        f.write(random.Random(5).randbytes(16 * MIB))
    run(IMG, "create", "-q", "-f", "qcow2", "w.qcow2", "16M")
    with Daemon(DAEMON, {"driver": "qcow2", "discard": "unmap", "file": {"driver": "file", "filename": "w.qcow2"}}, ",writable=on") as d:
        for argv in (["a.raw", d.uri()], [d.uri(), "back{}"]):
            copies = [subprocess.Popen([NBDCOPY, "--flush", *(a.format(n) for a in argv)]) for n in range(8)]
            assert [c.wait(240) for c in copies] == [0] * 8
        for n in range(8):
            run("cmp", "a.raw", f"back{n}")
    run(IMG, "check", "-q", "w.qcow2")


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[4:], call=tap.in_scratch)
