#!/usr/bin/env python3
"""Generates the x86 instruction tables from src/cpu/x86/insn.tab (its head describes the columns).

usage: gen_x86_insn.py INSN.TAB {ops|tables|handlers} OUTPUT

ops: x86_ops.h, the enumeration and the handlers' prototypes. tables: x86_tables.c, decode trees and
descriptors. handlers: x86_handlers.c, the dispatch table and weak #UD handlers.
"""
import re
import sys

MAPS = {'': 0, '0f': 1, '0f38': 2, '0f3a': 3}
PREFIXES = {'np': {0}, '66': {1}, 'f3': {2}, 'f2': {3}, 'nf': {0, 1}}
FLAGS = {'o': 'X86_OF', 's': 'X86_SF', 'z': 'X86_ZF', 'a': 'X86_AF', 'p': 'X86_PF', 'c': 'X86_CF', 'd': 'X86_DF'}
PROPS = {
    'priv': 'INSN_PRIV', 'lock': 'INSN_LOCKABLE', 'end': 'INSN_END', 'no64': 'INSN_NO64',
    'only64': 'INSN_ONLY64', 'def64': 'INSN_DEF64', 'rep': 'INSN_REP', 'wait': 'INSN_X87_WAIT',
    'nolin': 'INSN_NO_LINEAR_MEM', 'realud': 'INSN_REAL_UD', 'align': 'INSN_ALIGN', 'cc': 'INSN_COND',
}
# Feature name: CPUID word and bit.
FEATURES = {}
for word, names in {
    'X86_FEAT_1_EDX': {'fpu': 0, 'tsc': 4, 'msr': 5, 'cx8': 8, 'sep': 11, 'cmov': 15, 'clflush': 19, 'mmx': 23,
                       'fxsr': 24, 'sse': 25, 'sse2': 26},
    'X86_FEAT_1_ECX': {'sse3': 0, 'pclmul': 1, 'monitor': 3, 'vmx': 5, 'ssse3': 9, 'fma': 12, 'cx16': 13,
                       'sse41': 19, 'sse42': 20, 'movbe': 22, 'popcnt': 23, 'aes': 25, 'xsave': 26, 'avx': 28,
                       'f16c': 29, 'rdrand': 30},
    'X86_FEAT_7_EBX': {'fsgsbase': 0, 'bmi1': 3, 'avx2': 5, 'bmi2': 8, 'invpcid': 10, 'rtm': 11, 'rdseed': 18,
                       'adx': 19, 'smap': 20, 'clflushopt': 23, 'clwb': 24, 'sha': 29},
    'X86_FEAT_7_ECX': {'pku': 3, 'waitpkg': 5, 'gfni': 8, 'vaes': 9, 'vpclmulqdq': 10, 'rdpid': 22, 'movdiri': 27, 'movdir64b': 28},
    'X86_FEAT_7_EDX': {'serialize': 14},
    'X86_FEAT_8000_0001_EDX': {'rdtscp': 27},
    'X86_FEAT_8000_0001_ECX': {'svm': 2, 'abm': 5, 'skinit': 12},
    'X86_FEAT_8000_0008_EBX': {'clzero': 0, 'wbnoinvd': 9},
    'X86_FEAT_D_1_EAX': {'xsaveopt': 0, 'xsavec': 1, 'xsaves': 3},
}.items():
    for name, bit in names.items():
        FEATURES[name] = (word, bit)

FIXED = {  # operand token: source, size code, register
    'AL': ('FIXED', '1', 0), 'CL': ('FIXED', '1', 1), 'DX': ('FIXED', '2', 2), 'AX': ('FIXED', '2', 0),
    'eAX': ('FIXED', 'SZ_V', 0), 'zAX': ('FIXED', 'SZ_Z', 0), '1': ('ONE', '1', 0), 'ST': ('ST0', '10', 0),
    'X0': ('XMM0', '16', 0), 'rm': ('RM_REG', 'SZ_M', 0),
    'ES': ('SEG', '2', 0), 'CS': ('SEG', '2', 1), 'SS': ('SEG', '2', 2), 'DS': ('SEG', '2', 3),
    'FS': ('SEG', '2', 4), 'GS': ('SEG', '2', 5), 'Ibs': ('IMM_S', 'SZ_V', 0),
}
SIZES = {
    'b': '1', 'w': '2', 'd': '4', 'q': '8', 'o': '16', 'Y': '32', 't': '10', '0': '0', 'v': 'SZ_V', 'z': 'SZ_Z',
    'y': 'SZ_Y', 'm': 'SZ_M', 'u': 'SZ_U', 'i': 'SZ_I', 'j': 'SZ_J', 'p': 'SZ_P', 's': 'SZ_S', 'a': 'SZ_A',
    'c': 'SZ_C', 'x': 'SZ_X', 'h': 'SZ_H', 'k': 'SZ_K', 'e': 'SZ_E',
}
MODRM_LETTERS = set('EGMRVWUPQNSCDTX')
VECTOR_CLASSES = {'X87', 'MMX', 'SSE', 'AVX'}


