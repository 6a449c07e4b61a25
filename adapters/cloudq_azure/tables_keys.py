"""Between keys of cloudq and the two keys of an entity: any text, in the order of its bytes.

Tables forbids `/`, `\\`, `#`, `?` and control characters in keys, and compares them in an order of
its own beyond ASCII. So each byte of the UTF-8 form that is no plain character is written as two
hexadecimal digits behind a character that sorts where the byte does: `#` is `!23`, `/` is `.2f`.
Sixteen bits of a hash stand before a partition: Tables keeps neighbouring partitions on one server,
and ids of tasks grow with the time, so that a busy application would write to a single one.
"""

from __future__ import annotations

import re
import zlib

from cloudq.driver import Key, fitting

# The longest key: 1 KiB in UTF-16.
LONGEST = 512

# Runs of bytes, first and last, that are written behind a character of their own: the first
# character of the run that is allowed in keys, so that what sorts below the run stays below.
_RUNS = (
    (0x00, 0x27, "!"),
    (0x2E, 0x2F, "."),
    (0x3E, 0x3F, ">"),
    (0x5B, 0x5C, "["),
    (0x7E, 0xFF, "~"),
)
_LEADS = "".join(lead for _, _, lead in _RUNS)
_ESCAPES = {
    byte: f"{lead}{byte:02x}" for first, last, lead in _RUNS for byte in range(first, last + 1)
}
_CODES = [_ESCAPES.get(byte, chr(byte)) for byte in range(256)]
_PIECE = re.compile(rf"[{re.escape(_LEADS)}]([0-9a-f]{{2}})|(.)")


def partition_key(partition: str) -> str:
    """The `PartitionKey` of a partition."""
    return _hashed(fitting(partition, _fits))


def _hashed(partition: str) -> str:
    return f"{zlib.crc32(partition.encode()) & 0xFFFF:04x}:{row_key(partition)}"


def _fits(partition: str) -> bool:
    return len(_hashed(partition)) <= LONGEST


def row_key(sort: str) -> str:
    """The `RowKey` of a sort key; keeps the order of the texts' bytes."""
    return "".join([_CODES[byte] for byte in sort.encode()])


def sort_key(row: str) -> str:
    """The sort key in a `RowKey`."""
    pieces = _PIECE.findall(row)
    return bytes(int(code, 16) if code else ord(plain) for code, plain in pieces).decode()


def too_long(key: Key) -> str:
    """Why Tables would not take the key, if it would not."""
    for part in (partition_key(key.partition), row_key(key.sort)):
        if len(part) > LONGEST:
            return f"the key {part[:40]}... has {len(part)} characters, and Tables takes {LONGEST}"
    return ""
