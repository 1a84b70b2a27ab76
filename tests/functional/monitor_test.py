#!/usr/bin/env python3
"""monitor_test.py QEMU-SYSTEM: conversations with the monitors of a running emulator, in TAP.

Machines are paused or have no CPU to run, so nothing depends on a guest."""
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

PROGRAM = sys.argv[1]
NONE = ['-machine', 'none', '-nodefaults', '-display', 'none', '-S']
PC = ['-machine', 'pc', '-display', 'none', '-S', '-m', '16', '-net', 'none']


class Qmp:
    """A monitor on the process's standard input and output."""

    def __init__(self, *args, negotiate=True):
        self.process = subprocess.Popen([PROGRAM, *args, '-qmp', 'stdio'], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.events = []
        self.greeting = self.read()
        if negotiate:
            self.run('qmp_capabilities')

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def read(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def send(self, text):
        self.process.stdin.write(text.encode() + b'\n')
        self.process.stdin.flush()

    def answer(self):
        while True:
            reply = self.read()
            if reply is None or 'event' not in reply:
                return reply
            self.events.append(reply)

    def ask(self, command, **arguments):
        request = {'execute': command}
        if arguments:
            request['arguments'] = {k.replace('_', '-'): v for k, v in arguments.items()}
        self.send(json.dumps(request))
        return self.answer()

    def run(self, command, **arguments):
        reply = self.ask(command, **arguments)
        assert 'return' in reply, reply
        return reply['return']

    def error(self, command, **arguments):
        reply = self.ask(command, **arguments)
        assert 'error' in reply, reply
        return reply['error']['class'], reply['error']['desc']

    def hmp(self, line):
        return self.run('human-monitor-command', command_line=line).replace('\r\n', '\n')

    def quit(self):
        self.run('quit')
        while True:
            reply = self.read()
            if reply is None:
                break
            self.events.append(reply)
        stderr = self.process.stderr.read().decode()
        return self.process.wait(10), stderr


def same(got, expected):
    assert got == expected, 'got %r, expected %r' % (got, expected)


def matches(pattern, text):
    assert re.search(pattern, text, re.M), 'no %r in %r' % (pattern, text)


def test_greeting_and_quit():
    with Qmp(*NONE) as q:
        version = q.greeting['QMP']['version']['qemu']
        same(sorted(version), ['major', 'micro', 'minor'])
        same(q.greeting['QMP']['capabilities'], ['oob'])
        same(q.run('query-version')['qemu'], version)
        status, _ = q.quit()
        same(status, 0)
        same([(e['event'], e['data']) for e in q.events], [('SHUTDOWN', {'guest': False, 'reason': 'host-qmp-quit'})])
        same(sorted(q.events[0]['timestamp']), ['microseconds', 'seconds'])


def test_negotiation():
    with Qmp(*NONE, negotiate=False) as q:
        same(q.error('query-status'), ('CommandNotFound', "A session begins with 'qmp_capabilities': send that first"))
        q.run('qmp_capabilities', enable=['oob'])
        same(q.error('qmp_capabilities'),
             ('CommandNotFound', 'qmp_capabilities was given before, and once is enough: nothing changed'))


def test_out_of_band():
    """A command that hangs on a silent server is freed by one that overtakes it; other commands keep their order."""
    with tempfile.TemporaryDirectory() as tmp, Qmp(*NONE, negotiate=False) as q, socket.socket(socket.AF_UNIX) as silent:
        path = os.path.join(tmp, 'nbd')
        silent.bind(path)
        silent.listen(1)
        q.run('qmp_capabilities', enable=['oob'])
        same(q.run('query-yank'), [])
        server = {'type': 'unix', 'path': path}
        q.send(json.dumps({'execute': 'blockdev-add', 'id': 'add', 'arguments': {
            'driver': 'nbd', 'node-name': 'n', 'server': server}}))
        peer = silent.accept()[0]
        q.send('{"execute": "query-name", "id": "after"}')
        q.send('{"exec-oob": "query-name", "id": "not"}')
        same(q.answer(), {'id': 'not', 'error': {'class': 'GenericError', 'desc': "The command query-name cannot run out of band: use 'execute'"}})
        q.send('{"exec-oob": "query-yank", "id": "list"}')
        same(q.answer(), {'id': 'list', 'return': [{'type': 'block-node', 'node-name': 'n'}]})
        q.send('{"exec-oob": "yank", "id": 1, "arguments": {"instances": [{"type": "block-node", "node-name": "x"}]}}')
        same(q.answer()['error']['class'], 'DeviceNotFound')
        q.send('{"exec-oob": "yank", "id": 2, "arguments": {"instances": [{"type": "block-node", "node-name": "n"}]}}')
        replies = [q.answer() for _ in range(3)]
        same(sorted((str(r['id']), 'error' in r) for r in replies), [('2', False), ('add', True), ('after', False)])
        order = [r['id'] for r in replies]
        assert order.index('add') < order.index('after'), order
        peer.close()
        same(q.run('query-yank'), [])


def test_out_of_band_while_a_file_blocks():
    """A file of options that is a pipe nobody has written to: only its command waits."""
    with tempfile.TemporaryDirectory() as tmp, Qmp(*NONE, negotiate=False) as q:
        path = os.path.join(tmp, 'fifo')
        os.mkfifo(path)
        q.run('qmp_capabilities', enable=['oob'])
        q.send(json.dumps({'execute': 'blockdev-add', 'id': 'add', 'arguments': {
            'driver': 'blkdebug', 'node-name': 'n', 'config': path, 'image': {'driver': 'null-co', 'read-zeroes': True}}}))
        time.sleep(.3)  # so that it does not come in one piece with what follows
        q.send('{"exec-oob": "query-yank", "id": "list"}')
        same(q.answer(), {'id': 'list', 'return': []})
        with open(path, 'w'):
            pass
        same(q.answer(), {'id': 'add', 'return': {}})


def test_yank_chardev():
    with tempfile.TemporaryDirectory() as tmp, socket.socket(socket.AF_UNIX) as server:
        path = os.path.join(tmp, 'chr')
        server.bind(path)
        server.listen(1)
        with Qmp(*NONE, '-chardev', f'socket,id=c,path={path}') as q:
            peer = server.accept()[0]
            same(q.run('query-yank'), [{'type': 'chardev', 'id': 'c'}])
            q.run('yank', instances=[{'type': 'chardev', 'id': 'c'}])
            same(peer.recv(1), b'')
            peer.close()


def test_protocol_errors():
    with Qmp(*NONE) as q:
        def raw(text):
            q.send(text)
            return q.answer()
        same(raw('{"execute": "query-name", "id": [1, {"a": null}]}'), {'return': {}, 'id': [1, {'a': None}]})
        same(raw("{'execute': 'nosuch', 'id': 7}"),
             {'id': 7, 'error': {'class': 'CommandNotFound', 'desc': 'The command nosuch has not been found: there is none of this name, or not in this state'}})
        same(raw('[]')['error']['desc'], 'A request is a JSON object')
        same(raw('{}')['error']['desc'], "The request names no command: it needs 'execute'")
        same(raw('{"execute": "stop", "x": 1}')['error']['desc'], "A request has no member 'x'")
        same(raw('{"execute": "stop", "arguments": []}')['error']['desc'],
             "The 'arguments' of a request are an object")
        matches('JSON parse error', raw('{"execute": }')['error']['desc'])
        matches('JSON', raw('}}}')['error']['desc'])
        # 0xff resets the parser wherever it is.
        q.process.stdin.write(b'{"execute": "st\xff')
        q.process.stdin.flush()
        matches('JSON parse error', q.answer()['error']['desc'])
        same(raw('{"execute": "query-name"}'), {'return': {}})
        same(q.error('stop', x=1), ('GenericError', "Parameter 'x' is unknown or has no place here"))
        same(q.error('qom-get', path='/'), ('GenericError', "Parameter 'property' is missing"))
        same(q.error('qom-get', path=1, property='x'),
             ('GenericError', "Invalid parameter type for 'path', expected: string"))
        same(q.error('set-action', reboot='never'), ('GenericError', "Parameter 'reboot' does not accept value 'never'"))


def test_introspection():
    with Qmp(*NONE) as q:
        names = {c['name'] for c in q.run('query-commands')}
        schema = {e['name']: e for e in q.run('query-qmp-schema')}
        for name in names:
            same(schema[name]['meta-type'], 'command')
            for key in 'arg-type', 'ret-type':
                assert schema[name][key] in schema, (name, key)
        for entry in schema.values():
            for member in entry.get('members', []):
                assert entry['meta-type'] == 'enum' or member['type'] in schema, (entry, member)
        same(schema['SHUTDOWN']['meta-type'], 'event')
        types = {t['name'] for t in q.run('qom-list-types')}
        assert 'isa-serial' in types
        props = {p['name'] for p in q.run('device-list-properties', typename='isa-serial')}
        assert {'chardev', 'iobase', 'irq'} <= props, props
        same(q.error('device-list-properties', typename='nosuch')[0], 'DeviceNotFound')
        machines = {m['name']: m for m in q.run('query-machines')}
        assert 'none' in machines
        assert any(m.get('is-default') for m in machines.values())


def test_option_groups():
    with Qmp(*NONE) as q:
        groups = {g['option']: {p['name']: p['type'] for p in g['parameters']}
                  for g in q.run('query-command-line-options')}
        same(groups['machine']['hpet'], 'boolean')
        same(groups['chardev']['reconnect'], 'number')
        assert 'serial' in groups and 'icount' in groups and 'seed' not in groups
        same(len(q.run('query-command-line-options', option='memory')), 1)
        same(q.error('query-command-line-options', option='nosuch')[1], 'invalid option name: nosuch')


def test_run_state():
    with Qmp(*PC) as q:
        same(q.run('query-status'), {'status': 'prelaunch', 'running': False})
        q.run('cont')
        same(q.run('query-status')['status'], 'running')
        q.run('stop')
        same(q.run('query-status')['status'], 'paused')
        q.run('system_reset')
        deadline = time.time() + 5
        while not any(e['event'] == 'RESET' for e in q.events) and time.time() < deadline:
            q.run('query-status')
        same([e['event'] for e in q.events], ['RESUME', 'STOP', 'RESET'])
        same(q.events[2]['data'], {'guest': False, 'reason': 'host-qmp-system-reset'})
        cpus = q.run('query-cpus-fast')
        same([c['cpu-index'] for c in cpus], [0])
        assert cpus[0]['thread-id'] > 0


def test_memory_commands():
    with Qmp(*PC) as q, tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'm')
        q.run('pmemsave', val=0xfffffff0, size=16, filename=path)
        reset_vector = open(path, 'rb').read()
        same(len(reset_vector), 16)
        same(reset_vector[0], 0xea)
        q.run('memsave', val=0xfffffff0, size=5000, filename=path)
        same(open(path, 'rb').read(16), reset_vector)
        same(os.path.getsize(path), 5000)
        matches('Could not open', q.error('pmemsave', val=0, size=1, filename='/nonexistent/x')[1])
        same(q.hmp('p 255'), '0xff\n')
        matches(r'^00000000fffffff0: 0x\w{8}( 0x\w{8}){3}\n$', q.hmp('xp /4xw 0xfffffff0'))
        matches(r'^0x\w+:  ea .*jmp', q.hmp('x /i 0xfffffff0'))
        same(q.hmp('p /d 2+3*4-(1|2)'), '11\n')
        same(q.hmp('p /x $eip & 0xffff'), '0xfff0\n')
        matches('unknown register', q.hmp('p $nosuch'))
        matches('division by zero', q.hmp('p 1/0'))


def test_screendump():
    with Qmp(*PC, '-vga', 'std') as q, tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 's')
        q.run('screendump', filename=path, format='png')
        same(open(path, 'rb').read(4), b'\x89PNG')
        q.run('screendump', filename=path)
        same(open(path, 'rb').read(3), b'P6\n')
        same(q.error('screendump', filename=path, device='nosuch')[0], 'DeviceNotFound')


