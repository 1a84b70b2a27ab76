#!/usr/bin/env python3
"""qmp_fuzz.py QEMU-SYSTEM [COMMANDS [SEED [LIFE]]]: random commands to running emulators, in TAP.

Arguments are made from what query-qmp-schema says, mostly right and sometimes wrong. Whatever comes, each
command must be answered, every property of every object must be readable, and the program must end well; the
system call filter stays on. A new emulator begins after LIFE_LENGTH commands, or when the last one ended by a command.
A life that went wrong is named: SEED and LIFE run it again, and its commands are kept in a file for the eye."""
import json
import os
import random
import select
import subprocess
import sys
import tempfile

PROGRAM = os.path.abspath(sys.argv[1])
COMMANDS = int(sys.argv[2]) if len(sys.argv) > 2 else 1500
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else 1
FIRST = int(sys.argv[4]) if len(sys.argv) > 4 else 0
LIFE_LENGTH = 2000
PATIENCE = 120  # seconds for an answer
# quit comes at the end of each life.
LEFT_OUT = {'quit', 'qmp_capabilities'}
TEXTS = ['', 'x', 'rb', 'ser', '/', '/machine', 'ide1-cd0', 'floppy0', 'a,b=c', 'isa-serial', 'max', '\u20ac', '%s%n',
         '/machine/unattached/device[0]', 'on', '9' * 40]
NODES = ['n0', 'n1', 'img', 'ov', 'ide0-hd0', 'virtio0', 'd0', 'd1', 'dev0', 'job0', 'job1', 'exp0', 'bm0']
# By a member's name: texts that reach further than any text would.
SPECIAL = {
    'host': ['127.0.0.1', '::1', 'localhost', ''], 'hostname': ['localhost'], 'port': ['0', '1', 'x', '99999'],
    'device': NODES, 'node-name': NODES, 'node': NODES, 'target': NODES + ['out.qcow2'], 'id': NODES + ['u0', 'rb', 'ser'],
    'job-id': NODES, 'name': ['x', 'n0', 'bm0', 'a' * 300], 'driver': ['null-co', 'raw', 'qcow2', 'file', 'throttle', 'quorum',
    'e1000', 'virtio-blk-pci', 'virtio-rng-pci', 'isa-debug-exit', 'vfio-pci', 'luks', 'blkdebug', 'copy-on-read'],
    'filename': ['disk.img', 'disk.qcow2', 'nosuch', '/dev/null', ''], 'file': NODES + ['disk.img', 'out'], 'path': None,
    'uri': ['file:state', 'exec:cat>state', 'tcp:127.0.0.1:1', 'unix:nosuch', 'fd:x', 'defer'],
    'backing': NODES, 'overlay': NODES, 'base': NODES, 'top': NODES, 'snapshot-file': ['snap.qcow2', '/nosuch/x'],
    'typename': ['device', 'e1000', 'virtio-blk-pci', 'memory-backend-ram', 'pc-i440fx-7.2-machine', 'nosuch'],
    'qom-type': ['secret', 'memory-backend-ram', 'rng-builtin', 'throttle-group', 'iothread', 'nosuch'],
    'command-line': None, 'fdname': ['x'], 'protocol': ['vnc', 'spice', 'x'],
}
NUMBERS = [0, 1, -1, 2, 100, 2**31, 2**63 - 1, -2**63, 2**64 - 1]
LINES = ['info ' + name for name in
         'block blockstats chardev cpus jit kvm lapic mem mice mtree name network pci pic qom-tree qtree registers '
         'status tlb'.split()]
LINES += ['x /20i $eip', 'x /5xb 0xfffffff0', 'xp /s 0', 'xp /100c 0xf0000', 'p $eip*(3', 'p ((((1', 'p ' + '(' * 500,
          'i /w 0x3f8', 'o /b 0x80 1', 'sum 0 100', 'gva2gpa 0', 'gpa2hva 0xfff', 'sendkey a-b', 'mouse_move 1 2 3',
          'mouse_button 3', 'cpu 0', 'cpu 9', 'boot_set c', 'device_add isa-serial', 'netdev_del u',
          'hostfwd_add tcp::0-:22', 'eject ide1-cd0', 'help', 'qom-list /', 'qom-get /machine type', 'savevm x',
          'ringbuf_read rb 10', 'ringbuf_write rb abc', 'object_add secret,id=s', '"', 'x "', '#', 'stop', 'c', 'nmi']


