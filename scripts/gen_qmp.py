#!/usr/bin/env python3
"""Makes the QMP tables and argument structs from schema/*.qmp.

    gen_qmp.py header|tables SCHEMA... > OUT

The schema language, one definition a line (it may go on while a bracket is open; '#' starts a comment):

    enum NAME = value, value, ...
    struct NAME { member: TYPE, *optional: TYPE, ... }
    struct NAME : BASE { ... }
    union NAME { base members... | tagvalue: STRUCT, ... } by member
    alternate NAME { member: TYPE, ... }
    command name (member: TYPE, ..., ...) -> TYPE [feature, ...]      (a last "..." : more members are allowed)
    event NAME (member: TYPE, ...)
    programs emulator|all       who has the commands below, to the end of the file (at first: the emulator;
                                all: qemu-storage-daemon too)

TYPE is str, int, number, bool, null, any, a defined name, or [TYPE]. "oob" among the features of a command
means it may run out of band.
"""
import re
import sys

BUILTIN = {'str': 'QMP_STR', 'int': 'QMP_INT', 'number': 'QMP_NUMBER', 'bool': 'QMP_BOOL', 'null': 'QMP_NULL',
           'any': 'QMP_ANY'}
C_TYPE = {'str': 'const char *', 'int': 'int64_t ', 'number': 'double ', 'bool': 'bool ', 'any': 'const Value *'}


def fail(where, text):
    sys.exit('%s: %s' % (where, text))


def statements(path):
    text, start = '', 0
    for number, line in enumerate(open(path), 1):
        line = line.split('#')[0].rstrip()
        if not text and not line.strip():
            continue
        if not text:
            start = number
        text += ' ' + line.strip()
        if all(text.count(a) <= text.count(b) for a, b in ('()', '{}', '[]')) and not text.endswith(','):
            yield '%s:%d' % (path, start), text.strip()
            text = ''
    if text:
        fail(path, 'unfinished definition: ' + text)


def split(text):
    return [part.strip() for part in text.split(',') if part.strip()]


def members(where, text):
    out, is_open = [], False
    for part in split(text):
        if part == '...':
            is_open = True
            continue
        m = re.fullmatch(r'(\*?)([\w-]+)\s*:\s*(\[?[\w-]+\]?)', part)
        if not m:
            fail(where, 'bad member: ' + part)
        out.append((m.group(2), m.group(3), m.group(1) == '*'))
    return out, is_open


class Schema:
    def __init__(self, paths):
        self.enums, self.structs, self.unions, self.alternates = {}, {}, {}, {}
        self.commands, self.events, self.arrays = {}, {}, set()
        for path in paths:
            self.daemon = False
            for where, text in statements(path):
                self.define(where, text)

    def define(self, where, text):
        m = re.fullmatch(r'programs (emulator|all)', text)
        if m:
            self.daemon = m.group(1) == 'all'
            return
        m = re.fullmatch(r'enum (\w+) = (.*)', text)
        if m:
            self.enums[m.group(1)] = split(m.group(2))
            return
        m = re.fullmatch(r'struct (\w+)(?: : (\w+))? \{(.*)\}', text)
        if m:
            base = self.structs[m.group(2)] if m.group(2) else []
            self.structs[m.group(1)] = base + members(where, m.group(3))[0]
            return
        m = re.fullmatch(r'union (\w+) \{(.*)\|(.*)\} by ([\w-]+)', text)
        if m:
            self.unions[m.group(1)] = (members(where, m.group(2))[0], members(where, m.group(3))[0], m.group(4))
            return
        m = re.fullmatch(r'alternate (\w+) \{(.*)\}', text)
        if m:
            self.alternates[m.group(1)] = members(where, m.group(2))[0]
            return
        m = re.fullmatch(r'command ([\w-]+) \((.*?)\)(?: -> (\[?\w+\]?))?(?: \[(.*)\])?', text)
        if m:
            args, is_open = members(where, m.group(2))
            self.commands[m.group(1)] = (args, is_open, m.group(3), split(m.group(4) or ''),
                                         self.daemon)
            return
        m = re.fullmatch(r'event (\w+)(?: \((.*)\))?', text)
        if m:
            self.events[m.group(1)] = members(where, m.group(2) or '')[0]
            return
        fail(where, 'cannot understand: ' + text)

    def type_ref(self, name):
        if name.startswith('['):
            element = name[1:-1]
            self.arrays.add(element)
            return '&qmp_array_%s' % c_name(element)
        for table in (BUILTIN, self.enums, self.structs, self.unions, self.alternates):
            if name in table:
                return '&qmp_type_%s' % c_name(name)
        fail('schema', 'unknown type ' + name)

    def c_type(self, name):
        return C_TYPE['str'] if name in self.enums else C_TYPE.get(name, 'const Value *')


def c_name(name):
    return re.sub(r'\W', '_', name)


def struct_name(command):
    return 'Qmp' + ''.join(p[:1].upper() + p[1:] for p in re.split(r'[-_]', command)) + 'Args'


