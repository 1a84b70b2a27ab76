#!/usr/bin/env python3
"""translator_test.py QEMU-SYSTEM: what can be seen of the translator at work: -d and -dfilter, info jit, names of its code for
debuggers and profilers of the host, in TAP. The guest is a ROM of a few instructions, which loops."""
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])
BASE, ENTRY, LOOP = 0xf0000, 0xfe100, 0xfe200


# mov ecx,1000; 1: add eax,ecx; push eax; pop edx; dec ecx; jnz 1b; call 2f; jmp start; 2: ret
WORKS = b'\xb9\xe8\x03\x00\x00\x01\xc8\x50\x5a\x49\x75\xf9\xe8\x02\x00\x00\x00\xeb\xed\xc3'
WAITS = b'\x0f\x31\xf3\x90\xeb\xfa'  # 1: rdtsc; pause; jmp 1b


def rom(loop):
    """Real mode at the reset vector, then 32-bit code with paging, a software interrupt, a #GP, and a loop."""
    image = bytearray(b'\xf4' * 65536)

    def put(at, code):
        image[at - BASE:at - BASE + len(code)] = code

    put(0xffff0, b'\xea\x00\xe0\x00\xf0')                       # ljmp f000:e000
    gdt, idt, handler = 0xfe400, 0xfe500, 0xfe300
    put(0xfe000, b'\xfa\x66\x2e\x0f\x01\x16' + struct.pack('<H', (gdt + 24) & 0xffff) +  # cli; lgdt
        b'\x0f\x20\xc0\x0c\x01\x0f\x22\xc0\x66\xea' + struct.pack('<IH', ENTRY, 8))       # cr0.PE; ljmp 8:ENTRY
    put(gdt, struct.pack('<QQQHI', 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 23, gdt))
    gate = struct.pack('<HHHH', handler & 0xffff, 8, 0x8e00, handler >> 16)
    put(idt, gate * 0x41 + struct.pack('<HI', 8 * 0x41 - 1, idt))
    put(handler, b'\xcf')
    fault = handler + 16                                        # #GP of RDMSR: skips it
    put(idt + 8 * 13, struct.pack('<HHHH', fault & 0xffff, 8, 0x8e00, fault >> 16))
    put(fault, b'\x83\xc4\x04\x83\x04\x24\x02\xcf')
    put(ENTRY, b'\x66\xb8\x10\x00\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x80\x00\x00' +         # mov ax,16; ds, es, ss; esp
        b'\x0f\x01\x1d' + struct.pack('<I', idt + 8 * 0x41) +                            # lidt
        b'\xc7\x05\x00\x10\x00\x00\x83\x00\x00\x00' +                                    # a page of 4 MiB at 0
        b'\x0f\x20\xe0\x0c\x10\x0f\x22\xe0\xb8\x00\x10\x00\x00\x0f\x22\xd8' +            # cr4.PSE, cr3
        b'\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0' +                                # cr0.PG
        b'\xb9\x45\x23\x01\x00\x0f\x32' +                                                # rdmsr of what is not there
        b'\xba\x05\x05\x00\x00\xb0\xf8\xee' +                                            # a wrong event to pvpanic
        b'\xcd\x40\xe9' + struct.pack('<i', LOOP - (ENTRY + 0x53)))                      # int 0x40; jmp LOOP
    length = 15 + 7 + 10 + 16 + 11 + 7 + 8 + 2 + 5
    put(ENTRY + length - 4, struct.pack('<i', LOOP - (ENTRY + length)))
    put(LOOP, loop)
    return bytes(image)


