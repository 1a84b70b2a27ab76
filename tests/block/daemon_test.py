#!/usr/bin/env python3
"""qemu-storage-daemon: its options, its monitor, its exports read by libnbd's programs.

usage: daemon_test.py QEMU-STORAGE-DAEMON QEMU-IMG QEMU-IO
"""
import atexit
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import qmp  # noqa: E402
import tap  # noqa: E402

DAEMON, IMG, IO = (os.path.abspath(p) for p in sys.argv[1:4])
PATH = "/usr/bin:/usr/local/bin"
MIB = 1 << 20


def need(name):
    found = shutil.which(name, path=PATH)
    if not found:
        raise tap.Skip(name)
    return found


def run(*argv, code=0):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240)
    assert done.returncode == code, (argv, done)
    return done.stdout + done.stderr


class Daemon(qmp.Program):
    def __init__(self, *options):
        super().__init__([DAEMON, "--chardev", "stdio,id=qmp", "--monitor", "chardev=qmp,mode=control", *options])
        atexit.register(self.process.kill)  # one that outlives a failed test would keep the runner waiting


def pattern(path, size):
    data = random.Random(size).randbytes(size)
    with open(path, "wb") as out:
        out.write(data)
    return hashlib.sha256(data).hexdigest()


def digest(path):
    with open(path, "rb") as text:
        return hashlib.sha256(text.read()).hexdigest()


def test_monitor_and_exports():
    nbdinfo, nbdcopy = need("nbdinfo"), need("nbdcopy")
    want = pattern("a.raw", 4 * MIB)
    run(IMG, "convert", "-O", "qcow2", "a.raw", "a.qcow2")
    d = Daemon("--blockdev", "driver=file,node-name=f,filename=a.qcow2",
               "--blockdev", '{"driver": "qcow2", "node-name": "disk", "file": "f"}',
               "--nbd-server", "addr.type=unix,addr.path=" + os.path.abspath("s"),
               "--export", "nbd,id=e0,node-name=disk,name=disk,description=text,writable=on")
    uri = "nbd+unix:///disk?socket=" + os.path.abspath("s")
    info = json.loads(run(nbdinfo, "--no-content", "--json", uri))["exports"][0]
    assert info["export-size"] == 4 * MIB and not info["is_read_only"] and info["description"] == "text", info
    run(nbdcopy, uri, "out.raw")
    assert digest("out.raw") == want
    changed = pattern("b.raw", 4 * MIB + 0)
    run(nbdcopy, "b.raw", uri)
    # A job, as in the emulator.
    run(IMG, "create", "-q", "-f", "qcow2", "c.qcow2", "4M")
    d.ok("blockdev-add", **{"driver": "qcow2", "node-name": "copy", "file": {"driver": "file", "filename": "c.qcow2"}})
    d.ok("blockdev-backup", job_id="j", device="disk", target="copy", sync="full", auto_dismiss=False)
    for _ in range(1200):
        if d.ok("query-jobs")[0]["status"] == "concluded":
            break
        time.sleep(0.05)
    d.ok("job-dismiss", id="j")
    d.ok("block-export-del", id="e0")
    d.ok("nbd-server-stop")
    assert d.seen("BLOCK_EXPORT_DELETED") and d.seen("JOB_STATUS_CHANGE"), d.events
    d.quit()
    for image in "a.qcow2", "c.qcow2":
        run(IMG, "check", "-q", image)
        run(IMG, "convert", "-O", "raw", image, "out.raw")
        assert digest("out.raw") == changed, image


def active(d):
    return {node["node-name"]: node["active"] for node in d.ok("query-named-block-nodes", flat=True)}


