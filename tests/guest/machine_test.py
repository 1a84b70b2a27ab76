#!/usr/bin/env python3
"""The cloud kernel with a BusyBox shell: files over the network, disks, sleep, reset, power button."""
import hashlib
import os
import subprocess
import tempfile

from guest import Guest, add_modules, cloud_kernel, make_initrd, need, run
from services import check_image, expect_event, network_arguments, transfer

DHCP_SCRIPT = '''#!/bin/sh
[ "$1" = bound ] || exit 0
ifconfig $interface $ip netmask $subnet
route add default gw $router
'''
INIT = '''
{modules}
cat > /dhcp <<'EOT'
{dhcp}EOT
chmod +x /dhcp
ifconfig lo up
dmesg -n 1
stty -echo
PS1= PS2= exec sh
'''


class Linux(Guest):
    def __init__(self, emulator, directory, arguments, modules):
        make_initrd(directory, '')
        initrd = make_initrd(directory, INIT.format(modules=add_modules(directory, ['virtio_pci', *modules]), dhcp=DHCP_SCRIPT))
        super().__init__(emulator, ['-m', '512', '-kernel', cloud_kernel(), '-initrd', initrd, '-append', 'console=ttyS0', *arguments])

    def boot(self):
        self.wait_serial(r'Linux version 6\.', 300)
        self.wait_serial(r'job control turned off\r\n', 300)

    def connect(self):
        self.shell('ifconfig eth0 up; udhcpc -i eth0 -q -n -s /dhcp >/dev/null 2>&1', 120)
        text = self.shell('ifconfig eth0', 30)
        assert 'inet addr:10.0.2.15 ' in text, text

    def power_off(self):
        self.send('poweroff -f\n')
        assert self.wait_exit(120) == 0, self.stderr()
        expect_event(self, 'SHUTDOWN', 1, guest=True, reason='guest-shutdown')


def write_disk(vm, device):
    """64 MiB from the beginning on; returns their sha256 as the guest read them back from the disk."""
    wrote = vm.shell(f'dd if=/dev/urandom bs=1M count=64 2>/dev/null | tee {device} | sha256sum; sync; echo 3 >/proc/sys/vm/drop_caches',
                     300)
    read = vm.shell(f'dd if={device} bs=1M count=64 2>/dev/null | sha256sum', 300)
    assert wrote == read, f'{device}: wrote {wrote}, read {read}'
    return wrote.split()[0]


def network_and_disks(emulator):
    qemu_img = os.path.join(os.path.dirname(emulator), 'qemu-img')
    judge = need('/usr/bin/qemu-img', 'qemu-utils')
    with tempfile.TemporaryDirectory() as tmp:
        disks = {'/dev/vda': os.path.join(tmp, 'virtio.qcow2'), '/dev/sda': os.path.join(tmp, 'ide.qcow2')}
        for path in disks.values():
            subprocess.run([qemu_img, 'create', '-q', '-f', 'qcow2', path, '80M'], check=True)
        port, network = network_arguments('virtio-net-pci')
        drives = ['-drive', f'file={disks["/dev/vda"]},if=virtio', '-drive', f'file={disks["/dev/sda"]},if=ide']
        with Linux(emulator, tmp, network + drives, ['virtio_blk', 'virtio_net', 'ata_piix', 'sd_mod']) as vm:
            vm.boot()
            vm.connect()
            transfer(vm, port, tmp)
            sums = {device: write_disk(vm, device) for device in disks}
            vm.power_off()
        for device, path in disks.items():
            check_image(qemu_img, path)
            raw = os.path.join(tmp, 'raw')
            subprocess.run([judge, 'convert', '-f', 'qcow2', '-O', 'raw', path, raw], check=True)
            with open(raw, 'rb') as f:
                assert hashlib.sha256(f.read(64 << 20)).hexdigest() == sums[device], f'{device}: the image has something else'


def fixed_event_count(vm, name):
    return int(vm.shell(f'cat /sys/firmware/acpi/interrupts/{name}', 30).split()[0])


def sleep_reset_power_button(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        port, network = network_arguments('virtio-net-pci')
        with Linux(emulator, tmp, ['-smp', '2', *network], ['virtio_net', 'button']) as vm:
            vm.boot()
            vm.connect()
            vm.shell('echo +3 >/sys/class/rtc/rtc0/wakealarm; echo mem >/sys/power/state', 120)
            expect_event(vm, 'SUSPEND', 1)
            expect_event(vm, 'WAKEUP', 1)
            transfer(vm, port, tmp)
            vm.send('echo mem >/sys/power/state; echo awake\n')
            expect_event(vm, 'SUSPEND', 60)
            assert vm.qmp('query-status')['status'] == 'suspended'
            vm.qmp('system_wakeup')
            expect_event(vm, 'WAKEUP', 10)
            vm.wait_serial('awake', 60)
            assert '0-1' in vm.shell('cat /sys/devices/system/cpu/online', 30)
            presses = fixed_event_count(vm, 'ff_pwr_btn')
            vm.qmp('system_powerdown')
            expect_event(vm, 'POWERDOWN', 10)
            vm.pause(0.5)
            assert fixed_event_count(vm, 'ff_pwr_btn') == presses + 1
            vm.qmp('system_reset')
            expect_event(vm, 'RESET', 10, guest=False, reason='host-qmp-system-reset')
            vm.boot()
            vm.send('reboot -f\n')
            expect_event(vm, 'RESET', 60, guest=True, reason='guest-reset')
            vm.boot()
            vm.power_off()


if __name__ == '__main__':
    run([network_and_disks, sleep_reset_power_button])
