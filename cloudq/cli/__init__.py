"""The command line, `cloudq`: one file a command group."""

from cloudq.cli.program import main

__all__ = ["main"]
