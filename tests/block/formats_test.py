#!/usr/bin/env python3
"""Image formats against another qemu-img: what one makes and changes, the other reads, and hostile images.

usage: formats_test.py OUR-QEMU-IMG OUR-QEMU-IO [TEST...]
Skipped (exit code 77) where no other qemu-img is installed.
"""
import hashlib
import json
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import time
import zlib

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

IMG, IO = (os.path.abspath(p) for p in sys.argv[1:3])
PATH = "/usr/bin:/usr/local/bin"
PEER_IMG, PEER_IO = (shutil.which(n, path=PATH) for n in ("qemu-img", "qemu-io"))
MIB = 1 << 20

# format, create options; what cannot be changed in place is made by convert only
SHAPES = [
    ("qcow", ""), ("vdi", ""), ("vdi", "static=on"), ("vpc", ""), ("vpc", "force_size=on"), ("vpc", "subformat=fixed"),
    ("vpc", "subformat=fixed,force_size=on"), ("parallels", ""), ("parallels", "cluster_size=64k"), ("qed", ""),
    ("qed", "cluster_size=4k,table_size=2"), ("vmdk", ""), ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"), ("vmdk", "subformat=twoGbMaxExtentFlat"), ("vmdk", "zeroed_grain=on"),
    ("vmdk", "subformat=streamOptimized"), ("vhdx", ""), ("vhdx", "subformat=fixed"), ("vhdx", "block_size=1M"),
]
FORMATS = subprocess.run([IMG, "--help"], capture_output=True, text=True).stdout.split("Supported formats:")[1].split()
SHAPES = [s for s in SHAPES if s[0] in FORMATS]


