#!/usr/bin/env python3
"""qemu-nbd's options, each by what it does; another qemu-nbd is asked the same where it is installed.

usage: qemu_nbd_test.py OUR-QEMU-NBD OUR-QEMU-IO OUR-QEMU-IMG [TEST...]
"""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

NBD, IO, IMG = (os.path.abspath(p) for p in sys.argv[1:4])
PEER, NBDINFO = (shutil.which(name, path="/usr/bin:/usr/local/bin") for name in ("qemu-nbd", "nbdinfo"))
MIB = 1 << 20


def sock():
    return os.path.abspath("sock")


def uri():
    return f"nbd+unix:///?socket={sock()}"


def run(*argv, code=0, **more):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, **more)
    assert done.returncode == code, (argv, done.returncode, done.stdout)
    return done.stdout


def wait_for(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(0.02)


class Server:
    def __init__(self, *options, tool=NBD, **more):
        if os.path.exists("sock"):
            os.unlink("sock")
        self.process = subprocess.Popen([tool, "-k", sock(), *options], **more)
        wait_for(lambda: os.path.exists("sock") or self.process.poll() is not None)
        assert self.process.poll() is None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def hello(timeout=60.0):
    """A connection that has been greeted by the server, or None when there is no place for it."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(timeout)
    s.connect(sock())
    try:
        return s if len(s.recv(18)) == 18 else None
    except TimeoutError:
        return None


def make_raw(path="d.raw"):
    with open(path, "wb") as f:
        f.write(bytes(range(256)) * 4096)


def test_shared():
    """-e N lets N in at once; the next one gets in when one leaves."""
    make_raw()
    for shared in (1, 3):
        with Server("-t", "-e", str(shared), "-f", "raw", "d.raw"):
            inside = [hello() for _ in range(shared)]
            assert all(inside)
            waiting = socket.socket(socket.AF_UNIX)
            waiting.settimeout(0.3)
            waiting.connect(sock())
            try:
                assert not waiting.recv(18)
                sys.exit("the door was shut")
            except TimeoutError:
                pass
            inside.pop().close()
            waiting.settimeout(60)
            assert len(waiting.recv(18)) == 18
    with Server("-t", "-e", "0", "-f", "raw", "d.raw"):
        assert all([hello() for _ in range(40)])


def test_persistent():
    """Without -t the last one who leaves ends it; whoever only looked does not."""
    make_raw()
    with Server("-f", "raw", "d.raw") as server:
        hello().close()
        time.sleep(0.3)
        assert server.process.poll() is None
        run(IO, "-r", "-f", "raw", "-c", "read 0 4k", uri())
        assert server.process.wait(60) == 0
        assert not os.path.exists("sock")
    with Server("-t", "-f", "raw", "d.raw") as server:
        for _ in range(3):
            run(IO, "-r", "-f", "raw", "-c", "read 0 4k", uri())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert not os.path.exists("sock")


def test_several_bitmaps():
    run(IMG, "create", "-q", "-f", "qcow2", "b.qcow2", "8M")
    for name, at in (("b0", "1M"), ("b1", "2M"), ("b2", "3M")):
        run(IMG, "bitmap", "--add", "b.qcow2", name)
        run(IO, "-f", "qcow2", "-c", f"write {at} 64k", "b.qcow2")
        run(IMG, "bitmap", "--disable", "b.qcow2", name)
    seen = []
    for tool in filter(None, (PEER, NBD)):
        with Server("-t", "-r", "-f", "qcow2", "-B", "b2", "-B", "b0", "--bitmap=b1", "-A", "b.qcow2", tool=tool):
            maps = [run(NBDINFO, f"--map=qemu:dirty-bitmap:{b}", uri()) for b in ("b0", "b1", "b2")] if NBDINFO else []
            _, found, contexts = run(NBD, "-L", "-k", sock()).partition("available meta contexts: 5")
            assert found
            seen.append((maps, contexts))
    assert all(x == seen[0] for x in seen), seen
    assert "'b9'" in run(NBD, "-k", sock(), "-f", "qcow2", "-B", "b0", "-B", "b9", "b.qcow2", code=1)


def test_fork_and_pid_file():
    make_raw()
    before = time.time()
    run(NBD, "-k", sock(), "--fork", "--pid-file=pid", "-t", "-f", "raw", "d.raw")
    assert time.time() - before < 60
    with open("pid") as f:
        pid = int(f.read())
    with open(f"/proc/{pid}/cmdline") as f:
        assert NBD in f.read()
    assert os.getsid(pid) == pid  # in a session of its own
    run(IO, "-r", "-f", "raw", "-c", "read 0 4k", uri())
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not os.path.exists("sock"))
    assert "nonexistent" in run(NBD, "-k", sock(), "--fork", "-f", "raw", "nonexistent.raw", code=1)
    assert "/nonexistent" in run(NBD, "-k", sock(), "--pid-file=/nonexistent/pid", "-f", "raw", "d.raw", code=1)


def test_snapshots():
    """-s forgets what is written, -l shows what was."""
    run(IMG, "create", "-q", "-f", "qcow2", "s.qcow2", "4M")
    run(IO, "-f", "qcow2", "-c", "write -P 1 0 64k", "s.qcow2")
    run(IMG, "snapshot", "-c", "old", "s.qcow2")
    run(IO, "-f", "qcow2", "-c", "write -P 2 0 64k", "s.qcow2")
    with Server("-s", "-f", "qcow2", "s.qcow2") as server:
        run(IO, "-f", "raw", "-c", "write -P 3 0 64k", "-c", "read -P 3 0 64k", uri())
        server.process.wait(60)
    assert "failed" not in run(IO, "-r", "-f", "qcow2", "-c", "read -P 2 0 64k", "s.qcow2")
    for name in ("old", "snapshot.name=old", "snapshot.id=1"):
        with Server("-l", name, "-f", "qcow2", "s.qcow2"):
            assert "failed" not in run(IO, "-r", "-f", "raw", "-c", "read -P 1 0 64k", uri())
    assert "'none'" in run(NBD, "-k", sock(), "-l", "none", "-f", "qcow2", "s.qcow2", code=1)


def test_caches():
    make_raw()
    for options in (["--cache=none"], ["-n"], ["--cache=writethrough"], ["--cache=directsync"], ["--cache=unsafe"], ["--aio=threads"],
                    ["--aio=native", "-n"], ["--discard=unmap"], ["--discard=ignore"], ["--detect-zeroes=on"],
                    ["--detect-zeroes=unmap", "--discard=unmap"]):
        with Server(*options, "-f", "raw", "d.raw"):
            out = run(IO, "-f", "raw", "-c", "write -P 7 8k 8k", "-c", "write -P 0 16k 8k", "-c", "flush", "-c", "read -P 7 8k 8k", uri())
            assert "failed" not in out, (options, out)
    with Server("--image-opts", "driver=raw,offset=512k,size=64k,file.driver=file,file.filename=d.raw"):
        assert "64 KiB" in run(IMG, "info", uri())


def test_handshake_limit():
    make_raw()
    with Server("-t", "-e", "0", "--handshake-limit=1", "-f", "raw", "d.raw"):
        s = hello()
        before = time.time()
        assert s.recv(1) == b"" and 0.5 < time.time() - before < 30
    with Server("-t", "--handshake-limit=0", "-f", "raw", "d.raw"):
        s = hello()
        s.settimeout(1.5)
        try:
            sys.exit(f"dropped: {s.recv(1)}")
        except TimeoutError:
            pass


def test_socket_activation():
    make_raw()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(5)
    port = listener.getsockname()[1]
    fd = listener.fileno()
    code = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); " \
           "os.execv(sys.argv[2], sys.argv[2:])"
    process = subprocess.Popen([sys.executable, "-c", code, str(fd), NBD, "-f", "raw", "d.raw"], pass_fds=[fd])
    listener.close()
    run(IO, "-r", "-f", "raw", "-c", "read 0 4k", f"nbd://127.0.0.1:{port}")
    assert process.wait(60) == 0


def test_options_of_the_other():
    """Every option in the other's help is in ours."""
    if not PEER:
        raise tap.Skip("no other qemu-nbd is installed")
    names = [set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", run(tool, "--help"))) for tool in (PEER, NBD)]
    assert not names[0] - names[1] - {"--trace"}, names[0] - names[1]


def test_device():
    """What needs the kernel's module says so where it is missing."""
    make_raw()
    if not os.path.exists("/dev/nbd0"):
        assert "modprobe nbd" in run(NBD, "-c", "/dev/nbd0", "-f", "raw", "d.raw", code=1)
        assert "modprobe nbd" in run(NBD, "-d", "/dev/nbd0", code=1)
        raise tap.Skip("the kernel's NBD module is not loaded")
    if os.geteuid():
        raise tap.Skip("only root can attach a device")
    run(NBD, "-c", "/dev/nbd0", "-r", "-f", "raw", "d.raw")
    try:
        with open("/dev/nbd0", "rb") as device, open("d.raw", "rb") as f:
            assert device.read(MIB) == f.read()
    finally:
        run(NBD, "-d", "/dev/nbd0")


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[4:], call=tap.in_scratch)
