#!/usr/bin/env python3
"""What a migration can carry and check beside RAM and devices: dirty bitmaps, UUID, packed RAM; between two processes.

usage: migration_test.py QEMU-SYSTEM [TEST...]
"""
import os
import random
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import certs  # noqa: E402
import qmp  # noqa: E402
import tap  # noqa: E402

SYSTEM = os.path.abspath(sys.argv[1])
URI = "unix:sock"
OTHER_UUID = "11111111-2222-3333-4444-555555555555"


class Machine(qmp.Program):
    def __init__(self, *options):
        super().__init__([SYSTEM, "-M", "pc", "-m", "32", "-display", "none", "-nodefaults", "-accel", "qtest", "-qmp", "stdio", *options],
                         stderr=subprocess.PIPE)

    def capability(self, *names):
        self.ok("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names])

    def monitor(self, line):
        return self.ok("human-monitor-command", command_line=line)

    def memory(self, name, size=1 << 20):
        self.ok("pmemsave", val=0, size=size, filename=os.path.abspath(name))
        with open(name, "rb") as f:
            return f.read()


def pair(source_options=(), target_options=()):
    if os.path.exists("sock"):
        os.unlink("sock")
    return Machine(*source_options), Machine("-incoming", "defer", *target_options)


class Memory:
    """The guest's RAM, written by the test protocol."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.options = ("-qtest", f"unix:{path}", "-qtest-log", "/dev/null")

    def accept(self):
        self.socket = self.listener.accept()[0]
        self.file = self.socket.makefile("rb")
        return self

    def ask(self, line):
        self.socket.sendall(line.encode() + b"\n")
        words = self.file.readline().decode().split()
        assert words[:1] == ["OK"], (line, words)
        return words[1:]

    def write(self, address, data):
        self.ask(f"write {address:#x} {len(data)} 0x{data.hex()}")

    def read(self, address, length):
        return bytes.fromhex(self.ask(f"read {address:#x} {length}")[0][2:])

    def close(self):
        self.socket.close()
        self.listener.close()


def move(source, target, wanted="completed", uri=URI):
    target.ok("migrate-incoming", uri=uri)
    if uri.endswith(":0"):
        address = target.ok("query-migrate")["socket-address"][0]
        assert address["type"] == "inet", address
        uri = f"tcp:127.0.0.1:{address['port']}"
    source.ok("migrate", uri=uri)
    return ended(source, wanted)


def ended(source, wanted="completed"):
    for _ in range(3000):
        info = source.ok("query-migrate")
        if info.get("status") in ("completed", "failed"):
            assert info["status"] == wanted, info
            return info
        time.sleep(0.02)
    sys.exit(f"migration: {info}")


def disk(name):
    return ("-blockdev", f"driver=null-co,read-zeroes=on,size=67108864,node-name={name}", "-device", f"virtio-blk-pci,drive={name}")


def with_bitmaps(source, node):
    source.ok("block-dirty-bitmap-add", node=node, name="one", granularity=65536)
    source.ok("block-dirty-bitmap-add", node=node, name="two", granularity=4096)
    source.monitor(f'qemu-io {node} "write 1M 200k"')
    source.ok("block-dirty-bitmap-disable", node=node, name="two")
    source.monitor(f'qemu-io {node} "write 63M 1M"')
    return {name: hash_of(source, node, name) for name in ("one", "two")}


def hash_of(machine, node, name):
    return machine.ok("x-debug-block-dirty-bitmap-sha256", node=node, name=name)["sha256"]


def bitmaps_of(machine, node):
    nodes = machine.ok("query-named-block-nodes")
    found = next(n for n in nodes if n["node-name"] == node).get("dirty-bitmaps", [])
    return {b["name"]: b for b in found}


def test_bitmaps():
    source, target = pair(disk("d"), disk("d"))
    with source, target:
        hashes = with_bitmaps(source, "d")
        source.capability("dirty-bitmaps")
        target.capability("dirty-bitmaps")
        move(source, target)
        got = bitmaps_of(target, "d")
        assert got["one"]["recording"] and not got["two"]["recording"], got
        assert got["one"]["granularity"] == 65536 and got["two"]["granularity"] == 4096, got
        assert {name: hash_of(target, "d", name) for name in got} == hashes


def test_bitmaps_by_other_names():
    source, target = pair(disk("d"), disk("e"))
    with source, target:
        hashes = with_bitmaps(source, "d")
        for machine, node, name in ((source, "d", "one"), (target, "e", "eins")):
            machine.capability("dirty-bitmaps")
            machine.ok("migrate-set-parameters", block_bitmap_mapping=[
                {"node-name": node, "alias": "disk", "bitmaps": [{"name": name, "alias": "b"}]}])
        move(source, target)
        assert list(bitmaps_of(target, "e")) == ["eins"]
        assert hash_of(target, "e", "eins") == hashes["one"]


def test_bitmaps_not_wanted():
    source, target = pair(disk("d"), disk("d"))
    with source, target:
        with_bitmaps(source, "d")
        source.capability("dirty-bitmaps")
        info = move(source, target, "failed")
        assert "dirty-bitmaps" in info["error-desc"] or "dirty bitmaps" in info["error-desc"], info
        assert bitmaps_of(source, "d")["one"]["recording"]


def test_bitmap_without_a_place():
    source, target = pair(disk("d"), disk("e"))
    with source, target:
        with_bitmaps(source, "d")
        source.capability("dirty-bitmaps")
        target.capability("dirty-bitmaps")
        info = move(source, target, "failed")
        assert "no node 'd'" in info["error-desc"], info


def test_uuid():
    source, target = pair(("-uuid", OTHER_UUID), ("-uuid", OTHER_UUID))
    with source, target:
        source.capability("validate-uuid")
        move(source, target)
    source, target = pair(("-uuid", OTHER_UUID), ("-uuid", OTHER_UUID.replace("5", "6")))
    with source, target:
        source.capability("validate-uuid")
        info = move(source, target, "failed")
        assert "another UUID" in info["error-desc"], info
    source, target = pair((), ("-uuid", OTHER_UUID))
    with source, target:
        source.capability("validate-uuid")
        move(source, target)


def test_packed():
    sizes = []
    for level in (None, 1, 9):
        source, target = pair()
        with source, target:
            if level:
                source.capability("compress")
                source.ok("migrate-set-parameters", compress_level=level)
                assert source.ok("query-migrate-parameters")["compress-level"] == level
            info = move(source, target)
            sizes.append(info["ram"]["transferred"])
            assert source.memory("source") == target.memory("target")
    assert sizes[0] > sizes[1] > sizes[2], sizes
    print(f"# {sizes[0]} bytes, {sizes[1]} with level 1, {sizes[2]} with level 9")


def test_several_connections():
    """Pages of all kinds, through one to five connections, plain and packed; what the destination has is compared."""
    for channels, method, uri in ((1, "none", URI), (2, "zlib", "tcp:127.0.0.1:0"), (5, "zstd", URI), (3, "none", "tcp:127.0.0.1:0")):
        memory = Memory(f"qtest-{channels}")
        source, target = pair(memory.options)
        with source, target:
            memory.accept()
            pages = random.Random(channels)
            for n in range(300):
                memory.write(0x200000 + 4096 * pages.randrange(4000), pages.randbytes(300))
            for machine in (source, target):
                machine.capability("multifd")
                machine.ok("migrate-set-parameters", multifd_channels=channels, multifd_compression=method)
                assert machine.ok("query-migrate-parameters")["multifd-compression"] == method
            info = move(source, target, uri=uri)
            assert info["ram"]["multifd-bytes"] > 300 * (300 if method != "none" else 4096), info
            assert source.memory("source", 32 << 20) == target.memory("target", 32 << 20)
            memory.close()


def test_several_connections_unexpected():
    source, target = pair()
    with source, target:
        source.capability("multifd")
        info = move(source, target, "failed")
        assert "of multifd: " in info["error-desc"] or "several connections" in info["error-desc"], info
        source.fails("several connections", "migrate", uri="exec:cat > /dev/null")


def test_several_connections_encrypted():
    if not certs.available():
        raise tap.Skip("certtool is not installed")
    authority = certs.Authority("ca")
    for end, name in (("server", "localhost"), ("client", "somebody")):
        authority.issue(end, end, name)
    source, target = pair()
    with source, target:
        for machine, endpoint in ((source, "client"), (target, "server")):
            machine.ok("object-add", qom_type="tls-creds-x509", id="tls", dir=os.path.join(os.getcwd(), endpoint), endpoint=endpoint)
            machine.ok("migrate-set-parameters", tls_creds="tls", multifd_channels=3)
            machine.capability("multifd")
        move(source, target, uri="tcp:127.0.0.1:0")
        assert source.memory("source") == target.memory("target")


def test_deltas():
    """Pages that change a little while it goes on are sent as what changed."""
    memory = Memory("qtest")
    source, target = pair(memory.options)
    with source, target:
        memory.accept()
        noise = random.Random(1)
        for n in range(64):
            memory.write(0x200000 + 4096 * n, noise.randbytes(4096))
        source.capability("xbzrle")
        source.ok("migrate-set-parameters", max_bandwidth=400000, downtime_limit=1, xbzrle_cache_size=1 << 20)
        source.fails("power of two", "migrate-set-parameters", xbzrle_cache_size=5000)
        target.ok("migrate-incoming", uri=URI)
        source.ok("migrate", uri=URI)
        for n in range(100000):
            at = 0x200000 + 4096 * (n % 64) + noise.randrange(4000)
            memory.write(at, noise.randbytes(20))
            info = source.ok("query-migrate")
            if info.get("xbzrle-cache", {}).get("pages", 0) > 200 or info["status"] in ("device", "completed"):
                break
        late = info["status"] != "active"  # it found nothing left between two writes; the last one may have come too late
        cache = info["xbzrle-cache"]
        assert cache["cache-size"] == 1 << 20 and 0 < cache["bytes"] < 4000 * cache["pages"] and cache["encoding-rate"] > 1, info
        source.ok("migrate-set-parameters", max_bandwidth=0, downtime_limit=2000)
        ended(source)
        ours, theirs = (bytearray(m.memory(name, 32 << 20)) for m, name in ((source, "source"), (target, "target")))
        if late:
            ours[at:at + 20] = theirs[at:at + 20]
        assert ours == theirs
        memory.close()


def test_announced():
    """The cards are made known at the destination, as often as the parameters there say; the source says nothing."""
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind("heard")
    heard.settimeout(10)
    macs = {"e1000": "525400000001", "virtio-net-pci": "525400000002"}
    cards = []
    for n, (card, mac) in enumerate(macs.items()):
        cards += ["-netdev", f"dgram,id=n{n},local.type=unix,local.path=card{n},remote.type=unix,remote.path=heard",
                  "-device", f"{card},netdev=n{n},romfile=,mac={':'.join(mac[i:i + 2] for i in range(0, 12, 2))}"]
    quiet = [option.replace("path=heard", "path=nobody").replace("path=card", "path=quiet") for option in cards]
    source, target = pair(quiet, cards)
    with source, target:
        shown = target.ok("query-migrate-parameters")
        assert [shown[f"announce-{name}"] for name in ("initial", "max", "rounds", "step")] == [50, 550, 5, 100], shown
        target.fails("between 0 and 1000", "migrate-set-parameters", announce_rounds=1001)
        target.ok("migrate-set-parameters", announce_rounds=3, announce_initial=10, announce_step=20, announce_max=20)
        move(source, target)
        count = dict.fromkeys(macs.values(), 0)
        for _ in range(6):
            frame = heard.recv(2000)
            assert frame[:6] == b"\xff" * 6 and frame[12:14] == b"\x80\x35" and frame[6:12] == frame[22:28] == frame[32:38], frame
            count[frame[6:12].hex()] += 1
        assert set(count.values()) == {3}, count
        heard.settimeout(0.3)
        try:
            assert not heard.recv(2000), "a fourth round"
        except TimeoutError:
            pass
    heard.close()


def status_becomes(machine, *wanted):
    for _ in range(3000):
        info = machine.ok("query-migrate")
        if info.get("status") in wanted:
            return info
        assert info.get("status") not in ("failed", "cancelled"), info
        time.sleep(0.02)
    sys.exit(f"migration: {info}")


class PostCopy:
    """A pair whose RAM has noise; the pages that nobody asks for come slowly."""

    def __init__(self, uri=URI, pages=2000, **parameters):
        self.memories = Memory("qtest-source"), Memory("qtest-target")
        self.uri = uri
        self.source, self.target = pair(self.memories[0].options, self.memories[1].options)
        for memory in self.memories:
            memory.accept()
        for machine in (self.source, self.target):
            machine.capability("postcopy-ram", "events")
        noise = random.Random(7)
        self.pages = {n: noise.randbytes(64) for n in range(0x400, 0x400 + pages)}
        for n, data in self.pages.items():
            self.memories[0].write(n * 4096, data * 64)
        self.source.ok("migrate-set-parameters", max_bandwidth=1 << 20, max_postcopy_bandwidth=1 << 20, **parameters)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for memory in self.memories:
            memory.close()
        self.source.end()
        self.target.end()

    def start(self):
        self.target.ok("migrate-incoming", uri=self.uri)
        self.source.ok("migrate", uri=self.uri)
        status_becomes(self.source, "active")
        self.source.ok("migrate-start-postcopy")
        status_becomes(self.target, "postcopy-active")
        self.target.wait_event("RESUME")

    def check(self, number):
        got = self.memories[1].read(number * 4096, 4096)
        assert got == self.pages[number] * 64, number

    def check_all(self):
        for number in self.pages:
            self.check(number)
        assert self.source.memory("source", 32 << 20) == self.target.memory("target", 32 << 20)


def test_post_copy():
    """The machine runs at the destination, and finds its pages there when it touches them."""
    with PostCopy() as post:
        post.start()
        assert post.source.ok("query-status")["status"] == "finish-migrate"
        post.source.fails("runs at the destination", "migrate_cancel")
        noise = random.Random(3)
        for _ in range(100):
            post.check(noise.choice(list(post.pages)))
        info = post.source.ok("query-migrate")
        assert info["status"] == "postcopy-active" and info["ram"]["postcopy-requests"] > 10, info
        post.source.ok("migrate-set-parameters", max_postcopy_bandwidth=0)
        status_becomes(post.source, "completed")
        status_becomes(post.target, "completed")
        assert post.source.ok("query-status")["status"] == "postmigrate"
        assert post.target.ok("query-status")["running"]
        post.check_all()


def test_post_copy_recovers():
    """The connection breaks, twice; the rest comes through new ones."""
    with PostCopy(uri="tcp:127.0.0.1:0") as post:
        post.uri = "unix:first"
        post.start()
        post.target.fails("is paused", "migrate-recover", uri="unix:second")
        for n, breaks in enumerate((post.source, post.target)):
            post.check(0x400 + 500 * n)
            breaks.ok("migrate-pause")
            status_becomes(post.source, "postcopy-paused")
            status_becomes(post.target, "postcopy-paused")
            post.source.fails("runs at the destination", "migrate_cancel")
            uri = f"unix:again-{n}"
            if n == 0:
                post.source.ok("migrate-set-parameters", max_postcopy_bandwidth=2 << 20)
            post.target.ok("migrate-recover", uri=uri)
            post.target.fails("already", "migrate-recover", uri="unix:other")
            post.source.fails("under way", "migrate", uri=uri)
            post.source.ok("migrate", uri=uri, resume=True)
            status_becomes(post.source, "postcopy-active", "completed")
        post.check(0x400 + 1999)
        post.source.ok("migrate-set-parameters", max_postcopy_bandwidth=0)
        status_becomes(post.source, "completed")
        status_becomes(post.target, "completed")
        post.check_all()


def test_post_copy_source_gone():
    """Who waits for pages that will not come does not keep the program from ending."""
    with PostCopy() as post:
        post.start()
        post.source.end()
        status_becomes(post.target, "postcopy-paused")
        post.target.ok("quit")
        post.target.process.wait(60)


def test_post_copy_refused():
    """The devices do not fit: the source goes on."""
    with PostCopy() as post:
        post.target.end()
        post.memories[1].close()
        other = Machine("-incoming", "defer", "-device", "virtio-rng-pci")
        with other:
            other.capability("postcopy-ram")
            other.ok("migrate-incoming", uri=URI)
            post.source.ok("migrate", uri=URI)
            status_becomes(post.source, "active")
            post.source.ok("migrate-start-postcopy")
            info = ended(post.source, "failed")
            assert "refuses" in info["error-desc"], info
            assert post.source.ok("query-status")["running"]


def test_post_copy_not_asked_for():
    """With the capability but without the command it is a migration like others; it is refused where it is not expected."""
    with PostCopy(pages=10) as post:
        post.source.ok("migrate-set-parameters", max_bandwidth=0)
        move(post.source, post.target)
        post.check_all()
    source, target = pair()
    with source, target:
        source.capability("postcopy-ram")
        info = move(source, target, "failed")
        assert "post-copy" in info["error-desc"], info
        source.fails("No migration is under way", "migrate-start-postcopy")
        source.fails("is paused", "migrate", uri=URI, resume=True)
        source.fails("postcopy-active", "migrate-pause")


def test_disk_goes_along():
    """As libvirt moves disks: a mirror to the destination's NBD server, its end while the source waits before the switch."""
    source_disk, target_disk = (("-blockdev", f"driver=file,filename={name},node-name=file", "-blockdev", "driver=raw,file=file,node-name=d",
                                 "-device", "virtio-blk-pci,drive=d,id=disk,share-rw=on") for name in ("source.img", "target.img"))
    for name in ("source.img", "target.img"):
        with open(name, "wb") as f:
            f.truncate(8 << 20)
    source, target = pair(source_disk, target_disk)
    with source, target:
        source.monitor('qemu-io d "write -P 7 1M 2M"')
        target.ok("nbd-server-start", addr={"type": "unix", "data": {"path": "nbd"}})
        target.ok("block-export-add", type="nbd", id="e", node_name="d", writable=True)
        for machine in (source, target):
            machine.capability("pause-before-switchover", "events", "late-block-activate")
        source.ok("blockdev-add", driver="nbd", node_name="there", export="d", server={"type": "unix", "path": "nbd"})
        source.ok("blockdev-mirror", job_id="mirror", device="d", target="there", sync="full", copy_mode="write-blocking")
        source.wait_event("BLOCK_JOB_READY")
        source.monitor('qemu-io d "write -P 9 5M 1M"')
        target.ok("migrate-incoming", uri=URI)
        source.ok("migrate", uri=URI)
        status_becomes(source, "pre-switchover")
        source.ok("block-job-cancel", device="mirror")
        source.wait_event("BLOCK_JOB_COMPLETED")
        source.ok("blockdev-del", node_name="there")
        target.ok("block-export-del", id="e", mode="hard")
        target.wait_event("BLOCK_EXPORT_DELETED")
        target.ok("nbd-server-stop")
        source.fails("state", "migrate-continue", state="device")
        source.ok("migrate-continue", state="pre-switchover")
        ended(source)
        status_becomes(target, "completed")

        for pattern, place in ((7, "1M 2M"), (9, "5M 1M"), (0, "3M 2M")):
            target.monitor(f'qemu-io d "read -P {pattern} {place}"')
        assert "verification failed" not in target.text, target.text
        target.monitor('qemu-io d "write -P 3 0 64k"')
    with open("target.img", "rb") as f:
        data = f.read()
    assert data == b"\3" * 65536 + bytes((1 << 20) - 65536) + b"\7" * (2 << 20) + bytes(2 << 20) + b"\x09" * (1 << 20) + bytes(2 << 20)


def test_cancel():
    """It returns at once, and the machine goes on: while it copies, while it waits before the switch, while nobody reads."""
    for capability, status in ((None, "active"), ("pause-before-switchover", "pre-switchover")):
        with Machine() as source:
            source.ok("migrate_cancel")
            if capability:
                source.capability(capability)
            source.ok("migrate-set-parameters", max_bandwidth=0 if capability else 10000)
            source.ok("migrate", uri="exec:cat > /dev/null" if capability else "exec:sleep 1000")
            status_becomes(source, status)
            source.ok("migrate_cancel")
            ended_as(source, "cancelled")
            assert source.ok("query-status")["running"]
            assert "ram" not in source.ok("query-migrate")
    with Machine() as source:
        source.ok("migrate", uri="unix:nobody")
        info = ended_as(source, "failed")
        assert "Failed to connect" in info["error-desc"], info
        source.fails("no such protocol", "migrate", uri="post:office")


def ended_as(machine, wanted):
    for _ in range(3000):
        info = machine.ok("query-migrate")
        if info.get("status") == wanted:
            return info
        time.sleep(0.02)
    sys.exit(f"migration: {info}")


def test_refusals():
    """What is not there, or not together, is refused with the reason; every name is shown."""
    with Machine() as machine:
        for name in ("rdma-pin-all", "zero-blocks", "block", "x-colo", "release-ram", "background-snapshot", "zero-copy-send"):
            machine.fails("not supported: ", "migrate-set-capabilities", capabilities=[{"capability": name, "state": True}])
        for other in ("compress", "xbzrle"):
            machine.fails("exclude each other", "migrate-set-capabilities",
                          capabilities=[{"capability": "multifd", "state": True}, {"capability": other, "state": True}])
        machine.fails("cannot be changed", "migrate-set-parameters", compress_threads=4)
        machine.ok("migrate-set-parameters", compress_threads=8, x_checkpoint_delay=20000, block_incremental=False)
        machine.fails("disks are not moved", "migrate", uri="tcp:127.0.0.1:1", blk=True)
        # What a client reads it may write back.
        machine.ok("migrate-set-parameters", **machine.ok("query-migrate-parameters"))
        assert "multifd-compression: 'none'" in machine.monitor("info migrate_parameters")
        machine.monitor("migrate_set_parameter xbzrle-cache-size 128M")
        assert machine.ok("query-migrate-parameters")["xbzrle-cache-size"] == 128 << 20


tap.run(tap.tests_in(globals()), names=sys.argv[2:], call=tap.in_scratch)
