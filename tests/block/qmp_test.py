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
import qmp  # noqa: E402
import tap  # noqa: E402

SYSTEM, OURS = (os.path.abspath(p) for p in sys.argv[1:3])
PEER = shutil.which("qemu-img", path="/usr/bin:/usr/local/bin") or OURS
PEER_IO = shutil.which("qemu-io", path="/usr/bin:/usr/local/bin")
MIB = 1 << 20


def img(*argv):
    return subprocess.run([PEER, *argv], check=True, capture_output=True, text=True).stdout


class Machine(qmp.Program):
    def __init__(self, *args):
        super().__init__([SYSTEM, "-M", "pc", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio", *args])

    def monitor(self, line):
        """What the command answers, and what qemu-io prints meanwhile."""
        self.text = ""
        return self.ok("human-monitor-command", command_line=line) + self.text


def guest(m, node, *commands, writable=True):
    """Another program's qemu-io, over NBD, in the guest's place."""
    m.ok("nbd-server-start", addr={"type": "unix", "data": {"path": "nbd.sock"}})
    m.ok("block-export-add", type="nbd", id="guest", node_name=node, writable=writable)
    argv = [PEER_IO or "qemu-io", *([] if writable else ["-r"]), "-f", "raw", "-t", "writeback", "-d", "unmap"]
    for c in commands:
        argv += ["-c", c]
    done = subprocess.run([*argv, f"nbd+unix:///{node}?socket=nbd.sock"], capture_output=True, text=True, timeout=120)
    m.ok("nbd-server-stop")
    m.wait_event("BLOCK_EXPORT_DELETED", id="guest")
    return done.stdout


def fresh(*steps):
    img("create", "-q", "-f", "qcow2", "base.qcow2", "16M")
    if PEER_IO:
        subprocess.run([PEER_IO, "-c", "write -P 1 0 4M", "-c", "write -P 2 8M 300k", "base.qcow2"], check=True, capture_output=True)
    return Machine("-drive", "if=none,id=d0,file=base.qcow2,format=qcow2,node-name=n0", "-device", "virtio-blk-pci,drive=d0,id=disk")


def test_chain():
    """Two overlays, the middle committed, then the top one; the drive ends on the base."""
    m = fresh()
    m.ok("blockdev-snapshot-sync", device="d0", snapshot_file="one.qcow2", snapshot_node_name="one")
    m.fails("Another node", "blockdev-snapshot-sync", device="d0", snapshot_file="x.qcow2", snapshot_node_name="one")
    m.ok("blockdev-snapshot-sync", device="d0", snapshot_file="two.qcow2", snapshot_node_name="two")
    assert m.ok("query-block")[0]["inserted"]["node-name"] == "two"
    m.ok("block-commit", job_id="j1", device="d0", top_node="one", base_node="n0")
    m.wait_event("BLOCK_JOB_COMPLETED", device="j1")
    assert json.loads(img("info", "-U", "--output=json", "two.qcow2"))["backing-filename"] == "base.qcow2"
    m.ok("block-commit", job_id="j2", device="d0")
    m.wait_event("BLOCK_JOB_READY", device="j2")
    assert m.ok("query-block-jobs")[0]["ready"]
    m.ok("job-complete", id="j2")
    m.wait_event("BLOCK_JOB_COMPLETED", device="j2")
    m.wait_event("JOB_STATUS_CHANGE", id="j2", status="null")
    assert m.ok("query-block")[0]["inserted"]["node-name"] == "n0"
    assert m.ok("query-jobs") == []
    m.ok("block_resize", device="d0", size=20 * MIB)
    m.quit()
    img("check", "base.qcow2")
    assert json.loads(img("info", "--output=json", "base.qcow2"))["virtual-size"] == 20 * MIB


def test_mirror_and_stream():
    m = fresh()
    m.ok("blockdev-snapshot-sync", device="d0", snapshot_file="top.qcow2", snapshot_node_name="top")
    m.ok("block-stream", job_id="s", device="d0")
    m.wait_event("BLOCK_JOB_COMPLETED", device="s")
    m.ok("drive-mirror", device="d0", job_id="m", target="copy.qcow2", sync="full", format="qcow2", auto_finalize=False,
         auto_dismiss=False)
    m.wait_event("BLOCK_JOB_READY", device="m")
    m.ok("block-job-complete", device="m")
    m.wait_event("BLOCK_JOB_PENDING", id="m")
    m.ok("job-finalize", id="m")
    m.wait_event("JOB_STATUS_CHANGE", id="m", status="concluded")
    assert m.ok("query-jobs")[0]["status"] == "concluded"
    m.ok("job-dismiss", id="m")
    assert m.ok("query-block")[0]["inserted"]["file"] == "copy.qcow2"
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
    m.ok("blockdev-add", **{"driver": "copy-on-read", "node-name": "cor", "file": {
        "driver": "raw", "file": {"driver": "qcow2", "file": {"driver": "file", "filename": "cor.qcow2"}}}})
    m.ok("human-monitor-command", **{"command-line": 'qemu-io cor "read -q 0 64k"'})
    m.quit()
    img("rebase", "-u", "-b", "", "-f", "qcow2", "cor.qcow2")
    img("convert", "-f", "qcow2", "-O", "raw", "cor.qcow2", "cor.out")
    with open("cor.out", "rb") as f:
        assert f.read(4) == bytes([5] * 4)


def test_bitmaps_and_backup():
    m = fresh()
    m.ok("block-dirty-bitmap-add", node="n0", name="b0", persistent=True)
    m.fails("already exists", "block-dirty-bitmap-add", node="n0", name="b0")
    m.ok("block-dirty-bitmap-add", node="n0", name="b1", granularity=4096, disabled=True)
    m.ok("block-dirty-bitmap-merge", node="n0", target="b1", bitmaps=["b0", {"node": "n0", "name": "b0"}])
    sums = [m.ok("x-debug-block-dirty-bitmap-sha256", node="n0", name=name)["sha256"] for name in ("b0", "b1")]
    assert sums[0] == sums[1] and len(sums[0]) == 64, sums
    m.ok("block-dirty-bitmap-remove", node="n0", name="b1")
    shown = m.ok("query-block")[0]["inserted"]["dirty-bitmaps"]
    assert [(b["name"], b["persistent"], b["recording"], b["count"]) for b in shown] == [("b0", True, True, 0)], shown
    m.ok("drive-backup", device="d0", job_id="b", target="full.qcow2", sync="full", format="qcow2", compress=True)
    m.wait_event("BLOCK_JOB_COMPLETED", device="b")
    m.ok("drive-backup", device="d0", job_id="i", target="inc.qcow2", sync="incremental", bitmap="b0", format="qcow2")
    m.wait_event("BLOCK_JOB_COMPLETED", device="i")
    m.ok("drive-backup", device="d0", job_id="slow", target="slow.qcow2", sync="full", format="qcow2", speed=65536)
    m.ok("block-job-set-speed", device="slow", speed=0)
    m.ok("block-job-cancel", device="slow")
    m.wait_event("BLOCK_JOB_CANCELLED", device="slow")
    m.quit()
    img("check", "full.qcow2")
    img("compare", "base.qcow2", "full.qcow2")
    img("check", "base.qcow2")
    bitmaps = json.loads(img("info", "--output=json", "base.qcow2"))["format-specific"]["data"]["bitmaps"]
    assert [b["name"] for b in bitmaps] == ["b0"]


def test_transaction():
    """All of it or nothing."""
    m = fresh()
    m.ok("block-dirty-bitmap-add", node="n0", name="old")

    def action(kind, **data):
        return {"type": kind, "data": {k.replace("_", "-"): v for k, v in data.items()}}
    steps = [action("block-dirty-bitmap-add", node="n0", name="new"), action("block-dirty-bitmap-remove", node="n0", name="old"),
             action("blockdev-snapshot-sync", device="d0", snapshot_file="t.qcow2", snapshot_node_name="t"),
             action("drive-backup", device="n0", job_id="tb", target="tb.qcow2", sync="full", format="qcow2")]
    m.fails("Transaction aborted", "transaction", actions=[*steps, action("abort")])
    inserted = m.ok("query-block")[0]["inserted"]
    assert inserted["node-name"] == "n0" and [b["name"] for b in inserted["dirty-bitmaps"] if "name" in b] == ["old"], inserted
    m.wait_event("JOB_STATUS_CHANGE", id="tb", status="null")
    m.fails("did you mean", "transaction", actions=[action("block-dirty-bitmap-ad", node="n0", name="new")])
    os.unlink("t.qcow2")
    os.unlink("tb.qcow2")
    m.events.clear()
    m.ok("transaction", actions=steps)
    m.wait_event("BLOCK_JOB_COMPLETED", device="tb")
    assert m.ok("query-block")[0]["inserted"]["node-name"] == "t"
    m.quit()
    img("compare", "tb.qcow2", "base.qcow2")
    img("compare", "t.qcow2", "base.qcow2")


def test_create():
    m = Machine()
    m.ok("blockdev-create", job_id="c1", options={"driver": "file", "filename": "new.qcow2", "size": 0})
    m.wait_event("JOB_STATUS_CHANGE", id="c1", status="concluded")
    m.ok("job-dismiss", id="c1")
    m.ok("blockdev-add", driver="file", filename="new.qcow2", node_name="f")
    m.ok("blockdev-create", job_id="c2", options={"driver": "qcow2", "file": "f", "size": 5 * MIB, "cluster-size": 4096, "version": "v3"})
    m.wait_event("JOB_STATUS_CHANGE", id="c2", status="concluded")
    assert "error" not in m.ok("query-jobs")[0], m.ok("query-jobs")
    m.ok("job-dismiss", id="c2")
    m.ok("blockdev-add", driver="qcow2", file="f", node_name="q")
    m.ok("blockdev-del", node_name="q")
    m.quit()
    img("check", "new.qcow2")
    assert json.loads(img("info", "--output=json", "new.qcow2"))["cluster-size"] == 4096


def concluded(m, job):
    """Its error, or None. The job goes."""
    m.wait_event("JOB_STATUS_CHANGE", id=job, status="concluded")
    error = [j for j in m.ok("query-jobs") if j["id"] == job][0].get("error")
    m.ok("job-dismiss", id=job)
    return error


def test_create_over_data():
    """A raw disk that is there already becomes the data file of a new image, which shows what it has."""
    with open("d.raw", "wb") as f:
        f.write(b"\x2a" * MIB)
    img("create", "-q", "-f", "raw", "meta", "0")
    m = Machine("-blockdev", "file,node-name=data,filename=d.raw", "-blockdev", "file,node-name=meta,filename=meta")
    m.ok("blockdev-create", job_id="c", options={"driver": "qcow2", "size": MIB, "file": "meta", "data-file": "data", "data-file-raw": True})
    assert concluded(m, "c") is None
    m.quit()
    assert not os.path.exists("data")
    img("compare", "-f", "raw", "-F", "qcow2", "d.raw", "meta")
    img("resize", "-q", "meta", "2M")
    img("compare", "-f", "raw", "-F", "qcow2", "d.raw", "meta")


def test_create_and_amend():
    """A file that is named in place; options in QMP's spelling; then other options for an image that is open."""
    m = Machine()
    m.ok("blockdev-create", job_id="c", options={"driver": "file", "filename": "new.vhdx", "size": 0})
    assert concluded(m, "c") is None
    m.ok("blockdev-create", job_id="c", options={"driver": "vhdx", "file": {"driver": "file", "filename": "new.vhdx"}, "size": 32 * MIB,
                                                 "block-size": 2 * MIB, "log-size": MIB, "subformat": "dynamic"})
    assert concluded(m, "c") is None
    m.ok("blockdev-create", job_id="c", options={"driver": "vhdx", "file": "nobody", "size": 32 * MIB})
    assert "nobody" in concluded(m, "c")
    m.ok("blockdev-create", job_id="c", options={"driver": "vhdx", "size": 32 * MIB})
    assert "needs a file" in concluded(m, "c")
    img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "a.qcow2", "4M")
    m.ok("blockdev-add", driver="qcow2", node_name="q", file={"driver": "file", "filename": "a.qcow2"})
    m.ok("x-blockdev-amend", job_id="a", node_name="q", options={"driver": "qcow2", "version": "v3"})
    assert concluded(m, "a") is None
    m.ok("x-blockdev-amend", job_id="a", node_name="q", options={"driver": "luks"})
    assert "driver is 'qcow2'" in concluded(m, "a")
    m.fails("nobody", "x-blockdev-amend", job_id="a", node_name="nobody", options={"driver": "qcow2"})
    m.quit()
    assert json.loads(img("info", "--output=json", "new.vhdx"))["cluster-size"] == 2 * MIB
    assert json.loads(img("info", "--output=json", "a.qcow2"))["format-specific"]["data"]["compat"] == "1.1"
    img("check", "a.qcow2")


def test_encrypted():
    """Encrypted images by blockdev-create, a guest's data and the state of the machine in one."""
    secret = ["-object", "secret,id=k,data=open sesame"]
    m = Machine(*secret)
    for name in ("e.luks", "e.qcow2"):
        open(name, "w").close()
        m.ok("blockdev-add", driver="file", node_name=name, filename=name)
    luks = {"key-secret": "k", "iter-time": 10}
    m.ok("blockdev-create", job_id="c1", options={"driver": "luks", "file": "e.luks", "size": MIB, **luks})
    m.wait_event("JOB_STATUS_CHANGE", id="c1", status="concluded")
    m.ok("blockdev-create", job_id="c2", options={"driver": "qcow2", "file": "e.qcow2", "size": 4 * MIB, "encrypt": {"format": "luks", **luks}})
    m.wait_event("JOB_STATUS_CHANGE", id="c2", status="concluded")
    for job in m.ok("query-jobs"):
        assert "error" not in job, job
        m.ok("job-dismiss", id=job["id"])
    m.fails("name its secret in 'key-secret'", "blockdev-add", driver="luks", node_name="l", file="e.luks")
    m.fails("No secret", "blockdev-add", driver="luks", node_name="l", file="e.luks", key_secret="x")
    m.ok("blockdev-add", driver="luks", node_name="l", file="e.luks", key_secret="k")
    m.ok("blockdev-add", driver="qcow2", node_name="q", file="e.qcow2", encrypt={"key-secret": "k", "format": "luks"})
    for node in ("l", "q"):
        guest(m, node, "write -P 7 100k 300k")
    m.quit()
    m = Machine(*secret, "-drive", "if=ide,file=e.qcow2,format=qcow2,encrypt.key-secret=k")
    assert m.ok("human-monitor-command", command_line="savevm one") == ""
    assert m.ok("human-monitor-command", command_line="loadvm one") == ""
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
    m.ok("blockdev-add", driver="qcow2", node_name="temp", file={"driver": "file", "filename": "temp.qcow2"})
    m.ok("blockdev-add", driver="copy-before-write", node_name="cbw", file="n0", target="temp")
    m.ok("blockdev-add", driver="snapshot-access", node_name="moment", file="cbw", read_only=True)
    m.fails("keeps no moment", "blockdev-add", driver="snapshot-access", node_name="x", file="n0", read_only=True)
    img("create", "-q", "-f", "raw", "out.raw", "16M")
    m.ok("blockdev-add", driver="raw", node_name="out", file={"driver": "file", "filename": "out.raw"})
    assert "failed" not in guest(m, "cbw", "write -P 7 0 1M")
    assert "failed" not in guest(m, "cbw", "write -z 8M 100k")
    assert "failed" not in guest(m, "cbw", "discard 2M 1M")
    m.ok("blockdev-backup", job_id="b", device="moment", target="out", sync="full")
    m.wait_event("BLOCK_JOB_COMPLETED", device="b")
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
        m.ok("blockdev-add", driver="file", node_name=name, filename=name + ".raw")
    m.ok("blockdev-add", driver="quorum", node_name="q", vote_threshold=2, children=["a", "b", "c"])
    assert "failed" not in guest(m, "q", "read -P 0 0 64k")
    bad = m.wait_event("QUORUM_REPORT_BAD", type="read")
    assert bad["node-name"] == "b" and bad["sector-num"] == 0 and "error" not in bad, bad
    m.ok("x-blockdev-change", parent="q", node="d")
    m.ok("x-blockdev-change", parent="q", child="children.1")
    m.fails("does not have a child", "x-blockdev-change", parent="q", child="children.1")
    assert "failed" not in guest(m, "q", "write -P 3 0 64k")
    m.ok("x-blockdev-change", parent="q", child="children.0")
    m.fails("vote threshold", "x-blockdev-change", parent="q", child="children.2")
    m.fails("Say what to change", "x-blockdev-change", parent="q")
    m.fails("give one of them", "x-blockdev-change", parent="q", child="x", node="b")
    m.quit()
    img("compare", "-f", "raw", "-F", "raw", "a.raw", "d.raw")
    with open("b.raw", "rb") as f:
        assert f.read(4) == b"bad\0"


def test_throttle_group():
    m = Machine("-object", "throttle-group,id=g,x-iops-total=100000")
    with open("t.raw", "wb") as f:
        f.truncate(MIB)
    m.ok("blockdev-add", driver="throttle", node_name="t", throttle_group="g", file={"driver": "file", "filename": "t.raw"})
    m.fails("does not exist", "blockdev-add", driver="throttle", node_name="u", throttle_group="h",
            file={"driver": "file", "filename": "t.raw"})
    m.fails("in use", "object-del", id="g")
    m.ok("qom-set", path="/objects/g", property="limits", value={"iops-total": 0, "bps-total": 1 << 20})
    m.fails("same time", "qom-set", path="/objects/g", property="limits", value={"bps-read": 5})
    limits = m.ok("qom-get", path="/objects/g", property="limits")
    assert limits["bps-total"] == 1 << 20 and limits["iops-total"] == 0 and limits["bps-read-max-length"] == 1, limits
    m.ok("blockdev-del", node_name="t")
    m.ok("object-del", id="g")
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
        return next(n for n in m.ok("query-named-block-nodes") if n["node-name"] == name)

    n0, n1 = {"driver": "qcow2", "node-name": "n0", "file": "f0"}, {"driver": "qcow2", "node-name": "n1", "file": "f1"}
    m.ok("blockdev-reopen", options=[{**n0, "read-only": True, "discard": "unmap", "cache": {"no-flush": True}}])
    assert info("n0")["ro"] and info("n0")["cache"]["no-flush"]
    m.ok("blockdev-reopen", options=[n0])
    assert not info("n0")["ro"] and not info("n0")["cache"]["no-flush"]
    m.ok("blockdev-reopen", options=[{**n0, "read-only": True}, {**n1, "backing": "n0", "detect-zeroes": "on"}])
    assert info("n1")["backing_file_depth"] == 1 and info("n1")["detect_zeroes"] == "on"
    for bad, text in (({"driver": "raw"}, "Cannot change the option 'driver'"), ({"node-name": "x"}, "Failed to find node"),
                      ({}, "backing is missing"), ({"backing": "nothing"}, "nor node-name='nothing'"), ({"backing": "n1"}, "cycle"),
                      ({"backing": None, "file": "f0"}, "Cannot change the option 'file'"),
                      ({"backing": None, "overlap-check": "x"}, "overlap-check"), ({"backing": None, "nonsense": 1}, "nonsense"),
                      ({"backing": None, "read-only": True}, "written to"),
                      ({"backing": None, "file": {"driver": "file", "filename": "other"}}, "'filename'")):
        m.fails(text, "blockdev-reopen", options=[{**n1, **bad}])
        assert info("n1")["backing_file_depth"] == 1 and info("n1")["detect_zeroes"] == "on"
    # the second cannot: the first gets back what it had
    m.fails("does not exist", "blockdev-reopen", options=[{**n1, "backing": None},
                                                         {"driver": "throttle", "node-name": "t", "file": "n1", "throttle-group": "g3"}])
    assert info("n1")["backing_file_depth"] == 1
    m.ok("blockdev-reopen", options=[{"driver": "throttle", "node-name": "t", "file": "n1", "throttle-group": "g2"}])
    m.ok("object-del", id="g1")
    m.fails("in use", "object-del", id="g2")
    m.ok("blockdev-reopen", options=[{**n1, "backing": None, "lazy-refcounts": True, "l2-cache-size": 65536,
                                      "file": {"driver": "file", "filename": "top.qcow2", "cache": {"direct": True}}}])
    assert info("n1")["backing_file_depth"] == 0 and info("f1")["cache"]["direct"]
    m.ok("blockdev-reopen", options=[n0])
    assert "failed" not in guest(m, "n0", "read -P 1 0 4M", "write -P 2 0 1M")
    m.quit()
    img("check", "top.qcow2")
    img("check", "base.qcow2")


def nodes(m):
    return {n["node-name"]: n["drv"] for n in m.ok("query-named-block-nodes")}


def add_target(m, name, **rules):
    """A target of the guest's size; rules are blkdebug's."""
    img("create", "-q", "-f", "qcow2", name + ".qcow2", "16M")
    file = {"driver": "file", "filename": name + ".qcow2"}
    if rules:
        file = {"driver": "blkdebug", "image": file, "inject-error": [{k.replace("_", "-"): v for k, v in rules.items()}],
                "set-state": [{"event": rules["event"], "state": 1, "new_state": 2}]}
    m.ok("blockdev-add", driver="qcow2", node_name=name, file=file)


def test_names():
    """A node is named by its file where that says all, else by all options that say what it shows; either opens the same."""
    img("create", "-f", "qcow2", "nb.qcow2", "1M")
    img("create", "-f", "qcow2", "-b", "nb.qcow2", "-F", "qcow2", "nt.qcow2")
    with Machine() as m:

        def name(**options):
            m.ok("blockdev-add", **{"node-name": "n", **options})
            text = [n["file"] for n in m.ok("query-named-block-nodes") if n["node-name"] == "n"][0]
            m.ok("blockdev-del", node_name="n")
            return text

        file = {"driver": "file", "filename": "nt.qcow2"}
        debug = {"driver": "blkdebug", "image": file}
        assert name(driver="qcow2", file=file) == "nt.qcow2"
        assert name(driver="raw", file=debug) == "blkdebug::nt.qcow2"
        assert name(driver="null-co") == "null-co://"
        for options in ({"driver": "raw", "offset": "512", "file": file}, {"driver": "qcow2", "file": file, "backing": None},
                        {"driver": "qcow2", "file": file, "backing": {"driver": "null-co", "size": "65536"}},
                        {"driver": "qcow2", "file": {**debug, "inject-error.0.event": "l2_load"}}):
            text = name(**({**options, "offset": 512} if "offset" in options else options))
            assert text.startswith("json:") and json.loads(text[5:]) == options, text
            subprocess.run([OURS, "map", "--output=json", "-U", text], check="inject" not in text, capture_output=True)
        m.quit()


def test_below_overlay():
    """What is below a new overlay can be read by others, and its bitmaps are on the disk; bitmaps are shown newest first."""
    img("create", "-f", "qcow2", "bo.qcow2", "1M")
    with Machine("-drive", "if=virtio,id=d,file=bo.qcow2,format=qcow2,node-name=base") as m:
        for name in ("a", "b"):
            m.ok("block-dirty-bitmap-add", node="base", name=name, persistent=True)
        assert [b["name"] for b in m.ok("query-block")[0]["inserted"]["dirty-bitmaps"]] == ["b", "a"]
        m.ok("blockdev-snapshot-sync", node_name="base", snapshot_file="bo2.qcow2", snapshot_node_name="top")
        image = m.ok("query-block")[0]["inserted"]["image"]["backing-image"]
        assert [b["name"] for b in image["format-specific"]["data"]["bitmaps"]] == ["b", "a"], image
        img("compare", "bo.qcow2", "bo.qcow2")
        m.ok("block-commit", job_id="j", device="top")
        m.wait_event("BLOCK_JOB_READY")
        m.ok("block-job-complete", device="j")
        m.wait_event("BLOCK_JOB_COMPLETED")
        m.quit()
    img("check", "bo.qcow2")


def test_auto_read_only():
    """What cannot be opened for writing is opened for reading, where that is allowed."""
    img("create", "-f", "raw", "ar.img", "1M")
    m = Machine()
    address = {"type": "unix", "path": os.path.abspath("ar.sock")}
    m.ok("blockdev-add", **{"driver": "file", "node-name": "f", "filename": "ar.img"})
    m.ok("nbd-server-start", addr={"type": "unix", "data": {"path": address["path"]}})
    m.ok("block-export-add", **{"type": "nbd", "id": "e", "node-name": "f", "writable": False})
    client = {"driver": "nbd", "node-name": "c", "server": address, "export": "f"}
    m.fails("write permission", "blockdev-add", **client)
    m.ok("blockdev-add", **{**client, "auto-read-only": True})
    assert [n["ro"] for n in m.ok("query-named-block-nodes") if n["node-name"] == "c"] == [True]
    m.ok("blockdev-del", **{"node-name": "c"})
    m.quit()


def test_active_mirror():
    """In write-blocking mode the target has what the guest has written, without another step of the job."""
    fresh().quit()
    m = Machine("-blockdev", "driver=qcow2,node-name=n0,file.driver=file,file.filename=base.qcow2")
    add_target(m, "t")
    m.ok("blockdev-mirror", job_id="j", device="n0", target="t", sync="full", copy_mode="write-blocking", filter_node_name="mf",
         buf_size=65536, unmap=False)
    m.wait_event("BLOCK_JOB_READY", device="j")
    assert nodes(m)["mf"] == "mirror_top"
    m.ok("job-pause", id="j")
    m.wait_event("JOB_STATUS_CHANGE", id="j", status="standby")
    assert "failed" not in guest(m, "mf", "write -P 7 1000 1M", "write -z 4M 100k", "write -P 9 15M 1M", "flush")
    assert "Pattern" not in guest(m, "t", "read -P 7 1000 1M", "read -P 0 4M 100k", "read -P 9 15M 1M", writable=False)
    m.ok("job-resume", id="j")
    m.ok("block-job-cancel", device="j")
    m.wait_event("BLOCK_JOB_COMPLETED", device="j")
    m.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
    assert "mf" not in nodes(m)
    m.quit()
    img("compare", "base.qcow2", "t.qcow2")


def test_active_mirror_switches():
    """A mirror in write-blocking mode ends with the target in the source's place, and nobody has the source any more."""
    m = fresh()
    add_target(m, "t")
    m.ok("blockdev-mirror", job_id="j", device="n0", target="t", sync="full", copy_mode="write-blocking", auto_finalize=False)
    m.wait_event("BLOCK_JOB_READY", device="j")
    m.ok("block-job-complete", device="j")
    m.wait_event("BLOCK_JOB_PENDING", id="j")
    m.ok("job-finalize", id="j")
    m.wait_event("BLOCK_JOB_COMPLETED", device="j")
    m.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
    assert set(nodes(m)) & {"n0", "t"} == {"t"}, nodes(m)
    m.quit()
    img("compare", "base.qcow2", "t.qcow2")


def test_job_filters():
    """The nodes of jobs are there under their names while the jobs run."""
    for command, drv, more in (("block-commit", "commit_top", {}), ("block-stream", "copy-on-read", {}),
                               ("blockdev-backup", "copy-before-write", {"target": "t", "sync": "full"})):
        m = fresh()
        add_target(m, "t")
        m.ok("blockdev-snapshot-sync", device="d0", snapshot_file="one.qcow2", snapshot_node_name="one")
        m.fails("Duplicate", command, job_id="x", device="one", filter_node_name="n0", **more)
        m.ok(command, job_id="j", device="one", filter_node_name="jf", speed=1 << 20, **more)
        assert nodes(m)["jf"] == drv
        m.ok("block-job-cancel", device="j", force=True)
        m.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
        assert "jf" not in nodes(m)
        m.quit()


def test_jobs_side_by_side():
    """A commit of an image and a stream over it: the stream's base is the commit's node, and in the end what is below that."""
    for first in ("commit", "stream"):
        m = fresh()
        for n in range(1, 4):
            m.ok("blockdev-snapshot-sync", device="d0", snapshot_file=f"o{n}.qcow2", snapshot_node_name=f"o{n}")
            m.monitor(f'qemu-io d0 "write -P {n} {n}M 1M"')
        m.ok("block-commit", job_id="commit", device="d0", top_node="o1", base_node="n0", filter_node_name="cf", auto_finalize=False)
        m.wait_event("BLOCK_JOB_PENDING", id="commit")
        m.ok("block-stream", job_id="stream", device="o2", base_node="cf", auto_finalize=False)
        m.wait_event("BLOCK_JOB_PENDING", id="stream")
        for job in (first, "stream" if first == "commit" else "commit"):
            m.ok("job-finalize", id=job)
            m.wait_event("JOB_STATUS_CHANGE", id=job, status="null")
        graph = m.ok("x-debug-query-block-graph")
        names = {node["id"]: node["name"] for node in graph["nodes"]}
        edges = {(names[e["parent"]], e["name"]): names[e["child"]] for e in graph["edges"]}
        assert edges["o2", "backing"] == "n0" and edges["o3", "backing"] == "o2" and "cf" not in names.values(), edges
        assert [n["ro"] for n in m.ok("query-named-block-nodes") if n["node-name"] in ("o2", "n0")] == [True, True]
        for n in range(1, 4):
            assert "failed" not in m.monitor(f'qemu-io d0 "read -P {n} {n}M 1M"')
        m.quit()
        assert img("info", "o2.qcow2").count("backing file: base.qcow2") == 1
        for name in ("base.qcow2", "o2.qcow2", "o3.qcow2"):
            img("check", name)


def test_sparse_stays_sparse():
    """A mirror writes no zeroes where its target shows them already, whether or not it may unmap."""
    m = fresh()
    with open("sparse.raw", "wb") as f:
        f.truncate(16 * MIB)
    m.ok("blockdev-add", driver="file", node_name="t", filename="sparse.raw", discard="ignore")
    m.monitor('qemu-io d0 "write -P 5 1M 64k"')
    m.ok("blockdev-mirror", job_id="m", device="d0", target="t", sync="full")
    m.wait_event("BLOCK_JOB_READY", device="m")
    m.ok("block-job-cancel", device="m")
    m.wait_event("BLOCK_JOB_COMPLETED", device="m")
    m.quit()
    img("compare", "-F", "raw", "base.qcow2", "sparse.raw")
    assert os.stat("sparse.raw").st_blocks * 512 < 8 * MIB


def test_reopen_storage_follows():
    """What was opened for reading is reopened for writing with its file, which the options name inline."""
    img("create", "-f", "qcow2", "r.qcow2", "4M")
    m = fresh()
    file = {"driver": "file", "filename": os.path.abspath("r.qcow2")}
    m.ok("blockdev-add", driver="qcow2", node_name="r", read_only=True, file=file)
    m.ok("blockdev-reopen", options=[{"driver": "qcow2", "node-name": "r", "read-only": False, "file": file}])
    assert "failed" not in m.monitor('qemu-io r "write 0 64k"')
    m.quit()


def test_backup_pieces():
    m = fresh()
    add_target(m, "t")
    backup = {"job_id": "b", "device": "d0", "target": "t", "sync": "full"}
    m.fails("max-workers", "blockdev-backup", **backup, x_perf={"max-workers": 0})
    m.fails("max-chunk", "blockdev-backup", **backup, x_perf={"max-chunk": -1})
    m.fails("through memory", "blockdev-backup", **backup, x_perf={"use-copy-range": True})
    m.ok("blockdev-backup", **backup, x_perf={"use-copy-range": False, "max-workers": 8, "max-chunk": 128 << 10})
    assert "error" not in m.wait_event("BLOCK_JOB_COMPLETED", device="b")
    m.quit()
    img("compare", "base.qcow2", "t.qcow2")


def test_resize_below_window():
    """What has its place in a file does not let the file be made shorter; what is as long as the file follows it."""
    with open("w.raw", "wb") as f:
        f.truncate(4 * MIB)
    m = fresh()
    for options, size in (({"offset": MIB}, 3), ({"size": MIB}, 1), ({}, 2)):
        m.ok("blockdev-add", driver="raw", node_name="w", file={"driver": "file", "node-name": "f", "filename": "w.raw"}, **options)
        if options:
            m.fails("resize", "block_resize", node_name="f", size=2 * MIB)
        else:
            m.ok("block_resize", node_name="f", size=2 * MIB)
        seen = [n["image"]["virtual-size"] for n in m.ok("query-named-block-nodes") if n["node-name"] == "w"]
        assert seen == [size * MIB], (options, seen)
        m.ok("blockdev-del", node_name="w")
        while "f" in nodes(m):
            pass
    m.quit()


def test_copy_on_read_of_subclusters():
    img("create", "-f", "qcow2", "cb.qcow2", "64k")
    img("create", "-f", "qcow2", "-o", "extended_l2=on", "-b", "cb.qcow2", "-F", "qcow2", "ct.qcow2")
    m = fresh()
    m.ok("blockdev-add", driver="qcow2", node_name="cb", file={"driver": "file", "filename": "cb.qcow2"})
    m.monitor('qemu-io cb "write -P 7 0 64k"')
    m.quit()
    m = fresh()
    m.ok("blockdev-add", driver="copy-on-read", node_name="c",
         file={"driver": "qcow2", "file": {"driver": "file", "filename": "ct.qcow2"}})
    assert "failed" not in m.monitor('qemu-io c "read -P 7 30k 4k"')
    m.quit()
    own = [(e["start"], e["length"]) for e in json.loads(img("map", "--output=json", "ct.qcow2")) if e["depth"] == 0]
    assert own == [(30 << 10, 4 << 10)], own


def test_snapshots_of_free_nodes():
    """savevm has the images that no device uses, too, below their filters."""
    img("create", "-f", "qcow2", "s.qcow2", "4M")
    m = fresh()
    m.ok("blockdev-add", driver="copy-on-read", node_name="cor",
         file={"driver": "qcow2", "node-name": "s", "file": {"driver": "file", "filename": "s.qcow2"}})
    m.monitor("savevm one")
    assert "one" in m.monitor("info snapshots")
    m.ok("blockdev-add", driver="null-co", node_name="nothing")
    assert "Device 'nothing' is writable but does not support snapshots" in m.monitor("savevm two")
    m.quit()
    for name in ("s.qcow2", "base.qcow2"):
        assert "one" in img("snapshot", "-l", name)


def test_error_policies():
    """What a job does when its target fails: stop and go on, give up, go over it."""
    fresh().quit()
    base = ("-blockdev", "driver=qcow2,node-name=n0,file.driver=file,file.filename=base.qcow2")
    for command in ("blockdev-mirror", "blockdev-backup"):
        for policy, errno, action in (("stop", 5, "stop"), ("enospc", 28, "stop"), ("enospc", 5, "report"), ("report", 28, "report")):
            m = Machine(*base)
            add_target(m, "t", event="write_aio", errno=errno, once=True)
            m.ok(command, job_id="j", device="n0", target="t", sync="full", on_target_error=policy)
            assert m.wait_event("BLOCK_JOB_ERROR", device="j") == {"device": "j", "operation": "write", "action": action}
            if action == "stop":
                m.wait_event("JOB_STATUS_CHANGE", id="j", status="paused")
                assert m.ok("query-block-jobs")[0]["io-status"] == ("nospace" if errno == 28 else "failed")
                m.ok("job-resume", id="j")
                if command == "blockdev-mirror":
                    m.wait_event("BLOCK_JOB_READY", device="j")
                    m.ok("block-job-cancel", device="j")
                done = m.wait_event("BLOCK_JOB_COMPLETED", device="j")
                assert "error" not in done, done
            else:
                done = m.wait_event("BLOCK_JOB_COMPLETED", device="j")
                assert done["error"] == ("Input/output error" if errno == 5 else "No space left on device") or "failed" in done["error"]
            m.quit()
            if action == "stop":
                img("compare", "base.qcow2", "t.qcow2")
            img("check", "t.qcow2")
    m = Machine(*base)  # the flush before the end: a mirror that was told to end stops once more, and ends when it goes on
    add_target(m, "t", event="flush_to_disk", errno=5, state=2, once=True)
    m.ok("blockdev-mirror", job_id="j", device="n0", target="t", sync="full", on_target_error="stop", filter_node_name="top")
    m.wait_event("BLOCK_JOB_READY", device="j")
    m.ok("human-monitor-command", command_line='qemu-io top "write -P 7 0 64k"')
    m.ok("block-job-cancel", device="j")
    m.wait_event("BLOCK_JOB_ERROR", device="j")
    m.wait_event("JOB_STATUS_CHANGE", id="j", status="standby")
    m.ok("block-job-resume", device="j")
    assert "error" not in m.wait_event("BLOCK_JOB_COMPLETED", device="j")
    m.quit()
    img("compare", "base.qcow2", "t.qcow2")
    m = Machine(*base)  # the source fails: another policy, another operation
    m.ok("blockdev-add", driver="blkdebug", node_name="bad", image="n0",
         inject_error=[{"event": "none", "iotype": "read", "once": True}])
    add_target(m, "t")
    m.ok("blockdev-mirror", job_id="j", device="bad", target="t", sync="full", on_source_error="stop", on_target_error="report")
    assert m.wait_event("BLOCK_JOB_ERROR", device="j")["operation"] == "read"
    m.ok("job-resume", id="j")
    m.wait_event("BLOCK_JOB_READY", device="j")
    m.ok("job-complete", id="j")
    m.wait_event("BLOCK_JOB_COMPLETED", device="j")
    m.quit()
    img("compare", "base.qcow2", "t.qcow2")


def test_larger_units():
    """A backup to larger clusters over an older backup; a mirror in steps that are larger than usual copies."""
    img("create", "-q", "-f", "qcow2", "s.qcow2", "16M")
    m = Machine("-blockdev", "driver=qcow2,node-name=s,file.driver=file,file.filename=s.qcow2")
    for at in range(0, 16, 2):
        m.ok("human-monitor-command", command_line=f'qemu-io s "write -P {at + 1} {at}M 2M"')
    m.ok("block-dirty-bitmap-add", node="s", name="b")
    m.ok("drive-backup", job_id="j", device="s", target="full.qcow2", format="qcow2", sync="full")
    assert "error" not in m.wait_event("BLOCK_JOB_COMPLETED", device="j")
    for at in (64, 5000, 9000):
        m.ok("human-monitor-command", command_line=f'qemu-io s "write -P 77 {at}k 4k"')
    img("create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", "-b", "full.qcow2", "-F", "qcow2", "more.qcow2")
    m.ok("drive-backup", job_id="j", device="s", target="more.qcow2", format="qcow2", sync="incremental", bitmap="b", mode="existing")
    assert "error" not in m.wait_event("BLOCK_JOB_COMPLETED", device="j")
    m.fails("granularity", "drive-mirror", job_id="j", device="s", target="m.qcow2", format="qcow2", sync="full", granularity=128 << 20)
    m.ok("drive-mirror", job_id="j", device="s", target="m.qcow2", format="qcow2", sync="full", granularity=8 << 20)
    m.wait_event("BLOCK_JOB_READY", device="j")
    m.ok("block-job-cancel", device="j")
    m.wait_event("BLOCK_JOB_COMPLETED", device="j")
    m.quit()
    img("compare", "s.qcow2", "more.qcow2")
    img("compare", "s.qcow2", "m.qcow2")


def test_quit_after_del():
    """A node that is still being closed when the program ends; who uses a node is said."""
    for _ in range(5):
        img("create", "-q", "-f", "qcow2", "s.qcow2", "16M")
        m = Machine("-blockdev", "driver=qcow2,node-name=s,file.driver=file,file.filename=s.qcow2")
        m.ok("drive-backup", job_id="j", device="s", target="t.qcow2", format="qcow2", sync="none")
        m.fails("backing hd of", "blockdev-del", node_name="s")
        m.ok("block-job-cancel", device="j")
        m.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
        m.ok("human-monitor-command", command_line='qemu-io s "write 0 64k"')
        m.ok("blockdev-del", node_name="s")
        m.quit()
        img("check", "-q", "s.qcow2")


def test_change_backing_file():
    """Of an image in the middle of a chain, which is open for reading."""
    img("create", "-q", "-f", "qcow2", "cb.qcow2", "16M")
    img("create", "-q", "-f", "qcow2", "-b", "cb.qcow2", "-F", "qcow2", "cm.qcow2")
    img("create", "-q", "-f", "qcow2", "-b", "cm.qcow2", "-F", "qcow2", "ct.qcow2")
    m = Machine("-blockdev", "driver=qcow2,node-name=t,file.driver=file,file.filename=ct.qcow2,backing.driver=qcow2,"
                "backing.node-name=m,backing.file.driver=file,backing.file.filename=cm.qcow2")
    m.ok("change-backing-file", device="t", image_node_name="m", backing_file="elsewhere.qcow2")
    assert [n["ro"] for n in m.ok("query-named-block-nodes") if n["node-name"] == "m"] == [True]
    m.fails("is too long", "change-backing-file", device="t", image_node_name="m", backing_file="x" * 5000)
    assert [n["ro"] for n in m.ok("query-named-block-nodes") if n["node-name"] == "m"] == [True]
    m.quit()
    assert json.loads(subprocess.run([OURS, "info", "--output=json", "cm.qcow2"], capture_output=True, text=True,
                                     check=True).stdout)["backing-filename"] == "elsewhere.qcow2"


def test_grouped():
    """Jobs of one transaction end well together or not at all."""
    for good in (True, False):
        m = fresh()
        add_target(m, "t1")
        add_target(m, "t2", **({} if good else {"event": "write_aio", "errno": 5}))
        m.ok("block-dirty-bitmap-add", node="n0", name="b", granularity=65536)
        m.fails("Abort", "transaction", actions=[
            {"type": "blockdev-backup", "data": {"job-id": "j0", "device": "n0", "target": "t1", "sync": "full"}},
            {"type": "abort", "data": {}}], properties={"completion-mode": "grouped"})
        m.wait_event("JOB_STATUS_CHANGE", id="j0", status="null")
        m.ok("transaction", properties={"completion-mode": "grouped"}, actions=[
            {"type": "blockdev-backup", "data": {"job-id": "j1", "device": "n0", "target": "t1", "sync": "full"}},
            {"type": "blockdev-backup", "data": {"job-id": "j2", "device": "n0", "target": "t2", "sync": "full", "auto-finalize": False}}])
        if good:
            m.wait_event("BLOCK_JOB_PENDING", id="j2")
            m.wait_event("JOB_STATUS_CHANGE", id="j1", status="pending")
            assert {j["id"]: j["status"] for j in m.ok("query-jobs")} == {"j1": "pending", "j2": "pending"}
            m.ok("job-finalize", id="j1")
            for j in ("j1", "j2"):
                assert "error" not in m.wait_event("BLOCK_JOB_COMPLETED", device=j)
        else:
            assert "error" in m.wait_event("BLOCK_JOB_COMPLETED", device="j2")
            m.wait_event("BLOCK_JOB_CANCELLED", device="j1")
        m.wait_event("JOB_STATUS_CHANGE", id="j1", status="null")
        assert m.ok("query-jobs") == []
        m.quit()


def test_write_threshold():
    """A write that ends behind the threshold is told once, of the node that has it; it may be set again and taken away."""
    with Machine("-blockdev", "null-co,node-name=s,size=1048576,read-zeroes=on", "-blockdev", "raw,node-name=r,file=s") as m:
        def told():
            return {i["node-name"]: i["write_threshold"] for i in m.ok("query-named-block-nodes")}["s"]

        m.ok("block-set-write-threshold", node_name="s", write_threshold=65536)
        assert told() == 65536
        m.monitor('qemu-io r "write 0 64k"')
        m.monitor('qemu-io r "read 64k 64k"')
        assert m.seen("BLOCK_WRITE_THRESHOLD") == [] and told() == 65536
        m.monitor('qemu-io r "write 60k 8k"')
        assert m.wait_event("BLOCK_WRITE_THRESHOLD") == {"node-name": "s", "amount-exceeded": 4096, "write-threshold": 65536}
        assert told() == 0
        m.monitor('qemu-io r "write 128k 8k"')
        m.ok("block-set-write-threshold", node_name="s", write_threshold=4096)
        m.ok("block-set-write-threshold", node_name="s", write_threshold=0)
        m.monitor('qemu-io r "write 128k 8k"')
        assert m.seen("BLOCK_WRITE_THRESHOLD") == []
        m.fails("no block node", "block-set-write-threshold", node_name="x", write_threshold=1)
        m.fails("-1", "block-set-write-threshold", node_name="s", write_threshold=-1)
        m.quit()


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=tap.in_scratch)