class Emulator:
    def __init__(self):
        self.dir = tempfile.TemporaryDirectory()
        for name, size in (('disk.img', 1 << 20), ('other.img', 4 << 20)):
            with open(os.path.join(self.dir.name, name), 'wb') as f:
                f.truncate(size)
        self.process = subprocess.Popen(
            [PROGRAM, '-M', 'pc', '-m', '16', '-smp', '2', '-S', '-display', 'none', '-qmp', 'stdio', '-chardev',
             'ringbuf,id=rb', '-device', 'isa-serial,index=1,chardev=rb,id=ser', '-netdev', 'user,id=u0', '-device',
             'e1000,netdev=u0,id=dev0', '-drive', 'if=ide,format=raw,file=disk.img', '-blockdev',
             'raw,node-name=n0,file.driver=file,file.filename=other.img', '-device', 'virtio-blk-pci,drive=n0,id=d0'],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(os.path.join(self.dir.name, 'stderr'), 'wb'),
            cwd=self.dir.name)
        self.buffer = b''
        self.sent = []
        self.read()
        self.ask('qmp_capabilities')
        self.schema = {entry['name']: entry for entry in self.ask('query-qmp-schema')['return']}

    def problem(self, text):
        with open(os.path.join(self.dir.name, 'stderr'), errors='replace') as f:
            errors = f.read()[-3000:]
        kept = tempfile.NamedTemporaryFile('w', prefix='qmp-fuzz-', suffix='.json', delete=False)
        with kept:
            kept.write('\n'.join(self.sent) + '\n')
        return f'{text} after {self.sent[-1]}\nall commands: {kept.name}\n{errors}'

    def read(self):
        """None at the end."""
        while b'\n' not in self.buffer:
            assert select.select([self.process.stdout], [], [], PATIENCE)[0], self.problem('no answer')
            got = os.read(self.process.stdout.fileno(), 1 << 16)
            if not got:
                return None
            self.buffer += got
        line, self.buffer = self.buffer.split(b'\n', 1)
        return json.loads(line)

    def ask(self, command, arguments=None):
        """None: the program has ended."""
        request = {'execute': command} if arguments is None else {'execute': command, 'arguments': arguments}
        self.sent.append(json.dumps(request))
        try:
            self.process.stdin.write(self.sent[-1].encode() + b'\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        while True:
            reply = self.read()
            if reply is None or 'event' not in reply:
                return reply

    def end(self):
        if self.ask('quit') is not None:
            while self.read() is not None:
                pass
        status = self.process.wait(PATIENCE)
        with open(os.path.join(self.dir.name, 'stderr'), errors='replace') as f:
            text = f.read()
        assert status == 0 and 'call filter' not in text and 'Sanitizer' not in text, self.problem(f'exit status {status}')
        self.dir.cleanup()

    def make(self, name, member=None):
        """A value of the schema's type, seldom a wrong one."""
        entry = self.schema[name]
        if entry['meta-type'] == 'builtin' and entry['json-type'] == 'string' and SPECIAL.get(member) and random.random() < 0.9:
            return random.choice(SPECIAL[member])
        if random.random() < 0.05:
            return random.choice([None, True, -1, 2**63, 2**64 - 1, 1e300, 'x', [], {}])
        if entry['meta-type'] == 'builtin':
            return {'string': lambda: random.choice(TEXTS), 'int': lambda: random.choice(NUMBERS),
                    'boolean': lambda: random.random() < 0.5, 'number': random.random, 'null': lambda: None,
                    'value': lambda: random.choice(TEXTS + [1, True, {}, []])}[entry['json-type']]()
        if entry['meta-type'] == 'enum':
            return random.choice(entry['values'])
        if entry['meta-type'] == 'array':
            return [self.make(entry['element-type']) for _ in range(random.randrange(4))]
        if entry['meta-type'] == 'alternate':
            return self.make(random.choice(entry['members'])['type'], member)
        return self.make_object(entry)

    def make_object(self, entry):
        out = {}
        for member in entry.get('members', []):
            if 'default' not in member or random.random() < 0.5:
                out[member['name']] = self.make(member['type'], member['name'])
        for variant in entry.get('variants', []):
            if variant['case'] == out.get(entry['tag']):
                more = self.make(variant['type'])
                out.update(more if isinstance(more, dict) else {})
        if random.random() < 0.03:
            out['unexpected'] = 1
        return out


def read_all(emulator, path='/machine', depth=0):
    props = []
    for item in emulator.ask('qom-list', {'path': path}).get('return', []):
        reply = emulator.ask('qom-get', {'path': path, 'property': item['name']})
        assert 'return' in reply, (path, item, reply)
        props.append((path, item['name']))
        if item['type'].startswith('child<') and depth < 5:
            props += read_all(emulator, path + '/' + item['name'], depth + 1)
    return props


def one_life(rounds):
    emulator = Emulator()
    props = read_all(emulator)
    commands = sorted(name for name, entry in emulator.schema.items()
                      if entry['meta-type'] == 'command' and name not in LEFT_OUT)
    for n in range(rounds):
        command = random.choice(commands)
        arguments = emulator.make(emulator.schema[command]['arg-type'])
        if command == 'human-monitor-command':
            arguments = {'command-line': random.choice(LINES) + random.choice(['', ' ', ' zz', ' -f'])}
        elif command == 'qom-set' and random.random() < 0.8:
            path, name = random.choice(props)
            arguments = {'path': path, 'property': name, 'value': random.choice(TEXTS + NUMBERS + [True])}
        elif command in ('memsave', 'pmemsave'):
            arguments = {'val': random.choice(NUMBERS), 'size': random.choice([0, 1, 4096, 1 << 20]), 'filename': 'memory'}
        if emulator.ask(command, arguments) is None:
            break
    emulator.end()
    return n + 1


def main():
    left = COMMANDS
    life = FIRST
    while left > 0:
        random.seed(f'{SEED} {life}')
        try:
            left -= one_life(min(left, LIFE_LENGTH))
        except AssertionError as problem:
            raise AssertionError(f'seed {SEED}, life {life}, {COMMANDS - left} commands before: {problem}') from problem
        life += 1


print('1..1')
try:
    main()
    print('ok 1 qmp-fuzz # %d commands' % COMMANDS)
except AssertionError as problem:
    print('# %s\nnot ok 1 qmp-fuzz' % str(problem).replace('\n', '\n# '))
    sys.exit(1)
