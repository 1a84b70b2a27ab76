#!/usr/bin/env python3
"""The classic command line in an SDL window, under a virtual X server: the window's title, and a picture of it that is
kept beside the test's log (or in $SCREENSHOTS)."""
import os
import shutil
import subprocess
import sys
import tempfile
import time

from guest import Skip, need, run


def free_display():
    for number in range(90, 200):
        if not os.path.exists(f'/tmp/.X11-unix/X{number}') and not os.path.exists(f'/tmp/.X{number}-lock'):
            return number
    raise Skip('no free X display number')


def tool(name, package):
    if not shutil.which(name):
        raise Skip(f'{name} is missing (package {package})')
    return name


def wait_for(condition, seconds, what):
    limit = time.time() + seconds
    while time.time() < limit:
        if condition():
            return
        time.sleep(0.3)
    raise AssertionError(what)


def classic_command_line(emulator):
    for name, package in (('Xvfb', 'xvfb'), ('xwininfo', 'x11-utils'), ('import', 'imagemagick')):
        tool(name, package)
    iso = need('/usr/lib/grub-rescue/grub-rescue-cdrom.iso', 'grub-rescue-pc')
    display = f':{free_display()}'
    shots = os.environ.get('SCREENSHOTS', os.getcwd())
    with tempfile.TemporaryDirectory() as tmp:
        disk = os.path.join(tmp, 'vdisk.img')
        subprocess.run([os.path.join(os.path.dirname(emulator), 'qemu-img'), 'create', '-q', '-f', 'qcow2', disk, '1G'], check=True)
        server = subprocess.Popen(['Xvfb', display, '-noreset', '-screen', '0', '1024x768x24'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        command = [emulator, '-enable-kvm', '-smp', '4', '-m', '1G', '-drive', f'file={disk}', '-cdrom', iso, '-boot',
                   'order=c,once=d,menu=on', '-net', 'nic,netdev=net0', '-netdev', 'user,id=net0', '-soundhw', 'ac97', '-vga', 'std',
                   '-serial', 'mon:stdio', '-name', 'fedora-16']
        env = dict(os.environ, DISPLAY=display)
        errors = open(os.path.join(tmp, 'errors'), 'w+')
        machine = None
        try:
            wait_for(lambda: subprocess.run(['xwininfo', '-root'], env=env, capture_output=True).returncode == 0, 20, 'no X server')
            machine = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)

            def title():
                assert machine.poll() is None, open(errors.name).read()
                out = subprocess.run(['xwininfo', '-root', '-tree'], env=env, capture_output=True, text=True).stdout
                return 'QEMU (fedora-16)' in out
            wait_for(title, 60, 'no window "QEMU (fedora-16)"')
            # The boot menu waits a little, then GRUB shows: its text screen is 640 or 720 pixels of mostly black.
            picture = os.path.join(shots, 'classic-command-line.png')

            def lit():
                subprocess.run(['import', '-window', 'root', picture], env=env, check=True)
                mean = subprocess.run(['convert', picture, '-colorspace', 'Gray', '-format', '%[fx:mean*1000]', 'info:'],
                                      capture_output=True, text=True).stdout
                return float(mean or 0) > 10
            wait_for(lit, 90, f'the window stays dark, see {picture}')
            machine.stdin.write(b'\x01x')
            machine.stdin.flush()
            assert machine.wait(20) == 0
        finally:
            if machine and machine.poll() is None:
                machine.kill()
            server.terminate()
            server.wait()
            errors.close()


def monitor_in_the_window(emulator):
    for name, package in (('Xvfb', 'xvfb'), ('xwininfo', 'x11-utils'), ('xdotool', 'xdotool')):
        tool(name, package)
    display = f':{free_display()}'
    env = dict(os.environ, DISPLAY=display)
    server = subprocess.Popen(['Xvfb', display, '-noreset', '-screen', '0', '1024x768x24'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    machine = None
    try:
        wait_for(lambda: subprocess.run(['xwininfo', '-root'], env=env, capture_output=True).returncode == 0, 20, 'no X server')
        machine = subprocess.Popen([emulator, '-m', '32', '-net', 'none', '-display', 'sdl', '-name', 'here'], env=env,
                                   stderr=subprocess.PIPE, text=True)

        def window():
            assert machine.poll() is None, machine.stderr.read()
            return subprocess.run(['xdotool', 'search', '--name', r'QEMU \(here\)'], env=env, capture_output=True, text=True).stdout.split()
        wait_for(window, 60, 'no window')
        time.sleep(1)
        # The text console has 80 by 24 characters of 8 by 16 pixels, and what is typed there goes to the monitor.
        subprocess.run(['xdotool', 'windowfocus', window()[0], 'key', 'ctrl+alt+2'], env=env, check=True)

        def size():
            out = subprocess.run(['xdotool', 'getwindowgeometry', window()[0]], env=env, capture_output=True, text=True).stdout
            return 'Geometry: 640x384' in out
        wait_for(size, 20, 'the monitor does not show')
        subprocess.run(['xdotool', 'type', 'quitx'], env=env, check=True)
        subprocess.run(['xdotool', 'key', 'BackSpace', 'Return'], env=env, check=True)
        assert machine.wait(20) == 0
    finally:
        if machine and machine.poll() is None:
            machine.kill()
        server.terminate()
        server.wait()


if __name__ == '__main__':
    run([classic_command_line, monitor_in_the_window])