class Row:
    pass


def die(number, text):
    sys.exit('insn.tab:%d: %s' % (number, text))


def parse_encoding(row, text, number):
    m = re.fullmatch(r'((?:[a-z0-9]+\.)*)([0-9a-f]{2})(\+i|\+cc)?(?:=([0-9a-f]{2})(\+i)?)?(?:/([0-7]))?(?::([mr]))?', text)
    if not m:
        die(number, 'bad encoding ' + text)
    parts, opcode, plus, modrm, plus_rm, reg, mod = m.groups()
    row.vex, row.prefix, row.length, row.wide, row.map = False, None, None, None, 0
    for part in parts.split('.')[:-1]:
        if part == 'vex':
            row.vex = True
        elif part in PREFIXES:
            row.prefix = PREFIXES[part]
        elif part in ('l0', 'l1'):
            row.length = int(part[1])
        elif part in ('w0', 'w1'):
            row.wide = int(part[1])
        elif part in MAPS:
            row.map = MAPS[part]
        else:
            die(number, 'unknown part ' + part)
    row.opcode = int(opcode, 16)
    row.opcodes = {'+i': 8, '+cc': 16, None: 1}[plus]
    row.reg = row.rm = row.mod = None
    row.modrm = modrm is not None or reg is not None or mod is not None
    if reg is not None:
        row.reg = int(reg)
    if mod is not None:
        row.mod = 0 if mod == 'm' else 1
    if modrm is not None:
        value = int(modrm, 16)
        row.mod, row.reg = 1, value >> 3 & 7
        row.rm = None if plus_rm else value & 7


def parse_operand(row, token, number):
    access = 'OPND_READ'
    if token[0] in '=+':
        access = {'=': 'OPND_WRITE', '+': 'OPND_READ | OPND_WRITE'}[token[0]]
        token = token[1:]
    if token in FIXED:
        source, size, reg = FIXED[token]
        if token == 'rm':
            row.modrm = True
        return (source, size, reg), access
    letter, size = token[0], SIZES.get(token[1:])
    if size is None:
        die(number, 'bad operand ' + token)
    if letter in MODRM_LETTERS:
        row.modrm = True
    if letter in 'MX':
        row.mod = 0
    if letter in 'RUN':
        row.mod = 1
    if letter == 'T':
        size = '10'
    source = {'E': 'E', 'G': 'G', 'M': 'M', 'R': 'R', 'Z': 'Z', 'B': 'B', 'V': 'V', 'W': 'W', 'U': 'U', 'H': 'H',
              'L': 'L', 'P': 'P', 'Q': 'Q', 'N': 'N', 'S': 'S', 'C': 'C', 'D': 'D', 'T': 'T', 'I': 'IMM',
              'J': 'REL', 'O': 'MOFFS', 'A': 'FAR', 'X': 'VSIB'}.get(letter)
    if source is None:
        die(number, 'bad operand ' + token)
    if source == 'IMM' and size in ('SZ_Z',):
        source = 'IMM_Z'
    if source == 'IMM' and size in ('SZ_V',):
        source = 'IMM_V'
    return (source, size, 0), access


def flag_mask(letters):
    return ' | '.join(FLAGS[c] for c in letters) or '0'


