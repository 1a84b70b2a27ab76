#!/usr/bin/env python3
"""Snapshots of a machine with 1 GiB whose guest goes on writing: how long it stands still, and whether the snapshot is right."""
import os
import re
import subprocess
import tempfile
import time

from guest import Guest, GuestError, add_modules, cloud_kernel, make_initrd, need, run

PAUSE_LIMIT_MS = float(os.environ.get('SNAPSHOT_PAUSE_MS', '100'))

# Half of the memory is random data that never change, and are summed; a quarter is written again and again.
JOB = '''
{modules}
mkdir /data; mount -t tmpfs -o size=800m none /data
dd if=/dev/urandom of=/data/seed bs=1M count=16 2>/dev/null
n=0; while [ $n -lt 28 ]; do cat /data/seed; n=$((n + 1)); done > /data/constant
dd if=/dev/zero of=/data/written bs=1M count=200 2>/dev/null
first=$(md5sum < /data/constant)
(while :; do dd if=/data/constant of=/data/written bs=1M count=200 conv=notrunc 2>/dev/null; done) &
echo JOB-START
n=0
while :; do
    [ "$(md5sum < /data/constant)" = "$first" ] || {{ echo JOB-BAD-MEMORY; break; }}
    dd if=/data/seed of=/dev/vda bs=64k count=16 conv=fsync 2>/dev/null || {{ echo JOB-BAD-WRITE; break; }}
    n=$((n + 1))
    echo JOB-ROUND $n
done
'''


class Setup:
    def __init__(self, tmp):
        make_initrd(tmp, '')
        modules = add_modules(tmp, ['virtio_pci', 'virtio_blk'])
        self.initrd = make_initrd(tmp, JOB.format(modules=modules))
        self.kernel = cloud_kernel()
        self.disk = os.path.join(tmp, 'disk.qcow2')
        subprocess.run([need('/usr/bin/qemu-img', 'qemu-utils'), 'create', '-q', '-f', 'qcow2', self.disk, '1G'], check=True)

    def arguments(self, *more):
        return ['-m', '1024', '-smp', '2', '-kernel', self.kernel, '-initrd', self.initrd, '-append', 'console=ttyS0 quiet panic=-1 no_timer_check',
                '-blockdev', f'qcow2,node-name=disk,file.driver=file,file.filename={self.disk}',
                '-device', 'virtio-blk-pci,drive=disk', '-no-reboot', *more]


def rounds(vm, count):
    number = 0
    for _ in range(count):
        match = vm.wait_serial(r'JOB-(ROUND (\d+)\r|BAD\S*\r)', 300)
        assert match.group(1).startswith(b'ROUND'), match.group(0)
        number = int(match.group(2))
    return number


def seconds_of(event):
    return event['timestamp']['seconds'] + event['timestamp']['microseconds'] / 1e6


def job_done(vm, name):
    """Waits for a job; returns what query-jobs says of it, which is dismissed then."""
    deadline = time.time() + 300
    while time.time() < deadline:
        info = next(job for job in vm.qmp('query-jobs') if job['id'] == name)
        if info['status'] == 'concluded':
            vm.qmp('job-dismiss', id=name)
            return info
        time.sleep(0.1)
    raise AssertionError(f'{name} does not end: {info}')


def saved(vm, name, action):
    """The pause in milliseconds, and how long all of it took."""
    vm.events.clear()
    start = time.time()
    action()
    took = time.time() - start
    stop, resume = vm.wait_event('STOP', 10), vm.wait_event('RESUME', 10)
    pause = (seconds_of(resume) - seconds_of(stop)) * 1000
    print(f'# {name}: {took:.1f} s in all, {pause:.0f} ms of them without the guest', flush=True)
    return pause


def damaged_memory(emulator, setup):
    """Pages that are damaged are found when the guest runs already: it is stopped for good, and its disk keeps what it has."""
    with open(setup.disk, 'r+b') as image:
        size = image.seek(0, os.SEEK_END)
        for at in range(size // 8, size * 7 // 8, 2 << 20):
            image.seek(at)
            if image.read(4096).count(0) > 1024: # perhaps a table of the image
                continue
            image.seek(at + 1234)
            image.write(b'damaged!')
    try:
        with Guest(emulator, setup.arguments('-loadvm', 'three')) as vm:
            vm.wait_for(lambda: vm.qmp('query-status')['status'] == 'internal-error', 120, 'the machine is stopped')
            assert 'cannot be loaded' in vm.stderr(), vm.stderr()
    except GuestError as error: # a host without userfaultfd loads everything first, and says the same
        assert 'sum of record' in str(error), error


def pause_is_short(emulator):
    """savevm and snapshot-save of 1 GiB with a writer; what was saved is loaded and goes on."""
    with tempfile.TemporaryDirectory() as tmp:
        setup = Setup(tmp)
        with Guest(emulator, setup.arguments()) as vm:
            vm.wait_serial('JOB-START', 600)
            first = rounds(vm, 2)

            def savevm():
                assert vm.monitor('savevm one') == '', 'savevm'

            def save_job():
                vm.qmp('snapshot-save', **{'job-id': 'save', 'tag': 'two', 'vmstate': 'disk', 'devices': ['disk']})
                info = job_done(vm, 'save')
                assert 'error' not in info and info['type'] == 'snapshot-save', info

            pauses = [saved(vm, 'savevm', savevm)]
            rounds(vm, 1)
            pauses.append(saved(vm, 'snapshot-save', save_job))
            pauses.append(saved(vm, 'savevm over an old one', savevm))
            rounds(vm, 2)
            vm.qmp('snapshot-load', **{'job-id': 'load', 'tag': 'one', 'vmstate': 'disk', 'devices': ['disk']})
            info = job_done(vm, 'load')
            assert 'error' not in info, info
            assert rounds(vm, 2) >= first
            vm.qmp('snapshot-delete', **{'job-id': 'delete', 'tag': 'one', 'devices': ['disk']})
            assert 'error' not in job_done(vm, 'delete')
            vm.qmp('quit')
            vm.wait_exit(60)
        subprocess.run(['qemu-img', 'check', '-q', setup.disk], check=True)
        listed = subprocess.run(['qemu-img', 'snapshot', '-l', setup.disk], capture_output=True, text=True, check=True).stdout
        assert re.search(r'\btwo\b', listed) and not re.search(r'\bone\b', listed), listed
        with Guest(emulator, setup.arguments('-loadvm', 'two')) as vm:
            rounds(vm, 2)
            # What reads or replaces all memory while some of it is still in the image.
            for action in ('loadvm two', 'savevm three', 'delvm two', 'loadvm three'):
                assert vm.monitor(action) == '', action
            rounds(vm, 2)
            vm.qmp('quit')
            vm.wait_exit(60)
        for _ in range(3): # the end does not wait for memory that nobody needs any more
            with Guest(emulator, setup.arguments('-loadvm', 'three')) as vm:
                start = time.time()
                vm.qmp('quit')
                vm.wait_exit(60)
                print(f'# quit while memory is being loaded: {time.time() - start:.2f} s', flush=True)
        subprocess.run(['qemu-img', 'check', '-q', setup.disk], check=True)
        damaged_memory(emulator, setup)
        assert sorted(pauses)[1] <= PAUSE_LIMIT_MS, pauses


if __name__ == '__main__':
    run([pause_is_short])
