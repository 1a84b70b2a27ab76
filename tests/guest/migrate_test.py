#!/usr/bin/env python3
"""A Linux guest at work, saved, loaded and moved: its checksum job, disk and network go on without an error."""
import os
import re
import subprocess
import tempfile
import time

from guest import Guest, GuestError, add_modules, cloud_kernel, make_initrd, need, run

# Every round hashes the same data in memory and what it wrote to the disk; a difference is reported and ends it.
JOB = '''
{modules}
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
dd if=/dev/urandom of=/tmp/data bs=4096 count=1024 2>/dev/null
first=$(sha256sum < /tmp/data)
n=0
while read word; do echo $word > /tmp/word.new; mv /tmp/word.new /tmp/word; done < /dev/console &
echo JOB-START
while :; do
    [ "$(sha256sum < /tmp/data)" = "$first" ] || {{ echo JOB-BAD-MEMORY; break; }}
    if [ -b /dev/vda ]; then
        dd if=/tmp/data of=/dev/vda bs=4096 seek=$(((n % 8) * 1024)) conv=fsync 2>/dev/null || {{ echo JOB-BAD-WRITE; break; }}
        echo 3 > /proc/sys/vm/drop_caches
        [ "$(dd if=/dev/vda bs=4096 skip=$(((n % 8) * 1024)) count=1024 2>/dev/null | sha256sum)" = "$first" ] || {{ echo JOB-BAD-DISK; break; }}
    fi
    n=$((n + 1))
    echo JOB-ROUND $n
    if [ -e /tmp/word ]; then
        word=$(cat /tmp/word); rm /tmp/word
        case "$word" in
            net) arping -c 1 -w 5 -I eth0 10.0.2.2 > /dev/null && echo JOB-NET-OK || echo JOB-NET-BAD;;
            stop) break;;
        esac
    fi
done
dmesg | grep -E 'BUG:|Oops|stalls|lockup|I/O error|clocksource.*unstable' && echo JOB-BAD-KERNEL
echo JOB-END
poweroff -f
'''


class Setup:
    """The files of one test: initrd with the job, a disk."""

    def __init__(self, tmp, fmt='qcow2'):
        self.tmp = tmp
        self.kernel = cloud_kernel()
        make_initrd(tmp, '')
        modules = add_modules(tmp, ['virtio_pci', 'virtio_blk', 'virtio_net'])
        self.initrd = make_initrd(tmp, JOB.format(modules=modules))
        self.disk = os.path.join(tmp, 'disk.' + fmt)
        self.fmt = fmt
        if fmt == 'qcow2':
            subprocess.run([need('/usr/bin/qemu-img', 'qemu-utils'), 'create', '-q', '-f', 'qcow2', self.disk, '64M'], check=True)
        else:
            with open(self.disk, 'wb') as f:
                f.truncate(64 << 20)

    def arguments(self, *more):
        return ['-m', '192', '-kernel', self.kernel, '-initrd', self.initrd, '-append', 'console=ttyS0 quiet panic=-1 no_timer_check',
                '-drive', f'file={self.disk},if=virtio,format={self.fmt}', '-nic', 'user,model=virtio-net-pci',
                '-no-reboot', *more]


def job_started(vm):
    vm.wait_serial(r'JOB-START', 300)
    return job_rounds(vm, 2)


def job_rounds(vm, count):
    """Waits until the job has done `count` more rounds; returns the number of the last."""
    number = 0
    for _ in range(count):
        match = vm.wait_serial(r'JOB-(ROUND (\d+)\r|BAD\S*\r|END)', 120)
        assert match.group(1).startswith(b'ROUND'), match.group(0)
        number = int(match.group(2))
    return number


def next_round(vm):
    """The number of the next round that the job will end: what it has said by now is skipped."""
    vm.pause(0.3)
    vm.seen = len(vm.serial_text)
    return job_rounds(vm, 1)


