#!/usr/bin/env python3
"""Debian's libvirt drives this emulator: what an administrator does with virsh, a line each, by the system's daemon and by a
user's own. The lines of one daemon follow each other on one domain; its guest is Linux with a shell on the console."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree

from daemon import Console, Daemon, GuestError

import guest  # daemon.py has put its folder on the path
from packages import one_file, package
import tap

SCRIPT = '''
ip link set lo up
echo READY
while read line; do
    printf '<<'
    eval "$line"
    echo "<$?>"
done
'''
MODULES = ['virtio_pci', 'virtio_net', 'virtio_blk', 'virtio_balloon', 'virtio_rng', 'ata_piix', 'sd_mod', 'sr_mod', 'evdev', 'button']
DOMAIN = '''
<domain type='qemu'>
  <name>guest</name>
  <maxMemory slots='2' unit='MiB'>1024</maxMemory>
  <memory unit='MiB'>256</memory>
  <vcpu current='1'>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model>
    <numa><cell id='0' cpus='0-1' memory='256' unit='MiB'/></numa></cpu>
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
        self.daemon = Daemon(self.original, self.mode, self.directory)
        os.mkdir(self.home())
        self.daemon.readable(self.home())
        self.emulator = self.copy(self.original, 'qemu-system-x86_64')
        os.chmod(self.emulator, 0o755)
        # Where libvirt looks for emulators when virt-install asks it for one.
        os.symlink(self.emulator, os.path.join(self.daemon.directory, 'bin', 'qemu-system-x86_64'))
        guest.make_initrd(self.directory, '')
        initrd = guest.make_initrd(self.directory, guest.add_modules(self.directory, MODULES) + SCRIPT)
        self.initrd = self.copy(initrd, 'initrd')
        self.kernel = self.copy(guest.cloud_kernel(), 'kernel')
        self.disk = self.image('disk.qcow2', 'qcow2', '64M')
        self.ide = self.image('ide.raw', 'raw', '16M')
        self.iso = self.image('medium.iso', 'raw', '1M')
        with open(self.iso, 'r+b') as f:
            f.write(b'the inserted medium')

    def home(self):
        """Where the daemon writes what it is told to."""
        return os.path.join(self.directory, 'home')

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

    def connect(self, booting=False):
        if self.console:
            self.console.close()
        self.console = Console(self.daemon, 'guest')
        if not booting:
            self.console.rouse()

    def boot(self):
        """Starts the domain; its shell is ready then."""
        self.daemon.virsh('start', 'guest')
        self.connect(booting=True)
        self.console.wait(r'READY\r\n', 300)

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


def wait_until(condition, seconds, what):
    limit = time.time() + seconds
    while not condition():
        if time.time() > limit:
            raise GuestError(f'{what} did not happen in {seconds} s')
        time.sleep(0.3)


def guest_sees(world, path, there=True):
    world.console.shell(f'n=0; while [ $n -lt 60 ] && [ {"!" if there else ""} -e {path} ]; do sleep 0.5; n=$((n+1)); done; [ $n -lt 60 ]')


def disk_attach_detach(world):
    world.running()
    image = world.image('plugged.qcow2', 'qcow2', '32M')
    subprocess.run(['qemu-io', '-f', 'qcow2', '-c', 'write -P 0x61 0 1M', image], check=True, capture_output=True)
    for _ in range(2):
        world.daemon.virsh('attach-disk', 'guest', image, 'vdb', '--subdriver', 'qcow2', '--targetbus', 'virtio', '--live')
        guest_sees(world, '/dev/vdb')
        assert world.console.shell('head -c 8 /dev/vdb; echo') == 'aaaaaaaa\n'
        assert 'vdb' in world.daemon.virsh('domblklist', 'guest')
        assert 'Capacity:       33554432' in world.daemon.virsh('domblkinfo', 'guest', 'vdb')
        world.daemon.virsh('detach-disk', 'guest', 'vdb', '--live')
        guest_sees(world, '/dev/vdb', there=False)
        wait_until(lambda: 'vdb' not in world.daemon.virsh('domblklist', 'guest'), 60, 'the end of vdb')


def network_attach_detach(world):
    world.running()
    card = world.file('card.xml', "<interface type='user'><mac address='52:54:00:aa:bb:cc'/><model type='virtio'/></interface>")
    for _ in range(2):
        world.daemon.virsh('attach-device', 'guest', card, '--live')
        guest_sees(world, '/sys/class/net/eth1')
        assert world.console.shell('cat /sys/class/net/eth1/address') == '52:54:00:aa:bb:cc\n'
        assert '52:54:00:aa:bb:cc' in world.daemon.virsh('domiflist', 'guest')
        world.daemon.virsh('detach-interface', 'guest', 'user', '--mac', '52:54:00:aa:bb:cc', '--live')
        guest_sees(world, '/sys/class/net/eth1', there=False)
        wait_until(lambda: '52:54:00:aa:bb:cc' not in world.daemon.virsh('domiflist', 'guest'), 60, 'the end of the card')


def vcpu_attach_detach(world):
    """A second CPU comes; the guest brings it online; it goes again."""
    world.running()
    for _ in range(2):
        world.daemon.virsh('setvcpus', 'guest', '2', '--live')
        guest_sees(world, '/sys/devices/system/cpu/cpu1')
        world.console.shell('echo 1 >/sys/devices/system/cpu/cpu1/online; [ $(nproc) = 2 ]')
        assert 'vcpu.current=2' in world.daemon.virsh('domstats', '--vcpu', 'guest')
        world.daemon.virsh('setvcpus', 'guest', '1', '--live')
        guest_sees(world, '/sys/devices/system/cpu/cpu1', there=False)
        wait_until(lambda: 'vcpu.current=1' in world.daemon.virsh('domstats', '--vcpu', 'guest'), 60, 'the end of the CPU')


def memory_attach_detach(world):
    """A memory module comes; the guest uses it; it goes again."""
    world.running()
    module = world.file('module.xml', "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>")
    offline = 'grep -l offline /sys/devices/system/memory/memory*/state'
    total = "grep MemTotal /proc/meminfo | tr -s ' ' | cut -d' ' -f2"
    before = int(world.console.shell(total))
    for _ in range(2):
        world.daemon.virsh('attach-device', 'guest', module, '--live')
        wait_until(lambda: 'offline' not in world.console.shell(f'{offline} || echo offline'), 60, 'the module in the guest')
        world.console.shell(f'for m in $({offline}); do echo online_movable >$m; done')
        assert int(world.console.shell(total)) == before + (128 << 10)
        live = [each for each in world.domain_xml().iter('memory') if each.get('model') == 'dimm'][0]
        world.daemon.virsh('detach-device', 'guest', world.file('live.xml', ElementTree.tostring(live, 'unicode')), '--live')
        wait_until(lambda: "model='dimm'" not in world.daemon.virsh('dumpxml', 'guest'), 60, 'the end of the module')
        assert int(world.console.shell(total)) == before


def media_change(world):
    world.running()
    world.daemon.virsh('change-media', 'guest', 'hdc', world.iso, '--insert', '--live')
    assert world.console.shell('head -c 19 /dev/sr0; echo') == 'the inserted medium\n'
    other = world.image('other.iso', 'raw', '1M')
    with open(other, 'r+b') as f:
        f.write(b'another medium here')
    world.daemon.virsh('change-media', 'guest', 'hdc', other, '--update', '--live')
    assert world.console.shell('head -c 19 /dev/sr0; echo') == 'another medium here\n'
    world.daemon.virsh('change-media', 'guest', 'hdc', '--eject', '--live')
    assert world.console.shell('if head -c 19 /dev/sr0 2>/dev/null; then echo still; else echo gone; fi') == 'gone\n'


def pattern(world, text, megabyte):
    """Has the guest write the text at a place of its disk."""
    world.console.shell(f'echo {text} | dd of=/dev/vda bs=1M seek={megabyte} conv=fsync 2>/dev/null')


def has_pattern(world, text, megabyte):
    got = world.console.shell(f'dd if=/dev/vda bs=1M skip={megabyte} count=1 iflag=direct 2>/dev/null | head -c {len(text)}; echo')
    assert got == text + '\n', got


def disk_source(world, target='vda'):
    for line in world.daemon.virsh('domblklist', 'guest').splitlines():
        if line.split()[:1] == [target]:
            return line.split()[1]
    raise GuestError(f'no {target}')


def chain(world):
    """Names of the files from the active layer down, by libvirt's own account."""
    disks = [disk for disk in world.domain_xml().iter('disk') if disk.find('target').get('dev') == 'vda']
    names, at = [], disks[0]
    while at is not None and at.find('source') is not None:
        names.append(os.path.basename(at.find('source').get('file')))
        at = at.find('backingStore')
    return names


