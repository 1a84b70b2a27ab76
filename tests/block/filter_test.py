#!/usr/bin/env python3
"""Filters: what another qemu-io says and does with the same filters over the same images, and what their rules promise.

usage: filter_test.py OUR-QEMU-IO OUR-QEMU-IMG
"""
import os
import re
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

OURS, IMG = (os.path.abspath(p) for p in sys.argv[1:3])
PEER = shutil.which("qemu-io", path="/usr/bin:/usr/local/bin")
MIB = 1 << 20

RULES = '''
# once at the third state
[inject-error]
event = "write_aio"
errno = "28"
state = "3"
once = "on"

[set-state]
event = "write_aio"
state = "1"
new_state = "2"
[set-state]
event = "write_aio"
state = "2"
new_state = "3"
'''

# (configuration, image as the commands name it, commands)
PEERED = [
    ("", "blkdebug::a.qcow2", ["write -P 5 0 64k", "read -P 5 0 64k"]),
    (RULES, "blkdebug:rules:a.qcow2", ["write 0 64k"] * 5),
    ('[inject-error]\nevent = "l2_load"\nonce = "on"\n', "blkdebug:rules:a.qcow2", ["read 0 64k", "read 0 64k"]),
    ('[inject-error]\nevent = "read_aio"\nsector = "2"\nimmediately = "on"\n', "blkdebug:rules:r.raw",
     ["read 0 1k", "read 1k 512", "read 512 2k", "read 2k 1k", "write 1k 1k"]),
    ('[inject-error]\nevent = "none"\niotype = "write"\nerrno = "5"\n', "blkdebug:rules:r.raw", ["read 0 1k", "write 0 1k", "flush"]),
    ('[inject-error]\nevent = "none"\niotype = "flush"\nerrno = "5"\n', "blkdebug:rules:r.raw", ["write 0 1k", "flush"]),
    ('[inject-error]\nevent = "none"\niotype = "discard"\nerrno = "5"\n', "blkdebug:rules:r.raw", ["discard 0 64k"]),
    ('[inject-error]\nevent = "none"\niotype = "write-zeroes"\nerrno = "5"\n', "blkdebug:rules:r.raw", ["write -z 0 64k", "read 0 64k"]),
    ('[inject-error]\nevent = "cluster_alloc"\nerrno = "5"\n', "blkdebug:rules:a.qcow2", ["write 0 64k", "read 0 64k"]),
    ("[inject-error]\nevent = \"nonsense\"\n", "blkdebug:nofile:a.qcow2", ["read 0 1k"]),
    ("", "blkdebug::a.qcow2", ["break write_aio A", "aio_write -P 1 0 64k", "wait_break A", "aio_write -P 2 64k 64k", "sleep 200",
                               "resume A", "aio_flush", "remove_break A", "break write_aio B", "aio_write 0 64k", "wait_break B",
                               "sleep 100", "remove_break B", "resume C", "aio_flush", "break nonsense X"]),
    ("", "blkdebug::a.qcow2", ["break cow_read A", "aio_write -P 1 4k 4k", "aio_flush", "aio_write -P 2 12k 4k", "aio_flush",
                               "read -P 1 4k 4k", "read -P 2 12k 4k"]),
    ("", "driver=blkdebug,image.driver=file,image.filename=r.raw,align=4k,max-transfer=64k",
     ["write -P 3 100 200k", "read -P 3 100 200k", "read -P 0 0 100", "write -z 300 5000", "read -P 0 300 5000"]),
    ("", "driver=blkdebug,image.driver=file,image.filename=r.raw,align=3000", ["read 0 1"]),
    ("", "driver=blkdebug,image.driver=file,image.filename=r.raw,align=4k,max-transfer=5000", ["read 0 1"]),
    ("", "driver=blkdebug,image.driver=file,image.filename=r.raw,opt-write-zero=64k,max-write-zero=128k,opt-discard=64k,"
     "max-discard=128k,discard=unmap", ["write -P 1 0 1M", "write -z 1000 700k", "read -P 0 1000 700k", "discard 100 500k"]),
    ("", "driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.image.filename=a.qcow2,file.inject-error.0.event=l2_load,"
     "file.inject-error.0.errno=28,file.inject-error.0.once=on", ["read 0 1k", "read 0 1k"]),
    ("", "driver=blkverify,test.driver=qcow2,test.file.filename=a.qcow2,raw.driver=file,raw.filename=r.raw",
     ["write -P 7 0 1M", "read -P 7 0 1M", "read 1M 1M", "flush"]),
    ("", "driver=quorum,vote-threshold=2,children.0.driver=file,children.0.filename=r.raw,children.1.driver=file,"
     "children.1.filename=q.raw", ["read 0 64k", "write -P 4 0 64k", "read -P 4 0 64k", "read 64k 64k"]),
    ("", "driver=quorum,vote-threshold=2,children.0.driver=file,children.0.filename=r.raw,children.1.driver=file,"
     "children.1.filename=q.raw,children.2.driver=file,children.2.filename=p.raw", ["read -P 0 0 64k", "write -z 0 1M", "flush"]),
    ("", "driver=quorum,vote-threshold=1,read-pattern=fifo,children.0.driver=file,children.0.filename=q.raw,children.1.driver=file,"
     "children.1.filename=r.raw", ["read -P 9 4096 4096", "write 0 64k"]),
    ("", "driver=quorum,vote-threshold=2,children.0.driver=file,children.0.filename=r.raw", ["read 0 64k"]),
    ("", "driver=quorum,vote-threshold=1,blkverify=on,children.0.driver=file,children.0.filename=r.raw", ["read 0 64k"]),
    ("", "driver=quorum,vote-threshold=1,read-pattern=nonsense,children.0.driver=file,children.0.filename=r.raw", ["read 0 64k"]),
    ("", "driver=quorum,vote-threshold=1", ["read 0 64k"]),
    ("", "driver=compress,file.driver=qcow2,file.file.filename=a.qcow2", ["write -P 9 0 128k", "read -P 9 0 128k"]),
    ("", "driver=preallocate,file.driver=file,file.filename=r.raw", ["read 0 64k", "write -P 1 0 4k"]),
    ("", "driver=copy-on-read,file.driver=qcow2,file.file.filename=a.qcow2", ["read 0 64k"]),
]