def test_keys():
    with Qmp(*PC) as q:
        q.run('send-key', keys=[{'type': 'qcode', 'data': 'ctrl'}, {'type': 'number', 'data': 0x1e}])
        matches("does not accept value 'retrun'.*did you mean 'ret", q.error(
            'send-key', keys=[{'type': 'qcode', 'data': 'retrun'}])[1])
        same(q.error('send-key', keys=[{'type': 'qcode', 'data': 3}]),
             ('GenericError', "Invalid parameter type for 'keys[0].data', expected: string"))
        same(q.error('input-send-event', events=[])[1], 'VM not running')
        same(q.hmp('sendkey ctrl-alt-delete'), '')


def test_objects():
    with Qmp(*PC, '-chardev', 'null,id=c', '-device', 'isa-serial,id=com9,index=2,chardev=c') as q:
        same(q.run('qom-get', path='/machine/peripheral/com9', property='index'), 2)
        same(q.run('qom-get', path='com9', property='type'), 'isa-serial')
        names = {p['name'] for p in q.run('qom-list', path='/machine/peripheral')}
        assert 'com9' in names, names
        same(q.error('qom-get', path='/nosuch', property='x')[0], 'DeviceNotFound')
        matches('cannot be changed', q.error('qom-set', path='com9', property='index', value=1)[1])
        matches('only before the machine starts', q.error('device_add', driver='isa-serial')[1])
        matches("did you mean 'isa-serial'", q.error('device_add', driver='isa-seriall')[1])
        same(q.error('device_del', id='nosuch')[0], 'DeviceNotFound')
        matches('isa-serial, id "com9"', q.hmp('info qtree'))
        matches(r'/com9 \(isa-serial\)', q.hmp('info qom-tree'))


