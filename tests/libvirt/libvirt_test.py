#!/usr/bin/env python3
"""Debian's libvirt drives this emulator: what an administrator does with virsh, a line each, by the system's daemon and by a
user's own. The lines of one daemon follow each other on one domain; its guest is Linux with a shell on the console."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

from daemon import Console, Daemon

import guest  # daemon.py has put its folder on the path
import tap

SCRIPT = '''
ip link set lo up
echo READY
while read line; do
    eval "$line"
    echo "<$?>"
done
'''
MODULES = ['virtio_pci', 'virtio_net', 'virtio_blk', 'virtio_balloon', 'virtio_rng', 'ata_piix', 'sd_mod', 'sr_mod', 'evdev']
DOMAIN = '''
<domain type='qemu'>
  <name>guest</name>
  <memory unit='MiB'>256</memory>
  <vcpu current='1'>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <pm><suspend-to-mem enabled='yes'/><suspend-to-disk enabled='no'/></pm>
  <devices>
    <emulator>{emulator}</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{ide}'/><target dev='hda' bus='ide'/>
    </disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='hdc' bus='ide'/><readonly/></disk>
    <controller type='usb' model='none'/>
    <interface type='user'><mac address='52:54:00:11:22:33'/><model type='virtio'/></interface>
    <serial type='pty'/>
    <video><model type='vga'/></video>
    <memballoon model='virtio'><stats period='1'/></memballoon>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
'''


class World:
    """A daemon with a domain; the lines below share it."""

    def __init__(self, emulator, mode):
        self.mode = mode
        self.original = emulator
        self.daemon = self.console = self.directory = None

    def prepare(self):
        if self.daemon:
            return
        self.directory = tempfile.mkdtemp(prefix='libvirt-', dir='/var/tmp')
        os.chmod(self.directory, 0o755)
        self.daemon = Daemon(self.mode, self.directory)
        self.emulator = self.copy(self.original, 'qemu-system-x86_64')
        os.chmod(self.emulator, 0o755)
        guest.make_initrd(self.directory, '')
        initrd = guest.make_initrd(self.directory, guest.add_modules(self.directory, MODULES) + SCRIPT)
        self.initrd = self.copy(initrd, 'initrd')
        self.kernel = self.copy(guest.cloud_kernel(), 'kernel')
        self.disk = self.image('disk.qcow2', 'qcow2', '64M')
        self.ide = self.image('ide.raw', 'raw', '16M')
        self.iso = self.image('medium.iso', 'raw', '1M')
        with open(self.iso, 'r+b') as f:
            f.write(b'the inserted medium')

    def copy(self, path, name):
        target = os.path.join(self.directory, name)
        shutil.copy(path, target)
        os.chmod(target, 0o644)
        return self.daemon.readable(target)

    def image(self, name, form, size):
        path = os.path.join(self.directory, name)
        subprocess.run(['qemu-img', 'create', '-q', '-f', form, path, size], check=True)
        return self.daemon.readable(path)

    def file(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, 'w') as f:
            f.write(text)
        return path

    def domain_xml(self):
        return ElementTree.fromstring(self.daemon.virsh('dumpxml', 'guest'))

    def connect(self):
        if self.console:
            self.console.close()
        self.console = Console(self.daemon, 'guest')

    def boot(self):
        """Starts the domain; its shell is ready then."""
        self.daemon.virsh('start', 'guest')
        self.connect()
        self.console.wait('READY', 300)

    def running(self):
        """The line before may have failed and left no guest."""
        self.prepare()
        if 'guest' not in self.daemon.virsh('list', '--all', '--name').split():
            define(self)
        if self.daemon.virsh('domstate', 'guest') != 'running' or not self.console:
            subprocess.run(['virsh', '-q', '-c', self.daemon.uri, 'destroy', 'guest'], capture_output=True)
            self.boot()

    def close(self):
        if self.console:
            self.console.close()
        if self.daemon:
            self.daemon.close()
            shutil.rmtree(self.directory, ignore_errors=True)


# --- lines: each takes the world ---

def capabilities(world):
    world.prepare()
    text = world.daemon.virsh('domcapabilities', '--emulatorbin', world.emulator, '--machine', 'pc', '--virttype', 'qemu')
    tree = ElementTree.fromstring(text)
    assert tree.find('machine').text.startswith('pc-i440fx-'), text
    models = {model.text for model in tree.iter('model')}
    assert {'qemu64', 'Nehalem', 'EPYC'} <= models, models
    buses = {value.text for value in tree.findall("devices/disk/enum[@name='bus']/value")}
    assert {'ide', 'virtio', 'fdc'} <= buses, buses


def define(world):
    world.prepare()
    text = DOMAIN.format(kernel=world.kernel, initrd=world.initrd, emulator=world.emulator, disk=world.disk, ide=world.ide)
    world.daemon.virsh('define', world.file('domain.xml', text))
    assert world.daemon.virsh('domstate', 'guest') == 'shut off'


def start(world):
    world.boot()
    assert world.daemon.virsh('domstate', 'guest') == 'running'
    assert re.search(r'State: +running', world.daemon.virsh('dominfo', 'guest'))


def console(world):
    world.running()
    assert world.console.shell('echo $((6 * 7))') == '42\n'
    assert world.console.shell('cat /sys/class/net/eth0/address') == '52:54:00:11:22:33\n'
    assert world.console.shell('ls /dev/vda /dev/sda /dev/sr0 /dev/hwrng').split() == ['/dev/hwrng', '/dev/sda', '/dev/sr0', '/dev/vda']


def screenshot(world):
    world.running()
    picture = os.path.join(world.directory, 'screen.ppm')
    said = world.daemon.virsh('screenshot', 'guest', picture)
    with open(picture, 'rb') as f:
        head = f.read(8)
    assert head[:2] == b'P6' or head[1:4] == b'PNG', (said, head)


LINES = [capabilities, define, start, console, screenshot]


def in_world(line, world):
    def test():
        line(world)
    test.__name__ = f'{world.mode}_{line.__name__}'
    return test


if __name__ == '__main__':
    worlds = [World(os.path.abspath(sys.argv[1]), mode) for mode in ('system', 'session')]
    try:
        tap.run([in_world(line, world) for world in worlds for line in LINES], names=sys.argv[2:])
    finally:
        for each in worlds:
            each.close()
