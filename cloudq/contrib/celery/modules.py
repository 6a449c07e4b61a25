"""Tells of Celery's modules that are not here where to find their names, or why there are none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ROOT = "cloudq.contrib.celery."

_STORE = "the result store is one of cloudq's, by its URL in result_backend"
_PARTS = "parts of the worker cannot be exchanged: use signals or middleware"
_APP = "import its names from cloudq.contrib.celery"

# Celery's modules, with all below them, and what to import or to do instead.
NOT_HERE = {
    "_state": "import current_app and current_task from cloudq.contrib.celery",
    "app": _APP,
    "app.amqp": "queues are the cloud's: see `cloudq queues`, and task_routes",
    "app.control": "app.control and app.control.inspect() are made by the app",
    "app.log": "the library configures no logging: do it in the app's module",
    "app.trace": "run a task with task.apply(), or with cloudq.testing",
    "apps": "run `cloudq worker -A module:app`",
    "backends": _STORE,
    "beat": "schedules that change at run time are in the result store: see `cloudq schedules`",
    "bin": "the command line is `cloudq celery ...`; it takes no more options",
    "bootsteps": _PARTS,
    "concurrency": "a worker's pool is named by worker_pool, or with --pool",
    "contrib": "start_worker is in cloudq.contrib.celery.testing, fixtures are in "
    "cloudq.contrib.celery.pytest; app.control.revoke(id, terminate=True) ends a running task, "
    "each task has delay_on_commit, and `cloudq migrate` moves queued tasks",
    "events": "events are recorded: see `cloudq events`, `cloudq tasks` and signals",
    "fixups": "cloudq.contrib.django cares for Django",
    "loaders": "there are no loaders: an app loads its own modules, include=[...]",
    "local": "objects stand for themselves: there are no proxies",
    "platforms": "`cloudq celery worker` and `multi` take --detach, --uid, --pidfile and the like",
    "security": "messages are signed with the setting signing_keys",
    "utils": "import get_task_logger and uuid from cloudq.contrib.celery; its other helpers are "
    "Celery's own",
    "worker": _PARTS,
    "worker.state": "app.control.inspect() tells what workers run and have revoked",
}


class CelerysModules(MetaPathFinder):
    """Raises `ModuleNotFoundError` for a module that only Celery has, with the reason."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None for a module that is not Celery's either."""
        if not fullname.startswith(_ROOT):
            return None
        name = above = fullname.removeprefix(_ROOT)
        while above and above not in NOT_HERE:
            above = above.rpartition(".")[0]
        if not above:
            return None
        # Without a name of its own the error is not taken for an attribute that is missing.
        raise ModuleNotFoundError(f"cloudq has no celery.{name}: {NOT_HERE[above]}")


def tell_of_modules() -> None:
    """Look for modules here last of all, when no other finder knows them."""
    if not any(isinstance(finder, CelerysModules) for finder in sys.meta_path):
        sys.meta_path.append(CelerysModules())
