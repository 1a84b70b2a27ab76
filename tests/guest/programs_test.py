#!/usr/bin/env python3
"""Programs that generate and rewrite code, in a guest: a JavaScript engine, a Java virtual machine, and this emulator itself; and
stress-ng, which verifies what it computes."""
import os
import re
import shutil
import subprocess
import tempfile

from guest import Guest, Skip, cloud_kernel, make_initrd, need, run
from packages import one_file, package

# Hot functions, functions that are optimized and then meet other types, closures, regular expressions, big numbers.
SCRIPT = r'''
'use strict';
const crypto = require('crypto');
function mix(h, v) { return (Math.imul(h ^ v, 16777619) ^ (h >>> 13)) | 0; }
function sort(n) { const a = []; let x = 1; for (let i = 0; i < n; i++) { x = (x * 1103515245 + 12345) & 0x7fffffff; a.push(x); }
  a.sort((p, q) => p - q); return a.reduce(mix, 0); }
function shapes(n) { let h = 0; const kinds = [i => ({ a: i }), i => ({ b: i, a: i * 2 }), i => ({ c: '' + i, a: i / 3 })];
  for (let i = 0; i < n; i++) { const o = kinds[i % 3](i); h = mix(h, o.a | 0); if (i === n >> 1) kinds[0] = j => ({ a: j + 0.5, z: 1 }); } return h; }
function generated(n) { let h = 0; for (let i = 0; i < n; i++) { const f = new Function('x', `return x * ${i} + ${i * 7} | 0`);
  for (let k = 0; k < 300; k++) h = mix(h, f(k)); } return h; }
function words(n) { let s = ''; for (let i = 0; i < n; i++) s += ' w' + (i * 7919 % 1000); return s.match(/w(\d*[02468])\b/g).length; }
function big(n) { let p = 1n; for (let i = 1n; i <= n; i++) p *= i; return crypto.createHash('sha256').update(p.toString()).digest('hex'); }
let out = [];
for (let round = 0; round < 3; round++) out.push([sort(40000), shapes(200000), generated(400), words(30000), big(600n)].join(','));
console.log('SCRIPT ' + crypto.createHash('sha256').update(out.join(';')).digest('hex'));
'''


def copy_into(root, path):
    target = root + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if not os.path.exists(target):
        shutil.copy(os.path.realpath(path), target)


def copy_program(root, path):
    """The program with the libraries that it names."""
    copy_into(root, path)
    for line in subprocess.run(['ldd', path], capture_output=True, text=True, check=True).stdout.splitlines():
        for word in line.split():
            if word.startswith('/'):
                copy_into(root, word)


def boot(emulator, fill, init, memory, *arguments):
    """Runs the init script in a guest with what fill(root, tmp) put there; returns the serial line's text."""
    with tempfile.TemporaryDirectory() as tmp:
        root = os.path.join(tmp, 'initrd-root')
        os.makedirs(root)
        fill(root, tmp)
        initrd = make_initrd(tmp, f'ip link set lo up\n{init}\necho PROGRAM-END\npoweroff -f\n')
        with Guest(emulator, ['-m', str(memory), '-kernel', cloud_kernel(), '-initrd', initrd, '-append', 'console=ttyS0', '-net',
                              'none', *arguments]) as vm:
            vm.wait_serial('PROGRAM-END', 1800)
            text = vm.serial_text.decode(errors='replace')
            vm.wait_exit(60)
            return text


def javascript(emulator):
    node = need('/usr/bin/node', 'nodejs')
    expected = subprocess.run([node, '-e', SCRIPT], capture_output=True, text=True, check=True).stdout.strip()

    def fill(root, tmp):
        copy_program(root, node)
        with open(os.path.join(root, 'script.js'), 'w') as f:
            f.write(SCRIPT)

    text = boot(emulator, fill, '/usr/bin/node /script.js', 2048, '-smp', '2')
    assert expected.startswith('SCRIPT ') and expected in text, (expected, text[-2000:])