def make_row(fields, number):
    row = Row()
    row.number = number
    encoding, name, operands, row.cls = fields[:4]
    attributes = [a for a in fields[4:] if a != '-']
    row.op, _, mnemonic = name.partition('=')
    row.mnemonic = mnemonic or row.op.lower()
    row.encoding = encoding
    parse_encoding(row, encoding, number)
    row.text_operands = [] if operands == '-' else operands.split(',')
    row.operands = [parse_operand(row, t, number) for t in row.text_operands]
    row.attributes = attributes
    row.props, row.flags = set(), {'w': '', 'r': '', 'm': '', 'u': ''}
    row.feature = None
    row.byte = row.force64 = row.z = False
    if row.cls == 'INT' and row.text_operands:
        first = row.text_operands[0].lstrip('=+')
        row.byte = first == 'AL' or (len(first) == 2 and first[1] == 'b')
    handler = None
    unaligned = row.cls != 'SSE'
    for a in attributes:
        key, eq, value = a.partition('=')
        if a in PROPS:
            row.props.add(PROPS[a])
        elif a == 'arith':
            row.flags['w'] = 'oszapc'
        elif a == 'logic':
            row.flags['w'], row.flags['u'] = 'oszapc', 'a'
        elif a[1:2] == ':':
            row.flags[a[0]] = a[2:]
        elif a == 'byte':
            row.byte = True
        elif a == 'z':
            row.z = True
        elif a == 'f64':
            row.force64 = True
            row.props.add('INSN_DEF64')
        elif a == 'unal':
            unaligned = True
        elif a in ('mmx', 'mask'):
            pass
        elif key == 'else':
            row.props.add('INSN_ELSE')
        elif key == 'f':
            row.feature = row.feature or value
        elif key == 'F':
            row.feature = value
        elif key == 'h':
            handler = value
        elif key in ('vex', 'vexi', 'vexs', 'vex0'):
            pass
        else:
            die(number, 'unknown attribute ' + a)
    if row.feature is not None and row.feature not in FEATURES:
        die(number, 'unknown feature ' + row.feature)
    if handler is None:
        handler = 'native' if row.cls in VECTOR_CLASSES else row.op.lower()
    row.handler = handler
    if handler == 'native':
        row.props.add('INSN_NATIVE')
    if not unaligned and any(s[0] in ('W', 'M') and s[1] == '16' for s, _ in row.operands):
        row.props.add('INSN_ALIGN')
    if any(s[0] == 'VSIB' for s, _ in row.operands):
        row.props.add('INSN_VSIB')
    if 'INSN_COND' in row.props:
        row.flags['r'] = 'oszapc'
    return row


def vex_forms(fields, number):
    """The VEX rows that an SSE row stands for."""
    kind = mode = None
    rest = []
    for a in fields[4:]:
        key, eq, value = a.partition('=')
        if key in ('vex', 'vexi', 'vexs', 'vex0') and eq:
            kind, mode = key, value
        elif key != 'f' and a != 'unal':
            rest.append(a)
    if kind is None:
        return []
    feature = next(a[2:] for a in fields[4:] if a.startswith('f='))
    operands = fields[2].split(',')
    keep = feature if feature in ('aes', 'pclmul', 'gfni') else 'avx'
    wide = kind in ('vex', 'vexi')
    if mode in '3s':
        operands = ['=' + operands[0][1:] if operands[0][0] in '=+' else operands[0], 'Ho'] + operands[1:]
    elif mode == 'h':
        operands = ['=Ho', 'Uo'] + operands[1:]
    if mode == 'w':
        operands[1] = operands[1][0] + {'q': 'h', 'd': 'k', 'w': 'e'}[operands[1][1]]
    if wide:
        new = []
        for i, o in enumerate(operands):
            if o[-1] == 'o' and o[-2] in 'VWUHM' and not (mode == 's' and i == 2) and not (mode == 'n' and i == 0):
                o = o[:-1] + 'x'
            new.append(o)
        operands = new
    op, eq, mnemonic = fields[1].partition('=')
    name = 'V' + op + (eq + 'v' + mnemonic if eq else '')
    out = []
    for length, f in {'vex': [('', keep)], 'vexs': [('', keep)], 'vex0': [('l0.', keep)],
                      'vexi': [('l0.', keep), ('l1.', 'avx2')]}[kind]:
        prefix, dot, tail = fields[0].partition('.')
        out.append(['vex.%s.%s%s' % (prefix, length, tail), name, ','.join(operands), 'AVX', 'f=' + f] + rest)
    return out


