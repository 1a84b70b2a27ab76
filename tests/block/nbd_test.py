#!/usr/bin/env python3
"""NBD against other implementations: our server with their clients, our client with their servers.

usage: nbd_test.py OUR-QEMU-NBD OUR-QEMU-IO OUR-QEMU-IMG
A test is skipped where its peer (qemu-nbd, nbdinfo, nbdcopy, nbdkit, nbd-client) is not installed.
"""
import hashlib
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

NBD, IO, IMG = (os.path.abspath(p) for p in sys.argv[1:4])
PATH = "/usr/bin:/usr/local/bin:/usr/sbin:/sbin"
PEER = {name: shutil.which(name, path=PATH)
        for name in ("qemu-nbd", "qemu-io", "qemu-img", "nbdinfo", "nbdcopy", "nbdkit", "nbd-client")}
MIB = 1 << 20


def need(*names):
    for name in names:
        if not PEER[name]:
            raise tap.Skip(name)


def run(*argv, code=0, text=True, **more):
    done = subprocess.run(argv, capture_output=True, text=text, timeout=240, **more)
    if done.returncode != code:
        sys.exit(f"{' '.join(argv)}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done.stdout


class Server:
    """A server in the background on ./sock."""

    def __init__(self, tool, *options):
        self.process = subprocess.Popen([tool, "-k", os.path.abspath("sock"), "-t", *options])
        for _ in range(1000):
            if os.path.exists("sock"):
                break
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(60) in (0, -15)
        if os.path.exists("sock"):
            os.unlink("sock")


def uri(name=""):
    return f"nbd+unix:///{name}?socket={os.path.abspath('sock')}"


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def make_raw(path, size, seed):
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        for _ in range(40):
            f.seek(rng.randrange(size))
            f.write(rng.randbytes(min(rng.randrange(1, 300000), size - f.tell())))


def test_info():
    """What an export is said to be, as the other server says it of the same image."""
    need("qemu-nbd", "nbdinfo")
    run(IMG, "create", "-q", "-f", "qcow2", "i.qcow2", "10M")
    for options in ([], ["-r"], ["-A", "-x", "name", "-D", "some text"], ["-e", "4", "-x", "a b%"]):
        name = "name" if "-A" in options else "a%20b%25" if "-e" in options else ""
        seen = []
        for tool in (PEER["qemu-nbd"], NBD):
            with Server(tool, "-f", "qcow2", *options, "i.qcow2"):
                seen.append((json.loads(run(PEER["nbdinfo"], "--no-content", "--json", uri(name))),
                             run(PEER["qemu-nbd"], "-L", "-k", os.path.abspath("sock")),
                             run(NBD, "-L", "-k", os.path.abspath("sock"))))
        assert seen[0][:2] == seen[1][:2], f"{options}:\n{seen[0]}\n{seen[1]}"
        assert seen[0][1] == seen[0][2], seen[0]
        ours = seen[1][2].replace("  transaction size: 64-bit\n", "").splitlines()
        theirs = seen[1][1].splitlines()
        assert len(ours) == len(seen[1][2].splitlines()) - 1, seen[1]  # between the two of us: extended headers
        differ = [pair for pair in zip(ours, theirs) if pair[0] != pair[1]]
        assert len(ours) == len(theirs) and all("block-status-payload" in a for a, b in differ), differ


def test_copy():
    need("nbdcopy")
    make_raw("c.raw", 48 * MIB + 12800, 1)
    with Server(NBD, "-f", "raw", "-r", "-e", "8", "c.raw"):
        run(PEER["nbdcopy"], uri(), "back.raw")
        assert digest("back.raw") == digest("c.raw")
    make_raw("odd.raw", 12345, 2)
    with Server(NBD, "-f", "raw", "-r", "odd.raw"):  # a disk is whole sectors
        run(PEER["nbdcopy"], uri(), "back.raw")
    with open("odd.raw", "ab") as f:
        f.write(bytes(-12345 % 512))
    assert digest("back.raw") == digest("odd.raw")
    with open("d.raw", "wb") as f:
        f.truncate(48 * MIB + 12800)
    with Server(NBD, "-f", "raw", "-e", "8", "d.raw"):
        run(PEER["nbdcopy"], "--flush", "c.raw", uri())
    assert digest("d.raw") == digest("c.raw")


def test_allocation():
    need("qemu-nbd", "nbdinfo", "qemu-io")
    run(IMG, "create", "-q", "-f", "qcow2", "base.qcow2", "4M")
    run(PEER["qemu-io"], "-c", "write 1M 256k", "base.qcow2")
    run(IMG, "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "8M")
    run(PEER["qemu-io"], "-c", "write 2M 64k", "-c", "write -z 1M 64k", "-c", "write 7M 512k", "top.qcow2")
    for context in ("base:allocation", "qemu:allocation-depth"):
        seen = []
        for tool in (PEER["qemu-nbd"], NBD):
            with Server(tool, "-f", "qcow2", "-A", "-r", "top.qcow2"):
                seen.append(run(PEER["nbdinfo"], "--json", f"--map={context}", uri()))
        assert seen[0] == seen[1], f"{context}\n{seen[0]}\n{seen[1]}"
    for tool in (PEER["qemu-nbd"], NBD):
        with Server(tool, "-f", "qcow2", "-r", "top.qcow2"):
            maps = [tap.old_map(run(t, "map", "--output=json", "-f", "raw", uri())) for t in (PEER["qemu-img"], IMG)]
            assert maps[0] == maps[1], maps


def test_bitmaps():
    need("qemu-nbd", "nbdinfo", "qemu-io")
    run(IMG, "create", "-q", "-f", "qcow2", "b.qcow2", "8M")
    run(IMG, "bitmap", "--add", "-g", "64k", "b.qcow2", "b0")
    run(PEER["qemu-io"], "-c", "write 1M 200k", "-c", "write -z 3M 64k", "-c", "write 8191k 1k", "b.qcow2")
    seen = []
    for tool in (PEER["qemu-nbd"], NBD):
        with Server(tool, "-f", "qcow2", "-r", "-B", "b0", "b.qcow2"):
            seen.append((run(PEER["nbdinfo"], "--json", "--map=qemu:dirty-bitmap:b0", uri()),
                         run(PEER["qemu-nbd"], "-L", "-k", os.path.abspath("sock"))))
    assert seen[0] == seen[1], seen
    for server in (PEER["qemu-nbd"], NBD):
        maps = []
        for client in (PEER["qemu-img"], IMG):
            with Server(server, "-f", "qcow2", "-r", "-B", "b0", "b.qcow2"):
                maps.append(tap.old_map(run(client, "map", "--output=json", "--image-opts", "driver=nbd,server.type=unix,"
                                           f"server.path={os.path.abspath('sock')},x-dirty-bitmap=qemu:dirty-bitmap:b0")))
        assert maps[0] == maps[1], maps


def test_client():
    """Our client with other servers: random requests against a model, then what the server's file holds."""
    servers = [("qemu-nbd", "-f", "raw", "m.raw")]
    if PEER["nbdkit"]:
        servers += [("nbdkit", "file", "m.raw"), ("nbdkit", "--no-sr", "file", "m.raw"), ("nbdkit", "--filter=nozero",
                    "--filter=fua", "file", "m.raw", "fuamode=emulate"),
                    ("nbdkit", "--filter=blocksize-policy", "file", "m.raw", "blocksize-minimum=4096",
                     "blocksize-maximum=65536", "blocksize-error-policy=error")]
    for number, (tool, *options) in enumerate(servers):
        need(tool)
        size = 4 * MIB
        with open("m.raw", "wb") as f:
            f.truncate(size)
        model, rng, commands = bytearray(size), random.Random(number), []
        for _ in range(120):
            length, at = rng.randrange(1, 200000), rng.randrange(size - 200000)
            kind, byte = rng.randrange(5), rng.randrange(256)
            if kind == 0:
                commands.append(f"write -P {byte} {at} {length}")
                model[at:at + length] = bytes([byte]) * length
            elif kind == 1:
                commands.append(f"write -z {rng.choice(['', '-u '])}{at} {length}")
                model[at:at + length] = bytes(length)
            elif kind == 2:
                commands.append(f"aio_write -f -P {byte} {at} {length}")
                commands.append("aio_flush")
                model[at:at + length] = bytes([byte]) * length
            elif kind == 3:
                commands.append("flush")
            else:
                run_length = 1
                while run_length < 5000 and at + run_length < size and model[at + run_length] == model[at]:
                    run_length += 1
                commands.append(f"read -P {model[at]} {at} {run_length}")
        if tool == "nbdkit":
            command = [PEER[tool], "-U", os.path.abspath("sock"), "-f", *options]
        else:
            command = [PEER[tool], "-k", os.path.abspath("sock"), *options]
        server = subprocess.Popen(command)
        try:
            while not os.path.exists("sock"):
                time.sleep(0.02)
            flags = [x for c in commands for x in ("-c", c)]
            out = run(IO, "-f", "raw", "-t", "writeback", *flags, uri())
            assert "failed" not in out, (tool, options, out)
        finally:
            server.terminate()
            server.wait(60)
            if os.path.exists("sock"):
                os.unlink("sock")
        with open("m.raw", "rb") as f:
            assert f.read() == bytes(model), (tool, options)


def test_convert():
    """qemu-img over NBD in both directions and with both programs."""
    need("qemu-nbd", "qemu-img")
    make_raw("v.raw", 20 * MIB, 3)
    for server, client in ((NBD, PEER["qemu-img"]), (PEER["qemu-nbd"], IMG), (NBD, IMG)):
        run(IMG, "create", "-q", "-f", "qcow2", "v.qcow2", "20M")
        with Server(server, "-f", "qcow2", "v.qcow2"):
            run(client, "convert", "-n", "-f", "raw", "-O", "raw", "v.raw", uri())
            run(client, "compare", "-f", "raw", "-F", "raw", "v.raw", uri())
        run(IMG, "compare", "v.raw", "v.qcow2")
        run(IMG, "check", "v.qcow2")


def test_names():
    """The ways to write an address."""
    make_raw("n.raw", MIB, 4)
    sock = os.path.abspath("sock")
    with Server(NBD, "-f", "raw", "-r", "-x", "a/b c", "n.raw"):
        for name in (uri("a/b%20c"), f"nbd:unix:{sock}:exportname=a/b c",
                     'json:{"driver":"raw","file":{"driver":"nbd","export":"a/b c","server":{"type":"unix","path":"%s"}}}' % sock):
            run(IMG, "compare", "n.raw", "-f", "raw", "-F", "raw", name)
        text = json.loads(run(IMG, "info", "--output=json", uri("a/b%20c")))
        assert text["filename"] == uri("a/b%20c") and text["virtual-size"] == MIB, text
        wrong = subprocess.run([IMG, "info", uri("other")], capture_output=True, text=True)
        assert wrong.returncode == 1 and "export 'other' not present" in wrong.stderr, wrong
    for bad in ("nbd:", "nbd:localhost", "nbd:unix:", "nbd+unix:///x", "nbd+unix://h/?socket=/x", "nbd://h/x?y=z"):
        assert subprocess.run([IMG, "info", bad], capture_output=True).returncode == 1, bad
    port = socket.socket()
    port.bind(("127.0.0.1", 0))
    number = port.getsockname()[1]
    port.close()
    server = subprocess.Popen([NBD, "-f", "raw", "-b", "127.0.0.1", "-p", str(number), "n.raw"])
    run(IMG, "info", "--image-opts",
        f"driver=raw,file.driver=nbd,file.host=127.0.0.1,file.port={number},file.open-timeout=30")
    assert server.wait(60) == 0  # without -t the last client ends it


def test_daemon():
    make_raw("f.raw", MIB, 5)
    sock = os.path.abspath("sock")
    run(NBD, "-f", "raw", "-k", sock, "--fork", "--pid-file", "pid", "-t", "-r", "f.raw")
    with open("pid") as f:
        pid = int(f.read())
    run(IMG, "compare", "-f", "raw", "-F", "raw", "f.raw", uri())
    os.kill(pid, 15)
    for _ in range(1500):
        if not os.path.exists("sock"):
            break
        time.sleep(0.02)
    assert os.path.exists("pid") and not os.path.exists("sock")  # whoever asked for the file removes it
    for argv, text in ((["nofile"], "Could not open 'nofile'"), (["-c", "/dev/nbd-none", "f.raw"], "/dev/nbd-none"),
                       (["-k", "rel", "f.raw"], "has to start with"), (["--fork", "-k", "/nonexistent/x", "f.raw"], "/nonexistent/x"),
                       ([], "file name"), (["-B", "x", "-f", "raw", "-k", sock, "f.raw"], "Bitmap 'x'"),
                       (["-L", "-k", "/nope"], "/nope"), (["--cache=x", "f.raw"], "cache"), (["-e", "-1", "f.raw"], "-1")):
        done = subprocess.run([NBD, *argv], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and text in done.stderr, (argv, done)


def test_offset_and_overlay():
    make_raw("o.raw", 2 * MIB, 6)
    with open("o.raw", "rb") as f:
        whole = f.read()
    with Server(NBD, "-f", "raw", "-o", "512k", "-s", "o.raw"):
        run(IO, "-f", "raw", "-c", "write -P 1 0 64k", "-c", "read -P 1 0 64k", uri())
        run(IMG, "convert", "-f", "raw", "-O", "raw", uri(), "back.raw")
    with open("back.raw", "rb") as f:
        assert f.read() == b"\1" * 65536 + whole[MIB // 2 + 65536:]
    with open("o.raw", "rb") as f:
        assert f.read() == whole


def test_reconnect():
    """The server goes and comes back while requests wait."""
    make_raw("r.raw", MIB, 7)
    first = Server(NBD, "-f", "raw", "r.raw")
    io = subprocess.Popen([IO, "--image-opts", f"driver=raw,file.driver=nbd,file.path={os.path.abspath('sock')},"
                           "file.reconnect-delay=60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    io.stdin.write("write -P 3 0 64k\n")
    io.stdin.flush()
    assert "wrote" in io.stdout.readline()
    first.__exit__()
    io.stdin.write("read -P 3 0 64k\n")
    io.stdin.flush()
    time.sleep(0.3)
    with Server(NBD, "-f", "raw", "r.raw"):
        out, _ = io.communicate("", timeout=120)
        assert "read 65536/65536" in out and "failed" not in out, out


def fuzz_stream(rng):
    """A client's bytes: right at first, then anything."""
    opt = struct.pack(">Q", 0x49484156454F5054)
    name = b"x" * rng.randrange(3)
    parts = [struct.pack(">I", rng.choice([0, 1, 2, 3]))]
    for _ in range(rng.randrange(6)):
        payload = rng.choice([b"", rng.randbytes(rng.randrange(40)), struct.pack(">I", len(name)) + name + b"\0\1\0\3",
                              struct.pack(">I", len(name)) + name + struct.pack(">II", 1, 15) + b"base:allocation"])
        length = rng.choice([len(payload)] * 8 + [rng.randrange(1 << 32)])
        parts.append(opt + struct.pack(">II", rng.choice([1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 99]), length) + payload)
    parts.append(opt + struct.pack(">II", 7, 6) + struct.pack(">IH", 0, 0))
    for _ in range(rng.randrange(30)):
        parts.append(struct.pack(">IHHQQI", 0x25609513, rng.choice([0, 0, 1, 2, 4, 8, 16, rng.randrange(65536)]),
                                 rng.choice([0, 1, 3, 4, 5, 6, 7, 8, 77]), rng.getrandbits(64),
                                 rng.choice([0, 4096, rng.getrandbits(64), rng.randrange(MIB)]),
                                 rng.choice([0, 1, 512, 65536, 1 << 25, rng.getrandbits(32)])))
        if rng.randrange(2):
            parts.append(rng.randbytes(rng.randrange(2000)))
    data = bytearray(b"".join(parts))
    for _ in range(rng.randrange(4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def test_hostile_clients():
    run(IMG, "create", "-q", "-f", "qcow2", "h.qcow2", "1M")
    rng = random.Random(8)
    with Server(NBD, "-f", "qcow2", "-A", "-e", "0", "h.qcow2") as server:
        for number in range(400):
            s = socket.socket(socket.AF_UNIX)
            s.connect(os.path.abspath("sock"))
            s.settimeout(0.02)
            try:
                s.sendall(fuzz_stream(rng))
                if number % 3:
                    while s.recv(65536):
                        pass
            except OSError:
                pass
            s.close()
        run(IO, "-f", "raw", "-c", "read 0 64k", uri())
        with open(f"/proc/{server.process.pid}/status") as f:
            peak = [int(x.split()[1]) for x in f if x.startswith("VmHWM")][0]
        assert peak < 256 * 1024, peak
    run(IMG, "check", "h.qcow2")


def fake_server(listener, rng):
    """A server that negotiates more or less, then answers with noise."""
    s, _ = listener.accept()
    s.settimeout(0.2)
    try:
        s.sendall(struct.pack(">QQH", 0x4e42444d41474943, 0x49484156454F5054, 3))
        s.recv(4)
        while True:
            head = s.recv(16)
            if len(head) < 16:
                break
            _, option, length = struct.unpack(">QII", head)
            if length:
                s.recv(length)
            reply = 0x3e889045565a9
            if option == 7:
                if rng.randrange(3) == 0:
                    s.sendall(struct.pack(">QIII", reply, option, 3, 14) + struct.pack(
                        ">HIII", 3, rng.choice([1, 512, 3, rng.getrandbits(32)]), 4096, rng.choice([1 << 25, 7])))
                s.sendall(struct.pack(">QIII", reply, option, 3, 12) + struct.pack(
                    ">HQH", 0, rng.choice([MIB, 12345, 0, rng.getrandbits(64)]), rng.getrandbits(16)))
            elif option == 10:
                s.sendall(struct.pack(">QIII", reply, option, 4, 19) + b"\0\0\0\0base:allocation")
            s.sendall(struct.pack(">QIII", reply, option, rng.choice([1] * 20 + [rng.getrandbits(32)]), 0))
            if option == 7:
                break
        while True:
            head = s.recv(28)
            if len(head) < 28:
                break
            magic = rng.choice([0x67446698, 0x668e33ef, 0x668e33ef, rng.getrandbits(32)])
            if magic == 0x67446698:
                s.sendall(struct.pack(">II", magic, rng.choice([0, 5])) + head[8:16] + rng.randbytes(rng.randrange(70000)))
            else:
                body = rng.randbytes(rng.randrange(60))
                if rng.randrange(2):
                    body = head[16:24] + rng.randbytes(rng.randrange(70000))
                s.sendall(struct.pack(">IHH", magic, rng.randrange(2), rng.choice([0, 1, 2, 5, 32769, 32770, 9])) +
                          head[8:16] + struct.pack(">I", rng.choice([len(body)] * 5 + [rng.getrandbits(32)])) + body)
    except OSError:
        pass
    s.close()


def test_hostile_servers():
    rng = random.Random(9)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("sock")
    listener.listen(5)
    for _ in range(80):
        io = subprocess.Popen([IO, "-f", "raw", "-c", "map", "-c", "read 0 4k", "-c", "write 0 4k", "-c", "read 4k 64k",
                               "-c", "discard 0 4k", "-c", "flush", uri()], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
        listener.settimeout(20)
        for _ in range(60):
            try:
                fake_server(listener, rng)
            except TimeoutError:
                pass
            listener.settimeout(0.05)
            if io.poll() is not None:
                break
        assert io.wait(60) in (0, 1), io.returncode


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[4:], call=tap.in_scratch)
