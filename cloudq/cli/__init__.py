"""The command line, `cloudq`; each file in `commands/` is a command or a group of commands."""

from __future__ import annotations

from collections.abc import Sequence

_INTERRUPTED = 130

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        # Imported here, so that Ctrl-C during the import is handled as well.
        from cloudq.cli.program import main as run

        return run(argv)
    except KeyboardInterrupt:
        return _INTERRUPTED
