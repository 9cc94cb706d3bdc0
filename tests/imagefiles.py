"""Image files byte by byte, as other programs write them, so that no reader is tested against itself."""

import struct
import zlib

import numpy as np

SAMPLE_FORMAT = {"u": 1, "i": 2, "f": 3}


def tiff(*pages, order="<", deflate=False):
    """A TIFF; each page an array (H, W) or (H, W, channels), or a tuple of one and tags in place of the usual ones.

    Tags that are useful: 254 what kind of page, 262 photometric (0: white is zero), 284 planar (2: a plane a channel), 338
    what the extra channels mean.
    """
    content = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    for number, page in enumerate(pages, 1):
        values, own = page if isinstance(page, tuple) else (page, {})
        height, width, channels = (*values.shape, 1)[:3]
        tags = {256: width, 257: height, 258: [8 * values.itemsize] * channels, 259: 8 if deflate else 1}
        tags |= {
            262: 2 if channels > 2 else 1,
            277: channels,
            278: height,
            284: 1,
            339: [SAMPLE_FORMAT[values.dtype.kind]] * channels,
        }
        tags |= own
        data = values.astype(values.dtype.newbyteorder(order))
        strips = [plane.tobytes() for plane in np.moveaxis(data, -1, 0)] if tags[284] == 2 else [data.tobytes()]
        strips = [zlib.compress(strip) for strip in strips] if deflate else strips
        start = len(content) + 2 + 12 * (len(tags) + 2) + 4  # of what does not fit into an entry
        tags |= {273: [0] * len(strips), 279: [len(strip) for strip in strips]}
        lists = sum(4 * len(value) for value in tags.values() if isinstance(value, list) and len(value) > 1)
        at = start + lists
        tags[273] = [at + sum(map(len, strips[:i])) for i in range(len(strips))]
        end = at + sum(map(len, strips))
        entries, rest = b"", b""
        for tag, value in sorted(tags.items()):
            found = value if isinstance(value, list) else [value]
            packed = struct.pack(f"{order}{len(found)}I", *found)
            entries += struct.pack(f"{order}HHI", tag, 4, len(found))
            entries += packed if len(found) == 1 else struct.pack(f"{order}I", start + len(rest))
            rest += packed if len(found) > 1 else b""
        following = end if number < len(pages) else 0
        content += (
            struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", following) + rest + b"".join(strips)
        )
    return content


def chunk(kind, data, checksum=None):
    """A chunk of a PNG; a checksum in place of the right one."""
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data) if checksum is None else checksum)
    )


def png(values, *chunks, colour=None):
    """A PNG of uint8 or uint16 values (H, W) or (H, W, channels), with more chunks before its pixels."""
    height, width, channels = (*values.shape, 1)[:3]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, colour, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in values.astype(values.dtype.newbyteorder(">")))
    data = zlib.compress(lines)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def profile(space, tags):
    """An ICC profile, version 2: of a screen by primaries and gamma, or of a printer by a table."""
    kind = {"RGB ": b"mntr", "GRAY": b"mntr", "CMYK": b"prtr"}[space]
    connection = b"Lab " if space == "CMYK" else b"XYZ "
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s12s4s", size, b"lcms", 0x02400000, kind, space.encode(), connection, bytes(12), b"acsp")
    head += bytes(28) + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


WHITE = (0.9642, 1.0, 0.8249)  # D50
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))  # primaries under D50
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
_ABOUT = {b"desc": b"desc\0\0\0\0\0\0\0\2x\0" + bytes(79), b"cprt": b"text\0\0\0\0\0", b"wtpt": _xyz(WHITE)}


def rgb_profile(primaries, gamma):
    """A screen's profile."""
    colours = {name + b"XYZ": _xyz(values) for name, values in zip((b"r", b"g", b"b"), primaries, strict=True)}
    return profile("RGB ", _ABOUT | colours | {name + b"TRC": _gamma(gamma) for name in (b"r", b"g", b"b")})


def grey_profile(gamma):
    """A grey screen's profile."""
    return profile("GRAY", _ABOUT | {b"kTRC": _gamma(gamma)})


def cmyk_profile(lab):
    """A printer's profile: `lab` (2, 2, 2, 2, 3), the colour (L 0..100, a, b) of no ink (0) and full ink (1) of each."""
    straight = bytes(range(256))
    cells = np.clip(np.round(np.asarray(lab, float) * [2.55, 1, 1] + [0, 128, 128]), 0, 255).astype(np.uint8)
    table = b"mft1\0\0\0\0" + struct.pack(">BBBx", 4, 3, 2) + struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    return profile("CMYK", _ABOUT | {b"A2B0": table + straight * 4 + cells.tobytes() + straight * 3})


def to_srgb(values, primaries, gamma):
    """sRGB of uint8 colours under other primaries and gamma, as the standards say it (IEC 61966-2-1), by numpy."""
    light = (values / 255.0) ** (round(gamma * 256) / 256) @ np.array(primaries) @ np.linalg.inv(np.array(SRGB))
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
