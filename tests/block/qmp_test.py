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


def guest(m, node, *commands, writable=True):
    """Another program's qemu-io, over NBD, in the guest's place."""
    m.do("nbd-server-start", addr={"type": "unix", "data": {"path": "nbd.sock"}})
    m.do("block-export-add", type="nbd", id="guest", node_name=node, writable=writable)
    argv = [PEER_IO or "qemu-io", *([] if writable else ["-r"]), "-f", "raw", "-t", "writeback", "-d", "unmap"]
    for c in commands:
        argv += ["-c", c]
    done = subprocess.run([*argv, f"nbd+unix:///{node}?socket=nbd.sock"], capture_output=True, text=True, timeout=120)
    m.do("nbd-server-stop")
    m.wait("BLOCK_EXPORT_DELETED", id="guest")
    return done.stdout


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


def test_copy_on_read_over_raw():
    """The copy goes into the image below a raw layer, too."""
    m = fresh()
    img("create", "-q", "-f", "raw", "cor.raw", "1M")
    with open("cor.raw", "r+b") as f:
        f.write(bytes([5] * 65536))
    img("create", "-q", "-f", "qcow2", "-b", "cor.raw", "-F", "raw", "cor.qcow2")
    m.do("blockdev-add", **{"driver": "copy-on-read", "node-name": "cor", "file": {
        "driver": "raw", "file": {"driver": "qcow2", "file": {"driver": "file", "filename": "cor.qcow2"}}}})
    m.do("human-monitor-command", **{"command-line": 'qemu-io cor "read -q 0 64k"'})
    m.quit()
    img("rebase", "-u", "-b", "", "-f", "qcow2", "cor.qcow2")
    img("convert", "-f", "qcow2", "-O", "raw", "cor.qcow2", "cor.out")
    with open("cor.out", "rb") as f:
        assert f.read(4) == bytes([5] * 4)


def test_bitmaps_and_backup():
    m = fresh()
    m.do("block-dirty-bitmap-add", node="n0", name="b0", persistent=True)
    m.fails("block-dirty-bitmap-add", "already exists", node="n0", name="b0")
    m.do("block-dirty-bitmap-add", node="n0", name="b1", granularity=4096, disabled=True)
    m.do("block-dirty-bitmap-merge", node="n0", target="b1", bitmaps=["b0", {"node": "n0", "name": "b0"}])
    sums = [m.do("x-debug-block-dirty-bitmap-sha256", node="n0", name=name)["sha256"] for name in ("b0", "b1")]
    assert sums[0] == sums[1] and len(sums[0]) == 64, sums
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


def test_encrypted():
    """Encrypted images by blockdev-create, a guest's data and the state of the machine in one."""
    secret = ["-object", "secret,id=k,data=open sesame"]
    m = Machine(*secret)
    for name in ("e.luks", "e.qcow2"):
        open(name, "w").close()
        m.do("blockdev-add", driver="file", node_name=name, filename=name)
    luks = {"key-secret": "k", "iter-time": 10}
    m.do("blockdev-create", job_id="c1", options={"driver": "luks", "file": "e.luks", "size": MIB, **luks})
    m.wait("JOB_STATUS_CHANGE", id="c1", status="concluded")
    m.do("blockdev-create", job_id="c2", options={"driver": "qcow2", "file": "e.qcow2", "size": 4 * MIB, "encrypt": {"format": "luks", **luks}})
    m.wait("JOB_STATUS_CHANGE", id="c2", status="concluded")
    for job in m.do("query-jobs"):
        assert "error" not in job, job
        m.do("job-dismiss", id=job["id"])
    m.fails("blockdev-add", "is required for cipher", driver="luks", node_name="l", file="e.luks")
    m.fails("blockdev-add", "No secret", driver="luks", node_name="l", file="e.luks", key_secret="x")
    m.do("blockdev-add", driver="luks", node_name="l", file="e.luks", key_secret="k")
    m.do("blockdev-add", driver="qcow2", node_name="q", file="e.qcow2", encrypt={"key-secret": "k", "format": "luks"})
    for node in ("l", "q"):
        guest(m, node, "write -P 7 100k 300k")
    m.quit()
    m = Machine(*secret, "-drive", "if=ide,file=e.qcow2,format=qcow2,encrypt.key-secret=k")
    assert m.do("human-monitor-command", command_line="savevm one") == ""
    assert m.do("human-monitor-command", command_line="loadvm one") == ""
    m.quit()
    key = ["--object", "secret,id=k,data=open sesame", "--image-opts"]
    for image in ("driver=luks,key-secret=k,file.filename=e.luks", "driver=qcow2,encrypt.key-secret=k,file.filename=e.qcow2"):
        if PEER_IO:
            out = subprocess.run([PEER_IO, *key, "-c", "read -P 7 100k 300k", image], capture_output=True, text=True).stdout
            assert "failed" not in out and "read 307200" in out, out
    assert " one " in img("snapshot", "-l", *key, "driver=qcow2,encrypt.key-secret=k,file.filename=e.qcow2")
    img("check", *key, "driver=qcow2,encrypt.key-secret=k,file.filename=e.qcow2")


