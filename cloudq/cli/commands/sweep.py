"""`cloudq sweep`: deletes expired results in stores that do not delete them."""

from __future__ import annotations

import typer

from cloudq.amounts import counted
from cloudq.cli.options import JsonOption, Target, common, refuse_missing
from cloudq.cli.output import emit, say
from cloudq.errors import ConfigurationError


@common
def sweep(target: Target, json: JsonOption = False) -> None:
    """Delete expired results; needed daily with Azure Tables only.

    Reads the whole table. Other stores delete expired results themselves.
    """
    app = target.open()
    refuse_missing(app.conf.backend_url)
    with app:
        if app.backend is None:
            raise ConfigurationError("no backend to sweep: add --backend URL")
        swept = app.backend.sweep()
        url = app.backend.url
    if json:
        emit({"backend": url, "deleted": swept})
    elif swept is None:
        say(f"{url} deletes expired items itself")
    else:
        say(f"deleted {counted(swept, 'expired item')} in {url}")


def add_to(program: typer.Typer) -> None:
    """Add `sweep` to the commands of `cloudq`."""
    program.command()(sweep)
