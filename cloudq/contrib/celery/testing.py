"""The names of `celery.contrib.testing.worker`: a worker in a thread of the test's process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from cloudq.app import CloudQ
from cloudq.errors import ConfigurationError
from cloudq.testing.kit.workers import Worker

# What a worker of tests has no use for: it says nothing, and answers as soon as it has started.
_NEEDLESS = frozenset(
    {"perform_ping_check", "ping_task_timeout", "loglevel", "logfile", "hostname", "optimization"}
    | {"without_heartbeat", "without_mingle", "without_gossip", "send_events", "task_events"}
    | {"prefetch_multiplier", "quiet", "heartbeat_interval"}
)


class TestWorker(Worker):
    """A worker of tests with the methods of Celery's."""

    __test__ = False  # no test of pytest's
    hostname = "test@localhost"

    def reload(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,
        reloader: Callable[[ModuleType], Any] | None = None,
    ) -> None:
        """Import modules, by default those of the app; with `reload` those again that there are.

        Tasks that are declared while the worker runs need no reload.
        """
        if modules is None:
            self.app.load()
        for name in modules or ():
            known = sys.modules.get(name)
            if known is None:
                importlib.import_module(name)
            elif reload:
                (reloader or importlib.reload)(known)

    def ensure_started(self) -> None:
        """Do nothing: it has started."""


@contextmanager
def start_worker(
    app: CloudQ,
    concurrency: int = 1,
    pool: str = "solo",
    *,
    queues: Sequence[str] | str | None = None,
    shutdown_timeout: float = 10.0,
    **others: Any,
) -> Generator[TestWorker]:
    """Run a worker of an app in threads, `concurrency` many, until the block ends.

    Raises `ConfigurationError` for an option that it has no counterpart of.
    """
    unknown = others.keys() - _NEEDLESS
    if unknown:
        raise ConfigurationError(
            f"start_worker: the worker of tests has no {min(unknown)}: it takes queues, "
            "concurrency and shutdown_timeout; test all else with `cloudq worker`"
        )
    if pool not in ("solo", "threads", "prefork", "processes"):
        raise ConfigurationError(
            f"start_worker: the worker of tests has threads alone, and no pool {pool!r}"
        )
    named = queues.split(",") if isinstance(queues, str) else queues
    app.load()
    worker = TestWorker(app, queues=named, threads=concurrency)
    worker.start()
    try:
        yield worker
    except BaseException:
        with suppress(Exception):  # what the block raised says more
            worker.stop(shutdown_timeout)
        raise
    worker.stop(shutdown_timeout)
