#!/usr/bin/env python3
"""Debian under load, saved and loaded (savevm, loadvm), saved to a file and started from it, moved to another process over a socket,
in turns: its jobs compare checksums of what they write to disk, hold in memory and compute all the time. MOVES=N times in all (100)."""
import os
import subprocess
import tempfile
import time

import debian_disk
from guest import Guest, GuestError, run
from services import check_image

MOVES = int(os.environ.get('MOVES', '100'))

JOBS = r'''
head -c 16M /dev/urandom > /root/a; sha256sum < /root/a > /dev/shm/first; cat /root/a > /dev/shm/held
cat > /root/disk.sh <<'END'
n=0
while :; do
    cp /root/a /root/b; sync; echo 3 > /proc/sys/vm/drop_caches
    sha256sum < /root/b | cmp -s - /dev/shm/first || echo disk >> /root/bad
    n=$((n + 1)); echo $n > /dev/shm/disk.new; mv /dev/shm/disk.new /dev/shm/disk
done
END
cat > /root/memory.sh <<'END'
n=0
while :; do
    cp /dev/shm/held /dev/shm/copy
    sha256sum < /dev/shm/copy | cmp -s - /dev/shm/first || echo memory >> /root/bad
    n=$((n + 1)); echo $n > /dev/shm/memory.new; mv /dev/shm/memory.new /dev/shm/memory
done
END
cat > /root/work.sh <<'END'
gzip -c /bin/bash | sha256sum > /dev/shm/packed; n=0
while :; do
    gzip -c /bin/bash | sha256sum | cmp -s - /dev/shm/packed || echo work >> /root/bad
    n=$((n + 1)); echo $n > /dev/shm/work.new; mv /dev/shm/work.new /dev/shm/work
done
END
for job in disk memory work; do sh /root/$job.sh > /dev/null 2>&1 & done
'''


class Moving:
    """The guest, in one process after the other."""

    def __init__(self, emulator, directory):
        self.emulator, self.directory = emulator, directory
        self.qemu_img = os.path.join(os.path.dirname(emulator), 'qemu-img')
        self.disk = os.path.join(directory, 'system.qcow2')
        subprocess.run([self.qemu_img, 'create', '-q', '-f', 'qcow2', '-b', debian_disk.disk('standard', emulator), '-F', 'qcow2', self.disk],
                       check=True)
        self.vm = self.start()
        self.times = {'savevm': [], 'loadvm': [], 'file': [], 'socket': []}

    def start(self, *more):
        arguments = ['-m', '512', '-smp', '2', '-drive', f'file={self.disk},if=virtio,format=qcow2', '-nic', 'user,model=virtio-net-pci']
        return Guest(self.emulator, arguments + list(more))

    def log_in(self):
        self.vm.wait_serial(r'login: ', 1800)
        self.vm.send('root\n')
        self.vm.wait_serial(r'root@\S+# ', 300)
        self.vm.send('stty -echo; dmesg -n 1; exec sh\nPS1=; PS2=; echo ready $((1 + 1))\n')
        self.vm.wait_serial(r'ready 2\r\n', 60)

    def progress(self):
        """What the jobs have done; fails when one found an error."""
        text = self.vm.shell('cat /root/bad 2>/dev/null; cat /dev/shm/disk /dev/shm/memory /dev/shm/work', 300)
        counts = text.split()
        assert len(counts) == 3 and all(c.isdigit() for c in counts), text
        return [int(c) for c in counts]

    def goes_on(self):
        before, limit = self.progress(), time.time() + 300
        while any(a <= b for a, b in zip(self.progress(), before)):
            if time.time() > limit:
                raise GuestError(f'the jobs stand still at {before}')
            self.vm.pause(0.5)

    def completed(self):
        limit = time.time() + 600
        while (info := self.vm.qmp('query-migrate'))['status'] != 'completed':
            if info['status'] == 'failed' or time.time() > limit:
                raise GuestError(f'migration {info}')
            time.sleep(0.1)

    def replace(self, target):
        self.vm.close()
        self.vm = target
        limit = time.time() + 300
        while not target.qmp('query-status')['running']:
            if time.time() > limit:
                raise GuestError(f'does not run: {target.stderr()}')
            time.sleep(0.05)

    def snapshot(self):
        for command in ('savevm', 'loadvm'):
            start = time.time()
            text = self.vm.monitor(f'{command} one')
            assert text == '', text
            self.times[command].append(time.time() - start)
            self.vm.pause(1)

    def file(self):
        state, start = os.path.join(self.directory, 'state'), time.time()
        self.vm.qmp('migrate-set-parameters', **{'max-bandwidth': 0})
        self.vm.qmp('migrate', uri='file:' + state)
        self.completed()
        self.replace(self.start('-incoming', 'file:' + state))
        self.times['file'].append(time.time() - start)

    def socket(self):
        path, start = os.path.join(self.directory, 'socket'), time.time()
        target = self.start('-incoming', 'unix:' + path)
        self.vm.qmp('migrate-set-parameters', **{'max-bandwidth': 0})
        self.vm.qmp('migrate', uri='unix:' + path)
        self.completed()
        self.replace(target)
        self.times['socket'].append(time.time() - start)

    def end(self):
        text = self.vm.shell("dmesg | grep -E 'BUG:|Oops|I/O error|EXT4-fs error' || true", 60)
        assert not text, text
        self.vm.send('kill %1 %2 %3; poweroff -f\n')
        self.vm.wait_exit(600)
        check_image(self.qemu_img, self.disk)


def moves(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        moving = Moving(emulator, tmp)
        try:
            moving.log_in()
            moving.vm.shell(JOBS, 300)
            moving.vm.pause(20)
            for n in range(MOVES):
                [moving.snapshot, moving.file, moving.socket][n % 3]()
                moving.goes_on()
                if n % 10 == 9:
                    print(f'# {n + 1} moves, rounds of the jobs: {moving.progress()}', flush=True)
            for name, times in moving.times.items():
                if times:
                    print(f'# {name}: {len(times)} times, {sum(times) / len(times):.1f} s on average', flush=True)
            moving.end()
        finally:
            moving.vm.close()


if __name__ == '__main__':
    run([moves])
