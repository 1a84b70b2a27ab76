#!/usr/bin/env python3
"""qemu-io against another qemu-io: the same commands on the same images say the same and do the same.

usage: io_test.py OUR-QEMU-IO OUR-QEMU-IMG
Skipped (exit code 77) where no other qemu-io is installed.
"""
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

OURS, IMG = (os.path.abspath(p) for p in sys.argv[1:3])
PEER = shutil.which("qemu-io", path="/usr/bin:/usr/local/bin")

CASES = [
    (["-f", "qcow2"], ["read 0 64k", "write -P 0x12 0 64k", "read -P 0x12 0 64k", "read -P 0x13 0 4k"]),
    (["-f", "qcow2"], ["write -P 5 0 4k", "read -v 0 32", "write -z 0 4k", "write -z -u 0 64k", "write -c 0 64k",
                       "write -f 64k 64k", "write -q 0 10", "read -v 60 40"]),
    (["-f", "qcow2"], ["aio_write -P 3 0 64k", "aio_flush", "aio_read -P 3 0 64k", "aio_flush", "aio_write -z 0 64k",
                       "aio_flush", "aio_read -P 1 0 10", "aio_flush"]),
    (["-f", "qcow2"], ["readv 0 1k 2k", "writev -P 7 0 1k 2k 512", "readv -v 0 16 16", "read -P 7 0 3584"]),
    (["-f", "qcow2"], ["write 0 64k", "flush", "length", "info", "map", "alloc 0 1M", "alloc 0",
                       "truncate 2M", "length", "alloc 0x3000 2M", "alloc 2M", "alloc 512", "truncate 1G",
                       "write 900M 1k", "map", "alloc 0 1G", "info", "discard 0 64k",
                       "read -P 0 0 64k"]),
    (["-f", "qcow2"], ["nope", "read", "read 0", "read x 1", "read 0 x", "read 3M 1k", "read 0 4G", "write -P 256 0 1k",
                       "read -P xx 0 1k", "read -s 1 0 10", "read -l 5 -s 1 -P 0 0 10", "help nope"]),
    (["-f", "qcow2"], ["write -s /nonexist 0 1k", "write -s pat -P 1 0 1k", "write -z -P 1 0 1k", "write -u 0 1k",
                       "write -n 0 1k", "write -b 0 1k", "read -b -P 0xcd 0 1k", "write -b -z 0 1k",
                       "write -b -f 0 1k", "write -c 0 1k", "write -f -c 0 64k"]),
    (["-f", "qcow2"], ["write -s pat 0 1k", "read -v 280 32", "write 0 0", "read 0 0", "read -P 0 -l 10 0 5",
                       "read -P 0 -s 20 0 5", "read -Pq 0 5"]),
    (["-f", "qcow2"], ["readv 0 1 x", "readv 0", "writev 0", "writev -P 300 0 1", "readv x 1", "writev -f 0 512 512",
                       "aio_write -z 0 1 1", "aio_write -u 0 1", "aio_read -i 0 1", "aio_write -i 0 10"]),
    (["-f", "raw"], ["info", "map", "alloc 0", "readv 2M 1", "writev 2M 1", "discard 2M 1", "aio_read 2M 1", "aio_flush",
                     "aio_write 2M 1", "aio_flush", "read -- -1 1", "write 5M 1", "read -P 5 0 10 -v",
                     "write -z 0 5G", "write -c 0 512", "read -b 0 10"]),
    (["-f", "raw"], ["sleep 1 2", "sleep", "sleep x", "alloc x", "alloc 0 x", "alloc 0 1 2", "reopen x", "sigraise",
                     "break a", "resume", "resume y", "remove_break y", "length x", "flush x", "truncate", "truncate x",
                     "", "  ", "READ 0 1", "read  0   512 ", "help x y", "help map", "help quit", "q"]),
    (["-f", "raw"], ["read 1.5k 1", "read 0x200 0x10", "read 1b 1", "read 1E 1", "read 8E 1",
                     "read 9223372036854775807 1"]),
    (["-r", "-f", "raw"], ["truncate 1k", "write -z 0 512", "discard 0 512", "aio_write 0 512", "writev 0 1"]),
    (["-r", "-f", "raw"], ["reopen -w", "write 0 10", "reopen -r", "write 0 10", "reopen -r -w", "reopen -c xx",
                           "reopen -o driver=qcow2", "read 0 10"]),
    (["-f", "qcow2"], ["reopen -o lazy-refcounts=on", "reopen -o node-name=x", "reopen -o file.node-name=x",
                       "reopen -o file.driver=qcow2", "reopen -r", "write 0 1k", "reopen -w", "write 0 1k",
                       "reopen -r -o read-only=on", "reopen -c none -o cache.direct=on", "reopen -o read-only=foo",
                       "reopen -c writethrough", "read -P 0xcd 0 1k", "info"]),
    (["-f", "qcow2"], ["close", "open -o driver=null-co,size=64k", "reopen", "info", "close",
                       "open -r -U -o driver=null-co,force-share=off"]),
    (["-s", "-f", "qcow2"], ["write -P 9 0 1k", "read -P 9 0 1k"]),
    (["-f", "qcow2"], ["read -P 0 0 1k", "open x", "close", "length", "open -r -o driver=qcow2 a.img", "length", "write 0 1",
                       "close", "close"]),
    # Zeroes are the image's own also where nothing is below, and parts of clusters that read as zeroes need no data.
    (["-f", "qcow2"], ["write -z 64k 64k", "write -z 200k 2k", "map", "write -P 1 256k 1k", "write -z 300k 1k", "map",
                       "write -P 2 512k 192k", "write -z 576k 64k", "write -P 3 512k 192k", "map", "write -z -u 600k 70k",
                       "map", "read -P 0 600k 70k", "read -P 3 512k 88k"]),
    (["-f", "qcow2"], ["close", "open -d unmap -o driver=blkdebug,image.driver=qcow2,image.file.filename=a.img,align=512,"
                       "opt-discard=96k,max-discard=96k", "write -P 1 0 512k", "discard 1000 400k", "close",
                       "open -o driver=qcow2 a.img", "read -P 0 64k 320k", "read -P 1 0 64k", "read -P 1 384k 64k"]),
    (["-n", "-m", "-f", "raw"], ["write -P 7 0 1k", "read -P 7 0 1k", "write -P 3 4096 4096", "read -P 3 4096 4096"]),
    (["-t", "writeback", "-d", "unmap", "-f", "raw"], ["write -P 7 0 64k", "discard 0 64k", "read -P 0 0 64k"]),
]


