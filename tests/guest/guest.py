"""A guest under test: starts the emulator, reads its serial line and screen, types, and talks QMP.

    with Guest(emulator, ['-m', '128', '-cdrom', iso]) as vm:
        vm.wait_screen(r'GNU GRUB', 60)
        vm.keys('down', 'ret')

The tests print TAP. The emulator is the first argument of every test program; its speed is not judged here, so time
limits are generous."""
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402
from tap import Skip  # noqa: E402

SHIFTED = {':': 'semicolon', '_': 'minus', '"': 'apostrophe', '>': 'dot', '<': 'comma', '|': 'backslash', '(': '9', ')': '0',
           '+': 'equal', '*': '8', '&': '7', '!': '1', '$': '4'}
PLAIN = {' ': 'spc', '\n': 'ret', '-': 'minus', '=': 'equal', '/': 'slash', '.': 'dot', ',': 'comma', ';': 'semicolon',
         "'": 'apostrophe', '\\': 'backslash'}


class GuestError(Exception):
    pass


class Guest:
    def __init__(self, emulator, arguments, serial=True, stderr=None):
        self.dir = tempfile.mkdtemp(prefix='guest-')
        self.qmp_path = os.path.join(self.dir, 'qmp')
        self.serial_path = os.path.join(self.dir, 'serial')
        self.serial_text = b''
        self.seen = 0
        self.events = []
        command = [emulator, '-display', 'none', '-qmp', f'unix:{self.qmp_path},server=on,wait=off']
        if serial:
            command += ['-chardev', f'socket,id=testserial,path={self.serial_path},server=on,wait=on', '-serial',
                        'chardev:testserial']
        self.errors = open(os.path.join(self.dir, 'stderr'), 'w+')
        self.process = subprocess.Popen(command + arguments, stdin=subprocess.DEVNULL, stderr=self.errors)
        try:
            self.serial = self._connect(self.serial_path) if serial else None
            self.qmp_socket = self._connect(self.qmp_path)
            self.qmp_file = self.qmp_socket.makefile('rwb')
            self.qmp_file.readline()
            self.qmp('qmp_capabilities')
        except Exception:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def stderr(self):
        self.errors.flush()
        self.errors.seek(0)
        return self.errors.read()

    def _connect(self, path):
        for _ in range(400):
            try:
                s = socket.socket(socket.AF_UNIX)
                s.connect(path)
                return s
            except OSError:
                if self.process.poll() is not None:
                    raise GuestError(f'the emulator ended with {self.process.returncode}: {self.stderr()}')
                time.sleep(0.05)
        raise GuestError(f'nobody listens on {path}')

    # --- QMP and the monitor ---

    def qmp(self, command, **arguments):
        self.qmp_file.write(json.dumps({'execute': command, 'arguments': arguments}).encode() + b'\n')
        self.qmp_file.flush()
        while True:
            line = self.qmp_file.readline()
            if not line:
                raise GuestError(f'QMP closed: {self.stderr()}')
            reply = json.loads(line)
            if 'event' in reply:
                self.events.append(reply)
            elif 'error' in reply:
                raise GuestError(f'{command}: {reply["error"]["desc"]}')
            else:
                return reply['return']

    def wait_event(self, name, seconds):
        limit = time.time() + seconds
        while time.time() < limit:
            for event in self.events:
                if event['event'] == name:
                    self.events.remove(event)
                    return event
            if self.process.poll() is None:
                self.qmp('query-status')
            self.pause(0.1)
        raise GuestError(f'no event {name} in {seconds} s')

    def monitor(self, line):
        return self.qmp('human-monitor-command', **{'command-line': line})

    # --- serial line ---

    def _read_serial(self, seconds):
        if select.select([self.serial], [], [], seconds)[0]:
            try:
                data = self.serial.recv(65536)
            except OSError:
                return False
            self.serial_text += data
            return bool(data)
        return True

    def pause(self, seconds):
        """Sleeps, but takes what comes on the serial line: a guest whose line is full stands still."""
        limit = time.time() + seconds
        while self.serial and time.time() < limit and self._read_serial(max(limit - time.time(), 0)):
            pass
        time.sleep(max(limit - time.time(), 0))

    def wait_serial(self, pattern, seconds):
        """Waits for the pattern behind what was matched before; returns the match."""
        limit = time.time() + seconds
        expression = re.compile(pattern.encode())
        while True:
            match = expression.search(self.serial_text, self.seen)
            if match:
                self.seen = match.end()
                return match
            if time.time() > limit or not self._read_serial(0.2):
                tail = self.serial_text[-1500:].decode(errors='replace')
                raise GuestError(f'"{pattern}" did not come on the serial line; exit={self.process.poll()}, the end of it:\n{tail}'
                                 f'\n{self.stderr()}')

    def send(self, text):
        self.serial.sendall(text.encode())

    def shell(self, command, seconds):
        """Runs the command in the shell at the serial line, which must not echo; returns what it wrote. It must succeed.
        The shell has read all of this before it begins: Linux forgets what was typed when it puts the line to sleep."""
        self.send(f'{{ {command}\n}}; echo "<$?>"\n')
        start = self.seen
        match = self.wait_serial(r'<(\d+)>\r\n', seconds)
        text = self.serial_text[start:match.start()].decode(errors='replace').replace('\r\n', '\n')
        if match.group(1) != b'0':
            raise GuestError(f'"{command}" failed with {match.group(1).decode()}:\n{text}')
        return text

    # --- screen and keyboard ---

    def screen_text(self):
        path = os.path.join(self.dir, 'vga')
        self.monitor(f'pmemsave 0xb8000 0x1000 "{path}"')
        with open(path, 'rb') as f:
            cells = f.read()[0:4000:2]
        rows = [cells[i:i + 80].decode('cp437').replace('\0', ' ').rstrip() for i in range(0, 2000, 80)]
        return '\n'.join(rows)

    def wait_screen(self, pattern, seconds):
        limit = time.time() + seconds
        text = ''
        while time.time() < limit:
            if self.process.poll() is not None:
                raise GuestError(f'the emulator ended with {self.process.returncode}: {self.stderr()}')
            text = self.screen_text()
            match = re.search(pattern, text, re.M)
            if match:
                return match
            self.pause(0.3)
        raise GuestError(f'"{pattern}" did not come on the screen, which shows:\n{text}')

    def wait_for(self, condition, seconds, what, keep=None):
        """Waits until condition() holds; if it never does, the file keep (a picture) stays beside the test's log."""
        limit = time.time() + seconds
        while time.time() < limit:
            if self.process.poll() is not None:
                raise GuestError(f'the emulator ended with {self.process.returncode}: {self.stderr()}')
            if condition():
                return
            time.sleep(0.5)
        if keep and os.path.exists(keep):
            kept = keep_artefact(keep)
            raise GuestError(f'{what} ({kept})')
        raise GuestError(what)

    def screenshot(self, path):
        self.qmp('screendump', filename=path, format='png')

    def keys(self, *names):
        for name in names:
            self.qmp('send-key', keys=[{'type': 'qcode', 'data': part} for part in name.split('-')])
            time.sleep(0.15)

    def type(self, text):
        for char in text:
            if char in SHIFTED:
                self.keys('shift-' + SHIFTED[char])
            elif char.isupper():
                self.keys('shift-' + char.lower())
            else:
                self.keys(PLAIN.get(char, char))

    # --- end ---

    def wait_exit(self, seconds):
        limit = time.time() + seconds
        while time.time() < limit:
            self.pause(0.05)
            if self.process.poll() is not None:
                self.events += [reply for reply in map(json.loads, self.qmp_file) if 'event' in reply]
                return self.process.returncode
        tail = self.serial_text[-1500:].decode(errors='replace')
        raise GuestError(f'the emulator still runs after {seconds} s, the end of the serial line:\n{tail}')

    def cpu_seconds(self):
        """What the emulator has used so far; 0 when it has ended."""
        try:
            with open(f'/proc/{self.process.pid}/stat') as f:
                fields = f.read().rsplit(')', 1)[1].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        said = self.stderr()
        self.errors.close()
        shutil.rmtree(self.dir, ignore_errors=True)
        if re.search(r'(Address|Leak|Thread)Sanitizer|runtime error:', said):
            raise GuestError(f'a sanitizer of the emulator found:\n{said}')


