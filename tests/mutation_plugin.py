"""A pytest plugin that breaks one method of one driver, as `CLOUDQ_MUTATION` says.

The variable is `module:Class:mutation`, a mutation being a name of `MUTATIONS`.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from cloudq.driver import Change, Check, Code, Op, Page, Purged
from cloudq.driver.blobs import BlobGone, BlobPage
from cloudq.testing import waiting

Method = Callable[..., Any]
Mutation = tuple[str, Callable[[Method, Any], Method]]


def nothing(_: Method, cls: Any) -> Method:
    """Do nothing, and say that all went well."""
    return lambda self, *args, **named: ()


def calls(other: str, **fixed: Any) -> Callable[[Method, Any], Method]:
    """Call another method on the first argument instead."""

    def make(_: Method, cls: Any) -> Method:
        return lambda self, *args, **named: getattr(self, other)(*args, **fixed)

    return make


def passing(change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> Callable[..., Method]:
    """Call the method with some keyword arguments changed."""

    def make(original: Method, cls: Any) -> Method:
        return lambda self, *args, **named: original(self, *args, **{**named, **change(named)})

    return make


def each(change: Callable[[Any], Any]) -> Callable[..., Method]:
    """Call the method with every element of its last sequence changed."""

    def make(original: Method, cls: Any) -> Method:
        def broken(self: Any, *args: Any, **named: Any) -> Any:
            return original(self, *args[:-1], [change(one) for one in args[-1]], **named)

        return broken

    return make


def changing(**fixed: Any) -> Callable[..., Method]:
    """Call `update` with some fields of the change overridden."""

    def make(original: Method, cls: Any) -> Method:
        return lambda self, key, change: original(self, key, replace(change, **fixed))

    return make


def after(change: Callable[[Any], Any]) -> Callable[..., Method]:
    """Change what the method returns."""

    def make(original: Method, cls: Any) -> Method:
        return lambda self, *args, **named: change(original(self, *args, **named))

    return make


def first_only(original: Method, cls: Any) -> Method:
    """Do it for all but the last element of a batch."""

    def broken(self: Any, *args: Any, **named: Any) -> Any:
        *before, batch = args
        kept = batch[:-1] if len(batch) > 1 else batch
        return original(self, *before, kept, **named)

    return broken


def racing(original: Method, cls: Any) -> Method:
    """Check the conditions first and write later, as if no one else could come between."""

    def broken(self: Any, key: Any, change: Any) -> Any:
        if not change.when:
            return original(self, key, change)
        original(self, key, Change(when=change.when, keep_expires=True))
        time.sleep(0.005)
        return original(self, key, replace(change, when=()))

    return broken


def lost_updates(original: Method, cls: Any) -> Method:
    """Read, add up here, and write: increments of two callers become one."""

    def broken(self: Any, key: Any, change: Any) -> Any:
        if change.when:
            return original(self, key, change)
        now = self.get([key], consistent=True).get(key)
        time.sleep(0.005)
        stored = {name: now.fields.get(name, 0) if now else 0 for name in change.increment}
        if any(isinstance(value, str) for value in stored.values()):
            return original(self, key, change)
        sums = {name: step + stored[name] for name, step in change.increment.items()}
        return original(self, key, replace(change, set={**change.set, **sums}, increment={}))

    return broken


def consuming(_: Method, cls: Any) -> Method:
    """Take what should only be looked at."""

    def broken(self: Any, queue: str, *, count: int) -> Any:
        looked = cls.unbroken(self, queue, count=count)
        self.receive(queue, count=min(count, 10), wait=1, lease=60)
        return looked

    return broken


def endless(original: Method, cls: Any) -> Method:
    """Take a lease that no test outlives, and call it as long as was asked."""

    def broken(self: Any, *args: Any, lease: float, **named: Any) -> Any:
        found = original(self, *args, lease=600, **named)
        return [replace(delivery, lease=lease) for delivery in found]

    return broken


class Deaf:
    """A watcher that hears nothing."""

    def wait(self, timeout: float) -> bool:
        return False

    def close(self) -> None:
        pass


def everything(other: str) -> Callable[..., Method]:
    """Purge in place of deleting what was chosen."""

    def make(_: Method, cls: Any) -> Method:
        def broken(self: Any, queue: str, messages: Any) -> Any:
            getattr(self, other)(queue)
            return ()

        return broken

    return make


def sooner(original: Method, cls: Any) -> Method:
    """Send at once, under handles as if it were for later."""

    def broken(self: Any, queue: str, messages: Any) -> Any:
        original(self, queue, [replace(m, delay=0.0) for m in messages])
        return original(self, queue, [replace(m, id=m.id + "x") for m in messages])

    return broken


def last_page(original: Method, cls: Any) -> Method:
    """Say that there are no more pages."""
    return lambda self, *args, **named: Page(items=original(self, *args, **named).items)


def unordered(page: Page) -> Page:
    return Page(items=list(reversed(page.items)), next=page.next)


def relaxed(original: Method, cls: Any) -> Method:
    """Let every check hold where its field is absent."""

    def broken(self: Any, key: Any, change: Any) -> Any:
        when = tuple(replace(check, or_absent=True) for check in change.when)
        return original(self, key, replace(change, when=when))

    return broken


def weakened(frm: Op, to: Op) -> Callable[..., Method]:
    """Take one comparison for another."""

    def change(check: Check) -> Check:
        return replace(check, op=to) if check.op is frm else check

    def make(original: Method, cls: Any) -> Method:
        def broken(self: Any, key: Any, update: Any) -> Any:
            return original(self, key, replace(update, when=tuple(map(change, update.when))))

        return broken

    return make


def half(original: Method, cls: Any) -> Method:
    """Store the first half of a content."""
    return lambda self, key, content, size: original(self, key, content, size // 2)


def short(original: Method, cls: Any) -> Method:
    """Store what there is of a content, be it less than was said."""

    def broken(self: Any, key: str, content: Any, size: int) -> None:
        there = content.seek(0, os.SEEK_END)
        original(self, key, content, min(size, there))

    return broken


def at_once(original: Method, cls: Any) -> Method:
    """Read a content in one part."""

    def broken(self: Any, key: str, content: Any, size: int) -> None:
        content.seek(0)
        original(self, key, io.BytesIO(content.read()), size)

    return broken


def from_here(original: Method, cls: Any) -> Method:
    """Store a content from where somebody has left it."""

    class Rest(io.BytesIO):
        def __init__(self, content: Any) -> None:
            self.content = content
            self.begun = content.tell()

        def seek(self, offset: int, whence: int = 0, /) -> int:
            return self.content.seek(self.begun + offset)

        def read(self, size: int | None = -1, /) -> bytes:
            return self.content.read(size)

    return lambda self, key, content, size: original(
        self, key, Rest(content), max(0, size - content.tell())
    )


def empty_if_gone(original: Method, cls: Any) -> Method:
    """Take a missing blob for an empty one."""

    def broken(self: Any, key: str, *, start: int = 0) -> Any:
        try:
            return original(self, key, start=start)
        except BlobGone:
            return (part for part in ())

    return broken


def late(original: Method, cls: Any) -> Method:
    """Open a blob when its first part is asked for."""

    def broken(self: Any, key: str, *, start: int = 0) -> Any:
        yield from original(self, key, start=start)

    return broken


def reading(change: Callable[[list[bytes]], Sequence[bytes]]) -> Callable[..., Method]:
    """Change the parts of a blob that is read."""

    def make(original: Method, cls: Any) -> Method:
        def broken(self: Any, key: str, *, start: int = 0) -> Any:
            parts = list(original(self, key, start=start))
            return (part for part in change(parts))

        return broken

    return make


def from_start(original: Method, cls: Any) -> Method:
    """Read a blob from its start, whatever was asked."""
    return lambda self, key, *, start=0: original(self, key)


def from_next(original: Method, cls: Any) -> Method:
    """Read a blob from one byte later."""
    return lambda self, key, *, start=0: original(self, key, start=start + bool(start))


def no_more(page: BlobPage) -> BlobPage:
    return BlobPage(blobs=page.blobs)


def unknown(**fixed: Any) -> Callable[[BlobPage], BlobPage]:
    def change(page: BlobPage) -> BlobPage:
        return BlobPage(blobs=[replace(blob, **fixed) for blob in page.blobs], next=page.next)

    return change


BROKER: dict[str, Mutation] = {
    "send does nothing": ("send", nothing),
    "send loses the last of a batch": ("send", first_only),
    "send forgets the delay": ("send", each(lambda m: replace(m, delay=0.0))),
    "send forgets the group": ("send", each(lambda m: replace(m, group=None))),
    "send forgets the dedup key": ("send", each(lambda m: replace(m, dedup=m.dedup and m.id))),
    "send sends twice": (
        "send",
        lambda original, cls: (
            lambda self, q, ms: (
                (original(self, q, [replace(m, dedup=None) for m in ms]) and ())
                or original(self, q, ms)
            )
        ),
    ),
    "receive takes no lease": ("receive", passing(lambda named: {"lease": 0})),
    "receive leases for ever": ("receive", endless),
    "receive does not wait": ("receive", passing(lambda named: {"wait": 0})),
    "receive takes more than asked": ("receive", passing(lambda named: {"count": 10})),
    "receive always counts one": (
        "receive",
        after(lambda found: [replace(delivery, attempts=1) for delivery in found]),
    ),
    "ack does nothing": ("ack", nothing),
    "ack loses the last of a batch": ("ack", first_only),
    "ack releases": ("ack", calls("release", after=0)),
    "ack hides its failures": ("ack", after(lambda _: ())),
    "release does nothing": ("release", nothing),
    "release acks": ("release", calls("ack")),
    "release ignores its delay": ("release", passing(lambda named: {"after": 0})),
    "extend does nothing": ("extend", nothing),
    "extend releases": ("extend", calls("release", after=0)),
    "extend leases for ever": ("extend", passing(lambda named: {"lease": 600})),
    "dead_letter acks": ("dead_letter", calls("ack")),
    "dead_letter does nothing": ("dead_letter", nothing),
    "dead_letter forgets the reason": ("dead_letter", passing(lambda named: {"reason": "?"})),
    "error_code knows nothing": ("error_code", after(lambda _: Code.UNKNOWN)),
    "schedule forgets the delay": ("schedule", each(lambda m: replace(m, delay=0.0))),
    "schedule forgets the group": ("schedule", each(lambda m: replace(m, group=None))),
    "schedule loses the last of a batch": (
        "schedule",
        lambda original, cls: (
            lambda self, q, ms: (
                found[:1] + found[:-1]
                if len(found := list(original(self, q, ms[:-1]))) > 1
                else original(self, q, ms)
            )
        ),
    ),
    "schedule mixes up its handles": ("schedule", after(lambda found: list(reversed(found)))),
    "schedule sends at once too": ("schedule", sooner),
    "schedule loses what it refused": (
        "schedule",
        after(lambda found: [one for one in found if isinstance(one, str)]),
    ),
    "unschedule does nothing": ("unschedule", nothing),
    "unschedule loses the last of a batch": ("unschedule", first_only),
    "unschedule hides its failures": ("unschedule", after(lambda _: ())),
    "unschedule stops at its first failure": (
        "unschedule",
        lambda original, cls: (
            lambda self, q, handles: next(
                (
                    [replace(failed[0], index=at)]
                    for at, one in enumerate(handles)
                    if (failed := original(self, q, [one]))
                ),
                [],
            )
        ),
    ),
    "unschedule mixes up its failures": (
        "unschedule",
        after(lambda failed: [replace(one, index=0) for one in failed]),
    ),
    "scheduled is empty": ("scheduled", nothing),
    "scheduled ignores after": ("scheduled", passing(lambda named: {"after": None})),
    "scheduled ends too soon": (
        "scheduled",
        lambda original, cls: (
            lambda self, q, **named: () if named.get("after") else original(self, q, **named)
        ),
    ),
    "scheduled shows more than asked": ("scheduled", passing(lambda named: {"count": 100})),
    "scheduled has no order": ("scheduled", after(lambda found: list(reversed(found)))),
    "scheduled forgets the group": (
        "scheduled",
        after(lambda found: [replace(one, group=None) for one in found]),
    ),
    "scheduled forgets when": (
        "scheduled",
        after(lambda found: [replace(one, due=0.0) for one in found]),
    ),
    "create does nothing": ("create", nothing),
    "create empties what is there": (
        "create",
        lambda original, cls: (
            lambda self, queue, **named: original(self, queue, **named) or self.purge(queue)
        ),
    ),
    "create forgets max_deliveries": ("create", passing(lambda named: {"max_deliveries": 100})),
    "delete does nothing": ("delete", nothing),
    "list is empty": ("list", nothing),
    "stats count nothing": (
        "stats",
        after(lambda stats: replace(stats, ready=0, delayed=0, leased=0, dead=0)),
    ),
    "peek takes": ("peek", consuming),
    "peek sees nothing": ("peek", nothing),
    "purge does nothing": ("purge", lambda *_: lambda self, queue: Purged(count=None)),
    "peek_dead sees nothing": ("peek_dead", nothing),
    "redrive does nothing": ("redrive", nothing),
    "redrive deletes": ("redrive", calls("delete_dead")),
    "delete_dead does nothing": ("delete_dead", nothing),
    "delete_dead deletes all": ("delete_dead", everything("purge_dead")),
    "purge_dead does nothing": ("purge_dead", lambda *_: lambda self, queue: Purged(count=None)),
}

BACKEND: dict[str, Mutation] = {
    "put does nothing": ("put", nothing),
    "put loses the last of a batch": ("put", first_only),
    "put forgets the expiry": ("put", each(lambda item: replace(item, expires=None))),
    "get forgets the last key": ("get", first_only),
    "update ignores its conditions": ("update", changing(when=())),
    "update checks only its first condition": (
        "update",
        lambda original, cls: (
            lambda self, key, change: original(self, key, replace(change, when=change.when[:1]))
        ),
    ),
    "update checks, then writes": ("update", racing),
    "update adds up outside": ("update", lost_updates),
    "update lets absent fields pass": ("update", relaxed),
    "update takes < for <=": ("update", weakened(Op.LT, Op.LE)),
    "update takes <= for <": ("update", weakened(Op.LE, Op.LT)),
    "update takes > for >=": ("update", weakened(Op.GT, Op.GE)),
    "update takes >= for >": ("update", weakened(Op.GE, Op.GT)),
    "update takes <> for exists": ("update", weakened(Op.NE, Op.EXISTS)),
    "update takes contains for exists": ("update", weakened(Op.CONTAINS, Op.EXISTS)),
    "update sets nothing": ("update", changing(set={})),
    "update increments nothing": ("update", changing(increment={})),
    "update adds nothing": ("update", changing(add={})),
    "update discards nothing": ("update", changing(discard={})),
    "update removes nothing": ("update", changing(remove=frozenset())),
    "update forgets the expiry": ("update", changing(expires=None)),
    "update always keeps the expiry": ("update", changing(keep_expires=True)),
    "update never keeps the expiry": ("update", changing(keep_expires=False)),
    "query ignores after": ("query", passing(lambda named: {"after": None})),
    "query ends too soon": ("query", last_page),
    "query has no order": ("query", after(unordered)),
    "delete does nothing": ("delete", nothing),
    "error_code knows nothing": ("error_code", after(lambda _: Code.UNKNOWN)),
    "create_store does nothing": ("create_store", nothing),
    "check_store does nothing": ("check_store", nothing),
    "sweep does nothing": ("sweep", lambda *_: lambda self: 0),
    "watch is deaf": ("watch", lambda *_: lambda self: Deaf()),
}

BLOBS: dict[str, Mutation] = {
    "put does nothing": ("put", nothing),
    "put stores half": ("put", half),
    "put stores what is short": ("put", short),
    "put reads all at once": ("put", at_once),
    "put does not begin at the start": ("put", from_here),
    "read ignores its start": ("read", from_start),
    "read begins a byte later": ("read", from_next),
    "read stops before the end": ("read", reading(lambda parts: parts[:-1] or parts)),
    "read returns all at once": ("read", reading(lambda parts: [b"".join(parts)])),
    "read takes missing for empty": ("read", empty_if_gone),
    "read tells too late that one is gone": ("read", late),
    "delete does nothing": ("delete", nothing),
    "delete loses the last of a batch": ("delete", first_only),
    "delete deletes the first alone": (
        "delete",
        lambda original, cls: lambda self, keys: original(self, keys[:1]),
    ),
    "list is empty": ("list", lambda *_: lambda self, **named: BlobPage(blobs=())),
    "list ignores after": ("list", passing(lambda named: {"after": None})),
    "list ends too soon": ("list", after(no_more)),
    "list gives more than asked": ("list", passing(lambda named: {"limit": 1000})),
    "list forgets sizes": ("list", after(unknown(size=0))),
    "list forgets times": ("list", after(unknown(written=0.0))),
    "error_code knows nothing": ("error_code", after(lambda _: Code.UNKNOWN)),
    "create_place does nothing": ("create_place", nothing),
    "check_place does nothing": ("check_place", nothing),
}


def known(cls: Any) -> Mapping[str, Mutation]:
    """Return the mutations of a driver's class, by its protocol."""
    if hasattr(cls, "read"):
        return BLOBS
    return BACKEND if hasattr(cls, "put") else BROKER


def pytest_configure() -> None:
    """Break the method; the tests then run as ever."""
    patience = os.environ.get("CLOUDQ_MUTATION_PATIENCE")
    for wait in (waiting.collect, waiting.eventually) if patience else ():
        # A broken driver keeps a test waiting to the end, so the end is nearer here.
        wait.__kwdefaults__["within"] = float(patience or 0)
    module, cls_name, name = os.environ["CLOUDQ_MUTATION"].split(":")
    if not name:
        return
    cls = getattr(import_module(module), cls_name)
    method, make = known(cls)[name]
    cls.unbroken = getattr(cls, method)
    setattr(cls, method, make(cls.unbroken, cls))