def test_chardevs():
    with Qmp(*NONE) as q, tempfile.TemporaryDirectory() as folder:
        q.run('chardev-add', id='r', backend={'type': 'ringbuf', 'data': {'size': 64}})
        q.run('ringbuf-write', device='r', data='hello')
        same(q.run('ringbuf-read', device='r', size=100), 'hello')
        q.run('ringbuf-write', device='r', data='AAEC/w==', format='base64')
        same(q.run('ringbuf-read', device='r', size=100, format='base64'), 'AAEC/w==')
        path = os.path.join(folder, 's')
        q.run('chardev-add', id='s', backend={'type': 'socket', 'data': {
            'addr': {'type': 'unix', 'data': {'path': path}}, 'server': True, 'wait': False}})
        same({c['label']: c['filename'] for c in q.run('query-chardev')}['s'],
             'disconnected:unix:%s,server=on' % path)
        socket.socket(socket.AF_UNIX).connect(path)
        pty = q.run('chardev-add', id='p', backend={'type': 'pty', 'data': {}})['pty']
        assert os.path.exists(pty)
        matches('already', q.error('chardev-add', id='s', backend={'type': 'null'})[1])
        q.run('chardev-remove', id='s')
        assert not os.path.exists(path)
        same(q.error('chardev-remove', id='s')[1], "Chardev 's' not found")


