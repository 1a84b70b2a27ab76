#!/usr/bin/env python3
"""NBD over TLS against other implementations, credentials, and who may come in.

usage: tls_test.py OUR-QEMU-NBD OUR-QEMU-IO OUR-QEMU-IMG [TEST...]
Peers that are not installed are left out; without certtool everything is skipped.
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import certs  # noqa: E402
import tap  # noqa: E402

NBD, IO, IMG = (os.path.abspath(p) for p in sys.argv[1:4])
PATH = "/usr/bin:/usr/local/bin:/usr/sbin:/sbin"
PEER = {name: shutil.which(name, path=PATH) for name in ("qemu-nbd", "qemu-img", "nbdinfo", "nbdcopy", "nbdkit")}
MIB = 1 << 20
CLIENT = ["--object", "tls-creds-x509,id=t,endpoint=client,dir=client"]
SERVER = ["--object", "tls-creds-x509,id=t,endpoint=server,dir=server"]


def run(*argv, code=0):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    if done.returncode != code:
        sys.exit(f"{' '.join(argv)}: exit code {done.returncode}, expected {code}\n{done.stdout}")
    return done.stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server in the background; argv gets the port."""

    def __init__(self, argv, check=True):
        self.port = free_port()
        self.process = subprocess.Popen([a.replace("PORT", str(self.port)) for a in argv], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True)
        for _ in range(1000):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            if self.process.poll() is not None:
                sys.exit(f"{argv}: {self.process.stderr.read()}")
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)
        self.process.stderr.close()


def qemu_nbd(tool, *options, image="disk.raw"):
    return Server([tool, "-t", "-e", "0", "-f", "raw", "-b", "127.0.0.1", "-p", "PORT", *options, image])


def nbdkit(*options):
    return Server([PEER["nbdkit"], "-f", "-i", "127.0.0.1", "-p", "PORT", *options, "file", "disk.raw"])


def node(server, more="", host="127.0.0.1"):
    return ["--image-opts", f"driver=nbd,host={host},port={server.port},tls-creds=t{more}"]


def make_world():
    if not certs.available():
        raise tap.Skip("certtool is not installed")
    ca = certs.Authority("ca")
    ca.issue("server", "server", "localhost")
    ca.issue("client", "client", "client.test")
    with open("disk.raw", "wb") as f:
        f.write(os.urandom(MIB) + bytes(3 * MIB))
    return ca


def same(a, b):
    with open(a, "rb") as f, open(b, "rb") as g:
        assert f.read() == g.read(), (a, b)


def copy_through(server, creds, more="", tool=IMG):
    run(tool, "convert", *creds, *node(server, more), "-O", "raw", "copy.raw")
    same("disk.raw", "copy.raw")


def test_x509_both_ways():
    make_world()
    servers = [NBD] + [PEER["qemu-nbd"]] * bool(PEER["qemu-nbd"])
    clients = [IMG] + [PEER["qemu-img"]] * bool(PEER["qemu-img"])
    for tool in servers:
        with qemu_nbd(tool, *SERVER, "--tls-creds", "t") as server:
            for client in clients:
                copy_through(server, CLIENT, tool=client)
            assert "exports available: 1" in run(NBD, "-L", *CLIENT, "--tls-creds", "t", "-b", "127.0.0.1", "-p", str(server.port))
            assert "exports available: 1" in run(NBD, "-L", *CLIENT, "--tls-creds", "t", "--tls-hostname", "localhost", "-b",
                                                 "127.0.0.1", "-p", str(server.port))
            out = run(IO, *CLIENT, "-c", "write -P 9 2M 64k", "-c", "read -P 9 2M 64k", "-c", "flush", *node(server))
            assert "failed" not in out
            if tool == NBD and PEER["nbdinfo"]:
                uri = f"nbds://127.0.0.1:{server.port}/?tls-certificates={os.path.abspath('client')}"
                assert json.loads(run(PEER["nbdinfo"], "--no-content", "--json", uri))["TLS"] is True
            if tool == NBD and PEER["nbdcopy"]:
                run(PEER["nbdcopy"], uri, "copy.raw")
                same("disk.raw", "copy.raw")
                run(PEER["nbdcopy"], "copy.raw", uri)
    if PEER["nbdkit"]:
        with nbdkit("--tls=require", "--tls-certificates=server", "--tls-verify-peer") as server:
            copy_through(server, CLIENT)


