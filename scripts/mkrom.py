#!/usr/bin/env python3
"""mkrom.py SOURCE OUTPUT.c NAME: assembles an expansion ROM, sets its length and checksums, writes it as a C array.

The ROM is a PnP expansion ROM: byte 2 holds the length in 512-byte blocks, all bytes sum to zero, and so do the 32
bytes of the PnP header that word 0x1a points to."""
import os
import subprocess
import sys
import tempfile


def assemble(source):
    with tempfile.TemporaryDirectory() as tmp:
        obj, binary = os.path.join(tmp, 'rom.o'), os.path.join(tmp, 'rom.bin')
        subprocess.run(['as', '--32', '-I', os.path.dirname(source), '-o', obj, source], check=True)
        subprocess.run(['ld', '-m', 'elf_i386', '-Ttext', '0', '-e', '0', '--oformat', 'binary', '-o', binary, obj],
                       check=True)
        with open(binary, 'rb') as f:
            return bytearray(f.read())


def main():
    source, output, name = sys.argv[1:]
    rom = assemble(source)
    rom += bytes(-(len(rom) + 1) % 512 + 1)
    rom[2] = len(rom) // 512
    pnp = rom[0x1a] | rom[0x1b] << 8
    rom[pnp + 9] = -sum(rom[pnp:pnp + 32]) & 0xff
    rom[-1] = -sum(rom) & 0xff
    with open(output, 'w') as f:
        f.write(f'/* Made from {os.path.basename(source)}. */\n#include "firmware/rom/roms.h"\n\n')
        f.write(f'const uint8_t {name}[] = {{\n')
        for at in range(0, len(rom), 16):
            f.write('    ' + ' '.join(f'0x{b:02x},' for b in rom[at:at + 16]) + '\n')
        f.write(f'}};\nconst size_t {name}_size = sizeof({name});\n')


main()