def test_several_monitors():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'm')
        with Qmp(*NONE, '-qmp', 'unix:%s,server=on,wait=off' % path) as q:
            for _ in range(2):  # a client comes, goes, comes again
                client = socket.socket(socket.AF_UNIX)
                client.connect(path)
                stream = client.makefile('rwb')
                assert 'QMP' in json.loads(stream.readline())
                stream.write(b'{"execute": "qmp_capabilities"}{"execute": "query-name", "id": "x"}\n')
                stream.flush()
                same(json.loads(stream.readline()), {'return': {}})
                same(json.loads(stream.readline()), {'return': {}, 'id': 'x'})
                stream.close()
                client.close()
            # A client that never reads does not hold up the others.
            lazy = socket.socket(socket.AF_UNIX)
            lazy.connect(path)
            lazy.sendall(b'{"execute": "qmp_capabilities"}' + b'{"execute": "query-qmp-schema"}' * 200)
            same(q.run('query-name'), {})
            lazy.close()
            same(q.run('query-name'), {})


def test_descriptors():
    with tempfile.TemporaryDirectory() as folder:
        path, log = os.path.join(folder, 'm'), os.path.join(folder, 'log')
        with open(log, 'wb') as inherited:
            fd = inherited.fileno()
            q = subprocess.Popen([PROGRAM, *NONE, '-qmp', 'unix:%s,server=on,wait=off' % path, '-add-fd',
                                  'fd=%d,set=3,opaque=log' % fd, '-monitor', 'file:/dev/fdset/3'], pass_fds=[fd])
        client = socket.socket(socket.AF_UNIX)
        while True:
            try:
                client.connect(path)
                break
            except OSError:
                time.sleep(0.01)
        stream = client.makefile('rb')
        stream.readline()

        def ask(text, fds=()):
            socket.send_fds(client, [text.encode()], fds)
            return json.loads(stream.readline())
        ask('{"execute": "qmp_capabilities"}')
        with open(path + '.x', 'wb') as sent:
            reply = ask('{"execute": "add-fd", "arguments": {"fdset-id": 5}}', [sent.fileno()])
            same(reply['return']['fdset-id'], 5)
            same(ask('{"execute": "getfd", "arguments": {"fdname": "a"}}', [sent.fileno()]), {'return': {}})
        matches('No file descriptor', ask('{"execute": "getfd", "arguments": {"fdname": "a"}}')['error']['desc'])
        same([s['fdset-id'] for s in ask('{"execute": "query-fdsets"}')['return']], [5, 3])
        same(ask('{"execute": "closefd", "arguments": {"fdname": "a"}}'), {'return': {}})
        same(ask('{"execute": "remove-fd", "arguments": {"fdset-id": 5}}'), {'return': {}})
        ask('{"execute": "quit"}')
        same(q.wait(5), 0)
        matches('monitor - type', open(log).read())


