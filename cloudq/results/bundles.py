"""The ends of a bundle's calls, which lie together in one item of the store.

Each write adds a part: the compressed JSON of some records. A write counts on the number of parts
that are there, so two workers that have the same bundle never write over each other, and the end
that is written first stays. A call that has left its bundle, to be tried again say, ends here too;
so does a later call that was given the id of one, and its end is the one that counts then. Parts
that have become many are written anew as one. A record that is too large for company, or for which
there is no room left, lies apart, as that of any call, and a part says so; so do the states of a
call that has not ended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from cloudq.driver import Change, Check, ConditionFailed, Item, Key, Op
from cloudq.errors import BackendError
from cloudq.messages.ids import Place, place_of
from cloudq.results.bundle_item import (
    PARTS,
    REVOKED,
    UNTIL,
    BundleRecords,
    Delivered,
    PlainEnd,
    bundle_key,
    is_same,
    marked,
    part_of,
    plain_part,
    read_item,
    unchanged,
    unmarked_after,
)
from cloudq.results.call_marks import is_older
from cloudq.results.record import Record, from_item, key
from cloudq.results.shared_items import RACES, Items, Seen, busy

# More parts than this are made one: a store has items of so many fields, and bills their size.
_MOST_PARTS = 32
# Of how many bundles ends that were read are kept for a moment.
_MOST_SEEN = 32


_NO_TEXTS = (None, None, None, None)
_LEAST = 200  # bytes of a record, but for its texts


class BundleStore:
    """Writes and reads the items of bundles. Every method raises `BackendError` too."""

    def __init__(self, backend: Items) -> None:
        self._backend = backend
        self.seen = Seen(_MOST_SEEN)

    def records(
        self, ids: Sequence[str], places: Mapping[str, Place], *, consistent: bool, own: bool
    ) -> dict[str, Record]:
        """Return the stored records of tasks, of which these have places in bundles.

        With `own` the records that lie apart are read in the same request, also of running calls.
        """
        ended = {} if own else self.seen.ended(places)
        left = {id: place for id, place in places.items() if id not in ended}
        alone = [id for id in ids if own or id not in places]
        bundles = dict.fromkeys(place.bundle for place in left.values())
        keys = [key(id) for id in alone] + [bundle_key(bundle) for bundle in bundles]
        items = self._backend.get(keys, consistent=consistent)
        found = {b: read_item(b, items.get(bundle_key(b))) for b in bundles}
        self._keep(found)
        apart: Mapping[Key, Item] = {}
        if not own:
            apart = self._apart(left, found, consistent=consistent)
        items = {**items, **apart}
        asked = ids if apart else alone
        records = {id: from_item(item) for id in asked if (item := items.get(key(id))) is not None}
        return _in_bundles(records, left, found) | ended

    def of_bundles(
        self, bundles: Collection[str], ids: Sequence[str], *, consistent: bool
    ) -> dict[str, Record]:
        """Return the stored ends and marks of tasks, which are all of these bundles."""
        found = self.read(bundles, consistent=consistent)
        if not any(each.is_known for each in found.values()):
            return {}
        self._keep(found)
        places = {id: place for id in ids if (place := place_of(id)) is not None}
        items = self._apart(places, found, consistent=consistent)
        asked = places if items else ()
        records = {id: from_item(item) for id in asked if (item := items.get(key(id))) is not None}
        return _in_bundles(records, places, found)

    def _apart(
        self, places: Mapping[str, Place], found: Mapping[str, BundleRecords], *, consistent: bool
    ) -> Mapping[Key, Item]:
        """Read the records that lie apart."""
        apart = [id for id, place in places.items() if found[place.bundle].is_apart(place.number)]
        if not apart:
            return {}
        return self._backend.get([key(id) for id in apart], consistent=consistent)

    def _keep(self, found: Mapping[str, BundleRecords]) -> None:
        for bundle, records in found.items():
            self.seen.keep(bundle, records.records)

    def add(
        self,
        bundle: str,
        records: Mapping[int, Record],
        delivery: Delivered | None = None,
        *,
        fenced: bool = False,
    ) -> BundleRecords | None:
        """Add records of calls that have ended.

        `delivery` is that of the bundle, None for a call that came by itself; `fenced` means that
        another may have the bundle by now. Returns what stands in the item, with these where
        nothing was there before; None if a later delivery of its message has claimed it.
        """
        room = self._backend.driver.limits.item // 4
        small = self._put_apart(records, room, fenced=fenced)
        standing = BundleRecords(bundle=bundle)
        for _ in range(RACES):
            fresh = small
            if standing.parts:
                fresh = {n: one for n, one in small.items() if _is_new(records[n], n, standing)}
                self._end_apart(records, standing)
            if not fresh:
                return standing
            if standing.size > room:
                fresh = self._put_apart({n: records[n] for n in fresh}, 0, fenced=fenced)
            try:
                standing.revoked |= self._write(standing, fresh, delivery)
            except ConditionFailed as error:
                standing = self._current(bundle, error.current)
                if delivery is not None and delivery.is_late(standing):
                    return None
                continue
            if not standing.records.keys().isdisjoint(fresh):
                self.seen.forget(bundle)
            standing.records |= {number: records[number] for number in fresh}
            return standing
        raise busy("bundle", bundle)

    def add_plain(
        self, bundle: str, shared: Record, ends: Sequence[PlainEnd], delivery: Delivered
    ) -> set[int] | None:
        """Add the first ends of a bundle, which differ in nothing but their values and times.

        Returns the places of calls that are marked as revoked; None where these are not the first,
        or are large, so that `add` has to tell what is to be written.
        """
        size = sum(_LEAST + len(value or "") for _, value, _, _ in ends)
        if size > self._backend.driver.limits.item // 4:
            return None
        standing = BundleRecords(bundle=bundle)
        try:
            return self._put(standing, plain_part(shared, ends), [], delivery)
        except ConditionFailed:
            return None

    def end(self, place: Place, record: Record) -> Record | None:
        """Add the end of a call; return another that is there already, else None."""
        fenced = record.call is not None  # a still later call may have ended
        standing = self.add(place.bundle, {place.number: record}, fenced=fenced)
        found = standing.record(place.number) if standing is not None else None
        if found is not None and not is_same(found, record):
            return found
        if record.call is not None:
            self._unmark(record.id, record.call)
        return None

    def _unmark(self, task_id: str, call: str) -> None:
        """Take the mark of revocation off the record that lies apart, as the call has ended.

        It is no word about a later call of this id.
        """
        is_its = Check(field="call", op=Op.EQ, value=call)
        change = Change(remove=frozenset({"revoked"}), keep_expires=True, when=(is_its,))
        with suppress(ConditionFailed):  # there is none, or that of a later call
            self._backend.update(key(task_id), change)

    def _end_apart(self, records: Mapping[int, Record], standing: BundleRecords) -> None:
        """Store the ends of later calls of an id where that of an earlier one lies apart."""
        for number, record in records.items():
            if record.call is not None and standing.is_apart(number):
                self._backend.advance_apart(record)

    def _put_apart(
        self, records: Mapping[int, Record], room: int, *, fenced: bool
    ) -> dict[int, Record | None]:
        """Store those records apart for which there is no room; None stands for these."""
        sizes = {number: _size(record) for number, record in records.items()}
        small: dict[int, Record | None] = dict(records)
        if sum(sizes.values()) <= room:
            return small
        for number in sorted(sizes, key=sizes.__getitem__):
            room -= sizes[number]
            if room < 0:
                small[number] = None
        large = [record for number, record in records.items() if small[number] is None]
        if fenced:
            for record in large:
                self._backend.advance_apart(record)
        elif large:
            for failure in self._backend.store_apart(large).values():
                raise BackendError(failure.reason, code=failure.code)
        return small

    def _write(
        self,
        standing: BundleRecords,
        fresh: Mapping[int, Record | None],
        delivery: Delivered | None,
    ) -> set[int]:
        """Write a part; return the places of those that are marked as revoked."""
        stale: list[str] = []
        if len(standing.kept) >= _MOST_PARTS:
            stale = standing.kept
            fresh = {**dict.fromkeys(standing.apart), **standing.records, **fresh}
        return self._put(standing, part_of(fresh), stale, delivery)

    def _put(
        self,
        standing: BundleRecords,
        part: bytes,
        stale: Sequence[str],
        delivery: Delivered | None,
    ) -> set[int]:
        """Put a part in the place of stale ones; return the places that are marked as revoked."""
        expires = max(self._expires(), standing.until)
        change = Change(
            set={
                f"p{standing.parts}": part,
                PARTS: standing.parts + 1,
                **({} if delivery is None else delivery.claim()),
            },
            remove=frozenset(stale),
            expires=expires,
            when=(
                unchanged(standing),
                unmarked_after(expires),
                *(() if delivery is None else delivery.checks()),
            ),
        )
        written = self._backend.update(bundle_key(standing.bundle), change)
        return marked(written.fields.get(REVOKED))

    def claim(self, bundle: str, delivery: Delivered) -> BundleRecords | None:
        """Note a delivery of the bundle, so that an earlier one can write no more.

        Returns what is recorded, None if a later delivery has the message.
        """
        expires = self._expires()
        for _ in range(RACES):
            when = (*delivery.checks(), unmarked_after(expires))
            change = Change(set=delivery.claim(), expires=expires, when=when)
            try:
                return read_item(bundle, self._backend.update(bundle_key(bundle), change))
            except ConditionFailed as error:
                standing = self._current(bundle, error.current)
                if delivery.is_late(standing):
                    return None
                expires = max(expires, standing.until)
        raise busy("bundle", bundle)

    def with_own(self, task_id: str, place: Place) -> tuple[BundleRecords, Record | None]:
        """Read the item of a call's bundle, and the record of the call that lies apart."""
        keys = [bundle_key(place.bundle), key(task_id)]
        items = self._backend.get(keys)
        own = items.get(keys[1])
        standing = read_item(place.bundle, items.get(keys[0]))
        return standing, None if own is None else from_item(own)

    def revoke(self, standing: BundleRecords, number: int, *, keep: float) -> BundleRecords:
        """Mark a call as not to be started, unless it has ended; return what is recorded.

        The mark is kept for `keep` seconds, or for as long as those that are there.
        """
        bundle = standing.bundle
        for _ in range(RACES):
            if number in standing.records or standing.is_apart(number):
                return standing
            until = max(self._backend.clock() + keep, standing.until)
            change = Change(
                add={REVOKED: frozenset({str(number)})},
                set={UNTIL: until},
                expires=until,
                when=(unchanged(standing), unmarked_after(until)),
            )
            try:
                return read_item(bundle, self._backend.update(bundle_key(bundle), change))
            except ConditionFailed as error:
                standing = self._current(bundle, error.current)
        raise busy("bundle", bundle)

    def forget(self, bundle: str, number: int) -> None:
        """Remove what is recorded of a call."""
        self.seen.forget(bundle)
        for _ in range(RACES):
            standing = self.read([bundle])[bundle]
            known = standing.records.keys() | standing.revoked | standing.apart
            if number not in known:
                return
            kept: dict[int, Record | None] = dict.fromkeys(standing.apart)
            kept |= {n: record for n, record in standing.records.items() if n != number}
            kept.pop(number, None)
            change = Change(
                set={f"p{standing.parts}": part_of(kept), PARTS: standing.parts + 1},
                discard={REVOKED: frozenset({str(number)})},
                remove=frozenset(standing.kept),
                keep_expires=True,
                when=(unchanged(standing),),
            )
            with suppress(ConditionFailed):  # another was faster
                self._backend.update(bundle_key(bundle), change)
                return
        raise busy("bundle", bundle)

    def read(
        self, bundles: Collection[str], *, consistent: bool = True
    ) -> dict[str, BundleRecords]:
        """Read the items of bundles; one of which nothing is recorded is empty."""
        keys = {bundle: bundle_key(bundle) for bundle in bundles}
        items = self._backend.get(list(keys.values()), consistent=consistent)
        return {bundle: read_item(bundle, items.get(key)) for bundle, key in keys.items()}

    def _current(self, bundle: str, current: Item | None) -> BundleRecords:
        """Read what stands in the way of a write; a store need not say it."""
        return self.read([bundle])[bundle] if current is None else read_item(bundle, current)

    def _expires(self) -> float:
        return self._backend.clock() + self._backend.expires


