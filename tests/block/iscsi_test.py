#!/usr/bin/env python3
"""The iscsi driver on a target of tgt, and another qemu-img on the same.

usage: iscsi_test.py OUR-QEMU-IMG OUR-QEMU-IO [TEST...]
Skipped where tgt is missing or cannot run.
"""
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

IMG, IO = (os.path.abspath(p) for p in sys.argv[1:3])
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
TGTD, TGTADM = (shutil.which(n, path=PATH) for n in ("tgtd", "tgtadm"))
PEER = shutil.which("qemu-img", path="/usr/bin:/usr/local/bin")
NAME = "iqn.2024-01.test:disk"
PORT = 20000 + os.getpid() % 20000
URL = f"iscsi://127.0.0.1:{PORT}/{NAME}/1"
SIZE = 16 << 20


def run(*argv, code=0):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, (argv, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def adm(*argv):
    run(TGTADM, "-C", str(PORT % 1000), "--lld", "iscsi", *argv)


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def test_disk():
    with open("src.raw", "wb") as f:
        f.truncate(SIZE)
        f.seek(1 << 20)
        f.write(random.Random(1).randbytes(5 << 20))
    run(IMG, "convert", "-n", "-f", "raw", "-O", "raw", "src.raw", URL)
    assert digest("unit.raw") == digest("src.raw")
    run(IMG, "convert", "-f", "raw", "-O", "raw", URL, "back.raw")
    assert digest("back.raw") == digest("src.raw")
    assert "virtual size: 16 MiB" in run(IMG, "info", URL)
    out = run(IO, "-f", "raw", "-c", "write -P 7 4095 3", "-c", "write -z 2M 64k", "-c", "discard 3M 64k", "-c", "flush",
              "-c", "read -P 7 4095 3", "-c", "read -P 0 2M 64k", URL)
    assert "failed" not in out, out
    with open("unit.raw", "rb") as f:
        data = f.read()
    assert data[4095:4098] == b"\7\7\7" and not any(data[2 << 20:(2 << 20) + 65536])
    run(IMG, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", URL, "over.qcow2")
    run(IMG, "compare", "over.qcow2", "unit.raw")
    done = subprocess.run([PEER, "compare", "-f", "raw", "-F", "raw", URL, "unit.raw"], capture_output=True, text=True) if PEER else None
    assert not done or done.returncode == 0 or "nknown" in done.stderr, done  # its module may be missing


def test_errors():
    assert "could not log in" in run(IMG, "info", URL.replace(NAME, "iqn.2024-01.test:none"), code=1)
    run(IMG, "info", URL[:-1] + "9", code=1)
    assert "could not log in" in run(IMG, "info", "iscsi://127.0.0.1:1/" + NAME + "/1", code=1)
    assert "HOST[:PORT]/TARGET/LUN" in run(IMG, "info", "iscsi://127.0.0.1/x", code=1)
    assert "password-secret" in run(IMG, "info", URL.replace("//", "//me%pw@"), code=1)


def test_login():
    adm("--op", "new", "--mode", "account", "--user", "me", "--password", "secretsecret")
    adm("--op", "bind", "--mode", "account", "--tid", "1", "--user", "me")
    with_name = f"driver=iscsi,portal=127.0.0.1:{PORT},target={NAME},lun=1,user=me,password-secret=s"
    run(IMG, "info", "--object", "secret,id=s,data=secretsecret", "--image-opts", with_name)
    run(IMG, "info", "--object", "secret,id=s,data=wrongwrong12", "--image-opts", with_name, code=1)
    run(IMG, "info", URL, code=1)


def test_silent_target(server):
    """It answers no more: requests fail after the time-out, all that wait at once, and the program ends."""
    opts = f"driver=iscsi,portal=127.0.0.1:{PORT},target={NAME},lun=1,timeout=2"
    with subprocess.Popen([IO, "--image-opts", opts], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as io:
        io.stdin.write("write -P 1 0 4k\n")
        io.stdin.flush()
        line = io.stdout.readline()
        assert "wrote" in line, line
        server.send_signal(signal.SIGSTOP)
        try:
            out = io.communicate("".join(f"aio_write -P 2 {n}k 4k\n" for n in range(0, 400, 4)) + "aio_flush\nquit\n", timeout=90)[0]
        finally:
            server.send_signal(signal.SIGCONT)
            io.kill()
    assert "timed out" in out, out


def with_target(test):
    if not TGTD or not TGTADM or os.geteuid() != 0:
        raise tap.Skip("no tgt, or not root")

    def inside():
        with open("unit.raw", "wb") as f:
            f.truncate(SIZE)
        with subprocess.Popen([TGTD, "-f", "-C", str(PORT % 1000), "--iscsi", f"portal=127.0.0.1:{PORT}"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                for _ in range(100):
                    if subprocess.run([TGTADM, "-C", str(PORT % 1000), "--op", "show", "--mode", "sys"], capture_output=True).returncode == 0:
                        break
                    time.sleep(0.1)
                else:
                    raise tap.Skip("tgtd does not run here")
                adm("--op", "new", "--mode", "target", "--tid", "1", "-T", NAME)
                adm("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", os.path.abspath("unit.raw"))
                adm("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
                test(server) if test is test_silent_target else test()
            finally:
                server.kill()

    tap.in_scratch(inside)


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=with_target)
