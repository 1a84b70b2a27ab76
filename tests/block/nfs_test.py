#!/usr/bin/env python3
"""The nfs driver on a server of NFS-Ganesha (NFSv3).

usage: nfs_test.py OUR-QEMU-IMG OUR-QEMU-IO [TEST...]
Skipped where the server is missing or cannot run.
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
SERVER = shutil.which("ganesha.nfsd", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
RPCBIND = shutil.which("rpcbind", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
PORT = 20000 + os.getpid() % 20000
CONFIG = """
NFS_CORE_PARAM { Protocols = 3; NFS_Port = %d; MNT_Port = %d; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = None; Bind_addr = 127.0.0.1; }
NFS_KRB5 { Active_krb5 = false; }
NFSV4 { Graceless = true; }
EXPORT { Export_Id = 1; Path = %s; Pseudo = %s; Access_Type = RW; Squash = No_Root_Squash; Protocols = 3; SecType = sys;
         FSAL { Name = VFS; } }
"""


def run(*argv, code=0):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, (argv, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def url(name):
    return f"nfs://127.0.0.1{os.getcwd()}/export/{name}?nfsport={PORT}&mountport={PORT + 1}"


def test_file():
    with open("src.raw", "wb") as f:
        f.truncate(8 << 20)
        f.seek(1 << 20)
        f.write(random.Random(1).randbytes(3 << 20))
    with open("export/disk", "wb") as f:
        f.truncate(8 << 20)
    run(IMG, "convert", "-n", "-f", "raw", "-O", "raw", "src.raw", url("disk"))
    assert digest("export/disk") == digest("src.raw")
    run(IMG, "convert", "-f", "raw", "-O", "raw", url("disk"), "back.raw")
    assert digest("back.raw") == digest("src.raw")
    run(IMG, "resize", "-f", "raw", url("disk"), "9M")
    assert os.path.getsize("export/disk") == 9 << 20
    run(IMG, "create", "-q", "-f", "qcow2", "export/grows", "64M")
    out = run(IO, "-f", "qcow2", "-c", "write -P 5 10M 3M", "-c", "flush", "-c", "read -P 5 10M 3M", url("grows"))
    assert "failed" not in out, out
    run(IMG, "check", "-q", "export/grows")
    run(IO, "-f", "qcow2", "-c", "read -P 5 10M 3M", "export/grows")


def test_errors():
    assert "could not open" in run(IMG, "info", url("none"), code=1)
    assert "could not mount" in run(IMG, "info", url("none/none"), code=1)
    assert "is not known" in run(IMG, "info", url("disk") + "&rsize=5", code=1)
    assert "nfs://HOST/PATH" in run(IMG, "info", "nfs://host", code=1)
    assert "server.host" in run(IMG, "info", "--image-opts", "driver=nfs,path=/x", code=1)


def test_silent_server():
    """A call ends with its time-out, and so does the program, whether the server falls silent before or after opening."""
    with open("export/disk", "wb") as f:
        f.truncate(1 << 20)
    with subprocess.Popen([IO, "-f", "raw", url("disk") + "&timeout=2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, bufsize=1) as io:
        io.stdin.write("write -P 7 0 64k\nread -P 7 0 64k\n")
        while "read 65536/65536" not in io.stdout.readline():
            assert io.poll() is None
        server.send_signal(signal.SIGSTOP)
        try:
            start = time.monotonic()
            io.stdin.write("read 0 64k\n")
            while "failed" not in (line := io.stdout.readline()):
                assert io.poll() is None
            assert "timed out" in line, line
            io.stdin.close()
            io.wait(60)
            assert 1.5 < time.monotonic() - start < 30
            out = run(IMG, "info", url("disk") + "&timeout=1", code=1)
            assert "did not answer within 1 seconds" in out, out
        finally:
            server.send_signal(signal.SIGCONT)
    run(IO, "-r", "-f", "raw", "-c", "read -P 7 0 64k", url("disk"))
    assert "at most" in run(IMG, "info", url("disk") + "&timeout=100000", code=1)


def with_server(test):
    if not SERVER or not RPCBIND or os.geteuid() != 0:
        raise tap.Skip("no nfs-ganesha, no rpcbind, or not root")

    def inside():
        global server
        os.mkdir("export")
        export = os.path.abspath("export")
        with open("config", "w") as f:
            f.write(CONFIG % (PORT, PORT + 1, export, export))
        with open("export/here", "wb") as f:
            f.truncate(512)
        mapper = subprocess.Popen([RPCBIND, "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # ends where one runs already
        time.sleep(0.5)
        with mapper, subprocess.Popen([SERVER, "-F", "-f", "config", "-L", os.path.abspath("log"), "-p", os.path.abspath("pid")],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                until = time.monotonic() + 60
                while subprocess.run([IMG, "info", url("here")], capture_output=True).returncode:
                    if server.poll() is not None or time.monotonic() > until:
                        raise tap.Skip("the NFS server does not run here")
                    time.sleep(0.3)
                test()
            finally:
                server.kill()
                mapper.kill()

    tap.in_scratch(inside)


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=with_server)
