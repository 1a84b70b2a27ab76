#!/usr/bin/env python3
"""Makes the corpus of image-fuzz: small images of every format and feature, some of them by another qemu-img.

usage: image_corpus.py QEMU_IMG QEMU_IO DIRECTORY
"""
import os
import shutil
import struct
import subprocess
import sys
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "block"))
import dmg_image  # noqa: E402

IMG, IO = (os.path.abspath(p) for p in sys.argv[1:3])
DIR = os.path.abspath(sys.argv[3])
PEER = shutil.which("qemu-img", path="/usr/bin:/usr/local/bin")

SHAPES = [
    ("raw", "plain", ""), ("qcow2", "v3", ""), ("qcow2", "512", "cluster_size=512"), ("qcow2", "v2", "compat=0.10,cluster_size=4k"),
    ("qcow2", "ext", "extended_l2=on,cluster_size=16k"), ("qcow2", "lazy", "lazy_refcounts=on,cluster_size=1k"),
    ("qcow2", "ref1", "refcount_bits=1,cluster_size=512"), ("qcow2", "ref64", "refcount_bits=64,cluster_size=2k"),
    ("qcow2", "prealloc", "preallocation=metadata,cluster_size=4k"), ("qcow2", "zstd", "compression_type=zstd,cluster_size=4k"),
    ("qed", "plain", "cluster_size=4k,table_size=1"), ("vdi", "dynamic", ""), ("vdi", "static", "static=on"),
    ("vmdk", "sparse", ""), ("vmdk", "stream", "subformat=streamOptimized"), ("vmdk", "zeroed", "zeroed_grain=on"),
    ("vpc", "dynamic", ""), ("vpc", "fixed", "subformat=fixed"), ("vhdx", "dynamic", "block_size=1M"), ("parallels", "plain", ""),
]
SIZES = {"vhdx": "4M", "vpc": "2M"}


def run(*argv, check=True):
    return subprocess.run(argv, check=check, capture_output=True, text=True)


def make(tool, fmt, name, opts):
    path = os.path.join(DIR, f"{fmt}-{name}")
    more = ["-o", opts] if opts else []
    if run(tool, "create", "-q", "-f", fmt, *more, path, SIZES.get(fmt, "300k"), check=False).returncode:
        return None
    commands = ["write -P 1 0 20k", "write -P 2 100k 9k", "write -z 24k 8k"]
    if fmt == "vmdk" and "stream" in name:
        commands = ["write -c -P 1 0 64k"]
    run(IO, "-f", fmt, *[x for c in commands for x in ("-c", c)], path, check=False)
    return path


def more_qcow2():
    path = make(IMG, "qcow2", "snapshots", "cluster_size=1k")
    for n in ("one", "two"):
        run(IMG, "snapshot", "-c", n, path)
        run(IO, "-f", "qcow2", "-c", "write -P 9 8k 8k", path)
    path = make(IMG, "qcow2", "bitmaps", "cluster_size=1k")
    for n in ("a", "b"):
        run(IMG, "bitmap", "--add", "-g", "512", path, n)
    run(IO, "-f", "qcow2", "-c", "write -P 9 8k 8k", path)
    path = make(IMG, "qcow2", "compressed", "cluster_size=4k")
    run(IO, "-f", "qcow2", "-c", "write -c -P 9 64k 4k", "-c", "write -c -P 8 68k 4k", path)
    run(IMG, "create", "-q", "-f", "qcow2", "-o", "cluster_size=1k,data_file=" + os.path.join(DIR, "data.file"), os.path.join(DIR, "qcow2-external"), "300k")
    os.unlink(os.path.join(DIR, "data.file"))


def cloop():
    block = 4096
    chunks = [zlib.compress(bytes([i]) * block) for i in range(6)]
    head = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n".ljust(128, b"\0")
    at, table = 136 + 8 * (len(chunks) + 1), b""
    for chunk in chunks + [b""]:
        table += struct.pack(">Q", at)
        at += len(chunk)
    return head + struct.pack(">II", block, len(chunks)) + table + b"".join(chunks)


def bochs():
    extent, count, bitmap = 4096, 6, 1
    head = b"Bochs Virtual HD Image".ljust(32, b"\0") + b"Redolog".ljust(16, b"\0") + b"Growing".ljust(16, b"\0")
    head += struct.pack("<IIIII", 0x20000, 512, count, bitmap, extent) + struct.pack("<IQ", 0, count * extent)
    catalog = struct.pack("<6I", 0, 0xffffffff, 1, 2, 0xffffffff, 3)
    slots = b"".join(bytes([bits]).ljust(512, b"\0") + bytes([n]) * extent for n, bits in enumerate((0xff, 0x55, 0x0f, 0)))
    return head.ljust(512, b"\0") + catalog + slots


def dmgs():
    disk = b"".join(bytes([n]) * 4096 for n in (1, 0, 2, 3, 0, 4, 5, 6, 0))
    for name, kinds, fork in (("zlib", [dmg_image.ZLIB], False), ("mixed", [dmg_image.BZIP2, dmg_image.RAW, dmg_image.ADC], False),
                              ("fork", [dmg_image.ZLIB, dmg_image.RAW], True)):
        yield "dmg-" + name, dmg_image.make_dmg(disk, kinds, chunk_sectors=8, fork=fork)


def main():
    shutil.rmtree(DIR, ignore_errors=True)
    os.makedirs(DIR)
    for fmt, name, opts in SHAPES:
        make(IMG, fmt, name, opts)
        if PEER and fmt not in ("raw", "qcow2"):
            make(PEER, fmt, name + "-peer", opts)
    more_qcow2()
    for name, data in (("cloop-plain", cloop()), ("bochs-v2", bochs()), *dmgs()):
        with open(os.path.join(DIR, name), "wb") as f:
            f.write(data)
    secret = ["--object", "secret,id=s,data=x"]
    run(IMG, "create", *secret, "-q", "-f", "luks", "-o", "key-secret=s,iter-time=10", os.path.join(DIR, "luks-plain"), "64k", check=False)
    for name in os.listdir(DIR):  # sparse tails of large files say nothing
        path = os.path.join(DIR, name)
        if os.path.getsize(path) > 7 << 20:
            os.truncate(path, 7 << 20)


main()
