"""The statements that send, lease and settle the messages of a SQLite file."""

from __future__ import annotations

from cloudq_local.sqlite_clock import LATEST
from cloudq_local.sqlite_schema import BLOCKED

KNOW = "INSERT OR IGNORE INTO queues VALUES (?, 0)"
SEND = (
    "INSERT INTO messages (queue, visible_at, due, sent_at, id, grp, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
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
ACK = "DELETE FROM messages WHERE seq = ? AND token = ?"
RELEASE = "UPDATE messages SET visible_at = ?, token = 0 WHERE seq = ? AND token = ?"
EXTEND = "UPDATE messages SET visible_at = ? WHERE seq = ? AND token = ?"
UNCOUNT = "UPDATE messages SET attempts = attempts - 1 WHERE seq = ? AND token = ?"
BURY = (
    "INSERT INTO dead (queue, id, body, grp, attempts, sent_at, died_at, reason)"
    " SELECT queue, id, body, grp, attempts, sent_at, ?, ? FROM messages"
    " WHERE seq = ? AND token = ?"
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