def keep_artefact(path):
    """Copies a file beside the test's log, or into $SCREENSHOTS; returns where it is."""
    directory = os.environ.get('SCREENSHOTS') or os.getcwd()
    return shutil.copy(path, directory)


# --- files that Debian packages bring ---

def need(path, package):
    """The path, or a skip that names the package."""
    if not os.path.exists(path):
        raise Skip(f'{path} is missing (package {package})')
    return path


def cloud_kernel():
    names = sorted(n for n in os.listdir('/boot') if n.startswith('vmlinuz-') and 'cloud' in n) if os.path.isdir('/boot') else []
    if not names:
        raise Skip('no kernel /boot/vmlinuz-*cloud* (package linux-image-cloud-amd64)')
    return os.path.join('/boot', names[-1])


def make_initrd(directory, init, busybox=None):
    """A compressed initramfs with BusyBox (another one than this machine's, if given) and the given /init script; returns its
    path."""
    busybox = busybox or need('/bin/busybox', 'busybox-static')
    root = os.path.join(directory, 'initrd-root')
    for name in ('bin', 'proc', 'sys', 'dev', 'tmp', 'mnt'):
        os.makedirs(os.path.join(root, name), exist_ok=True)
    shutil.copy(busybox, os.path.join(root, 'bin/busybox'))
    with open(os.path.join(root, 'init'), 'w') as f:
        f.write('#!/bin/busybox sh\n/bin/busybox --install -s /bin\nmount -t proc proc /proc\nmount -t sysfs sysfs /sys\n'
                'mount -t devtmpfs devtmpfs /dev\n' + init)
    os.chmod(os.path.join(root, 'init'), 0o755)
    path = os.path.join(directory, 'initrd.gz')
    subprocess.run(f'cd {root} && find . | cpio -o -H newc --quiet | gzip -1 > {path}', shell=True, check=True)
    return path


def add_modules(directory, names, kernel=None):
    """Copies the modules (and what they need) of the kernel into the initrd root under /modules, and returns the insmod lines."""
    release = os.path.basename(kernel or cloud_kernel())[len('vmlinuz-'):]
    lines = []
    target = os.path.join(directory, 'initrd-root', 'modules')
    os.makedirs(target, exist_ok=True)
    for name in names:
        out = subprocess.run(['modprobe', '-S', release, '--show-depends', name], capture_output=True, text=True).stdout
        for line in out.splitlines():
            if line.startswith('insmod '):
                path = line.split()[1]
                base = os.path.basename(path)
                shutil.copy(path, os.path.join(target, base))
                entry = f'insmod /modules/{base} 2>/dev/null\n'
                if entry not in lines:
                    lines.append(entry)
    return ''.join(lines)


# --- TAP ---

def run(tests):
    """Runs functions test(emulator) in order, printing TAP. Arguments: EMULATOR [NAME...]."""
    emulator = os.path.abspath(sys.argv[1])
    tap.run(tests, names=sys.argv[2:], call=lambda test: test(emulator))
