#!/usr/bin/env python3
"""PCI devices that come and go while Linux runs, by ACPI: a network card and a disk, plugged in through QMP, seen by the guest,
used, and gone when the guest has agreed."""
import os
import tempfile

from guest import Guest, GuestError, add_modules, cloud_kernel, make_initrd, run

SCRIPT = '''
report() { echo "PCI $(ls /sys/bus/pci/devices | tr '\\n' ' ')"; echo "NET $(ls /sys/class/net | tr '\\n' ' ')END"; echo "BLK $(ls /sys/block | tr '\\n' ' ')END"; }
report
echo READY
while read line; do
    eval "$line"
    report
    echo DONE
done
'''
MODULES = ['virtio_pci', 'virtio_net', 'virtio_blk']


def boot(emulator, tmp, *arguments):
    make_initrd(tmp, '')
    modules = add_modules(tmp, MODULES)
    initrd = make_initrd(tmp, modules + SCRIPT)
    return Guest(emulator, ['-m', '512', '-kernel', cloud_kernel(), '-initrd', initrd, '-append', 'console=ttyS0 quiet', '-net',
                            'none', *arguments])


def ask(vm, command='true'):
    """Runs a command in the guest; returns its network cards and disks after it."""
    vm.send(command + '\n')
    net = vm.wait_serial(r'NET (.*?)END', 60).group(1).decode().split()
    blk = vm.wait_serial(r'BLK (.*?)END', 60).group(1).decode().split()
    vm.wait_serial('DONE', 60)
    return net, blk


def no_complaint(vm):
    for complaint in (b'ACPI Error', b'ACPI BIOS Error', b'Call Trace'):
        assert complaint not in vm.serial_text, vm.serial_text[vm.serial_text.index(complaint):][:300].decode(errors='replace')


def appears(vm, name, there=True):
    for _ in range(20):
        net, blk = ask(vm, 'sleep 1')
        if (name in net or name in blk) == there:
            no_complaint(vm)
            return
    raise GuestError(f'{name} did not {"appear" if there else "disappear"}: {net} {blk}')


def come_and_go(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        image = os.path.join(tmp, 'disk.img')
        with open(image, 'wb') as f:
            f.write(b'hot-plugged disk'.ljust(1 << 20, b'\0'))
        with boot(emulator, tmp) as vm:
            vm.wait_serial('READY', 300)
            for _ in range(2):
                vm.qmp('netdev_add', type='user', id='n')
                vm.qmp('device_add', driver='virtio-net-pci', netdev='n', id='card', mac='52:54:00:65:43:21')
                appears(vm, 'eth0')
                vm.send('cat /sys/class/net/eth0/address; ip link set eth0 up; udhcpc -n -q -i eth0 2>&1 | grep lease\n')
                vm.wait_serial('52:54:00:65:43:21', 60)
                vm.wait_serial(r'10\.0\.2\.15', 60)
                vm.wait_serial('DONE', 60)
                vm.qmp('blockdev-add', driver='raw', **{'node-name': 'd', 'file': {'driver': 'file', 'filename': image}})
                vm.qmp('device_add', driver='virtio-blk-pci', drive='d', id='disk')
                appears(vm, 'vda')
                vm.send('head -c 16 /dev/vda; echo\n')
                vm.wait_serial('hot-plugged disk', 60)
                vm.wait_serial('DONE', 60)
                for device, name in (('card', 'eth0'), ('disk', 'vda')):
                    vm.qmp('device_del', id=device)
                    event = vm.wait_event('DEVICE_DELETED', 60)
                    if 'device' not in event['data']:
                        event = vm.wait_event('DEVICE_DELETED', 60)
                    assert event['data']['device'] == device, event
                    appears(vm, name, there=False)
                vm.qmp('netdev_del', id='n')
                vm.qmp('blockdev-del', **{'node-name': 'd'})


def cold_plugged_goes(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        with boot(emulator, tmp, '-netdev', 'user,id=n', '-device', 'virtio-net-pci,netdev=n,id=card') as vm:
            vm.wait_serial('READY', 300)
            appears(vm, 'eth0')
            vm.qmp('device_del', id='card')
            event = vm.wait_event('DEVICE_DELETED', 60)
            appears(vm, 'eth0', there=False)
            assert event['data'].get('device', 'card') == 'card', event


def behind_a_bridge(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        # A device is there from the start, so that the firmware gives the bridge windows.
        with boot(emulator, tmp, '-device', 'pci-bridge,id=br,chassis_nr=1', '-device', 'virtio-rng-pci,bus=br', '-netdev',
                  'user,id=n') as vm:
            vm.wait_serial('READY', 300)
            vm.qmp('device_add', driver='virtio-net-pci', netdev='n', id='card', bus='br', addr='5')
            appears(vm, 'eth0')
            vm.send('ip link set eth0 up; udhcpc -n -q -i eth0 2>&1 | grep lease\n')
            vm.wait_serial(r'10\.0\.2\.15', 60)
            vm.wait_serial('DONE', 60)
            vm.qmp('device_del', id='card')
            vm.wait_event('DEVICE_DELETED', 60)
            appears(vm, 'eth0', there=False)


def refused(emulator):
    """Without the controller's support nothing can come while the machine runs."""
    for switch, bus in (('acpi-root-pci-hotplug', 'pci.0'), ('acpi-pci-hotplug-with-bridge-support', 'br')):
        with Guest(emulator, ['-nodefaults', '-global', f'PIIX4_PM.{switch}=off', '-device', 'pci-bridge,id=br,chassis_nr=1'],
                   serial=False) as vm:
            try:
                vm.qmp('device_add', driver='virtio-rng-pci', bus=bus)
            except GuestError as error:
                assert f"Bus '{bus}' does not support hotplugging" in str(error), error
            else:
                raise GuestError(f'device_add worked with {switch}=off')


if __name__ == '__main__':
    run([come_and_go, cold_plugged_goes, behind_a_bridge, refused])