def test_cpu_models():
    with Qmp(*NONE) as q:
        names = {d['name'] for d in q.run('query-cpu-definitions')}
        assert {'max', 'base', 'qemu64'} <= names, names
        full = q.run('query-cpu-model-expansion', type='full', model={'name': 'max'})['model']
        same((full['name'], full['props']['fpu'], full['props']['sse2']), ('max', True, True))
        static = q.run('query-cpu-model-expansion', type='static', model={'name': 'base'})['model']
        same(static['props']['fpu'], False)
        matches('unable to find CPU model', q.error('query-cpu-model-expansion', type='full', model={'name': 'x'})[1])


def test_cpu_properties():
    """Levels rise with features unless they are given; the words of CPUID, and what could not be had."""
    def get(spec, *names, machine='pc'):
        with Qmp('-M', machine, '-accel', 'qtest', '-display', 'none', '-nodefaults', '-cpu', spec) as q:
            path = q.run('query-cpus-fast')[0]['qom-path']
            return [q.run('qom-get', path=path, property=name) for name in names]

    def word(words, eax, reg):
        return next(w['features'] for w in words if w['cpuid-input-eax'] == eax and w['cpuid-register'] == reg)

    same(get('486,arat=on,3dnow=on', 'level', 'xlevel'), [6, 0x80000001])
    same(get('486,level=2,xlevel=0,arat=on,3dnow=on', 'level', 'xlevel'), [2, 0])
    same(get('486,arat=on,3dnow=on', 'level', 'xlevel', machine='pc-i440fx-2.7'), [1, 0])
    same(get('phenom,avx512vbmi=on,check=off', 'level'), [7])
    present, filtered = get('pentium,mmx=off,avx512vbmi=on,check=off', 'feature-words', 'filtered-features')
    same((word(present, 1, 'EDX') >> 23 & 1, word(present, 1, 'EDX') & 1), (0, 1))
    same(word(present, 7, 'ECX') >> 1 & 1 | word(filtered, 7, 'ECX') >> 1 & 1, 1)


def test_block():
    with tempfile.TemporaryDirectory() as folder:
        disk, other = os.path.join(folder, 'd'), os.path.join(folder, 'o')
        for path in disk, other:
            with open(path, 'wb') as f:
                f.truncate(1 << 20)
        with Qmp(*PC, '-drive', 'file=%s,format=raw,id=d0' % disk) as q:
            blocks = {b['device']: b for b in q.run('query-block')}
            same(blocks['d0']['inserted']['image']['virtual-size'], 1 << 20)
            same(blocks['d0']['inserted']['drv'], 'raw')
            assert 'ide1-cd0' in blocks, blocks.keys()
            assert any(s['device'] == 'd0' for s in q.run('query-blockstats'))
            q.run('blockdev-change-medium', device='ide1-cd0', filename=other, format='raw')
            same({b['device']: b for b in q.run('query-block')}['ide1-cd0']['inserted']['file'], other)
            matches('ide1-cd0.*%s' % other, q.hmp('info block'))
            q.run('eject', device='ide1-cd0')
            assert 'inserted' not in {b['device']: b for b in q.run('query-block')}['ide1-cd0']
            same(q.hmp('change ide1-cd0 %s raw' % other), '')
            matches('is not removable', q.error('eject', device='d0')[1])
            same(q.error('eject', device='nosuch')[0], 'DeviceNotFound')
            q.run('blockdev-add', driver='raw', node_name='n', file={'driver': 'file', 'filename': other})
            same([n['node-name'] for n in q.run('query-named-block-nodes') if n['node-name'] == 'n'], ['n'])
            q.run('blockdev-del', node_name='n')
            matches('Failed to find', q.error('blockdev-del', node_name='n')[1])


