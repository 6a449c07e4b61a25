"""Records of the inbox of a SQLite file, each a message on its way into it.

A record is a mark, a checksum, the length of the body, the time of sending, the lengths of the
names of queue and message, these two, the body. One that a dying process left half-written fails
its checksum, and the search goes on at the next mark.
"""

from __future__ import annotations

import struct
import zlib

from cloudq.driver.log import Log
from cloudq_local.sqlite_messages import Row

log = Log("cloudq.sqlite")

_MARK = b"\x00\xffq\n"
_START = struct.Struct("<4sI")
_FIELDS = struct.Struct("<IdHH")


def record(queue: bytes, id: bytes, body: bytes, now: float) -> bytes:
    """Return the record of a message."""
    fields = _FIELDS.pack(len(body), now, len(queue), len(id)) + queue + id + body
    return _START.pack(_MARK, zlib.crc32(fields)) + fields


def rows(data: bytes, path: str) -> list[Row]:
    """Return the messages of records; what is none is left out, and told of."""
    found: list[Row] = []
    at = 0
    while 0 <= at < len(data):
        one = _row(data, at)
        if one is None:
            log.warning("%s: part of a message is left out: its sender died meanwhile", path)
            at = data.find(_MARK, at + 1)
        else:
            row, at = one
            found.append(row)
    return found


def _row(data: bytes, at: int) -> tuple[Row, int] | None:
    """Return the message of the record that begins there, and where the next one begins."""
    begin = at + _START.size
    names = begin + _FIELDS.size
    if names > len(data):
        return None
    mark, checksum = _START.unpack_from(data, at)
    body_length, sent_at, queue_length, id_length = _FIELDS.unpack_from(data, begin)
    id_at = names + queue_length
    body_at = id_at + id_length
    end = body_at + body_length
    if mark != _MARK or end > len(data) or zlib.crc32(data[begin:end]) != checksum:
        return None
    queue, id = data[names:id_at].decode(), data[id_at:body_at].decode()
    return (queue, sent_at, sent_at, sent_at, id, None, data[body_at:end]), end
