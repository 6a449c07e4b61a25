"""The result store on Firestore: `firestore://project/collection?database=&emulator=&endpoint=`.

One collection of a database in native mode holds everything, one document an item:

    id        hash, partition and sort key (see `firestore_items`)
    fields    map: each field under its own name; a set is an array of texts
    expires   timestamp: when the item ends; the field of the collection's TTL policy

No query needs an index, while each indexed field makes every write slower and a document larger:
`create_store` exempts both fields from the indexes that Firestore makes by itself, without which
a document with a large set would go over the 40,000 entries that it may have in indexes. It
switches the TTL policy on as well. The operator needs the role `roles/datastore.indexAdmin` for
that; the programs themselves need `roles/datastore.user`.

Firestore deletes expired documents up to a day late, so that every read and every condition here
looks at `expires` itself. Reads are always of the latest state.

What is billed: each document read, written or deleted is one operation, in a batch or not, and so
is the read of one that is not there. `update` is one read and one write, and a read more each time
that another writer came between; a condition that fails is the read alone.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from google.api_core import exceptions as sdk
from google.api_core.retry import Retry, if_exception_type
from google.cloud.firestore_v1.types import Document, Precondition, StructuredQuery, Write
from google.cloud.firestore_v1.types import Value as Stored
from google.cloud.firestore_v1.types.query import Cursor

from cloudq.clock import Backoff
from cloudq.driver import Address, Change, Code, Failure, Item, Key, Page, StoreLimits
from cloudq.driver.billing import DELETE, GET, PUT, QUERY, Meter
from cloudq.driver.conditional import apply
from cloudq_gcp.errors import GcpError, error_code, incomplete
from cloudq_gcp.firestore_client import Place, connect
from cloudq_gcp.firestore_items import (
    EXPIRES,
    FIELDS,
    LONGEST_ID,
    document_id,
    from_document,
    kind_of,
    partition_ids,
    size,
    sort_key,
    to_document,
)
from cloudq_gcp.prices import FIRESTORE

_ITEM = 1 << 20
# Of the documents in one request. Firestore takes 10 MiB, but its emulator 4; writes are billed one
# by one in any case.
_REQUEST = 3 << 20
# Rounds of a batch until what Firestore would not write counts as refused, and the first pause.
_ROUNDS, _PAUSE = 6, 0.05
# Rounds of an update: each one means that another writer got ahead.
_RACES, _LONGEST_PAUSE = 20, 0.5
# Seconds. The SDK's own patience with a server that cannot be reached is a minute and more.
_TIMEOUT = 10.0
_RETRY = Retry(
    if_exception_type(sdk.ServiceUnavailable, sdk.InternalServerError, sdk.ResourceExhausted),
    initial=0.1,
    maximum=1.0,
    multiplier=2.0,
    timeout=3.0,
)
# Of one write of a batch: the same may go well in a moment.
_PASSING = (sdk.Aborted, sdk.ResourceExhausted, sdk.ServiceUnavailable)
# The answers of a write whose precondition does not hold, or that came between two others.
_OVERTAKEN = (sdk.AlreadyExists, sdk.FailedPrecondition, sdk.NotFound, sdk.Aborted)


def open_backend(address: Address) -> Firestore:
    """The driver of a `firestore://` URL. Raises `ConfigurationError`."""
    return Firestore(connect(address))


class Firestore:
    """A `BackendDriver` and `StoreAdmin` on one collection."""

    limits = StoreLimits(put=500, get=500, item=_ITEM)

    def __init__(self, place: Place) -> None:
        self.client = place.client()
        self._place = place
        self.meter = Meter(FIRESTORE)
        self._documents = f"{place.database}/documents"

    def put(self, items: Sequence[Item]) -> Sequence[Failure]:
        """Write whole items in one batch; of two with one key, the last counts."""
        failures: list[Failure] = []
        wanted: dict[str, Write] = {}
        for index, item in enumerate(items):
            name = self._name(item.key)
            if reason := _too_large(name, item):
                failures.append(Failure(index=index, code=Code.TOO_LARGE, reason=reason))
                continue
            wanted[name] = Write(update=to_document(name, item))
        return failures + self._write(wanted, [item.key for item in items])

    def delete(self, keys: Sequence[Key]) -> Sequence[Failure]:
        """Delete items in one batch; a missing one is no failure."""
        names = (self._name(key) for key in keys)
        return self._write({name: Write(delete=name) for name in names}, keys)

    def _write(self, wanted: Mapping[str, Write], keys: Sequence[Key]) -> list[Failure]:
        # Each write of a batch stands for itself, so that those in the way of another are repeated.
        left = dict(wanted)
        refused: dict[str, sdk.GoogleAPICallError] = {}
        for pause in _pauses(_ROUNDS):
            refused = {name: error for name, error in refused.items() if name not in left}
            for batch in _batches(left.values()):
                refused |= self._write_batch(batch)
            left = {
                name: wanted[name] for name, error in refused.items() if isinstance(error, _PASSING)
            }
            if not left:
                break
            time.sleep(pause)
        return [
            Failure(index=index, code=self.error_code(error), reason=str(error))
            for index, key in enumerate(keys)
            if (error := refused.get(self._name(key)))
        ]

    def _write_batch(self, batch: Sequence[Write]) -> dict[str, sdk.GoogleAPICallError]:
        reply = self.client.batch_write(
            request={"database": self._place.database, "writes": batch},
            metadata=self._place.metadata,
            retry=_RETRY,
            timeout=_TIMEOUT,
        )
        call = DELETE if batch[0].delete else PUT
        kind = kind_of(batch[0].delete or batch[0].update.name)
        self.meter.count(call, kind, items=len(batch))
        if len(reply.status) != len(batch):
            raise incomplete("a status of each write")
        return {
            write.update.name or write.delete: sdk.from_grpc_status(
                status.code, status.message or f"gRPC status {status.code}"
            )
            for write, status in zip(batch, reply.status, strict=True)
            if status.code
        }

    def get(self, keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
        """Read items in one request; Firestore's answers are always consistent."""
        by_name = {self._name(key): key for key in keys}
        now = time.time()
        found = {
            by_name[document.name]: from_document(by_name[document.name], document)
            for document in self._read(list(by_name))
        }
        return {key: item for key, item in found.items() if not _expired(item, now)}

    def _read(self, names: Sequence[str]) -> Iterator[Document]:
        if not names:
            return
        replies = self.client.batch_get_documents(
            request={"database": self._place.database, "documents": names},
            metadata=self._place.metadata,
            retry=_RETRY,
            timeout=_TIMEOUT,
        )
        self.meter.count(GET, kind_of(names[0]), items=len(names))
        unanswered = set(names)
        for reply in replies:
            name = reply.found.name or reply.missing
            if name not in names:
                raise incomplete("what was asked for")
            unanswered.discard(name)
            if reply.found.name:
                yield _timed(reply.found)
        if unanswered:
            raise incomplete(f"{len(unanswered)} of {len(names)} documents, there or not")

    def update(self, key: Key, change: Change) -> Item:
        """Read, decide here, and write on the condition that nobody else has written meanwhile.

        Not in a transaction of Firestore's: it takes a request more, and what a program that dies
        in the middle has read stays locked for up to a minute.
        """
        name = self._name(key)
        for pause in _pauses(_RACES):
            document = next(self._read([name]), None)
            current = from_document(key, document) if document else None
            alive = current if current and not _expired(current, time.time()) else None
            item = apply(change, key, alive)
            if reason := _too_large(name, item):
                raise GcpError(reason, code=Code.TOO_LARGE)
            written = to_document(name, item)
            if self._replace(document, written):
                return from_document(key, written)
            time.sleep(pause)
        raise GcpError(f"too many writers at {key}", code=Code.THROTTLED)

    def _replace(self, document: Document | None, written: Document) -> bool:
        unchanged = (
            Precondition(update_time=document.update_time)
            if document
            else Precondition(exists=False)
        )
        try:
            # Sent once: if the answer is lost, a second try would meet the first, and add to it.
            reply = self.client.commit(
                request={
                    "database": self._place.database,
                    "writes": [Write(update=written, current_document=unchanged)],
                },
                metadata=self._place.metadata,
                retry=None,
                timeout=_TIMEOUT,
            )
        except _OVERTAKEN:
            return False
        self.meter.count(PUT, kind_of(written.name), items=1)
        if len(reply.write_results) != 1:
            raise incomplete("the write's result")
        return True

    def query(self, partition: str, *, after: str | None, limit: int) -> Page:
        """Read a partition in order, from the sort key behind `after`."""
        first, behind = (self._path(id) for id in partition_ids(partition))
        items: list[Item] = []
        while True:
            start = first if after is None else self._name(Key(partition, after))
            asked = limit - len(items)
            found = self._range(start, behind, inclusive=after is None, limit=asked)
            now = time.time()
            if len(found) > asked:
                raise incomplete("the limit that was asked for")
            for document in found:
                # Without this order a query might never end.
                behind_start = document.name > start or (document.name == start and after is None)
                if not document.name.startswith(first) or not behind_start:
                    raise incomplete("what was asked for")
                start, after = document.name, sort_key(document.name)
                item = from_document(Key(partition, after), document)
                if not _expired(item, now):
                    items.append(item)
            if len(found) < asked:
                return Page(items=items)
            if len(items) >= limit:
                return Page(items=items, next=after)

    def _range(self, start: str, end: str, *, inclusive: bool, limit: int) -> list[Document]:
        query = StructuredQuery(
            from_=[{"collection_id": self._place.collection}],
            order_by=[{"field": {"field_path": "__name__"}, "direction": "ASCENDING"}],
            start_at=Cursor(values=[Stored(reference_value=start)], before=inclusive),
            end_at=Cursor(values=[Stored(reference_value=end)], before=True),
            limit=limit,
        )
        replies = self.client.run_query(
            request={"parent": self._documents, "structured_query": query},
            metadata=self._place.metadata,
            retry=_RETRY,
            timeout=_TIMEOUT,
        )
        answers = list(replies)
        found = [_timed(reply.document) for reply in answers if reply.document.name]
        self.meter.count(QUERY, kind_of(start), items=len(found))
        # A query that finds nothing is answered too.
        if not found and not any(reply.read_time for reply in answers):
            raise incomplete("the time of the read")
        return found

    def create_store(self) -> None:
        """Set the collection's TTL policy and its exemptions; Firestore takes minutes to follow.

        A collection itself comes into being with its first document.
        """
        admin = self._place.admin()
        fields = f"{self._place.database}/collectionGroups/{self._place.collection}/fields"
        unindexed = {"index_config": {"indexes": []}}
        for name, settings in ((FIELDS, unindexed), (EXPIRES, unindexed | {"ttl_config": {}})):
            field = {"name": f"{fields}/{name}", **settings}
            try:
                admin.update_field(
                    request={"field": field, "update_mask": {"paths": list(settings)}},
                    metadata=self._place.metadata,
                    retry=_RETRY,
                    timeout=_TIMEOUT,
                )
            except sdk.MethodNotImplemented:
                # The emulator, which deletes nothing and needs no index.
                return

    def check_store(self) -> None:
        """Read an item that is not there: it needs no right that a worker lacks."""
        self.get([Key("check", "-")], consistent=True)

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        return error_code(error)

    def close(self) -> None:
        """Close the connection."""
        self._place.channel.close()

    def _name(self, key: Key) -> str:
        return self._path(document_id(key))

    def _path(self, id: str) -> str:
        return f"{self._documents}/{self._place.collection}/{id}"


def _timed(document: Document) -> Document:
    # Firestore always sends the time; without it a write would have no condition.
    if not document.update_time:
        raise incomplete("the time of the document")
    return document


def _pauses(rounds: int) -> Iterator[float]:
    # Jitter keeps the writers of one item apart.
    return Backoff(_PAUSE, _LONGEST_PAUSE, factor=1.5, jitter=0.9).pauses(rounds)


def _batches(writes: Iterable[Write]) -> Iterator[list[Write]]:
    batch: list[Write] = []
    total = 0
    for write in writes:
        length = Write.pb(write).ByteSize()
        if batch and total + length > _REQUEST:
            yield batch
            batch, total = [], 0
        batch.append(write)
        total += length
    if batch:
        yield batch


def _expired(item: Item, now: float) -> bool:
    return item.expires is not None and item.expires <= now


def _too_large(name: str, item: Item) -> str:
    """Return why Firestore would refuse the item, and with it the others of its batch."""
    if len(name.rpartition("/")[2].encode()) > LONGEST_ID:
        return f"the key of item {item.key} is over Firestore's {LONGEST_ID} bytes"
    if size(name, item) > _ITEM:
        return f"item {item.key.partition}/{item.key.sort} is over Firestore's {_ITEM} bytes"
    return ""
