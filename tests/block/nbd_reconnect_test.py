#!/usr/bin/env python3
"""The NBD client when servers go and come back, and when it has several connections.

usage: nbd_reconnect_test.py OUR-QEMU-NBD OUR-QEMU-IO OUR-QEMU-IMG [TEST...]
Servers are ours and, where they are installed, nbdkit and another qemu-nbd.
"""
import atexit
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

NBD, IO, IMG = (os.path.abspath(p) for p in sys.argv[1:4])
PATH = "/usr/bin:/usr/local/bin:/usr/sbin:/sbin"
MIB = 1 << 20


def find(name):
    found = shutil.which(name, path=PATH)
    if not found:
        raise tap.Skip(f"{name} is not installed")
    return found


def run(*argv, code=0):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    assert done.returncode == code, (argv, done.returncode, done.stdout)
    return done.stdout


def sock():
    return os.path.abspath("sock")


def node(more="", fmt="raw"):
    return ["--image-opts", f"driver={fmt},file.driver=nbd,file.path={sock()}{more}"]


def start(*argv):
    if os.path.exists("sock"):
        os.unlink("sock")
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    atexit.register(process.kill)  # one that outlives a failed test would keep the runner waiting
    while not os.path.exists("sock"):
        assert process.poll() is None, argv
        time.sleep(0.02)
    return process


def serve(image, *options, tool=NBD):
    return start(tool, "-k", sock(), "-t", "-e", "0", "-f", "raw", *options, image)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def make_raw(path, size, seed=1):
    with open(path, "wb") as f:
        f.write(random.Random(seed).randbytes(size))