def test_psk():
    make_world()
    os.mkdir("keys")
    with open("keys/keys.psk", "w") as f:
        f.write("alice:0123456789abcdef0123456789abcdef\nqemu:fedcba9876543210fedcba9876543210\n")
    server_creds = ["--object", "tls-creds-psk,id=t,endpoint=server,dir=" + os.path.abspath("keys")]
    client = ["--object", "tls-creds-psk,id=t,endpoint=client,dir=keys,username=alice"]
    plain = ["--object", "tls-creds-psk,id=t,dir=keys"]
    for tool in [NBD] + [PEER["qemu-nbd"]] * bool(PEER["qemu-nbd"]):
        with qemu_nbd(tool, *server_creds, "--tls-creds", "t") as server:
            copy_through(server, client)
            copy_through(server, plain)
            if tool == NBD and PEER["nbdinfo"]:
                uri = f"nbds://alice@127.0.0.1:{server.port}/?tls-psk-file={os.path.abspath('keys/keys.psk')}"
                run(PEER["nbdinfo"], "--no-content", uri)
            os.makedirs("wrong", exist_ok=True)
            with open("wrong/keys.psk", "w") as f:
                f.write("alice:00000000000000000000000000000000\n")
            bad = ["--object", "tls-creds-psk,id=t,dir=wrong,username=alice"]
            assert "handshake failed" in run(IMG, "info", *bad, *node(server), code=1)
    if PEER["nbdkit"]:
        with nbdkit("--tls=require", "--tls-psk=keys/keys.psk") as server:
            copy_through(server, client)
    assert "has no line for the user name 'bob'" in run(IMG, "info", "--object", "tls-creds-psk,id=t,dir=keys,username=bob", "x", code=1)
    assert "keys.psk" in run(IMG, "info", "--object", "tls-creds-psk,id=t,dir=ca", "x", code=1)


def test_anonymous():
    make_world()
    server_creds = ["--object", "tls-creds-anon,id=t,endpoint=server"]
    client = ["--object", "tls-creds-anon,id=t,endpoint=client"]
    for tool in [NBD] + [PEER["qemu-nbd"]] * bool(PEER["qemu-nbd"]):
        with qemu_nbd(tool, *server_creds, "--tls-creds", "t") as server:
            for image in [IMG] + [PEER["qemu-img"]] * bool(PEER["qemu-img"]):
                copy_through(server, client, tool=image)
    subprocess.run(["certtool", "--get-dh-params", "--sec-param", "medium", "--outfile", "dh-params.pem"], check=True,
                   capture_output=True)
    os.mkdir("dh")
    os.rename("dh-params.pem", "dh/dh-params.pem")
    with qemu_nbd(NBD, "--object", "tls-creds-anon,id=t,endpoint=server,dir=dh", "--tls-creds", "t") as server:
        copy_through(server, client)