def read_rows(path):
    rows = []
    for number, line in enumerate(open(path), 1):
        line = line.strip()
        if not line or line.startswith('#'):
            continue
        fields = line.split()
        rows.append(make_row(fields, number))
        rows += [make_row(f, number) for f in vex_forms(fields, number)]
    return rows


DIMS = ['mode', 'prefix', 'mod', 'reg', 'rm', 'length', 'wide']
SPAN = {'mode': 2, 'prefix': 4, 'mod': 2, 'reg': 8, 'rm': 8, 'length': 2, 'wide': 2}


def wants(row, dim):
    """The values of a dimension that a row accepts; None: all."""
    if dim == 'mode':
        return {0} if 'INSN_NO64' in row.props else {1} if 'INSN_ONLY64' in row.props else None
    value = getattr(row, dim)
    return value if value is None or isinstance(value, set) else {value}


class Tree:
    """Decode trees as one array of 16-bit words: a row's number, or 0x8000 | index of a node; 0: invalid."""

    def __init__(self):
        self.words, self.memo = [0], {}

    def build(self, rows, dims, index):
        if not rows:
            return 0
        for i, dim in enumerate(dims):
            if any(wants(r, dim) is not None for r in rows):
                children = tuple(
                    self.build([r for r in rows if wants(r, dim) is None or v in wants(r, dim)], dims[i + 1:], index)
                    for v in range(SPAN[dim]))
                if len(set(children)) == 1:
                    return children[0]
                node = (DIMS.index(dim),) + children
                if node not in self.memo:
                    self.memo[node] = 0x8000 | len(self.words)
                    self.words += node
                return self.memo[node]
        best = max(sum(wants(r, d) is not None for d in DIMS) for r in rows)
        found = [r for r in rows if sum(wants(r, d) is not None for d in DIMS) == best]
        narrow = min(len(wants(r, 'prefix') or range(4)) for r in found)
        found = [r for r in found if len(wants(r, 'prefix') or range(4)) == narrow]
        if len(found) > 1:
            found = [r for r in found if r.opcodes == min(f.opcodes for f in found)]
        if len(found) > 1:
            sys.exit('insn.tab: lines %s collide' % ', '.join(str(r.number) for r in found))
        return index[id(found[0])]


BANNER = '/* Generated by scripts/gen_x86_insn.py from insn.tab. */\n'


def op_names(rows):
    ops = {}
    for r in rows:
        ops.setdefault(r.op, r)
    return sorted(ops)


def write_ops(rows, out):
    out.write(BANNER + '#ifndef OSTRICH_X86_OPS_H\n#define OSTRICH_X86_OPS_H\n\nenum {\n    X86_OP_INVALID,\n')
    for op in op_names(rows):
        out.write('    X86_OP_%s,\n' % op)
    out.write('    X86_OP_COUNT,\n};\n\nstruct X86Cpu;\nstruct X86Insn;\n')
    for h in sorted({r.handler for r in rows}):
        out.write('void x86_op_%s(struct X86Cpu *cpu, const struct X86Insn *insn);\n' % h)
    out.write('\n#endif\n')


def write_handlers(rows, out):
    out.write(BANNER + '#include "cpu/x86/exc.h"\n#include "cpu/x86/interp.h"\n#include "x86_ops.h"\n\n'
              '/* What no file has semantics for is an invalid opcode to the guest. */\n'
              'void x86_op_absent(X86Cpu *cpu, const X86Insn *insn);\n'
              'void x86_op_absent(X86Cpu *cpu, const X86Insn *insn)\n{\n    x86_ud(cpu);\n}\n\n')
    for h in sorted({r.handler for r in rows}):
        out.write('__attribute__((weak, alias("x86_op_absent"))) X86Handler x86_op_%s;\n' % h)
    handler = {}
    for r in rows:
        if handler.setdefault(r.op, r.handler) != r.handler:
            die(r.number, "handlers of %s differ: %s, %s" % (r.op, handler[r.op], r.handler))
    out.write('\nX86Handler *const x86_handlers[X86_OP_COUNT] = {\n    [X86_OP_INVALID] = x86_op_absent,\n')
    for op in op_names(rows):
        out.write('    [X86_OP_%s] = x86_op_%s,\n' % (op, handler[op]))
    out.write('};\n')


