#!/bin/sh
# demo.sh BUILD: boots a small Linux from a qcow2 disk on this terminal: the kernel of Debian's package, a BusyBox
# user space, the network up. Everything is made below BUILD/demo, by Debian's packages and our own qemu-img.
set -eu

build=$1
dir=$build/demo
emulator=$build/src/main/qemu-system-x86_64
qemu_img=$build/src/main/qemu-img
kernel=$(ls /boot/vmlinuz-*cloud-amd64 | tail -n 1)
release=${kernel#/boot/vmlinuz-}
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$dir"

# Prints the module files that the named modules need, in loading order.
modules_for() {
    for name in "$@"; do
        modprobe -S "$release" --show-depends "$name" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | awk '!seen[$0]++'
}

busybox_tree() {
    rm -rf "$1"
    mkdir -p "$1/bin" "$1/proc" "$1/sys" "$1/dev" "$1/etc" "$1/tmp" "$1/root" "$1/lib/modules"
    cp /bin/busybox "$1/bin/busybox"
}

# The root file system on the disk.
busybox_tree "$dir/root"
cat > "$dir/root/etc/udhcpc" <<'TXT'
#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ifconfig "$interface" "$ip" netmask "$subnet"
route add default gw "$router"
echo "nameserver $dns" > /etc/resolv.conf
TXT
cat > "$dir/root/bin/start" <<'TXT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
hostname ostrich
ifconfig lo up
ifconfig eth0 up
udhcpc -i eth0 -s /etc/udhcpc -q -n >/dev/null 2>&1
echo
echo "Linux $(uname -r) on $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2-), booted from a qcow2 disk."
echo "Network: eth0 has $(ifconfig eth0 | sed -n 's/.*inet addr:\([^ ]*\).*/\1/p')"
echo "To leave: type 'poweroff -f', or Ctrl-a then x."
echo
cd /root
exec setsid cttyhack sh
TXT
chmod +x "$dir/root/etc/udhcpc" "$dir/root/bin/start"

# The initial file system loads the drivers and goes on to the disk.
busybox_tree "$dir/initrd"
load=
for file in $(modules_for virtio_pci virtio_blk virtio_net ext4); do
    cp "$file" "$dir/initrd/lib/modules/"
    load="$load
insmod /lib/modules/$(basename "$file") 2>/dev/null"
done
cat > "$dir/initrd/init" <<TXT
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
$load
while [ ! -b /dev/vda ]; do sleep 0.1; done
mkdir -p /new
mount -t ext4 /dev/vda /new || exec sh
for d in proc sys dev; do mount --move /\$d /new/\$d; done
exec switch_root /new /bin/start
TXT
chmod +x "$dir/initrd/init"
(cd "$dir/initrd" && find . | cpio -o -H newc --quiet | gzip -1) > "$dir/initrd.gz"

rm -f "$dir/disk.raw" "$dir/disk.qcow2"
truncate -s 64M "$dir/disk.raw"
mke2fs -q -t ext4 -d "$dir/root" "$dir/disk.raw"
"$qemu_img" convert -f raw -O qcow2 "$dir/disk.raw" "$dir/disk.qcow2"

echo "Starting: $(basename "$emulator") -m 256 -nographic, disk $dir/disk.qcow2"
exec "$emulator" -m 256 -nographic -no-reboot \
    -kernel "$kernel" -initrd "$dir/initrd.gz" -append "console=ttyS0 quiet net.ifnames=0" \
    -drive "file=$dir/disk.qcow2,format=qcow2,if=virtio" \
    -netdev user,id=net0 -device virtio-net-pci,netdev=net0,romfile=
