#!/usr/bin/env python3
"""Booting from the network: iPXE from its own CD, and the menu of Debian's installer by PXE, whose picture is compared with the
background that the installer itself brings."""
import os
import tempfile

from guest import Guest, need, run
from packages import one_file, package
from picture import Picture

INSTALLER = 'debian-installer-12-netboot-amd64'


def ipxe_cd(emulator):
    iso = need('/usr/lib/ipxe/ipxe.iso', 'ipxe')
    with Guest(emulator, ['-m', '128', '-cdrom', iso, '-boot', 'd', '-netdev', 'user,id=n', '-device', 'e1000,netdev=n,romfile='],
               serial=False) as vm:
        vm.wait_screen(r'net0: 10\.0\.2\.15/255\.255\.255\.0', 120)


def installer_menu(emulator):
    tftp = one_file(package(INSTALLER, 'all'), 'usr/lib/debian-installer/images/*/amd64/text')
    splash = Picture.load(one_file(tftp, '**/boot-screens/splash.png'))
    with tempfile.TemporaryDirectory() as tmp:
        shot = os.path.join(tmp, 'menu.png')
        with Guest(emulator, ['-m', '512', '-netdev', f'user,id=n,tftp={tftp},bootfile=/pxelinux.0', '-device', 'e1000,netdev=n',
                              '-boot', 'n'], serial=False) as vm:

            def menu_drawn():
                vm.screenshot(shot)
                picture = Picture.load(shot)
                if (picture.width, picture.height) != (640, 480):
                    return False
                # Outside of the menu the background is untouched; inside are its lines, one of them marked.
                for region in ((0, 0, 640, 140), (0, 260, 640, 480), (0, 0, 120, 480), (520, 0, 640, 480)):
                    if picture.difference(splash, region) > 4:
                        return False
                white = picture.share(lambda r, g, b: min(r, g, b) > 200, (130, 150, 510, 250))
                marked = picture.difference(splash, (300, 186, 500, 198))
                return 0.01 < white < 0.3 and marked > 20
            vm.wait_for(menu_drawn, 180, 'the menu did not come, see the screenshot', keep=shot)


if __name__ == '__main__':
    run([ipxe_cd, installer_menu])
