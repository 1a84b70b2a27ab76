#!/usr/bin/env python3
"""introspect_test.py QEMU-SYSTEM: what programs are told of the guest's memory, virtio queues, filters of network cards, machine
checks and locks, in TAP. The guest is a ROM that writes pages, or a driver that speaks to the card from here."""
import os
import struct
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402
from machine import Machine, PROGRAM, same  # noqa: E402
import qmp  # noqa: E402

BASE, CODE, MIB = 0xf0000, 0xfe080, 1 << 20
FIRST, LAST = 1 * MIB, 65 * MIB  # what the ROM writes to, a word a page


def rom():
    image = bytearray(b'\xf4' * 65536)

    def put(at, code):
        image[at - BASE:at - BASE + len(code)] = code

    gdt = 0xfe040
    put(0xffff0, b'\xea\x00\xe0\x00\xf0')                                                 # ljmp f000:e000
    put(0xfe000, b'\xfa\x66\x2e\x0f\x01\x16' + struct.pack('<H', (gdt + 24) & 0xffff) +   # cli; lgdt
        b'\x0f\x20\xc0\x0c\x01\x0f\x22\xc0\x66\xea' + struct.pack('<IH', CODE, 8))         # cr0.PE; ljmp 8:CODE
    put(gdt, struct.pack('<QQQHI', 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 23, gdt))
    put(CODE, b'\x66\xb8\x10\x00\x8e\xd8' +                                               # mov ax,16; mov ds,ax
        b'\xbf' + struct.pack('<I', FIRST) +                                              # 1: mov edi,FIRST
        b'\xff\x07\x81\xc7\x00\x10\x00\x00\x81\xff' + struct.pack('<I', LAST) +           # 2: inc dword [edi]; add edi,4096; cmp
        b'\x72\xf0\xeb\xe9')                                                              # jb 2b; jmp 1b
    return bytes(image)


class Writer(qmp.Program):
    """A machine whose guest does nothing but write."""

    def __init__(self, *more):
        self.rom = tempfile.NamedTemporaryFile(suffix='.bin')
        self.rom.write(rom())
        self.rom.flush()
        super().__init__([PROGRAM, '-M', 'pc', '-m', '128', '-nodefaults', '-display', 'none', '-bios', self.rom.name, '-qmp', 'stdio',
                          *more])

    def hmp(self, line):
        return self.ok('human-monitor-command', command_line=line).replace('\r', '')

    def rate(self, **arguments):
        self.ok('calc-dirty-rate', calc_time=1, **arguments)
        self.fails('is being measured', 'calc-dirty-rate', calc_time=1)
        same(self.ok('query-dirty-rate')['status'], 'measuring')
        end = time.time() + 60
        while self.ok('query-dirty-rate')['status'] != 'measured':
            assert time.time() < end
            time.sleep(.1)
        return self.ok('query-dirty-rate')


def dirty_rate():
    with Writer() as vm:
        before = vm.ok('query-dirty-rate')
        same((before['status'], 'dirty-rate' in before), ('unstarted', False))
        end = time.time() + 60
        while vm.hmp(f'xp /1wx {LAST - 4096}').split()[-1] == '0x00000000':
            assert time.time() < end
        # 64 MiB are written over and over; the second that is measured may be a little longer.
        noted = vm.rate(mode='dirty-bitmap')
        assert 40 <= noted['dirty-rate'] <= 66, noted
        same((noted['mode'], noted['calc-time'], noted['sample-pages']), ('dirty-bitmap', 1, 0))
        sampled = vm.rate(sample_pages=16384)
        assert 30 <= sampled['dirty-rate'] <= 80, sampled
        assert 'Dirty rate: %d (MB/s)' % sampled['dirty-rate'] in vm.hmp('info dirty_rate')
        vm.ok('stop')
        same(vm.rate(mode='dirty-bitmap')['dirty-rate'], 0)
        same(vm.rate()['dirty-rate'], 0)
        for wrong in ({'calc_time': 0}, {'calc_time': 61}, {'calc_time': 1, 'sample_pages': 1}, {'calc_time': 1, 'mode': 'dirty-ring'},
                      {'calc_time': 1, 'mode': 'dirty-bitmap', 'sample_pages': 512}):
            assert 'error' in vm.command('calc-dirty-rate', **wrong), wrong
        vm.fails('dirty ring', 'set-vcpu-dirty-limit', dirty_rate=10)
        same(vm.ok('query-vcpu-dirty-limit'), [])
        assert 'measuring for 1 s' in vm.hmp('calc_dirty_rate -b 1')
        vm.quit()  # while it measures


