"""The command line, `cloudq`; each file in `commands/` is a command or a group of commands."""

from __future__ import annotations

import gc
from collections.abc import Sequence

_INTERRUPTED = 130

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Without `argv` the process is its own."""
    if argv is None:
        # Nothing that an import makes is garbage: the collector is on again when all is imported.
        gc.disable()
    try:
        # Imported here, so that Ctrl-C during the import is handled as well.
        from cloudq.cli.program import main as run

        return run(argv)
    except KeyboardInterrupt:
        return _INTERRUPTED