def test_who_is_let_in():
    """A server accepts no unknown client, a client no unknown server."""
    ca = make_world()
    other = certs.Authority("other", "Other CA")
    other.issue("stranger", "client", "client.test")
    os.makedirs("nobody", exist_ok=True)
    shutil.copy("ca/ca-cert.pem", "nobody/ca-cert.pem")
    with qemu_nbd(NBD, *SERVER, "--tls-creds", "t") as server:
        port = str(server.port)

        def refused(why, *argv):
            text = run(IMG, "info", *argv, code=1)
            assert why in text, text

        def client(directory, more=""):
            return ["--object", f"tls-creds-x509,id=t,endpoint=client,dir={directory}{more}"]

        refused("TLS negotiation required", f"nbd://127.0.0.1:{port}")
        refused("got a known issuer", *client("stranger"), *node(server))
        refused("does not match the hostname wrong.test", *CLIENT, *node(server, ",tls-hostname=wrong.test"))
        refused("non-properly terminated", *client("nobody"), *node(server))
        refused("endpoint=client is needed", *SERVER, *node(server))
        refused("No TLS credentials with id 't'", *node(server))
        refused("of another kind than tls-creds", "--object", "secret,id=t,data=x", *node(server))
        refused("tls-hostname needs tls-creds", "--image-opts", f"driver=nbd,host=127.0.0.1,port={port},tls-hostname=x")
        copy_through(server, CLIENT, ",tls-hostname=localhost")
        # The client may choose not to look.
        os.makedirs("blind", exist_ok=True)
        for name in ("client-cert.pem", "client-key.pem"):
            shutil.copy(f"client/{name}", f"blind/{name}")
        shutil.copy("other/ca-cert.pem", "blind/ca-cert.pem")
        refused("got a known issuer", *client("blind", ",sanity-check=off"), *node(server))
        copy_through(server, client("blind", ",sanity-check=off,verify-peer=off"))
    with qemu_nbd(NBD, "--object", "tls-creds-x509,id=t,endpoint=server,dir=server,verify-peer=off", "--tls-creds", "t") as server:
        copy_through(server, ["--object", "tls-creds-x509,id=t,dir=nobody"])
    with qemu_nbd(NBD) as server:
        assert "TLS not configured" in run(IMG, "info", *CLIENT, *node(server), code=1)
    ca.issue("secret", "client", "client.test", password="open sesame")
    secret = ["--object", "secret,id=s,data=open sesame", "--object", "tls-creds-x509,id=t,dir=secret,passwordid=s"]
    with qemu_nbd(NBD, *SERVER, "--tls-creds", "t") as server:
        copy_through(server, secret)


def test_authorization():
    make_world()
    name = "O=Test,CN=client.test"
    with open("rules.json", "w") as f:
        json.dump({"rules": [{"match": name, "policy": "allow"}], "policy": "deny"}, f)
    comma = name.replace(",", ",,")
    good = [f"authz-simple,id=a,identity={comma}", f"authz-list,id=a,policy=deny,rules.0.match={comma},rules.0.policy=allow",
            '{"qom-type":"authz-list","id":"a","policy":"deny","rules":[{"match":"*nobody*","policy":"deny","format":"glob"},'
            '{"match":"*CN=client.*","policy":"allow","format":"glob"}]}', "authz-list,id=a,policy=allow",
            "authz-list-file,id=a,filename=rules.json"]
    bad = ["authz-simple,id=a,identity=CN=else", "authz-list,id=a", "authz-list,id=a,rules.0.match=*,rules.0.policy=allow"]
    for objects, welcome in ((good, True), (bad, False)):
        for text in objects:
            with qemu_nbd(NBD, *SERVER, "--object", text, "--tls-creds", "t", "--tls-authz", "a") as server:
                if welcome:
                    copy_through(server, CLIENT)
                else:
                    assert "non-properly terminated" in run(IMG, "info", *CLIENT, *node(server), code=1)
    # The file is followed.
    with qemu_nbd(NBD, *SERVER, "--object", good[-1], "--tls-creds", "t", "--tls-authz", "a") as server:
        copy_through(server, CLIENT)
        with open("new.json", "w") as f:
            json.dump({"rules": [], "policy": "deny"}, f)
        os.rename("new.json", "rules.json")
        run(IMG, "info", *CLIENT, *node(server), code=1)
        with open("new.json", "w") as f:
            f.write("nonsense")
        os.rename("new.json", "rules.json")
        run(IMG, "info", *CLIENT, *node(server), code=1)
    for text, why in (("authz-simple,id=a", "identity"), ("authz-list,id=a,policy=maybe", "maybe"),
                      ("authz-list,id=a,rules.0.match=x", "needs 'match' and 'policy'"),
                      ("authz-list,id=a,rules.0.match=x,rules.0.policy=x", "does not accept value 'x'"),
                      ("authz-list,id=a,rulez.0.match=x", "not found"), ("authz-list-file,id=a", "filename"),
                      ("authz-list-file,id=a,filename=rules.json", "nonsense")):
        out = run(IMG, "info", "--object", text, "x", code=1)
        assert why in out or why == "nonsense", (text, out)


