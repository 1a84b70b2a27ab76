#!/usr/bin/env python3
"""qemu-img against another qemu-img: images that one makes, the other reads, checks and extends.

usage: peer_test.py OUR-QEMU-IMG OUR-QEMU-IO
Skipped (exit code 77) where no other qemu-img is installed.
"""
import hashlib
import json
import os
import pty
import random
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

OURS, IO = (os.path.abspath(p) for p in sys.argv[1:3])
PEER = shutil.which("qemu-img", path="/usr/bin:/usr/local/bin")
PEER_IO = shutil.which("qemu-io", path="/usr/bin:/usr/local/bin")
MIB = 1 << 20


def run(*argv, code=0):
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != code:
        sys.exit(f"{' '.join(argv)}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done.stdout


def info(tool, image):
    """Without what is below the image, of which older programs do not tell."""
    return run(tool, "info", image).split("Child node")[0]


def make_raw(path, size, seed):
    """Random data, text that compresses, zeroes and holes."""
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        at = 0
        while at < size:
            length = min(rng.randrange(1, 300) * 4096, size - at)
            kind = rng.randrange(4)
            f.seek(at)
            if kind == 0:
                f.write(rng.randbytes(length))
            elif kind == 1:
                f.write((b"all work and no play %6d\n" % at * (length // 20 + 1))[:length])
            elif kind == 2:
                f.write(bytes(length))
            at += length


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


SHAPES = [
    [], ["compat=0.10"], ["cluster_size=512"], ["cluster_size=4k", "refcount_bits=1"],
    ["cluster_size=64k", "refcount_bits=64"], ["cluster_size=2M"], ["lazy_refcounts=on"],
    ["extended_l2=on", "cluster_size=32k"], ["compression_type=zstd"], ["preallocation=metadata"],
]


def options(shape):
    return ["-o", ",".join(shape)] if shape else []


def test_convert():
    """raw -> qcow2 by one, qcow2 -> raw by the other, both checked by both."""
    make_raw("src.raw", 12 * MIB + 512, 1)
    want = digest("src.raw")
    for shape in SHAPES:
        for compress in ([], ["-c"]):
            if compress and "preallocation=metadata" in shape:
                run(OURS, "convert", "-c", "-O", "qcow2", *options(shape), "src.raw", "x.qcow2", code=1)
                continue
            for maker, reader in ((OURS, PEER), (PEER, OURS)):
                run(maker, "convert", *compress, "-f", "raw", "-O", "qcow2", *options(shape), "src.raw", "x.qcow2")
                for checker in (OURS, PEER):
                    run(checker, "check", "x.qcow2")
                run(reader, "convert", "-O", "raw", "x.qcow2", "back.raw")
                assert digest("back.raw") == want, (shape, compress, maker)
                run(OURS, "compare", "src.raw", "x.qcow2")
                assert run(OURS, "check", "x.qcow2") == run(PEER, "check", "x.qcow2"), (shape, compress, maker)
                # The peer shows a place for parts of clusters that are not in use.
                if not compress and "extended_l2=on" not in shape:
                    assert tap.old_map(run(OURS, "map", "--output=json", "x.qcow2")) == \
                        tap.old_map(run(PEER, "map", "--output=json", "x.qcow2")), (shape, maker)


def test_odd_size():
    """A source whose length is no multiple of sectors, compressed, and cut by dd."""
    make_raw("odd.raw", 3 * MIB + 4321, 8)
    run(OURS, "convert", "-c", "-O", "qcow2", "odd.raw", "odd.qcow2")
    run(PEER, "check", "odd.qcow2")
    run(PEER, "compare", "odd.raw", "odd.qcow2")
    # Not skip with count: the peer of Debian 12 takes the skipped blocks off the count.
    for args in (["bs=64k"], ["bs=100k", "count=5"], ["skip=6000"]):
        for tool, name in ((OURS, "o"), (PEER, "p")):
            run(tool, "dd", "-f", "raw", "-O", "qcow2", "if=odd.raw", f"of={name}.qcow2", *args)
        run(OURS, "compare", "o.qcow2", "p.qcow2")


def test_bench():
    run(OURS, "create", "-q", "-f", "qcow2", "bench.qcow2", "16M")
    for args in ([], ["-w"], ["-w", "--flush-interval=64"], ["-w", "--flush-interval=64", "--no-drain"], ["-S", "64k"]):
        common = ["bench", "-c", "300", "-d", "8", "-f", "qcow2", *args, "bench.qcow2"]
        assert run(OURS, *common).splitlines()[0] == run(PEER, *common).splitlines()[0], args
    run(PEER, "check", "bench.qcow2")


def test_rebase_compressed():
    """rebase -c: what comes from the old backing file is stored compressed, also where clusters are large or have parts."""
    make_raw("old.raw", 5 * MIB + 4096, 6)
    make_raw("new.raw", 3 * MIB, 7)
    for shape in ("cluster_size=64k", "cluster_size=2M", "extended_l2=on", "compression_type=zstd", "cluster_size=4k"):
        run(OURS, "create", "-q", "-f", "qcow2", "-o", shape, "-b", "old.raw", "-F", "raw", "c.qcow2", "6M")
        if PEER_IO:
            run(PEER_IO, "-c", "write -P 7 100k 3k", "-c", "write -P 9 2500k 100k", "c.qcow2")
        run(OURS, "convert", "-O", "raw", "c.qcow2", "want.raw")
        run(OURS, "rebase", "-c", "-b", "new.raw", "-F", "raw", "c.qcow2")
        run(PEER, "compare", "c.qcow2", "want.raw")
        check = json.loads(run(PEER, "check", "--output=json", "c.qcow2"))
        assert check["compressed-clusters"] > 0, (shape, check)
        run(OURS, "rebase", "-c", "-b", "", "c.qcow2")
        run(PEER, "compare", "c.qcow2", "want.raw")
        run(PEER, "check", "-q", "c.qcow2")


def test_sparse():
    run(OURS, "create", "-q", "-f", "raw", "hole.raw", "1G")
    run(OURS, "convert", "-O", "qcow2", "hole.raw", "hole.qcow2")
    run(OURS, "convert", "hole.qcow2", "hole2.raw")
    assert os.stat("hole2.raw").st_blocks < 100 and os.stat("hole.qcow2").st_blocks < 2000
    assert os.path.getsize("hole2.raw") == 1 << 30


def test_backing():
    """Chains over both formats with relative names, written by the peer, committed and rebased by us."""
    make_raw("base.raw", 6 * MIB, 2)
    os.makedirs("sub", exist_ok=True)
    run(OURS, "create", "-q", "-f", "qcow2", "-b", "../base.raw", "-F", "raw", "sub/mid.qcow2")
    run(PEER, "create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "sub/top.qcow2", "8M")
    if PEER_IO:
        run(PEER_IO, "-c", "write -P 7 1M 300k", "-c", "write -z 3M 128k", "-c", "write -P 9 7M 10k", "sub/top.qcow2")
        run(PEER_IO, "-c", "write -P 5 2M 1000", "sub/mid.qcow2")
    for tool in (OURS, PEER):
        run(tool, "convert", "-O", "raw", "sub/top.qcow2", f"{'o' if tool == OURS else 'p'}.raw")
    assert digest("o.raw") == digest("p.raw")
    assert tap.old_map(run(OURS, "map", "--output=json", "sub/top.qcow2")) == \
        tap.old_map(run(PEER, "map", "--output=json", "sub/top.qcow2"))
    chain = [i["filename"] for i in json.loads(run(OURS, "info", "--backing-chain", "--output=json", "sub/top.qcow2"))]
    assert chain == ["sub/top.qcow2", "sub/mid.qcow2", "sub/../base.raw"], chain
    # Over another base the contents stay.
    make_raw("other.raw", 5 * MIB, 3)
    run(OURS, "rebase", "-b", "../other.raw", "-F", "raw", "sub/top.qcow2")
    run(OURS, "compare", "sub/top.qcow2", "o.raw")
    run(PEER, "check", "sub/top.qcow2")
    run(OURS, "rebase", "-b", "", "sub/top.qcow2")
    run(PEER, "compare", "sub/top.qcow2", "o.raw")
    # Down into the base.
    run(PEER, "create", "-q", "-f", "qcow2", "-b", "sub/top.qcow2", "-F", "qcow2", "last.qcow2")
    if PEER_IO:
        run(PEER_IO, "-c", "write -P 3 500k 900k", "last.qcow2")
    run(PEER, "convert", "-O", "raw", "last.qcow2", "want.raw")
    run(OURS, "commit", "-q", "last.qcow2")
    run(PEER, "compare", "sub/top.qcow2", "want.raw")
    run(PEER, "check", "last.qcow2")


def test_discard_overlay():
    """What is discarded above a backing file reads as zeroes, where the image can say so."""
    if not PEER_IO:
        raise tap.Skip("no other qemu-io")
    make_raw("base.raw", 3 * MIB + 4096, 9)
    for shape in ("compat=1.1", "compat=0.10", "extended_l2=on", "cluster_size=4k", "cluster_size=2M", "data_file=x.data"):
        maps = []
        for tool, image in ((PEER_IO, "p.qcow2"), (IO, "o.qcow2")):
            run(OURS, "create", "-q", "-f", "qcow2", "-o", shape.replace("x.data", image + ".data"), "-b", "base.raw",
                "-F", "raw", image, "9M")
            run(tool, "-d", "unmap", "-c", "write -P 3 0 100k", "-c", "write -P 4 4M 64k", "-c", "discard 64k 1M", "-c", "discard 2M 7M",
                "-c", "discard 4100 4096", image)
            run(PEER, "check", "-q", image)
            maps.append([(e["start"], min(e["length"], 3 * MIB - e["start"]), e["zero"]) for e in json.loads(run(PEER, "map", "--output=json", image))
                         if e["start"] < 3 * MIB])
        assert maps[0] == maps[1], (shape, maps)
        run(OURS, "compare", "p.qcow2", "o.qcow2")


def test_snapshots():
    make_raw("s.raw", 4 * MIB, 4)
    run(OURS, "convert", "-O", "qcow2", "s.raw", "s.qcow2")
    run(OURS, "snapshot", "-c", "one", "s.qcow2")
    if PEER_IO:
        run(PEER_IO, "-c", "write -P 1 0 2M", "s.qcow2")
    run(PEER, "snapshot", "-c", "two", "s.qcow2")
    names = [s["name"] for s in json.loads(run(OURS, "info", "--output=json", "s.qcow2"))["snapshots"]]
    assert names == ["one", "two"]
    run(PEER, "check", "s.qcow2")
    run(OURS, "convert", "-l", "one", "-O", "raw", "s.qcow2", "one.raw")
    assert digest("one.raw") == digest("s.raw")
    run(OURS, "snapshot", "-a", "one", "s.qcow2")
    run(PEER, "compare", "s.raw", "s.qcow2")
    run(PEER, "check", "s.qcow2")
    run(OURS, "snapshot", "-d", "one", "s.qcow2")
    run(PEER, "snapshot", "-d", "two", "s.qcow2")
    run(OURS, "check", "s.qcow2")
    run(PEER, "compare", "s.raw", "s.qcow2")


def bitmap_names(tool, image):
    data = json.loads(run(tool, "info", "--output=json", image))["format-specific"]["data"]
    return [(b["name"], b["granularity"], b["flags"]) for b in data.get("bitmaps", [])]


def test_bitmaps():
    """Persistent bitmaps made, filled, merged and removed by either."""
    if not PEER_IO:
        return
    for shape in ([], ["cluster_size=4k"], ["cluster_size=512", "refcount_bits=1"], ["extended_l2=on"]):
        for one, other in ((OURS, PEER), (PEER, OURS)):
            run(one, "create", "-q", "-f", "qcow2", *options(shape), "b.qcow2", "40M")
            run(one, "bitmap", "--add", "b.qcow2", "first")
            run(other, "bitmap", "--add", "--disable", "-g", "8k", "b.qcow2", "second")
            run(PEER_IO, "-c", "write 1M 300k", "-c", "write 39M 1M", "b.qcow2")
            run(one, "bitmap", "--merge", "first", "b.qcow2", "second")
            run(other, "bitmap", "--clear", "b.qcow2", "first")
            run(other, "bitmap", "--add", "--merge", "second", "b.qcow2", "third")
            for tool in (OURS, PEER):
                run(tool, "check", "b.qcow2")
            assert bitmap_names(OURS, "b.qcow2") == bitmap_names(PEER, "b.qcow2"), shape
            assert info(OURS, "b.qcow2") == info(PEER, "b.qcow2"), shape
            if shutil.which("qemu-nbd") and shape == []:
                assert dirty_ranges("b.qcow2", "second") == dirty_ranges("b.qcow2", "third") != []
            for name in ("first", "second", "third"):
                run(one, "bitmap", "--remove", "b.qcow2", name)
            assert not bitmap_names(PEER, "b.qcow2")
            run(PEER, "check", "b.qcow2")


def dirty_ranges(image, name):
    """What the peer's NBD server says of the bitmap."""
    with subprocess.Popen(["/usr/bin/qemu-nbd", "-r", "-f", "qcow2", "-k", os.path.abspath("nbd.sock"), "-B", name, image]) as server:
        opts = f"driver=nbd,server.type=unix,server.path={os.path.abspath('nbd.sock')},x-dirty-bitmap=qemu:dirty-bitmap:{name}"
        for _ in range(100):
            done = subprocess.run([PEER, "map", "--output=json", "--image-opts", opts], capture_output=True, text=True)
            if done.returncode == 0:
                break
            time.sleep(0.05)
        server.wait()
    return [(r["start"], r["length"]) for r in json.loads(done.stdout) if not r["data"]]


def test_convert_bitmaps():
    """--bitmaps: what either makes is the same; what is broken, or cannot be, is refused."""
    run(OURS, "create", "-q", "-f", "qcow2", "b.qcow2", "4M")
    run(OURS, "bitmap", "--add", "-g", "512", "b.qcow2", "fine")
    run(OURS, "bitmap", "--add", "b.qcow2", "held")
    subprocess.run([PEER_IO, "-c", "write 1M 100k", "b.qcow2"], check=True, capture_output=True)
    run(OURS, "bitmap", "--disable", "b.qcow2", "held")
    for tool in (OURS, PEER):
        run(tool, "convert", "--bitmaps", "-O", "qcow2", "b.qcow2", "to.qcow2")
        run(PEER, "check", "-q", "to.qcow2")
        assert bitmap_names(PEER, "to.qcow2") == bitmap_names(PEER, "b.qcow2")
        assert dirty_ranges("to.qcow2", "fine") == dirty_ranges("b.qcow2", "fine") != []
        run(tool, "convert", "--bitmaps", "-O", "raw", "b.qcow2", "to.raw", code=1)
        run(tool, "convert", "--skip-broken-bitmaps", "-O", "qcow2", "b.qcow2", "to.qcow2", code=1)
    with open("broken.qcow2", "wb") as f:  # one that was in use
        with open("b.qcow2", "rb") as good:
            data = bytearray(good.read())
        at = -1
        while (at := data.find(b"held", at + 1)) > 0:  # older directories may still lie there
            data[at - 9] |= 1
        f.write(data)
    for tool in (OURS, PEER):
        run(tool, "convert", "--bitmaps", "-O", "qcow2", "broken.qcow2", "to.qcow2", code=1)
        run(tool, "convert", "--bitmaps", "--skip-broken-bitmaps", "-O", "qcow2", "broken.qcow2", "to.qcow2")
        assert [name for name, *_ in bitmap_names(PEER, "to.qcow2")] == ["fine"]


def test_last_bit():
    """An image whose end is no multiple of the bitmap's granularity, dirty up to there."""
    for size in (MIB + 512, 65536 * 3 - 512, 512):
        run(OURS, "create", "-q", "-f", "qcow2", "odd.qcow2", str(size))
        for name in ("a", "b"):
            run(OURS, "bitmap", "--add", "odd.qcow2", name)
        subprocess.run([PEER_IO, "-c", f"write {size - 512} 512", "odd.qcow2"], check=True, capture_output=True)
        run(OURS, "bitmap", "--clear", "odd.qcow2", "b")
        assert dirty_ranges("odd.qcow2", "b") == []
        run(OURS, "bitmap", "--merge", "a", "odd.qcow2", "b")
        run(PEER, "check", "-q", "odd.qcow2")
        assert dirty_ranges("odd.qcow2", "b") == dirty_ranges("odd.qcow2", "a") != []
        run(OURS, "convert", "--bitmaps", "-O", "qcow2", "odd.qcow2", "to.qcow2")
        assert dirty_ranges("to.qcow2", "b") == dirty_ranges("odd.qcow2", "a")


def test_rate():
    make_raw("src.raw", 4 * MIB, 5)
    data = len(open("src.raw", "rb").read().replace(bytes(4096), b""))
    start = time.monotonic()
    run(OURS, "convert", "-r", "1M", "-O", "raw", "src.raw", "to.raw")
    assert time.monotonic() - start > data / MIB / 2
    assert digest("to.raw") == digest("src.raw")
    run(OURS, "convert", "-r", "nothing", "-O", "raw", "src.raw", "to.raw", code=1)


def test_amend():
    if not PEER_IO:
        return
    for change in ("compat=0.10", "compat=1.1", "refcount_bits=1", "refcount_bits=64", "lazy_refcounts=on", "size=9M"):
        make_raw("am.raw", 4 * MIB, 7)
        run(OURS, "convert", "-O", "qcow2", "am.raw", "am.qcow2")
        run(PEER_IO, "-c", "write -z 1M 1M", "-c", "discard 2M 128k", "am.qcow2")
        run(PEER, "convert", "-O", "raw", "am.qcow2", "am.raw")
        run(OURS, "amend", "-o", change, "am.qcow2")
        run(PEER, "check", "am.qcow2")
        run(PEER, "compare", "am.raw", "am.qcow2")
        shown = run(PEER, "info", "am.qcow2")
        key, value = change.split("=")
        assert {"compat": f"compat: {value}", "refcount_bits": f"refcount bits: {value}", "size": "9437184 bytes",
                "lazy_refcounts": "lazy refcounts: true"}[key] in shown, shown


def test_data_file():
    """Guest data in a file of its own; with data_file_raw that is the disk."""
    if not PEER_IO:
        return
    make_raw("df.raw", 5 * MIB, 9)
    for shape in ([], ["data_file_raw=on"], ["cluster_size=4k"], ["extended_l2=on", "data_file_raw=on"], ["preallocation=metadata"]):
        for one, other in ((OURS, PEER), (PEER, OURS)):
            run(one, "convert", "-O", "qcow2", "-o", ",".join(["data_file=ext.bin", *shape]), "df.raw", "df.qcow2")
            for tool in (OURS, PEER):
                run(tool, "check", "df.qcow2")
                run(tool, "compare", "df.raw", "df.qcow2")
            run(OURS, "convert", "-O", "raw", "df.qcow2", "changed.raw")
            for step in ("write -P 3 1M 100k", "write -z 2M 300k", "discard 3M 256k", "write -P 4 3100k 10k"):
                run(PEER_IO, "-c", step, "df.qcow2")
            run(one, "resize", "-q", "df.qcow2", "6M")
            for tool, name in ((OURS, "o.raw"), (PEER, "p.raw")):
                run(tool, "check", "df.qcow2")
                run(tool, "convert", "-O", "raw", "df.qcow2", name)
            assert digest("o.raw") == digest("p.raw"), shape
            if "data_file_raw=on" in shape:
                assert digest("o.raw") == digest("ext.bin"), (shape, one)
            assert info(OURS, "df.qcow2") == info(PEER, "df.qcow2"), shape
    run(OURS, "snapshot", "-c", "s", "df.qcow2", code=1)


def test_resize():
    for tool, other in ((OURS, PEER), (PEER, OURS)):
        make_raw("r.raw", 4 * MIB, 5)
        run(OURS, "convert", "-O", "qcow2", "r.raw", "r.qcow2")
        run(tool, "resize", "-q", "r.qcow2", "+3G")
        run(other, "check", "r.qcow2")
        run(tool, "resize", "-q", "--shrink", "r.qcow2", "3M")
        run(other, "check", "r.qcow2")
        run(tool, "resize", "-q", "r.qcow2", "4M")
        with open("r.raw", "r+b") as f:
            f.truncate(3 * MIB)
            f.truncate(4 * MIB)
        run(other, "compare", "r.raw", "r.qcow2")
    run(OURS, "resize", "-q", "r.qcow2", "1M", code=1)


def test_repair():
    """Refcounts overwritten: found by both, repaired by us."""
    make_raw("d.raw", 2 * MIB, 6)
    for value, code in ((b"\0\2", 3), (b"\0\0", 2)):
        run(OURS, "convert", "-O", "qcow2", "-S", "0", "d.raw", "d.qcow2")
        with open("d.qcow2", "r+b") as f:
            f.seek(2 * 65536 + (2 * 40 if code == 3 else 2 * 10))
            f.write(value)
            f.truncate(50 * 65536)
        assert subprocess.run([PEER, "check", "d.qcow2"], capture_output=True).returncode == code
        run(OURS, "check", "d.qcow2", code=code)
        run(OURS, "check", "-r", "all" if code == 2 else "leaks", "d.qcow2")
        run(PEER, "check", "d.qcow2")
        run(PEER, "compare", "d.raw", "d.qcow2")


def test_check_words():
    """What check and repair say is what the peer says."""
    for value, at in ((b"\0\0", 5), (b"\0\2", 5), (b"\0\2", 4), (b"\0\2", 0), (b"\0\0", 4), (b"\0\1", 9)):
        for flags in ([], ["-r", "leaks"], ["-r", "all"]):
            if value == b"\0\0" and "leaks" in flags:
                continue  # the peer refuses to look on
            said = []
            for tool in (OURS, PEER):
                run(OURS, "create", "-q", "-f", "qcow2", "w.qcow2", "1M")
                run(PEER_IO, "-c", "write 0 64k", "w.qcow2")
                with open("w.qcow2", "r+b") as f:
                    f.seek(2 * 65536 + 2 * at)
                    f.write(value)
                    f.truncate(10 * 65536)
                done = subprocess.run([tool, "check", *flags, "w.qcow2"], capture_output=True, text=True)
                said.append((done.returncode, done.stdout.split("Image end")[0], done.stderr))
            assert said[0] == said[1], (value, at, flags, *said)


def test_locks():
    """An image that the peer writes to is refused, and the other way round."""
    if not PEER_IO:
        return
    run(OURS, "create", "-q", "-f", "qcow2", "l.qcow2", "1M")
    holder = subprocess.Popen([PEER_IO, "l.qcow2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdin.write(b"length\n")
    holder.stdin.flush()
    holder.stdout.readline()
    for command in (["info", "l.qcow2"], ["resize", "l.qcow2", "2M"], ["create", "-f", "raw", "l.qcow2", "1M"]):
        failed = subprocess.run([OURS, *command], capture_output=True, text=True)
        assert failed.returncode == 1 and '"write" lock' in failed.stderr, failed.stderr
    reader, writer = pty.openpty()  # people are told who it is
    subprocess.run([OURS, "info", "l.qcow2"], stdout=subprocess.DEVNULL, stderr=writer)
    os.close(writer)
    assert "qemu-io" in os.read(reader, 4096).decode()
    os.close(reader)
    run(OURS, "info", "-U", "l.qcow2")
    holder.communicate()
    run(OURS, "resize", "-q", "l.qcow2", "2M")


def with_peer(test):
    if not PEER or os.path.samefile(PEER, OURS):
        raise tap.Skip("no other qemu-img")
    tap.in_scratch(test)


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=with_peer)
