#!/usr/bin/env python3
"""debian_disk.py KERNEL QEMU_IMG OUT.qcow2: makes a disk with Debian 12, systemd and GRUB for BIOS machines, as root, from the
distribution's packages. KERNEL is "standard" (linux-image-amd64) or "cloud" (linux-image-cloud-amd64).

No loop device is needed: mmdebstrap fills a directory, mke2fs -d copies it into a file system image, which goes into a
GPT disk behind a BIOS boot partition; GRUB's boot sector and core image are put in place by hand. Tests call disk(),
which keeps what was made in a directory of the build tree, under a name that depends on this file's text."""
import fcntl
import glob
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile

SUITE = 'bookworm'
KERNELS = {'standard': 'linux-image-amd64', 'cloud': 'linux-image-cloud-amd64'}
PACKAGES = ['systemd-sysv', 'udev', 'dbus', 'libpam-systemd', 'iproute2', 'ifupdown', 'isc-dhcp-client', 'pciutils', 'procps', 'kmod',
            'busybox-static', 'dmidecode', 'acpica-tools', 'ethtool']
TOOLS = {'mmdebstrap': 'mmdebstrap', 'mke2fs': 'e2fsprogs', 'sfdisk': 'fdisk', 'grub-mkimage': 'grub-common'}
GRUB_DIRECTORY = '/usr/lib/grub/i386-pc'  # package grub-pc-bin
GRUB_MODULES = ['biosdisk', 'part_gpt', 'ext2', 'search', 'search_label', 'configfile', 'linux', 'normal', 'serial', 'terminal', 'gzio',
                'echo', 'test']

SECTOR = 512
MIB = 1 << 20
CORE_LBA = 2048          # the BIOS boot partition, 1 MiB
ROOT_LBA = 4096
ROOT_MIB = {'standard': 1536, 'cloud': 1024}

# Runs in the directory that will be the root file system ($1): root without a password, nothing in the way of tests.
CUSTOMIZE = r'''set -e
chroot "$1" passwd -d root >/dev/null
echo guest > "$1/etc/hostname"
echo "127.0.0.1 localhost guest" > "$1/etc/hosts"
echo "LABEL=root / ext4 defaults 0 1" > "$1/etc/fstab"
printf 'auto lo\niface lo inet loopback\n' > "$1/etc/network/interfaces"
mkdir -p "$1/boot/grub"
cat > "$1/boot/grub/grub.cfg" <<'GRUB'
set timeout=2
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
menuentry "Debian" {
    search --set=root --label root
    linux /vmlinuz root=LABEL=root rw console=tty0 console=ttyS0,115200
    initrd /initrd.img
}
GRUB
'''
EARLY_CONFIG = 'search --set=root --label root\nset prefix=($root)/boot/grub\nconfigfile /boot/grub/grub.cfg\n'


def run_tool(*command):
    result = subprocess.run(command, capture_output=True, text=True, errors='replace')
    if result.returncode:
        raise RuntimeError(f'{command[0]} failed:\n{(result.stdout + result.stderr)[-3000:]}')


def missing_tools():
    """Packages whose tools are not there."""
    os.environ['PATH'] += ':/usr/sbin:/sbin'
    packages = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
    return packages + ([] if os.path.exists(f'{GRUB_DIRECTORY}/boot.img') else ['grub-pc-bin'])


def make_root(kernel, work):
    root = os.path.join(work, 'root')
    without = [f'--dpkgopt=path-exclude=/usr/share/{name}/*' for name in ('man', 'locale', 'doc')]
    run_tool('mmdebstrap', '--variant=minbase', '--include=' + ','.join([KERNELS[kernel]] + PACKAGES), *without,
             '--customize-hook=' + CUSTOMIZE, SUITE, root)
    return root


def make_core(work):
    """GRUB's core image, told which sectors it lies in: its first sector loads the rest by a list at its end."""
    early = os.path.join(work, 'early.cfg')
    core = os.path.join(work, 'core.img')
    with open(early, 'w') as f:
        f.write(EARLY_CONFIG)
    run_tool('grub-mkimage', '-O', 'i386-pc', '-o', core, '-c', early, '-p', '/boot/grub', *GRUB_MODULES)
    with open(core, 'rb') as f:
        image = bytearray(f.read())
    rest = (len(image) + SECTOR - 1) // SECTOR - 1
    struct.pack_into('<QHH', image, 0x1f4, CORE_LBA + 1, rest, 0x820)
    return bytes(image)


def make_boot_code():
    """GRUB's boot sector: where the core image begins, and the BIOS's word for the drive number."""
    with open(f'{GRUB_DIRECTORY}/boot.img', 'rb') as f:
        image = bytearray(f.read())
    struct.pack_into('<Q', image, 0x5c, CORE_LBA)
    image[0x66:0x68] = b'\x90\x90'
    return bytes(image[:440])


def make_disk(kernel, qemu_img, out):
    root_mib = ROOT_MIB[kernel]
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(out))) as work:
        root = make_root(kernel, work)
        core = make_core(work)
        disk = os.path.join(work, 'disk.raw')
        with open(disk, 'wb') as f:
            f.truncate(ROOT_LBA * SECTOR + (root_mib + 1) * MIB)
        table = (f'label: gpt\nstart={CORE_LBA}, size={ROOT_LBA - CORE_LBA}, type=21686148-6449-6E6F-744E-656564454649\n'
                 f'start={ROOT_LBA}, size={root_mib * MIB // SECTOR}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n')
        subprocess.run(['sfdisk', '-q', disk], input=table, text=True, check=True)
        run_tool('mke2fs', '-q', '-t', 'ext4', '-L', 'root', '-E', f'root_owner=0:0,offset={ROOT_LBA * SECTOR}', '-d', root, disk,
                 f'{root_mib}M')
        with open(disk, 'r+b') as f:
            f.write(make_boot_code())
            f.seek(CORE_LBA * SECTOR)
            f.write(core)
        made = os.path.join(work, 'disk.qcow2')
        run_tool(qemu_img, 'convert', '-f', 'raw', '-O', 'qcow2', '-c', disk, made)
        os.rename(made, out)


def disk(kernel, emulator):
    """The path of the disk with that kernel, made if it is not in the build tree yet. For reading: tests write to an overlay."""
    from guest import Skip
    programs = os.path.dirname(emulator)
    cache = os.path.join(programs, '..', '..', 'guest-disks')
    os.makedirs(cache, exist_ok=True)
    with open(os.path.abspath(__file__), 'rb') as f:
        key = hashlib.sha256(f.read()).hexdigest()[:12]
    path = os.path.abspath(os.path.join(cache, f'debian-{kernel}-{key}.qcow2'))
    with open(path + '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(path):
            packages = missing_tools()
            if packages:
                raise Skip('making a Debian disk needs ' + ', '.join(packages))
            if os.geteuid() != 0:
                raise Skip('making a Debian disk needs root')
            for old in glob.glob(os.path.join(cache, f'debian-{kernel}-*.qcow2*')):
                if old != path + '.lock':
                    os.unlink(old)
            make_disk(kernel, os.path.join(programs, 'qemu-img'), path)
    return path


if __name__ == '__main__':
    if len(sys.argv) != 4 or sys.argv[1] not in KERNELS:
        sys.exit(__doc__.splitlines()[0])
    missing = missing_tools()
    if missing:
        sys.exit('debian_disk.py: install ' + ' '.join(missing))
    make_disk(*sys.argv[1:])