def test_lines_in_order():
    """A line that comes while a command waits for a disk is carried out after it."""
    with tempfile.NamedTemporaryFile(suffix=".raw") as disk:
        os.truncate(disk.fileno(), 128 << 20)
        typed = 'qemu-io d0 "write -P 5 0 64M"\ninfo status\nquit\n'
        done = subprocess.run([PROGRAM, "-M", "pc", "-nodefaults", "-display", "none", "-S", "-monitor", "stdio",
                               "-drive", f"if=none,id=d0,format=raw,file={disk.name}"], input=typed, capture_output=True, text=True, timeout=120)
        assert "wrote" in done.stdout and done.stdout.index("wrote") < done.stdout.index("VM status"), done.stdout


def test_core_dump():
    '''readelf and gdb read the file.'''
    with tempfile.TemporaryDirectory() as folder, Qmp('-machine', 'pc', '-display', 'none', '-m', '16', '-smp', '2', '-S', '-net', 'none') as q:
        path = os.path.join(folder, 'core')
        same(q.run('query-dump'), {'status': 'none', 'total': 0, 'completed': 0})
        q.run('human-monitor-command', command_line='o /w 0xcf8 0')
        q.run('dump-guest-memory', paging=False, protocol='file:' + path)
        state = q.run('query-dump')
        same([state['status'], state['total']], ['completed', state['completed']])
        memory = os.path.join(folder, 'memory')
        q.run('pmemsave', val=0, size=0x9000, filename=memory)
        headers = subprocess.run(['readelf', '-lnW', path], capture_output=True, text=True)
        same(headers.stderr, '')
        matches('Elf file type is CORE', headers.stdout)
        same(len(re.findall(r'NT_PRSTATUS', headers.stdout)), 2)
        load = re.search(r'LOAD +(0x\w+) 0x0+ 0x0+ (0x\w+)', headers.stdout)
        with open(path, 'rb') as core:
            core.seek(int(load[1], 16))
            same(core.read(0x9000), open(memory, 'rb').read())
        debugger = subprocess.run(['gdb', '-batch', '-nx', '-ex', 'info threads', '-ex', 'info registers rip cs', '-c', path],
                                  capture_output=True, text=True)
        matches(r'rip +0xfff0', debugger.stdout)
        matches(r'cs +0xf000', debugger.stdout)
        same(q.ask('dump-guest-memory', paging=True, protocol='file:' + path)['error']['class'], 'GenericError')
        matches('must start with', q.ask('dump-guest-memory', paging=False, protocol=path)['error']['desc'])
        matches('holds no memory of the guest', q.ask('dump-guest-memory', paging=False, protocol='file:' + path, begin=1 << 40, length=1)['error']['desc'])
        q.run('dump-guest-memory', paging=False, protocol='file:' + path, detach=True)
        while not any(event['event'] == 'DUMP_COMPLETED' for event in q.events):
            q.events.append(q.read())
        same(q.events[-1]['data']['result']['status'], 'completed')


def test_chardev_change():
    with tempfile.TemporaryDirectory() as folder, Qmp(*NONE, '-chardev', 'ringbuf,id=a', '-mon', 'chardev=a') as q:
        path = os.path.join(folder, 'out')
        q.run('chardev-change', id='a', backend={'type': 'file', 'data': {'out': path}})
        same([c['filename'] for c in q.run('query-chardev') if c['label'] == 'a'], ['file'])
        matches('monitor - type', open(path).read())
        matches('does not exist', q.ask('chardev-change', id='b', backend={'type': 'null', 'data': {}})['error']['desc'])


def test_more_queries():
    with Qmp(*PC, '-smp', '1,maxcpus=2', '-net', 'nic', '-net', 'user', '-device', 'virtio-balloon-pci') as q:
        same(q.run('query-memdev')[0]['id'], 'pc.ram')
        places = q.run('query-hotpluggable-cpus')
        same(['qom-path' in place for place in places], [False, True])
        same(q.run('query-display-options'), {'type': 'none'})
        same(q.run('query-mice')[0]['index'], 2)
        same(q.run('query-balloon'), {'actual': 16 << 20})
        matches('IRQ statistics for isa-i8259', q.run('x-query-irq')['human-readable-text'])
        matches(r'hub 0\r\n \\ hub0port\d: ', q.run('human-monitor-command', command_line='info network'))
        matches('type=user', q.run('human-monitor-command', command_line='info network'))
        for name in ('balloon', 'hotpluggable-cpus', 'iothreads', 'memdev', 'numa', 'qdm', 'replay', 'usb', 'vnc', 'dump', 'tpm', 'history'):
            text = q.run('human-monitor-command', command_line='info ' + name)
            assert 'unknown command' not in text, text


