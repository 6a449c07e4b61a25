"""The command line, `cloudq`: one file a command group."""

from __future__ import annotations

from collections.abc import Sequence

_INTERRUPTED = 130

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        # Here, so that Ctrl-C while all that is imported ends it as it does later.
        from cloudq.cli.program import main as run

        return run(argv)
    except KeyboardInterrupt:
        return _INTERRUPTED
