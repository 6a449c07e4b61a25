"""Keeps open pages live: one stream each, one rendering for all that show the same."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import orjson
from starlette.responses import Response, StreamingResponse

from cloudq.dashboard.looks import Looks, Watch
from cloudq.dashboard.render import fragment
from cloudq.dashboard.views import BY_PATH, View
from cloudq.dashboard.visit import Form, Visit, split_url
from cloudq.driver.log import Log

log = Log("cloudq.dashboard")

MOST_STREAMS = 500
"""The pages that may be open at a time."""
MOST_OF_ONE = 100
"""Those of one user: nobody takes the places of all others."""
# Then a page asks again: who has signed in at a proxy is judged by it anew.
_LONGEST_STREAM = 3600.0
# A proxy ends a connection on which nothing is said.
_KEPT_ALIVE = 15.0
# A page may take this share of the time between two renderings.
_SHARE = 0.01
_LONGEST = 60.0

_Key = tuple[str, bool, str]


@dataclass(slots=True)
class _Channel:
    """A page as some readers see it: the last rendering, and the task that makes the next."""

    view: View
    visit: Visit
    readers: int = 0
    number: int = 0
    data: bytes = b""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Hub:
    """The channels of all open pages. A channel that nobody reads makes no look."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._channels: dict[_Key, _Channel] = {}
        self._of_user: Counter[str] = Counter()
        self.longest = _LONGEST_STREAM
        self.renderings = 0

    @property
    def readers(self) -> int:
        """The number of open pages."""
        return sum(channel.readers for channel in self._channels.values())

    def respond(self, visit: Visit, valid: Callable[[], bool]) -> Response:
        """Answer with the stream of the page that a visit names in `view`; `valid` ends it."""
        parts = split_url(visit.query.get("view"))
        view = BY_PATH.get(parts.path) if parts is not None else None
        if parts is None or view is None or not view.live or parts.netloc:
            return Response("there is no such page\n", status_code=404, media_type="text/plain")
        who = visit.user.name if visit.user is not None else ""
        if self.readers >= MOST_STREAMS or self._of_user[who] >= MOST_OF_ONE:
            return Response("too many pages are open\n", 503, media_type="text/plain")
        try:
            query = Form(fields=dict(parse_qs(parts.query, max_num_fields=100)))
        except ValueError:
            return Response("the query cannot be read\n", status_code=400, media_type="text/plain")
        shown = Visit(
            user=visit.user,
            session=None,
            base=visit.base,
            path=view.path,
            query=query,
            theme=visit.theme,
        )
        stream = self._stream(view, shown, valid, who)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    async def _stream(
        self, view: View, visit: Visit, valid: Callable[[], bool], who: str
    ) -> AsyncIterator[bytes]:
        key = (visit.here, visit.operates, visit.base)
        channel = self._channels.setdefault(key, _Channel(view, visit))
        channel.readers += 1
        self._of_user[who] += 1
        until = time.monotonic() + self.longest
        try:
            if channel.task is None:
                channel.task = asyncio.create_task(self._renew(channel))
            yield b"retry: 4000\n\n"
            # Who comes later gets what the others have seen last.
            number = 0
            while valid():
                if time.monotonic() >= until:
                    return
                if channel.number != number:
                    number = channel.number
                    yield channel.data
                    continue
                try:
                    async with asyncio.timeout(_KEPT_ALIVE):
                        await channel.changed.wait()
                except TimeoutError:
                    yield b": still here\n\n"
            yield b"event: over\ndata: signed out\n\n"
        finally:
            self._of_user -= Counter({who: 1})
            channel.readers -= 1
            if not channel.readers:
                if channel.task is not None:
                    channel.task.cancel()
                if self._channels.get(key) is channel:
                    del self._channels[key]

    async def _renew(self, channel: _Channel) -> None:
        """Render a page again and again, and wake its readers when it has changed."""
        last = b""
        pause = self._looks.refresh
        while True:
            await asyncio.sleep(pause)
            began = time.monotonic()
            try:
                html = await asyncio.to_thread(self._rendered, channel.view, channel.visit)
            except Exception:  # the readers see what was there last; the next look may go well
                log.exception("the page %s cannot be renewed", channel.view.path)
                pause = max(_LONGEST, pause)
                continue
            took = time.monotonic() - began
            pause = max(self._looks.refresh, min(took / _SHARE, _LONGEST))
            tag = hashlib.sha256(html.encode()).digest()
            if tag == last:
                continue
            last = tag
            channel.data = b"event: part\ndata: " + orjson.dumps(html) + b"\n\n"
            channel.number += 1
            woken, channel.changed = channel.changed, asyncio.Event()
            woken.set()

    def _rendered(self, view: View, visit: Visit) -> str:
        self.renderings += 1
        watch = Watch(self._looks)
        page = view.data(watch, visit)
        template = f"{view.name}_live.html"
        return fragment(template, visit, {"page": page, "watch": watch, "here": view.path})
