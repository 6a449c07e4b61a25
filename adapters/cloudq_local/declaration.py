"""Declares the embedded brokers, backends and blob stores to cloudq."""

from __future__ import annotations

from cloudq.driver.adapters import Adapter

MEMORY = Adapter(sample="memory://", default_backend="{broker}")
SQLITE = Adapter(
    sample="sqlite:///{folder}/limits.db",
    default_backend="{broker}",
    local_file="cloudq_local.sqlite_paths:file_of",
)
FILE = Adapter(sample="file://{folder}/payloads")
