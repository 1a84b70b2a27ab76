#!/usr/bin/env python3
"""Debian with systemd from a qcow2 disk: SeaBIOS, GRUB and the standard kernel, to a shell on the serial line; then its network,
its disks and its power management. Needs root and the distribution's packages once, to make the disk (debian_disk.py)."""
import os
import subprocess
import tempfile

import debian_disk
from guest import Guest, run
from services import check_image, expect_event, network_arguments, transfer


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
        self.send('stty -echo; dmesg -n 1; exec sh\nPS1=; PS2=; echo ready $((1 + 1))\n')
        self.wait_serial(r'ready 2\r\n', 60)

    def end(self):
        """Powers off as an administrator does, and has both qemu-img's look at the disks."""
        self.send('poweroff\n')
        status = self.wait_exit(600)
        assert status == 0, f'exit status {status}: {self.stderr()}'
        expect_event(self, 'SHUTDOWN', 1, guest=True, reason='guest-shutdown')
        check_image(self.qemu_img, self.disk)


def connect(vm):
    vm.shell('dhclient $(ls /sys/class/net | grep -v lo)', 300)
    text = vm.shell('ip -4 addr', 60)
    assert 'inet 10.0.2.15/24' in text, text


def report(vm, what):
    print(f'# {what}: {vm.cpu_seconds():.0f} CPU seconds so far', flush=True)


def standard(emulator, interface, card, cpus):
    """Login, network, a gigabyte on a second disk that outlives a reboot, power off."""
    with tempfile.TemporaryDirectory() as tmp:
        data = os.path.join(tmp, 'data.qcow2')
        subprocess.run([os.path.join(os.path.dirname(emulator), 'qemu-img'), 'create', '-q', '-f', 'qcow2', data, '2G'], check=True)
        port, network = network_arguments(card)
        arguments = ['-smp', str(cpus), '-drive', f'file={data},if={interface}', *network]
        with Debian(emulator, tmp, arguments, interface=interface) as vm:
            vm.boot()
            report(vm, 'login')
            assert 'running' in vm.shell('systemctl is-system-running --wait', 300)
            assert int(vm.shell('nproc', 60)) == cpus
            connect(vm)
            transfer(vm, port, tmp)
            report(vm, 'network')
            device = {'ide': '/dev/sdb', 'virtio': '/dev/vdb'}[interface]
            wrote = vm.shell(f'head -c 1G /dev/urandom | tee {device} | sha256sum; sync', 3600)
            report(vm, 'gigabyte written')
            vm.send('reboot\n')
            expect_event(vm, 'RESET', 600, guest=True, reason='guest-reset')
            vm.boot()
            read = vm.shell(f'head -c 1G {device} | sha256sum', 3600)
            assert wrote == read, f'wrote {wrote}, read {read}'
            report(vm, 'gigabyte read')
            vm.end()
            check_image(vm.qemu_img, data)


def standard_ide_e1000(emulator):
    standard(emulator, 'ide', 'e1000', 1)


def standard_virtio_two_cpus(emulator):
    standard(emulator, 'virtio', 'virtio-net-pci', 2)


def still_works(vm, port, directory):
    """After a sleep: the clock, the disk and the network."""
    assert 'state S3' in vm.shell('dmesg | tail -n 200', 60)
    text = vm.shell('head -c 4M /dev/urandom >/root/file; sha256sum /root/file; sync; echo 3 >/proc/sys/vm/drop_caches;'
                    'sha256sum /root/file', 300).split()
    assert text[0] == text[2], text
    transfer(vm, port, directory)


def sleep(emulator, cpus):
    with tempfile.TemporaryDirectory() as tmp:
        port, network = network_arguments('virtio-net-pci')
        with Debian(emulator, tmp, ['-smp', str(cpus), *network], kernel='cloud') as vm:
            vm.boot()
            connect(vm)
            vm.shell('rtcwake -m mem -s 5', 300)
            expect_event(vm, 'SUSPEND', 10)
            expect_event(vm, 'WAKEUP', 10)
            still_works(vm, port, tmp)
            vm.send('systemctl suspend; echo awake\n')
            expect_event(vm, 'SUSPEND', 300)
            assert vm.qmp('query-status')['status'] == 'suspended'
            vm.qmp('system_wakeup')
            expect_event(vm, 'WAKEUP', 10)
            vm.wait_serial('awake', 300)
            still_works(vm, port, tmp)
            report(vm, 'slept twice')
            vm.end()


def sleep_one_cpu(emulator):
    sleep(emulator, 1)


def sleep_two_cpus(emulator):
    sleep(emulator, 2)


def reset_and_power_button(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        _, network = network_arguments('virtio-net-pci')
        with Debian(emulator, tmp, network, kernel='cloud') as vm:
            vm.boot()
            vm.monitor('system_reset')
            expect_event(vm, 'RESET', 10, guest=False, reason='host-qmp-system-reset')
            vm.boot()
            connect(vm)
            vm.qmp('system_powerdown')
            vm.wait_exit(600)
            expect_event(vm, 'POWERDOWN', 1)
            expect_event(vm, 'SHUTDOWN', 1, guest=True, reason='guest-shutdown')
            text = vm.serial_text.decode(errors='replace')
            assert 'reboot: Power down' in text, text[-1000:]
            check_image(vm.qemu_img, vm.disk)


def tables(emulator):
    """What ACPICA's compiler and dmidecode make of the tables."""
    with tempfile.TemporaryDirectory() as tmp:
        with Debian(emulator, tmp, ['-net', 'none', '-smp', '2'], kernel='cloud') as vm:
            vm.boot()
            vm.shell('mkdir -p /tmp/acpi; cd /tmp/acpi; acpidump -b', 60)
            names = vm.shell('ls *.dat', 60).split()
            assert {'apic.dat', 'dsdt.dat', 'facp.dat', 'facs.dat', 'hpet.dat'} <= set(names), names
            for name in names:
                text = vm.shell(f'iasl -d {name} 2>&1', 60)
                assert 'Error' not in text and 'Invalid' not in text and 'Incorrect' not in text, text
            text = vm.shell('iasl -tc dsdt.dsl 2>&1', 60)
            assert '0 Errors' in text, text
            text = vm.shell('dmidecode', 60)
            for word in ('BAD', 'OUT OF SPEC', 'Wrong', 'checksum', 'truncated', 'broken'):
                assert word not in text, text
            for line in ('SMBIOS 2.8 present', 'Vendor: SeaBIOS', 'Core Count: 2', 'Maximum Capacity: 1 GB'):
                assert line in text, f'no "{line}" in:\n{text}'
            vm.end()


if __name__ == '__main__':
    run([standard_ide_e1000, standard_virtio_two_cpus, sleep_one_cpu, sleep_two_cpus, reset_and_power_button, tables])
