#!/usr/bin/env python3
"""qmp_fuzz.py QEMU-SYSTEM [ROUNDS [SEED]]: random commands to a running emulator, in TAP.

Arguments are made from what query-qmp-schema says, mostly right and sometimes wrong. Whatever comes, each
command must be answered, every property of every object must be readable, and the program must end well."""
import json
import random
import subprocess
import sys

PROGRAM = sys.argv[1]
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
SEED = int(sys.argv[3]) if len(sys.argv) > 3 else 1
# These end the program, write files, or open what a random text names.
LEFT_OUT = {'quit', 'qmp_capabilities', 'set-action', 'memsave', 'pmemsave', 'screendump', 'chardev-add',
            'blockdev-add', 'blockdev-change-medium', 'netdev_add'}
TEXTS = ['', 'x', 'rb', 'ser', '/', '/machine', 'ide1-cd0', 'floppy0', 'a,b=c', 'isa-serial', 'max', '\u20ac', '%s%n',
         '/machine/unattached/device[0]', 'on', '9' * 40]
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
        self.process = subprocess.Popen(
            [PROGRAM, '-M', 'pc', '-m', '16', '-S', '-display', 'none', '-net', 'none', '-qmp', 'stdio', '-chardev',
             'ringbuf,id=rb', '-device', 'isa-serial,index=1,chardev=rb,id=ser'],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.process.stdout.readline()
        self.ask('qmp_capabilities')
        self.schema = {entry['name']: entry for entry in self.ask('query-qmp-schema')['return']}

    def ask(self, command, arguments=None):
        request = {'execute': command} if arguments is None else {'execute': command, 'arguments': arguments}
        self.process.stdin.write(json.dumps(request).encode() + b'\n')
        self.process.stdin.flush()
        while True:
            line = self.process.stdout.readline()
            assert line, 'no answer to %s, exit status %s' % (json.dumps(request), self.process.wait())
            reply = json.loads(line)
            if 'event' not in reply:
                return reply

    def make(self, name):
        """A value of the schema's type, seldom a wrong one."""
        entry = self.schema[name]
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
        return self.make_object(entry)

    def make_object(self, entry):
        out = {}
        for member in entry.get('members', []):
            if 'default' not in member or random.random() < 0.5:
                out[member['name']] = self.make(member['type'])
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


def main():
    random.seed(SEED)
    emulator = Emulator()
    props = read_all(emulator)
    commands = sorted(name for name, entry in emulator.schema.items()
                      if entry['meta-type'] == 'command' and name not in LEFT_OUT)
    for _ in range(ROUNDS):
        command = random.choice(commands)
        arguments = emulator.make(emulator.schema[command]['arg-type'])
        if command == 'human-monitor-command':
            arguments = {'command-line': random.choice(LINES) + random.choice(['', ' ', ' zz', ' -f'])}
        elif command == 'qom-set' and random.random() < 0.8:
            path, name = random.choice(props)
            arguments = {'path': path, 'property': name, 'value': random.choice(TEXTS + NUMBERS + [True])}
        emulator.ask(command, arguments)
    emulator.ask('quit')
    status = emulator.process.wait(10)
    assert status == 0, 'exit status %d' % status


print('1..1')
try:
    main()
    print('ok 1 qmp-fuzz # %d properties and commands' % ROUNDS)
except AssertionError as problem:
    print('# %s\nnot ok 1 qmp-fuzz' % problem)
    sys.exit(1)
