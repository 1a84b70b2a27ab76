#!/usr/bin/env python3
"""check_state.py PROGRAM: every member of every device's struct is a property, a register, a row of its saved state, or
named there with the reason why it need not be saved. Reads the tables and the debug information of the built program
with gdb. Exits 1 and lists what is missing."""
import os
import shutil
import subprocess
import sys

# What no stream holds: the core's own bookkeeping, regions and lines made by plug, locks.
NEVER = {'MemRegion', 'RegBank', 'Lock', 'Bus', 'Work', 'MachineNotifier', 'MemListener', 'ResetHandler', 'CharFront', 'Device',
         'PciDevice', 'IdeDevice', 'ListNode', 'List', 'AddressSpace', 'PciBus', 'IrqLine', 'QueueLink'}
# Tables that are reached through a pointer without a type.
BEHIND = {'x86_cpu_state': 'X86Cpu'}


def inside_gdb():
    import gdb

    def string(value):
        return value.string() if int(value) else None

    def rows_of(table, end='name'):
        i = 0
        while int(table) and int(table[i][end]):
            yield table[i]
            i += 1

    problems, seen, checked = [], set(), [0, 0]

    def strip(t):
        t = t.strip_typedefs()
        while t.code == gdb.TYPE_CODE_ARRAY:
            t = t.target().strip_typedefs()
        return t

    def type_name(t):
        while t.code == gdb.TYPE_CODE_ARRAY:
            t = t.target()
        while t.code in (gdb.TYPE_CODE_TYPEDEF, gdb.TYPE_CODE_STRUCT):
            if t.name in NEVER:
                return t.name
            if t.code == gdb.TYPE_CODE_STRUCT:
                break
            stripped = t.strip_typedefs()
            if stripped.name == t.name:
                break
            t = stripped
        return t.name

    def uncovered(t, base, ranges, prefix):
        """Names of the members of struct t, at offset base, that no range of bytes covers."""
        for field in t.fields():
            start, size = base + field.bitpos // 8, field.type.sizeof
            name = prefix + (field.name or '')
            if size == 0 or type_name(field.type) in NEVER or (field.name or '').startswith('pad'):
                continue
            checked[1] += 1
            if all(any(a <= at < b for a, b in ranges) for at in (start, start + size - 1)):
                continue
            inner = strip(field.type)
            if inner.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION) and field.type.strip_typedefs().code != gdb.TYPE_CODE_ARRAY:
                yield from uncovered(inner, start, ranges, name + '.' if field.name else prefix)
            else:
                yield name

    def check(where, struct, state, more):
        ranges = list(more)
        for row in rows_of(state):
            start = int(row['offset'])
            count = 1 if int(row['not_state']) else max(int(row['count']), 1)
            ranges.append((start, start + int(row['size']) * count))
            if int(row['fields']) and not int(row['not_state']):
                nested(where, struct, row)
        for name in uncovered(struct, 0, ranges, ''):
            problems.append(f'{where}: {struct.name or "struct"}.{name} is in no table')

    def member_type(struct, offset):
        for field in struct.fields():
            start = field.bitpos // 8
            if start <= offset < start + field.type.sizeof:
                inner = strip(field.type)
                if inner.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION) and (offset != start or inner.code == gdb.TYPE_CODE_UNION):
                    return member_type(inner, offset - start) or inner
                return inner
        return None

    def nested(where, struct, row):
        key = int(row['fields'])
        name = string(row['name'])
        symbol = gdb.execute(f'info symbol {key}', to_string=True).split()[0]
        if symbol in BEHIND:
            inner = gdb.lookup_type(BEHIND[symbol]).strip_typedefs()
        else:
            inner = member_type(struct, int(row['offset']))
        if key not in seen and inner is not None:
            seen.add(key)
            check(f'{where} {name}', inner, row['fields'], [])

    def properties(object_type):
        ranges = []
        while int(object_type):
            for prop in rows_of(object_type['props']):
                ranges.append(int(prop['offset']))
            object_type = object_type['parent']
        return ranges

    def prop_ranges(struct, offsets, base=0):
        """A property covers the whole member it lies in, as far down as members go."""
        out = []
        for field in struct.fields():
            start, size = base + field.bitpos // 8, field.type.sizeof
            hit = [o for o in offsets if start <= o < start + size]
            inner = field.type.strip_typedefs()
            if not hit:
                continue
            if inner.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION) and not (hit == [start] and inner.fields()[0].type.sizeof == size):
                out += prop_ranges(inner, hit, start)
            out += [(start, start + size)] if inner.code not in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION) else []
            if inner.code == gdb.TYPE_CODE_STRUCT and inner.name in ('MacAddress', 'Uuid') or type_name(field.type) in (
                    'MacAddress', 'Uuid', 'DriveRef', 'NetClient', 'NetdevRef', 'DiskConf', 'NetConf'):
                out.append((start, start + size))
        return out

    gdb.execute('set confirm off')
    gdb.execute('set pagination off')
    gdb.execute('set breakpoint pending off')
    gdb.execute('break main', to_string=True)
    gdb.execute('run -version', to_string=True)
    first = int(gdb.parse_and_eval('(unsigned long)&__start_device_types'))
    last = int(gdb.parse_and_eval('(unsigned long)&__stop_device_types'))
    pointer = gdb.lookup_type('DeviceType').const().pointer()
    for at in range(first, last, 8):
        device = gdb.Value(at).cast(pointer.pointer()).dereference().dereference()
        name, c_type = string(device['object']['name']), string(device['object']['c_type'])
        if c_type is None:
            problems.append(f'{name}: its descriptor does not name its struct')
            continue
        try:
            struct = gdb.lookup_type(c_type).strip_typedefs()
        except gdb.error:
            problems.append(f'{name}: no debug information of {c_type}')
            continue
        checked[0] += 1
        if (c_type, int(device['state'])) in seen:
            continue
        seen.add((c_type, int(device['state'])))
        more = prop_ranges(struct, properties(device['object'].address))
        for reg in rows_of(device['regs']):
            start = int(reg['offset'])
            more.append((start, start + int(reg['size']) * max(int(reg['count']), 1)))
        check(name, struct, device['state'], more)
    gdb.execute('kill')
    print(f'STATE {checked[0]} device types, {checked[1]} members, {len(problems)} in no table')
    for problem in problems:
        print('STATE ' + problem)
    gdb.execute('quit %d' % (1 if problems else 0))


def main():
    if not shutil.which('gdb'):
        print('gdb is not installed')
        return 77
    run = subprocess.run(['gdb', '-batch', '-nx', '-iex', 'set debuginfod enabled off', '-x', os.path.abspath(__file__), sys.argv[1]],
                         capture_output=True, text=True, env=dict(os.environ, CHECK_STATE_INSIDE='1'))
    lines = [line[6:] for line in run.stdout.splitlines() if line.startswith('STATE ')]
    print('\n'.join(lines) if lines else run.stdout + run.stderr)
    return 0 if lines and run.returncode == 0 else 1


if os.environ.get('CHECK_STATE_INSIDE'):
    inside_gdb()
else:
    sys.exit(main())
