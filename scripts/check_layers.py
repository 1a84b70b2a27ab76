#!/usr/bin/env python3
"""Checks that dependencies run one way: layers.txt gives each folder of src/ a level, and a file may include lower
levels, its own folder, and the same-level neighbours that its line names. Exits 1 and names every other include."""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SRC = os.path.join(ROOT, 'src')
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def read_layers():
    layers = {}
    with open(os.path.join(ROOT, 'layers.txt')) as f:
        for line in f:
            line = line.split('#')[0].strip()
            if line:
                folder, rest = line.split(':')
                level, *neighbours = rest.split()
                layers[folder] = (int(level), neighbours)
    return layers


def folder_of(path, layers):
    """The longest folder of layers.txt that holds the path."""
    parts = path.split('/')[:-1]
    for n in range(len(parts), 0, -1):
        if '/'.join(parts[:n]) in layers:
            return '/'.join(parts[:n])
    return None


def allowed(user, used, layers):
    if user == used:
        return True
    level, neighbours = layers[user]
    return layers[used][0] < level or used in neighbours


def main():
    layers = read_layers()
    bad = []
    for base, _, names in os.walk(SRC):
        for name in names:
            if not name.endswith(('.c', '.h')):
                continue
            full = os.path.join(base, name)
            path = os.path.relpath(full, SRC)
            user = folder_of(path, layers)
            if user is None:
                bad.append(f'src/{path}: its folder is not in layers.txt')
                continue
            if name.endswith('_test.c') or name.startswith('test_'):
                continue
            with open(full, encoding='utf-8') as f:
                for include in INCLUDE.findall(f.read()):
                    used = folder_of(include, layers)
                    if used and not allowed(user, used, layers):
                        bad.append(f'src/{path}: {user} (level {layers[user][0]}) may not include "{include}" '
                                   f'(level {layers[used][0]})')
    print('\n'.join(sorted(bad)) if bad else 'layers: every include points downwards')
    return 1 if bad else 0


sys.exit(main())
