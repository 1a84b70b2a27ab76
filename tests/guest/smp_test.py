#!/usr/bin/env python3
"""Debian with systemd on several CPUs, booted to its shell again and again: no boot may stall, and no kernel complain of a CPU
that does not answer. OSTRICH_BOOTS: how many boots with each number of CPUs (20)."""
import os
import re
import tempfile
import time

from debian_test import Debian
from guest import run

BOOTS = int(os.environ.get('OSTRICH_BOOTS', '20'))
COMPLAINTS = re.compile(r'soft lockup|rcu.*(stall|starved)|hung_task|blocked for more than|failed to (come|respond)|'
                        r'Kernel panic|\bOops\b|general protection|segfault|clocksource.*unstable|NMI watchdog: BUG|call trace', re.I)


def boots(emulator, cpus):
    times = []
    for _ in range(BOOTS):
        with tempfile.TemporaryDirectory() as tmp:
            with Debian(emulator, tmp, ['-net', 'none', '-smp', str(cpus)], kernel='cloud') as vm:
                began = time.time()
                vm.boot()
                times.append(time.time() - began)
                assert vm.shell('nproc', 60).strip() == str(cpus)
                log = vm.shell('dmesg', 120)
                match = COMPLAINTS.search(log)
                assert not match, log[max(0, match.start() - 200):match.end() + 500]
                vm.end()
    print(f'# {BOOTS} boots with {cpus} CPUs: {min(times):.0f} to {max(times):.0f} s', flush=True)


def two_cpus(emulator):
    boots(emulator, 2)


def eight_cpus(emulator):
    boots(emulator, 8)


if __name__ == '__main__':
    run([two_cpus, eight_cpus])
