"""What tests of whole guests share: files over the user network in both directions, events, images that must be clean."""
import functools
import hashlib
import http.server
import os
import socket
import subprocess
import threading
import urllib.request

from guest import GuestError


def check_image(qemu_img, path):
    """Our qemu-img and the distribution's find nothing wrong."""
    for program in (qemu_img, '/usr/bin/qemu-img'):
        if os.path.exists(program):
            result = subprocess.run([program, 'check', path], capture_output=True, text=True)
            if result.returncode:
                raise GuestError(f'{program} check {path}:\n{result.stdout}{result.stderr}')


class FileServer:
    """Serves a directory on 127.0.0.1 while the block runs."""

    def __init__(self, directory):
        handler = functools.partial(QuietHandler, directory=directory)
        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        self.port = self.server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def network_arguments(card):
    """Arguments for a card on the user network, and the host's port that leads to the guest's port 80."""
    port = free_port()
    return port, ['-netdev', f'user,id=n,hostfwd=tcp:127.0.0.1:{port}-:80', '-device', f'{card},netdev=n']


def transfer(vm, port, directory):
    """A file from the host to the guest and another one back."""
    data = os.urandom(8 << 20)
    with open(os.path.join(directory, 'file'), 'wb') as f:
        f.write(data)
    with FileServer(directory) as server:
        got = vm.shell(f'busybox wget -q -O /tmp/down http://10.0.2.2:{server.port}/file && sha256sum /tmp/down', 600)
    assert sha256(data) in got, f'the guest got {got}'
    put = vm.shell('mkdir -p /tmp/www; pidof httpd >/dev/null || busybox httpd -p 80 -h /tmp/www; head -c 8M /dev/urandom >/tmp/www/up;'
                   'sha256sum /tmp/www/up', 300)
    with urllib.request.urlopen(f'http://127.0.0.1:{port}/up', timeout=600) as reply:
        back = reply.read()
    assert sha256(back) in put, f'{len(back)} bytes came, sha256 {sha256(back)}, of {put}'


def expect_event(vm, name, seconds, **data):
    event = vm.wait_event(name, seconds)
    assert event.get('data', {}) == data, event
