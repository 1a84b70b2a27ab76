#!/usr/bin/env python3
"""What a migration can carry and check beside RAM and devices: dirty bitmaps, UUID, packed RAM; between two processes.

usage: migration_test.py QEMU-SYSTEM [TEST...]
"""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
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

    def memory(self, name):
        self.ok("pmemsave", val=0, size=1 << 20, filename=os.path.abspath(name))
        with open(name, "rb") as f:
            return f.read()


def pair(source_options=(), target_options=()):
    if os.path.exists("sock"):
        os.unlink("sock")
    return Machine(*source_options), Machine("-incoming", "defer", *target_options)


def move(source, target, wanted="completed"):
    target.ok("migrate-incoming", uri=URI)
    source.ok("migrate", uri=URI)
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
    source, target = pair(("-uuid", OTHER_UUID))
    with source, target:
        source.capability("validate-uuid")
        info = move(source, target, "failed")
        assert "another UUID" in info["error-desc"], info


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


tap.run(tap.tests_in(globals()), names=sys.argv[2:], call=tap.in_scratch)
