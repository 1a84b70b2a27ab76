#!/usr/bin/env python3
"""Exports of a running machine: the QMP commands, clients that come and go.

usage: export_test.py QEMU-SYSTEM QEMU-IO QEMU-IMG
"""
import atexit
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import qmp  # noqa: E402

SYSTEM, IO, IMG = (os.path.abspath(p) for p in sys.argv[1:4])


class Machine(qmp.Program):
    def __init__(self, *options):
        super().__init__([SYSTEM, "-M", "none", "-display", "none", "-S", "-qmp", "stdio", *options])


def io(uri, *commands, code=0):
    flags = [x for c in commands for x in ("-c", c)]
    done = subprocess.run([IO, *(["-r"] if "/ro?" in uri else []), "-f", "raw", *flags, uri], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, (commands, done)
    return done.stdout


def main():
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        sock = os.path.abspath("sock")
        address = {"type": "unix", "data": {"path": sock}}
        subprocess.run([IMG, "create", "-q", "-f", "qcow2", "a.qcow2", "4M"], check=True)
        m = Machine("-blockdev", "driver=qcow2,node-name=disk,file.driver=file,file.filename=a.qcow2",
                    "-drive", "if=none,media=cdrom,id=cd,driver=null-co")
        atexit.register(m.process.kill)
        m.fails("NBD server not running", "block-export-add", type="nbd", id="e0", node_name="disk")
        m.fails("NBD server not running", "nbd-server-stop")
        m.ok("nbd-server-start", addr=address)
        m.fails("already running", "nbd-server-start", addr=address)
        m.fails("node-name='nope'", "block-export-add", type="nbd", id="e0", node_name="nope")
        m.ok("block-export-add", type="nbd", id="e0", node_name="disk", name="rw", writable=True)
        m.fails("already in use", "block-export-add", type="nbd", id="e0", node_name="disk")
        m.fails("There is an NBD export", "block-export-add", type="nbd", id="e1", node_name="disk", name="rw")
        m.ok("nbd-server-add", device="disk", name="ro", description="text")
        assert m.ok("query-block-exports") == [
            {"node-name": "disk", "shutting-down": False, "type": "nbd", "id": "ro"},
            {"node-name": "disk", "shutting-down": False, "type": "nbd", "id": "e0"}]
        m.fails("in use", "blockdev-del", node_name="disk")
        rw, ro = f"nbd+unix:///rw?socket={sock}", f"nbd+unix:///ro?socket={sock}"
        io(rw, "write -P 9 1M 64k", "flush")
        io(ro, "read -P 9 1M 64k")
        assert "without write permission" in subprocess.run([IO, "-f", "raw", "-c", "write 0 1", ro], capture_output=True,
                                                            text=True).stderr
        # A client holds an export: safe removal is refused, hard removal cuts the client off.
        holder = subprocess.Popen([IO, "-f", "raw", rw], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True)
        holder.stdin.write("read 0 512\n")
        holder.stdin.flush()
        assert "read 512/512" in holder.stdout.readline()
        m.fails("still in use", "block-export-del", id="e0")
        m.ok("block-export-del", id="e0", mode="hard")
        m.fails("not found", "block-export-del", id="e9")
        out, _ = holder.communicate("read 0 512\nquit\n", timeout=120)
        assert "failed" in out, out
        m.ok("nbd-server-remove", name="ro")
        m.ok("nbd-server-stop")
        assert m.ok("query-block-exports") == []
        assert sorted(d["id"] for d in m.seen("BLOCK_EXPORT_DELETED")) == ["e0", "ro"], m.events
        # What a drive's medium was exported as goes with the medium.
        m.ok("nbd-server-start", addr=address)
        m.ok("nbd-server-add", device="cd")
        m.ok("nbd-server-add", device="disk", name="stays")
        m.ok("eject", device="cd")
        m.wait_event("BLOCK_EXPORT_DELETED", id="cd")
        assert [e["id"] for e in m.ok("query-block-exports")] == ["stays"]
        m.ok("nbd-server-stop")
        # The server and its exports go with the machine.
        m.ok("nbd-server-start", addr={"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}})
        m.ok("block-export-add", type="nbd", id="e2", node_name="disk")
        m.quit()
        subprocess.run([IMG, "check", "-q", "a.qcow2"], check=True)
    print("ok export_test")


main()
