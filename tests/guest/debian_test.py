#!/usr/bin/env python3
"""Debian with systemd from a qcow2 disk: SeaBIOS, GRUB and the standard kernel, to a shell on the serial line; then its network,
its disks and its power management. Needs root and the distribution's packages once, to make the disk (debian_disk.py)."""
import os
import subprocess
import tempfile

import debian_disk
from guest import Guest, GuestError, run


class Debian(Guest):
    """A machine that boots an overlay of the cached disk, which its user may fill in `directory`."""

    def __init__(self, emulator, directory, arguments, kernel='standard', interface='virtio'):
        self.qemu_img = os.path.join(os.path.dirname(emulator), 'qemu-img')
        self.disk = os.path.join(directory, 'system.qcow2')
        base = debian_disk.disk(kernel, emulator)
        subprocess.run([self.qemu_img, 'create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', self.disk], check=True)
        super().__init__(emulator, ['-m', '1024', '-drive', f'file={self.disk},if={interface}', *arguments])

    def boot(self):
        """From the loader's menu to a shell that does not echo."""
        self.wait_serial(r'GNU GRUB', 300)
        self.wait_serial(r'Linux version 6\.', 600)
        self.log_in()

    def log_in(self):
        self.wait_serial(r'guest login: ', 1200)
        self.send('root\n')
        self.wait_serial(r'root@guest:~# ', 300)
        self.send('stty -echo; dmesg -n 1; exec sh\nPS1=; echo ready $((1 + 1))\n')
        self.wait_serial(r'ready 2\r\n', 60)

    def end(self):
        """Powers off as an administrator does, and has both qemu-img's look at the disks."""
        self.send('poweroff\n')
        status = self.wait_exit(600)
        assert status == 0, f'exit status {status}: {self.stderr()}'
        check_image(self.qemu_img, self.disk)


def check_image(qemu_img, path):
    """Our qemu-img and the distribution's find nothing wrong."""
    for program in (qemu_img, '/usr/bin/qemu-img'):
        if os.path.exists(program):
            result = subprocess.run([program, 'check', path], capture_output=True, text=True)
            if result.returncode:
                raise GuestError(f'{program} check {path}:\n{result.stdout}{result.stderr}')


def report(vm, what):
    print(f'# {what}: {vm.cpu_seconds():.0f} CPU seconds so far', flush=True)


def login(emulator, interface, *arguments):
    with tempfile.TemporaryDirectory() as tmp:
        with Debian(emulator, tmp, ['-net', 'none', *arguments], interface=interface) as vm:
            vm.boot()
            report(vm, 'login')
            assert 'running' in vm.shell('systemctl is-system-running --wait', 300)
            cpus = int(vm.shell('nproc', 60))
            vm.end()
            return cpus


def login_from_ide(emulator):
    login(emulator, 'ide')


def login_from_virtio(emulator):
    login(emulator, 'virtio')


def login_with_two_cpus(emulator):
    assert login(emulator, 'virtio', '-smp', '2') == 2


if __name__ == '__main__':
    run([login_from_ide, login_from_virtio, login_with_two_cpus])
