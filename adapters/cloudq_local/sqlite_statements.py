"""The statements that send, lease and settle the messages of a SQLite file."""

from __future__ import annotations

from cloudq_local.sqlite_clock import LATEST
from cloudq_local.sqlite_schema import BLOCKED

KNOW = "INSERT OR IGNORE INTO queues VALUES (?, 0)"
_ROW = "(?, ?, ?, ?, ?, ?, ?)"
SEND = f"INSERT INTO messages (queue, visible_at, due, sent_at, id, grp, body) VALUES {_ROW}"
SEND_MANY = {size: ", ".join([SEND, *[_ROW] * (size - 1)]) for size in (64, 16, 4)}
"""Statements that send so many messages, each in little more than half the time by its number."""
SEND_GROUPED = (
    "INSERT INTO messages (queue, visible_at, due, sent_at, id, grp, body) SELECT v.queue,"
    " iif(EXISTS (SELECT 1 FROM messages m WHERE m.queue = v.queue AND m.grp = v.grp),"
    f" {BLOCKED}, v.visible_at), v.due, v.sent_at, v.id, v.grp, v.body FROM"
    " (SELECT ? queue, ? visible_at, ? due, ? sent_at, ? id, ? grp, ? body) v"
)
SEEN = (
    "INSERT INTO dedup VALUES (?, ?, ?)"
    " ON CONFLICT DO UPDATE SET until = excluded.until WHERE until <= ?"
)
FORGET = (
    "DELETE FROM dedup WHERE (queue, key) IN"
    " (SELECT queue, key FROM dedup WHERE until <= ? LIMIT 16)"
)
LOOK = (
    "SELECT coalesce((SELECT visible_at FROM messages WHERE queue = ? ORDER BY visible_at LIMIT 1),"
    f" {BLOCKED}), {LATEST}"
)
TAKE = (
    "UPDATE messages SET visible_at = ?, token = ?, attempts = attempts + 1 WHERE seq IN"
    " (SELECT seq FROM messages WHERE queue = ? AND visible_at <= ?"
    " ORDER BY visible_at, seq LIMIT ?)"
    " RETURNING seq, id, body, attempts, grp, sent_at"
)
# The messages of one lease, of which there are few and often one: their numbers are a JSON array,
# since SQLite's module lets go of the interpreter's lock in each statement.
_LEASED = "WHERE token = ? AND seq IN (SELECT value FROM json_each(?))"
ACK = f"DELETE FROM messages {_LEASED}"
RELEASE = f"UPDATE messages SET visible_at = ?, token = 0 {_LEASED}"
EXTEND = f"UPDATE messages SET visible_at = ? {_LEASED}"
UNCOUNT = f"UPDATE messages SET attempts = attempts - 1 {_LEASED}"
BURY = (
    "INSERT INTO dead (queue, id, body, grp, attempts, sent_at, died_at, reason)"
    f" SELECT queue, id, body, grp, attempts, sent_at, ?, ? FROM messages {_LEASED} ORDER BY seq"
)
ADD_DEAD = (
    "INSERT INTO dead (queue, id, body, grp, attempts, sent_at, died_at, reason)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
UNBLOCK = (
    "UPDATE messages SET visible_at = due WHERE seq ="
    " (SELECT min(seq) FROM messages WHERE queue = ? AND grp = ?)"
    f" AND visible_at = {BLOCKED}"
)
