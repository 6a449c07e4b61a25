"""The caller's handle on a task: its state, and its value or its exception."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from math import inf
from typing import Any, Generic, TypeVar, cast

from cloudq.amounts import seconds
from cloudq.clock import patience
from cloudq.errors import ConfigurationError, DecodeError, InvalidArguments
from cloudq.messages.values import load_value
from cloudq.results.backend import Backend
from cloudq.results.call_marks import is_before
from cloudq.results.lineage import failed_of, paired, revoked_of
from cloudq.results.looks import ended_of, wait_for_all
from cloudq.results.names import OnEnd, ResultNames, Told, told_between
from cloudq.results.record import TERMINAL, Record, State, failure
from cloudq.results.terminate import ResultActions, Signal, Termination, actions_of
from cloudq.results.waiting import ALLOWED, RUNNING_IN, Promise, Wait, refuse_vain

R = TypeVar("R")

# Calls that run another task on many items.
_OF_MANY = frozenset({"cloudq.map", "cloudq.starmap"})


def _as_is(value: Any) -> Any:
    return value


class AsyncResult(ResultNames, Generic[R]):
    """A handle on one call of a task, by its id.

    Cheap: it holds no connection and asks the backend only when asked. `await result` gives the
    value in asyncio code.
    """

    # The result before this one in its chain, and the one before its group.
    parent: Any = None
    upstream: Any = None
    # Nothing of its end will be recorded, as far as its caller knows.
    ignored: bool = False
    promise: Promise | None = None
    # The mark that tells this call from earlier ones of its id, if the caller gave the id.
    call: str | None = None
    # Makes the values of a call that ran the task on many items whole: one of `map`, by its id.
    restore_each: Callable[[Any], Any] | None = None
    # Reads the value of one that is recorded nowhere.
    loads: Callable[[str], Any] = staticmethod(load_value)

    def __init__(
        self,
        id: str,
        backend: Backend | None,
        *,
        restore: Callable[[Any], R] = _as_is,
        task: str = "",
        actions: ResultActions | None = None,
    ) -> None:
        self.id = id
        self.task = task
        self._backend = backend
        self.actions = actions
        self.restore = restore
        self.final: Record | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __eq__(self, other: object) -> bool:
        """Tell whether it is a result of the same id, or that id."""
        if isinstance(other, AsyncResult):
            return cast("AsyncResult[Any]", other).id == self.id
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: OnEnd | None = None,
        on_message: Told | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Wait for the task and return its value.

        Raises what the task raised (its own class where that is known here, else `TaskFailure`),
        `TaskRevoked`, or `ResultTimeout` after `timeout` seconds; with `propagate=False` the
        exception is returned instead. `interval` is the longest pause between two looks, for
        stores that cannot wake their readers. Within a task it raises `WaitInTask` where that
        might wait for ever, unless `disable_sync_subtasks` is False.

        `callback` gets the id and the value, `on_message` what is recorded of the end, and
        `on_interval` is called while it waits. `no_ack` changes nothing, since no queue is read,
        nor does `follow_parents`: the failure of an earlier task of a chain ends the wait.
        """
        given = disable_sync_subtasks
        wait = partial(wait_for, [self], interval=interval, disable_sync_subtasks=given)
        told = on_interval is not None
        [record] = (
            told_between(wait, timeout, interval, on_interval) if told else wait(timeout=timeout)
        )
        if self._then:
            self.end_seen()
        if on_message is not None:
            self.tell(on_message)
        value = self._given(record, propagate)
        if callback is not None:
            callback(self.id, value)
        return value

    def __await__(self) -> Generator[Any, None, R]:
        return self._awaited().__await__()

    async def _awaited(self) -> R:
        """Wait without a thread of its own, and without blocking the event loop."""
        if self.final is not None:
            return self._given(self.final, propagate=True)
        if self.ignored or self.promise is not None:
            refuse_vain(self)
        before = _before(self)
        wait = _wait_of(allowed=False)
        try:
            while True:
                end = self.final or failed_of(before)
                if end is not None:
                    return self._given(end, propagate=True)
                watched = [one for one in (self, *before) if one.final is None]
                found = await ended_of(wait, self.backend, watched)
                for one in watched:
                    one.keep(found.get(one.id))
        finally:
            if wait is not None:
                wait.end()

    def _given(self, record: Record, propagate: bool) -> R:
        """Return the value of the record of its end; raise or return its exception."""
        if record.state == State.SUCCESS:
            text = record.value or "null"
            is_here = '{"$' not in text  # no part of it lies in a payload store
            large = None if is_here or self._backend is None else self._backend.large
            value = self.loads(text) if large is None else large.load(text)
            if self.restore_each is not None and record.task in _OF_MANY - {self.task}:
                return self.restore_each(value)
            try:
                return self.restore(value)
            except DecodeError as error:
                if record.task in ("", self.task):
                    raise
                raise DecodeError(
                    f"{self.id} is a call of {record.task} and not of {self.task}: read it with "
                    f"app.AsyncResult(id), or as a result of its own task ({error})"
                ) from error
        error = failure(record)
        if propagate:
            raise error
        return cast("R", error)

    @property
    def record(self) -> Record:
        """The stored record of the task; read again at each access until the task has ended."""
        if self.final is not None:
            return self.final
        return self.keep(self.backend.record(self.id))

    def keep(self, record: Record | None) -> Record:
        """Keep a terminal record, which never changes. No record counts as PENDING.

        So does the end of an earlier call of the same id.
        """
        found = record or Record(id=self.id, state=State.PENDING)
        if self.call is not None and is_before(found, self.call):
            found = Record(id=self.id, state=State.PENDING)
        if found.terminal:
            self.final = found
            if self._then:
                self.end_seen()
        return found

    @property
    def backend(self) -> Backend:
        if self._backend is None:
            raise ConfigurationError(
                "this app has no result backend: set CloudQ(backend=...) or CLOUDQ_BACKEND; "
                "`cloudq brokers` lists those installed"
            )
        return self._backend

    @property
    def state(self) -> str:
        """A `State`, or the name that the running task gave with `self.update_state`."""
        return self.record.shown

    status = state

    @property
    def result(self) -> R | BaseException | None:
        """The value or the exception of the task; None while there is neither."""
        return self.get(propagate=False) if self.ready() else None

    @property
    def traceback(self) -> str | None:
        return self.record.traceback

    @property
    def retries(self) -> int:
        return self.record.retries

    @property
    def info(self) -> Any:
        """The value or exception of an ended task, else the metadata of its state."""
        record = self.record
        if record.terminal:
            return self.result
        return load_value(record.meta) if record.meta else None

    @property
    def children(self) -> list[Any]:
        """The results of tasks started by this one: calls, callbacks, its chain's next step.

        Known once it has ended; a record keeps the first hundred ids.
        """
        text = self.record.children
        return self.actions.children(text) if text and self.actions is not None else []

    def collect(self, intermediate: bool = False) -> Generator[tuple[Any, Any]]:
        """Yield this result and all its descendants with their values, waiting for each.

        Raises what a task raised. With `intermediate`, what has not ended is passed over.
        """
        waiting: deque[Any] = deque([self])
        while waiting:
            result = waiting.popleft()
            if intermediate and not result.ready():
                continue
            yield result, result.get()
            waiting.extend(result.children)

    def as_tuple(self) -> tuple[Any, ...]:
        """Return its id and those of its parents in Celery's form: `((id, parent), None)`."""
        return paired(self)

    def member_tuples(self) -> None:
        """Return None: one task has no members."""

    @property
    def date_done(self) -> datetime | None:
        finished = self.record.finished_at
        return datetime.fromtimestamp(finished, UTC) if finished else None

    def ready(self) -> bool:
        return self.record.state in TERMINAL

    def successful(self) -> bool:
        return self.record.state == State.SUCCESS

    def failed(self) -> bool:
        return self.record.state == State.FAILURE

    def revoke(
        self,
        *,
        terminate: bool = False,
        signal: Signal = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> bool:
        """Keep the task from being started; False when it has ended already.

        Of a chain or a chord, all that is before its end and has not ended is revoked too. A task
        that is running goes on, or with `terminate` is ended: the workers are told to, and with
        `wait` this returns when they have replied (after `timeout` seconds at the latest; left
        out, a pause between heartbeats). `signal` is SIGTERM or another that ends a process.
        One that waits for its time is taken back where the broker can: it has ended then; else it
        ends when it is received. Raises `ConfigurationError` for another signal.
        """
        termination = Termination.of(signal, wait=wait, timeout=timeout)
        tell = actions_of(self).terminate if terminate else None
        revoked = self.revoke_all()
        if tell is not None and revoked:
            tell(revoked, termination)
        return bool(revoked)

    def revoke_all(self) -> list[str]:
        """Revoke it and its parents without telling workers; return the ids that had not ended."""
        return revoked_of(self)

    def revoke_own(self, marked: Record | None = None) -> list[str] | None:
        """Revoke this call alone; return its id, None if it has ended.

        `marked` is its record where it has been marked as revoked already.
        """
        record = marked or self.backend.revoke(self.id) or self._revoked_anew()
        if record is None:
            return None
        waiting = record.scheduled
        if waiting and self.actions is not None and self.actions.take_back(self.id, waiting):
            ended = replace(
                record,
                state=State.REVOKED,
                error="revoked",
                finished_at=self.backend.clock(),
                scheduled=None,
            )
            if self.backend.advance(ended) is None:
                self.backend.note(ended)
        return [self.id]

    def _revoked_anew(self) -> Record | None:
        """Mark this call as revoked where the end of an earlier one of its id is recorded."""
        if self.call is None:
            return None
        record = Record(id=self.id, state=State.PENDING, call=self.call)
        return self.backend.revoke(self.id) if self.backend.advance(record) is None else None

    def end_unrecorded(self) -> Record | None:
        """Return the end that an ignored call counts as having, None where a wait is refused."""
        return None

    def forget(self) -> None:
        """Delete the record."""
        self.backend.forget(self.id)
        self.final = None


def _is_result(given: object) -> bool:
    return isinstance(given, AsyncResult)


def wait_for(
    results: Sequence[AsyncResult[Any]],
    *,
    timeout: float | None = None,
    interval: float | None = None,
    disable_sync_subtasks: bool = True,
) -> list[Record]:
    """Wait until all have ended; their records in the same order.

    Raises `ResultTimeout`, and as `AsyncResult.get` `WaitInTask`; `InvalidArguments` for ids.
    Any number of results costs one batched read a look. Where the store wakes its readers a look
    is taken when something was written, and each second besides.
    """
    given: Any = results
    if not hasattr(given, "__iter__") or not all(map(_is_result, given)):
        raise InvalidArguments(
            f"wait_for was given {given!r:.100}: give results, as [task.delay()]"
        )
    ended = {result.id: result.final for result in results if result.final is not None}
    before = {result.id: found for result in results if (found := _before(result))}
    for result in results:
        if result.final is not None:
            continue
        end = result.end_unrecorded() if result.ignored else None
        if end is not None:
            ended[result.id] = end
        elif result.ignored or result.promise is not None:
            refuse_vain(result)
    waiting = deque(result for result in results if result.id not in ended)
    if not waiting:
        return [ended[result.id] for result in results]
    promised = [result for result in waiting if result.promise is not None]
    timeout = patience(timeout)
    longest = inf if interval is None else seconds(interval, "interval")
    wait = _wait_of(allowed=not disable_sync_subtasks, ends=timeout is not None)
    wait_for_all(waiting, before, ended, promised, timeout=timeout, longest=longest, wait=wait)
    return [ended[result.id] for result in results]


def _before(result: AsyncResult[Any]) -> deque[AsyncResult[Any]]:
    """Return the results of the tasks that must succeed before this one starts, in their order."""
    found: deque[AsyncResult[Any]] = deque()
    parent = result.parent or result.upstream
    while parent is not None:
        if isinstance(parent, AsyncResult):
            found.appendleft(cast("AsyncResult[Any]", parent))
        parent = parent.parent or parent.upstream
    return found


def _wait_of(*, allowed: bool, ends: bool = False) -> Wait | None:
    """Return the wait of the running task; None outside of tasks, where anybody may wait."""
    if RUNNING_IN.get() is None and ALLOWED.get() is None:
        return None
    return Wait(allowed=allowed, ends=ends)
