#!/usr/bin/env python3
"""curses_test.py EMULATOR: -display curses inside tmux, which is the terminal and tells what is on it."""
import os
import re
import subprocess
import sys
import tempfile
import time

from guest import Skip, need, run


class Terminal:
    """A terminal that runs one command line."""

    def __init__(self, command, columns=100, rows=30):
        if subprocess.run(['sh', '-c', 'command -v tmux'], capture_output=True).returncode:
            raise Skip('tmux is missing (package tmux)')
        self.dir = tempfile.mkdtemp(prefix='terminal-')
        self.socket = os.path.join(self.dir, 'tmux')
        text = 'LC_ALL=C.UTF-8 ' + command + f' 2>{self.dir}/errors; echo "ended with $?"; sleep 1000'
        subprocess.run(['tmux', '-u', '-S', self.socket, '-f', '/dev/null', 'new-session', '-d', '-x', str(columns), '-y', str(rows),
                        text], check=True, env=dict(os.environ, LC_ALL='C.UTF-8'))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tmux('kill-server')

    def tmux(self, *args):
        return subprocess.run(['tmux', '-u', '-S', self.socket, *args], capture_output=True, text=True).stdout

    def screen(self, *how):
        return self.tmux('capture-pane', '-p', *how)

    def wait(self, pattern, seconds=90):
        end = time.time() + seconds
        while not re.search(pattern, self.screen(), re.M):
            assert time.time() < end, f'no {pattern!r} in\n{self.screen()}\n{open(self.dir + "/errors").read()}'
            time.sleep(0.2)
        return self.screen()

    def keys(self, *names):
        self.tmux('send-keys', *names)


def start(emulator, *arguments):
    return Terminal(f'{emulator} -m 64 -net none -display curses ' + ' '.join(arguments))


def consoles_and_monitor(emulator):
    with start(emulator) as t:
        t.wait('Booting from DVD/CD')
        t.keys('M-2')
        t.wait(r'^ *\(qemu\)')
        t.keys('info status', 'Enter')
        t.wait('VM status: running')
        t.keys('M-1')
        t.wait('Booting from DVD/CD')
        t.keys('M-2')
        t.keys('quit', 'Enter')
        t.wait('ended with 0')


def keys_reach_the_guest(emulator):
    image = need('/usr/lib/grub-rescue/grub-rescue-floppy.img', 'grub-rescue-pc')
    with start(emulator, '-drive', f'file={image},if=floppy,format=raw,readonly=on', '-boot', 'a') as t:
        t.wait('GNU GRUB')
        t.wait('─────')  # the box of code page 437
        # Its bright border and what is chosen have colours of their own.
        assert '\033[' in t.screen('-e')
        t.keys('c')
        t.wait('^ *grub>$')
        t.keys('echo "Q{|}~_" x', 'BSpace', '42', 'Left', 'Left', '-l', 'Enter')
        t.wait(r'^ *Q\{\|\}~_ -l42')
        t.keys('Up')
        t.wait(r'^ *grub> echo "Q\{\|\}~_" -l42')
        t.keys('C-u')
        t.keys('M-x', 'Escape')
        t.wait('GNU GRUB')


def layout(emulator):
    image = need('/usr/lib/grub-rescue/grub-rescue-floppy.img', 'grub-rescue-pc')
    with start(emulator, '-k', 'de', '-drive', f'file={image},if=floppy,format=raw,readonly=on', '-boot', 'a') as t:
        t.wait('GNU GRUB')
        t.keys('c')
        t.wait('^ *grub>$')
        # The guest has a US keyboard: it sees what stands on the same keys there.
        t.keys('#yz')
        t.wait(r'^ *grub> \\zy')


def escape_alone(emulator):
    with start(emulator, '-boot', 'menu=on') as t:
        t.wait('boot menu')
        t.keys('Escape')
        t.wait('Select boot device')


def small_and_resized(emulator):
    with start(emulator) as t:
        t.wait('Booting from DVD/CD')
        t.tmux('resize-window', '-x', '40', '-y', '10')
        t.wait('No bootable device|Booting from')
        t.tmux('resize-window', '-x', '120', '-y', '40')
        t.wait(r'^ {15,}SeaBIOS')


def refusals(emulator):
    process = subprocess.run([emulator, '-display', 'curses', '-M', 'none'], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert process.returncode == 1 and 'standard input and output are not a terminal' in process.stderr, process.stderr
    with start(emulator, '-serial', 'stdio') as t:
        t.wait('ended with 1')
        errors = open(t.dir + '/errors').read()
        assert 'the terminal of -display curses is in use by a character device already' in errors, errors
    with start(emulator, '-k', 'xx') as t:
        t.wait('ended with 1')
        assert "there is no keyboard layout 'xx'" in open(t.dir + '/errors').read()


if __name__ == '__main__':
    run([consoles_and_monitor, keys_reach_the_guest, layout, escape_alone, small_and_resized, refusals])