def snapshot_external(world):
    world.running()
    pattern(world, 'before', 1)
    world.daemon.virsh('snapshot-create-as', 'guest', 'first', '--disk-only', '--no-metadata', '--diskspec',
                       f'vda,file={world.home()}/first.qcow2', '--diskspec', 'hda,snapshot=no')
    pattern(world, 'after', 2)
    has_pattern(world, 'before', 1)
    assert chain(world) == ['first.qcow2', 'disk.qcow2'], chain(world)


def block_commit(world):
    """The active layer goes into its backing file, and the guest goes on there."""
    if chain(world) == ['disk.qcow2']:
        snapshot_external(world)
    world.daemon.virsh('blockcommit', 'guest', 'vda', '--active', '--wait', '--pivot')
    assert chain(world) == ['disk.qcow2'], chain(world)
    has_pattern(world, 'before', 1)
    has_pattern(world, 'after', 2)
    os.unlink(os.path.join(world.home(), 'first.qcow2'))


def block_pull(world):
    world.running()
    snapshot_external(world)
    pattern(world, 'pulled', 3)
    world.daemon.virsh('blockpull', 'guest', 'vda', '--wait')
    assert chain(world) == ['first.qcow2'], chain(world)
    for text, place in (('before', 1), ('after', 2), ('pulled', 3)):
        has_pattern(world, text, place)


