"""`cloudq sweep`: deletes expired results and payloads where nothing else does."""

from __future__ import annotations

from typing import Any

import typer

from cloudq.amounts import counted
from cloudq.cli.options import JsonOption, Target, common, missing_at, refuse_missing
from cloudq.cli.output import emit, say
from cloudq.errors import ConfigurationError


@common
def sweep(target: Target, json: JsonOption = False) -> None:
    """Delete expired results and payloads; needed daily with Azure and files only.

    Reads the whole table, and lists all payloads. Other stores delete what has expired themselves,
    and buckets have a rule for it that `cloudq queues create --store` makes.
    """
    app = target.open()
    refuse_missing(app.conf.backend_url)
    with app:
        is_there = app.conf.payload_store is not None or missing_at(app.conf.broker) is None
        payloads = app.runtime.payloads() if is_there else None
        if app.backend is None and payloads is None:
            raise ConfigurationError("no backend to sweep: add --backend URL")
        told: dict[str, Any] = {}
        if app.backend is not None:
            told = {"backend": app.backend.url, "deleted": app.backend.sweep()}
        if payloads is not None:
            count, size = payloads.sweep(older=app.conf.payload_expires)
            told["payloads"] = {"store": payloads.url, "deleted": count, "bytes": size}
    if json:
        emit(told)
        return
    if "backend" in told:
        url, swept = told["backend"], told["deleted"]
        if swept is None:
            say(f"{url} deletes expired items itself")
        else:
            say(f"deleted {counted(swept, 'expired item')} in {url}")
    if "payloads" in told:
        of: dict[str, Any] = told["payloads"]
        say(f"deleted {counted(of['deleted'], 'payload')}, {of['bytes']:,} bytes, in {of['store']}")


def add_to(program: typer.Typer) -> None:
    """Add `sweep` to the commands of `cloudq`."""
    program.command()(sweep)