def network_works(vm):
    vm.send('net\n')
    assert vm.wait_serial(r'JOB-NET-(OK|BAD)', 120).group(1) == b'OK'


def job_ends_well(vm):
    vm.send('stop\n')
    verdict = vm.wait_serial(r'JOB-(END|BAD\S*)', 120).group(1)
    assert verdict == b'END', (verdict, vm.serial_text[-1500:].decode(errors='replace'))
    vm.wait_exit(60)


def capable(vm, *names):
    vm.qmp('migrate-set-capabilities', capabilities=[{'capability': name, 'state': True} for name in names])


def migrated(vm, uri, seconds=120):
    vm.qmp('migrate', uri=uri)
    return completed(vm, seconds)


def completed(vm, seconds=120):
    limit = time.time() + seconds
    while time.time() < limit:
        info = vm.qmp('query-migrate')
        if info['status'] == 'completed':
            return info
        if info['status'] in ('failed', 'cancelled'):
            raise GuestError(f'migration {info}')
        time.sleep(0.1)
    raise GuestError(f'migration does not end: {info}')


def running(vm):
    limit = time.time() + 60
    while not vm.qmp('query-status')['running']:
        if time.time() > limit:
            raise GuestError(f'does not run: {vm.qmp("query-status")} {vm.stderr()}')
        time.sleep(0.05)