def block_copy(world):
    world.running()
    copy = os.path.join(world.home(), 'copy.qcow2')
    pattern(world, 'copied', 4)
    world.daemon.virsh('blockcopy', 'guest', 'vda', copy, '--format', 'qcow2', '--wait', '--pivot', '--transient-job')
    assert disk_source(world) == copy, disk_source(world)
    has_pattern(world, 'copied', 4)
    pattern(world, 'onward', 5)


def read_at(path, offset, length):
    """Guest's bytes of an image, by Debian's tools."""
    raw = path + '.raw'
    subprocess.run(['qemu-img', 'convert', '-U', '-O', 'raw', path, raw], check=True)
    with open(raw, 'rb') as f:
        f.seek(offset)
        data = f.read(length)
    os.unlink(raw)
    return data


def wait_job(world):
    wait_until(lambda: 'None' in world.daemon.virsh('domjobinfo', 'guest'), 120, 'the end of the job')


def backup_with_checkpoints(world):
    """A full backup, then one of what changed since its checkpoint, then a full one again; each with a checkpoint."""
    world.running()
    pattern(world, 'fullbackup', 6)
    backups = {}
    for name, since in (('one', None), ('two', 'one'), ('three', None)):
        backups[name] = os.path.join(world.home(), f'backup-{name}.qcow2')
        changes = f'<incremental>{since}</incremental>' if since else ''
        job = world.file(f'{name}.xml', f"<domainbackup>{changes}<disks><disk name='vda' type='file'><target file='{backups[name]}'/>"
                                        "<driver type='qcow2'/></disk><disk name='hda' backup='no'/></disks></domainbackup>")
        point = world.file(f'{name}-point.xml', f"<domaincheckpoint><name>{name}</name><disks><disk name='vda' checkpoint='bitmap'/>"
                                                "<disk name='hda' checkpoint='no'/></disks></domaincheckpoint>")
        world.daemon.virsh('backup-begin', 'guest', job, point)
        wait_job(world)
        assert 'Completed' in world.daemon.virsh('domjobinfo', 'guest', '--completed')
        pattern(world, f'after-{name}', 7)
    assert read_at(backups['one'], 6 << 20, 10) == b'fullbackup'
    assert read_at(backups['one'], 7 << 20, 9) == bytes(9), 'the backup holds what came later'
    subprocess.run(['qemu-img', 'rebase', '-u', '-F', 'qcow2', '-b', backups['one'], backups['two']], check=True)
    assert read_at(backups['two'], 6 << 20, 10) == b'fullbackup' and read_at(backups['two'], 7 << 20, 9) == b'after-one'
    assert os.path.getsize(backups['two']) < 2 << 20, 'the incremental backup holds more than what changed'
    assert read_at(backups['three'], 7 << 20, 9) == b'after-two'
    assert set(world.daemon.virsh('checkpoint-list', 'guest', '--name').split()) == {'one', 'two', 'three'}
    for name in ('three', 'two', 'one'):
        world.daemon.virsh('checkpoint-delete', 'guest', name)


