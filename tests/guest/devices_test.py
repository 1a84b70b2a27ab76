#!/usr/bin/env python3
"""Debian's standard kernel on a PC with one of each device: every driver binds, disks are read, network cards get their
addresses, and the kernel complains of nothing."""
import os
import re
import shutil
import subprocess
import tempfile

from guest import Guest, GuestError, make_initrd, need, run
from packages import one_file, package

MODULES = ['ata_piix', 'sd_mod', 'sr_mod', 'floppy', 'e1000', 'virtio_pci', 'virtio_net', 'virtio_blk', 'virtio_console',
           'virtio_rng', 'virtio_balloon', 'bochs', 'psmouse', 'i2c_piix4', 'parport_pc', 'ppdev', 'lp', 'pcspkr', 'evdev', 'button']
SCRIPT = '''sleep 2
for d in sda vda vdb sr0 fd0; do echo READ $d $(dd if=/dev/$d bs=64k count=16 2>/dev/null | wc -c); done
for i in eth0 eth1 eth2 eth3; do ip link set $i up; udhcpc -n -q -i $i 2>&1 | grep lease; done
echo RANDOM $(head -c 16 /dev/hwrng | wc -c)
cat /proc/interrupts
for d in /sys/bus/pci/devices/*; do
    driver=none; [ -e $d/driver ] && driver=$(basename $(readlink $d/driver))
    echo "BOUND $(cat $d/vendor):$(cat $d/device) $driver"
done
dmesg
echo ALL-END
poweroff -f
'''
COMPLAINTS = re.compile(rb'.*(?:\b[Ee]rror\b|WARNING: CPU|BUG:|Oops|Call Trace|nobody cared|timed out|[Ff]ailed|soft lockup|'
                        rb'firmware bug|Firmware Bug).*')
# What the kernel says of CPUs that exist, and (the last two) of a busy host.
HARMLESS = re.compile(rb'MCE|mce:|Spectre|RETBleed|Command line|PKCS|DFR: |correctable errors|RAS: |calibrate_delay_direct|'
                      rb'TSC calibration failed')
DRIVERS = {'0x8086:0x7010': 'ata_piix', '0x8086:0x7113': 'piix4_smbus', '0x1234:0x1111': 'bochs-drm', '0x8086:0x100e': 'e1000',
           '0x8086:0x100f': 'e1000', '0x1af4:0x1000': 'virtio-pci', '0x1af4:0x1001': 'virtio-pci', '0x1af4:0x1002': 'virtio-pci',
           '0x1af4:0x1003': 'virtio-pci', '0x1af4:0x1005': 'virtio-pci', '0x1af4:0x1041': 'virtio-pci',
           '0x1af4:0x1042': 'virtio-pci', '0x1b36:0x0002': 'serial'}


def initrd_with_modules(directory, files, release, modules=None, script=SCRIPT):
    make_initrd(directory, '')
    if not os.path.exists(f'{files}/lib/modules/{release}/modules.dep.bin'):
        subprocess.run(['depmod', '-b', files, release], check=True)
    target = os.path.join(directory, 'initrd-root/modules')
    os.makedirs(target)
    lines = []
    for module in modules or MODULES:
        out = subprocess.run(['modprobe', '-d', files, '-S', release, '--show-depends', module], capture_output=True, text=True,
                             check=True).stdout
        for path in re.findall(r'^insmod (\S+)', out, re.M):
            line = f'insmod /modules/{os.path.basename(path)}\n'
            if line not in lines:
                shutil.copy(path if os.path.exists(path) else files + path, target)
                lines.append(line)
    return make_initrd(directory, ''.join(lines) + script)


def one_of_each(emulator):
    iso = need('/usr/lib/grub-rescue/grub-rescue-cdrom.iso', 'grub-rescue-pc')
    floppy = need('/usr/lib/grub-rescue/grub-rescue-floppy.img', 'grub-rescue-pc')
    files = package('linux-image-amd64')
    kernel = one_file(files, 'boot/vmlinuz-*')
    with tempfile.TemporaryDirectory() as tmp:
        initrd = initrd_with_modules(tmp, files, os.path.basename(kernel)[len('vmlinuz-'):])
        disks = [os.path.join(tmp, f'disk{n}') for n in range(3)]
        for disk in disks:
            with open(disk, 'wb') as f:
                f.truncate(16 << 20)
        nets = [argument for n in range(4) for argument in ('-netdev', f'user,id=n{n}')]
        with Guest(emulator, [
                '-m', '768', '-smp', '2', '-kernel', kernel, '-initrd', initrd, '-append', 'console=ttyS0 quiet log_buf_len=1M',
                '-drive', f'file={disks[0]},format=raw,if=ide,index=0', '-drive', f'file={disks[1]},format=raw,if=virtio',
                '-drive', f'file={disks[2]},format=raw,if=none,id=d', '-device', 'virtio-blk-pci,drive=d,disable-legacy=on',
                '-cdrom', iso, '-drive', f'file={floppy},if=floppy,format=raw,readonly=on', *nets,
                '-device', 'e1000,netdev=n0', '-device', 'virtio-net-pci,netdev=n1',
                '-device', 'virtio-net-pci,netdev=n2,disable-legacy=on,packed=on', '-device', 'virtio-rng-pci',
                '-device', 'virtio-balloon-pci', '-device', 'virtio-serial-pci', '-chardev', 'null,id=c0', '-device',
                'virtconsole,chardev=c0', '-chardev', 'null,id=c1', '-device', 'pci-serial,chardev=c1', '-parallel', 'null',
                '-device', 'pci-bridge,chassis_nr=1,id=br', '-device', 'e1000-82545em,netdev=n3,bus=br', '-device',
                'secondary-vga']) as vm:
            vm.wait_serial('ALL-END', 600)
            text = vm.serial_text.replace(b'\r', b'')
    bound = re.findall(r'BOUND (\S+) (\S+)', text.decode(errors='replace'))
    for identity, driver in DRIVERS.items():
        found = [d for i, d in bound if i == identity]
        assert found and all(d == driver for d in found), f'{identity} is bound to {found}, not {driver}'
    for disk in (b'sda', b'vda', b'vdb', b'sr0', b'fd0'):
        assert b'READ ' + disk + b' 1048576' in text, f'{disk.decode()} was not read'
    assert len(re.findall(rb'lease of 10\.0\.2\.15', text)) == 4, 'a network card has no address'
    assert b'RANDOM 16' in text, 'no random numbers'
    # Interrupts as drivers find them with QEMU: a queue a CPU, two vectors for the ports, none for the balloon.
    for line in (rb'virtio\d-req\.1', rb'virtio\d-virtqueues', rb'IO-APIC +\d+-fasteoi .*virtio\d'):
        assert re.search(line, text), f'no interrupt like {line.decode()}'
    complaints = [line for line in COMPLAINTS.findall(text) if not HARMLESS.search(line)]
    if complaints:
        raise GuestError('\n'.join(line.decode(errors='replace') for line in complaints[:10]))