def saved_to_file(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        setup = Setup(tmp)
        state = os.path.join(tmp, 'state')
        with Guest(emulator, setup.arguments()) as vm:
            before = job_started(vm)
            network_works(vm)
            migrated(vm, 'file:' + state)
            assert vm.qmp('query-status')['status'] == 'postmigrate'
            vm.qmp('quit')
            vm.wait_exit(30)
        with Guest(emulator, setup.arguments('-incoming', 'file:' + state)) as vm:
            running(vm)
            assert job_rounds(vm, 3) >= before + 2
            network_works(vm)
            job_ends_well(vm)


def saved_to_command(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        setup = Setup(tmp)
        state = os.path.join(tmp, 'state.gz')
        with Guest(emulator, setup.arguments('-smp', '2')) as vm:
            before = job_started(vm)
            vm.qmp('stop')
            migrated(vm, f'exec:gzip -1 > {state}')
            vm.qmp('quit')
            vm.wait_exit(30)
        with Guest(emulator, setup.arguments('-smp', '2', '-incoming', 'defer')) as vm:
            assert vm.qmp('query-status')['status'] == 'inmigrate'
            vm.qmp('migrate-incoming', uri=f'exec:gzip -d < {state}')
            limit = time.time() + 60
            while vm.qmp('query-status')['status'] == 'inmigrate' and time.time() < limit:
                time.sleep(0.1)
            # Saved while paused: it stays so.
            assert vm.qmp('query-status')['status'] == 'paused', vm.qmp('query-status')
            vm.qmp('cont')
            assert job_rounds(vm, 3) >= before + 2
            job_ends_well(vm)


def snapshots_in_the_image(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        setup = Setup(tmp)
        with Guest(emulator, setup.arguments()) as vm:
            before = job_started(vm)
            start = time.time()
            assert vm.monitor('savevm one') == '', 'savevm'
            assert time.time() - start < 30
            saved = next_round(vm)
            assert ' one ' in vm.monitor('info snapshots')
            job_rounds(vm, 5)
            assert vm.monitor('loadvm one') == '', 'loadvm'
            again = job_rounds(vm, 1)
            assert before <= again <= saved, (before, again, saved)
            network_works(vm)
            assert 'does not exist' in vm.monitor('loadvm two')
            job_rounds(vm, 2)
            assert vm.monitor('savevm two') == ''
            assert vm.monitor('delvm one') == ''
            assert ' one ' not in vm.monitor('info snapshots')
            vm.qmp('quit')
            vm.wait_exit(30)
        listed = subprocess.run(['qemu-img', 'snapshot', '-l', setup.disk], capture_output=True, text=True, check=True).stdout
        assert ' two ' in listed and ' one ' not in listed, listed
        subprocess.run(['qemu-img', 'check', '-q', setup.disk], check=True)
        with Guest(emulator, setup.arguments('-loadvm', 'two')) as vm:
            job_rounds(vm, 3)
            network_works(vm)
            job_ends_well(vm)
        subprocess.run(['qemu-img', 'check', '-q', setup.disk], check=True)


def moved_while_it_runs(emulator):
    """Between two processes over a socket; the disk is a file that both may open."""
    with tempfile.TemporaryDirectory() as tmp:
        setup = Setup(tmp, 'raw')
        path = os.path.join(tmp, 'socket')
        arguments = setup.arguments('-smp', '2')
        arguments[arguments.index('-drive') + 1] += ',file.locking=off'
        with Guest(emulator, arguments) as source:
            before = job_started(source)
            source.qmp('migrate-set-parameters', **{'max-bandwidth': 400 << 20})
            with Guest(emulator, arguments + ['-incoming', 'unix:' + path]) as target:
                info = migrated(source, 'unix:' + path)
                running(target)
                assert source.qmp('query-status')['status'] == 'postmigrate'
                assert job_rounds(target, 3) >= before + 2
                network_works(target)
                job_ends_well(target)
                print(f'# downtime {info["downtime"]} ms, {info["ram"]["dirty-sync-count"]} passes, '
                      f'{info["ram"]["transferred"] >> 20} MiB', flush=True)


def moved_by(emulator, setup, names, **parameters):
    """There and on, with these capabilities; the job ends well in the second process. What query-migrate told."""
    path = os.path.join(setup.tmp, 'socket')
    arguments = setup.arguments('-smp', '2')
    arguments[arguments.index('-drive') + 1] += ',file.locking=off'
    with Guest(emulator, arguments) as source, Guest(emulator, arguments + ['-incoming', 'defer']) as target:
        before = job_started(source)
        for vm in (source, target):
            capable(vm, *names)
            vm.qmp('migrate-set-parameters', **{'max-bandwidth': 400 << 20}, **parameters)
        target.qmp('migrate-incoming', uri='unix:' + path)
        info = migrated(source, 'unix:' + path)
        running(target)
        assert job_rounds(target, 3) >= before + 2
        network_works(target)
        job_ends_well(target)
        return info


def moved_through_several_connections(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        for method in ('none', 'zstd'):
            info = moved_by(emulator, Setup(tmp, 'raw'), ['multifd'], **{'multifd-channels': 3, 'multifd-compression': method})
            print(f'# multifd, {method}: {info["total-time"]} ms, downtime {info["downtime"]} ms, {info["ram"]["multifd-bytes"] >> 20} MiB',
                  flush=True)


def moved_as_deltas(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        info = moved_by(emulator, Setup(tmp, 'raw'), ['xbzrle'])
        assert info['xbzrle-cache']['cache-size'] == 64 << 20
        print(f'# {info["xbzrle-cache"]}', flush=True)


def moved_by_post_copy(emulator):
    """The guest runs at the destination while most of its memory is still here; the connection breaks once."""
    with tempfile.TemporaryDirectory() as tmp:
        setup = Setup(tmp, 'raw')
        first, second = (f'unix:{tmp}/{name}' for name in ('first', 'second'))
        arguments = setup.arguments('-smp', '2')
        arguments[arguments.index('-drive') + 1] += ',file.locking=off'
        with Guest(emulator, arguments) as source, Guest(emulator, arguments + ['-incoming', 'defer']) as target:
            before = job_started(source)
            for vm in (source, target):
                capable(vm, 'postcopy-ram')
            source.qmp('migrate-set-parameters', **{'max-bandwidth': 4 << 20, 'max-postcopy-bandwidth': 20 << 20})
            target.qmp('migrate-incoming', uri=first)
            source.qmp('migrate', uri=first)
            time.sleep(2)
            source.qmp('migrate-start-postcopy')
            running(target)
            assert source.qmp('query-status')['status'] in ('finish-migrate', 'postmigrate')
            time.sleep(0.5)
            if source.qmp('query-migrate')['status'] == 'postcopy-active':
                source.qmp('migrate-pause')
                while source.qmp('query-migrate')['status'] != 'postcopy-paused':
                    time.sleep(0.05)
                time.sleep(1)
                target.qmp('migrate-recover', uri=second)
                source.qmp('migrate', uri=second, resume=True)
            job_rounds(target, 2)
            source.qmp('migrate-set-parameters', **{'max-postcopy-bandwidth': 0})
            info = completed(source)
            assert job_rounds(target, 3) >= before + 2
            network_works(target)
            job_ends_well(target)
            assert info['ram']['postcopy-requests'] > 0, info
            print(f'# downtime {info["downtime"]} ms, {info["ram"]["postcopy-requests"]} pages were waited for', flush=True)


def refused_by_the_destination(emulator):
    """Another machine there: it says why and ends; the source goes on. So it does when it is cancelled."""
    with tempfile.TemporaryDirectory() as tmp:
        setup = Setup(tmp, 'raw')
        path = os.path.join(tmp, 'socket')
        arguments = setup.arguments()
        arguments[arguments.index('-drive') + 1] += ',file.locking=off'
        with Guest(emulator, arguments) as source:
            job_started(source)
            with Guest(emulator, arguments + ['-device', 'virtio-rng-pci', '-incoming', 'unix:' + path]) as target:
                try:
                    migrated(source, 'unix:' + path)
                    raise AssertionError('it was not refused')
                except GuestError as error:
                    assert 'the destination refuses' in str(error), error
                assert target.wait_exit(30) == 1
                assert 'load of migration failed' in target.stderr()
            running(source)
            job_rounds(source, 2)
            source.qmp('migrate-set-parameters', **{'max-bandwidth': 1 << 20})
            source.qmp('migrate', uri='exec:cat > /dev/null')
            time.sleep(0.5)
            assert source.qmp('query-migrate')['status'] == 'active'
            source.qmp('migrate_cancel')
            limit = time.time() + 30
            while source.qmp('query-migrate')['status'] == 'cancelling' and time.time() < limit:
                time.sleep(0.1)
            assert source.qmp('query-migrate')['status'] == 'cancelled'
            job_rounds(source, 2)
            job_ends_well(source)


def held_request(emulator):
    """A request that failed and waits (werror=stop) is saved with the machine, and made again in it and where it is loaded."""
    with tempfile.TemporaryDirectory() as tmp:
        setup = Setup(tmp)
        arguments = setup.arguments()
        at = arguments.index('-drive')
        broken = f'file.driver=blkdebug,file.image.driver=file,file.image.filename={setup.disk}'
        rule = 'file.inject-error.0.event=write_aio,file.inject-error.0.errno=28,file.inject-error.0.once=on'
        arguments[at:at + 2] = ['-blockdev', f'driver=qcow2,node-name=disk,{broken},{rule}', '-device', 'virtio-blk-pci,drive=disk,werror=stop']
        with Guest(emulator, arguments) as vm:
            vm.wait_event('BLOCK_IO_ERROR', 300)
            assert vm.qmp('query-status')['status'] == 'io-error'
            assert vm.monitor('savevm one') == ''
            assert vm.qmp('query-status')['status'] == 'io-error'
            vm.qmp('cont')
            job_rounds(vm, 3)
            assert vm.monitor('loadvm one') == ''
            job_rounds(vm, 2)
            network_works(vm)


if __name__ == '__main__':
    run([held_request, saved_to_file, saved_to_command, snapshots_in_the_image, moved_while_it_runs, moved_through_several_connections,
         moved_as_deltas, moved_by_post_copy, refused_by_the_destination])
