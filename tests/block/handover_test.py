#!/usr/bin/env python3
"""What is in the caches of formats reaches the file when the machine pauses, when a snapshot is taken, and when another process
takes over: a copy of the file that is made at that moment has it all.

usage: handover_test.py QEMU-SYSTEM QEMU-IMG QEMU-IO [TEST...]
"""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import qmp  # noqa: E402
import tap  # noqa: E402

SYSTEM, IMG, IO = (os.path.abspath(p) for p in sys.argv[1:4])
FORMATS = {"qcow2": "", "lazy": "lazy_refcounts=on", "small": "cluster_size=512", "subclusters": "extended_l2=on", "vhdx": "", "vmdk": "",
           "qed": "", "vdi": "", "parallels": ""}


def run(*argv, code=0):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    assert done.returncode == code, (argv, done.returncode, done.stdout)
    return done.stdout


def driver(name):
    return name if name in ("vhdx", "vmdk", "qed", "vdi", "parallels") else "qcow2"


class Machine(qmp.Program):
    def __init__(self, image, fmt, *more):
        super().__init__([SYSTEM, "-accel", "qtest", "-M", "pc", "-m", "16", "-nodefaults", "-display", "none", "-qmp", "stdio", "-drive",
                          f"if=none,id=d,node-name=disk,file={image},format={fmt},cache=writeback", *more])

    def io(self, command):
        """What qemu-io says to it."""
        self.text = ""
        self.ok("human-monitor-command", command_line=f'qemu-io d "{command}"')
        return self.text

    def write(self, byte, at, length="64k"):
        out = self.io(f"write -P {byte} {at} {length}")
        assert "wrote" in out, out


def writes(m):
    """Some of everything that leaves metadata in memory."""
    for n in range(12):
        m.write(n + 1, f"{n * 700}k")
    m.write(99, "100k", "1500k")


def expectation():
    shown = {n * 700: n + 1 for n in range(3, 12)}
    shown.update({100: 99, 1500: 99})
    return shown


def has_all(image, fmt):
    """Whether the copy shows what was written, and is sound."""
    shutil.copyfile(image, "copy")
    if fmt == "qcow2":  # an image that is in use is marked as dirty at most, and that only with lazy counts
        subprocess.run([IMG, "check", "-q", "-r", "all", "-f", fmt, "copy"], capture_output=True)
        run(IMG, "check", "-q", "-f", fmt, "copy")
    flags = [x for at, byte in expectation().items() for x in ("-c", f"read -P {byte} {at}k 4k")]
    done = subprocess.run([IO, "-r", "-f", fmt, *flags, "copy"], capture_output=True, text=True)
    return done.returncode == 0 and "failed" not in done.stdout


def create(name, path="disk"):
    run(IMG, "create", "-q", "-f", driver(name), *(["-o", FORMATS[name]] if FORMATS[name] else []), path, "32M")


def test_pause():
    cached = 0
    for name in FORMATS:
        create(name)
        with Machine("disk", driver(name)) as m:
            writes(m)
            cached += not has_all("disk", driver(name))
            m.ok("stop")
            assert has_all("disk", driver(name)), name
            m.ok("cont")
            m.quit()
    assert cached  # otherwise there was nothing to see


def test_snapshots():
    """The image that becomes the backing file; and one with a snapshot inside."""
    for name in ("qcow2", "lazy", "subclusters"):
        create(name)
        with Machine("disk", "qcow2") as m:
            writes(m)
            m.ok("blockdev-snapshot-sync", device="d", snapshot_file="top", format="qcow2")
            assert has_all("disk", "qcow2"), name
            m.quit()
        create(name)
        with Machine("disk", "qcow2") as m:
            writes(m)
            m.ok("blockdev-snapshot-internal-sync", device="d", name="one")
            assert has_all("disk", "qcow2"), name
            assert "one" in run(IMG, "snapshot", "-l", "copy")
            m.quit()


def test_hand_over():
    """After a migration the file is the target's, who sees everything, and the source has nothing more to say."""
    for name in FORMATS:
        create(name)
        fmt = driver(name)
        if os.path.exists("mig"):
            os.unlink("mig")
        with Machine("disk", fmt) as source, Machine("disk", fmt, "-incoming", f"unix:{os.path.abspath('mig')}") as target:
            writes(source)
            answer = source.command("migrate", uri=f"unix:{os.path.abspath('mig')}")
            if "error" in answer:
                assert "live migration" in answer["error"]["desc"] or "migrat" in answer["error"]["desc"], answer
                continue  # formats that do not support it
            while source.ok("query-migrate")["status"] not in ("completed", "failed"):
                pass
            assert source.ok("query-migrate")["status"] == "completed", name
            assert has_all("disk", fmt), name
            while target.ok("query-status")["status"] != "running":
                pass
            for at, byte in expectation().items():
                out = target.io(f"read -P {byte} {at}k 4k")
                assert "read 4096" in out and "failed" not in out, (name, out)
            target.write(77, "20M")
            target.ok("stop")
            shutil.copyfile("disk", "before")
            source.quit()
            with open("disk", "rb") as a, open("before", "rb") as b:
                assert a.read() == b.read(), name  # the source wrote nothing on its way out
            target.quit()
        assert "failed" not in run(IO, "-r", "-f", fmt, "-c", "read -P 77 20M 64k", "disk")


def fresh_pair(fmt):
    """The images of source and target, and the paths of the two connections."""
    for name in ("mig", "nbd"):
        if os.path.exists(name):
            os.unlink(name)
    for name in ("disk", "other"):
        run(IMG, "create", "-q", "-f", fmt, name, "32M")
    return {name: os.path.abspath(name) for name in ("mig", "nbd")}