def write_tables(rows, out):
    index = {id(r): i for i, r in enumerate(rows, 1)}
    specs, tree = [], Tree()
    roots = {}
    for vex in (False, True):
        for m in range(4):
            for opcode in range(256):
                here = [r for r in rows if r.vex == vex and r.map == m and r.opcode <= opcode < r.opcode + r.opcodes]
                roots[vex, m, opcode] = tree.build(here, DIMS, index)
    if len(tree.words) >= 0x8000:
        sys.exit('insn.tab: decode trees too large')
    out.write(BANNER + '#include "cpu/x86/cpu.h"\n#include "cpu/x86/decode_priv.h"\n#include "cpu/x86/insn.h"\n#include "x86_ops.h"\n\n')
    body = []
    for r in rows:
        codes = []
        for spec, _ in r.operands:
            if spec not in specs:
                specs.append(spec)
            codes.append(specs.index(spec))
        access = ' | '.join('(%s) << %d' % (a, 2 * i) for i, (_, a) in enumerate(r.operands)) or '0'
        flags = [n for n, on in (('ROW_MODRM', r.modrm), ('ROW_BYTE', r.byte), ('ROW_DEF64', 'INSN_DEF64' in r.props),
                                 ('ROW_FORCE64', r.force64), ('ROW_Z', r.z),
                                 ('ROW_VVVV', any(s[0] in ('H', 'B') for s, _ in r.operands)),
                                 ('ROW_RM_REG', any(s[0] == 'RM_REG' for s, _ in r.operands)),
                                 ('ROW_LOCK', 'INSN_LOCKABLE' in r.props)) if on]
        body.append('    { { %s }, %d, %s, %s },\n' % (', '.join(map(str, codes)) or '0', len(codes), access,
                                                      ' | '.join(flags) or '0'))
    out.write('const X86OperandSpec x86_operand_specs[] = {\n')
    for source, size, reg in specs:
        out.write('    { SRC_%s, %s, %d },\n' % (source, size, reg))
    out.write('};\n\nconst X86Row x86_rows[] = {\n    { { 0 } },\n' + ''.join(body) + '};\n\n')
    out.write('const unsigned x86_insn_count = %d;\n\nconst X86InsnDesc x86_insn_descs[] = {\n    { .mnemonic = "(bad)" },\n'
              % (len(rows) + 1))
    for r in rows:
        word, bit = FEATURES[r.feature] if r.feature else ('0xff', 0)
        out.write('    { "%s", X86_OP_%s, CLASS_%s, %s, %s, %s, %s, %s, %s, %d },\n' % (
            r.mnemonic, r.op, r.cls, ' | '.join(sorted(r.props)) or '0', flag_mask(r.flags['r']),
            flag_mask(r.flags['w']), flag_mask(r.flags['m']), flag_mask(r.flags['u']), word, bit))
    out.write('};\n\nconst X86Encoding x86_encodings[] = {\n    { 0 },\n')
    byte = lambda v: 0xff if v is None else v
    for r in rows:
        prefix = 0xf if r.prefix is None else sum(1 << v for v in r.prefix)
        out.write('    { %d, 0x%02x, %d, %d, 0x%x, %d, %d, %d, %d, %d, %d },\n' % (
            r.map, r.opcode, r.opcodes, r.vex, prefix, byte(r.length), byte(r.wide), r.modrm, byte(r.mod),
            byte(r.reg), byte(r.rm)))
    out.write('};\n\nconst uint16_t x86_decode_root[2][4][256] = {\n')
    for vex in (False, True):
        out.write('    {\n')
        for m in range(4):
            out.write('        {')
            for opcode in range(256):
                if opcode % 16 == 0:
                    out.write('\n            ')
                out.write('%d, ' % roots[vex, m, opcode])
            out.write('\n        },\n')
        out.write('    },\n')
    out.write('};\n\nconst uint16_t x86_decode_tree[] = {')
    for i, w in enumerate(tree.words):
        out.write('%s%d,' % ('\n    ' if i % 16 == 0 else ' ', w))
    out.write('\n};\n')


def main():
    rows = read_rows(sys.argv[1])
    with open(sys.argv[3], 'w') as out:
        {'ops': write_ops, 'tables': write_tables, 'handlers': write_handlers}[sys.argv[2]](rows, out)


main()
