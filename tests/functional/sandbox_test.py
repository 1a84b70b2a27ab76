#!/usr/bin/env python3
"""sandbox_test.py QEMU-SYSTEM: the system call filter: what users do with a machine makes no call outside of the lists, and what
starts programs is left to the process that may, in TAP."""
import os
import socket
import subprocess
import sys
import tempfile
import time

from machine import PROGRAM, Machine, same

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402


def status_of(process, field):
    with open(f'/proc/{process.pid}/status') as f:
        return next(line.split()[1] for line in f if line.startswith(field + ':'))


def errors_of(m):
    m.run('quit')
    return m.process.communicate(timeout=60)[1].decode()


def migrated(m, uri):
    m.run('migrate', uri=uri)
    end = time.time() + 60
    while time.time() < end:
        status = m.run('query-migrate')
        if status['status'] in ('completed', 'failed'):
            return status
        time.sleep(0.05)
    raise AssertionError('the migration does not end')


def test_on_and_off():
    with Machine('-sandbox', 'on') as m:
        same(status_of(m.process, 'Seccomp'), '2')
        same(status_of(m.process, 'NoNewPrivs'), '1')
        same(errors_of(m), '')
    with Machine('-sandbox', 'off') as m:
        same(status_of(m.process, 'Seccomp'), '0')


def test_default():
    with Machine() as m:
        same(status_of(m.process, 'Seccomp'), '2')
        same(errors_of(m), '')


def test_ordinary_use():
    with Machine('-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=allow,resourcecontrol=deny') as m:
        same(status_of(m.process, 'Seccomp'), '2')
        m.run('chardev-add', id='p', backend={'type': 'pty', 'data': {}})
        m.run('chardev-add', id='s', backend={'type': 'socket', 'data': {'addr': {'type': 'inet', 'data': {
            'host': '127.0.0.1', 'port': '0'}}, 'server': True, 'wait': False}})
        m.run('chardev-add', id='f', backend={'type': 'file', 'data': {'out': os.path.join(m.dir.name, 'out')}})
        m.run('object-add', qom_type='memory-backend-ram', id='mm', size=1 << 20)
        image = os.path.join(m.dir.name, 'image')
        with open(image, 'wb') as f:
            f.truncate(1 << 20)
        m.run('blockdev-add', driver='raw', node_name='n', file={'driver': 'file', 'filename': image})
        m.run('device_add', driver='virtio-blk-pci', drive='n', id='d')
        m.run('netdev_add', type='user', id='u')
        m.run('device_add', driver='e1000', netdev='u', id='e')
        m.run('human-monitor-command', command_line='info network')
        m.run('query-block')
        m.run('stop')
        m.run('cont')
        state = os.path.join(m.dir.name, 'state')
        moved = migrated(m, f'exec:cat > {state}')
        same((moved['status'], moved.get('error-desc')), ('completed', None))
        assert os.path.getsize(state) > 10000
        text = errors_of(m)
        assert 'filter' not in text, text


def known_host():
    """A machine without /etc/hosts need not know the name."""
    try:
        socket.getaddrinfo('localhost', 1)
        return 'localhost'
    except socket.gaierror:
        return '127.0.0.1'


def test_calls_done_by_others():
    """What is not in the lists and has a stand-in or an answer there: access, pread, pwrite, getpid, gettid, getrandom, sleeps."""
    with Machine('-sandbox', 'on', '-netdev', 'user,id=u', '-device', 'e1000,netdev=u') as m:
        m.run('netdev_add', type='user', id='t', tftp=m.dir.name)
        assert 'cannot' in m.error('netdev_add', type='user', id='w', tftp='/nowhere')
        disk = os.path.join(m.dir.name, 'fat')
        os.mkdir(disk)
        with open(os.path.join(disk, 'hello.txt'), 'w') as f:
            f.write('hello\n' * 1000)
        m.run('blockdev-add', driver='vvfat', node_name='v', dir=disk, rw=True)
        m.run('device_add', driver='virtio-blk-pci', drive='v', id='dv')
        m.run('human-monitor-command', command_line='qemu-io v "read 0 4M"')
        image = os.path.join(m.dir.name, 'image')
        with open(image, 'wb') as f:
            f.truncate(1 << 20)
        m.run('blockdev-add', driver='raw', node_name='n', file={'driver': 'file', 'filename': image}, cache={'direct': True})
        m.run('block_resize', node_name='n', size=1536 * 1024)
        m.run('object-add', qom_type='iothread', id='io')
        thread = m.run('query-iothreads')[0]['thread-id']
        assert os.path.exists(f'/proc/{m.process.pid}/task/{thread}'), thread
        m.run('human-monitor-command', command_line=f'logfile {m.dir.name}/log-%d')
        m.run('object-add', qom_type='rng-random', id='r', filename='/dev/urandom')
        m.run('device_add', driver='virtio-rng-pci', rng='r', id='dr')
        m.run('object-add', qom_type='secret', id='s', data='c2VjcmV0', format='base64')
        m.run('chardev-add', id='c', backend={'type': 'socket', 'data': {'addr': {'type': 'inet', 'data': {
            'host': known_host(), 'port': '0'}}, 'server': True, 'wait': False}})
        text = errors_of(m)
        assert 'filter' not in text, text


def test_command_that_fails():
    with Machine('-sandbox', 'on') as m:
        same(migrated(m, 'exec:exit 3')['status'], 'failed')


def test_incoming_command():
    """The program runs before the filter is on, and ends behind it."""
    with tempfile.TemporaryDirectory() as tmp:
        state = os.path.join(tmp, 'state')
        with Machine('-S') as m:
            same(migrated(m, f'exec:cat > {state}')['status'], 'completed')
        with Machine('-S', '-incoming', f'exec:cat {state}') as m:
            same(status_of(m.process, 'Seccomp'), '2')
            end = time.time() + 60
            while m.state() == 'inmigrate' and time.time() < end:
                time.sleep(0.05)
            assert m.state() in ('prelaunch', 'paused'), m.state()
            same(errors_of(m), '')


def test_no_programs():
    with Machine('-sandbox', 'on,spawn=deny') as m:
        assert 'spawn=deny' in m.error('migrate', uri='exec:cat')
        assert 'filter' not in errors_of(m)


def test_wrong_options():
    for text, complaint in (('on,spawn=perhaps', 'spawn=perhaps: allow or deny'), ('maybe', "maybe"), ('on,colour=red', 'colour')):
        run = subprocess.run([PROGRAM, '-sandbox', text, '-M', 'none'], capture_output=True, timeout=60)
        same(run.returncode, 1)
        assert complaint in run.stderr.decode(), run.stderr


tap.run(tap.tests_in(globals()), names=sys.argv[2:])
