"""Encryption keys as an operator sees them: what each is for, what it has encrypted, what to do."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from cloudq.amounts import counted
from cloudq.app import CloudQ
from cloudq.driver import Key
from cloudq.errors import CloudQError, ConfigurationError, DecodeError, ServiceError
from cloudq.messages.encryption import Encryption, header_of
from cloudq.messages.envelope import ENCRYPTED
from cloudq.messages.ids import place_in_series, place_of
from cloudq.operations.dead_letters import search
from cloudq.operations.queues import own_queues, peek
from cloudq.operations.tasks import TaskFilter, newest
from cloudq.results.bundle_item import bundle_key
from cloudq.results.record import key as record_key
from cloudq.results.series import series_key

SAMPLES = 100
"""The messages of each queue, and the results in the store, that are looked at."""
_MOST_PROBLEMS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """One key of an app: `use` is "encryption" or "signing".

    `where` says who has it, and `role` whether it is the one for what is new.
    """

    id: str
    use: str
    where: str
    is_current: bool

    @property
    def role(self) -> str:
        """Say what the key does here."""
        if self.use == "signing":
            return "signs, verifies" if self.is_current else "verifies"
        return "encrypts, opens" if self.is_current else "opens"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """The finds that a key has encrypted: messages, dead letters, texts in the store.

    `problem` says why the key itself cannot be used, `unopened` why some of that does not open;
    `failed` counts it. A key that is not among the app's has no `row`.
    """

    id: str
    row: KeyRow | None = None
    queued: int = 0
    dead: int = 0
    stored: int = 0
    failed: int = 0
    problem: str | None = None
    unopened: Sequence[str] = ()

    @property
    def found(self) -> int:
        """The number of all that was found."""
        return self.queued + self.dead + self.stored

    @property
    def is_good(self) -> bool:
        """Tell whether the key can be used, and opens all that was found."""
        return self.row is not None and self.problem is None and not self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCheck:
    """The keys of an app, and those of what was found; `skipped` could not be looked at."""

    uses: Sequence[KeyUse]
    plain: int = 0
    skipped: Sequence[str] = ()

    @property
    def is_good(self) -> bool:
        """Tell whether each key can be used, and all that was found opens."""
        return all(use.is_good for use in self.uses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """The state of a change of keys: the steps, of which the first `done` are."""

    steps: Sequence[str]
    done: int
    notes: Sequence[str] = field(default=())


def new_key() -> str:
    """Make a key of the settings: base64 of 32 random bytes."""
    return base64.b64encode(os.urandom(32)).decode()


def new_id(known: Container[str] = ()) -> str:
    """Return an id for a new key: today's date, and a number where that is known already."""
    today = datetime.now(UTC).date().isoformat()
    return next(
        name
        for name in (today, *(f"{today}-{number}" for number in range(2, 1000)))
        if name not in known
    )


def keys(app: CloudQ) -> list[KeyRow]:
    """Return the keys of an app, without a secret."""
    conf, encryption = app.conf, app.runtime.encryption
    found: list[KeyRow] = []
    if encryption is not None:
        found += [
            KeyRow(id=name, use="encryption", where=each.where, is_current=name == encryption.seals)
            for name, each in encryption.keys.items()
        ]
    signs = conf.signing_key or next(iter(conf.signing_keys), None)
    found += [
        KeyRow(id=name, use="signing", where="settings", is_current=name == signs)
        for name in conf.signing_keys
    ]
    return found


def check(app: CloudQ, *, samples: int = SAMPLES) -> KeyCheck:
    """Use each encryption key, and open samples of what the queues and the store have.

    A message that is looked at may count as delivered once more: see `peek_cost`. Raises
    `ConfigurationError` for an app without encryption keys.
    """
    encryption = _encryption_of(app)
    rows = {row.id: row for row in keys(app) if row.use == "encryption"}
    tally = _Tally(rows)
    for name, each in encryption.keys.items():
        try:
            each.check()
        except CloudQError as error:
            tally.uses[name] = replace(tally.uses[name], problem=str(error))
    for queue in own_queues(app):
        tally.look("queued", f"queue {queue}", _in_queue(app, queue, samples))
        tally.look("dead", f"dead letters of {queue}", _dead(app, queue, samples))
    if app.backend is not None:
        tally.look("stored", "the store", _in_store(app, samples))
    return KeyCheck(uses=list(tally.uses.values()), plain=tally.plain, skipped=tally.skipped)