def resize(world):
    world.running()
    world.daemon.virsh('blockresize', 'guest', 'vda', '96M')
    wait_until(lambda: world.console.shell('cat /sys/block/vda/size') == f'{96 * 2048}\n', 30, 'the new size')


def throttle(world):
    world.running()
    world.daemon.virsh('blkdeviotune', 'guest', 'vda', '--total-bytes-sec', str(4 << 20))
    assert re.search(r'total_bytes_sec: *4194304', world.daemon.virsh('blkdeviotune', 'guest', 'vda'))
    start = time.time()
    world.console.shell('dd if=/dev/vda of=/dev/null bs=1M count=20 iflag=direct 2>/dev/null')
    slow = time.time() - start
    assert slow > 3, f'20 MiB at 4 MiB a second took {slow:.1f} s'
    world.daemon.virsh('blkdeviotune', 'guest', 'vda', '--total-bytes-sec', '0')


def statistics(world):
    world.running()
    text = world.daemon.virsh('domstats', 'guest')
    for word in ('state.state=1', 'cpu.time=', 'balloon.current=', 'vcpu.current=1', 'block.0.rd.reqs=', 'net.count=1'):
        assert word in text, f'{word} in {text}'
    wait_until(lambda: 'unused' in world.daemon.virsh('dommemstat', 'guest'), 60, "the balloon's report")


def balloon(world):
    world.running()
    world.daemon.virsh('setmem', 'guest', '200M', '--live')
    wait_until(lambda: re.search(r'actual 204800\b', world.daemon.virsh('dommemstat', 'guest')), 60, 'the smaller balloon')
    world.daemon.virsh('setmem', 'guest', '256M', '--live')
    wait_until(lambda: re.search(r'actual 262144\b', world.daemon.virsh('dommemstat', 'guest')), 60, 'the larger balloon')


def link_state(world):
    world.running()
    world.console.shell('ip link set eth0 up')
    for state, carrier in (('down', '0'), ('up', '1')):
        world.daemon.virsh('domif-setlink', 'guest', '52:54:00:11:22:33', state)
        wait_until(lambda: world.console.shell('cat /sys/class/net/eth0/carrier') == carrier + '\n', 30, f'link {state}')


def keys(world):
    world.running()
    world.console.shell('cat /dev/input/event* >/tmp/keys 2>/dev/null & sleep 1')
    world.daemon.virsh('send-key', 'guest', 'KEY_A', 'KEY_B')
    wait_until(lambda: int(world.console.shell('wc -c </tmp/keys')) > 0, 30, 'a key in the guest')
    world.console.shell('kill %1; true')