def test_fleecing():
    """The moment at which copy-before-write came in stays readable while the guest writes."""
    fresh().quit()
    m = Machine("-blockdev", "driver=qcow2,node-name=n0,file.driver=file,file.filename=base.qcow2,discard=unmap")
    img("create", "-q", "-f", "qcow2", "temp.qcow2", "16M")
    m.do("blockdev-add", driver="qcow2", node_name="temp", file={"driver": "file", "filename": "temp.qcow2"})
    m.do("blockdev-add", driver="copy-before-write", node_name="cbw", file="n0", target="temp")
    m.do("blockdev-add", driver="snapshot-access", node_name="moment", file="cbw", read_only=True)
    m.fails("blockdev-add", "keeps no moment", driver="snapshot-access", node_name="x", file="n0", read_only=True)
    img("create", "-q", "-f", "raw", "out.raw", "16M")
    m.do("blockdev-add", driver="raw", node_name="out", file={"driver": "file", "filename": "out.raw"})
    assert "failed" not in guest(m, "cbw", "write -P 7 0 1M")
    assert "failed" not in guest(m, "cbw", "write -z 8M 100k")
    assert "failed" not in guest(m, "cbw", "discard 2M 1M")
    m.do("blockdev-backup", job_id="b", device="moment", target="out", sync="full")
    m.wait("BLOCK_JOB_COMPLETED", device="b")
    m.quit()
    img("create", "-q", "-f", "qcow2", "same.qcow2", "16M")
    subprocess.run([PEER_IO, "-c", "write -P 1 0 4M", "-c", "write -P 2 8M 300k", "same.qcow2"], check=True, capture_output=True)
    img("compare", "-f", "raw", "-F", "qcow2", "out.raw", "same.qcow2")


def test_quorum():
    for name in "abcd":
        with open(name + ".raw", "wb") as f:
            f.truncate(4 * MIB)
    with open("b.raw", "r+b") as f:
        f.write(b"bad")
    m = Machine()
    for name in "abcd":
        m.do("blockdev-add", driver="file", node_name=name, filename=name + ".raw")
    m.do("blockdev-add", driver="quorum", node_name="q", vote_threshold=2, children=["a", "b", "c"])
    assert "failed" not in guest(m, "q", "read -P 0 0 64k")
    bad = m.wait("QUORUM_REPORT_BAD", type="read")
    assert bad["node-name"] == "b" and bad["sector-num"] == 0 and "error" not in bad, bad
    m.do("x-blockdev-change", parent="q", node="d")
    m.do("x-blockdev-change", parent="q", child="children.1")
    m.fails("x-blockdev-change", "does not have a child", parent="q", child="children.1")
    assert "failed" not in guest(m, "q", "write -P 3 0 64k")
    m.do("x-blockdev-change", parent="q", child="children.0")
    m.fails("x-blockdev-change", "vote threshold", parent="q", child="children.2")
    m.fails("x-blockdev-change", "Either child or node", parent="q")
    m.fails("x-blockdev-change", "in conflict", parent="q", child="x", node="b")
    m.quit()
    img("compare", "-f", "raw", "-F", "raw", "a.raw", "d.raw")
    with open("b.raw", "rb") as f:
        assert f.read(4) == b"bad\0"