def rotation(app: CloudQ, to: str, *, samples: int = SAMPLES) -> Rotation:
    """Say which steps of a change to the key `to` are done, and what the others are.

    Raises as `check`, which the last step needs.
    """
    encryption = _encryption_of(app)
    old = [name for name in encryption.keys if name != to]
    others = ", ".join(old) or "the old key"
    steps = [
        f"Add {to} to encryption_keys of every worker and producer, and leave encryption_key at "
        f"{encryption.seals if encryption.seals != to else others}; restart workers first.",
        f"Set encryption_key to {to} in every worker and producer, and restart them.",
        f"When nothing is left that {others} has encrypted, take {others} out of encryption_keys.",
    ]
    if to not in encryption.keys:
        return Rotation(steps=steps, done=0, notes=[f"`cloudq keys new {to}` makes the key."])
    if encryption.seals != to:
        return Rotation(steps=steps, done=1)
    if not old:
        return Rotation(steps=steps, done=3)
    checked = check(app, samples=samples)
    left = [use for use in checked.uses if use.id != to and use.found]
    notes = [
        f"{use.id} still has {counted(use.queued, 'message')}, "
        f"{counted(use.dead, 'dead letter')} and {counted(use.stored, 'text')} in the store, "
        "as far as was looked"
        for use in left
    ]
    notes += [f"not looked at: {each}" for each in checked.skipped]
    if not left:
        notes.append(f"nothing of {others} was found in the samples: delayed calls may still wait")
    return Rotation(steps=steps, done=2, notes=notes)


def _encryption_of(app: CloudQ) -> Encryption:
    encryption = app.runtime.encryption
    if encryption is None:
        raise ConfigurationError(
            "the app has no encryption_keys: `cloudq keys new` makes a key, and says how to set it"
        )
    return encryption


_Found = tuple[str | None, str | None]
"""The id of the key of a sample, None for a plain one; and why it does not open."""


class _Tally:
    """Counts samples by their keys."""

    def __init__(self, rows: dict[str, KeyRow]) -> None:
        self.uses = {name: KeyUse(id=name, row=row) for name, row in rows.items()}
        self.plain = 0
        self.skipped: list[str] = []

    def look(self, kind: str, place: str, found: Iterable[_Found]) -> None:
        """Count what is found in a place; one that cannot be looked at is noted."""
        counts: Counter[str] = Counter()
        try:
            for id, problem in found:
                if id is None:
                    self.plain += 1
                    continue
                counts[id] += 1
                if problem is not None:
                    self._failed(id, f"{place}: {problem}")
        except (ServiceError, ConfigurationError) as error:
            self.skipped.append(f"{place}: {error}")
        for id, count in counts.items():
            use = self._use(id)
            more: dict[str, Any] = {kind: getattr(use, kind) + count}
            self.uses[id] = replace(use, **more)

    def _use(self, id: str) -> KeyUse:
        return self.uses.setdefault(id, KeyUse(id=id))

    def _failed(self, id: str, why: str) -> None:
        use = self._use(id)
        reasons = [*use.unopened, why] if why not in use.unopened else use.unopened
        self.uses[id] = replace(use, failed=use.failed + 1, unopened=reasons[:_MOST_PROBLEMS])


def _in_queue(app: CloudQ, queue: str, samples: int) -> Iterator[_Found]:
    for seen in peek(app, queue, count=samples):
        yield _key_of(seen.peeked.body), seen.problem


def _dead(app: CloudQ, queue: str, samples: int) -> Iterator[_Found]:
    for seen in search(app, queue=queue, most=samples).letters:
        yield _key_of(seen.peeked.body), seen.problem


def _key_of(body: bytes) -> str | None:
    if not body.startswith(ENCRYPTED):
        return None
    try:
        return str(header_of(body[1:])["with"])
    except DecodeError:
        return "(unreadable)"


def _in_store(app: CloudQ, samples: int) -> Iterator[_Found]:
    backend = app.backend
    if backend is None or backend.sealing is None:
        return
    ids = [event.id for event in islice(newest(app, TaskFilter()), samples)]
    wanted = list(dict.fromkeys(map(_item_key, ids)))
    for start in range(0, len(wanted), backend.driver.limits.get):
        batch = wanted[start : start + backend.driver.limits.get]
        with backend.trying("read", batch[0].partition):
            items = backend.driver.get(batch, consistent=False)
        for item in items.values():
            yield from backend.sealing.used(item)


def _item_key(id: str) -> Key:
    if (place := place_of(id)) is not None:
        return bundle_key(place.bundle)
    if (place := place_in_series(id)) is not None:
        return series_key(place.bundle)
    return record_key(id)
