"""A machine without a CPU that a test drives: ports, memory and time over the test protocol, commands and events over QMP."""
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time

PROGRAM = os.path.abspath(sys.argv[1])


def same(got, expected):
    assert got == expected, f'got {got!r}, expected {expected!r}'


class Machine:
    def __init__(self, *more, machine='pc'):
        self.dir = tempfile.TemporaryDirectory()
        path, qmp = (os.path.join(self.dir.name, name) for name in ('qtest', 'qmp'))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(60)
        self.process = subprocess.Popen([PROGRAM, '-qtest', f'unix:{path}', '-qtest-log', '/dev/null', '-accel', 'qtest',
                                         '-display', 'none', '-M', machine, '-m', '32', '-net', 'none', '-serial', 'null',
                                         '-monitor', 'none', '-qmp', f'unix:{qmp},server=on,wait=off', *more],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.socket = listener.accept()[0]
        self.file = self.socket.makefile('rb')
        self.irqs, self.events, self.buffer = [], [], b''
        self.qmp = socket.socket(socket.AF_UNIX)
        self.qmp.connect(qmp)
        assert 'QMP' in self.read_qmp(60)
        self.run('qmp_capabilities')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate(timeout=30)
        self.socket.close()
        self.qmp.close()
        self.dir.cleanup()

    # --- the test protocol ---

    def ask(self, line):
        self.socket.sendall(line.encode() + b'\n')
        while True:
            words = self.file.readline().decode().split()
            assert words, 'the connection is closed: ' + self.process.stderr.read().decode()
            if words[0] != 'IRQ':
                return words
            self.irqs.append((words[1], int(words[2])))

    def ok(self, line):
        words = self.ask(line)
        assert words[0] == 'OK', (line, words)
        return words[1] if len(words) > 1 else None

    def number(self, line):
        return int(self.ok(line), 0)

    def pci_config(self, devfn, register, value=None, size=4):
        """Reads or writes a register of bus 0."""
        letter = {1: 'b', 2: 'w', 4: 'l'}[size]
        self.ok(f'outl 0xcf8 {0x80000000 | devfn << 8 | (register & 0xfc)}')
        port = 0xcfc + (register & 3)
        return self.number(f'in{letter} {port}') if value is None else self.ok(f'out{letter} {port} {value}')

    # --- QMP ---

    def read_qmp(self, timeout):
        end = time.time() + timeout
        while b'\n' not in self.buffer:
            if not select.select([self.qmp], [], [], max(0, end - time.time()))[0]:
                return None
            got = self.qmp.recv(65536)
            if not got:
                return None
            self.buffer += got
        line, self.buffer = self.buffer.split(b'\n', 1)
        return json.loads(line)

    def qmp_ask(self, command, **arguments):
        request = {'execute': command, 'arguments': {k.replace('_', '-'): v for k, v in arguments.items()}}
        self.qmp.sendall(json.dumps(request).encode() + b'\n')
        while True:
            reply = self.read_qmp(60)
            assert reply, f'no answer to {command}'
            if 'event' not in reply:
                return reply
            self.events.append(reply)

    def run(self, command, **arguments):
        reply = self.qmp_ask(command, **arguments)
        assert 'return' in reply, reply
        return reply['return']

    def error(self, command, **arguments):
        return self.qmp_ask(command, **arguments)['error']['desc']

    def event(self, name, timeout=60):
        """The oldest event of this name that was not asked for yet; limited ones come late."""
        end = time.time() + timeout
        while True:
            for event in self.events:
                if event['event'] == name:
                    self.events.remove(event)
                    return event
            reply = self.read_qmp(max(0, end - time.time()))
            assert reply, f'no event {name}'
            self.events.append(reply)

    def state(self):
        return self.run('query-status')['status']