def test_hmp_block():
    """Drives, jobs, snapshots, the NBD server and single requests, as a person types them."""
    with tempfile.TemporaryDirectory() as scratch:
        base, top, copy = (os.path.join(scratch, n) for n in ('base.raw', 'top.qcow2', 'copy.qcow2'))
        with open(base, 'wb') as f:
            f.truncate(1 << 20)
        with Qmp(*NONE, '-drive', 'if=none,id=d0,format=raw,file=' + base) as q:
            def hmp(line):
                return q.hmp(line).replace('\r', '')
            same(hmp('snapshot_blkdev d0 %s qcow2' % top), '')
            same(hmp('qemu-io d0 "write -q -P 7 0 64k"'), '')
            assert 'Error' in hmp('qemu-io d9 "read 0 1"')
            text = hmp('info block -v d0')
            assert 'Backing file:     %s (chain depth: 1)' % base in text and 'cluster_size: 65536' in text, text
            same(hmp('commit d0'), '')
            with open(base, 'rb') as f:
                same(f.read(4), bytes([7] * 4))
            same(hmp('snapshot_blkdev_internal d0 one'), '')
            assert 'There is a snapshot' in hmp('snapshot_blkdev_internal d0 one')
            same(hmp('snapshot_delete_blkdev_internal d0 one'), '')
            assert 'No snapshot has id' in hmp('snapshot_delete_blkdev_internal d0 one')
            same(hmp('block_resize d0 2'), '')
            same(hmp('drive_backup d0 %s' % copy), '')
            same(hmp('info block-jobs'), 'No active jobs\n')
            same(hmp('nbd_server_start -a unix:%s/s' % scratch), '')
            same(hmp('nbd_server_stop'), '')
            same(hmp('drive_add 0 if=none,id=d1,format=raw,readonly=on,file=/dev/null,file.driver=host_device'), 'OK\n')
            same(hmp('drive_del d1'), '')
            assert 'not found' in hmp('drive_del d1')


