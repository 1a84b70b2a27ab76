#!/usr/bin/env python3
"""Snapshots in memory: a thousand times back over a thousand pages that a program writes, its own code among them; and a Linux at
work. Prints the median of the times."""
import os
import statistics
import struct
import tempfile
import time

from guest import Guest, GuestError, add_modules, cloud_kernel, make_initrd, run

COUNT = int(os.environ.get('MEMORY_RESTORES', '1000'))
PAGES = 1000
MEDIAN_LIMIT_US = 10000
COUNTER, BAD = 0x300000, 0x300004


def program():
    """Counts, puts the number into an instruction, executes that, and writes it to a thousand pages; without end."""
    load = 0x100000
    code = bytes.fromhex('8b1d00003000'            # round: mov ebx, [counter]
                         '43'                      # inc ebx
                         '891d00003000')           # mov [counter], ebx
    patch = load + 32 + len(code) + 8
    code += b'\x89\x1d' + struct.pack('<I', patch + 1)  # mov [patch + 1], ebx
    code += bytes.fromhex('eb00'                   # jmp patch
                          'b800000000'             # patch: mov eax, 0
                          '39d8'                   # cmp eax, ebx
                          '7406'                   # je good
                          '891d04003000'           # mov [bad], ebx
                          'bf00004000')            # good: mov edi, 4 MiB
    code += b'\xb9' + struct.pack('<I', PAGES)     # mov ecx, PAGES
    code += bytes.fromhex('891f'                   # touch: mov [edi], ebx
                          '81c700100000'           # add edi, 4096
                          '49'                     # dec ecx
                          '75f5')                  # jnz touch
    code += b'\xe9' + struct.pack('<i', -len(code) - 5)
    magic, flags = 0x1badb002, 0x10000
    end = load + 32 + len(code)
    return struct.pack('<8I', magic, flags, -(magic + flags) & 0xffffffff, load, load, end, end, load + 32) + code


def word(vm, address):
    return int(vm.monitor(f'xp /1wx {address:#x}').split(':')[1], 16)


def wait_counting(vm):
    limit = time.time() + 60
    while word(vm, COUNTER) < 2:
        if time.time() > limit:
            raise GuestError('the program does not count')
        time.sleep(0.05)


def thousand_pages(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        kernel = os.path.join(tmp, 'program')
        with open(kernel, 'wb') as f:
            f.write(program())
        with Guest(emulator, ['-m', '256', '-kernel', kernel, '-nic', 'none'], serial=False) as vm:
            wait_counting(vm)
            begin = word(vm, COUNTER)  # it runs on: what is taken and gone back to is no less
            first = vm.qmp('x-memory-snapshot-take', check=True)
            times, wait = [], 0.002
            while len(times) < COUNT:
                time.sleep(wait)
                check = len(times) % 100 == 0
                result = vm.qmp('x-memory-snapshot-restore', check=check)
                if result['pages'] < PAGES:
                    wait = min(wait * 1.5, 0.1)  # it did not come round
                elif not check:
                    times.append(result['microseconds'])
                else:
                    times.append(times[-1] if times else 0)
            times.sort()
            median = statistics.median(times)
            print(f'# {COUNT} restores of at least {PAGES} pages: median {median / 1000:.2f} ms, 95% within '
                  f'{times[len(times) * 95 // 100] / 1000:.2f} ms; the first copy took {first["microseconds"] / 1000:.0f} ms for '
                  f'{first["pages"]} pages', flush=True)
            vm.qmp('stop')
            assert word(vm, BAD) == 0, 'an instruction that was changed back was executed as it had been'
            assert word(vm, COUNTER) >= begin
            again = vm.qmp('x-memory-snapshot-take')
            assert again['pages'] < PAGES * 4, again
            vm.qmp('x-memory-snapshot-drop')
            try:
                vm.qmp('x-memory-snapshot-restore')
                raise AssertionError('there is nothing to go back to')
            except GuestError:
                pass
            assert median <= MEDIAN_LIMIT_US, median


JOB = '''
{modules}
ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0
dd if=/dev/urandom of=/tmp/data bs=4096 count=512 2>/dev/null
first=$(sha256sum < /tmp/data)
n=0
echo JOB-START
while :; do
    cp /tmp/data /tmp/copy
    [ "$(sha256sum < /tmp/copy)" = "$first" ] || {{ echo JOB-BAD; break; }}
    arping -c 1 -w 9 -I eth0 10.0.2.2 > /dev/null || {{ echo JOB-BAD-NET; break; }}
    n=$((n + 1))
    echo JOB-ROUND $n
done
'''


def linux_goes_back(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        make_initrd(tmp, '')
        initrd = make_initrd(tmp, JOB.format(modules=add_modules(tmp, ['virtio_pci', 'virtio_net'])))
        with Guest(emulator, ['-m', '192', '-smp', '2', '-kernel', cloud_kernel(), '-initrd', initrd, '-append', 'console=ttyS0 quiet panic=-1',
                              '-nic', 'user,model=virtio-net-pci']) as vm:
            vm.wait_serial('JOB-START', 300)
            vm.wait_serial(r'JOB-ROUND 2\r', 120)
            vm.qmp('x-memory-snapshot-take', check=True)
            pages = []
            for n in range(20):
                vm.pause(0.3)
                vm.seen = len(vm.serial_text)
                pages.append(vm.qmp('x-memory-snapshot-restore', check=n % 5 == 0)['pages'])
                found = vm.wait_serial(r'JOB-(ROUND (\d+)\r|BAD)', 120)
                assert found.group(2) and 3 <= int(found.group(2)) <= 40, found.group(0)
            vm.wait_serial(r'JOB-ROUND \d+\r', 120)
            print(f'# {len(pages)} restores, {min(pages)} to {max(pages)} pages', flush=True)


def disk_is_refused(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        disk = os.path.join(tmp, 'disk')
        with open(disk, 'wb') as f:
            f.truncate(1 << 20)
        with Guest(emulator, ['-m', '64', '-drive', f'file={disk},format=raw,if=virtio', '-S'], serial=False) as vm:
            try:
                vm.qmp('x-memory-snapshot-take')
                raise AssertionError('a disk that can be written was taken')
            except GuestError as error:
                assert 'can be written' in str(error), error


if __name__ == '__main__':
    run([thousand_pages, linux_goes_back, disk_is_refused])