def machine_checks():
    with Writer('-smp', '2') as vm:
        assert 'bit 63' in vm.hmp('mce 0 1 0 0 0 0')
        assert 'banks count' in vm.hmp('mce 0 10 0x8000000000000000 0 0 0')
        assert 'invalid CPU' in vm.hmp('mce 2 1 0x8000000000000000 0 0 0')
        same(vm.hmp('mce 0 1 0x8400000000000000 0 0x1000 0'), '')  # corrected: logged, no more
        vm.ok('query-status')
        same(vm.seen('RESET'), [])
        same(vm.hmp('mce -b 0 1 0xbd00000000000000 5 0x1000 0'), '')  # CR4.MCE is clear: the processor shuts down
        same(vm.wait_event('RESET')['guest'], True)
        vm.quit()


def locks():
    with Writer() as vm:
        same(vm.hmp('sync-profile'), 'sync-profile is off\n')
        same(vm.hmp('sync-profile on') + vm.hmp('sync-profile'), 'sync-profile is on\n')
        assert 'Wait Time' in vm.hmp('info sync-profile -m 5')
        assert 'on, off or reset' in vm.hmp('sync-profile maybe')
        same(vm.hmp('sync-profile reset') + vm.hmp('sync-profile off'), '')
        same(len(vm.hmp('info sync-profile').splitlines()), 1)
        vm.quit()


def absent():
    with Writer() as vm:
        same(vm.ok('query-sev')['enabled'], False)
        vm.fails('SEV', 'query-sev-capabilities')
        vm.fails('SGX', 'query-sgx-capabilities')
        vm.fails('device tree', 'dumpdtb', filename='/nowhere')
        vm.ok('rtc-reset-reinjection')
        same(vm.hmp('info sev'), 'SEV is not enabled\n')
        same(vm.hmp('info stats vm'), '')
        vm.quit()


# --- a virtio network card, driven through the registers of before virtio 1.0 ---

SLOT, PORT, RING, BUFFER = 5 << 3, 0xc000, 0x100000, 0x110000
GUEST_FEATURES, QUEUE_PFN, QUEUE_SIZE, QUEUE_SELECT, NOTIFY, STATUS = 4, 8, 12, 14, 16, 18
CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_MAC = 1 << 17, 1 << 18, 1 << 19, 1 << 23
CONTROL = 2  # the queue


class Card:
    """The control queue of a card without its other queues."""

    def __init__(self, vm):
        self.vm, self.sent = vm, 0
        vm.pci_config(SLOT, 0x10, PORT | 1)
        vm.pci_config(SLOT, 4, 7, 2)
        vm.ok(f'outb {PORT + STATUS} 3')
        vm.ok(f'outl {PORT + GUEST_FEATURES} {CTRL_VQ | CTRL_RX | CTRL_VLAN | CTRL_MAC}')
        vm.ok(f'outw {PORT + QUEUE_SELECT} {CONTROL}')
        self.size = vm.number(f'inw {PORT + QUEUE_SIZE}')
        vm.ok(f'outl {PORT + QUEUE_PFN} {RING >> 12}')
        self.avail = RING + 16 * self.size
        vm.ok(f'outb {PORT + STATUS} 7')

    def put(self, addr, data):
        self.vm.ok(f'write {addr} {len(data)} 0x{data.hex()}')

    def command(self, data):
        """Sends it; the device's answer."""
        self.put(BUFFER, data)
        self.put(BUFFER + 0x800, b'\xff')
        self.put(RING, struct.pack('<QIHHQIHH', BUFFER, len(data), 1, 1, BUFFER + 0x800, 1, 2, 0))
        self.put(self.avail + 4 + 2 * (self.sent % self.size), struct.pack('<H', 0))
        self.sent += 1
        self.put(self.avail + 2, struct.pack('<H', self.sent))
        self.vm.ok(f'outw {PORT + NOTIFY} {CONTROL}')
        return self.vm.number(f'readb {BUFFER + 0x800}')


