"""The ends of single calls that lie together: those of one series in one item of the store.

Stores bill a write of a few bytes as one of a kilobyte. Calls that were made shortly after each
other often end so too, and those of their ends that one commit has and that are small are written
as one. Any other end, and each state before it, lies apart, as that of a call without a series: a
reader looks at both, in one request.

Each write adds a part under a name of its own, over nothing. So two workers that have calls of
one series do not stand in each other's way. An end that lies there counts, and not what another
delivery of the call has written apart.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress

from cloudq.driver import Change, Check, Code, ConditionFailed, Item, Key, Op, Value
from cloudq.errors import BackendError
from cloudq.messages.ids import Place, place_in_series
from cloudq.results.bundle_item import opened, part_of
from cloudq.results.bundles import Items
from cloudq.results.record import Record, State, from_item, key

# The field that counts how often ends were taken out, and that with the time until which they stay.
_FORGOTTEN, _UNTIL = "forgotten", "until"
_RACES = 20
# The longest text of a value that is small, in characters.
_SMALL = 100
# Seconds for which an end that was read is given again without a look, and of how many series.
_FRESH, _MOST_SEEN = 5.0, 256

_NOTHING: tuple[float, dict[int, Record]] = (0.0, {})


def series_key(series: str) -> Key:
    """The key of the item with the ends of a series."""
    return Key(f"series#{series}")


def is_small(record: Record) -> bool:
    """Tell whether a record is an end that may lie with others: a success with a short value."""
    return (
        record.state is State.SUCCESS
        and (record.value is None or len(record.value) <= _SMALL)
        and record.children is None
        and record.meta is None
        and record.call is None
        and record.join is None
        and not record.dead_lettered
    )


class SeriesStore:
    """Writes and reads the items of series. Every method raises `BackendError` too."""

    def __init__(self, backend: Items) -> None:
        self._backend = backend
        # What was read of late: results that are fetched one by one are often of one series.
        self._seen: OrderedDict[str, tuple[float, dict[int, Record]]] = OrderedDict()

    def item(self, series: str, ends: Mapping[int, Record]) -> Item:
        """Return the item of a series of which all calls end now."""
        expires = self._expires()
        fields: dict[str, Value] = {_part_name(): part_of(ends, exact=True), _UNTIL: expires}
        return Item(key=series_key(series), fields=fields, expires=expires)

    def add(self, series: str, ends: Mapping[int, Record]) -> None:
        """Add the ends of some calls of a series to what is recorded of others."""
        expires, part = self._expires(), {_part_name(): part_of(ends, exact=True)}
        change = Change(
            set={**part, _UNTIL: expires},
            expires=expires,
            when=(Check(field=_UNTIL, op=Op.LE, value=expires, or_absent=True),),
        )
        try:
            self._backend.update(series_key(series), change)
        except ConditionFailed:  # another app keeps its results for longer
            self._backend.update(series_key(series), Change(set=part, keep_expires=True))

    def records(
        self, ids: Sequence[str], places: Mapping[str, Place], *, consistent: bool, own: bool
    ) -> dict[str, Record]:
        """Return the stored records of tasks, of which these have places in series.

        With `own` the items of the tasks themselves are read in any case: one may have the record
        of a later call that was given the same id.
        """
        records = {} if own else self._ended(places)
        left = [id for id in ids if id not in records]
        series = dict.fromkeys(places[id].bundle for id in left if id in places)
        shared = [series_key(name) for name in series]
        # Where several of a series are asked for, most of them may need no look of their own.
        first = not own and sum(id in places for id in left) > len(series)
        alone = [id for id in left if not first or id not in places]
        items = self._items([key(id) for id in alone] + shared, consistent=consistent)
        ends = {name: _ends(name, items.get(series_key(name))) for name in series}
        self._keep(ends)
        found = {id: ends[p.bundle].get(p.number) for id in left if (p := places.get(id))}
        if first:
            rest = [key(id) for id, end in found.items() if end is None]
            items = {**items, **self._items(rest, consistent=consistent)}
        for id in left:
            item, end = items.get(key(id)), found.get(id)
            record = None if item is None else from_item(item)
            # What lies apart is a state before the end, or of another delivery. A mark is that of
            # a later call of the id, whose ends all lie apart.
            if end is not None and (record is None or record.call is None):
                record = end
            if record is not None:
                records[id] = record
        return records

    def _items(self, keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
        return self._backend.get(keys, consistent=consistent) if keys else {}

    def end_of(self, task_id: str) -> Record | None:
        """Return the end of a call that lies in its series; None for a call without one."""
        place = place_in_series(task_id)
        if place is None:
            return None
        item = self._backend.get([series_key(place.bundle)]).get(series_key(place.bundle))
        return _ends(place.bundle, item).get(place.number)

    def forget(self, task_id: str, place: Place) -> None:
        """Remove what is recorded of a call, in its series and apart."""
        self._seen.pop(place.bundle, None)
        shared, own = series_key(place.bundle), key(task_id)
        for _ in range(_RACES):
            items = self._backend.get([shared, own])
            if own in items:
                self._backend.delete([own])
            item = items.get(shared)
            if item is None or place.number not in _ends(place.bundle, item):
                return
            try:
                self._backend.update(item.key, _without(item, place))
                return
            except ConditionFailed:
                continue
        raise BackendError(
            f"the item of series {place.bundle} changes too often", code=Code.THROTTLED
        )

    def _ended(self, places: Mapping[str, Place]) -> dict[str, Record]:
        """Return the ends that were read a moment ago; an end does not change."""
        if not self._seen:
            return {}
        oldest = time.monotonic() - _FRESH
        ended: dict[str, Record] = {}
        for id, (series, number) in places.items():
            read_at, seen = self._seen.get(series) or _NOTHING
            if read_at > oldest and number in seen:
                ended[id] = seen[number]
        return ended

    def forget_seen(self) -> None:
        """Read everything anew from now on."""
        self._seen.clear()

    def _keep(self, found: Mapping[str, dict[int, Record]]) -> None:
        now = time.monotonic()
        for series, ends in found.items():
            if ends:
                self._seen[series] = now, ends
        while len(self._seen) > _MOST_SEEN:
            with suppress(KeyError):  # another thread was faster
                self._seen.popitem(last=False)

    def _expires(self) -> float:
        return self._backend.clock() + self._backend.expires


def _part_name() -> str:
    return f"p{os.urandom(4).hex()}"


def _parts(item: Item) -> dict[str, bytes]:
    return {
        name: value
        for name, value in item.fields.items()
        if name[:1] == "p" and isinstance(value, bytes)
    }


def _ends(series: str, item: Item | None) -> dict[int, Record]:
    """Read the ends in the item of a series; of two of one call, the later."""
    ends: dict[int, Record] = {}
    for part in _parts(item).values() if item is not None else ():
        for number, record in opened(series, part):
            if record is None or not record.terminal:
                continue
            other = ends.get(number)
            if other is None or (other.finished_at or 0.0) <= (record.finished_at or 0.0):
                ends[number] = record
    return ends


def _without(item: Item, place: Place) -> Change:
    """Take the end of a call out of the parts that have it, if they are still those."""
    kept: dict[str, Value] = {}
    removed: set[str] = set()
    for name, part in _parts(item).items():
        ends = {number: record for number, record in opened(place.bundle, part) if record}
        if place.number not in ends:
            continue
        del ends[place.number]
        if ends:
            kept[name] = part_of(ends, exact=True)
        else:
            removed.add(name)
    known = item.fields.get(_FORGOTTEN)
    times = known if type(known) is int else 0
    if known is None:
        when = Check(field=_FORGOTTEN, op=Op.ABSENT)
    else:
        when = Check(field=_FORGOTTEN, op=Op.EQ, value=known)
    return Change(
        set={**kept, _FORGOTTEN: times + 1},
        remove=frozenset(removed),
        expires=item.expires,
        when=(when,),
    )
