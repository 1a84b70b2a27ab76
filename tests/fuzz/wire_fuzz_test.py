#!/usr/bin/env python3
"""wire_fuzz_test.py QEMU-SYSTEM [COUNT [SEED]]: what a destination makes of hostile connections.

Streams of a real source are recorded on their way to a real destination: through several connections (multifd), and by post-copy with
all that follows the devices. Then they are sent again, altered record by record with sums that fit, cut, or to the wrong connection.
The destination has to end by itself with a message and status 1, or take the machine, and must not crash or hang."""
import os
import random
import socket
import subprocess
import sys
import threading
import time
import zlib

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import qmp  # noqa: E402
import tap  # noqa: E402

SYSTEM = os.path.abspath(sys.argv[1])
COUNT = int(sys.argv[2]) if len(sys.argv) > 2 else 60
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else int(time.time())
PC = ["-M", "pc", "-m", "32", "-display", "none", "-nodefaults", "-accel", "qtest"]
HEADER = 20
NUMBERS = [0, 1, 2, 3, 7, 8, 16, 255, 256, 4095, 4096, 65535, 1 << 20, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def start(*options):
    return qmp.Program([SYSTEM, *PC, "-qmp", "stdio", *options], stderr=subprocess.PIPE)


def capable(machine, names):
    machine.ok("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names])


class Recorder:
    """Between source and destination; keeps what the source says, a stream for each connection."""

    def __init__(self, near, far):
        self.streams, self.far = [], far
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(near)
        self.listener.listen(16)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                source = self.listener.accept()[0]
            except OSError:
                return
            target = socket.socket(socket.AF_UNIX)
            target.connect(self.far)
            kept = bytearray()
            self.streams.append(kept)
            for one, other, keep in ((source, target, kept), (target, source, None)):
                threading.Thread(target=self.pass_on, args=(one, other, keep), daemon=True).start()

    @staticmethod
    def pass_on(one, other, keep):
        try:
            while data := one.recv(1 << 16):
                if keep is not None:
                    keep += data
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def record(names, post_copy):
    """The streams of one migration as lists of [kind, payload]."""
    recorder = Recorder("near", "far")
    with start() as source, start("-incoming", "defer") as target:
        for machine in (source, target):
            capable(machine, names)
        if post_copy: # most of the RAM is not there yet when the devices are
            source.ok("migrate-set-parameters", max_bandwidth=20000)
        target.ok("migrate-incoming", uri="unix:far")
        source.ok("migrate", uri="unix:near")
        if post_copy:
            source.ok("migrate-start-postcopy")
        while (status := source.ok("query-migrate").get("status")) != "completed":
            assert status not in ("failed", "cancelled"), source.ok("query-migrate")
            time.sleep(0.01)
    recorder.listener.close()
    for path in ("near", "far"): # the destination may have removed its own
        if os.path.exists(path):
            os.unlink(path)
    return [records_of(bytes(stream)) for stream in recorder.streams]


def records_of(stream):
    at, records = HEADER, []
    while at + 12 <= len(stream): # one byte may follow: the answer to READY
        length = int.from_bytes(stream[at + 4:at + 8], "little")
        records.append([int.from_bytes(stream[at:at + 4], "little"), bytearray(stream[at + 8:at + 8 + length])])
        at += 12 + length
    return records


def stream_of(records, version=1):
    out = bytearray(b"OSTRICH machine\n" + version.to_bytes(4, "little"))
    for number, (kind, payload) in enumerate(records):
        body = kind.to_bytes(4, "little") + len(payload).to_bytes(4, "little") + payload
        out += body + zlib.crc32(body, zlib.crc32(number.to_bytes(4, "little"))).to_bytes(4, "little")
    return out


def alter_payload(rnd, payload):
    for _ in range(rnd.choice((1, 1, 1, 5))):
        if not payload:
            return
        at = rnd.randrange(min(len(payload), rnd.choice((16, 64, 1 << 20))))
        if rnd.random() < 0.6:
            width = rnd.choice((1, 2, 4, 8))
            payload[at:at + width] = rnd.choice(NUMBERS).to_bytes(8, "little")[:width]
        else:
            payload[at] = rnd.randrange(256)


def alter(rnd, streams):
    """Copies of the streams, some records of them altered."""
    streams = [[[kind, bytearray(payload)] for kind, payload in records] for records in streams]
    for _ in range(rnd.choice((1, 1, 2, 6))):
        records = rnd.choice(streams)
        if not records:
            continue
        # Devices are many, and known to another fuzzer: rather those that only the wire has.
        candidates = [n for n, (kind, _) in enumerate(records) if kind != 4] or [0]
        n = rnd.choice(candidates)
        what = rnd.randrange(10)
        if what == 0:
            del records[n]
        elif what == 1:
            records.insert(rnd.randrange(len(records) + 1), [records[n][0], bytearray(records[n][1])])
        elif what == 2:
            records[n][0] = rnd.randrange(20)
        elif what == 3:
            del records[n][1][rnd.randrange(len(records[n][1]) + 1):]
        elif what == 4:
            records[n][1] += rnd.randbytes(rnd.choice((1, 4, 8, 5000)))
        elif what == 5 and len(streams) > 1: # to another connection
            rnd.choice(streams).append(records.pop(n))
        elif what == 6:
            rnd.shuffle(streams)
        else:
            alter_payload(rnd, records[n][1])
    return streams


def send(path, data, cut):
    """One connection, which takes the data in its own time; what the destination says is read and forgotten."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)

    def write():
        try:
            connection.sendall(data[:cut] + b"G")
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    try:
        connection.connect(path)
        for target, args in ((Recorder.pass_on, (connection, Nobody(), None)), (write, ())):
            threading.Thread(target=target, args=args, daemon=True).start()
    except OSError:
        pass # it has refused before
    return connection


class Nobody:
    def sendall(self, data):
        pass

    def shutdown(self, how):
        pass


def run_one(rnd, names, streams):
    """What the destination did: 'refused', 'taken' or 'waits' (for another connection, as post-copy has to)."""
    streams = alter(rnd, streams)
    with start("-incoming", "defer") as target:
        capable(target, names)
        target.ok("migrate-incoming", uri="unix:wire")
        connections = []
        for records in streams:
            data = stream_of(records, rnd.choice((1,) * 30 + (0, 2)))
            connections.append(send("wire", data, rnd.randrange(len(data)) if rnd.random() < 0.15 else len(data)))
        limit, outcome = time.time() + 60, None
        while not outcome:
            if target.process.poll() is not None:
                outcome = "refused"
            elif time.time() > limit:
                raise AssertionError("it hangs")
            else:
                outcome = outcome_of(target)
                time.sleep(0 if outcome else 0.02)
        if outcome != "refused":
            ask(target, "quit")
        status = target.process.wait(60)
        errors = target.process.stderr.read() + getattr(target, "last_words", "")
        assert status in (0, 1) and "AddressSanitizer" not in errors and "runtime error" not in errors, (status, errors)
        assert status == 0 or "load of migration failed: " in errors, errors
        for connection in connections:
            connection.close()
    if os.path.exists("wire"):
        os.unlink("wire")
    return outcome


def ask(target, command):
    """None when it has ended; what it said then is kept."""
    try:
        return target.ok(command)
    except SystemExit as end:
        target.last_words = str(end)
    except OSError:
        pass
    return None


def outcome_of(target):
    info = ask(target, "query-migrate")
    status = info.get("status") if info else None
    return {"completed": "taken", "postcopy-paused": "waits"}.get(status)


def fuzz(names, post_copy):
    def test():
        streams = record(names, post_copy)
        outcomes = {}
        print(f"# seed {SEED}, {len(streams)} connections, {sum(map(len, streams))} records", flush=True)
        for n in range(COUNT):
            rnd = random.Random(SEED * 100003 + n)
            try:
                outcome = run_one(rnd, names, streams)
            except AssertionError as error:
                raise AssertionError(f"number {n}: {error}") from error
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        print(f"# {outcomes}", flush=True)
    test.__name__ = "test_" + names[0].replace("-", "_")
    return test


tap.run([fuzz(["multifd"], False), fuzz(["postcopy-ram"], True)], call=tap.in_scratch)