def _in_bundles(
    records: dict[str, Record], places: Mapping[str, Place], found: Mapping[str, BundleRecords]
) -> dict[str, Record]:
    """Add to records that lie apart what the items of bundles have.

    The end of an earlier call of an id is no word about the later one that lies apart.
    """
    for id, place in places.items():
        known, own = found[place.bundle].record(place.number), records.get(id)
        if known is not None and not known.terminal:
            known = with_mark(own, known)
        elif known is not None and own is not None and is_older(known, own.call):
            continue
        if known is not None:
            records[id] = known
    return records


def _is_new(record: Record, number: int, standing: BundleRecords) -> bool:
    """Tell whether the end of a call, or of an earlier one of its id, is not there yet."""
    there = standing.records.get(number)
    if there is None:
        return number not in standing.apart
    return is_older(there, record.call)


def _size(record: Record) -> int:
    size = _LEAST + len(record.value or "") + len(record.children or "")
    texts = (record.error, record.traceback, record.error_args, record.error_state)
    return size if texts == _NO_TEXTS else size + sum(len(text) for text in texts if text)


def with_mark(record: Record | None, mark: Record | None) -> Record | None:
    """Return the record of a call that left its bundle, revoked if its mark in the bundle is."""
    if mark is None or (record is not None and record.terminal):
        return record
    return mark if record is None else replace(record, revoked=True)
