#!/usr/bin/env python3
"""What processors promise each other about memory, code and translations (litmus.c), on several CPUs of a guest."""
import os
import shutil
import sys
import tempfile

from guest import Guest, cloud_kernel, make_initrd, run

LITMUS = sys.argv.pop(2)


def litmus(emulator, cpus, *arguments):
    with tempfile.TemporaryDirectory() as tmp:
        os.makedirs(os.path.join(tmp, 'initrd-root/bin'))
        shutil.copy(LITMUS, os.path.join(tmp, 'initrd-root/bin/litmus'))
        initrd = make_initrd(tmp, '/bin/litmus 2; echo LITMUS-END\npoweroff -f\n')
        with Guest(emulator, ['-m', '256', '-smp', str(cpus), '-kernel', cloud_kernel(), '-initrd', initrd, '-append',
                              'console=ttyS0', '-net', 'none', *arguments]) as vm:
            vm.wait_serial('LITMUS-END', 900)
            text = vm.serial_text.decode(errors='replace')
            for line in text.splitlines():
                if line.startswith(('ok ', 'BAD ')):
                    print('# ' + line, flush=True)
            assert 'LITMUS-OK' in text, text
            vm.wait_exit(60)


def two_cpus(emulator):
    litmus(emulator, 2)


def four_cpus(emulator):
    litmus(emulator, 4)


def interpreter(emulator):
    litmus(emulator, 2, '-accel', 'tcg,one-insn-per-tb=on')


def every_poll(emulator):
    litmus(emulator, 2, '-accel', 'tcg,x-stress=17')


if __name__ == '__main__':
    run([two_cpus, four_cpus, interpreter, every_poll])
