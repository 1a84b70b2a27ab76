#!/usr/bin/env python3
"""process_test.py QEMU-SYSTEM: what the emulator does with the process it is: -run-with, -chroot, -runas, -daemonize, -pidfile,
exit codes, in TAP. What only root may do is skipped for others."""
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import time

from machine import PROGRAM, Machine, same

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

NONE = ['-M', 'none', '-nodefaults', '-display', 'none', '-S']


def status_of(pid):
    with open(f'/proc/{pid}/status') as f:
        return dict(line.rstrip('\n').split(':\t', 1) for line in f if ':\t' in line)


def wait_for(condition, seconds=30):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(.02)


def gone(pid):
    try:
        return status_of(pid)['State'].startswith('Z')
    except (FileNotFoundError, ProcessLookupError):
        return True


def run(*arguments, status=0):
    ended = subprocess.run([PROGRAM, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    same(ended.returncode, status)
    return ended.stderr


def as_root():
    if os.geteuid():
        raise tap.Skip('needs root')


def test_user_and_chroot():
    as_root()
    nobody = pwd.getpwnam('nobody')
    for how, ids in ((['-run-with', 'user=nobody'], (nobody.pw_uid, nobody.pw_gid)), (['-runas', 'nobody'], (nobody.pw_uid, nobody.pw_gid)),
                     (['-run-with', 'user=1234:2345'], (1234, 2345))):
        with tempfile.TemporaryDirectory() as root, Machine(*how, '-run-with', f'chroot={root}') as m:
            status = status_of(m.process.pid)
            same((status['Uid'].split(), status['Gid'].split()), ([str(ids[0])] * 4, [str(ids[1])] * 4))
            same(status['Groups'].split(), [str(ids[1])])
            same(status['CapEff'].strip('0'), '')
            same(os.readlink(f'/proc/{m.process.pid}/root'), root)
            same(m.state(), 'running')
            assert 'hostname2' in m.error('chardev-add', id='f', backend={'type': 'file', 'data': {'out': '/etc/hostname2'}})
    with tempfile.TemporaryDirectory() as root, Machine('-chroot', root) as m:
        same(os.readlink(f'/proc/{m.process.pid}/root'), root)
        same(status_of(m.process.pid)['Uid'].split()[0], '0')


def test_refused():
    as_root()
    for arguments, text in ((['-run-with', 'user=nosuchuser'], 'no such user'), (['-run-with', 'chroot=/nowhere'], 'chroot=/nowhere'),
                            (['-runas', 'a:b'], 'no such user'), (['-run-with', 'colour=red'], 'colour')):
        assert text in run(*NONE, *arguments, status=1), arguments


def test_daemon_gives_up_privileges():
    """The parent leaves when the child is up, with another user and root; a child that fails makes the parent fail."""
    as_root()
    with tempfile.TemporaryDirectory() as folder:
        pidfile, path, root = (os.path.join(folder, n) for n in ('pid', 'qmp', 'root'))
        os.mkdir(root)
        run(*NONE, '-daemonize', '-pidfile', pidfile, '-qmp', f'unix:{path},server=on,wait=off', '-run-with', f'user=nobody,chroot={root}')
        with open(pidfile) as f:
            pid = int(f.read())
        same(status_of(pid)['Uid'].split()[0], str(pwd.getpwnam('nobody').pw_uid))
        same(os.getsid(pid) == os.getsid(0), False)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            stream = client.makefile('rwb')
            assert 'QMP' in json.loads(stream.readline())
            stream.write(b'{"execute": "qmp_capabilities"} {"execute": "quit"}')
            stream.flush()
            same(json.loads(stream.readline()), {'return': {}})
            wait_for(lambda: gone(pid))
        assert 'no such user' in run(*NONE, '-daemonize', '-runas', 'nosuchuser', status=1)


def test_ends_with_parent():
    with tempfile.TemporaryDirectory() as folder:
        pidfile = os.path.join(folder, 'pid')
        shell = subprocess.Popen(['sh', '-c', '"$@" & wait', 'sh', PROGRAM, *NONE, '-pidfile', pidfile, '-run-with', 'exit-with-parent=on'],
                                 stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: os.path.exists(pidfile) and os.path.getsize(pidfile))
        with open(pidfile) as f:
            pid = int(f.read())
        time.sleep(.3)
        assert not gone(pid)
        shell.kill()
        shell.wait()
        wait_for(lambda: gone(pid))
        assert not os.path.exists(pidfile)  # an orderly end


def teardown_of(pid):
    """The children that share the process's memory."""
    out = []
    for name in os.listdir('/proc'):
        try:
            status = status_of(name) if name.isdigit() else {}
        except (FileNotFoundError, ProcessLookupError):
            continue
        if status.get('PPid') == str(pid) and status['Name'] == 'teardown':
            out.append(int(name))
    return out


def test_memory_is_left_to_a_child():
    for option in (['-run-with', 'async-teardown=on'], ['-async-teardown']):
        with Machine(*option) as m:
            wait_for(lambda: teardown_of(m.process.pid))
            child = teardown_of(m.process.pid)[0]
            same(os.listdir(f'/proc/{child}/fd'), [])
            same(m.state(), 'running')
            m.run('quit')
            same(m.process.wait(60), 0)
            wait_for(lambda: gone(child))
    with Machine('-run-with', 'async-teardown=on') as m:
        wait_for(lambda: teardown_of(m.process.pid))
        child = teardown_of(m.process.pid)[0]
        m.process.kill()
        wait_for(lambda: gone(child))


def test_exit_codes():
    for number, expected in ((signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, 0), (signal.SIGKILL, -9)):
        with Machine() as m:
            m.process.send_signal(number)
            same(m.process.wait(60), expected)
    run('-M', 'nosuch', status=1)
    run('-nosuch', status=1)
    run('--version')
    run('-M', 'help')


tap.run(tap.tests_in(globals()), names=sys.argv[2:])