class Io:
    """A qemu-io that is told one command after the other."""

    def __init__(self, *options):
        self.process = subprocess.Popen([IO, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True)

    def say(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def until(self, text):
        for line in self.process.stdout:
            if text in line:
                return
        sys.exit(f"no '{text}'")

    def end(self):
        out, _ = self.process.communicate("", timeout=240)
        return out


def test_server_dies_while_requests_run():
    """Killed again and again under writes; in the end all of them are there."""
    for more in ("", ",file.multi-conn=4"):
        with open("d.raw", "wb") as f:
            f.truncate(16 * MIB)
        server = serve("d.raw")
        io = Io(*node(",file.reconnect-delay=60" + more))
        stop = threading.Event()
        io.say("read 0 4k")
        io.until("read 4096")

        def trouble():
            nonlocal server
            for _ in range(25):  # not for ever: a loaded machine may need longer to connect than the server lives
                if stop.wait(0.15):
                    break
                kill(server)
                time.sleep(0.1)
                server = serve("d.raw")

        for n in range(256):
            io.say(f"aio_write -q -P {n % 255 + 1} {n * 64}k 64k")
        thread = threading.Thread(target=trouble)
        thread.start()
        try:
            for round_number in range(8):
                for n in range(256):
                    io.say(f"aio_write -q -P {(n + round_number) % 255 + 1} {n * 64}k 64k")
                io.say("aio_flush")
                time.sleep(0.2)
            io.say("flush")
            out = io.end()
        finally:
            stop.set()
            thread.join()
            kill(server)
        wrong = [line for line in out.replace("qemu-io> ", "\n").splitlines() if "failed" in line or "rror" in line]
        assert not wrong and io.process.returncode == 0, (io.process.returncode, wrong)
        with open("d.raw", "rb") as f:
            data = f.read()
        for n in range(256):
            assert data[n * 65536:(n + 1) * 65536] == bytes([(n + 7) % 255 + 1]) * 65536, n


def test_delay_is_over():
    """The server does not come back: requests fail when the time is over, then at once; later there is a server again."""
    make_raw("o.raw", MIB)
    server = serve("o.raw")
    io = Io(*node(",file.reconnect-delay=2"))
    io.say("read 0 4k")
    io.until("read 4096")
    kill(server)
    os.unlink("sock")
    before = time.time()
    io.say("read 0 4k")
    io.until("failed")
    waited = time.time() - before
    assert 1.5 < waited < 30, waited
    before = time.time()
    io.say("read 0 4k")
    io.until("failed")
    assert time.time() - before < 10
    server = serve("o.raw")
    time.sleep(0.6)
    io.say("read 0 4k")
    io.until("read 4096")
    assert io.end() is not None
    kill(server)


def test_no_delay():
    """Without reconnect-delay what is under way fails, and the next request makes a new connection."""
    make_raw("n.raw", MIB)
    server = serve("n.raw")
    io = Io(*node())
    io.say("read 0 4k")
    io.until("read 4096")
    kill(server)
    server = serve("n.raw")
    io.say("read 0 4k")
    io.say("read 4k 4k")
    io.until("read 4096")
    io.end()
    kill(server)


def test_server_that_says_nothing():
    """One that lets clients in and then is silent: neither opening nor requests wait longer than they were told to."""
    make_raw("s.raw", MIB)
    server = serve("s.raw")
    io = Io(*node(",file.reconnect-delay=2"))
    io.say("read 0 4k")
    io.until("read 4096")
    kill(server)
    os.unlink("sock")
    silent = socket.socket(socket.AF_UNIX)
    silent.bind("sock")
    silent.listen(50)
    before = time.time()
    io.say("read 0 4k")
    io.until("failed")
    waited = time.time() - before
    assert 1.5 < waited < 30, waited
    before = time.time()
    io.end()
    assert time.time() - before < 30
    before = time.time()
    run(IMG, "info", *node(",file.open-timeout=2"), code=1)
    assert 1.5 < time.time() - before < 30
    silent.close()


def test_open_timeout():
    make_raw("t.raw", MIB)
    before = time.time()
    run(IMG, "info", *node(",file.open-timeout=2"), code=1)
    waited = time.time() - before
    assert 1 < waited < 30, waited
    before = time.time()
    run(IMG, "info", *node(), code=1)
    assert time.time() - before < 20
    io = subprocess.Popen([IMG, "info", *node(",file.open-timeout=60")], stdout=subprocess.DEVNULL)
    time.sleep(1)
    assert io.poll() is None
    server = serve("t.raw")
    assert io.wait(60) == 0
    kill(server)


def test_another_disk():
    """What comes back is smaller: it is not used."""
    make_raw("a.raw", MIB)
    make_raw("b.raw", MIB // 2)
    server = serve("a.raw")
    io = Io(*node(",file.reconnect-delay=1"))
    io.say("read 0 4k")
    io.until("read 4096")
    kill(server)
    server = serve("b.raw")
    io.say("read 0 4k")
    io.until("failed")
    io.end()
    kill(server)


def connections(log):
    """The connections on which nbdkit saw reads or writes."""
    with open(log) as f:
        return {m.group(1) for m in re.finditer(r"connection=(\d+) (?:Read|Write)", f.read())}


def test_several_connections():
    nbdkit = find("nbdkit")
    make_raw("m.raw", 64 * MIB)
    for options, more, want in ((["file", "m.raw"], ",file.multi-conn=4", 4), (["file", "m.raw"], "", 1),
                                (["--filter=multi-conn", "file", "m.raw", "multi-conn-mode=disable"], ",file.multi-conn=4", 1),
                                (["--filter=limit", "file", "m.raw", "limit=2"], ",file.multi-conn=8", 2)):
        if os.path.exists("log"):
            os.unlink("log")
        server = start(nbdkit, "-f", "-U", sock(), "--filter=delay", "--filter=log", *options, "logfile=log", "rdelay=5ms", "wdelay=5ms")
        run(IMG, "convert", "-m", "16", "-W", "-O", "raw", *node(more), "out.raw")
        server.terminate()
        server.wait(60)
        with open("m.raw", "rb") as a, open("out.raw", "rb") as b:
            assert a.read() == b.read()
        used = connections("log")
        assert len(used) == want, (options, more, used)
    run(IMG, "info", *node(",file.multi-conn=17"), code=1)


def test_flush_of_one_covers_the_other():
    """What one client wrote is on the disk when another client's flush returned, whatever happens to the server."""
    nbdsh = subprocess.run(["/usr/bin/python3", "-c", "import nbd"], capture_output=True)
    if nbdsh.returncode:
        raise tap.Skip("libnbd's Python module is not installed")
    run(IMG, "create", "-q", "-f", "qcow2", "f.qcow2", "16M")
    server = start(NBD, "-k", sock(), "-t", "-e", "0", "-f", "qcow2", "f.qcow2")
    run("/usr/bin/python3", "-c", f"""
import nbd
a, b = nbd.NBD(), nbd.NBD()
for h in (a, b):
    h.connect_unix("{sock()}")
    assert h.can_multi_conn()
a.pwrite(b"5" * 65536, 3 << 20)
assert b.pread(65536, 3 << 20) == b"5" * 65536
b.flush()
""")
    kill(server)
    out = run(IO, "-r", "-f", "qcow2", "-c", "read -P 0x35 3M 64k", "f.qcow2")
    assert "failed" not in out, out
    single = start(NBD, "-k", sock(), "-t", "-f", "qcow2", "f.qcow2")
    run("/usr/bin/python3", "-c", f"import nbd; h = nbd.NBD(); h.connect_unix('{sock()}'); assert not h.can_multi_conn()")
    kill(single)


def test_other_server_returns():
    """Another qemu-nbd goes and comes back."""
    other = find("qemu-nbd")
    make_raw("q.raw", 4 * MIB)
    server = serve("q.raw", tool=other)
    io = Io(*node(",file.reconnect-delay=60,file.multi-conn=3"))
    io.say("read 0 4k")
    io.until("read 4096")
    for n in range(64):
        io.say(f"aio_write -q -P {n + 1} {n * 64}k 64k")
    kill(server)
    for n in range(64):
        io.say(f"aio_write -q -P {n + 1} {n * 64}k 64k")
    server = serve("q.raw", tool=other)
    io.say("aio_flush")
    io.say("flush")
    out = io.end()
    assert "failed" not in out and "rror" not in out, out
    with open("q.raw", "rb") as f:
        assert f.read() == b"".join(bytes([n + 1]) * 65536 for n in range(64))
    kill(server)


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[4:], call=tap.in_scratch)
