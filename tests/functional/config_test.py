#!/usr/bin/env python3
"""config_test.py QEMU-SYSTEM: what options come to, and what is said about those that cannot be, in TAP."""
import json
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap  # noqa: E402

PROGRAM = os.path.abspath(sys.argv[1])

# A command line, and what the one line on standard error must say: the cause and the remedy.
ERRORS = [
    (['-nosuch'], r'-nosuch: invalid option'),
    (['-drives', 'x'], r"-drives: invalid option, did you mean '-drive'\?"),
    (['-m'], r'-m: requires an argument'),
    (['-M', 'pcc'], r"unsupported machine type 'pcc'.*[Dd]id you mean 'pc'"),
    (['-cpu', 'qemu64,pmu=on'], r'no performance monitoring unit'),
    (['-cpu', 'qemu64,legacy-cache=off'], r'no other description of their caches'),
    (['-cpu', 'qemu46'], r"qemu46.*[Dd]id you mean 'qemu64'"),
    (['-device', 'e100'], r"'e100'.*did you mean 'e1000'"),
    (['-device', 'e1000,max=1'], r"'e1000.max' not found"),
    (['-chardev', 'pttty,id=a'], r"'pttty' is not a valid char driver"),
    (['-netdev', 'usr,id=a'], r"usr.*did you mean 'user'"),
    (['-object', 'rng-builtn,id=a'], r"rng-builtn.*did you mean 'rng-builtin'"),
    (['-display', 'sld'], r"there is no display 'sld', did you mean 'sdl'"),
    (['-k', 'dee'], r"there is no keyboard layout 'dee', did you mean 'de'"),
    (['-d', 'guest_error'], r"unknown log item 'guest_error', did you mean 'guest_errors'"),
    (['-bios', 'nosuch.bin'], r'nosuch\.bin.*(looked|not found|no such|cannot)'),
    (['-kernel', '/nosuch/kernel'], r'/nosuch/kernel'),
    (['-hda', '/nosuch/disk'], r"/nosuch/disk.*No such file"),
    (['-m', '999999T'], r'999999T|memory'),
    (['-tftp', '/tmp'], r"-tftp /tmp: this option is gone; use '-netdev user,id=ID,tftp=DIR'"),
    (['-hdachs', '1,2,3'], r"use '-device ide-hd,cyls="),
    (['-redir', 'tcp:1::2'], r'hostfwd='),
    (['-writeconfig', 'f'], r'-dump-config'),
    (['-balloon', 'xen'], r'virtio-balloon-pci'),
    (['-numa', 'node'], r'-numa: the nodes have 0 MiB of memory together'),
    (['-numa', 'x'], r'-numa x: the first word tells what is configured'),
    (['-numa', 'cpu,node-id=3'], r'node-id=3: there is no such node'),
    (['-plugin', 'x.so'], r'-plugin x\.so: not supported'),
    (['-spice', 'port=1'], r'-spice port=1: not supported: SPICE'),
    (['-compat', 'deprecated-input=crash'], r'deprecated-input=crash is not supported: only accept'),
    (['-run-with', 'exit-with-parent=on', '-daemonize', '-M', 'none', '-display', 'none'], r'leaves at once'),
    (['-run-with', 'async-teardown=maybe'], r'async-teardown'),
    (['-run-with', 'user=nosuchuser', '-M', 'none', '-display', 'none'], r'there is no such user'),
    (['-prom-env', 'x=y'], r'machines that are not PCs'),
]

# Old spellings: the warning, and what they come to.
OLD = [
    (['-localtime'], "-localtime is an old spelling of '-rtc base=localtime'", '"base=localtime"'),
    (['-no-kvm'], "-no-kvm is an old spelling of '-accel tcg'", '"accel": "tcg"'),
    (['-tb-size', '64'], "-tb-size 64 is an old spelling of '-accel tcg,tb-size=64'", '"tb-size": "64"'),
    (['-balloon', 'virtio'], "'-device virtio-balloon-pci'", '"driver": "virtio-balloon-pci"'),
    (['-singlestep'], "'-accel tcg,one-insn-per-tb=on'", '"one-insn-per-tb": "on"'),
    (['-curses'], "'-display curses'", '"curses"'),
    (['-realtime', 'mlock=off'], "'-overcommit mem-lock=off'", '"mem-lock=off"'),
]