def io(uri, *commands, code=0):
    done = subprocess.run([IO, "-f", "raw", *(word for c in commands for word in ("-c", c)), uri], capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done
    return done.stdout + done.stderr


def test_hand_over():
    """Two daemons take turns with one image: the one that is inactive holds no locks, fails writes and reads anew what came."""
    def daemon(name):
        sock = os.path.abspath(name)
        d = Daemon("--blockdev", "driver=file,node-name=f,filename=turns.qcow2,active=off",
                   "--blockdev", "driver=qcow2,node-name=disk,file=f,active=off",
                   "--nbd-server", "addr.type=unix,addr.path=" + sock,
                   "--export", "nbd,id=e,node-name=disk,writable=on,allow-inactive=on")
        return d, "nbd+unix:///disk?socket=" + sock

    run(IMG, "create", "-q", "-f", "qcow2", "turns.qcow2", "8M")
    (a, at_a), (b, at_b) = daemon("a"), daemon("b")
    assert active(a) == {"f": False, "disk": False}
    for turn in range(1, 7):
        d, uri, other, other_uri = (a, at_a, b, at_b) if turn % 2 else (b, at_b, a, at_a)
        d.ok("blockdev-set-active", node_name="disk", active=True)
        assert active(d) == {"f": True, "disk": True} and active(other) == {"f": False, "disk": False}
        other.fails("lock", "blockdev-set-active", active=True)
        assert active(other)["disk"] is False
        for n in range(1, turn):
            io(uri, f"read -P {n} {n}M 64k")
        io(uri, f"write -P {turn} {turn}M 64k", f"read -P {turn} {turn}M 64k")
        io(other_uri, "read 0 64k")
        assert "not permitted" in io(other_uri, "write 0 64k", code=1)
        d.ok("blockdev-set-active", active=False)
    run(IMG, "check", "-q", "turns.qcow2")
    a.quit()
    b.quit()
    run(IMG, "check", "-q", "turns.qcow2")


def test_inactive_is_refused():
    run(IMG, "create", "-q", "-f", "qcow2", "still.qcow2", "4M")
    run(IMG, "create", "-q", "-f", "qcow2", "target.qcow2", "4M")
    d = Daemon("--blockdev", "driver=qcow2,node-name=disk,file.driver=file,file.filename=still.qcow2,file.node-name=f,active=off",
               "--blockdev", "driver=qcow2,node-name=target,file.driver=file,file.filename=target.qcow2",
               "--nbd-server", "addr.type=unix,addr.path=" + os.path.abspath("r"))
    assert active(d)["f"] is False  # as its parent
    for text, command, more in (
            ("inactive", "block_resize", {"node_name": "disk", "size": 8 * MIB}),
            ("inactive", "blockdev-backup", {"job_id": "j", "device": "disk", "target": "target", "sync": "full"}),
            ("inactive", "blockdev-mirror", {"job_id": "j", "device": "target", "target": "disk", "sync": "full"}),
            ("inactive", "block-stream", {"job_id": "j", "device": "disk"}),
            ("inactive", "blockdev-reopen", {"options": [{"driver": "qcow2", "node-name": "disk", "file": "f"}]}),
            ("Inactive 'disk'", "blockdev-add", {"driver": "raw", "node-name": "above", "file": "disk"})):
        d.fails(text, command, **more)
    d.ok("blockdev-add", driver="raw", node_name="above", file="disk", active=False)
    d.ok("blockdev-del", node_name="above")
    d.ok("block-export-add", type="nbd", id="e", node_name="disk", writable=True)
    assert active(d)["disk"] and active(d)["f"]  # it does not bear an inactive node
    d.fails("not permitted", "blockdev-set-active", node_name="disk", active=False)
    d.fails("active parent", "blockdev-set-active", node_name="f", active=False)
    d.quit()


def test_command_subset():
    d = Daemon()
    names = {c["name"] for c in d.ok("query-commands")}
    assert {"blockdev-add", "block-export-add", "chardev-add", "object-add", "transaction", "quit"} <= names, names
    assert not {"cont", "device_add", "migrate", "human-monitor-command", "query-cpus-fast"} & names, names
    schema = {e["name"] for e in d.ok("query-qmp-schema") if e["meta-type"] == "command"}
    assert schema == names
    answer = d.command("cont")
    assert answer["error"]["class"] == "CommandNotFound", answer
    d.ok("object-add", **{"qom-type": "secret", "id": "s0", "data": "letmein"})
    d.ok("chardev-add", id="c", backend={"type": "null", "data": {}})
    d.quit()


def test_background():
    pid_file, sock = os.path.abspath("pid"), os.path.abspath("qmp")
    run(DAEMON, "--daemonize", "--pidfile", pid_file, "--chardev", f"socket,path={sock},server=on,wait=off,id=c",
        "--monitor", "c")
    with open(pid_file) as text:
        pid = int(text.read())
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(sock)
        assert b"QMP" in s.recv(4096)
    os.kill(pid, signal.SIGTERM)
    for _ in range(1200):
        if not os.path.exists(pid_file):
            break
        time.sleep(0.05)
    assert not os.path.exists(pid_file)
    # The parent tells of what failed in the child.
    assert "No such file" in run(DAEMON, "--daemonize", "--blockdev", "file,node-name=a,filename=nope", code=1)


def test_options():
    assert "Usage:" in run(DAEMON, "-h") and "qemu-storage-daemon version" in run(DAEMON, "-V")
    assert "socket" in run(DAEMON, "--chardev", "help") and "secret" in run(DAEMON, "--object", "help")
    assert "e1000_read" in run(DAEMON, "-T", "help")
    for options, text in (
            (["--blokdev", "x"], "did you mean '--blockdev'"), (["--monitor"], "requires an argument"), (["file"], "Unexpected argument"),
            (["--blockdev", "driver=qcow2,node-name=a"], "file"), (["--chardev", "null,id=c", "--monitor", "chardev=c,mode=readline"], "control"),
            (["--monitor", "chardev=c"], "not found"), (["--export", "nbd,id=e,node-name=n"], "node-name"),
            (["--export", "ftp,id=e,node-name=n"], "ftp"), (["--nbd-server", "addr.type=carrier,addr.path=x"], "carrier"),
            (["--nbd-server", "addr.type=unix,addr.path=x,max-connections=many"], "max-connections"),
            (["--object", "no-such,id=o"], "no-such"), (["-T", "no_such_event"], "does not exist")):
        out = run(DAEMON, *options, code=1)
        assert text in out and out.count("\n") <= 2, (options, out)


tap.run(tap.tests_in(globals()), names=sys.argv[4:], call=tap.in_scratch)
