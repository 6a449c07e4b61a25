"""Prints a report of a zip that was built."""

from __future__ import annotations

from cloudq.cli.output import say, table
from cloudq_deploy.bundle.archive import Limit, Package, megabytes


def report(package: Package, limit: Limit) -> None:
    """Print the size of a zip, its hashes, and its largest parts."""
    say(
        f"{package.path}: {megabytes(package.zipped)}, {megabytes(package.unzipped)} unzipped "
        f"({megabytes(limit.unzipped)} at most), contents {package.digest[:16]}, sha256 "
        f"{package.sha256[:16]}"
    )
    table(
        ("PART", "SIZE"),
        [(name, megabytes(size)) for name, size in package.largest()],
        empty="the zip is empty",
    )
