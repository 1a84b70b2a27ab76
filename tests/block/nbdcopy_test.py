#!/usr/bin/env python3
"""Four gigabytes through NBD each way: nbdcopy with our server, our client with nbdkit. What arrives has the same hash.

usage: nbdcopy_test.py OUR-QEMU-NBD OUR-QEMU-IMG [TEST...]
"""
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import certs  # noqa: E402
import tap  # noqa: E402

NBD, IMG = (os.path.abspath(p) for p in sys.argv[1:3])
SIZE = int(os.environ.get("NBDCOPY_MIB", 4096)) << 20
PATH = "/usr/bin:/usr/local/bin:/usr/sbin:/sbin"
NBDCOPY, NBDKIT = (shutil.which(name, path=PATH) for name in ("nbdcopy", "nbdkit"))


def need(tool, name):
    if not tool:
        raise tap.Skip(f"{name} is not installed")
    if shutil.disk_usage(".").free < 3 * SIZE:
        raise tap.Skip("there is not enough room")


def run(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800)
    if done.returncode:
        sys.exit(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}")


def digest(file):
    h = hashlib.sha256()
    for piece in iter(lambda: file.read(1 << 20), b""):
        h.update(piece)
    return h.hexdigest()


def make_source(path):
    """Every megabyte another, an eighth of them a hole. Returns the hash."""
    rng, h = random.Random(4), hashlib.sha256()
    with open(path, "wb") as f:
        f.truncate(SIZE)
        for n in range(SIZE >> 20):
            piece = bytes(1 << 20) if n % 8 == 5 else rng.randbytes(1 << 20)
            h.update(piece)
            if n % 8 != 5:
                f.seek(n << 20)
                f.write(piece)
    return h.hexdigest()


class Server:
    def __init__(self, *argv):
        if os.path.exists("sock"):
            os.unlink("sock")
        self.process = subprocess.Popen(argv)
        while not os.path.exists("sock"):
            assert self.process.poll() is None, argv
            time.sleep(0.02)

    def __enter__(self):
        return f"nbd+unix:///?socket={os.path.abspath('sock')}"

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(120)


def serve(*options):
    return Server(NBD, "-t", "-e", "0", "-k", os.path.abspath("sock"), *options)


def digest_of_copy(uri):
    with subprocess.Popen([NBDCOPY, uri, "-"], stdout=subprocess.PIPE) as copy:
        value = digest(copy.stdout)
    assert copy.returncode == 0
    return value


def test_nbdcopy():
    need(NBDCOPY, "nbdcopy")
    want = make_source("source.raw")
    with serve("-f", "raw", "-r", "source.raw") as uri:
        run(NBDCOPY, uri, "copy.raw")
        with open("copy.raw", "rb") as f:
            assert digest(f) == want
    os.unlink("copy.raw")
    run(IMG, "create", "-q", "-f", "qcow2", "target.qcow2", str(SIZE))
    with serve("-f", "qcow2", "target.qcow2") as uri:
        run(NBDCOPY, "source.raw", uri)
        assert digest_of_copy(uri) == want
    run(IMG, "check", "-q", "target.qcow2")


def test_nbdcopy_tls():
    need(NBDCOPY, "nbdcopy")
    if not certs.available():
        raise tap.Skip("certtool is not installed")
    certs.Authority("ca").issue("server", "server", "localhost")
    want = make_source("source.raw")
    creds = ["--object", f"tls-creds-x509,id=t,endpoint=server,dir={os.path.abspath('server')},verify-peer=off", "--tls-creds", "t"]
    with serve("-f", "raw", *creds, "source.raw") as uri:
        tls = uri.replace("nbd+unix", "nbds+unix") + f"&tls-certificates={os.path.abspath('ca')}&tls-verify-peer=false"
        assert digest_of_copy(tls) == want


def test_our_client():
    need(NBDKIT, "nbdkit")
    want = make_source("source.raw")
    with Server(NBDKIT, "-f", "-U", os.path.abspath("sock"), "file", "source.raw") as uri:
        run(IMG, "convert", "-f", "raw", "-O", "raw", uri, "copy.raw")
        with open("copy.raw", "rb") as f:
            assert digest(f) == want
    with open("back.raw", "wb") as f:
        f.truncate(SIZE)
    with Server(NBDKIT, "-f", "-U", os.path.abspath("sock"), "file", "back.raw") as uri:
        run(IMG, "convert", "-n", "-f", "raw", "-O", "raw", "copy.raw", uri)
    with open("back.raw", "rb") as f:
        assert digest(f) == want


tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=tap.in_scratch)
