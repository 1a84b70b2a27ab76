#!/usr/bin/env python3
"""Disk images of macOS: read here, by another qemu-img and by dmg2img, and compared with what was packed.

usage: dmg_test.py OUR-QEMU-IMG OUR-QEMU-IO [TEST...]
"""
import json
import os
import random
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402
from dmg_image import ADC, BZIP2, RAW, ZLIB, make_dmg  # noqa: E402

IMG, IO = (os.path.abspath(p) for p in sys.argv[1:3])
PEER = shutil.which("qemu-img", path="/usr/bin:/usr/local/bin")
DMG2IMG = shutil.which("dmg2img")


def run(*argv, code=0):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, (argv, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def make_disk(sectors, seed):
    rng, disk = random.Random(seed), b""
    while len(disk) < sectors * 512:
        length = rng.randrange(1, 40000)
        disk += rng.choice([bytes, lambda n: bytes([rng.randrange(256)]) * n, rng.randbytes, lambda n: b"macOS " * (n // 6)])(length)
    return disk[:sectors * 512]


def put(name, data):
    with open(name, "wb") as f:
        f.write(data)


def get(name):
    with open(name, "rb") as f:
        return f.read()


def test_reading():
    """Every sort of chunk, in both sorts of tables, with data that begin behind something else."""
    for seed, (kinds, more) in enumerate([([ZLIB], {}), ([RAW], {}), ([BZIP2], {}), ([ADC], {}), ([ZLIB, RAW, ADC, BZIP2], {}),
                                          ([ZLIB, RAW], {"fork": True}), ([ZLIB], {"before": 4096}),
                                          ([ZLIB, RAW], {"chunk_sectors": 2048})]):
        disk = make_disk(6000 + seed, seed)
        put("x.dmg", make_dmg(disk, kinds, **more))
        run(IMG, "convert", "-O", "raw", "x.dmg", "out")  # probed by its name
        assert get("out") == disk, (kinds, more)
        if PEER and not {BZIP2, ADC} & set(kinds):  # it needs a module for the one and does not know the other
            put("peer.raw", disk)
            run(PEER, "compare", "-f", "dmg", "-F", "raw", "x.dmg", "peer.raw")
        if DMG2IMG and not more.get("before"):
            os.path.exists("peer.out") and os.unlink("peer.out")
            run(DMG2IMG, "x.dmg", "peer.out")
            assert get("peer.out") == disk, (kinds, more, "dmg2img")


def test_parts():
    """Reads that begin and end anywhere, and what is known without reading."""
    disk = make_disk(3000, 9)
    put("x.dmg", make_dmg(disk, [ZLIB, RAW]))
    put("x.raw", disk)
    rng = random.Random(3)
    for _ in range(20):
        at = rng.randrange(len(disk) - 1)
        length = rng.randrange(1, min(100000, len(disk) - at) + 1)
        texts = [run(IO, "-r", "-f", fmt, "-c", f"read -v {at} {length}", "x." + fmt) for fmt in ("dmg", "raw")]
        assert [t.split("read ")[0] for t in texts[:1]] == [t.split("read ")[0] for t in texts[1:]], (at, length)
    for extent in json.loads(run(IMG, "map", "--output=json", "-f", "dmg", "x.dmg")):
        data = disk[extent["start"]:extent["start"] + extent["length"]]
        assert extent["zero"] == (not any(data)) or not extent["zero"], extent
        if "offset" in extent:
            assert get("x.dmg")[extent["offset"]:extent["offset"] + len(data)] == data


def test_refused():
    disk = make_disk(512, 1)
    good = make_dmg(disk, [ZLIB])
    put("x.dmg", good)
    assert "reading only" in run(IO, "-f", "dmg", "-c", "write 0 512", "x.dmg", code=1)
    put("bad.dmg", good[:-512])
    assert "koly" in run(IMG, "info", "-f", "dmg", "bad.dmg", code=1)
    at = good.index(b"<data>")
    put("bad.dmg", good[:at] + b"<<<<<<" + good[at + 6:])
    assert "not valid XML" in run(IMG, "info", "-f", "dmg", "bad.dmg", code=1)
    fork = make_dmg(disk, [ZLIB], fork=True)
    at = fork.index(b"\x80\x00\x00\x05")
    put("bad.dmg", fork[:at] + b"\x80\x00\x00\x07" + fork[at + 4:])
    assert "LZFSE" in run(IMG, "convert", "-f", "dmg", "-O", "raw", "bad.dmg", "out", code=1)
    put("bad.dmg", fork[:at + 8] + b"\xff" + fork[at + 9:])
    assert "outside any disk" in run(IMG, "info", "-f", "dmg", "bad.dmg", code=1)


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=tap.in_scratch)