def test_throttle_group():
    m = Machine("-object", "throttle-group,id=g,x-iops-total=100000")
    with open("t.raw", "wb") as f:
        f.truncate(MIB)
    m.do("blockdev-add", driver="throttle", node_name="t", throttle_group="g", file={"driver": "file", "filename": "t.raw"})
    m.fails("blockdev-add", "does not exist", driver="throttle", node_name="u", throttle_group="h",
            file={"driver": "file", "filename": "t.raw"})
    m.fails("object-del", "in use", id="g")
    m.do("qom-set", path="/objects/g", property="limits", value={"iops-total": 0, "bps-total": 1 << 20})
    m.fails("qom-set", "same time", path="/objects/g", property="limits", value={"bps-read": 5})
    limits = m.do("qom-get", path="/objects/g", property="limits")
    assert limits["bps-total"] == 1 << 20 and limits["iops-total"] == 0 and limits["bps-read-max-length"] == 1, limits
    m.do("blockdev-del", node_name="t")
    m.do("object-del", id="g")
    m.quit()


def test_reopen():
    fresh().quit()
    img("create", "-q", "-f", "qcow2", "top.qcow2", "16M")
    m = Machine("-object", "throttle-group,id=g1", "-object", "throttle-group,id=g2",
                "-blockdev", "driver=file,node-name=f0,filename=base.qcow2", "-blockdev", "driver=qcow2,node-name=n0,file=f0",
                "-blockdev", "driver=file,node-name=f1,filename=top.qcow2",
                "-blockdev", "driver=qcow2,node-name=n1,file=f1", "-blockdev", "driver=throttle,node-name=t,file=n1,throttle-group=g1",
                "-device", "virtio-blk-pci,drive=t,id=disk")

    def info(name):
        return next(n for n in m.do("query-named-block-nodes") if n["node-name"] == name)

    n0, n1 = {"driver": "qcow2", "node-name": "n0", "file": "f0"}, {"driver": "qcow2", "node-name": "n1", "file": "f1"}
    m.do("blockdev-reopen", options=[{**n0, "read-only": True, "discard": "unmap", "cache": {"no-flush": True}}])
    assert info("n0")["ro"] and info("n0")["cache"]["no-flush"]
    m.do("blockdev-reopen", options=[n0])
    assert not info("n0")["ro"] and not info("n0")["cache"]["no-flush"]
    m.do("blockdev-reopen", options=[{**n0, "read-only": True}, {**n1, "backing": "n0", "detect-zeroes": "on"}])
    assert info("n1")["backing_file_depth"] == 1 and info("n1")["detect_zeroes"] == "on"
    for bad, text in (({"driver": "raw"}, "Cannot change the option 'driver'"), ({"node-name": "x"}, "Failed to find node"),
                      ({}, "backing is missing"), ({"backing": "nothing"}, "nor node-name='nothing'"), ({"backing": "n1"}, "cycle"),
                      ({"backing": None, "file": "f0"}, "Cannot change the option 'file'"),
                      ({"backing": None, "overlap-check": "x"}, "overlap-check"), ({"backing": None, "nonsense": 1}, "nonsense"),
                      ({"backing": None, "read-only": True}, "written to"),
                      ({"backing": None, "file": {"driver": "file", "filename": "other"}}, "'filename'")):
        m.fails("blockdev-reopen", text, options=[{**n1, **bad}])
        assert info("n1")["backing_file_depth"] == 1 and info("n1")["detect_zeroes"] == "on"
    # the second cannot: the first gets back what it had
    m.fails("blockdev-reopen", "does not exist", options=[{**n1, "backing": None},
                                                         {"driver": "throttle", "node-name": "t", "file": "n1", "throttle-group": "g3"}])
    assert info("n1")["backing_file_depth"] == 1
    m.do("blockdev-reopen", options=[{"driver": "throttle", "node-name": "t", "file": "n1", "throttle-group": "g2"}])
    m.do("object-del", id="g1")
    m.fails("object-del", "in use", id="g2")
    m.do("blockdev-reopen", options=[{**n1, "backing": None, "lazy-refcounts": True, "l2-cache-size": 65536,
                                      "file": {"driver": "file", "filename": "top.qcow2", "cache": {"direct": True}}}])
    assert info("n1")["backing_file_depth"] == 0 and info("f1")["cache"]["direct"]
    m.do("blockdev-reopen", options=[n0])
    assert "failed" not in guest(m, "n0", "read -P 1 0 4M", "write -P 2 0 1M")
    m.quit()
    img("check", "top.qcow2")
    img("check", "base.qcow2")


