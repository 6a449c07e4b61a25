"""A file that tasks write lines into, to be looked at afterwards."""

import os
from pathlib import Path


def _path() -> Path:
    return Path(os.environ.get("SHOP_JOURNAL", "journal.txt"))


def write(line: str) -> None:
    """Append a line, whole even where many processes write."""
    with _path().open("a") as file:
        file.write(f"{line}\n")


def lines() -> list[str]:
    """All lines so far, sorted: tasks run in no fixed order."""
    path = _path()
    return sorted(path.read_text().splitlines()) if path.exists() else []
