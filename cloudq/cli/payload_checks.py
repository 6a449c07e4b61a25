"""The check of `cloudq doctor` on the store of large payloads."""

from __future__ import annotations

from collections.abc import Iterator

from cloudq.app import CloudQ
from cloudq.cli.checks import Finding, fail, ok, skip
from cloudq.cli.options import missing_at
from cloudq.errors import CloudQError
from cloudq.text import masked_url


def payloads(app: CloudQ) -> Iterator[Finding]:
    """Check that the store of large payloads can be written, read and deleted from."""
    url = app.conf.payload_url
    if url is None:
        yield skip("payloads", "none: what a queue or the result store does not take is refused")
        return
    if app.conf.payload_store is None and missing_at(app.conf.broker) is not None:
        return  # it comes with the file of the broker
    try:
        opened = app.runtime.payloads()
        assert opened is not None
        if app.conf.payload_store is None:  # the folder beside a file, which is made when needed
            opened.reach()
            yield ok("payloads", f"{masked_url(url)}: it can be written to")
            return
        opened.check()
    except CloudQError as error:
        yield fail("payloads", error)
        return
    yield ok("payloads", f"{masked_url(url)}: one was written, read and deleted")