def run(*argv, code=0):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    if done.returncode != code:
        sys.exit(f"{' '.join(argv)}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done.stdout


def options(text):
    return ["-o", text] if text else []


def make_raw(path, size, seed):
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        for _ in range(30):
            f.seek(rng.randrange(size))
            f.write(rng.randbytes(min(rng.randrange(1, 400000), size - f.tell())))


def digest(path, size):
    """Of the first bytes: some formats round the size up."""
    with open(path, "rb") as f:
        return hashlib.sha256(f.read(size)).hexdigest()


def clean():
    for name in os.listdir("."):
        if name.startswith("x"):
            os.unlink(name)


def test_backing_names():
    """qed notes another backing file; a vmdk overlay whose backing image was changed is not read."""
    for n, seed in (("a", 1), ("b", 2)):
        make_raw(f"x{n}.raw", 4 * MIB, seed)
        run(IMG, "convert", "-f", "raw", "-O", "qed", f"x{n}.raw", f"x{n}.qed")
    run(IMG, "create", "-q", "-f", "qed", "-b", "xa.qed", "-F", "qed", "xo.qed")
    run(IMG, "rebase", "-f", "qed", "-b", "xb.qed", "-F", "qed", "xo.qed")
    for tool in (IMG, PEER_IMG):
        assert "backing file: xb.qed" in run(tool, "info", "xo.qed")
        run(tool, "compare", "-f", "qed", "-F", "raw", "xo.qed", "xa.raw")
    run(IMG, "rebase", "-u", "-f", "qed", "-b", "", "xo.qed")
    assert "backing file" not in run(PEER_IMG, "info", "xo.qed")
    run(IMG, "create", "-q", "-f", "vmdk", "xa.vmdk", "1M")
    run(IMG, "create", "-q", "-f", "vmdk", "-b", "xa.vmdk", "-F", "vmdk", "xo.vmdk")
    run(IO, "-f", "vmdk", "-c", "read 0 64k", "xo.vmdk")
    run(IO, "-f", "vmdk", "-c", "write 0 64k", "xa.vmdk")
    for tool in (IO, PEER_IO):
        run(tool, "-f", "vmdk", "-c", "read 0 64k", "xo.vmdk", code=1)


def test_copy_range():
    """convert -C: the same bytes, whether the host can copy them or not."""
    make_raw("x.raw", 6 * MIB, 7)
    want = digest("x.raw", 6 * MIB)
    run(IMG, "convert", "-f", "raw", "-O", "qcow2", "x.raw", "x.qcow2")
    run(IMG, "convert", "-c", "-f", "raw", "-O", "qcow2", "x.raw", "xc.qcow2")
    for source in ("x.raw", "x.qcow2", "xc.qcow2"):
        run(IMG, "convert", "-C", "-O", "raw", source, "xo.raw")
        assert digest("xo.raw", 6 * MIB) == want, source
        run(IMG, "convert", "-C", "-O", "qcow2", source, "xo.qcow2")
        run(PEER_IMG, "compare", "-q", "xo.qcow2", "x.raw")
    run(IMG, "convert", "-C", "-S", "4k", "-O", "raw", "x.raw", "xo.raw", code=1)


def test_large_vmdk():
    for maker, reader in ((IMG, PEER_IO), (PEER_IMG, IO)):
        clean()
        run(maker, "create", "-q", "-f", "vmdk", "x.vmdk", "16T")
        run(reader, "-f", "vmdk", "-c", "write -P 3 15T 1M", "-c", "read -P 3 15T 1M", "-c", "read -P 0 14T 1M", "x.vmdk")
        for tool in (IO, PEER_IO):
            run(tool, "-f", "vmdk", "-c", "read -P 3 15T 1M", "x.vmdk")


def test_convert():
    size = 20 * MIB
    make_raw("src.raw", size, 1)
    want = digest("src.raw", size)
    for fmt, opts in SHAPES:
        for maker, reader in ((IMG, PEER_IMG), (PEER_IMG, IMG), (IMG, IMG)):
            clean()
            run(maker, "convert", "-f", "raw", "-O", fmt, *options(opts), "src.raw", "x.img")
            run(reader, "convert", "-f", fmt, "-O", "raw", "x.img", "back.raw")
            assert digest("back.raw", size) == want, (fmt, opts, maker)
            sizes = [json.loads(run(t, "info", "--output=json", "x.img")) for t in (PEER_IMG, IMG)]
            for key in ("virtual-size", "format", "cluster-size"):
                assert sizes[0].get(key) == sizes[1].get(key), (fmt, opts, key, sizes)
            for tool in (IMG, PEER_IMG):
                if fmt not in ("vpc", "qcow"):
                    run(tool, "check", "-q", "-f", fmt, "x.img")


def test_map():
    make_raw("src.raw", 16 * MIB, 2)
    for fmt, opts in SHAPES:
        if fmt == "vhdx":  # all is data to the peer
            continue
        clean()
        run(PEER_IMG, "convert", "-f", "raw", "-O", fmt, *options(opts), "src.raw", "x.img")
        maps = [tap.old_map(run(t, "map", "--output=json", "-f", fmt, "x.img")) for t in (PEER_IMG, IMG)]

        assert maps[0] == maps[1], (fmt, opts, maps)


def commands(rng, model, count, parallel):
    out = []
    for _ in range(count):
        length, at = rng.choice([512, 4096, 65536, rng.randrange(1, 300000)]), rng.randrange(len(model) - 900000)
        at = at // 512 * 512 if rng.randrange(2) else at
        kind, byte = rng.randrange(6), rng.randrange(1, 256)
        if kind < 3:
            out.append(f"write -P {byte} {at} {length}")
            model[at:at + length] = bytes([byte]) * length
        elif kind == 3:
            out.append(f"write -z {rng.choice(['', '-u '])}{at} {length}")
            model[at:at + length] = bytes(length)
        elif kind == 4 and parallel:
            for n in range(3):
                out.append(f"aio_write -P {byte} {at + n * length} {length}")
                model[at + n * length:at + (n + 1) * length] = bytes([byte]) * (min(at + (n + 1) * length, len(model)) - at - n * length)
            out.append("aio_flush")
        else:
            out.append("flush")
    return out


def test_random_writes():
    """Both programs change an image in turns; its contents follow a model."""
    for number, (fmt, opts) in enumerate(SHAPES):
        if "streamOptimized" in opts:
            continue
        clean()
        rng, size = random.Random(number), 8 * MIB
        model = bytearray(size + MIB)
        run(rng.choice([IMG, PEER_IMG]), "create", "-q", "-f", fmt, *options(opts), "x.img", "9M")
        for turn in range(4):
            tool = (IO, PEER_IO)[turn % 2]
            flags = [x for c in commands(rng, model, 25, fmt != "qed" or tool == IO) for x in ("-c", c)]
            out = run(tool, "-f", fmt, *flags, "x.img")  # the peer's qed does not stand requests at once
            assert "failed" not in out, (fmt, opts, out)
            for reader in (IMG, PEER_IMG):
                run(reader, "convert", "-f", fmt, "-O", "raw", "x.img", "back.raw")
                with open("back.raw", "rb") as f:
                    assert f.read(len(model)) == bytes(model), (fmt, opts, turn, tool, reader)
                if fmt not in ("vpc", "qcow"):
                    run(reader, "check", "-q", "-f", fmt, "x.img")


def test_backing():
    for fmt in ("qed", "vmdk"):
        if fmt not in FORMATS:
            continue
        clean()
        make_raw("b.raw", 4 * MIB, 3)
        base = "b.raw" if fmt == "qed" else "xb.vmdk"
        if fmt == "vmdk":
            run(IMG, "convert", "-f", "raw", "-O", "vmdk", "b.raw", base)
        for maker, other in ((IMG, PEER_IO), (PEER_IMG, IO)):
            for name in ("x1", "x2"):
                if os.path.exists(name):
                    os.unlink(name)
            run(maker, "create", "-q", "-f", fmt, "-b", base, "-F", "raw" if fmt == "qed" else "vmdk", "x1")
            run(other, "-f", fmt, "-c", "write -P 5 1000 100k", "-c", "write -z 2M 64k", "x1")
            with open("b.raw", "rb") as f:
                want = bytearray(f.read())
            want[1000:1000 + 102400] = b"\5" * 102400
            want[2 * MIB:2 * MIB + 65536] = bytes(65536)
            for tool in (IMG, PEER_IMG):
                run(tool, "convert", "-f", fmt, "-O", "raw", "x1", "back.raw")
                with open("back.raw", "rb") as f:
                    assert f.read() == bytes(want), (fmt, maker, tool)


def make_cloop(path, data, block):
    chunks = [zlib.compress(data[i:i + block]) for i in range(0, len(data), block)]
    script = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"
    at = 136 + 8 * (len(chunks) + 1)
    offsets = [at + sum(map(len, chunks[:i])) for i in range(len(chunks) + 1)]
    with open(path, "wb") as f:
        f.write(script.ljust(128, b"\0") + struct.pack(">II", block, len(chunks)))
        f.write(struct.pack(f">{len(offsets)}Q", *offsets) + b"".join(chunks))


def make_bochs(path, data, extent, version):
    count, bitmap = len(data) // extent, max(extent // 512 // 8, 1)
    head = b"Bochs Virtual HD Image".ljust(32, b"\0") + b"Redolog".ljust(16, b"\0") + b"Growing".ljust(16, b"\0")
    head += struct.pack("<IIIII", version, 512, count, bitmap, extent)
    head += (b"" if version == 0x10000 else bytes(4)) + struct.pack("<Q", len(data))
    catalog, slots = [], []
    for i in range(count):
        piece = data[i * extent:(i + 1) * extent]
        used = [any(piece[k:k + 512]) for k in range(0, extent, 512)]
        catalog.append(len(slots) if any(used) else 0xffffffff)
        if any(used):
            bits = bytearray((bitmap + 511) // 512 * 512)
            for k, present in enumerate(used):
                bits[k // 8] |= present << k % 8
            slots.append(bytes(bits) + piece)
    slots.reverse()
    catalog = [c if c == 0xffffffff else len(slots) - 1 - c for c in catalog]
    with open(path, "wb") as f:
        f.write(head.ljust(512, b"\0") + struct.pack(f"<{count}I", *catalog) + b"".join(slots))


def test_read_only_formats():
    """Images made here by hand; both programs must read the same, what was put in."""
    make_raw("src.raw", 4 * MIB, 5)
    with open("src.raw", "rb") as f:
        data = f.read()
    makers = [("cloop", lambda: make_cloop("x.img", data, 65536)), ("bochs", lambda: make_bochs("x.img", data, 65536, 0x20000)),
              ("bochs", lambda: make_bochs("x.img", data, 4096, 0x10000))]
    for fmt, make in makers:
        make()
        for tool in (PEER_IMG, IMG):
            run(tool, "convert", "-f", fmt, "-O", "raw", "x.img", "back.raw")
            with open("back.raw", "rb") as f:
                assert f.read() == data, (fmt, tool)
            assert json.loads(run(tool, "info", "--output=json", "x.img"))["format"] == fmt
        done = subprocess.run([IO, "-f", fmt, "-c", "write 0 1", "x.img"], capture_output=True, text=True)
        assert done.returncode == 1, done
        with open("x.img", "rb") as f:
            good = f.read()
        rng = random.Random(fmt)
        for _ in range(60):
            bad = bytearray(good)
            for _ in range(rng.randrange(1, 5)):
                bad[rng.choice([rng.randrange(64, 160), rng.randrange(len(bad)), rng.randrange(512, 1024)])] = rng.randrange(256)
            with open("xbad.img", "wb") as f:
                f.write(bad)
            done = subprocess.run([IMG, "convert", "-f", fmt, "-O", "raw", "xbad.img", "xout.raw"], capture_output=True,
                                  preexec_fn=limited, timeout=60)
            assert done.returncode in (0, 1, -25), (fmt, done)


def test_vhdx_log():
    """What a program that crashed left in the log is played back, as the peer does it."""
    if "vhdx" not in FORMATS:
        return
    for number in range(6):
        clean()
        run(PEER_IMG, "create", "-q", "-f", "vhdx", "-o", "block_size=1M", "x.vhdx", "64M")
        flags = [x for k in range(number + 1) for x in ("-c", f"write -P {k + 1} {k * 3}M 100k")]
        subprocess.run([PEER_IO, "-f", "vhdx", *flags, "-c", "abort", "x.vhdx"], capture_output=True)
        shutil.copy("x.vhdx", "xpeer.vhdx")
        for tool, image in ((PEER_IMG, "xpeer.vhdx"), (IMG, "x.vhdx")):
            run(tool, "check", "-q", "-r", "all", "-f", "vhdx", image)
            run(tool, "check", "-q", "-f", "vhdx", image)
        run(IMG, "compare", "-f", "vhdx", "-F", "vhdx", "x.vhdx", "xpeer.vhdx")
        run(PEER_IMG, "compare", "-f", "vhdx", "-F", "vhdx", "x.vhdx", "xpeer.vhdx")
        run(IO, "-f", "vhdx", *[x for k in range(number + 1) for x in ("-c", f"read -P {k + 1} {k * 3}M 100k")], "x.vhdx")


def limited():
    resource.setrlimit(resource.RLIMIT_AS, (512 * MIB, 512 * MIB))
    resource.setrlimit(resource.RLIMIT_CPU, (4, 4))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))


def test_hostile():
    """Images with wrong headers and tables: no crash, no long wait, no lot of memory."""
    rng = random.Random(int(os.environ.get("FUZZ_SEED", "1")))
    rounds = int(os.environ.get("FUZZ_ROUNDS", "12"))
    interesting = [0, 1, 0x7f, 0x80, 0xff]
    for fmt, opts in SHAPES:
        clean()
        make_raw("src.raw", 2 * MIB, 4)
        run(PEER_IMG, "convert", "-f", "raw", "-O", fmt, *options(opts), "src.raw", "x.img")
        with open("x.img", "rb") as f:
            good = f.read(4 * MIB)
        marks = [i for i in range(0, min(len(good), MIB), 512) if any(good[i:i + 512])][:6] + [0, 0, 0]
        tail = max(len(good) - 512, 0)
        for _ in range(rounds):
            bad = bytearray(good)
            for _ in range(rng.randrange(1, 6)):
                at = rng.choice(marks + [tail]) + rng.choice([rng.randrange(64), rng.randrange(512)])
                width = rng.choice([1, 2, 4, 4, 8])
                for k in range(width):
                    if at + k < len(bad):
                        bad[at + k] = rng.choice(interesting + [rng.randrange(256)])
            if rng.randrange(8) == 0:
                del bad[rng.randrange(len(bad)):]
            with open("xbad.img", "wb") as f:
                f.write(bad)
            for command in (["info"], ["check"], ["map"], ["convert", "-O", "raw"]):
                argv = [IMG, command[0], "-f", fmt, *command[1:], "xbad.img"]
                start = time.monotonic()
                target = ["xout.raw"] if command[0] == "convert" else []
                done = subprocess.run([*argv, *target], capture_output=True, preexec_fn=limited, timeout=60)
                took = time.monotonic() - start
                if done.returncode < 0 and done.returncode not in (-25, ):
                    shutil.copy("xbad.img", "/var/tmp/formats-test-crash.img")
                    sys.exit(f"{argv}: signal {-done.returncode} after {took:.1f} s\n{done.stderr.decode()}\n"
                             "the image is kept in /var/tmp/formats-test-crash.img")


def with_peer(test):
    if not PEER_IMG or not PEER_IO or os.path.samefile(PEER_IMG, IMG):
        raise tap.Skip("no other qemu-img and qemu-io")
    tap.in_scratch(test)


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=with_peer)
