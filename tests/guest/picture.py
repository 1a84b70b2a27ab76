"""Pictures of a guest's screen: reads PNG files (8 bits a channel, not interlaced) with Python's own library only, and
compares regions of them. A region is (left, top, right, bottom)."""
import struct
import zlib

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


class Picture:
    def __init__(self, width, height, rgb):
        self.width, self.height, self.rgb = width, height, rgb

    @classmethod
    def load(cls, path):
        with open(path, 'rb') as f:
            data = f.read()
        if data[:8] != b'\x89PNG\r\n\x1a\n':
            raise ValueError(f'{path} is no PNG file')
        at, body, palette = 8, b'', b''
        while at < len(data):
            size, kind = struct.unpack_from('>I4s', data, at)
            chunk = data[at + 8:at + 8 + size]
            if kind == b'IHDR':
                width, height, depth, color, _, _, interlace = struct.unpack('>IIBBBBB', chunk)
                if depth != 8 or interlace:
                    raise ValueError(f'{path}: only 8 bits a channel, not interlaced')
            elif kind == b'PLTE':
                palette = chunk
            elif kind == b'IDAT':
                body += chunk
            at += size + 12
        step = CHANNELS[color]
        return cls(width, height, _to_rgb(_unfilter(zlib.decompress(body), width * step, height, step), color, palette))

    def pixel(self, x, y):
        at = (y * self.width + x) * 3
        return tuple(self.rgb[at:at + 3])

    def _pixels(self, region):
        left, top, right, bottom = region or (0, 0, self.width, self.height)
        for y in range(top, bottom):
            row = self.rgb[(y * self.width + left) * 3:(y * self.width + right) * 3]
            yield from zip(row[0::3], row[1::3], row[2::3])

    def share(self, test, region=None):
        """Part of the pixels, 0 to 1, for which test(red, green, blue) holds."""
        pixels = list(self._pixels(region))
        return sum(1 for p in pixels if test(*p)) / len(pixels)

    def colors(self, region=None):
        return set(self._pixels(region))

    def difference(self, other, region=None):
        """Mean difference of a channel, 0 to 255."""
        total = count = 0
        for a, b in zip(self._pixels(region), other._pixels(region)):
            total += abs(a[0] - b[0]) + abs(a[1] - b[1]) + abs(a[2] - b[2])
            count += 3
        return total / count


def _unfilter(data, stride, height, step):
    rows, previous, at = [], bytearray(stride), 0
    for _ in range(height):
        kind, row = data[at], bytearray(data[at + 1:at + 1 + stride])
        at += stride + 1
        if kind == 1:
            for i in range(step, stride):
                row[i] = (row[i] + row[i - step]) & 255
        elif kind == 2:
            row = bytearray((a + b) & 255 for a, b in zip(row, previous))
        elif kind == 3:
            for i in range(stride):
                left = row[i - step] if i >= step else 0
                row[i] = (row[i] + (left + previous[i]) // 2) & 255
        elif kind == 4:
            for i in range(stride):
                left, corner = (row[i - step], previous[i - step]) if i >= step else (0, 0)
                row[i] = (row[i] + _paeth(left, previous[i], corner)) & 255
        rows.append(bytes(row))
        previous = row
    return b''.join(rows)


def _paeth(left, up, corner):
    guess = left + up - corner
    to_left, to_up, to_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
    if to_left <= to_up and to_left <= to_corner:
        return left
    return up if to_up <= to_corner else corner


def _to_rgb(data, color, palette):
    if color == 2:
        return data
    rgb = bytearray()
    if color == 6:
        for i in range(0, len(data), 4):
            rgb += data[i:i + 3]
    elif color == 3:
        for index in data:
            rgb += palette[index * 3:index * 3 + 3]
    else:
        for gray in data[::CHANNELS[color]]:
            rgb += bytes((gray, gray, gray))
    return bytes(rgb)
