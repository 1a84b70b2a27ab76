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


def initrd_with_modules(directory, files, release):
    make_initrd(directory, '')
    if not os.path.exists(f'{files}/lib/modules/{release}/modules.dep.bin'):
        subprocess.run(['depmod', '-b', files, release], check=True)
    target = os.path.join(directory, 'initrd-root/modules')
    os.makedirs(target)
    lines = []
    for module in MODULES:
        out = subprocess.run(['modprobe', '-d', files, '-S', release, '--show-depends', module], capture_output=True, text=True,
                             check=True).stdout
        for path in re.findall(r'^insmod (\S+)', out, re.M):
            line = f'insmod /modules/{os.path.basename(path)}\n'
            if line not in lines:
                shutil.copy(path if os.path.exists(path) else files + path, target)
                lines.append(line)
    return make_initrd(directory, ''.join(lines) + SCRIPT)


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


if __name__ == '__main__':
    run([one_of_each])
