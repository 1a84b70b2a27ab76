#!/usr/bin/env python3
"""The disk programs against Debian's on the same images, in turns: a table of CPU time and wall time.

usage: bench.py BUILD [--pairs N] [--only REGEX] [--dir DIR]

BUILD is the build directory. Each row runs N times (5) with either program, one after the other; what is shown are medians, and
the medians of the pairs' ratios, theirs divided by ours: above 1 we are faster. DIR (default: where temporary files go) takes some
4 GiB.
Exits with 1 when a ratio of CPU or wall time is below 0.95 in both columns.
"""
import argparse
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
DATA, SIZE = 256, 1024  # MiB


class Side:
    def __init__(self, name, img, nbd):
        self.name, self.img, self.nbd = name, img, nbd


def make_source(path):
    """A quarter of it is data: half noise, half text that compresses; the rest are holes."""
    noise = random.Random(1)
    words = [bytes(noise.choices(b"etaoinshrdlu \n", k=noise.randrange(2, 9))) for _ in range(500)]
    with open(path, "wb") as f:
        f.truncate(SIZE * MIB)
        for n in range(DATA):
            f.seek(n * SIZE // DATA * MIB)
            f.write(noise.randbytes(MIB) if n % 2 else b" ".join(noise.choices(words, k=MIB // 4))[:MIB].ljust(MIB))


def timed(argv, before=None):
    """Wall and CPU seconds of the command with all that it waited for."""
    if before:
        before()
    start = time.monotonic()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    problem = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)}: {process.returncode}: {problem.decode(errors='replace')}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime


class Server:
    """qemu-nbd for one client; its CPU time counts, too."""

    def __init__(self, side, image, image_format):
        if os.path.exists("sock"):
            os.unlink("sock")
        self.process = subprocess.Popen([side.nbd, "-k", os.path.abspath("sock"), "-f", image_format, "-t", image])
        while not os.path.exists("sock"):
            time.sleep(0.01)

    def stop(self):
        self.process.terminate()
        _, _, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = 0
        return usage.ru_utime + usage.ru_stime


def through_server(side, image, image_format, argv):
    server = Server(side, image, image_format)
    try:
        wall, cpu = timed(argv)
    finally:
        spent = server.stop()
    return wall, cpu + spent


def rows():
    """(name, function of a side that gives wall and CPU seconds)"""
    def gone(name):
        return lambda: os.path.exists(name) and os.unlink(name)

    def convert(source, source_format, to, *options):
        return lambda side: timed([side.img, "convert", "-f", source_format, "-O", to, *options, source, "out"], gone("out"))

    yield "convert raw to raw", convert("a.raw", "raw", "raw")
    for name in ("qcow2", "vmdk", "vdi", "vhdx", "vpc", "parallels"):
        yield f"convert raw to {name}", convert("a.raw", "raw", name)
        yield f"convert {name} to raw", convert("a." + name, name, "raw")
    yield "convert qcow2 to qcow2", convert("a.qcow2", "qcow2", "qcow2")
    yield "convert raw to qcow2, 16 at once", convert("a.raw", "raw", "qcow2", "-W", "-m", "16")
    yield "convert raw to qcow2 -c", convert("a.raw", "raw", "qcow2", "-c")
    yield "convert raw to qcow2 -c, 16 at once", convert("a.raw", "raw", "qcow2", "-c", "-W", "-m", "16")
    yield "convert raw to qcow2 -c zstd", convert("a.raw", "raw", "qcow2", "-c", "-o", "compression_type=zstd")
    yield "convert compressed qcow2 to raw", convert("c.qcow2", "qcow2", "raw")
    yield "convert raw to vmdk, streams", convert("a.raw", "raw", "vmdk", "-o", "subformat=streamOptimized")
    for name in ("raw", "qcow2"):
        yield f"compare raw and {name}", \
            lambda side, name=name: timed([side.img, "compare", "-f", "raw", "-F", name, "a.raw", "a." + name])
    yield "check qcow2", lambda side: timed([side.img, "check", "-f", "qcow2", "a.qcow2"])
    for depth in (1, 64):
        for name in ("raw", "qcow2"):
            for what, options in (("read", []), ("write", ["-w"])):
                count = 40000 if depth == 1 else 100000
                yield f"bench {what} {name}, depth {depth}", \
                    lambda side, name=name, options=options, depth=depth, count=count: timed(
                        [side.img, "bench", "-f", name, "-c", str(count), "-d", str(depth), *options, "w." + name])
    if shutil.which("nbdcopy"):
        uri = "nbd+unix:///?socket=" + os.path.abspath("sock")
        for name in ("raw", "qcow2"):
            yield f"nbd read {name}", lambda side, name=name: through_server(side, "a." + name, name, ["nbdcopy", uri, "null:"])
            yield f"nbd write {name}", lambda side, name=name: through_server(side, "w." + name, name, ["nbdcopy", "a.raw", uri])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--dir", default=None)
    args = parser.parse_args()
    programs = os.path.join(os.path.abspath(args.build), "src/main")
    ours = Side("ours", *(os.path.join(programs, name) for name in ("qemu-img", "qemu-nbd")))
    theirs = Side("theirs", *(shutil.which(name, path="/usr/bin:/usr/local/bin") for name in ("qemu-img", "qemu-nbd")))
    if not theirs.img or not theirs.nbd:
        print("no qemu-img and qemu-nbd of the distribution to compare with (package qemu-utils)")
        return 0
    slow = 0
    with tempfile.TemporaryDirectory(dir=args.dir) as scratch:
        os.chdir(scratch)
        make_source("a.raw")
        for name in ("qcow2", "vmdk", "vdi", "vhdx", "vpc", "parallels"):
            subprocess.run([theirs.img, "convert", "-O", name, "a.raw", "a." + name], check=True)
        subprocess.run([theirs.img, "convert", "-O", "qcow2", "-c", "a.raw", "c.qcow2"], check=True)
        for name in ("raw", "qcow2"):
            subprocess.run([theirs.img, "convert", "-O", name, "-S", "0", "a.raw", "w." + name], check=True)
        print("| | CPU, ours | CPU, theirs | ratio | wall, ours | wall, theirs | ratio |\n|---|---:|---:|---:|---:|---:|---:|", flush=True)
        for name, run in rows():
            if not re.search(args.only, name):
                continue
            pairs = []
            for n in range(args.pairs):
                order = (ours, theirs) if n % 2 else (theirs, ours)
                taken = {side.name: run(side) for side in order}
                pairs.append((taken["ours"], taken["theirs"]))
            wall, cpu = ([statistics.median(p[side][k] for p in pairs) for side in (0, 1)]
                         + [statistics.median(p[1][k] / max(p[0][k], 1e-3) for p in pairs)] for k in (0, 1))
            print(f"| {name} | {cpu[0]:.2f} | {cpu[1]:.2f} | {cpu[2]:.2f} | {wall[0]:.2f} | {wall[1]:.2f} | {wall[2]:.2f} |", flush=True)
            slow += cpu[2] < 0.95 and wall[2] < 0.95
        os.chdir("/")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
