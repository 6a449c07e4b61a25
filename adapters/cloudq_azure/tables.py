"""The result store on Azure Table storage: `aztables://account/table?endpoint=`.

One table holds everything, one entity an item: `PartitionKey` and `RowKey` are the partition and
the sort key (see `tables_keys`), `expires` is when the item ends, and every other property is a
field (see `tables_items`). Rights come from `AZURE_STORAGE_CONNECTION_STRING`, or else from the
managed identity or login that azure-identity finds; the role for programs is `Storage Table Data
Contributor`.

Requests are what is billed, and a request is a transaction of one partition at most. So a batch of
items of one partition is one request, but the records of tasks have a partition each: a request
an item, 16 of them at a time. `update` is two requests, a read and a write on the condition that
the entity's ETag is still the same, and as many again each time that another writer came between.

Tables deletes nothing by itself: an expired item is hidden from every read and condition here,
and stays until `sweep` deletes it.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from azure.core import MatchConditions
from azure.core.exceptions import AzureError as SdkError
from azure.core.exceptions import (
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.core.paging import ItemPaged
from azure.data.tables import TableClient, TableEntity, UpdateMode
from azure.identity import DefaultAzureCredential

from cloudq.clock import Backoff
from cloudq.driver import Address, Change, Code, Failure, Item, Key, Page, StoreLimits
from cloudq.driver.billing import Meter
from cloudq.driver.conditional import apply
from cloudq_azure.answers import reading
from cloudq_azure.errors import SHAPELESS, AzureError, error_code, incomplete
from cloudq_azure.tables_client import connect
from cloudq_azure.tables_items import (
    EXPIRES,
    MOST_PROPERTIES,
    PARTITION,
    ROW,
    Entity,
    entity_key,
    from_entity,
    size,
    to_entity,
)
from cloudq_azure.tables_keys import partition_key, row_key, sort_key, too_long

_ITEM = 1 << 20
# A transaction has 100 entities, which `limits` sees to, and 4 MiB of JSON, in which bytes are a
# third larger.
_BATCH, _BATCH_SIZE = 100, 5 << 19
# Requests of one call at a time.
_THREADS = 16
# Rounds of an update, each of which means that another writer got ahead, and the first pause.
_RACES, _PAUSE, _LONGEST_PAUSE = 60, 0.02, 0.5

# What a transaction is refused for because of one of its entities.
_OF_ONE = frozenset({Code.INVALID, Code.NOT_FOUND, Code.TOO_LARGE})

_T = TypeVar("_T")
_R = TypeVar("_R")
_Indexed = tuple[int, Entity]


def open_backend(address: Address) -> Tables:
    """The driver of an `aztables://` URL. Raises `ConfigurationError`."""
    return Tables(*connect(address))


class Tables:
    """A `BackendDriver` and `StoreAdmin` on one table."""

    limits = StoreLimits(put=_BATCH, get=_BATCH, item=_ITEM)

    def __init__(self, client: TableClient, meter: Meter | None = None) -> None:
        self.meter = meter
        # Safe from many threads, as all of the SDK's clients over HTTP are.
        self.client = client
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cloudq-tables")

    def put(self, items: Sequence[Item]) -> Sequence[Failure]:
        """Write whole items; of two with one key, the last counts."""
        failures: list[Failure] = []
        wanted: dict[Key, _Indexed] = {}
        for index, item in enumerate(items):
            entity = to_entity(item)
            if reason := _too_large(item.key, entity):
                failures.append(Failure(index=index, code=Code.TOO_LARGE, reason=reason))
                continue
            wanted[item.key] = (index, entity)
        return failures + self._write("upsert", wanted.values())

    def delete(self, keys: Sequence[Key]) -> Sequence[Failure]:
        """Delete items; a missing one is no failure."""
        wanted = {key: (index, entity_key(key)) for index, key in enumerate(keys)}
        return self._write("delete", wanted.values())

    def _write(self, operation: str, wanted: Iterable[_Indexed]) -> list[Failure]:
        """Write or delete all entities; raises if all are refused for one reason."""
        groups = list(_groups(wanted))
        answers = self._each(partial(self._write_group, operation), groups)
        refused = [pair for answer in answers for pair in answer]
        if refused and len(refused) == sum(map(len, groups)):
            raise refused[0][1]
        return [
            Failure(index=index, code=self.error_code(error), reason=str(error))
            for index, error in refused
        ]

    def _write_group(
        self, operation: str, group: Sequence[_Indexed]
    ) -> list[tuple[int, Exception]]:
        mode = {"mode": UpdateMode.REPLACE} if operation == "upsert" else {}
        if len(group) > 1:
            try:
                with reading("a part for each entity"):
                    done = self.client.submit_transaction(
                        (operation, entity, mode) for _, entity in group
                    )
            except AzureError as error:
                return [(index, error) for index, _ in group]
            except SdkError as error:
                # One entity fails a transaction as a whole: a missing one that is to be deleted,
                # for example. The others are to be done all the same.
                if _of_the_table(error) or error_code(error) not in _OF_ONE:
                    return [(index, error) for index, _ in group]
            else:
                wrong = incomplete("a part for each entity")
                return [] if len(done) == len(group) else [(index, wrong) for index, _ in group]
        refused: list[tuple[int, Exception]] = []
        for index, entity in group:
            try:
                if operation == "upsert":
                    self.client.upsert_entity(entity, UpdateMode.REPLACE)
                else:
                    self.client.delete_entity(entity)
            except SdkError as error:  # a connection that broke is no reason to leave the others
                refused.append((index, error))
        return refused

    def get(self, keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
        """Read items, each with a request of its own; the answers are always consistent."""
        wanted = list(dict.fromkeys(keys))
        now = time.time()
        found = {
            key: from_entity(key, entity)
            for key, entity in zip(wanted, self._each(self._read, wanted), strict=True)
            if entity is not None
        }
        return {key: item for key, item in found.items() if not _expired(item, now)}

    def _read(self, key: Key) -> TableEntity | None:
        partition, row = partition_key(key.partition), row_key(key.sort)
        try:
            with reading("the entity"):
                found = self.client.get_entity(partition, row)
        except ResourceNotFoundError as error:
            if _of_the_table(error):
                raise
            return None
        if (found.get(PARTITION), found.get(ROW)) != (
            partition,
            row,
        ) or "etag" not in found.metadata:
            raise incomplete("the entity's keys")
        return found

    def _each(self, call: Callable[[_T], _R], arguments: Sequence[_T]) -> Sequence[_R]:
        if len(arguments) < 2:
            return [call(argument) for argument in arguments]
        return list(self._threads.map(call, arguments))

    def update(self, key: Key, change: Change) -> Item:
        """Read, decide here, and write on the condition that nobody else has written meanwhile."""
        # Jitter keeps the writers of one item apart.
        backoff = Backoff(_PAUSE, _LONGEST_PAUSE, factor=1.5, jitter=0.9)
        for pause in backoff.pauses(_RACES):
            found = self._read(key)
            current = from_entity(key, found) if found is not None else None
            alive = current if current and not _expired(current, time.time()) else None
            entity = to_entity(apply(change, key, alive))
            if reason := _too_large(key, entity):
                raise AzureError(reason, code=Code.TOO_LARGE)
            if self._replace(found, entity):
                return from_entity(key, entity)
            time.sleep(pause)
        raise AzureError(f"too many writers at {key}", code=Code.THROTTLED)

    def _replace(self, found: TableEntity | None, entity: Entity) -> bool:
        # Sent once: if the answer is lost, a second try would meet the first, and add to it.
        once = {"retry_total": 0}
        try:
            if found is None:
                self.client.create_entity(entity, response_preference="return-no-content", **once)
            else:
                self.client.update_entity(
                    entity,
                    UpdateMode.REPLACE,
                    etag=found.metadata["etag"],
                    match_condition=MatchConditions.IfNotModified,
                    **once,
                )
        except (ResourceExistsError, ResourceModifiedError):
            return False
        except ResourceNotFoundError as error:
            # The entity was deleted meanwhile, unless it is the table that was.
            if found is None or _of_the_table(error):
                raise
            return False
        return True

    def query(self, partition: str, *, after: str | None, limit: int) -> Page:
        """Read a partition in order, from the sort key behind `after`."""
        conditions, values = f"{PARTITION} eq @partition", {"partition": partition_key(partition)}
        if after is not None:
            conditions += f" and {ROW} gt @after"
            values["after"] = row_key(after)
        found = self.client.query_entities(
            conditions, parameters=values, results_per_page=min(limit, 1000)
        )
        items: list[Item] = []
        now = time.time()
        behind: str | None = values.get("after")
        for entity in _entities(found):
            row = str(entity[ROW])
            if entity[PARTITION] != values["partition"] or (behind is not None and row <= behind):
                raise incomplete("what was asked for")
            behind = row
            item = from_entity(Key(partition, sort_key(row)), entity)
            if not _expired(item, now):
                items.append(item)
            if len(items) == limit:
                return Page(items=items, next=item.key.sort)
        return Page(items=items)

    def sweep(self) -> int:
        """Delete what has expired, and return how many items that were.

        It reads the whole table, as Tables has no index but its keys: for a daily job, not for
        a worker. An item that is written again while it is on its way is left alone.
        """
        expired = self.client.query_entities(
            f"{EXPIRES} le @now",
            parameters={"now": datetime.now(UTC)},
            select=[PARTITION, ROW],
        )
        return sum(self._threads.map(self._delete_unchanged, _entities(expired)))

    def _delete_unchanged(self, entity: TableEntity) -> bool:
        try:
            self.client.delete_entity(
                entity,
                etag=entity.metadata["etag"],
                match_condition=MatchConditions.IfNotModified,
            )
        except ResourceModifiedError:
            return False
        return True

    def create_store(self) -> None:
        """Make the table; an existing one is left as it is."""
        try:
            self.client.create_table()
        except ResourceExistsError:
            return

    def check_store(self) -> None:
        """Read an item that is not there: it needs no right that a worker lacks."""
        self._read(Key("check", "-"))

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        return error_code(error)

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown()
        self.client.close()
        if isinstance(self.client.credential, DefaultAzureCredential):
            self.client.credential.close()


def _groups(wanted: Iterable[_Indexed]) -> Iterator[list[_Indexed]]:
    """Entities that can be written in one transaction."""
    partitions: dict[str, list[_Indexed]] = {}
    for indexed in wanted:
        partitions.setdefault(indexed[1][PARTITION], []).append(indexed)
    for partition in partitions.values():
        group: list[_Indexed] = []
        total = 0
        for indexed in partition:
            length = size(indexed[1])
            if group and total + length > _BATCH_SIZE:
                yield group
                group, total = [], 0
            group.append(indexed)
            total += length
        yield group


def _entities(found: ItemPaged[TableEntity]) -> Iterator[TableEntity]:
    """Iterate over a query's entities; the SDK has no error for an answer without a list.

    Raises for a page that is said to follow twice: a query would never end.
    """
    pages: Any = found.by_page()
    told: set[str] = set()
    while True:
        try:
            page: list[TableEntity] = list(next(pages))
        except StopIteration:
            return
        except SHAPELESS as error:
            raise incomplete("the list of entities") from error
        for entity in page:
            if not (isinstance(entity.get(PARTITION), str) and isinstance(entity.get(ROW), str)):
                raise incomplete("an entity's keys")
            yield entity
        following = repr(pages.continuation_token)
        if following in told:
            raise incomplete("the page behind the last one")
        told.add(following)


def _of_the_table(error: SdkError) -> bool:
    """Tell whether the table is missing, and not an entity."""
    return getattr(error, "error_code", None) == "TableNotFound"


def _expired(item: Item, now: float) -> bool:
    return item.expires is not None and item.expires <= now


def _too_large(key: Key, entity: Mapping[str, Any]) -> str:
    """Return why Tables would refuse the entity, and with it the others of its batch."""
    if reason := too_long(key):
        return reason
    if len(entity) - 2 > MOST_PROPERTIES:
        return (
            f"item {key.partition}/{key.sort} has {len(entity) - 2} properties, and Tables"
            f" takes {MOST_PROPERTIES}"
        )
    if size(dict(entity)) > _ITEM:
        return f"item {key.partition}/{key.sort} is over Tables' {_ITEM} bytes"
    return ""