def mirror(source, target, paths):
    target.ok("nbd-server-start", addr={"type": "unix", "data": {"path": paths["nbd"]}})
    target.ok("nbd-server-add", device="d", writable=True)
    source.ok("drive-mirror", device="d", target=f"nbd+unix:///d?socket={paths['nbd']}", sync="full", format="raw", mode="existing",
              job_id="copy")
    source.wait_event("BLOCK_JOB_READY", device="copy")


def test_storage_goes_too():
    """The target exports its own disk while it waits; the source mirrors to it and then migrates."""
    for fmt in ("raw", "qcow2"):
        paths = fresh_pair(fmt)
        with Machine("disk", fmt) as source, Machine("other", fmt, "-incoming", f"unix:{paths['mig']}") as target:
            writes(source)
            mirror(source, target, paths)
            source.write(98, "20M")
            source.ok("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
            source.ok("migrate", uri=f"unix:{paths['mig']}")
            while source.ok("query-migrate")["status"] != "pre-switchover":
                pass
            source.ok("block-job-cancel", device="copy")
            assert "error" not in source.wait_event("BLOCK_JOB_COMPLETED")
            target.ok("nbd-server-stop")
            source.ok("migrate-continue", state="pre-switchover")
            while source.ok("query-migrate")["status"] not in ("completed", "failed"):
                pass
            assert source.ok("query-migrate")["status"] == "completed", fmt
            while target.ok("query-status")["status"] != "running":
                pass
            for at, byte in {**expectation(), 20 << 10: 98}.items():
                out = target.io(f"read -P {byte} {at}k 4k")
                assert "read 4096" in out and "failed" not in out, (fmt, out)
            target.write(77, "22M")
            source.quit()
            target.quit()
        if fmt == "qcow2":
            run(IMG, "check", "-q", "other")
        assert "failed" not in run(IO, "-r", "-f", fmt, "-c", "read -P 77 22M 64k", "other")


def test_mirror_outlives_migration():
    """The source ends its mirror only after the migration: until then its writes are let in beside those of the machine."""
    paths = fresh_pair("qcow2")
    device = ("-device", "virtio-blk-pci,drive=d,id=vda")
    with Machine("disk", "qcow2", *device) as source, Machine("other", "qcow2", *device, "-incoming", f"unix:{paths['mig']}") as target:
        writes(source)
        mirror(source, target, paths)
        for m in (source, target):
            m.ok("migrate-set-capabilities", capabilities=[{"capability": "dirty-bitmaps", "state": True}])
        source.ok("migrate", uri=f"unix:{paths['mig']}")
        source.ok("migrate-start-postcopy")  # bitmaps could move so: nothing to do here
        while source.ok("query-migrate")["status"] not in ("completed", "failed"):
            pass
        assert source.ok("query-migrate")["status"] == "completed", source.ok("query-migrate")
        while target.ok("query-status")["status"] != "running":
            pass
        source.ok("block-job-cancel", device="copy")
        source.wait_event("BLOCK_JOB_COMPLETED")
        target.ok("nbd-server-stop")
        target.fails("Permission conflict", "block-export-add", type="fuse", id="f", node_name="disk", mountpoint="other", writable=True)
        for at, byte in expectation().items():
            assert "failed" not in target.io(f"read -P {byte} {at}k 4k")
        source.quit()
        target.quit()
    run(IMG, "check", "-q", "other")


def test_overlay_after_migration():
    """A machine that was moved away gets an overlay, goes on here, and commits it: its image became a backing image meanwhile."""
    create("qcow2")
    with Machine("disk", "qcow2", "-device", "virtio-blk-pci,drive=d,id=vda") as m:
        m.write(1, "0")
        m.ok("migrate", uri="exec:cat > /dev/null")
        while m.ok("query-migrate")["status"] not in ("completed", "failed"):
            pass
        for options in ({"driver": "file", "filename": "over", "size": 0}, {"driver": "qcow2", "file": "over-file", "size": 32 << 20}):
            if options["driver"] == "qcow2":
                m.ok("blockdev-add", driver="file", filename="over", node_name="over-file")
            m.ok("blockdev-create", job_id="make", options=options)
            while (job := m.ok("query-jobs")[0])["status"] != "concluded":
                pass
            assert "error" not in job, job
            m.ok("job-dismiss", id="make")
        m.ok("blockdev-add", driver="qcow2", file="over-file", node_name="over")
        m.ok("blockdev-snapshot", node="disk", overlay="over")
        m.ok("cont")
        m.write(2, "1M")
        assert "wrote" in m.io("write -P 3 2M 64k")
        m.ok("block-commit", device="over", job_id="down")
        m.wait_event("BLOCK_JOB_READY", device="down")
        m.ok("block-job-complete", device="down")
        assert "error" not in m.wait_event("BLOCK_JOB_COMPLETED", device="down")
        m.quit()
    run(IMG, "check", "-q", "disk")
    out = run(IO, "-r", "-f", "qcow2", *(x for n in (1, 2, 3) for x in ("-c", f"read -P {n} {n - 1}M 64k")), "disk")
    assert "failed" not in out, out


def test_flush_by_guest_is_durable():
    """The emulator is killed after a flush."""
    for name in FORMATS:
        create(name)
        with Machine("disk", driver(name)) as m:
            writes(m)
            m.io("flush")
            m.process.kill()
            m.process.wait()
        if driver(name) == "qcow2":
            subprocess.run([IMG, "check", "-q", "-r", "all", "disk"], capture_output=True)
        assert has_all("disk", driver(name)), name


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[4:], call=tap.in_scratch)
