#!/usr/bin/env python3
"""What comes and goes while Linux runs, by ACPI, plugged in through QMP, seen by the guest, used, and gone when the guest has
agreed: PCI devices, processors, memory. And NUMA nodes, which tell where both belong."""
import os
import tempfile
import time

from guest import Guest, GuestError, add_modules, cloud_kernel, make_initrd, run

SCRIPT = '''
report() { echo "PCI $(ls /sys/bus/pci/devices | tr '\\n' ' ')"; echo "NET $(ls /sys/class/net | tr '\\n' ' ')END"; echo "BLK $(ls /sys/block | tr '\\n' ' ')END"; }
report
echo READY
while read line; do
    eval "$line"
    report
    echo DONE
done
'''
MODULES = ['virtio_pci', 'virtio_net', 'virtio_blk']


def boot(emulator, tmp, *arguments):
    make_initrd(tmp, '')
    modules = add_modules(tmp, MODULES)
    initrd = make_initrd(tmp, modules + SCRIPT)
    return Guest(emulator, ['-m', '512', '-kernel', cloud_kernel(), '-initrd', initrd, '-append', 'console=ttyS0 quiet', '-net',
                            'none', *arguments])


def ask(vm, command='true'):
    """Runs a command in the guest; returns its network cards and disks after it."""
    vm.send(command + '\n')
    net = vm.wait_serial(r'NET (.*?)END', 60).group(1).decode().split()
    blk = vm.wait_serial(r'BLK (.*?)END', 60).group(1).decode().split()
    vm.wait_serial('DONE', 60)
    return net, blk


def no_complaint(vm):
    for complaint in (b'ACPI Error', b'ACPI BIOS Error', b'Call Trace'):
        assert complaint not in vm.serial_text, vm.serial_text[vm.serial_text.index(complaint):][:300].decode(errors='replace')


def appears(vm, name, there=True):
    for _ in range(20):
        net, blk = ask(vm, 'sleep 1')
        if (name in net or name in blk) == there:
            no_complaint(vm)
            return
    raise GuestError(f'{name} did not {"appear" if there else "disappear"}: {net} {blk}')