def normal(text):
    text = re.sub(r"; [\d:.]+( sec)? \(.*? ops/sec\)", "; TIME", text)
    return text.replace(PEER or "qemu-io", "qemu-io")


def run(tool, image, commands, options=()):
    argv = [tool, *options]
    if image.startswith("driver="):
        argv += ["--image-opts"]
    elif image.endswith("raw"):
        argv += ["-f", "raw"]
    for c in commands:
        argv += ["-c", c]
    done = subprocess.run([*argv, image], capture_output=True, text=True, timeout=120)
    return normal(done.stdout), normal(done.stderr), done.returncode


def fresh():
    subprocess.run([IMG, "create", "-q", "-f", "qcow2", "a.qcow2", "4M"], check=True)
    with open("r.raw", "wb") as f:
        f.truncate(4 * MIB)
    for name in ("p.raw", "q.raw"):
        shutil.copyfile("r.raw", name)
    with open("q.raw", "r+b") as f:
        f.seek(4096)
        f.write(b"\x09" * 4096)


def test_peer():
    if not PEER or os.path.samefile(PEER, OURS):
        raise tap.Skip("no other qemu-io")
    for rules, image, commands in PEERED:
        results = []
        for tool in (PEER, OURS):
            fresh()
            with open("rules", "w") as f:
                f.write(rules)
            results.append(run(tool, image, commands))
        a, b = results
        assert (a[0], a[2]) == (b[0], b[2]), f"{image} {commands} {rules}\n--- theirs\n{a}\n--- ours\n{b}"
        assert bool(a[1]) == bool(b[1]), f"{image}: {a[1]!r} {b[1]!r}"