def nodes(m):
    return {n["node-name"]: n["drv"] for n in m.do("query-named-block-nodes")}


def add_target(m, name, **rules):
    """A target of the guest's size; rules are blkdebug's."""
    img("create", "-q", "-f", "qcow2", name + ".qcow2", "16M")
    file = {"driver": "file", "filename": name + ".qcow2"}
    if rules:
        file = {"driver": "blkdebug", "image": file, "inject-error": [{k.replace("_", "-"): v for k, v in rules.items()}]}
    m.do("blockdev-add", driver="qcow2", node_name=name, file=file)


def test_active_mirror():
    """In write-blocking mode the target has what the guest has written, without another step of the job."""
    fresh().quit()
    m = Machine("-blockdev", "driver=qcow2,node-name=n0,file.driver=file,file.filename=base.qcow2")
    add_target(m, "t")
    m.do("blockdev-mirror", job_id="j", device="n0", target="t", sync="full", copy_mode="write-blocking", filter_node_name="mf",
         buf_size=65536, unmap=False)
    m.wait("BLOCK_JOB_READY", device="j")
    assert nodes(m)["mf"] == "mirror_top"
    m.do("job-pause", id="j")
    m.wait("JOB_STATUS_CHANGE", id="j", status="standby")
    assert "failed" not in guest(m, "mf", "write -P 7 1000 1M", "write -z 4M 100k", "write -P 9 15M 1M", "flush")
    assert "Pattern" not in guest(m, "t", "read -P 7 1000 1M", "read -P 0 4M 100k", "read -P 9 15M 1M", writable=False)
    m.do("job-resume", id="j")
    m.do("block-job-cancel", device="j")
    m.wait("BLOCK_JOB_COMPLETED", device="j")
    m.wait("JOB_STATUS_CHANGE", id="j", status="null")
    assert "mf" not in nodes(m)
    m.quit()
    img("compare", "base.qcow2", "t.qcow2")


def test_job_filters():
    """The nodes of jobs are there under their names while the jobs run."""
    for command, drv, more in (("block-commit", "commit_top", {}), ("block-stream", "copy-on-read", {}),
                               ("blockdev-backup", "copy-before-write", {"target": "t", "sync": "full"})):
        m = fresh()
        add_target(m, "t")
        m.do("blockdev-snapshot-sync", device="d0", snapshot_file="one.qcow2", snapshot_node_name="one")
        m.fails(command, "Duplicate", job_id="x", device="one", filter_node_name="n0", **more)
        m.do(command, job_id="j", device="one", filter_node_name="jf", speed=1 << 20, **more)
        assert nodes(m)["jf"] == drv
        m.do("block-job-cancel", device="j", force=True)
        m.wait("JOB_STATUS_CHANGE", id="j", status="null")
        assert "jf" not in nodes(m)
        m.quit()