def suspend_resume(world):
    world.running()
    world.daemon.virsh('suspend', 'guest')
    assert world.daemon.virsh('domstate', 'guest', '--reason') == 'paused (user)'
    world.daemon.virsh('resume', 'guest')
    assert world.console.shell('echo again') == 'again\n'


def sleep_and_wake(world):
    """Suspension to RAM, which the guest asks for, and the end of it by libvirt."""
    world.running()
    world.console.send('echo mem >/sys/power/state; echo a-$((1 + 1))-b\n')
    wait_until(lambda: world.daemon.virsh('domstate', 'guest') == 'pmsuspended', 60, 'suspension')
    world.daemon.virsh('dompmwakeup', 'guest')
    world.console.wait('a-2-b', 60)
    world.console.wait(r'<0>\r\n', 60)
    assert world.daemon.virsh('domstate', 'guest') == 'running'


def remember(world):
    """What a restored guest must still know."""
    world.console.shell('echo the guest remembers >/tmp/memory')


def remembers(world):
    assert world.console.shell('cat /tmp/memory') == 'the guest remembers\n'
    assert world.daemon.virsh('domstate', 'guest') == 'running'


def save_restore(world):
    world.running()
    remember(world)
    path = os.path.join(world.home(), 'saved')
    world.daemon.virsh('save', 'guest', path)
    assert world.daemon.virsh('domstate', 'guest') == 'shut off'
    world.daemon.virsh('restore', path)
    world.connect()
    remembers(world)


def managed_save(world):
    world.running()
    remember(world)
    world.daemon.virsh('managedsave', 'guest')
    assert 'guest' in world.daemon.virsh('list', '--all', '--with-managed-save', '--name')
    world.daemon.virsh('start', 'guest')
    world.connect()
    remembers(world)


def snapshot_internal(world):
    """The state of the machine in its disk image, and back to it."""
    world.running()
    subprocess.run(['virsh', '-q', '-c', world.daemon.uri, 'destroy', 'guest'], capture_output=True)
    tree = world.domain_xml()  # a raw disk takes no snapshot
    devices = tree.find('devices')
    for disk in tree.findall('devices/disk'):
        if disk.find('target').get('dev') == 'hda':
            devices.remove(disk)
    world.daemon.virsh('define', world.file('qcow2.xml', ElementTree.tostring(tree, 'unicode')))
    world.boot()
    remember(world)
    world.daemon.virsh('snapshot-create-as', 'guest', 'inner')
    world.console.shell('echo something else >/tmp/memory')
    assert 'inner' in world.daemon.virsh('snapshot-list', 'guest', '--name')
    world.daemon.virsh('snapshot-revert', 'guest', 'inner', '--force')
    world.connect()
    remembers(world)
    world.daemon.virsh('snapshot-delete', 'guest', 'inner')
    assert 'inner' not in world.daemon.virsh('snapshot-list', 'guest', '--name')


def dump(world):
    world.running()
    for form in ('elf',):
        path = os.path.join(world.home(), 'core.' + form)
        world.daemon.virsh('dump', 'guest', path, '--memory-only', '--live', '--format', form)
        with open(path, 'rb') as f:
            head = f.read(8)
        assert head[:4] == b'\x7fELF' or head == b'KDUMP   ' or head[:7] == b'makedum', head
        os.unlink(path)
    assert world.console.shell('echo still here') == 'still here\n'


def migrate(world):
    """Live, to a second daemon with another name, and back."""
    world.running()
    remember(world)
    there = Daemon(world.original, world.mode, world.directory, 'host-b', 2)
    here = world.daemon
    try:
        for source, target in ((here, there), (there, here)):
            uri = [f'tcp://127.0.0.1:{49900 + (source is here)}']
            source.virsh('migrate', '--live', '--unsafe', '--persistent', '--undefinesource', '--verbose', 'guest', target.uri, *uri)
            assert 'guest' not in source.virsh('list', '--all', '--name').split()
            world.daemon = target
            world.connect()
            remembers(world)
    finally:
        world.daemon = here
        there.close()


