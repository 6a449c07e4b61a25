"""The tables of a SQLite file."""

from __future__ import annotations

VERSION = 1

# The time of a message that waits for an earlier one of its group.
BLOCKED = 1e300

# A message is receivable from `visible_at` on; `token` names its present lease (0 = none). Of a
# group only the first message has a time: the others are blocked, and get their `due` later.
SCHEMA = """
CREATE TABLE cloudq_schema (version INTEGER NOT NULL);
CREATE TABLE queues (name TEXT PRIMARY KEY, max_deliveries INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE messages (
  seq INTEGER PRIMARY KEY,
  queue TEXT NOT NULL,
  visible_at REAL NOT NULL,
  token INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  due REAL NOT NULL,
  sent_at REAL NOT NULL,
  id TEXT NOT NULL,
  grp TEXT,
  body BLOB NOT NULL
);
CREATE INDEX messages_due ON messages (queue, visible_at);
CREATE INDEX messages_grp ON messages (queue, grp, seq) WHERE grp IS NOT NULL;
CREATE INDEX messages_delayed ON messages (queue) WHERE due > sent_at AND attempts = 0;
CREATE TABLE dead (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  queue TEXT NOT NULL,
  id TEXT NOT NULL,
  body BLOB NOT NULL,
  grp TEXT,
  attempts INTEGER NOT NULL,
  sent_at REAL NOT NULL,
  died_at REAL NOT NULL,
  reason TEXT NOT NULL
);
CREATE INDEX dead_queue ON dead (queue, seq);
CREATE TABLE dedup (
  queue TEXT NOT NULL, key TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (queue, key)
) WITHOUT ROWID;
CREATE INDEX dedup_until ON dedup (until);
CREATE TABLE items (
  partition TEXT NOT NULL,
  sort TEXT NOT NULL,
  expires REAL,
  fields BLOB NOT NULL,
  PRIMARY KEY (partition, sort)
) WITHOUT ROWID;
CREATE INDEX items_expires ON items (expires) WHERE expires IS NOT NULL;
"""

# Earlier releases made files without these, and do not mind them.
LATER = (
    "CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY, latest REAL NOT NULL)",
    # Of the inbox that was taken in last: the name of this database in it, and how far.
    "CREATE TABLE IF NOT EXISTS inbox (one INTEGER PRIMARY KEY, name BLOB NOT NULL,"
    " generation BLOB NOT NULL, position INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS dead_died ON dead (died_at)",
)
