"""`cloudq sweep`: deletes expired results where the store does not do so by itself."""

from __future__ import annotations

from cloudq.cli.options import JsonOption, Target, common
from cloudq.cli.output import emit, say
from cloudq.errors import ConfigurationError


@common
def sweep(target: Target, json: JsonOption = False) -> None:
    """Delete results that have expired, in stores that keep them: a daily job for Azure Tables.

    It reads the whole table. Other stores delete by themselves what has expired.
    """
    with target.open() as app:
        if app.backend is None:
            raise ConfigurationError("no backend: name the one to sweep with --backend")
        swept = app.backend.sweep()
        url = app.backend.url
    if json:
        emit({"backend": url, "deleted": swept})
    elif swept is None:
        say(f"{url} deletes by itself what has expired")
    else:
        say(f"{url}: {swept} expired items deleted")
