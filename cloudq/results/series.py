"""The ends of single calls that lie together: those of one series in one item of the store.

Stores bill a write of a few bytes as one of a kilobyte. Calls that were made shortly after each
other often end so too, and those of their ends that one commit has and that are small are written
as one. Any other end, and each state before it, lies apart, as that of a call without a series: a
reader looks at both, in one request.

Each write adds a part under a name of its own, over nothing. So two workers that have calls of
one series do not stand in each other's way. An end that lies there counts, and not what another
delivery of the call has written apart. A later call that was given the id of one takes the end of
that out before its own is written, always apart: then all readers find the later one's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from math import ceil

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op, Value
from cloudq.messages.ids import Place, place_in_series
from cloudq.results.bundle_item import opened, part_of
from cloudq.results.record import Record, State, from_item, key
from cloudq.results.shared_items import RACES, Items, Seen, busy

# The field that counts how often ends were taken out, and that with the time until which they stay.
_FORGOTTEN, _UNTIL = "forgotten", "until"
# The longest text of a value that is small, in characters.
_SMALL = 100
# The share of the time for which ends are kept to which its end is rounded up.
_ROUNDED = 1 / 1_000
# Of how many series ends that were read are kept for a moment.
_MOST_SEEN = 256


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
        self.seen = Seen(_MOST_SEEN)

    def item(self, series: str, ends: Mapping[int, Record]) -> Item:
        """Return the item of a series of which all calls end now."""
        expires = self._expires()
        fields: dict[str, Value] = {_part_name(): part_of(ends, exact=True), _UNTIL: expires}
        return Item(key=series_key(series), fields=fields, expires=expires)

    def add(self, series: str, ends: Mapping[int, Record]) -> None:
        """Add the ends of some calls of a series to what is recorded of others."""
        part, expires = {_part_name(): part_of(ends, exact=True)}, self._expires()
        is_known = True
        for _ in range(RACES):
            longest = Check(field=_UNTIL, op=Op.LE, value=expires, or_absent=True)
            change = Change(
                set={**part, _UNTIL: expires}, expires=expires, when=(longest,) if is_known else ()
            )
            try:
                self._backend.update(series_key(series), change)
                return
            except ConditionFailed as error:  # another app keeps its results for longer
                theirs = error.current.fields.get(_UNTIL) if error.current else expires
                if is_known := isinstance(theirs, int | float):  # else strangers wrote it
                    expires = max(expires, theirs)
        raise busy("series", series)

    def records(
        self, ids: Sequence[str], places: Mapping[str, Place], *, consistent: bool, own: bool
    ) -> dict[str, Record]:
        """Return the stored records of tasks, of which these have places in series.

        With `own` the items of the tasks themselves are read in any case: one may have the record
        of a later call that was given the same id, also before its end. Without it, an end that was
        read a few seconds ago may be given again.
        """
        records = {} if own else self.seen.ended(places)
        left = [id for id in ids if id not in records]
        series = dict.fromkeys(places[id].bundle for id in left if id in places)
        shared = [series_key(name) for name in series]
        # Where several of a series are asked for, most of them may need no look of their own.
        first = not own and sum(id in places for id in left) > len(series)
        alone = [id for id in left if not first or id not in places]
        items = self._items([key(id) for id in alone] + shared, consistent=consistent)
        ends = {name: _ends(name, items.get(series_key(name))) for name in series}
        for name, known in ends.items():
            self.seen.keep(name, known)
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
            elif end is not None:
                self.seen.forget(places[id].bundle)
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

    def leave(self, records: Iterable[Record]) -> None:
        """Take the ends of earlier calls, whose ids calls that have ended were given, out."""
        for record in records:
            if record.call is not None and record.terminal:
                place = place_in_series(record.id)
                if place is not None:
                    self._take_out(place, None)

    def forget(self, task_id: str, place: Place) -> None:
        """Remove what is recorded of a call, in its series and apart."""
        self._take_out(place, key(task_id))

    def _take_out(self, place: Place, own: Key | None) -> None:
        """Take the end of a call out of its series; its own item, if it is told, is deleted."""
        self.seen.forget(place.bundle)
        shared = series_key(place.bundle)
        for _ in range(RACES):
            items = self._backend.get([shared] if own is None else [shared, own])
            if own is not None and own in items:
                self._backend.delete([own])
            item = items.get(shared)
            if item is None or place.number not in _ends(place.bundle, item):
                return
            try:
                self._backend.update(item.key, _without(item, place))
                return
            except ConditionFailed:
                continue
        raise busy("series", place.bundle)

    def _expires(self) -> float:
        """Return until when an end is kept, a little longer than asked.

        Ends that workers add to one item at about the same time are kept until the same moment:
        else the write that began first, and ends last, would be refused, and made again.
        """
        kept = self._backend.expires
        step = kept * _ROUNDED
        return ceil((self._backend.clock() + kept) / step) * step if step else self._backend.clock()


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