def normal(text):
    """Without times, speeds and what each program says in words of its own about a command."""
    text = re.sub(r"; [\d:.]+( sec)? \(.*? ops/sec\)", "; TIME", text)
    text = re.sub(r"^(\d+,1,)[\d:.,]+$", r"\1TIME", text, flags=re.M)
    text = re.sub(r" -- [a-z][^\n]*|^.*'help .*$", "", text, flags=re.M)
    return text.replace(PEER, "qemu-io")


def run(tool, options, commands, image):
    argv = [tool, *options]
    for c in commands:
        argv += ["-c", c]
    done = subprocess.run([*argv, image], capture_output=True, text=True, timeout=120)
    return normal(done.stdout), normal(done.stderr), done.returncode


def fresh():
    subprocess.run([IMG, "create", "-q", "-f", "qcow2", "a.img", "1M"], check=True)
    with open("r.img", "wb") as f:
        f.truncate(1 << 20)


def test_cases():
    with open("pat", "wb") as f:
        f.write(bytes(range(256)) + b"tail")
    for options, commands in CASES:
        results = []
        for tool in (PEER, OURS):
            fresh()
            image = "r.img" if "raw" in options else "a.img"
            results.append(run(tool, options, commands, image))
            if tool == PEER:
                os.replace(image, "peer.img")
        for what, a, b in zip(("output", "errors", "exit code"), *results):
            assert a == b, f"{options} {commands}: {what}\n--- theirs\n{a}\n--- ours\n{b}"
        kind = "raw" if "raw" in options else "qcow2"
        subprocess.run([IMG, "compare", "-q", "-f", kind, "-F", kind, image, "peer.img"], check=True)


def test_interactive():
    fresh()
    for text in ("read 0 512\nlength\nquit\nlength\n", "write -P 4 0 512\nlength", "aio_write 0 64k\naio_flush\nhelp nope\n"):
        out = [normal(subprocess.run([tool, "-f", "raw", "r.img"], input=text, capture_output=True, text=True,
                                     timeout=120).stdout) for tool in (PEER, OURS)]
        assert out[0] == out[1], f"--- theirs\n{out[0]}\n--- ours\n{out[1]}"


def test_names():
    """Every command and option of the other program is known."""
    names = [{line.split()[0]: line for line in
              normal(subprocess.run([tool, "-c", "help"], capture_output=True, text=True, timeout=60).stdout).splitlines() if line}
             for tool in (PEER, OURS)]
    assert names[0] == names[1], set(names[0].values()) ^ set(names[1].values())


def test_opening():
    fresh()
    for argv in (["nofile"], ["-f", "nothinglikeit", "a.img"], ["-t", "bad", "a.img"], ["-d", "bad", "a.img"], ["-i", "bad", "a.img"],
                 ["-U", "-c", "info", "a.img"], ["--image-opts", "-f", "raw", "-c", "info", "driver=raw"],
                 ["--image-opts", "-c", "info", "driver=qcow2,file.driver=file,file.filename=a.img"]):
        done = [subprocess.run([tool, *argv], capture_output=True, text=True, timeout=60) for tool in (PEER, OURS)]
        assert done[0].returncode == done[1].returncode, argv
        assert normal(done[0].stdout) == normal(done[1].stdout), (argv, done)
        assert bool(done[0].stderr) == bool(done[1].stderr), (argv, done[0].stderr, done[1].stderr)


def with_peer(test):
    if not PEER or os.path.samefile(PEER, OURS):
        raise tap.Skip("no other qemu-io")
    tap.in_scratch(test)


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=with_peer)
