"""The embedded brokers and backends: one in memory, one in a SQLite file."""