def test_error_policies():
    """What a job does when its target fails: stop and go on, give up, go over it."""
    fresh().quit()
    base = ("-blockdev", "driver=qcow2,node-name=n0,file.driver=file,file.filename=base.qcow2")
    for command in ("blockdev-mirror", "blockdev-backup"):
        for policy, errno, action in (("stop", 5, "stop"), ("enospc", 28, "stop"), ("enospc", 5, "report"), ("report", 28, "report")):
            m = Machine(*base)
            add_target(m, "t", event="write_aio", errno=errno, once=True)
            m.do(command, job_id="j", device="n0", target="t", sync="full", on_target_error=policy)
            assert m.wait("BLOCK_JOB_ERROR", device="j") == {"device": "j", "operation": "write", "action": action}
            if action == "stop":
                m.wait("JOB_STATUS_CHANGE", id="j", status="paused")
                assert m.do("query-block-jobs")[0]["io-status"] == ("nospace" if errno == 28 else "failed")
                m.do("job-resume", id="j")
                if command == "blockdev-mirror":
                    m.wait("BLOCK_JOB_READY", device="j")
                    m.do("block-job-cancel", device="j")
                done = m.wait("BLOCK_JOB_COMPLETED", device="j")
                assert "error" not in done, done
            else:
                done = m.wait("BLOCK_JOB_COMPLETED", device="j")
                assert done["error"] == ("Input/output error" if errno == 5 else "No space left on device") or "failed" in done["error"]
            m.quit()
            if action == "stop":
                img("compare", "base.qcow2", "t.qcow2")
            img("check", "t.qcow2")
    m = Machine(*base)  # the source fails: another policy, another operation
    m.do("blockdev-add", driver="blkdebug", node_name="bad", image="n0",
         inject_error=[{"event": "none", "iotype": "read", "once": True}])
    add_target(m, "t")
    m.do("blockdev-mirror", job_id="j", device="bad", target="t", sync="full", on_source_error="stop", on_target_error="report")
    assert m.wait("BLOCK_JOB_ERROR", device="j")["operation"] == "read"
    m.do("job-resume", id="j")
    m.wait("BLOCK_JOB_READY", device="j")
    m.do("job-complete", id="j")
    m.wait("BLOCK_JOB_COMPLETED", device="j")
    m.quit()
    img("compare", "base.qcow2", "t.qcow2")


def test_grouped():
    """Jobs of one transaction end well together or not at all."""
    for good in (True, False):
        m = fresh()
        add_target(m, "t1")
        add_target(m, "t2", **({} if good else {"event": "write_aio", "errno": 5}))
        m.do("block-dirty-bitmap-add", node="n0", name="b", granularity=65536)
        m.fails("transaction", "Abort", actions=[
            {"type": "blockdev-backup", "data": {"job-id": "j0", "device": "n0", "target": "t1", "sync": "full"}},
            {"type": "abort", "data": {}}], properties={"completion-mode": "grouped"})
        m.wait("JOB_STATUS_CHANGE", id="j0", status="null")
        m.do("transaction", properties={"completion-mode": "grouped"}, actions=[
            {"type": "blockdev-backup", "data": {"job-id": "j1", "device": "n0", "target": "t1", "sync": "full"}},
            {"type": "blockdev-backup", "data": {"job-id": "j2", "device": "n0", "target": "t2", "sync": "full", "auto-finalize": False}}])
        if good:
            m.wait("BLOCK_JOB_PENDING", id="j2")
            m.wait("JOB_STATUS_CHANGE", id="j1", status="pending")
            assert {j["id"]: j["status"] for j in m.do("query-jobs")} == {"j1": "pending", "j2": "pending"}
            m.do("job-finalize", id="j1")
            for j in ("j1", "j2"):
                assert "error" not in m.wait("BLOCK_JOB_COMPLETED", device=j)
        else:
            assert "error" in m.wait("BLOCK_JOB_COMPLETED", device="j2")
            m.wait("BLOCK_JOB_CANCELLED", device="j1")
        m.wait("JOB_STATUS_CHANGE", id="j1", status="null")
        assert m.do("query-jobs") == []
        m.quit()


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=tap.in_scratch)
