#!/usr/bin/env python3
"""TLS of the emulator: character devices with Python's TLS at the other end, migration, the NBD server.

usage: tls_test.py QEMU-SYSTEM QEMU-IMG [TEST...]
"""
import json
import os
import socket
import ssl
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import certs  # noqa: E402
import qmp  # noqa: E402
import tap  # noqa: E402

SYSTEM, IMG = (os.path.abspath(p) for p in sys.argv[1:3])
SERVER = ["-object", "tls-creds-x509,id=s,endpoint=server,dir=server"]
CLIENT = ["-object", "tls-creds-x509,id=c,endpoint=client,dir=client"]


class Machine(qmp.Program):
    def __init__(self, *options, board="none"):
        super().__init__([SYSTEM, "-M", board, "-display", "none", "-nodefaults", "-accel", "qtest", "-qmp", "stdio", *options],
                         stderr=subprocess.PIPE)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make_world():
    if not certs.available():
        raise tap.Skip("certtool is not installed")
    ca = certs.Authority("ca")
    ca.issue("server", "server", "localhost")
    ca.issue("client", "client", "client.test")
    return ca


def contexts():
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.load_verify_locations("client/ca-cert.pem")
    client.load_cert_chain("client/client-cert.pem", "client/client-key.pem")
    server.load_verify_locations("server/ca-cert.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain("server/server-cert.pem", "server/server-key.pem")
    return client, server


def talk(stream):
    """A QMP conversation, some of it large."""
    stream.settimeout(60)
    file = stream.makefile("rw")
    assert "QMP" in file.readline()
    for command in ("qmp_capabilities", "query-qmp-schema", "query-status"):
        file.write(json.dumps({"execute": command}) + "\n" + " " * 30000 + "\n")
        file.flush()
        assert "return" in json.loads(file.readline()), command


def test_chardev_server():
    make_world()
    client, _ = contexts()
    port = free_port()
    chardev = ["-chardev", f"socket,id=q,host=127.0.0.1,port={port},server=on,wait=off,tls-creds=s,tls-authz=a", "-mon",
               "chardev=q,mode=control"]
    with Machine(*SERVER, "-object", "authz-simple,id=a,identity=O=Test,,CN=client.test", *chardev):
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port)) as plain:
                with client.wrap_socket(plain, server_hostname="localhost") as stream:
                    talk(stream)
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n" * 50)  # no TLS at all
            plain.settimeout(60)
            try:
                while plain.recv(4096):
                    pass
            except ConnectionError:
                pass
        with socket.create_connection(("127.0.0.1", port)) as plain:
            with client.wrap_socket(plain, server_hostname="localhost") as stream:
                talk(stream)
    with Machine(*SERVER, "-object", "authz-simple,id=a,identity=else", *chardev):
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.settimeout(60)
            try:
                with client.wrap_socket(plain, server_hostname="localhost") as stream:
                    assert stream.recv(100) == b""
            except (ssl.SSLError, ConnectionError):
                pass


def test_chardev_client():
    make_world()
    _, server = contexts()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with Machine(*CLIENT, "-chardev", f"socket,id=q,host=127.0.0.1,port={port},tls-creds=c,reconnect=1", "-mon",
                     "chardev=q,mode=control"):
            for _ in range(2):
                plain, _ = listener.accept()
                with plain, server.wrap_socket(plain, server_side=True) as stream:
                    talk(stream)


def test_chardev_options():
    make_world()
    for options, why in (([*CLIENT, "-chardev", "socket,id=q,path=x,server=on,wait=off,tls-creds=c"], "endpoint=server is needed"),
                         (["-chardev", "socket,id=q,path=x,server=on,wait=off,tls-creds=c"], "No TLS credentials"),
                         (["-chardev", "socket,id=q,path=x,server=on,wait=off,tls-authz=c"], "requires 'tls-creds'")):
        done = subprocess.run([SYSTEM, "-M", "none", "-display", "none", *options], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and why in done.stderr, done


def wait_migration(machine, wanted):
    for _ in range(1000):
        state = machine.ok("query-migrate").get("status")
        if state == wanted:
            return
        assert state in (None, "none", "setup", "active", "device", "completed", "failed"), state
        time.sleep(0.02)
    sys.exit(f"migration: {state} instead of {wanted}")


def test_migration():
    make_world()
    port = free_port()

    def pair(params_in, params_out, uri):
        target = Machine(*SERVER, "-object", "authz-simple,id=a,identity=O=Test,,CN=client.test",
                         "-object", "authz-simple,id=b,identity=else", "-incoming", "defer", board="pc")
        source = Machine(*CLIENT, board="pc")
        target.ok("migrate-set-parameters", **params_in)
        target.ok("migrate-incoming", uri=uri)
        source.ok("migrate-set-parameters", **params_out)
        source.ok("migrate", uri=uri)
        return source, target

    tcp = f"tcp:127.0.0.1:{port}"
    path = "unix:" + os.path.abspath("sock")
    good = (({"tls_creds": "s"}, {"tls_creds": "c"}, tcp),
            ({"tls_creds": "s", "tls_authz": "a"}, {"tls_creds": "c", "tls_hostname": "localhost"}, path),
            ({"tls_creds": ""}, {"tls_creds": "", "tls_hostname": ""}, path))
    bad = (({"tls_creds": "s", "tls_authz": "b"}, {"tls_creds": "c"}, tcp),
           ({"tls_creds": "s"}, {"tls_creds": "c", "tls_hostname": "wrong.test"}, tcp), ({}, {"tls_creds": "c"}, tcp),
           ({"tls_creds": "s"}, {}, tcp))
    for cases, wanted in ((good, "completed"), (bad, "failed")):
        for params_in, params_out, uri in cases:
            if os.path.exists("sock"):
                os.unlink("sock")
            source, target = pair(params_in, params_out, uri)
            with source, target:
                wait_migration(source, wanted)
    with Machine(*CLIENT) as m:
        m.ok("migrate-set-parameters", tls_creds="nope")
        assert m.ok("query-migrate-parameters")["tls-creds"] == "nope"
        m.fails("No TLS credentials with id 'nope'", "migrate", uri=tcp)
        m.ok("migrate-set-parameters", tls_creds=None)
        assert m.ok("query-migrate-parameters")["tls-creds"] == ""
        m.fails("expects a string", "migrate-set-parameters", tls_creds=5)


def test_nbd_server():
    make_world()
    with open("a.raw", "wb") as f:
        f.truncate(1 << 20)
    port = free_port()
    with Machine(*SERVER, "-blockdev", "driver=file,node-name=d,filename=a.raw") as m:
        addr = {"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}}
        m.fails("No TLS credentials", "nbd-server-start", addr=addr, tls_creds="x")
        m.fails("tls-authz needs tls-creds", "nbd-server-start", addr=addr, tls_authz="x")
        m.ok("nbd-server-start", addr=addr, tls_creds="s")
        m.ok("block-export-add", type="nbd", id="e", node_name="d", name="e")
        subprocess.run([IMG, "info", "--object", "tls-creds-x509,id=c,dir=client", "--image-opts",
                        f"driver=nbd,host=127.0.0.1,port={port},export=e,tls-creds=c"], check=True, stdout=subprocess.DEVNULL)


tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=tap.in_scratch)
