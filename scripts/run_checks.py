#!/usr/bin/env python3
"""run_checks.py [--ci] [--full] BUILD: runs the project's checks and tests, prints one line for each, and ends with
"N passed, N failed, N skipped". --ci adds a clang build with -Werror and a sanitizer build of the unit tests and of the guests
of suite "sanitize" (--full: of "sanitize-full");
--full adds the long suites, and a guest with two CPUs under ThreadSanitizer. Exits 1 when anything failed."""
import argparse
import json
import os
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TAP = re.compile(r'^\s*(ok|not ok) \d+(.*)$')


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, name, passed, failed, skipped, seconds, note=''):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        state = 'FAIL' if failed else 'skip' if skipped and not passed else 'ok'
        counts = f'{passed} passed' + (f', {failed} failed' if failed else '') + (f', {skipped} skipped' if skipped else '')
        print(f'{state:5}{name:44}{counts} ({seconds:.1f} s){note}', flush=True)


def run_step(tally, name, command, **kwargs):
    start = time.time()
    result = subprocess.run(command, capture_output=True, text=True, errors='replace', **kwargs)
    good = result.returncode == 0
    tally.add(name, int(good), int(not good), 0, time.time() - start)
    if not good:
        print((result.stdout + result.stderr)[-6000:])
    return good


def count_tap(output):
    passed = failed = skipped = 0
    for line in output.splitlines():
        match = TAP.match(line)
        if match:
            if re.search(r'# SKIP', match.group(2), re.I):
                skipped += 1
            elif match.group(1) == 'ok':
                passed += 1
            else:
                failed += 1
    return passed, failed, skipped


def report_test(tally, entry):
    """One test program of Meson's log: its subtests count, or the program itself when it reports none."""
    passed, failed, skipped = count_tap(entry.get('stdout', ''))
    good = entry['result'] in ('OK', 'EXPECTEDFAIL', 'SKIP')
    if passed + failed + skipped == 0:
        passed, failed, skipped = int(entry['result'] == 'OK'), int(not good), int(entry['result'] == 'SKIP')
    elif not good and failed == 0:
        failed = 1
    tally.add(entry['name'], passed, failed, skipped, entry.get('duration', 0))
    if failed:
        print((entry.get('stdout', '') + '\n' + entry.get('stderr', ''))[-6000:])
    for line in entry.get('stdout', '').splitlines():
        if re.search(r'# SKIP', line, re.I):
            print('      ' + line.strip())


def meson_tests(tally, build, suites, label=''):
    command = ['meson', 'test', '-C', build, '--no-suite', 'none', '--print-errorlogs', '--num-processes', '2']
    for suite in suites:
        command += ['--suite', suite]
    log = os.path.join(build, 'meson-logs', 'testlog.json')
    if os.path.exists(log):
        os.unlink(log)
    result = subprocess.run(command, capture_output=True, text=True, errors='replace')
    if not os.path.exists(log):
        tally.add(label + 'tests', 0, 1, 0, 0)
        print((result.stdout + result.stderr)[-6000:])
        return
    with open(log) as f:
        for line in f:
            entry = json.loads(line)
            entry['name'] = label + entry['name'].split(' / ')[-1]
            report_test(tally, entry)


def configure(build, *options, cc=None):
    env = dict(os.environ)
    if cc:
        env['CC'] = cc
    if not os.path.exists(os.path.join(build, 'build.ninja')):
        subprocess.run(['meson', 'setup', *options, build, ROOT], check=True, env=env, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--ci', action='store_true')
    parser.add_argument('--full', action='store_true')
    parser.add_argument('build')
    args = parser.parse_args()
    build = os.path.abspath(args.build)
    tally = Tally()

    run_step(tally, 'layers', [sys.executable, os.path.join(ROOT, 'scripts/check_layers.py')])
    run_step(tally, 'headers compile alone', [sys.executable, os.path.join(ROOT, 'scripts/check_headers.py'), build])
    run_step(tally, 'saved state covers all members', [sys.executable, os.path.join(ROOT, 'scripts/check_state.py'),
                                                       os.path.join(build, 'src/main/qemu-system-x86_64')])
    meson_tests(tally, build, ['unit', 'codegen', 'insn', 'block', 'functional', 'guest'] + (['full'] if args.full else []))
    if args.full:
        threads = build + '-threads'
        configure(threads, '-Db_sanitize=thread', '-Db_lundef=false')
        if run_step(tally, 'ThreadSanitizer build', ['ninja', '-C', threads]):
            meson_tests(tally, threads, ['thread'], 'threads ')
    if args.ci:
        clang = build + '-clang'
        configure(clang, '--werror', cc='clang')
        run_step(tally, 'clang build, warnings are errors', ['ninja', '-C', clang])
    if args.ci or args.full:
        sanitized = build + '-sanitized'
        configure(sanitized, '-Db_sanitize=address,undefined', '-Db_lundef=false')
        if run_step(tally, 'sanitizer build', ['ninja', '-C', sanitized]):
            suites = (['unit', 'sanitize'] if args.ci else []) + (['sanitize-full'] if args.full else [])
            meson_tests(tally, sanitized, suites, 'sanitized ')
    print(f'{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped')
    return 1 if tally.failed else 0


sys.exit(main())
