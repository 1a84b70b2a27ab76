"""Disk images of macOS for tests: make_dmg(disk, ...) gives the bytes of a file that holds the bytes `disk`."""
import base64
import bz2
import struct
import zlib

SECTOR = 512
ZERO, RAW, IGNORE, ADC, ZLIB, BZIP2, COMMENT, END = 0, 1, 2, 0x80000004, 0x80000005, 0x80000006, 0x7ffffffe, 0xffffffff


def adc(data):
    """Runs of one byte as copies from one back, which the two longer codes can say, the rest as it is."""
    out, at, plain = b"", 0, b""

    def flush():
        nonlocal out, plain
        for i in range(0, len(plain), 128):
            part = plain[i:i + 128]
            out += bytes([0x80 | len(part) - 1]) + part
        plain = b""

    while at < len(data):
        run = 0
        while at and at + run < len(data) and run < 67 and data[at + run] == data[at - 1]:
            run += 1
        if run >= 4:
            flush()
            out += bytes([(run - 3) << 2, 0]) if run <= 18 else bytes([0x40 | run - 4, 0, 0])
            at += run
        else:
            plain += data[at:at + 1]
            at += 1
    flush()
    return out


PACK = {ZERO: lambda d: b"", IGNORE: lambda d: b"", RAW: bytes, ADC: adc, ZLIB: zlib.compress, BZIP2: bz2.compress}


def mish(first, count, chunks):
    head = struct.pack(">4sIQQQII24x", b"mish", 1, first, count, 0, 0x208, 0).ljust(200, b"\0") + struct.pack(">I", len(chunks))
    return head + b"".join(struct.pack(">IIQQQQ", kind, 0, *rest) for kind, *rest in chunks)


def property_list(lists):
    dicts = "".join("\n<dict>\n<key>Attributes</key>\n<string>0x0050</string>\n<key>CFName</key>\n<string>part %d</string>\n"
                    "<key>Data</key>\n<data>\n%s</data>\n<key>ID</key>\n<string>%d</string>\n<key>Name</key>\n<string>part %d"
                    "</string>\n</dict>" % (i, base64.encodebytes(m).decode(), i, i) for i, m in enumerate(lists))
    return ('<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE plist PUBLIC "-//Apple Computer//DTD PLIST 1.0//EN" '
            '"http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n<plist version="1.0"><dict><key>resource-fork</key><dict>'
            f'<key>blkx</key>\n<array>{dicts}</array>\n<key>plst</key><array><dict><key>Data</key><data>AAAA</data></dict></array>'
            '</dict></dict></plist>\n').encode()


def resource_fork(lists):
    data, refs = b"", b""
    for i, m in enumerate(lists):
        refs += struct.pack(">hhII", i, -1, len(data), 0)
        data += struct.pack(">I", len(m)) + m
    types = struct.pack(">H4sHH", 0, b"blkx", len(lists) - 1, 10)
    resource_map = bytes(24) + struct.pack(">HH", 28, 28 + len(types + refs)) + types + refs
    head = struct.pack(">IIII", 256, 256 + len(data), len(data), len(resource_map))
    return head.ljust(256, b"\0") + data + resource_map


def make_dmg(disk, kinds, chunk_sectors=64, fork=False, before=0):
    """kinds: of the chunks in turn. before: bytes before the guest's data. Two lists; zeroes become chunks without data."""
    body, lists, sectors = bytes(before), [], len(disk) // SECTOR
    half = sectors // 2 // chunk_sectors * chunk_sectors
    turn = 0
    for first, end in ((0, half), (half, sectors)):
        chunks = [(COMMENT, 0, 0, 0, 0)]
        for at in range(first, end, chunk_sectors):
            count = min(chunk_sectors, end - at)
            data = disk[at * SECTOR:(at + count) * SECTOR]
            kind = kinds[turn % len(kinds)] if any(data) else (ZERO, IGNORE)[turn % 2]
            packed = PACK[kind](data)
            chunks.append((kind, at - first, count, len(body) - before, len(packed)))
            body += packed
            turn += 1
        chunks.append((END, end - first, 0, len(body) - before, 0))
        lists.append(mish(first, end - first, chunks))
    tables = resource_fork(lists) if fork else property_list(lists)
    places = (len(body), len(tables), 0, 0) if fork else (0, 0, len(body), len(tables))
    trailer = struct.pack(">4sIIIQQQQQII", b"koly", 4, 512, 1, 0, before, len(body) - before, places[0], places[1], 1, 1)
    trailer = trailer.ljust(216, b"\0") + struct.pack(">QQ", *places[2:])
    trailer = trailer.ljust(488, b"\0") + struct.pack(">IQ", 1, sectors)
    return body + tables + trailer.ljust(512, b"\0")