def filters():
    with Machine('-device', 'virtio-net-pci,id=n0,addr=5,mac=52:54:00:aa:bb:cc', '-device', 'e1000,id=n1,addr=6') as vm:
        card = Card(vm)
        told = vm.run('query-rx-filter')
        same(len(told), 1)
        same((told[0]['name'], told[0]['promiscuous'], told[0]['main-mac'], told[0]['vlan'], told[0]['vlan-table']),
             ('n0', True, '52:54:00:aa:bb:cc', 'normal', []))
        same(card.command(bytes([0, 0, 0])), 0)                                       # no longer promiscuous
        same(vm.event('NIC_RX_FILTER_CHANGED')['data'], {'name': 'n0', 'path': '/machine/peripheral/n0'})
        same(card.command(bytes([0, 1, 1])), 0)                                       # all multicasts: nobody has looked since
        same(card.command(bytes([2, 0]) + struct.pack('<H', 7)), 0)                   # VLAN 7
        lists = struct.pack('<I', 1) + b'\2\0\0\0\0\1' + struct.pack('<I', 2) + b'\1\0\x5e\0\0\1' + b'\x33\x33\0\0\0\1'
        same(card.command(bytes([1, 0]) + lists), 0)
        vm.run('query-status')
        same([e for e in vm.events if e['event'] == 'NIC_RX_FILTER_CHANGED'], [])
        told = vm.run('query-rx-filter', name='n0')[0]
        same((told['promiscuous'], told['multicast'], told['unicast'], told['vlan-table']), (False, 'all', 'normal', [7]))
        same((told['unicast-table'], told['multicast-table']), (['02:00:00:00:00:01'], ['01:00:5e:00:00:01', '33:33:00:00:00:01']))
        same(card.command(bytes([0, 9, 1])), 1)                                       # none of its commands
        same(card.command(bytes([1, 1]) + b'\2\0\0\0\0\2'), 0)
        vm.event('NIC_RX_FILTER_CHANGED')
        same(vm.run('query-rx-filter')[0]['main-mac'], '02:00:00:00:00:02')
        assert 'does not tell' in vm.error('query-rx-filter', name='n1')
        assert "'n9'" in vm.error('query-rx-filter', name='n9')


def queues():
    with Machine('-device', 'virtio-net-pci,id=n0,addr=5', '-device', 'virtio-rng-pci,id=r0') as vm:
        path = '/machine/peripheral/n0'
        same(vm.run('x-query-virtio'), [{'path': path, 'name': 'virtio-net'}, {'path': '/machine/peripheral/r0', 'name': 'virtio-rng'}])
        assert 'not set up' in vm.error('x-query-virtio-queue-element', path=path, queue=2)
        card = Card(vm)
        status = vm.run('x-query-virtio-status', path=path)
        same((status['name'], status['device-id'], status['num-vqs'], status['started']), ('virtio-net', 1, 3, True))
        same(status['status'], {'statuses': ['VIRTIO_CONFIG_S_ACKNOWLEDGE', 'VIRTIO_CONFIG_S_DRIVER', 'VIRTIO_CONFIG_S_DRIVER_OK']})
        same(status['guest-features'], {'transports': [], 'dev-features': [f'VIRTIO_NET_F_{n}' for n in (
            'CTRL_VQ', 'CTRL_RX', 'CTRL_VLAN', 'CTRL_MAC_ADDR')]})
        assert 'unknown-dev-features' not in status['host-features'], status
        card.command(bytes([0, 0, 0]))
        queue = vm.run('x-query-virtio-queue-status', path=path, queue=CONTROL)
        same((queue['vring-desc'], queue['vring-avail'], queue['last-avail-idx'], queue['used-idx'], queue['inuse']),
             (RING, card.avail, 1, 1, 0))
        element = vm.run('x-query-virtio-queue-element', path=path, queue=CONTROL, index=0)
        same(element['descs'], [{'addr': BUFFER, 'len': 3, 'flags': ['next']}, {'addr': BUFFER + 0x800, 'len': 1, 'flags': ['write']}])
        same((element['avail'], element['used']['idx']), ({'flags': 0, 'idx': 1, 'ring': 0}, 1))
        # Chains that never end, and tables of descriptors that point at themselves.
        card.put(RING, struct.pack('<QIHH', BUFFER, 4, 1, 0))
        same(len(vm.run('x-query-virtio-queue-element', path=path, queue=CONTROL, index=0)['descs']), card.size)
        card.put(RING, struct.pack('<QIHH', RING, 0xffffffff, 4, 0))
        assert len(vm.run('x-query-virtio-queue-element', path=path, queue=CONTROL, index=0)['descs']) <= 1024
        for wrong in ({'path': '/machine', 'queue': 0}, {'path': path, 'queue': 3}, {'path': path, 'queue': -1}):
            assert 'error' in vm.qmp_ask('x-query-virtio-queue-status', **wrong), wrong
        assert 'vhost' in vm.error('x-query-virtio-vhost-queue-status', path=path, queue=0)
        text = vm.run('human-monitor-command', command_line=f'info virtio-status {path}')
        assert 'VIRTIO_NET_F_CTRL_VLAN' in text and 'num-vqs: 3' in text, text
        text = vm.run('human-monitor-command', command_line=f'info virtio-queue-status {path} {CONTROL}')
        assert f'vring-desc: 0x{RING:016x}' in text, text


