#!/usr/bin/env python3
"""Files of HTTP and FTP servers, which this test is itself.

usage: curl_test.py OUR-QEMU-IMG OUR-QEMU-IO [TEST...]
"""
import base64
import hashlib
import http.server
import os
import random
import re
import socket
import socketserver
import ssl
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import certs  # noqa: E402
import tap  # noqa: E402

IMG, IO = (os.path.abspath(p) for p in sys.argv[1:3])
SIZE = (3 << 20) + 1536
DATA = random.Random(3).randbytes(SIZE)
KEYS = ["--object", "secret,id=p,data=open sesame", "--object", "secret,id=c,data=taste=good"]


def run(*argv, code=0):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    if done.returncode != code:
        sys.exit(f"{' '.join(argv)}: exit code {done.returncode}, expected {code}\n{done.stdout}")
    return done.stdout


class Web(http.server.BaseHTTPRequestHandler):
    """Files by path; the behaviour is in the path's first part."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def plain(self, code, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, body):
        kind = self.path.split("/")[1]
        if kind == "missing":
            return self.plain(404, Content_Length="0")
        if kind == "moved":
            return self.plain(302, Location="/file/a", Content_Length="0")
        if kind == "away":
            return self.plain(302, Location="file:///etc/passwd", Content_Length="0")
        if kind == "loop":
            return self.plain(302, Location="/loop/a", Content_Length="0")
        want = "Basic " + base64.b64encode(b"alice:open sesame").decode()
        if kind == "auth" and self.headers.get("Authorization") != want:
            return self.plain(401, WWW_Authenticate='Basic realm="x"', Content_Length="0")
        if kind == "cookie" and self.headers.get("Cookie") != "taste=good":
            return self.plain(403, Content_Length="0")
        if kind == "norange" or not body:
            headers = {} if kind == "norange" else {"Accept_Ranges": "bytes"}
            if kind != "nosize":
                headers["Content_Length"] = str(1 << 40 if kind == "huge" else SIZE)
            return self.plain(200, **headers)
        found = re.match(r"bytes=(\d+)-(\d+)$", self.headers.get("Range", ""))
        first, last = int(found[1]), int(found[2])
        part = DATA[first:last + 1]
        if kind == "ignore":
            part = DATA
        elif kind == "short":
            part = part[:-1]
        elif kind == "long":
            part += b"x" * 100000
        self.plain(200 if kind == "ignore" else 206, Content_Length=str(len(part)),
                   Content_Range=f"bytes {first}-{last}/{SIZE}")
        self.server.requests += 1
        if kind == "cut":
            self.wfile.write(part[:100])
            self.close_connection = True
        else:
            self.wfile.write(part)


class Ftp(socketserver.StreamRequestHandler):
    """As much of RFC 959 as a reader needs."""

    def say(self, text):
        self.wfile.write((text + "\r\n").encode())

    def handle(self):
        start, passive = 0, None
        self.say("220 hello")
        for line in self.rfile:
            word, _, rest = line.decode().strip().partition(" ")
            word = word.upper()
            if word in ("USER", "PASS", "CWD", "TYPE", "REST", "ABOR", "NOOP"):
                start = int(rest) if word == "REST" else start
                self.say({"USER": "331 password", "PASS": "230 in", "REST": "350 from there"}.get(word, "200 ok"))
            elif word == "PWD":
                self.say('257 "/"')
            elif word == "EPSV":
                passive = socket.create_server(("127.0.0.1", 0))
                self.say(f"229 ok (|||{passive.getsockname()[1]}|)")
            elif word == "SIZE":
                self.say(f"213 {SIZE}")
            elif word == "RETR":
                self.say("150 here")
                stream, _ = passive.accept()
                try:
                    stream.sendall(DATA[start:])
                except OSError:
                    pass
                stream.close()
                passive.close()
                start = 0
                self.say("226 done")
            elif word == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("502 what")


class Server:
    def __init__(self, handler, context=None):
        kind = http.server.ThreadingHTTPServer if handler is Web else socketserver.ThreadingTCPServer
        kind.daemon_threads = True
        self.server = kind(("127.0.0.1", 0), handler)
        self.server.requests = 0
        self.server.handle_error = lambda *_: None  # clients that leave
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def check_copy(*source):
    run(IMG, "convert", *source, "-O", "raw", "copy.raw")
    with open("copy.raw", "rb") as f:
        data = f.read()
    assert hashlib.sha256(data).digest() == hashlib.sha256(DATA).digest(), (source, len(data))


def test_http():
    with Server(Web) as server:
        where = f"http://127.0.0.1:{server.port}"
        check_copy("-f", "raw", f"{where}/file/a")
        check_copy("-f", "raw", f"{where}/moved/a")
        check_copy("--image-opts", f"driver=raw,file.driver=http,file.url={where}/file/a,file.readahead=64k,file.timeout=20")
        opts = f"driver=http,url={where}/auth/a,username=alice,password-secret=p"
        check_copy(*KEYS, "--image-opts", opts)
        check_copy(*KEYS, "--image-opts", f"driver=http,url={where}/cookie/a,cookie-secret=c")
        check_copy("--image-opts", f"driver=http,url={where}/cookie/a,cookie=taste=good")
        # What was fetched ahead is not fetched again.
        server.server.requests = 0
        reads = [x for n in range(64) for x in ("-c", f"read {n * 4096} 4096")]
        run(IO, "-r", "-f", "raw", *reads, f"{where}/file/a")
        assert server.server.requests == 1, server.server.requests
        reads = [x for n in range(16) for x in ("-c", f"aio_read {n * 190000} 4096")]
        assert "failed" not in run(IO, "-r", "-f", "raw", *reads, "-c", "aio_flush", f"{where}/file/a")


def test_http_refusals():
    with Server(Web) as server:
        where = f"http://127.0.0.1:{server.port}"
        for path, why in (("missing/a", "error"), ("norange/a", "does not support 'range'"), ("nosize/a", "file size"),
                          ("away/a", "Unsupported protocol"), ("loop/a", "redirects"), ("auth/a", "401"), ("cookie/a", "403")):
            text = run(IMG, "info", "-f", "raw", f"{where}/{path}", code=1)
            assert "CURL: Error opening file" in text and (why in text or why.isdigit()), (path, text)
        for path in ("ignore", "short", "long", "cut"):
            text = run(IO, "-r", "-f", "raw", "-c", "read 1000 4k", f"{where}/{path}/a", code=1)
            assert "read failed" in text, (path, text)
        run(IO, "-r", "-f", "raw", "-c", "read 512G 4k", f"{where}/huge/a", code=1)
        assert "does not support writes" in run(IO, "-f", "raw", "-c", "read 0 1", f"{where}/file/a", code=1)
        for more, why in (("readahead=1000", "multiple of 512"), ("timeout=99999999", "too large"), ("sslverify=maybe", "sslverify"),
                          ("password-secret=x", "No secret"), ("cookie=a,cookie-secret=c", "both cookie"), ("colour=red", "colour")):
            text = run(IMG, "info", *KEYS, "--image-opts", f"driver=http,url={where}/file/a,{more}", code=1)
            assert why in text, (more, text)
        assert "requires an 'url'" in run(IMG, "info", "--image-opts", "driver=http,timeout=1", code=1)
        assert "cannot handle the URL" in run(IMG, "info", "--image-opts", f"driver=https,url={where}/file/a", code=1)
        with socket.create_server(("127.0.0.1", 0)) as silent:  # never answers
            text = run(IMG, "info", "--image-opts", f"driver=http,url=http://127.0.0.1:{silent.getsockname()[1]}/,timeout=1", code=1)
            assert "Timeout" in text, text


def test_https():
    if not certs.available():
        raise tap.Skip("certtool is not installed")
    certs.Authority("ca").issue("server", "server", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("server/server-cert.pem", "server/server-key.pem")
    with Server(Web, context) as server:
        where = f"https://127.0.0.1:{server.port}/file/a"
        assert "CURL: Error opening file" in run(IMG, "info", "-f", "raw", where, code=1)
        check_copy("--image-opts", f"driver=https,url={where},sslverify=off")


def test_ftp():
    with Server(Ftp) as server:
        where = f"ftp://127.0.0.1:{server.port}/a"
        check_copy("-f", "raw", where)
        assert "failed" not in run(IO, "-r", "-f", "raw", "-c", "read 1M 4k", "-c", "read 0 4k", "-c", f"read {SIZE - 512} 512", where)


tap.run(tap.tests_in(globals()), names=sys.argv[3:], call=tap.in_scratch)
