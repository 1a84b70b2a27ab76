#!/usr/bin/env python3
"""check_headers.py BUILD: every header of src/ compiles alone, with the flags of the build."""
import concurrent.futures
import json
import os
import shlex
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def flags_of(build):
    """Compiler and preprocessor flags, from any file of the emulator's library."""
    with open(os.path.join(build, 'compile_commands.json')) as f:
        commands = json.load(f)
    entry = next(c for c in commands if 'ostrich-core' in c['command'] and c['file'].endswith('machine.c'))
    words = shlex.split(entry['command'])
    keep = [w for w in words if w.startswith(('-I', '-D', '-std', '-W', '-f', '-m'))]
    compiler = [w for w in words[:2] if not w.startswith('-') and 'ccache' not in w][0]
    return compiler, keep


def check(compiler, flags, build, header):
    result = subprocess.run([compiler, *flags, '-x', 'c', '-fsyntax-only', '-'], cwd=build, text=True,
                            input=f'#include "{header}"\n', capture_output=True)
    return header, result.returncode, result.stderr


def main():
    build = os.path.abspath(sys.argv[1])
    compiler, flags = flags_of(build)
    headers = []
    for base, _, names in os.walk(os.path.join(ROOT, 'src')):
        headers += [os.path.relpath(os.path.join(base, n), os.path.join(ROOT, 'src')) for n in names if n.endswith('.h')]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for header, code, err in pool.map(lambda h: check(compiler, flags, build, h), sorted(headers)):
            if code:
                failed += 1
                print(f'{header} does not compile alone:\n{err}')
    print(f'headers: {len(headers) - failed} of {len(headers)} compile alone')
    return 1 if failed else 0


sys.exit(main())
