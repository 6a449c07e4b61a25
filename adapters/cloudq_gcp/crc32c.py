"""CRC-32C (RFC 3720), by which Google's services tell that what they got is what was sent."""

from __future__ import annotations


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = tuple(_entry(byte) for byte in range(256))


def crc32c(data: bytes) -> int:
    """Return the checksum of some bytes: of the few that a key has, not of megabytes."""
    found = 0xFFFFFFFF
    for byte in data:
        found = (found >> 8) ^ _TABLE[(found ^ byte) & 0xFF]
    return found ^ 0xFFFFFFFF