def test_hmp_session():
    p = subprocess.Popen([PROGRAM, *NONE, '-monitor', 'stdio'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    # A line, history, a completion, an unknown command.
    out, _ = p.communicate(b'info status\n\x1b[A\x7f\x7f\x7f\x7f\x7f\x7fver\t\nnosuch 1\nquit\n', 10)
    text = re.sub(r'\x1b\[[KDC]', '', out.decode())
    matches(r"^QEMU [\d.]+ monitor - type 'help' for more information", text)
    matches(r'^\(qemu\) ', text)
    matches(r'^VM status: paused \(prelaunch\)', text)
    matches(r"^unknown command: 'nosuch'", text)
    matches(r'^\d+\.\d+\.\d+', text)
    same(p.returncode, 0)


def test_hmp_commands():
    with Qmp(*PC) as q:
        help_text = q.hmp('help')
        for line in help_text.splitlines():
            matches(r'^\S+ .*-- \S', line)
        for line in q.hmp('info').splitlines():
            name = line.split()[1]
            assert 'unknown' not in q.hmp('info ' + name), name
        matches('parameter expected', q.hmp('device_add'))
        matches('extraneous characters', q.hmp('stop now'))
        matches('unterminated string', q.hmp('pmemsave 0 1 "x'))
        matches('^address-space: memory', q.hmp('info mtree'))
        matches('^address-space: memory', q.hmp('info mtree -f'))
        same(q.hmp('i /b 0x61').split()[0], 'portb[0x0061]')
        matches(r'^Error: ', q.hmp('device_del nosuch'))
        matches(r'Host bridge', q.hmp('info pci'))
        matches(r'gpa: 0x1000|Unmapped', q.hmp('gva2gpa 0x1000'))
        matches(r'Host virtual address for 0x1000', q.hmp('gpa2hva 0x1000'))


def test_terminal():
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(PROGRAM, [PROGRAM, '-nographic', '-m', '16', '-S', '-net', 'none'])

    def expect(pattern):
        text, deadline = '', time.time() + 10
        while not re.search(pattern, text):
            assert time.time() < deadline, 'no %r in %r' % (pattern, text)
            if select.select([fd], [], [], 0.1)[0]:
                text += os.read(fd, 4096).decode()
    while termios.tcgetattr(fd)[3] & termios.ICANON:
        time.sleep(0.01)
    os.write(fd, b'\x01h')
    expect('C-a h .*help')
    os.write(fd, b'\x01c')
    expect(r'\(qemu\) ')
    os.write(fd, b'info status\r')
    expect(r'VM status: paused')
    os.write(fd, b'\x03p 1\r')  # Ctrl-C reaches the guest or the monitor, not the process
    expect(r'0x1')
    os.write(fd, b'\x01x')
    expect('Terminated')
    while termios.tcgetattr(fd)[3] & termios.ICANON == 0:
        time.sleep(0.01)
    status = os.waitpid(pid, 0)[1]
    if status:
        time.sleep(0.2)
        print("#", os.read(fd, 65536).decode().replace("\n", "\n# "))
    same(status, 0)
    os.close(fd)


def run(*args, status, **kwargs):
    p = subprocess.run([PROGRAM, *args], capture_output=True, timeout=20, stdin=subprocess.DEVNULL, **kwargs)
    same((p.returncode, p.stderr.decode() if status else ''), (status, p.stderr.decode() if status else ''))
    return (p.stderr if status else p.stdout).decode()


def test_option_errors():
    name = os.path.basename(PROGRAM)
    same(run('-devise', 'x', status=1), name + ": -devise: invalid option, did you mean '-device'?\n")
    same(run('-m', status=1), name + ': -m: requires an argument\n')
    same(run(*NONE, '-chardev', 'null', status=1), name + ': -chardev null: a character device needs id=\n')
    matches(r'no chardev with that id', run(*PC, '-device', 'isa-serial,chardev=x', status=1))
    matches(r'did you mean .index', run(*PC, '-device', 'isa-serial,indexx=1', status=1))
    matches(r'-drive .*: .*No such file', run(*PC, '-drive', 'file=/nonexistent,format=raw', status=1))
    matches(r'Invalid shift', run('-icount', '11', status=1))
    matches(r'machines that are not PCs', run('-g', '640x480', status=1))
    matches(r'standard input and output serve another', run(*NONE, '-serial', 'stdio', '-monitor', 'stdio', status=1))
    matches(r'Max|max CPUs supported', run(*NONE, '-smp', '4', status=1))


def test_help_texts():
    for args in (['-h'], ['-version'], ['-machine', 'help'], ['-device', 'help'], ['-device', 'isa-serial,help'],
                 ['-cpu', 'help'], ['-accel', 'help'], ['-chardev', 'help'], ['-object', 'help'], ['-netdev', 'help'],
                 ['-vga', 'help'], ['-d', 'help'], ['-L', 'help'], ['-machine', 'pc,help'], ['-soundhw', 'help'],
                 ['-nic', 'model=help'], ['-smp', 'help'], ['-boot', 'help'], ['-drive', 'help']):
        assert run(*args, status=0), args


def test_sound_is_only_a_warning():
    with Qmp(*NONE, '-soundhw', 'ac97') as q:
        status, stderr = q.quit()
        same(status, 0)
        matches('warning: -soundhw ac97: .*without it', stderr)


def test_daemonize():
    with tempfile.TemporaryDirectory() as folder:
        pidfile, path = os.path.join(folder, 'pid'), os.path.join(folder, 'qmp')
        run(*NONE, '-daemonize', '-pidfile', pidfile, '-qmp', 'unix:%s,server=on,wait=off' % path, status=0)
        pid = int(open(pidfile).read())
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        stream = client.makefile('rwb')
        assert 'QMP' in json.loads(stream.readline())
        stderr = run(*NONE, '-pidfile', pidfile, status=1)
        matches('cannot lock PID file', stderr)
        os.kill(pid, signal.SIGTERM)
        deadline = time.time() + 5
        while os.path.exists(pidfile) and time.time() < deadline:
            time.sleep(0.01)
        assert not os.path.exists(pidfile)
        matches('did you mean', run('-daemonize', *PC, '-device', 'isa-seriall', status=1))


def test_signals():
    with Qmp(*NONE) as q:
        q.process.send_signal(signal.SIGTERM)
        while (event := q.read()) is not None:
            q.events.append(event)
        same(q.events[-1]['data'], {'guest': False, 'reason': 'host-signal'})
        matches('terminating on signal 15 from pid %d' % os.getpid(), q.process.stderr.read().decode())
        same(q.process.wait(5), 0)


def test_start_time():
    best = min(start_cpu_time() for _ in range(3))
    assert best < 0.015 or os.environ.get('OSTRICH_SLOW_BUILD'), 'starting took %.1f ms of CPU time' % (best * 1000)


def start_cpu_time():
    before = os.times()
    with Qmp(*NONE) as q:
        q.quit()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[2:])