def test_log():
    """The same log as the other program's, byte for byte, and with log-append what comes behind it."""
    if not PEER or os.path.samefile(PEER, OURS):
        raise tap.Skip("no other qemu-io")
    logs = []
    for tool in (PEER, OURS):
        fresh()
        open("log", "w").close()
        image = "driver=blklogwrites,file.driver=file,file.filename=r.raw,log.driver=file,log.filename=log,discard=unmap"
        for more in ("", ",log-append=on"):
            out = run(tool, image + more, ["write -P 1 0 4k", "write -P 2 64k 8k", "flush", "write -z 0 64k", "discard 0 64k",
                                           "write -P 3 1000 1000"], ["-t", "writeback"])
            assert out[2] == 0, out
        with open("log", "rb") as f:
            logs.append(f.read())
        assert run(tool, image + ",log-append=on,log-sector-size=1k", ["read 0 1k"])[2] == 1
    assert logs[0] == logs[1]


def test_preallocate():
    """The file is longer while it is open, and no longer afterwards."""
    fresh()
    os.truncate("r.raw", 0)
    image = "driver=raw,file.driver=preallocate,file.prealloc-size=1M,file.file.driver=file,file.file.filename=r.raw"
    inner = "driver=preallocate,prealloc-size=1M,file.driver=file,file.filename=r.raw"
    out = run(OURS, "driver=qcow2,file.driver=preallocate,file.file.driver=file,file.file.filename=a.qcow2",
              ["write -P 1 0 1M", "read -P 1 0 1M"])
    assert out[2] == 0, out
    subprocess.run([IMG, "check", "-q", "a.qcow2"], check=True)
    assert os.path.getsize("a.qcow2") < 2 * MIB
    for opts in (image, inner):
        out = run(OURS, opts, ["truncate 100k", "length", "write -P 3 0 100k", "truncate 64k", "truncate 200k",
                               "read -P 3 0 64k", "read -P 0 64k 136k"])
        assert out[2] == 0, out
        assert os.path.getsize("r.raw") == 200 << 10
    for bad in ("prealloc-align=100", "prealloc-align=0"):
        assert run(OURS, inner + "," + bad, ["length"])[2] == 1


def test_verify():
    """What differs is found, in images and in the answers."""
    fresh()
    with open("r.raw", "r+b") as f:
        f.seek(70000)
        f.write(b"x")
    image = "driver=blkverify,test.driver=qcow2,test.file.filename=a.qcow2,raw.driver=file,raw.filename=r.raw"
    out = run(OURS, image, ["read 0 64k", "read 64k 64k"])
    assert out[0].startswith("read 65536") and out[2] == 1 and "mismatch at offset 70000" in out[1], out
    out = run(OURS, "blkverify:r.raw:a.qcow2", ["write -P 1 0 1M", "read 0 1M"])
    assert out[2] == 0, out


def test_quorum_rewrite():
    fresh()
    image = "driver=quorum,vote-threshold=2,rewrite-corrupted=on"
    for i, name in enumerate("pqr"):
        image += f",children.{i}.driver=file,children.{i}.filename={name}.raw"
    out = run(OURS, image, ["read -P 0 0 64k"])
    assert out[2] == 0, out
    subprocess.run([IMG, "compare", "-q", "-f", "raw", "-F", "raw", "q.raw", "r.raw"], check=True)


def test_throttle():
    """One request a group at a time, whichever node it comes through; the limits hold and do not hold more."""
    fresh()
    group = "throttle-group,id=g,x-bps-total=4194304"
    image = "driver=throttle,throttle-group=g,file.driver=file,file.filename=r.raw"
    assert run(OURS, image, ["read 0 1k"])[2] == 1
    started = time.monotonic()
    out = run(OURS, image, ["write -P 1 0 2M", "write -P 1 2M 2M", "read -P 1 0 4M", "read -P 1 0 1k"], ["--object", group])
    assert out[2] == 0 and out[0].count("TIME") == 4, out
    assert 1.5 < time.monotonic() - started < 30
    for bad in ("throttle-group,id=g,x-bps-total=1,x-bps-read=1", "throttle-group,id=g,x-iops-total-max=5",
                "throttle-group,id=g,limits.nonsense=1"):
        assert run(OURS, image, ["read 0 1k"], ["--object", bad])[2] == 1, bad
    json_form = '{"qom-type":"throttle-group","id":"g","limits":{"iops-total":100000}}'
    assert run(OURS, image, ["read 0 1k"], ["--object", json_form])[2] == 0


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=tap.in_scratch)
