"""libvirt daemons of this test's own, the system's and an unprivileged user's, with directories that go with them, and the real
virsh to talk to them. Debian's packages: libvirt-daemon-driver-qemu, libvirt-clients, libvirt-daemon-system."""
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'guest'))
from guest import GuestError, Skip, need  # noqa: E402

NOBODY = 65534
# The emulator's user has no access to /dev/kvm: where it has, libvirt probes an emulator without KVM again at each step.
QEMU_CONF = 'stdio_handler = "file"\nuser = "nobody"\ngroup = "nogroup"\nnamespaces = []\n'
# The system's daemon in a mount and host name space of its own, with its directories over those of the machine.
SYSTEM = '''
set -e
hostname "$1.test" # with a dot: libvirt asks no name server then
for name in run/libvirt var/lib/libvirt var/cache/libvirt var/log/libvirt etc/libvirt; do
    mkdir -p "$0/$name" "/$name"
    mount --bind "$0/$name" "/$name"
done
printf '%s' "$2" >/etc/libvirt/qemu.conf
printf 'host_uuid = "%s"\\nauth_unix_rw = "none"\\n' "$3" >/etc/libvirt/libvirtd.conf
PATH=$0/bin:/usr/sbin:/sbin exec libvirtd -p /run/libvirt/libvirtd.pid
'''


class Daemon:
    """mode: 'system' or 'session'. Both need root: the first for what it is, the second to become another user."""

    def __init__(self, emulator, mode, directory, name='host-a', number=1):
        if os.geteuid() != 0:
            raise Skip('needs root')
        for program in ('libvirtd', 'virsh', 'unshare', 'setpriv'):
            if not shutil.which(program):
                raise Skip(f'{program} is missing (packages libvirt-daemon-system, libvirt-clients)')
        need('/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so', 'libvirt-daemon-driver-qemu')
        self.mode = mode
        self.directory = os.path.join(directory, name)
        os.makedirs(self.directory)
        # libvirt probes every emulator in its path at the start: no other than ours.
        os.mkdir(os.path.join(self.directory, 'bin'))
        for name in ('sh', 'kmod', 'modprobe'):
            os.symlink(shutil.which(name) or name, os.path.join(self.directory, 'bin', name))
        os.symlink(os.path.join(os.path.dirname(emulator), 'qemu-img'), os.path.join(self.directory, 'bin/qemu-img'))
        uuid = f'11111111-2222-4333-8444-{number:012d}'
        if mode == 'system':
            self.socket = os.path.join(self.directory, 'run/libvirt/libvirt-sock')
            self.log_directory = os.path.join(self.directory, 'var/log/libvirt/qemu')
            command = ['unshare', '--mount', '--uts', '--propagation', 'private', 'sh', '-c', SYSTEM, self.directory, name,
                       QEMU_CONF, uuid]
            environment = None
        else:
            self.socket = os.path.join(self.directory, 'run/libvirt/libvirt-sock')
            self.log_directory = os.path.join(self.directory, 'cache/libvirt/qemu/log')
            command, environment = self._session(name, uuid)
        self.uri = f'qemu+unix:///{mode}?socket={self.socket}'
        self.output = open(os.path.join(self.directory, 'daemon.log'), 'w')
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output, env=environment,
                                        start_new_session=True)
        self._wait()

    def _session(self, name, uuid):
        """One of the user nobody, with a home of its own."""
        for part in ('run', 'cache', 'config/libvirt', 'data'):
            os.makedirs(os.path.join(self.directory, part))
        config = os.path.join(self.directory, 'config/libvirt')
        with open(os.path.join(config, 'qemu.conf'), 'w') as f:
            f.write('stdio_handler = "file"\nsecurity_driver = "none"\n')
        with open(os.path.join(config, 'libvirtd.conf'), 'w') as f:
            f.write(f'host_uuid = "{uuid}"\n')
        for root, _, _ in os.walk(self.directory):
            os.chown(root, NOBODY, NOBODY)
        os.chmod(os.path.join(self.directory, 'run'), 0o700)
        environment = dict(PATH=f'{self.directory}/bin:/usr/sbin:/sbin', HOME=self.directory, USER='nobody')
        for part in ('RUNTIME_DIR', 'CACHE_HOME', 'CONFIG_HOME', 'DATA_HOME'):
            environment['XDG_' + part] = os.path.join(self.directory, part.split('_')[0].lower().replace('runtime', 'run'))
        return [shutil.which('unshare'), '--uts', '/bin/sh', '-c', '/bin/hostname "$0.test"; exec "$@"', name, shutil.which('setpriv'), f'--reuid={NOBODY}',
                f'--regid={NOBODY}', '--clear-groups', '--inh-caps=-all', shutil.which('libvirtd')], environment

    def _wait(self):
        for _ in range(600):
            if os.path.exists(self.socket) and subprocess.run(['virsh', '-c', self.uri, 'uri'], capture_output=True).returncode == 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        with open(self.output.name) as f:
            raise GuestError(f'libvirtd does not run:\n{f.read()[-2000:]}')

    def virsh(self, *arguments, seconds=300):
        """What virsh printed; its error is ours."""
        done = subprocess.run(['virsh', '-q', '-c', self.uri, *arguments], capture_output=True, text=True, timeout=seconds)
        if done.returncode != 0:
            raise GuestError(f'virsh {" ".join(arguments)}: {done.stderr.strip()}\n{self.guest_logs()}')
        return done.stdout.strip()

    def guest_logs(self):
        text = ''
        for name in sorted(os.listdir(self.log_directory)) if os.path.isdir(self.log_directory) else []:
            with open(os.path.join(self.log_directory, name), errors='replace') as f:
                text += f.read()[-500:]
        return text

    def readable(self, path):
        """Gives the file to the daemon's user."""
        if self.mode == 'session':
            os.chown(path, NOBODY, NOBODY)
        return path

    def close(self):
        if self.process.poll() is None:
            for name in subprocess.run(['virsh', '-q', '-c', self.uri, 'list', '--name'], capture_output=True, text=True).stdout.split():
                subprocess.run(['virsh', '-q', '-c', self.uri, 'destroy', name], capture_output=True)
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.output.close()