class Guest:
    def __init__(self, *more, loop=WORKS):
        self.dir = tempfile.TemporaryDirectory()
        path, self.log = (os.path.join(self.dir.name, name) for name in ('rom', 'log'))
        with open(path, 'wb') as file:
            file.write(rom(loop))
        self.process = subprocess.Popen(
            [PROGRAM, '-M', 'pc', '-m', '16', '-display', 'none', '-net', 'none', '-serial', 'null', '-device', 'pvpanic',
             '-bios', path, '-monitor', 'stdio', '-D', self.log, *more],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
        self.dir.cleanup()

    def ask(self, *commands):
        """Everything that the monitor says until it quits."""
        return self.process.communicate('\n'.join([*commands, 'quit', '']), timeout=60)[0]

    def logged(self, *patterns, seconds=60):
        """Waits until the log has all of them."""
        end, text = time.time() + seconds, ''
        while time.time() < end:
            if os.path.exists(self.log):
                with open(self.log, encoding='utf-8', errors='replace') as file:
                    text = file.read(4 << 20)
                if all(re.search(pattern, text, re.M) for pattern in patterns):
                    return text
            time.sleep(0.1)
        raise AssertionError(f'{[p for p in patterns if not re.search(p, text, re.M)]} are not in: {text[:3000]}')


# Each item of -d, and what it has to say about this guest.
ITEMS = {
    'in_asm': [r'^0x0*fffffff0:  ea 00 e0 00 f0 +jmp', r'^0x0*fe205:  01 c8 +add eax,ecx'],
    'op': [r'^OP:', r'^ *\d+ push\.4 rax'],
    'op_opt': [r'^OP:', r'^ *\d+ jcc\.4 .* live='],
    'out_asm': [r'^OUT: 0x[0-9a-f]+ \[size=\d+\]\n(0x.*\n)*0x[0-9a-f]+:  01 c8 +add eax,ecx|^0x[0-9a-f]+:  44 .. .. +add eax,r12d', r'^0x[0-9a-f]+:  ([0-9a-f]{2} )+ +jmp 0x'],
    'int': [r'v=40 e=0000 i=1', r'v=0d e=0000 i=0'],
    'cpu': [r'^E?RAX=|^EAX=', r'EIP=000fe2|RIP=00000000000fe2'],
    'exec,nochain': [r'^Trace 0: \[.*/00000000000fe205/'],
    'mmu': [r'^mmu 0: .* of 0x00000000000f'],
    'guest_errors': [r'pvpanic: unknown event'],
    'unimp': [r'RDMSR of 0x12345'],
    'page': [r'pc\.ram'],
}


def test_log_items():
    for items, patterns in ITEMS.items():
        with Guest('-d', items) as guest:
            try:
                guest.logged(*patterns)
            except AssertionError as missing:
                raise AssertionError(f'-d {items}: {missing}') from missing


def test_nochain():
    """Blocks that are linked run unseen, with this each of them is seen each time."""
    with Guest('-d', 'exec,nochain') as guest:
        end = time.time() + 60
        while time.time() < end and guest.logged(r'^Trace').count('000fe205/') < 5000:
            time.sleep(0.1)
        assert guest.logged(r'^Trace').count('000fe205/') >= 5000
    with Guest('-d', 'exec') as guest:
        guest.logged(r'^Trace 0: .*000fe205/')
        time.sleep(1)
        assert guest.logged(r'^Trace').count('000fe205/') < 5000


def test_filter():
    with Guest('-d', 'in_asm,exec,op,cpu,nochain', '-dfilter', f'{LOOP + 5:#x}..{LOOP + 11:#x}') as guest:
        text = guest.logged(r'^0x0*fe205:', r'^Trace 0:', r'^OP:')
    addresses = {int(a, 16) for a in re.findall(r'^Trace 0: \[[0-9a-f]+/([0-9a-f]+)/', text, re.M)}
    assert addresses and all(LOOP + 5 <= a <= LOOP + 11 for a in addresses), addresses
    assert '0xfffffff0' not in text and '00000000fffffff0' not in text


def test_info_jit():
    with Guest() as guest:
        time.sleep(2)
        text = guest.ask('info jit')
    for pattern in (r'gen code size +\d+/\d+ \(\d', r'TB count +[1-9]', r'TB translated +[1-9]\d* \([1-9]\d* instructions, \d+ us\)',
                    r'an instruction +\d+ ns to translate, [1-9][\d.]* bytes', r'hot blocks +\d+', r'direct links +[1-9]\d* made; [1-9]',
                    r'jump cache +\d+ misses', r'entries to code +[1-9]', r'left: unlinked branch [1-9]', r'left: indirect +\d',
                    r'TLB misses +\d+, then \d+', r'interpreted: blocks +\d+, elsewhere +[1-9]', r'^ +\w+ \([0-9a-f ]+\) +\d+'):
        assert re.search(pattern, text, re.M), (pattern, text)


def cpu_seconds(process):
    with open(f'/proc/{process.pid}/stat', encoding='utf-8') as file:
        fields = file.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def test_waiting():
    """Who waits by PAUSE alone leaves the host's processor to others; -overcommit cpu-pm=on keeps it."""
    with Guest(loop=WAITS) as guest:
        time.sleep(2)
        before = cpu_seconds(guest.process)
        time.sleep(3)
        used = cpu_seconds(guest.process) - before
        text = guest.ask('info jit')
    assert used < 2, used
    assert int(re.search(r'in PAUSE +\d+, slept (\d+)', text)[1]) > 100, text
    with Guest('-overcommit', 'cpu-pm=on', loop=WAITS) as guest:
        time.sleep(2)
        assert re.search(r'in PAUSE +0, slept 0$', guest.ask('info jit'), re.M)


def test_debugger_of_the_host():
    if not shutil.which('gdb'):
        raise tap.Skip('gdb is not installed')
    with Guest('-accel', 'tcg,x-gdb-jit=on') as guest:
        time.sleep(2)
        result = subprocess.run(['gdb', '-p', str(guest.process.pid), '-batch', '-nx', '-iex', 'set debuginfod enabled off',
                                 '-ex', 'info functions ^guest-', '-ex', 'thread apply all backtrace 4'],
                                capture_output=True, text=True, timeout=120)
        if 'ptrace' in result.stderr and 'guest-' not in result.stdout:
            raise tap.Skip('gdb may not look at other processes')
        assert re.search(r'0x[0-9a-f]+ +guest-fe205', result.stdout), (result.stdout, result.stderr)
        assert re.search(r'#0 .* in guest-fe2', result.stdout) or 'guest-fe2' in result.stdout
        assert guest.process.poll() is None


def test_perf_map():
    with Guest('-accel', 'tcg,x-perf-map=on') as guest:
        path = f'/tmp/perf-{guest.process.pid}.map'
        try:
            time.sleep(2)
            guest.ask()
            with open(path, encoding='utf-8') as file:
                text = file.read()
        finally:
            if os.path.exists(path):
                os.unlink(path)
    assert re.search(r'^[0-9a-f]+ [0-9a-f]+ guest-fe205$', text, re.M), text[:500]


if __name__ == '__main__':
    tap.run(tap.tests_in(globals()), names=sys.argv[2:])