CONFIGS = [
    [],
    ['-nographic'],
    ['-M', 'pc,acpi=off', '-m', '512M', '-smp', '2,maxcpus=4', '-boot', 'order=c,menu=on', '-name', 'a,,b', '-uuid',
     '11111111-2222-3333-4444-555555555555', '-S', '-rtc', 'base=localtime'],
    ['-hda', 'a,,b.img', '-cdrom', 'c.iso', '-drive', 'file=d.img,if=virtio,format=raw', '-snapshot'],
    ['-nic', 'user,model=e1000,hostfwd=tcp::2222-:22', '-net', 'none'],
    ['-net', 'nic,model=virtio', '-net', 'user'],
    ['-serial', 'mon:stdio', '-parallel', 'none', '-vga', 'none', '-device', 'virtio-rng-pci,id=r', '-qmp', 'unix:/x,server=on,wait=off'],
    ['-global', 'e1000.mac=52:54:00:00:00:01', '-object', 'rng-random,id=x,filename=/dev/urandom', '-enable-kvm'],
]


def call(*args):
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)


def test_errors():
    for args, pattern in ERRORS:
        result = call(*args) if '-display' in args else call('-display', 'none', *args)
        assert result.returncode == 1, (args, result)
        lines = [line for line in result.stderr.splitlines() if 'warning:' not in line]
        assert lines and re.search(pattern, ' '.join(lines)), (args, result.stderr)
        assert lines[0].startswith(PROGRAM + ': ') or lines[0].startswith(os.path.basename(PROGRAM) + ': '), lines[0]
        assert len(lines) <= 3, lines


def test_image_is_locked():
    with tempfile.TemporaryDirectory() as folder:
        image = os.path.join(folder, 'd.img')
        with open(image, 'wb') as f:
            f.truncate(1 << 20)
        holder = subprocess.Popen([PROGRAM, '-display', 'none', '-S', '-drive', f'file={image},format=raw', '-qmp', 'stdio', '-net', 'none'],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            holder.stdout.readline()
            holder.stdin.write(b'{"execute":"qmp_capabilities"}')
            holder.stdin.flush()
            holder.stdout.readline()
            result = call('-display', 'none', '-drive', f'file={image},format=raw')
            assert result.returncode == 1 and 'lock' in result.stderr and str(holder.pid) in result.stderr, result.stderr
        finally:
            holder.kill()
            holder.communicate()


def test_port_is_taken():
    import socket
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        result = call('-M', 'none', '-display', 'none', '-monitor', f'tcp:127.0.0.1:{s.getsockname()[1]},server=on,wait=off')
        assert result.returncode == 1 and 'in use' in result.stderr, result.stderr


def test_trace():
    events = call('-trace', 'help').stdout.split()
    assert 'e1000_write' in events and 'isa_pit_read' in events, events
    with tempfile.TemporaryDirectory() as folder:
        log, wanted = os.path.join(folder, 'log'), os.path.join(folder, 'events')
        open(wanted, 'w').write('# timers\nisa_pit_*\n-isa_pit_read\n')
        process = subprocess.run(
            [PROGRAM, '-M', 'pc', '-m', '16', '-S', '-display', 'none', '-net', 'none', '-trace', f'events={wanted},file={log}', '-qmp', 'stdio'],
            text=True, capture_output=True, timeout=60, input=''.join(
                json.dumps({'execute': 'human-monitor-command', 'arguments': {'command-line': line}}) if line[0] != '{' else line
                for line in ('{"execute":"qmp_capabilities"}', 'o /b 0x43 0x34', 'i /b 0x40', 'trace-event isa_pit_write off',
                             'o /b 0x43 0x56', 'info trace-events isa_pit*', 'trace-event nosuch on',
                             '{"execute":"trace-event-set-state","arguments":{"name":"isa_pit_read","enable":true}}',
                             'i /b 0x41', '{"execute":"quit"}')))
        text = open(log).read()
    assert re.fullmatch(r'isa_pit_write \S+\+0x3 1 <- 0x34\nisa_pit_read \S+\+0x1 1 -> 0x\w+\n', text), (text, process)
    assert 'isa_pit_read : state 0' in process.stdout and "'nosuch' does not exist" in process.stdout, process.stdout
    result = call('-trace', 'e1000_wrote')
    assert result.returncode == 1 and "did you mean 'e1000_write'" in result.stderr, result.stderr


def test_dfilter():
    # The reset vector's jump and nothing else.
    process = subprocess.Popen([PROGRAM, '-M', 'pc', '-m', '16', '-display', 'none', '-net', 'none', '-d', 'in_asm', '-dfilter', '0xfffffff0+16'],
                               stderr=subprocess.PIPE, text=True)
    try:
        lines = [process.stderr.readline() for _ in range(3)]
        assert re.search('0x0*fffffff0:', ''.join(lines)), lines
    finally:
        process.kill()
        process.communicate()
    assert 'START..LAST' in call('-dfilter', '5').stderr


def test_log_items():
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, 'log')
        subprocess.run([PROGRAM, '-M', 'pc', '-m', '16', '-display', 'none', '-net', 'none', '-d', 'page,pcall,mmu', '-D', log,
                        '-monitor', 'stdio'], input='quit\n', text=True, capture_output=True, timeout=60)
        assert 'pc.ram' in open(log).read()