# Prints what each virtio device's event node gives, 24 bytes an event: time, type, code, value.
INPUT_SCRIPT = r'''sleep 1
for e in /sys/class/input/event*; do
    name=$(cat $e/device/name); node=/dev/input/$(basename $e)
    case "$name" in *Virtio*) ;; *) continue;; esac
    echo "INPUT $name ev=$(cat $e/device/capabilities/ev) id=$(cat $e/device/id/vendor):$(cat $e/device/id/product) uniq=$(cat $e/device/uniq)"
    case "$name" in
    *Keyboard) n=6; printf '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\021\0\001\0\001\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0' > $node;;
    *Mouse) n=7;;
    *Tablet) n=5;;
    esac
    (dd if=$node bs=24 count=$n 2>/dev/null | od -An -v -tu2 -w24 | sed "s/^/GOT $name /;s/  */ /g") &
done
sleep 1
echo INPUT-READY
wait
echo ALL-END
poweroff -f
'''


def virtio_input(emulator):
    """Linux's virtio_input sees keys, movements and positions as they were sent."""
    files = package('linux-image-amd64')
    kernel = one_file(files, 'boot/vmlinuz-*')
    with tempfile.TemporaryDirectory() as tmp:
        initrd = initrd_with_modules(tmp, files, os.path.basename(kernel)[len('vmlinuz-'):], ['virtio_pci', 'virtio_input', 'evdev'],
                                     INPUT_SCRIPT)
        with Guest(emulator, ['-m', '512', '-kernel', kernel, '-initrd', initrd, '-append', 'console=ttyS0 quiet',
                              '-device', 'virtio-keyboard-pci', '-device', 'virtio-mouse-pci,serial=four', '-device', 'virtio-tablet-pci']) as vm:
            vm.wait_serial('INPUT-READY', 300)
            pointers = vm.qmp('query-mice')
            assert [p['name'] for p in pointers if p['current']] == ['QEMU Virtio Tablet'], pointers

            def send(*events):
                vm.qmp('input-send-event', events=[{'type': kind, 'data': data} for kind, data in events])

            def key(name, down):
                return ('key', {'key': {'type': 'qcode', 'data': name}, 'down': down})

            for down in (True, False):
                send(key('a', down))
            send(key('up', True), key('up', False))
            send(('abs', {'axis': 'x', 'value': 1000}), ('abs', {'axis': 'y', 'value': 32767}))
            send(('btn', {'button': 'left', 'down': True}))
            send(('rel', {'axis': 'x', 'value': 5}), ('rel', {'axis': 'y', 'value': -3}))
            mouse = next(p['index'] for p in pointers if p['name'] == 'QEMU Virtio Mouse')
            vm.monitor(f'mouse_set {mouse}')
            send(('btn', {'button': 'right', 'down': True}), ('btn', {'button': 'wheel-down', 'down': True}))
            send(('btn', {'button': 'right', 'down': False}))
            vm.wait_serial('ALL-END', 120)
            text = vm.serial_text.replace(b'\r', b'').decode(errors='replace')
    got = {}
    for name, event in re.findall(r'GOT QEMU Virtio (\w+)(?: \d+){8} ([\d ]+)', text):
        got.setdefault(name, []).append(tuple(int(n) for n in event.split()))
    sync, minus = (0, 0, 0, 0), lambda n: (65536 - n, 65535)
    assert got['Keyboard'] == [(1, 30, 1, 0), sync, (1, 30, 0, 0), sync, (1, 103, 1, 0), (1, 103, 0, 0)], got
    assert got['Tablet'] == [(3, 0, 1000, 0), (3, 1, 32767, 0), sync, (1, 272, 1, 0), sync], got
    assert got['Mouse'] == [(2, 0, 5, 0), (2, 1, *minus(3)), sync, (1, 273, 1, 0), (2, 8, *minus(1)), sync, (1, 273, 0, 0)], got
    assert 'INPUT QEMU Virtio Keyboard ev=120003 id=0627:0001 uniq=\n' in text, text
    assert 'INPUT QEMU Virtio Mouse ev=7 id=0627:0002 uniq=four\n' in text, text
    assert 'INPUT QEMU Virtio Tablet ev=f id=0627:0003 uniq=\n' in text, text


if __name__ == '__main__':
    run([one_of_each, virtio_input])