class Console:
    """virsh console on a terminal."""

    def __init__(self, daemon, domain):
        pid, self.fd = pty.fork()
        if pid == 0:
            os.execvp('virsh', ['virsh', '-c', daemon.uri, 'console', '--force', domain])
        self.pid, self.text, self.seen = pid, b'', 0
        self.wait(r'Escape character.*\r\n', 60)

    def _read(self, seconds):
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.text += data
        return bool(data)

    def wait(self, pattern, seconds):
        limit = time.time() + seconds
        while True:
            match = re.compile(pattern.encode()).search(self.text, self.seen)
            if match:
                self.seen = match.end()
                return match
            if not self._read(0.2) or time.time() > limit:
                raise GuestError(f'"{pattern}" did not come on the console, the end of it:\n'
                                 + self.text[-1500:].decode(errors='replace'))

    def rouse(self):
        """Until the guest's loop answers: virsh drops what is typed before it has set up the terminal."""
        for _ in range(60):
            self.send('\n')
            try:
                self.wait(r'<<<0>\r\n', 2)
                break
            except GuestError:
                continue
        self._read(0.5)
        self.seen = len(self.text)

    def send(self, text):
        os.write(self.fd, text.encode())

    def shell(self, command, seconds=120):
        """Has the guest's loop run the command; returns what it wrote. It must succeed."""
        self.send(command + '\n')
        self.wait('<<', 60)  # behind the terminal's echo
        start = self.seen
        match = self.wait(r'<(\d+)>\r\n', seconds)
        text = self.text[start:match.start()].decode(errors='replace').replace('\r\n', '\n')
        if match.group(1) != b'0':
            raise GuestError(f'"{command}" failed with {match.group(1).decode()}:\n{text}')
        return text

    def close(self):
        try:
            os.kill(self.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        os.close(self.fd)
        os.waitpid(self.pid, 0)
