"""Run by an interpreter that has the real Celery: prints its commands, each with its options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click  # pyright: ignore
from celery.bin.celery import celery  # pyright: ignore


def lines(command: Any, path: str) -> Iterator[str]:
    """A line for each option: the command, whether a value follows, and the spellings."""
    yield f"{path}:"
    for each in command.params:
        if isinstance(each, click.Option):
            takes = "flag" if each.is_flag else "value"
            yield f"{path}: {takes} {' '.join(each.opts)}"
            if each.secondary_opts:
                yield f"{path}: {takes} {' '.join(each.secondary_opts)}"
    for name, inner in getattr(command, "commands", {}).items():
        yield from lines(inner, f"{path} {name}")


print("\n".join(sorted(lines(celery, "celery"))))
