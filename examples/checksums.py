"""Fan-out: one task a file, published in batches, waited for together.

cloudq worker -A checksums
python checksums.py FOLDER
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from cloudq import CloudQ, wait_for

app = CloudQ("checksums")


@app.task(autoretry_for=[OSError], default_retry_delay=1.0)
def checksum(path: str) -> str:
    """The SHA-256 of one file, as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(folder: Path) -> None:
    """Print a line for each file, as `sha256sum` does."""
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    results = app.publish(checksum.prepare(path) for path in files)
    wait_for(results, timeout=60)
    for path, result in zip(files, results, strict=True):
        print(f"{result.get()}  {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