def reset(world):
    world.running()
    world.daemon.virsh('reset', 'guest')
    world.console.wait(r'READY\r\n', 300)
    assert world.console.shell('cat /tmp/memory 2>/dev/null || echo forgotten') == 'forgotten\n'


def shutdown(world):
    """By the power button, which the guest heeds."""
    world.running()
    event = world.console.shell('grep -A 4 "Power Button" /proc/bus/input/devices | grep -o "event[0-9]*" | head -n 1').strip()
    world.console.shell(f'(head -c 1 /dev/input/{event} >/dev/null; poweroff -f) & true')
    world.daemon.virsh('shutdown', 'guest')
    wait_until(lambda: world.daemon.virsh('domstate', 'guest', '--reason') == 'shut off (shutdown)', 120, 'the end')


def destroy(world):
    world.running()
    world.daemon.virsh('destroy', 'guest')
    assert world.daemon.virsh('domstate', 'guest', '--reason') == 'shut off (destroyed)'
    world.daemon.virsh('undefine', 'guest')
    assert world.daemon.virsh('list', '--all', '--name') == ''


def virt_install(world):
    """The installer of Debian up to its first dialog, on a machine that virt-install thinks out."""
    world.prepare()
    if not shutil.which('virt-install'):
        raise tap.Skip('virt-install is missing (package virtinst)')
    unpacked = package('debian-installer-12-netboot-amd64', 'all')
    where = one_file(unpacked, 'usr/lib/debian-installer/images/*/amd64/text/debian-installer/amd64')
    kernel, initrd = world.copy(one_file(where, 'linux'), 'di-linux'), world.copy(one_file(where, 'initrd.gz'), 'di-initrd')
    if world.mode == 'system':
        os.makedirs(os.path.join(world.daemon.directory, 'var/lib/libvirt/boot'), exist_ok=True)
    # It keeps copies of both for the emulator, which the daemon's user must be able to read.
    user = ['nsenter', '--mount', '--target', str(world.daemon.process.pid)] if world.mode == 'system' else ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']
    done = subprocess.run([*user, 'virt-install', '--connect', world.daemon.uri, '--name', 'installer', '--virt-type', 'qemu', '--machine', 'pc',
                           '--memory', '1024', '--vcpus', '1', '--disk', 'none', '--network', 'none', '--graphics', 'none', '--sound', 'none',
                           '--controller', 'usb,model=none', '--osinfo', 'detect=off,require=off', '--noautoconsole', '--noreboot',
                           '--install', f'kernel={kernel},initrd={initrd},kernel_args=console=ttyS0 --- quiet,kernel_args_overwrite=yes'],
                          capture_output=True, text=True, timeout=300, env=dict(os.environ, HOME=world.home()))
    assert done.returncode == 0, f'{done.stdout}\n{done.stderr}\n{world.daemon.guest_logs()}'
    terminal = Console(world.daemon, 'installer')
    try:
        terminal.wait('Select a language', 900)
        terminal.wait('English', 60)
    finally:
        terminal.close()
        subprocess.run(['virsh', '-q', '-c', world.daemon.uri, 'destroy', 'installer'], capture_output=True)
        subprocess.run(['virsh', '-q', '-c', world.daemon.uri, 'undefine', 'installer'], capture_output=True)


LINES = [capabilities, define, start, console, screenshot, disk_attach_detach, network_attach_detach, vcpu_attach_detach,
         memory_attach_detach, media_change, snapshot_external,
         block_commit, block_pull, block_copy, backup_with_checkpoints, resize, throttle, statistics, balloon, link_state, keys,
         suspend_resume, sleep_and_wake, save_restore, managed_save, dump, migrate, snapshot_internal, reset, shutdown, destroy,
         virt_install]


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
