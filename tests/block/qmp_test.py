#!/usr/bin/env python3
"""Block operations of a machine over QMP: snapshots into overlays, jobs, bitmaps, sizes; the images that remain are
judged by another qemu-img.

usage: qmp_test.py OUR-QEMU-SYSTEM OUR-QEMU-IMG
"""
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

SYSTEM, OURS = (os.path.abspath(p) for p in sys.argv[1:3])
PEER = shutil.which("qemu-img", path="/usr/bin:/usr/local/bin") or OURS
PEER_IO = shutil.which("qemu-io", path="/usr/bin:/usr/local/bin")
MIB = 1 << 20


def img(*argv):
    return subprocess.run([PEER, *argv], check=True, capture_output=True, text=True).stdout


class Machine:
    def __init__(self, *args):
        self.process = subprocess.Popen([SYSTEM, "-M", "pc", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio", *args],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.events = []
        self.read()
        self.do("qmp_capabilities")

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the emulator ended")
        return json.loads(line)

    def ask(self, command, **args):
        message = {"execute": command, "arguments": {k.replace("_", "-"): v for k, v in args.items()}}
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        while True:
            reply = self.read()
            if "event" not in reply:
                return reply
            self.events.append(reply)

    def do(self, command, **args):
        reply = self.ask(command, **args)
        assert "return" in reply, (command, args, reply)
        return reply["return"]

    def fails(self, command, text, **args):
        reply = self.ask(command, **args)
        assert text in reply.get("error", {}).get("desc", ""), (command, reply)

    def wait(self, event, **data):
        while True:
            for e in self.events:
                if e["event"] == event and all(e["data"].get(k) == v for k, v in data.items()):
                    self.events.remove(e)
                    return e["data"]
            self.events.append(self.read())

    def quit(self):
        self.do("quit")
        self.process.stdin.close()
        assert self.process.wait(60) == 0


def fresh(*steps):
    img("create", "-q", "-f", "qcow2", "base.qcow2", "16M")
    if PEER_IO:
        subprocess.run([PEER_IO, "-c", "write -P 1 0 4M", "-c", "write -P 2 8M 300k", "base.qcow2"], check=True, capture_output=True)
    return Machine("-drive", "if=none,id=d0,file=base.qcow2,format=qcow2,node-name=n0", "-device", "virtio-blk-pci,drive=d0,id=disk")


def test_chain():
    """Two overlays, the middle committed, then the top one; the drive ends on the base."""
    m = fresh()
    m.do("blockdev-snapshot-sync", device="d0", snapshot_file="one.qcow2", snapshot_node_name="one")
    m.fails("blockdev-snapshot-sync", "already in use", device="d0", snapshot_file="x.qcow2", snapshot_node_name="one")
    m.do("blockdev-snapshot-sync", device="d0", snapshot_file="two.qcow2", snapshot_node_name="two")
    assert m.do("query-block")[0]["inserted"]["node-name"] == "two"
    m.do("block-commit", job_id="j1", device="d0", top_node="one", base_node="n0")
    m.wait("BLOCK_JOB_COMPLETED", device="j1")
    assert json.loads(img("info", "-U", "--output=json", "two.qcow2"))["backing-filename"] == "base.qcow2"
    m.do("block-commit", job_id="j2", device="d0")
    m.wait("BLOCK_JOB_READY", device="j2")
    assert m.do("query-block-jobs")[0]["ready"]
    m.do("job-complete", id="j2")
    m.wait("BLOCK_JOB_COMPLETED", device="j2")
    m.wait("JOB_STATUS_CHANGE", id="j2", status="null")
    assert m.do("query-block")[0]["inserted"]["node-name"] == "n0"
    assert m.do("query-jobs") == []
    m.do("block_resize", device="d0", size=20 * MIB)
    m.quit()
    img("check", "base.qcow2")
    assert json.loads(img("info", "--output=json", "base.qcow2"))["virtual-size"] == 20 * MIB


def test_mirror_and_stream():
    m = fresh()
    m.do("blockdev-snapshot-sync", device="d0", snapshot_file="top.qcow2", snapshot_node_name="top")
    m.do("block-stream", job_id="s", device="d0")
    m.wait("BLOCK_JOB_COMPLETED", device="s")
    m.do("drive-mirror", device="d0", job_id="m", target="copy.qcow2", sync="full", format="qcow2", auto_finalize=False,
         auto_dismiss=False)
    m.wait("BLOCK_JOB_READY", device="m")
    m.do("block-job-complete", device="m")
    m.wait("BLOCK_JOB_PENDING", id="m")
    m.do("job-finalize", id="m")
    m.wait("JOB_STATUS_CHANGE", id="m", status="concluded")
    assert m.do("query-jobs")[0]["status"] == "concluded"
    m.do("job-dismiss", id="m")
    assert m.do("query-block")[0]["inserted"]["file"] == "copy.qcow2"
    m.quit()
    for name in ("top.qcow2", "copy.qcow2"):
        img("check", name)
        img("compare", "base.qcow2", name)
    assert "backing-filename" not in json.loads(img("info", "--output=json", "top.qcow2"))


def test_bitmaps_and_backup():
    m = fresh()
    m.do("block-dirty-bitmap-add", node="n0", name="b0", persistent=True)
    m.fails("block-dirty-bitmap-add", "already exists", node="n0", name="b0")
    m.do("block-dirty-bitmap-add", node="n0", name="b1", granularity=4096, disabled=True)
    m.do("block-dirty-bitmap-merge", node="n0", target="b1", bitmaps=["b0", {"node": "n0", "name": "b0"}])
    m.do("block-dirty-bitmap-remove", node="n0", name="b1")
    shown = m.do("query-block")[0]["inserted"]["dirty-bitmaps"]
    assert [(b["name"], b["persistent"], b["recording"], b["count"]) for b in shown] == [("b0", True, True, 0)], shown
    m.do("drive-backup", device="d0", job_id="b", target="full.qcow2", sync="full", format="qcow2", compress=True)
    m.wait("BLOCK_JOB_COMPLETED", device="b")
    m.do("drive-backup", device="d0", job_id="i", target="inc.qcow2", sync="incremental", bitmap="b0", format="qcow2")
    m.wait("BLOCK_JOB_COMPLETED", device="i")
    m.do("drive-backup", device="d0", job_id="slow", target="slow.qcow2", sync="full", format="qcow2", speed=65536)
    m.do("block-job-set-speed", device="slow", speed=0)
    m.do("block-job-cancel", device="slow")
    m.wait("BLOCK_JOB_CANCELLED", device="slow")
    m.quit()
    img("check", "full.qcow2")
    img("compare", "base.qcow2", "full.qcow2")
    img("check", "base.qcow2")
    bitmaps = json.loads(img("info", "--output=json", "base.qcow2"))["format-specific"]["data"]["bitmaps"]
    assert [b["name"] for b in bitmaps] == ["b0"]


def test_transaction():
    """All of it or nothing."""
    m = fresh()
    m.do("block-dirty-bitmap-add", node="n0", name="old")

    def action(kind, **data):
        return {"type": kind, "data": {k.replace("_", "-"): v for k, v in data.items()}}
    steps = [action("block-dirty-bitmap-add", node="n0", name="new"), action("block-dirty-bitmap-remove", node="n0", name="old"),
             action("blockdev-snapshot-sync", device="d0", snapshot_file="t.qcow2", snapshot_node_name="t"),
             action("drive-backup", device="n0", job_id="tb", target="tb.qcow2", sync="full", format="qcow2")]
    m.fails("transaction", "Transaction aborted", actions=[*steps, action("abort")])
    inserted = m.do("query-block")[0]["inserted"]
    assert inserted["node-name"] == "n0" and [b["name"] for b in inserted["dirty-bitmaps"] if "name" in b] == ["old"], inserted
    m.wait("JOB_STATUS_CHANGE", id="tb", status="null")
    m.fails("transaction", "did you mean", actions=[action("block-dirty-bitmap-ad", node="n0", name="new")])
    os.unlink("t.qcow2")
    os.unlink("tb.qcow2")
    m.events.clear()
    m.do("transaction", actions=steps)
    m.wait("BLOCK_JOB_COMPLETED", device="tb")
    assert m.do("query-block")[0]["inserted"]["node-name"] == "t"
    m.quit()
    img("compare", "tb.qcow2", "base.qcow2")
    img("compare", "t.qcow2", "base.qcow2")


def test_create():
    m = Machine()
    m.do("blockdev-create", job_id="c1", options={"driver": "file", "filename": "new.qcow2", "size": 0})
    m.wait("JOB_STATUS_CHANGE", id="c1", status="concluded")
    m.do("job-dismiss", id="c1")
    m.do("blockdev-add", driver="file", filename="new.qcow2", node_name="f")
    m.do("blockdev-create", job_id="c2", options={"driver": "qcow2", "file": "f", "size": 5 * MIB, "cluster-size": 4096, "version": "v3"})
    m.wait("JOB_STATUS_CHANGE", id="c2", status="concluded")
    assert "error" not in m.do("query-jobs")[0], m.do("query-jobs")
    m.do("job-dismiss", id="c2")
    m.do("blockdev-add", driver="qcow2", file="f", node_name="q")
    m.do("blockdev-del", node_name="q")
    m.quit()
    img("check", "new.qcow2")
    assert json.loads(img("info", "--output=json", "new.qcow2"))["cluster-size"] == 4096


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=tap.in_scratch)