def come_and_go(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        image = os.path.join(tmp, 'disk.img')
        with open(image, 'wb') as f:
            f.write(b'hot-plugged disk'.ljust(1 << 20, b'\0'))
        with boot(emulator, tmp) as vm:
            vm.wait_serial('READY', 300)
            for _ in range(2):
                vm.qmp('netdev_add', type='user', id='n')
                vm.qmp('device_add', driver='virtio-net-pci', netdev='n', id='card', mac='52:54:00:65:43:21')
                appears(vm, 'eth0')
                vm.send('cat /sys/class/net/eth0/address; ip link set eth0 up; udhcpc -n -q -i eth0 2>&1 | grep lease\n')
                vm.wait_serial('52:54:00:65:43:21', 60)
                vm.wait_serial(r'10\.0\.2\.15', 60)
                vm.wait_serial('DONE', 60)
                vm.qmp('blockdev-add', driver='raw', **{'node-name': 'd', 'file': {'driver': 'file', 'filename': image}})
                vm.qmp('device_add', driver='virtio-blk-pci', drive='d', id='disk')
                appears(vm, 'vda')
                vm.send('head -c 16 /dev/vda; echo\n')
                vm.wait_serial('hot-plugged disk', 60)
                vm.wait_serial('DONE', 60)
                for device, name in (('card', 'eth0'), ('disk', 'vda')):
                    vm.qmp('device_del', id=device)
                    event = vm.wait_event('DEVICE_DELETED', 60)
                    if 'device' not in event['data']:
                        event = vm.wait_event('DEVICE_DELETED', 60)
                    assert event['data']['device'] == device, event
                    appears(vm, name, there=False)
                vm.qmp('netdev_del', id='n')
                vm.qmp('blockdev-del', **{'node-name': 'd'})


def cold_plugged_goes(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        with boot(emulator, tmp, '-netdev', 'user,id=n', '-device', 'virtio-net-pci,netdev=n,id=card') as vm:
            vm.wait_serial('READY', 300)
            appears(vm, 'eth0')
            vm.qmp('device_del', id='card')
            event = vm.wait_event('DEVICE_DELETED', 60)
            appears(vm, 'eth0', there=False)
            assert event['data'].get('device', 'card') == 'card', event


def behind_a_bridge(emulator):
    with tempfile.TemporaryDirectory() as tmp:
        # A device is there from the start, so that the firmware gives the bridge windows.
        with boot(emulator, tmp, '-device', 'pci-bridge,id=br,chassis_nr=1', '-device', 'virtio-rng-pci,bus=br', '-netdev',
                  'user,id=n') as vm:
            vm.wait_serial('READY', 300)
            vm.qmp('device_add', driver='virtio-net-pci', netdev='n', id='card', bus='br', addr='5')
            appears(vm, 'eth0')
            vm.send('ip link set eth0 up; udhcpc -n -q -i eth0 2>&1 | grep lease\n')
            vm.wait_serial(r'10\.0\.2\.15', 60)
            vm.wait_serial('DONE', 60)
            vm.qmp('device_del', id='card')
            vm.wait_event('DEVICE_DELETED', 60)
            appears(vm, 'eth0', there=False)


def numbered(emulator):
    """acpi-index, by which operating systems name network cards (eno7): of one that is there, and of one that comes."""
    with tempfile.TemporaryDirectory() as tmp, shell(emulator, tmp, '-device', 'virtio-rng-pci,acpi-index=7,addr=6', '-device',
                                                     'pci-bridge,id=br,chassis_nr=1', '-device', 'virtio-rng-pci,bus=br') as vm:
        assert vm.shell('cat /sys/bus/pci/devices/0000:00:06.0/acpi_index', 60).strip() == '7'
        vm.qmp('device_add', driver='virtio-rng-pci', id='r', bus='br', addr='4', **{'acpi-index': 16383})
        until(vm, 'cat /sys/bus/pci/devices/0000:0*:04.0/acpi_index 2>/dev/null || true', '16383')
        no_complaint(vm)


def refused(emulator):
    """Without the controller's support nothing can come while the machine runs."""
    for switch, bus in (('acpi-root-pci-hotplug', 'pci.0'), ('acpi-pci-hotplug-with-bridge-support', 'br')):
        with Guest(emulator, ['-nodefaults', '-global', f'PIIX4_PM.{switch}=off', '-device', 'pci-bridge,id=br,chassis_nr=1'],
                   serial=False) as vm:
            try:
                vm.qmp('device_add', driver='virtio-rng-pci', bus=bus)
            except GuestError as error:
                assert f"bus '{bus}' takes devices only before" in str(error), error
            else:
                raise GuestError(f'device_add worked with {switch}=off')


# --- processors ---

def shell(emulator, tmp, *arguments):
    """Linux with a shell on the serial line."""
    initrd = make_initrd(tmp, 'stty -echo; mount -t debugfs none /sys/kernel/debug; echo READY; exec sh')
    vm = Guest(emulator, ['-m', '512', '-kernel', cloud_kernel(), '-initrd', initrd, '-append', 'console=ttyS0 quiet', '-net',
                          'none', *arguments])
    try:
        vm.wait_serial('READY', 300)
        vm.shell('PS1= PS2=', 60)
    except Exception:
        vm.close()
        raise
    return vm


def until(vm, command, expected, seconds=60):
    """Runs the command until it writes that."""
    limit = time.time() + seconds
    while True:
        text = vm.shell(command, 60).strip()
        if text == expected:
            return
        if time.time() > limit:
            raise GuestError(f'"{command}" gives "{text}", not "{expected}"')
        vm.pause(0.5)


def free_places(vm):
    """Free places of CPUs, the first one first, and their type."""
    places = vm.qmp('query-hotpluggable-cpus')
    free = [place for place in reversed(places) if 'qom-path' not in place]
    return [place['props'] for place in free], places[0]['type']


def deleted(vm, device):
    while True:
        event = vm.wait_event('DEVICE_DELETED', 60)['data']
        if event.get('device') == device:
            return


def online(vm, cpu):
    until(vm, f'ls -d /sys/devices/system/cpu/cpu{cpu} || true', f'/sys/devices/system/cpu/cpu{cpu}')
    vm.shell(f'echo 1 >/sys/devices/system/cpu/cpu{cpu}/online', 60)


def work(vm, cpu):
    """The CPU executes something, and its clock agrees with the others'."""
    text = vm.shell(f"taskset {1 << cpu:x} sh -c 'n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; cut -d\  -f39 /proc/self/stat'",
                    120)
    assert text.split()[-1] == str(cpu), text


def cpus_come_and_go(emulator):
    with tempfile.TemporaryDirectory() as tmp, shell(emulator, tmp, '-smp', '1,maxcpus=4,sockets=1,dies=1,cores=2,threads=2') as vm:
        assert vm.shell('cat /sys/devices/system/cpu/possible', 60).strip() == '0-3'
        for _ in range(3):
            free, kind = free_places(vm)
            assert len(free) == 3 and kind == 'qemu64-x86_64-cpu', (free, kind)
            for number, props in enumerate(free):
                vm.qmp('device_add', driver=kind, id=f'c{number}', **props)
                online(vm, number + 1)
                work(vm, number + 1)
            until(vm, 'nproc', '4')
            cpus = vm.qmp('query-cpus-fast')
            assert [cpu['cpu-index'] for cpu in cpus] == [0, 1, 2, 3] and len({cpu['thread-id'] for cpu in cpus}) == 4, cpus
            # A hole in the middle, and the guest takes running CPUs off by itself.
            for number in (1, 0, 2):
                vm.qmp('device_del', id=f'c{number}')
                deleted(vm, f'c{number}')
                assert f'/machine/peripheral/c{number}' not in [cpu['qom-path'] for cpu in vm.qmp('query-cpus-fast')]
            until(vm, 'nproc', '1')
            no_complaint(vm)
        reports = [event['data']['info'] for event in vm.events if event['event'] == 'ACPI_DEVICE_OST']
        assert all(report['slot-type'] == 'CPU' and report['status'] in (0, 0x84) for report in reports), reports
        assert len(vm.qmp('query-acpi-ospm-status')) == 4


def cpu_refused(emulator):
    """What the guest or the machine will not do."""
    with tempfile.TemporaryDirectory() as tmp, shell(emulator, tmp, '-smp', '1,maxcpus=2', '-device',
                                                     'qemu64-x86_64-cpu,id=c,socket-id=0,core-id=1,thread-id=0') as vm:
        for arguments, words in (({'driver': 'qemu64-x86_64-cpu', 'id': 'x'}, 'socket-id is missing'),
                                 ({'driver': 'qemu64-x86_64-cpu', 'socket-id': 0, 'core-id': 1, 'thread-id': 0}, 'already'),
                                 ({'driver': 'qemu64-x86_64-cpu', 'socket-id': 0, 'core-id': 2, 'thread-id': 0}, 'from 0 to 1'),
                                 ({'driver': 'Haswell-x86_64-cpu', 'socket-id': 0, 'core-id': 1, 'thread-id': 0}, 'alike')):
            try:
                vm.qmp('device_add', **arguments)
            except GuestError as error:
                assert words in str(error), error
            else:
                raise GuestError(f'device_add worked with {arguments}')
        path = vm.qmp('query-cpus-fast')[0]['qom-path']
        try:
            vm.qmp('device_del', id=path)
        except GuestError as error:
            assert 'first CPU' in str(error), error
        until(vm, 'nproc', '2')
        # The only CPU that is left online cannot be taken off.
        vm.shell('echo 0 >/sys/devices/system/cpu/cpu0/online 2>/dev/null; true', 60)
        if vm.shell('nproc', 60).strip() == '1':
            vm.qmp('device_del', id='c')
            assert vm.wait_event('DEVICE_UNPLUG_GUEST_ERROR', 60)['data']['device'] == 'c'
            vm.shell('echo 1 >/sys/devices/system/cpu/cpu0/online', 60)
        vm.qmp('device_del', id='c')
        deleted(vm, 'c')
        until(vm, 'nproc', '1')


def cpus_after_reset(emulator):
    """A CPU that came while the machine ran is an ordinary one after a reset; so it is on the other side of a migration."""
    with tempfile.TemporaryDirectory() as tmp, shell(emulator, tmp, '-smp', '1,maxcpus=2') as vm:
        free, kind = free_places(vm)
        vm.qmp('device_add', driver=kind, id='c', **free[0])
        online(vm, 1)
        vm.qmp('system_reset')
        vm.wait_serial('READY', 300)
        vm.shell('PS1= PS2=', 60)
        until(vm, 'nproc', '2')
        path = os.path.join(tmp, 'state')
        vm.qmp('migrate', uri=f'exec:cat >{path}')
        vm.wait_for(lambda: vm.qmp('query-migrate').get('status') == 'completed', 60, 'it is not saved')
        place = ','.join(f'{key}={value}' for key, value in free[0].items())
        with Guest(emulator, ['-m', '512', '-smp', '1,maxcpus=2', '-net', 'none', '-device', f'{kind},id=c,{place}', '-incoming',
                              f'exec:cat {path}']) as other:
            other.wait_for(lambda: other.qmp('query-status')['status'] == 'running', 60, 'it does not run')
            until(other, 'nproc', '2')
            work(other, 1)
            other.qmp('device_del', id='c')
            deleted(other, 'c')
            until(other, 'nproc', '1')


# --- memory, nodes ---

def online_memory(vm, node):
    """MiB of a node's memory that Linux uses, after it has taken in what is there but not used yet, if it can be taken out again."""
    vm.shell('for m in /sys/devices/system/memory/memory*; do if grep -q offline $m/state; then '
             'echo online_movable >$m/state; fi; done', 60)
    text = vm.shell(f'grep MemTotal /sys/devices/system/node/node{node}/meminfo', 60)
    return int(text.split()[3]) // 1024


def memory_comes_and_goes(emulator):
    with tempfile.TemporaryDirectory() as tmp, shell(emulator, tmp, '-m', 'size=512,slots=3,maxmem=2G') as vm:
        before = online_memory(vm, 0)
        for _ in range(2):
            for number, size in enumerate((256, 128)):
                vm.qmp('object-add', **{'qom-type': 'memory-backend-ram', 'id': f'm{number}', 'size': size << 20})
                vm.qmp('device_add', driver='pc-dimm', id=f'd{number}', memdev=f'm{number}')
            for _ in range(60):
                if online_memory(vm, 0) == before + 384:
                    break
                vm.pause(0.5)
            assert online_memory(vm, 0) == before + 384
            devices = [each['data'] for each in vm.qmp('query-memory-devices')]
            assert [(each['id'], each['slot'], each['size'] >> 20) for each in devices] == [('d0', 0, 256), ('d1', 1, 128)], devices
            assert vm.qmp('query-memory-size-summary') == {'base-memory': 512 << 20, 'plugged-memory': 384 << 20}
            # The guest can use it: more than it had is written and read back.
            vm.shell('mkdir -p /big; mount -t tmpfs -o size=600m none /big; dd if=/dev/urandom of=/big/a bs=1M count=100 2>/dev/null; '
                     'for n in b c d e; do cp /big/a /big/$n; cmp /big/a /big/$n; done; umount /big', 300)
            for number in (0, 1):
                vm.qmp('device_del', id=f'd{number}')
                deleted(vm, f'd{number}')
                vm.qmp('object-del', id=f'm{number}')
            assert online_memory(vm, 0) == before
            no_complaint(vm)
        reports = [event['data']['info'] for event in vm.events if event['event'] == 'ACPI_DEVICE_OST']
        assert all(report['slot-type'] == 'DIMM' and report['status'] in (0, 0x84) for report in reports), reports


def memory_refused(emulator):
    """A module that the guest cannot empty stays, and says so; what does not fit is refused."""
    with tempfile.TemporaryDirectory() as tmp, shell(emulator, tmp, '-m', 'size=512,slots=1,maxmem=1G', '-object',
                                                     'memory-backend-ram,id=m,size=256M', '-device', 'pc-dimm,memdev=m,id=d') as vm:
        vm.qmp('object-add', **{'qom-type': 'memory-backend-ram', 'id': 'n', 'size': 512 << 20})
        for arguments, words in (({'memdev': 'm'}, 'in use|taken'), ({'memdev': 'n'}, 'too much|taken'), ({}, 'memdev')):
            try:
                vm.qmp('device_add', driver='pc-dimm', **arguments)
            except GuestError as error:
                assert any(word in str(error) for word in words.split('|')), error
            else:
                raise GuestError(f'device_add worked with {arguments}')
        vm.shell('for m in /sys/devices/system/memory/memory*; do grep -q offline $m/state && echo online_kernel >$m/state; done; true', 60)
        # What the kernel keeps of processes cannot be moved out of the way.
        vm.shell('n=0; while [ $n -lt 200 ]; do sleep 10000 & n=$((n+1)); done', 120)
        vm.qmp('device_del', id='d')
        for _ in range(120):
            if any(event['event'] in ('DEVICE_UNPLUG_GUEST_ERROR', 'DEVICE_DELETED') for event in vm.events):
                break
            vm.qmp('query-status')
            vm.pause(0.5)
        assert vm.wait_event('DEVICE_UNPLUG_GUEST_ERROR', 1)['data']['device'] == 'd'
        assert len(vm.qmp('query-memory-devices')) == 1
        vm.shell('killall sleep', 120)


def nodes(emulator):
    """Linux finds the nodes, their CPUs, memory and distances; memory that comes belongs to the node it says."""
    arguments = ['-smp', '2,maxcpus=4,sockets=2,cores=2', '-m', 'size=512,slots=2,maxmem=2G', '-machine', 'hmat=on']
    for node, size in enumerate((256, 128, 128)):
        arguments += ['-object', f'memory-backend-ram,id=r{node},size={size}M', '-numa',
                      f'node,nodeid={node},memdev=r{node}' + (',initiator=0' if node == 2 else '')]
    for node in range(2):
        arguments += ['-numa', f'cpu,node-id={node},socket-id={node}']
    for source, target, value in ((0, 1, 33), (0, 2, 50), (1, 2, 60)):
        arguments += ['-numa', f'dist,src={source},dst={target},val={value}']
    for initiator, target in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)):
        latency = 10 + 5 * abs(initiator - target)
        arguments += ['-numa', f'hmat-lb,initiator={initiator},target={target},hierarchy=memory,data-type=access-latency,'
                      f'latency={latency}']
    with tempfile.TemporaryDirectory() as tmp, shell(emulator, tmp, *arguments) as vm:
        assert vm.shell('cat /sys/devices/system/node/node0/distance /sys/devices/system/node/node1/distance', 60).split() == [
            '10', '33', '50', '33', '10', '60']
        assert vm.shell('cat /sys/devices/system/node/node0/cpulist', 60).strip() == '0-1'
        free, kind = free_places(vm)
        assert [place['node-id'] for place in free] == [1, 1], free
        vm.qmp('device_add', driver=kind, id='c', **free[0])
        online(vm, 2)
        assert vm.shell('cat /sys/devices/system/node/node1/cpulist', 60).strip() == '2'
        before = online_memory(vm, 1)
        sizes = [online_memory(vm, node) for node in range(3)]
        assert all(0 < size <= most for size, most in zip(sizes, (256, 128, 128))) and sum(sizes) > 300, sizes
        vm.qmp('object-add', **{'qom-type': 'memory-backend-ram', 'id': 'm', 'size': 128 << 20})
        vm.qmp('device_add', driver='pc-dimm', id='d', memdev='m', node=1)
        until(vm, 'ls /sys/devices/system/node/node1 | grep -c "^memory[0-9]"', '2')
        assert online_memory(vm, 1) == before + 128
        text = vm.monitor('info numa')
        assert 'node 1 cpus: 2' in text and 'node 1 plugged: 128 MB' in text, text
        got = vm.shell('cat /sys/devices/system/node/node*/access0/initiators/read_latency', 60).split()
        assert got == ['10', '10', '20'], got
        for table in ('SRAT', 'SLIT', 'HMAT'):
            vm.shell(f'test -s /sys/firmware/acpi/tables/{table}', 60)
        no_complaint(vm)


if __name__ == '__main__':
    run([come_and_go, cold_plugged_goes, behind_a_bridge, numbered, refused, cpus_come_and_go, cpu_refused, cpus_after_reset,
         memory_comes_and_goes, memory_refused, nodes])
