"""PNG files of which only what no pixel depends on is damaged or too long, as browsers read them."""

import zlib
from contextlib import suppress

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LONGEST = 1 << 25  # bytes of a colour profile


def without_ancillary(data: bytes) -> tuple[bytes, bytes]:
    """A PNG without the chunks that no pixel depends on (text, times, animation ...), and its colour profile.

    Transparency stays, damaged or not, for pixels depend on it; orientation stays if its checksum is right.
    """
    kept, profile, start = [SIGNATURE], b"", len(SIGNATURE)
    while start < len(data):
        size, kind = int.from_bytes(data[start : start + 4]), data[start + 4 : start + 8]
        chunk = data[start : start + 12 + size]
        whole = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
        if kind[:1].isupper() or kind == b"tRNS" or (kind == b"eXIf" and whole):
            kept.append(chunk)
        elif kind == b"iCCP" and whole:
            with suppress(zlib.error):
                profile = zlib.decompressobj().decompress(chunk[8:-4].partition(b"\0")[2][1:], _LONGEST)
        start += len(chunk)
    return b"".join(kept), profile
