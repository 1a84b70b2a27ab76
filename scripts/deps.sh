#!/bin/sh
# deps.sh GROUP...: installs the Debian packages that a group of tasks needs, those that are missing only.
# Groups: build (compile), demo (a guest to show), check (the tests' peers and guests), full (make check-full).
set -eu

build="gcc libc6-dev binutils meson ninja-build pkg-config python3 libglib2.0-dev libpixman-1-dev libpng-dev
 zlib1g-dev libzstd-dev liburing-dev libslirp-dev libgcrypt20-dev libgnutls28-dev libcurl4-gnutls-dev libssh-dev libfuse3-dev libpam0g-dev libsdl2-dev libncurses-dev libxkbcommon-dev libseccomp-dev libbz2-dev libiscsi-dev libnfs-dev librbd-dev"
run="seabios ipxe-qemu"
demo="$run busybox-static e2fsprogs cpio linux-image-cloud-amd64 kmod"
check="$demo qemu-utils qemu-system-x86 acpica-tools clang libclang-rt-14-dev grub-rescue-pc memtest86+ multiboot
 nbdkit libnbd-bin python3-libnbd nbd-client cryptsetup-bin gnutls-bin openssh-server openssh-client
 ovmf mtools dosfstools dmg2img tgt grub-invaders grub-firmware-qemu u-boot-qemu isolinux syslinux-common xorriso gdb procps xvfb xauth x11-utils xdotool imagemagick tmux"
full="$check mmdebstrap debian-archive-keyring e2fsprogs fdisk grub-pc-bin grub-common grub-efi-amd64-bin ipxe
 nodejs openjdk-17-jre-headless gcc-multilib libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-system libvirt-clients virtinst nfs-ganesha nfs-ganesha-vfs rpcbind"

wanted=
for group in "$@"; do
    case $group in
    build) wanted="$wanted $build" ;;
    run) wanted="$wanted $run" ;;
    demo) wanted="$wanted $demo" ;;
    check) wanted="$wanted $check" ;;
    full) wanted="$wanted $full" ;;
    *) echo "deps.sh: unknown group '$group'" >&2; exit 2 ;;
    esac
done

missing=
for package in $wanted; do
    state=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$state" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
    sudo=
elif command -v sudo >/dev/null; then
    sudo=sudo
else
    echo "These packages are needed:$missing" >&2
    echo "Install them as root: apt-get install$missing" >&2
    exit 1
fi
echo "Installing:$missing"
$sudo apt-get update -q
# A kernel package must not start boot loader work where there is no boot loader.
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
