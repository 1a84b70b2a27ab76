#!/usr/bin/env python3
"""Times of our image programs against another qemu-img's, interleaved, in one run: the best of several rounds each.

usage: bench.py OUR-QEMU-IMG [MIB [ROUNDS [PATTERN]]]
"""
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

OURS = os.path.abspath(sys.argv[1])
PEER = shutil.which("qemu-img", path="/usr/bin:/usr/local/bin")
MIB = int(sys.argv[2]) if len(sys.argv) > 2 else 512
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 3
PATTERN = sys.argv[4] if len(sys.argv) > 4 else ""
FORMATS = ["raw", "qcow2", "vmdk", "vdi", "vhdx", "parallels", "vpc"]


def peer(*argv):
    subprocess.run([PEER, *argv], check=True, capture_output=True)


def timed(argv):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True)
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{argv}: {done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepare():
    """Half data that compresses, a quarter that does not, a quarter zeroes."""
    with open("src.raw", "wb") as f:
        words = b" ".join(b"%d" % (i * 7919 % 100003) for i in range(180000))
        for at in range(MIB):
            if at % 4 == 3:
                f.seek(1 << 20, 1)
            elif at % 4 == 2:
                f.write(os.urandom(1 << 20))
            else:
                f.write(words[at % 1000:][:1 << 20].ljust(1 << 20, b"x"))
        f.truncate(MIB << 20)
    for fmt in FORMATS[1:]:
        peer("convert", "-O", fmt, "src.raw", "src." + fmt)
    peer("convert", "-c", "-O", "qcow2", "src.raw", "src.compressed")
    peer("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "bench.qcow2", "1G")
    peer("create", "-q", "-f", "raw", "bench.raw", "1G")
    subprocess.run(["fallocate", "-l", "1G", "bench.raw"], check=True)


def cases():
    for fmt in FORMATS:
        yield f"convert raw -> {fmt}", ["convert", "-f", "raw", "-O", fmt, "src.raw", "out"]
    for fmt in FORMATS[1:]:
        yield f"convert {fmt} -> raw", ["convert", "-f", fmt, "-O", "raw", "src." + fmt, "out"]
    yield "convert qcow2 -> qcow2", ["convert", "-f", "qcow2", "-O", "qcow2", "src.qcow2", "out"]
    yield "convert raw -> qcow2 -c", ["convert", "-c", "-f", "raw", "-O", "qcow2", "src.raw", "out"]
    yield "convert raw -> qcow2 -c -W -m 16", ["convert", "-c", "-W", "-m", "16", "-f", "raw", "-O", "qcow2", "src.raw", "out"]
    yield "convert raw -> qcow2 -c zstd", ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", "src.raw", "out"]
    yield "convert compressed -> raw", ["convert", "-f", "qcow2", "-O", "raw", "src.compressed", "out"]
    yield "convert raw -> qcow2 -W -m 16", ["convert", "-W", "-m", "16", "-f", "raw", "-O", "qcow2", "src.raw", "out"]
    for fmt in ("raw", "qcow2"):
        for depth in (1, 64):
            count = "30000" if depth == 1 else "150000"
            yield f"bench {fmt} read depth {depth}", ["bench", "-f", fmt, "-c", count, "-d", str(depth), "-s", "4k", "bench." + fmt]
            yield f"bench {fmt} write depth {depth}", ["bench", "-f", fmt, "-w", "-c", count, "-d", str(depth), "-s", "4k", "bench." + fmt]
    yield "compare raw qcow2", ["compare", "-f", "raw", "-F", "qcow2", "src.raw", "src.qcow2"]
    yield "check qcow2", ["check", "-f", "qcow2", "src.qcow2"]


def main():
    print(f"{MIB} MiB, best of {ROUNDS}, seconds (processor seconds)\n")
    print(f"| {'what':33} | theirs | ours | theirs / ours |\n|---|---|---|---|")
    for name, argv in cases():
        if not re.search(PATTERN, name):
            continue
        best = {}
        for _ in range(ROUNDS):
            for tool in (PEER, OURS):
                if os.path.exists("out"):
                    os.unlink("out")
                result = timed([tool, *argv])
                best[tool] = min(best.get(tool, result), result)
        (a, a_cpu), (b, b_cpu) = best[PEER], best[OURS]
        print(f"| {name:33} | {a:.2f} ({a_cpu:.2f}) | {b:.2f} ({b_cpu:.2f}) | {a / b:.2f}{' <' if a / b < 0.95 else ''} |", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ostrich-bench-") as scratch:
        os.chdir(scratch)
        prepare()
        main()