def test_old_spellings():
    for args, warning, meaning in OLD:
        result = call(*args, '-dump-config')
        assert result.returncode == 0 and warning in result.stderr, (args, result.stderr)
        assert meaning in result.stdout, (args, result.stdout)


def test_dump_config():
    """What is dumped is JSON; read back it comes to the same."""
    for args in CONFIGS:
        first = call(*args, '-dump-config')
        assert first.returncode == 0, (args, first.stderr)
        config = json.loads(first.stdout)
        with tempfile.NamedTemporaryFile('w', suffix='.json') as f:
            f.write(first.stdout)
            f.flush()
            second = call('-readconfig', f.name, '-dump-config')
        assert second.returncode == 0, (args, second.stderr)
        again = json.loads(second.stdout)
        assert again['rewritten'] == [], again['rewritten']
        del config['rewritten'], again['rewritten']
        assert config == again, (args, config, again)
    config = json.loads(call('-hda', 'x.img', '-device', 'virtio-rng-pci', '-dump-config').stdout)
    assert config['rewritten'] == ['-hda x.img'], config['rewritten']
    assert any(d.get('file') == 'x.img' and d.get('if') == 'none' for d in config['drive']), config['drive']


def test_dumped_machine_runs():
    args = ['-M', 'pc', '-m', '16', '-display', 'none', '-S', '-net', 'nic', '-net', 'user', '-serial', 'null', '-monitor', 'none']
    tree = []
    with tempfile.NamedTemporaryFile('w', suffix='.json') as f:
        f.write(call(*args, '-dump-config').stdout)
        f.flush()
        for line in (args, ['-readconfig', f.name]):
            result = subprocess.run([PROGRAM, *line, '-qmp', 'stdio'], capture_output=True, text=True, timeout=60,
                                    input='{"execute":"qmp_capabilities"}{"execute":"human-monitor-command","arguments":'
                                          '{"command-line":"info qtree"}}{"execute":"quit"}')
            tree.append([json.loads(answer)['return'] for answer in result.stdout.split('\n') if '"return": "' in answer])
            assert tree[-1], result
    assert tree[0] == tree[1], tree


if __name__ == "__main__":
    tap.run(tap.tests_in(globals()), names=sys.argv[2:])