def test_sanity():
    """Certificates that will not do are refused at once."""
    ca = make_world()
    cases = {
        "expired": ({"activation_date": '"2020-01-01 00:00:00"', "expiration_date": '"2021-01-01 00:00:00"',
                     "expiration_days": None}, "no longer valid"),
        "future": ({"activation_date": '"2080-01-01 00:00:00"'}, "not valid yet"),
        "authority": ({"ca": True, "cert_signing_key": True}, "belongs to a certificate authority"),
    }
    for name, (extra, why) in cases.items():
        ca.issue(name, "server", "localhost", **extra)
        text = run(IMG, "info", "--object", f"tls-creds-x509,id=t,endpoint=server,dir={name}", "x", code=1)
        assert why in text, text
    other = certs.Authority("other", "Other CA")
    other.issue("foreign", "server", "localhost")
    shutil.copy("ca/ca-cert.pem", "foreign/ca-cert.pem")
    assert "is not accepted by the authorities" in run(IMG, "info", "--object", "tls-creds-x509,id=t,endpoint=server,dir=foreign", "x", code=1)
    shutil.copy("server/server-cert.pem", "foreign/ca-cert.pem")
    assert "may not sign others (CA:FALSE)" in run(IMG, "info", "--object", "tls-creds-x509,id=t,endpoint=server,dir=foreign", "x", code=1)
    with open("foreign/ca-cert.pem", "w") as f:
        f.write("nonsense")
    run(IMG, "info", "--object", "tls-creds-x509,id=t,endpoint=server,dir=foreign", "x", code=1)
    for text, why in (("tls-creds-x509,id=t", "'dir' says where"), ("tls-creds-x509,id=t,dir=/nonexistent", "ca-cert.pem"),
                      ("tls-creds-x509,id=t,dir=client,endpoint=server", "server-cert.pem"),
                      ("tls-creds-x509,id=t,dir=client,endpoint=both", "both"),
                      ("tls-creds-psk,id=t,endpoint=server,dir=client,username=x", "keys.psk")):
        out = run(IMG, "info", "--object", text, "x", code=1)
        assert why in out, (text, out)


def test_hostile_handshakes():
    """Garbage instead of a handshake, cut connections: the server goes on."""
    make_world()
    with qemu_nbd(NBD, *SERVER, "--tls-creds", "t") as server:
        option = b"IHAVEOPT" + (5).to_bytes(4, "big")
        attempts = [option + (0).to_bytes(4, "big") + os.urandom(500), option + (4).to_bytes(4, "big") + b"abcd",
                    option + (0).to_bytes(4, "big"), option * 3,
                    option + (0).to_bytes(4, "big") + bytes.fromhex("16030100ff010000fb0303") + bytes(40)]
        for data in attempts * 3:
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as s:
                s.recv(18)
                s.sendall((3).to_bytes(4, "big") + data)
                time.sleep(0.02)
        # Data in front of the handshake, sent together with the request for it, must not count as encrypted.
        copy_through(server, CLIENT)


tap.run(tap.tests_in(globals()), names=sys.argv[4:], call=tap.in_scratch)
