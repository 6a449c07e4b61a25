"""The command line, `cloudq`; each file in `commands/` is a command or a group of commands."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from contextlib import suppress

_INTERRUPTED = 130

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Without `argv` the process is its own."""
    said = _said_at_once(list(sys.argv[1:] if argv is None else argv))
    if said is not None:
        with suppress(BrokenPipeError):  # the program knows what to do then
            print(said, flush=True)  # noqa: T201 (nothing of others is in it)
            return 0
    if argv is None:
        # Nothing that an import makes is garbage: the collector is on again when all is imported.
        gc.disable()
    try:
        # Imported here, so that Ctrl-C during the import is handled as well.
        from cloudq.cli.program import main as run

        return run(argv)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _said_at_once(argv: list[str]) -> str | None:
    """Return what is said without loading the program: its version, and its own help."""
    if argv == ["--version"]:
        from cloudq import __version__

        return f"cloudq {__version__}"
    if argv in ([], ["--help"], ["-h"]):
        from cloudq.cli.overview import overview

        return overview()
    return None
