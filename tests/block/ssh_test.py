#!/usr/bin/env python3
"""Files of an SSH server: sshd with a key and an agent of its own.

usage: ssh_test.py OUR-QEMU-IMG OUR-QEMU-IO [TEST...]
"""
import base64
import getpass
import os
import random
import shutil
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

IMG, IO = (os.path.abspath(p) for p in sys.argv[1:3])
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
SSHD, AGENT, ADD, KEYGEN = (shutil.which(n, path=PATH) for n in ("sshd", "ssh-agent", "ssh-add", "ssh-keygen"))


def run(*argv, code=0, env=None):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, env=env)
    if done.returncode != code:
        sys.exit(f"{' '.join(argv)}: exit code {done.returncode}, expected {code}\n{done.stdout}")
    return done.stdout


class Server:
    def __init__(self):
        if not (SSHD and AGENT and ADD and KEYGEN):
            raise tap.Skip("sshd is not installed")
        for name in ("host", "user"):
            run(KEYGEN, "-q", "-t", "ed25519", "-N", "", "-f", name)
        shutil.copy("user.pub", "authorized")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        here = os.getcwd()
        with open("config", "w") as f:
            f.write(f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {here}/host\nAuthorizedKeysFile {here}/authorized\n"
                    f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
                    f"PermitRootLogin yes\nSubsystem sftp internal-sftp\n")
        if os.getuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        self.sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", f"{here}/config"], stderr=open("sshd.log", "w"))
        self.agent = subprocess.Popen([AGENT, "-D", "-a", f"{here}/agent"], stdout=subprocess.DEVNULL)
        os.environ["SSH_AUTH_SOCK"] = f"{here}/agent"
        for _ in range(500):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0 and os.path.exists("agent"):
                    break
            if self.sshd.poll() is not None:
                with open("sshd.log") as log:
                    raise tap.Skip("sshd does not run here: " + log.read().strip()[-200:])
            time.sleep(0.02)
        self.uri = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{here}"
        self.options = f"driver=ssh,server.host=127.0.0.1,server.port={self.port},user={getpass.getuser()}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in (self.sshd, self.agent):
            process.terminate()
            process.wait(60)


def test_ssh():
    data = random.Random(1).randbytes((2 << 20) + 1234)
    with Server() as server:
        with open("a.raw", "wb") as f:
            f.write(data)
        trust = "?host_key_check=no"
        assert "publickey authentication" in run(IMG, "info", "-f", "raw", f"{server.uri}/a.raw{trust}", code=1)
        run(ADD, "user")
        run(IMG, "convert", "-f", "raw", "-O", "raw", f"{server.uri}/a.raw{trust}", "copy.raw")
        with open("copy.raw", "rb") as f:
            assert f.read(len(data)) == data
        here = os.getcwd()
        opts = f"driver=raw,file.driver=ssh,file.server.host=127.0.0.1,file.server.port={server.port}," \
               f"file.path={here}/a.raw,file.host-key-check.mode=none"
        out = run(IO, "-c", "write -P 5 1000 70000", "-c", "read -P 5 1000 70000", "-c", "flush", "-c", "write -z 100000 1000",
                  "--image-opts", opts)
        assert "failed" not in out
        with open("a.raw", "rb") as f:
            now = f.read()
        assert now == data[:1000] + b"\x05" * 70000 + data[71000:100000] + bytes(1000) + data[101000:]
        # A format on it, growing and read by many at once.
        run(IMG, "create", "-q", "-f", "qcow2", "b.qcow2", "8M")
        image = f"{server.uri}/b.qcow2{trust}"
        run(IO, "-f", "qcow2", "-c", "write -P 7 1M 3M", *[x for n in range(8) for x in ("-c", f"aio_read -P 7 {(1 << 20) + n * 65536} 4k")],
            "-c", "aio_flush", image)
        assert "failed" not in run(IO, "-f", "qcow2", "-c", "read -P 7 1M 3M", "b.qcow2")
        run(IMG, "check", "-q", "b.qcow2")
        run(IMG, "resize", "-q", "-f", "raw", f"{server.uri}/a.raw{trust}", "4M")
        assert os.path.getsize("a.raw") == 4 << 20
        assert "shrinking" in run(IMG, "resize", "-q", "--shrink", "-f", "raw", f"{server.uri}/a.raw{trust}", "1M", code=1)

        # New files, raw and with a format on them.
        run(IMG, "create", "-q", "-f", "raw", f"{server.uri}/new.raw{trust}", "3M")
        assert os.path.getsize("new.raw") == 3 << 20
        run(IMG, "convert", "-f", "qcow2", "-O", "qcow2", "b.qcow2", f"{server.uri}/new.qcow2{trust}")
        run(IMG, "compare", "-q", "b.qcow2", "new.qcow2")
        run(IMG, "check", "-q", "new.qcow2")
        assert "failed to create" in run(IMG, "create", "-q", "-f", "raw", f"{server.uri}/no/dir{trust}", "1M", code=1)
        for port, why in (("0", "Failed to connect"), ("0.42", "expects a number"), ("99999", "expects a number")):
            assert why in run(IMG, "info", "--image-opts", f"driver=ssh,host=localhost,port={port},path=/x", code=1)

        # Who the server is.
        with open("host.pub") as f:
            key = base64.b64decode(f.read().split()[1])
        import hashlib
        digest = hashlib.sha256(key).hexdigest()
        run(IMG, "info", "-f", "raw", f"{server.uri}/a.raw?host_key_check=sha256:{digest}")
        colons = ":".join(digest[n:n + 2] for n in range(0, 64, 2))
        run(IMG, "info", "--image-opts", f"{server.options},path={here}/a.raw,host-key-check.mode=hash,host-key-check.type=sha256,"
            f"host-key-check.hash={colons}")
        for check, why in (("md5:" + "00" * 16, "does not match"), (f"sha256:{digest}00", "does not match"),
                           ("sha256:", "does not match"), ("maybe", "unknown host_key_check"), ("yes", "host key")):
            text = run(IMG, "info", "-f", "raw", f"{server.uri}/a.raw?host_key_check={check}", code=1)
            assert why in text, (check, text)
        for uri, why in ((f"{server.uri}/missing{trust}", "failed to open remote file"), ("ssh://host", "of the form"),
                         ("ssh:///path", "of the form"), ("ssh://a:b@host/x", "password"), ("ssh://host/x?y=z", "host_key_check"),
                         (f"ssh://127.0.0.1:1{here}/a{trust}", "failed to establish")):
            text = run(IMG, "info", "-f", "raw", uri, code=1)
            assert why in text, (uri, text)
        for more, why in (("path=/x,host-key-check.mode=hash", "type and hash"), ("path=/x,host-key-check.mode=x", "'x'"),
                          ("host=a,path=/x", "same time"), ("user=x", "No path")):
            text = run(IMG, "info", "--image-opts", f"{server.options},{more}", code=1)
            assert why in text, (more, text)


tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=tap.in_scratch)
