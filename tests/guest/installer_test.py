#!/usr/bin/env python3
"""Debian's installer to its first dialog, "Select a language": on a serial line, on the VGA's frame buffer in text and in
graphics. There the choice is moved with the keyboard, and the pointer with the mouse. The last pictures are kept."""
import os
import tempfile

from guest import Guest, keep_artefact, run
from packages import one_file, package
from picture import Picture


def files(kind, architecture='amd64'):
    """Kernel and initial RAM disk of an installer: text or gtk."""
    unpacked = package(f'debian-installer-12-netboot-{architecture}', 'all')
    where = one_file(unpacked, f'usr/lib/debian-installer/images/*/{architecture}/{kind}/debian-installer/{architecture}')
    return ['-kernel', one_file(where, 'linux'), '-initrd', one_file(where, 'initrd.gz')]


def serial_dialog(emulator, architecture, *arguments):
    with Guest(emulator, ['-m', '1024', *files('text', architecture), '-append', 'console=ttyS0 --- quiet', '-net', 'none',
                          *arguments]) as vm:
        vm.wait_serial('Select a language', 900)
        vm.wait_serial('English', 60)


def text_on_serial_line(emulator):
    serial_dialog(emulator, 'amd64')


def text_of_32_bits(emulator):
    serial_dialog(os.path.join(os.path.dirname(emulator), 'qemu-system-i386'), 'i386', '-cpu', 'pentium3', '-m', '512')


class Screen:
    """What a dialog looks like, in pictures of the guest's screen."""

    def __init__(self, vm, path):
        self.vm, self.path = vm, path

    def picture(self):
        self.vm.screenshot(self.path)
        return Picture.load(self.path)

    def rows(self, picture, column, test):
        """The rows of the picture whose pixel in that column passes the test."""
        return [y for y in range(picture.height) if test(*picture.pixel(column, y))]


def text_on_screen(emulator):
    def red(r, g, b):
        return r > 120 and g < 60 and b < 60

    with tempfile.TemporaryDirectory() as tmp:
        with Guest(emulator, ['-m', '1024', *files('text'), '-append', '--- quiet', '-net', 'none'], serial=False) as vm:
            screen = Screen(vm, os.path.join(tmp, 'installer-text.png'))

            def marked():
                picture = screen.picture()
                if picture.width < 1024 or picture.share(lambda r, g, b: r == g == b and 160 < r < 180) < 0.6:
                    return None
                blue = picture.share(lambda r, g, b: b > 120 and r < 60 and g < 60)
                rows = screen.rows(picture, picture.width // 2, red)
                return rows if 0.02 < blue < 0.3 and 12 <= len(rows) <= 40 else None
            vm.wait_for(marked, 900, 'no dialog', keep=screen.path)
            before = marked()
            vm.keys('down')
            vm.wait_for(lambda: (marked() or before)[-1] > before[-1], 60, 'the choice does not move', keep=screen.path)
            keep_artefact(screen.path)


def graphical(emulator):
    def chosen(r, g, b):
        return r < 80 and 100 < g < 160 and 90 < b < 150

    with tempfile.TemporaryDirectory() as tmp:
        with Guest(emulator, ['-m', '1536', *files('gtk'), '-append', 'vga=788 --- quiet', '-net', 'none'], serial=False) as vm:
            screen = Screen(vm, os.path.join(tmp, 'installer-graphical.png'))

            def marked():
                picture = screen.picture()
                height = picture.height
                banner = picture.share(lambda r, g, b: r < 60 and g > b // 2 and b > 60, (0, 0, picture.width, height // 12))
                white = picture.share(lambda r, g, b: r == g == b == 255)
                if banner < 0.5 or not 0.4 < white < 0.9:
                    return None
                rows = [y for y in screen.rows(picture, picture.width * 3 // 4, chosen) if y > height // 8]
                return rows if 10 <= len(rows) <= 40 else None
            vm.wait_for(marked, 900, 'no dialog', keep=screen.path)
            before = marked()
            vm.keys('down')
            vm.wait_for(lambda: (marked() or before)[-1] > before[-1], 60, 'the choice does not move', keep=screen.path)
            still = screen.picture()
            vm.monitor('mouse_move -100 -60')
            vm.wait_for(lambda: screen.picture().rgb != still.rgb, 60, 'the pointer does not move', keep=screen.path)
            keep_artefact(screen.path)


if __name__ == '__main__':
    run([text_on_serial_line, text_on_screen, graphical, text_of_32_bits])