def header(s):
    print('/* Made by scripts/gen_qmp.py from schema/. */')
    print('#ifndef OSTRICH_SCHEMA_QMP_COMMANDS_H\n#define OSTRICH_SCHEMA_QMP_COMMANDS_H\n\n#include "value/qmp.h"\n')
    for name in sorted(s.commands):
        args = s.commands[name][0]
        print('typedef struct %s {' % struct_name(name))
        for member, type_name, optional in args:
            if optional:
                print('    bool has_%s;' % c_name(member))
            print('    %s%s;' % (s.c_type(type_name), c_name(member)))
        print('    const Value *all; /* the whole dictionary, never NULL */')
        print('} %s;' % struct_name(name))
        print('Error *qmp_%s(QmpContext *ctx, const %s *args, Value **ret);\n' % (c_name(name), struct_name(name)))
    print('#endif')


def print_members(s, ident, items, struct=None):
    print('static const QmpMember %s[] = {' % ident)
    for member, type_name, optional in items:
        extra = ''
        if optional:
            extra += ', .optional = true'
        if struct:
            extra += ', .offset = offsetof(%s, %s)' % (struct, c_name(member))
            if optional:
                extra += ', .has_offset = offsetof(%s, has_%s)' % (struct, c_name(member))
        print('    { .name = "%s", .type = %s%s },' % (member, s.type_ref(type_name), extra))
    print('    { 0 },\n};')


def tables(s):
    # Definitions are collected first so that arrays are known before they are declared.
    import contextlib
    import io
    body = io.StringIO()
    with contextlib.redirect_stdout(body):
        for name, values in sorted(s.enums.items()):
            print('static const char *const values_%s[] = { %s, NULL };' %
                  (name, ', '.join('"%s"' % v for v in values)))
            print('static const QmpType qmp_type_%s = { .name = "%s", .kind = QMP_ENUM, .values = values_%s };' %
                  (name, name, name))
        for name, items in sorted(s.structs.items()):
            print_members(s, 'members_' + name, items)
            print('static const QmpType qmp_type_%s = { .name = "%s", .kind = QMP_OBJECT, .members = members_%s };' %
                  (name, name, name))
        for name, (base, variants, tag) in sorted(s.unions.items()):
            print_members(s, 'members_' + name, base)
            print_members(s, 'variants_' + name, variants)
            print('static const QmpType qmp_type_%s = { .name = "%s", .kind = QMP_OBJECT, .members = members_%s, '
                  '.tag = "%s", .variants = variants_%s };' % (name, name, name, tag, name))
        for name, items in sorted(s.alternates.items()):
            print_members(s, 'members_' + name, items)
            print('static const QmpType qmp_type_%s = { .name = "%s", .kind = QMP_ALTERNATE, .members = members_%s };' %
                  (name, name, name))
        for name, (args, _, _, features, _) in sorted(s.commands.items()):
            print_members(s, 'args_' + c_name(name), args, struct_name(name))
            shown = [f for f in features if f != 'oob']
            if shown:
                print('static const char *const features_%s[] = { %s, NULL };' %
                      (c_name(name), ', '.join('"%s"' % f for f in shown)))
        for name, items in sorted(s.events.items()):
            print_members(s, 'event_' + name, items)
        print('const QmpCommand qmp_commands[] = {')
        for name, (args, is_open, returns, features, daemon) in sorted(s.commands.items()):
            extra = ', .open = true' if is_open else ''
            if returns:
                extra += ', .returns = ' + s.type_ref(returns)
            if daemon:
                extra += ', .daemon = true'
            if 'oob' in features:
                extra += ', .oob = true'
            if [f for f in features if f != 'oob']:
                extra += ', .features = features_' + c_name(name)
            print('    { .name = "%s", .members = args_%s, .args_size = sizeof(%s), .all_offset = offsetof(%s, all),\n'
                  '      .fn = (Error *(*)(QmpContext *, const void *, Value **))qmp_%s%s },' %
                  (name, c_name(name), struct_name(name), struct_name(name), c_name(name), extra))
        print('    { 0 },\n};')
        print('const QmpEvent qmp_events[] = {')
        for name in sorted(s.events):
            print('    { .name = "%s", .members = event_%s },' % (name, name))
        print('    { 0 },\n};')
        print('const QmpType *const qmp_types[] = {')
        for table in (s.enums, s.structs, s.unions, s.alternates):
            for name in sorted(table):
                print('    &qmp_type_%s,' % name)
        print('    NULL,\n};')
    print('/* Made by scripts/gen_qmp.py from schema/. */')
    print('#include "schema/qmp_commands.h"\n\n#include <stddef.h>\n')
    for name in sorted(BUILTIN):
        print('__attribute__((unused)) static const QmpType qmp_type_%s = { .name = "%s", .kind = %s };' %
              (name, name, BUILTIN[name]))
    for table in (s.enums, s.structs, s.unions, s.alternates):
        for name in sorted(table):
            print('static const QmpType qmp_type_%s;' % name)
    for name in sorted(s.arrays):
        print('static const QmpType qmp_array_%s = { .name = "[%s]", .kind = QMP_ARRAY, .element = &qmp_type_%s };' %
              (c_name(name), name, c_name(name)))
    print(body.getvalue())


def main():
    schema = Schema(sys.argv[2:])
    {'header': header, 'tables': tables}[sys.argv[1]](schema)


main()
