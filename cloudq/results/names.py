"""The names of Celery's results that results here have beside their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from math import inf
from time import monotonic
from typing import Any, TypeVar

from cloudq.amounts import seconds
from cloudq.errors import ResultTimeout
from cloudq.results.lineage import parents_of

T = TypeVar("T")

OnEnd = Callable[[str, Any], object]
"""Called with the id and the value of a task that has ended."""
Told = Callable[[Mapping[str, Any]], object]
"""Called with what is known of a task: `task_id`, `status`, `result`, `traceback`, `children`."""

STEP = 0.5
"""Seconds between two calls of `on_interval`, unless the caller says otherwise."""


class ResultNames:
    """The names that programs know from Celery, of the result of one call."""

    id: str
    record: Any
    final: Any
    get: Callable[..., Any]
    ready: Callable[[], bool]
    # Called once the end is known, until then kept here.
    _then: tuple[tuple[Callable[[Any], object], Callable[[Any], object] | None], ...] = ()

    def __str__(self) -> str:
        return self.id

    @property
    def task_id(self) -> str:
        """The same as `id`."""
        return self.id

    @property
    def name(self) -> str | None:
        """The name of the task; None while it is not known."""
        return self.record.task or getattr(self, "task", None) or None

    @property
    def worker(self) -> str | None:
        """The worker that runs or ran the call; None while none has."""
        return self.record.worker

    @property
    def queue(self) -> str | None:
        """The queue that the call was received from; None while it was not."""
        return self.record.queue

    @property
    def args(self) -> None:
        """None: the store keeps no arguments."""

    @property
    def kwargs(self) -> None:
        """None: the store keeps no arguments."""

    @property
    def supports_native_join(self) -> bool:
        """True: many results are read together."""
        return True

    def as_any(self) -> Any:
        """Return this result, of which this file knows only the names."""
        return self

    def exists(self) -> bool:
        """Tell whether anything of the call is recorded."""
        found = self.as_any()
        return found.final is not None or found.backend.record(self.id) is not None

    def wait(self, *args: Any, **options: Any) -> Any:
        """Wait for the value, as `get`."""
        return self.get(*args, **options)

    def get_leaf(self) -> Any:
        """Return the value of the last descendant, waiting for each."""
        value = None
        for _, result in self.iterdeps():
            value = result.get()
        return value

    def iterdeps(self, intermediate: bool = False) -> Generator[tuple[Any, Any]]:
        """Yield this result and all its descendants, each after what started it.

        Raises `IncompleteStream` where one has not ended, unless `intermediate`.
        """
        waiting: deque[tuple[Any, Any]] = deque([(None, self)])
        while waiting:
            parent, result = waiting.popleft()
            yield parent, result
            if not result.ready():
                if intermediate:
                    continue
                result.get(propagate=False)
            waiting.extend((result, child) for child in result.children or ())

    def as_list(self) -> list[str]:
        """Return its id and those of the results before it, the nearest first."""
        return [self.id, *(each.id for each in parents_of(self))]

    def maybe_throw(self, propagate: bool = True, callback: OnEnd | None = None) -> Any:
        """Return the value if there is one by now, None if there is none; raise the exception.

        With `propagate=False` the exception is returned.
        """
        value = self.get(0, propagate) if self.ready() else None
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def then(
        self,
        callback: Callable[[Any], object],
        on_error: Callable[[Any], object] | None = None,
        weak: bool = False,
    ) -> Any:
        """Call `callback` with this result once its end is seen here, at once if it has been.

        Nothing is waited for: an end is seen where the program asks for it, by `get` or `ready`.
        `on_error` gets what the callback raised.
        """
        self._then = (*self._then, (callback, on_error))
        if self.final is not None or self.ready():
            self.end_seen()
        return self

    def end_seen(self) -> None:
        """Call what waits for the end, each once."""
        waiting, self._then = self._then, ()
        for callback, on_error in waiting:
            try:
                callback(self)
            except Exception as error:
                if on_error is None:
                    raise
                on_error(error)

    def tell(self, on_message: Told) -> None:
        """Call `on_message` with what is recorded of the end."""
        record, found = self.record, self.as_any()
        on_message(
            {
                "task_id": self.id,
                "status": record.shown,
                "result": self.get(0, False),
                "traceback": record.traceback,
                "children": [child.as_tuple() for child in found.children],
            }
        )


def told_between(
    wait: Callable[..., T],
    timeout: float | None,
    interval: float | None,
    on_interval: Callable[[], object] | None,
) -> T:
    """Wait, and call `on_interval` each time an interval has passed before the end."""
    if on_interval is None:
        return wait(timeout=timeout)
    until = inf if timeout is None else monotonic() + seconds(timeout, "timeout")
    while True:
        left = max(until - monotonic(), 0)
        try:
            return wait(timeout=min(left, interval or STEP))
        except ResultTimeout:
            if not left:
                raise
            on_interval()


class SetNames:
    """The names that programs know from Celery, of results that are waited for together."""

    results: list[Any]
    get: Callable[..., Any]
    ready: Callable[[], bool]
    leaves: Callable[[], list[Any]]
    add: Callable[[Any], None]

    @property
    def supports_native_join(self) -> bool:
        """True: many results are read together."""
        return True

    def update(self, results: Iterable[Any]) -> None:
        """Take in more results, those that are not there."""
        for result in results:
            self.add(result)

    def discard(self, result: Any) -> None:
        """Remove a result, given itself or by its id, if it is in the set."""
        if result in self.results:
            self.results.remove(result)

    def clear(self) -> None:
        """Remove all results."""
        self.results.clear()

    def join(self, *args: Any, **options: Any) -> list[Any]:
        """Wait for all, as `get`."""
        return self.get(*args, **options)

    join_native = join

    def iter_native(
        self, timeout: float | None = None, *args: Any, **options: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the id and what is recorded of each task, once all have ended."""
        self.get(timeout, False, *args, **options)
        for leaf in self.leaves():
            told: list[Mapping[str, Any]] = []
            leaf.tell(told.append)
            yield leaf.id, dict(told[0])

    def maybe_throw(self, propagate: bool = True, callback: OnEnd | None = None) -> None:
        """Raise what the first failed one of those that have ended raised."""
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    def then(
        self,
        callback: Callable[[Any], object],
        on_error: Callable[[Any], object] | None = None,
        weak: bool = False,
    ) -> Any:
        """Call `callback` with this set once the end of all has been seen here."""
        open_ones = {leaf.id for leaf in self.leaves()}

        def seen(leaf: Any) -> None:
            open_ones.discard(leaf.id)
            if not open_ones:
                callback(self)

        for leaf in self.leaves():
            leaf.then(seen, on_error)
        return self