def java(emulator):
    home = os.path.dirname(os.path.dirname(os.path.realpath(need('/usr/bin/java', 'openjdk-17-jre-headless'))))

    def fill(root, tmp):
        shutil.copytree(home, root + home, symlinks=False, ignore_dangling_symlinks=True,
                        ignore=shutil.ignore_patterns('src.zip', 'demo', 'man', 'jmods', 'docs', 'legal', 'include'))
        copy_program(root, os.path.join(home, 'bin/java'))
        for directory, _, files in os.walk(os.path.join(home, 'lib')):
            for name in files:
                if name in ('libjvm.so', 'libjava.so', 'libnet.so', 'libnio.so', 'libzip.so', 'libjimage.so', 'libjli.so'):
                    copy_program(root, os.path.join(directory, name))

    text = boot(emulator, fill, f'{home}/bin/java -Xmx256m -version 2>&1 && echo JAVA-OK', 2048, '-smp', '2')
    assert 'JAVA-OK' in text and 'Server VM' in text, text[-2000:]


def emulator_inside(emulator):
    """Twice: translated code that translates, and rewrites, code."""
    def fill(root, tmp):
        copy_program(root, emulator)
        copy_into(root, need('/usr/share/seabios/bios-256k.bin', 'seabios'))
        for name in ('linuxboot_dma.bin', 'kvmvapic.bin'):
            if os.path.exists('/usr/share/qemu/' + name):
                copy_into(root, '/usr/share/qemu/' + name)
        shutil.copy(cloud_kernel(), os.path.join(root, 'vmlinuz'))
        inner = os.path.join(tmp, 'inner')
        os.makedirs(inner)
        shutil.copy(make_initrd(inner, 'echo INNER-OK $(nproc)\npoweroff -f\n'), os.path.join(root, 'inner.gz'))

    init = (f'{emulator} -m 192 -nodefaults -display none -serial stdio -kernel /vmlinuz -initrd /inner.gz '
            '-append "console=ttyS0" </dev/null')
    text = boot(emulator, fill, init, 1536, '-cpu', 'max')
    assert 'INNER-OK 1' in text, text[-2000:]


STRESSORS = '--cpu 2 --vm 1 --vm-bytes 64M --fork 1 --switch 1 --signal 1 --matrix 1 --atomic 1 --mmap 1 --mmap-bytes 16M'
LIBRARIES = ['libipsec-mb1', 'libjudydebian1', 'libsctp1', 'libegl1', 'libgles2', 'libglvnd0', 'libgbm1', 'libdrm2',
             'libwayland-server0', 'libapparmor1', 'libjpeg62-turbo', 'libbsd0', 'libmd0', 'libkmod2', 'libxxhash0']


def stress(emulator):
    program = one_file(package('stress-ng'), 'usr/bin/stress-ng')
    directories = [os.path.join(package(name), 'usr/lib/x86_64-linux-gnu') for name in LIBRARIES]
    directories += [path.replace('/usr/lib/', '/lib/') for path in directories]
    needed = subprocess.run(['ldd', program], capture_output=True, text=True, check=True,
                            env=dict(os.environ, LD_LIBRARY_PATH=':'.join(directories))).stdout
    if 'not found' in needed:
        raise Skip('a library of stress-ng is missing: ' + needed)

    def fill(root, tmp):
        for source, target in [(program, 'usr/bin/stress-ng')] + [
                (path, 'lib/x86_64-linux-gnu/' + os.path.basename(path)) for path in re.findall(r'=> (/\S+)', needed)] + [
                ('/lib64/ld-linux-x86-64.so.2', 'lib64/ld-linux-x86-64.so.2')]:
            os.makedirs(os.path.dirname(os.path.join(root, target)), exist_ok=True)
            shutil.copy(os.path.realpath(source), os.path.join(root, target))

    text = boot(emulator, fill, f'cd /tmp; stress-ng {STRESSORS} --verify --timeout 300 2>&1; echo STRESS $?', 1536, '-smp', '2')
    assert re.search(r'^STRESS 0', text, re.M), text[-3000:]


if __name__ == '__main__':
    run([javascript, java, emulator_inside, stress])