# --- CPU models ---

def cpu_expansion():
    def expand(vm, name, kind='full', **props):
        return vm.ok('query-cpu-model-expansion', type=kind, model={'name': name, 'props': props})['model']

    with Writer() as vm:
        static, full = expand(vm, 'Haswell', 'static'), expand(vm, 'Haswell')
        same((static['name'], full['name']), ('base', 'Haswell'))
        assert set(static['props']) < set(full['props'])
        same({n: static['props'][n] for n in ('family', 'model', 'vendor', 'min-level', 'avx2', 'vmx-ept', 'kvm-pv-eoi', 'xstore')},
             {'family': 6, 'model': 60, 'vendor': 'GenuineIntel', 'min-level': 13, 'avx2': True, 'vmx-ept': False, 'kvm-pv-eoi': False,
              'xstore': False})
        same((full['props']['sse4.1'], full['props']['sse4_1']), (True, True))
        same((expand(vm, 'Haswell', avx2=False)['props']['avx2'], expand(vm, 'Haswell', level=5)['props']['level']), (False, 5))
        for name, props in (('Haswel', {}), ('Haswell', {'colour': True}), ('Haswell', {'level': 'high'}), ('a,b=c', {})):
            assert 'error' in vm.command('query-cpu-model-expansion', type='full', model={'name': name, 'props': props}), name
        vm.quit()
    # "-name" before "+name" before "name=", with a warning; what no CPU here has may be turned off.
    with Machine('-cpu', 'pentium,-fpu,+fpu,-mce,mce=on,+cx8,cx8=off,vmx-ept=off,xstore=on') as vm:
        path = vm.run('query-cpus-fast')[0]['qom-path']
        same([vm.run('qom-get', path=path, property=p) for p in ('fpu', 'mce', 'cx8', 'xstore', 'xlevel2')],
             [False, False, True, False, 0xc0000001])
        vm.run('quit')
        text = vm.process.communicate(timeout=60)[1].decode()
        assert '"-mce" and "mce=on"' in text and '"+cx8" and "cx8=off"' in text, text


# --- how long a disk's requests took ---

def ata(vm, command, status):
    """One sector by PIO: waits for a status with these bits."""
    for port, value in ((0x1f6, 0xe0), (0x1f2, 1), (0x1f3, 0), (0x1f4, 0), (0x1f5, 0), (0x1f7, command)):
        vm.ok(f'outb {port} {value}')
    end = time.time() + 60
    while vm.number('inb 0x1f7') & (0x80 | status) != status:
        assert time.time() < end


def latency_histograms():
    def histograms(vm):
        found = [s for s in vm.run('query-blockstats') if s.get('node-name') == 's'][0]['stats']
        return {k[:2]: (v['boundaries'], v['bins']) for k, v in found.items() if k.endswith('latency_histogram')}

    with Machine('-blockdev', 'null-co,node-name=s,size=1048576,read-zeroes=on', '-device', 'ide-hd,drive=s,id=d') as vm:
        same(histograms(vm), {})
        vm.run('block-latency-histogram-set', id='d', boundaries=[1, 60 * 10**9], boundaries_flush=[5])
        for _ in range(2):
            ata(vm, 0x20, 0x48)
            for _ in range(256):
                vm.ok('inw 0x1f0')
        ata(vm, 0xe7, 0x40)
        same(histograms(vm), {'rd': ([1, 60 * 10**9], [0, 2, 0]), 'wr': ([1, 60 * 10**9], [0, 0, 0]), 'fl': ([5], [0, 1])})
        vm.run('block-latency-histogram-set', id='d', boundaries_read=[7])
        same((histograms(vm)['rd'], histograms(vm)['fl']), (([7], [0, 0]), ([5], [0, 1])))
        for wrong in ([], [0], [2, 2], [2, 1], list(range(1, 2000))):
            assert 'boundaries' in vm.error('block-latency-histogram-set', id='d', boundaries=wrong)
        vm.run('block-latency-histogram-set', id='d')
        same(histograms(vm), {})
        assert "'x'" in vm.error('block-latency-histogram-set', id='x')


tap.run([cpu_expansion, latency_histograms, dirty_rate, machine_checks, locks, absent, filters, queues])
