"""Tells for each module and name of Celery's that there is not why, when it is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

HERE = "cloudq.contrib.celery"

_PARTS = "parts of the app cannot be exchanged: derive a class from Celery, or use middleware"
_LOGGING = "the library configures no logging, and a worker logs with --log-level and --log-format"
_TOOLS = "Celery's own tools are not carried over: take those of Python's library"
_WORKER = "a worker's parts cannot be exchanged: use signals, middleware, or control commands"
_TEST = "tests have the fixtures of cloudq.contrib.celery.pytest, and start_worker"

MODULES = {
    "__main__": "run `cloudq celery`",
    "_state": "the current app and task are current_app and current_task of cloudq.contrib.celery",
    "app": _PARTS,
    "app.amqp": "queues are the cloud's: name them with queue= and in task_routes",
    "app.backends": "the result store is named by result_backend",
    "app.defaults": "settings and their defaults are those of app.conf",
    "app.events": "events are recorded: see `cloudq events` and `cloudq tasks list`",
    "app.log": f"{_LOGGING}; the running task is current_task of cloudq.contrib.celery",
    "app.registry": "app.tasks is a plain dictionary",
    "app.routes": "write a router as a function, in task_routes",
    "app.trace": "a task is run by the worker; in a test call it, or use task.apply()",
    "apps": "run `cloudq worker -A module:app`, or `cloudq beat -A module:app`",
    "backends": "the result store is one of cloudq's, named by result_backend",
    "beat": "beats keep their state in the result store: `cloudq beat`, and `cloudq schedules` "
    "to change schedules while they run",
    "bin": "`cloudq celery` is no library: write a command of your own with a program of your own",
    "bootsteps": _WORKER,
    "concurrency": "a pool is named with --pool, and cannot be exchanged",
    "contrib.abortable": "stop a task with result.revoke(terminate=True), or have it look at a "
    "flag of your own",
    "contrib.migrate": "run `cloudq migrate`",
    "contrib.rdb": "run `cloudq worker --pool solo`, and call breakpoint()",
    "contrib.sphinx": "tasks have the docstring and the signature of their functions",
    "contrib.testing": _TEST,
    "events": "events are recorded: see `cloudq events` and `cloudq tasks list`",
    "fixups": "cloudq.contrib.django cares for Django",
    "loaders": "there are no loaders: an app imports what include names, and its tasks' modules "
    "with app.autodiscover_tasks()",
    "local": _TOOLS,
    "platforms": "`cloudq celery` detaches, and writes the pid's file, as its options say",
    "security": "messages are signed with the setting signing_keys",
    "utils": _TOOLS,
    "worker": _WORKER,
    "worker.state": "app.control.inspect() tells what workers run and have revoked",
}
"""Celery's modules that there are not, with those below them, and why."""


def _each(names: str, why: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), why)


NAMES = {
    "app": {
        "AppPickler": "an app is not pickled: each process imports it",
        "disable_trace": "there are no traces of apps",
        "enable_trace": "there are no traces of apps",
        "pop_current_task": "tests use task.push_request and task.pop_request",
        "push_current_task": "tests use task.push_request and task.pop_request",
    },
    "canvas": {
        "StampingVisitor": "a call carries headers, and no stamps: give headers={...}",
        "abstract": "derive no classes of signatures: compose group, chain and chord",
    },
    "contrib.testing.worker": {
        "setup_app_for_worker": _TEST,
        "test_worker_started": _TEST,
        "test_worker_starting": _TEST,
        "test_worker_stopped": _TEST,
    },
    "schedules": {
        "crontab_parser": "times are asked of `cloudq schedules`",
    },
    "utils": {
        **_each("get_cls_by_name get_full_cls_name import_from_cwd instantiate memoize", _TOOLS),
        "worker_direct": "name a queue for each worker with -Q",
    },
    "utils.log": {
        **_each("ColorFormatter LoggingProxy set_in_sighandler in_sighandler", _LOGGING),
        **_each("get_multiprocessing_logger reset_multiprocessing_logger", _LOGGING),
    },
    "worker.control": {"Panel": "decorate commands with control_command and inspect_command"},
}
"""Names that the modules that there are have not, and why."""


def why_no_module(module: str) -> str | None:
    """Return the reason why there is no module of this name, below Celery's; None for unknown."""
    parts = module.split(".")
    known = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((MODULES[name] for name in known if name in MODULES), None)


class _Missing(MetaPathFinder):
    """Is asked for modules that no other finder has: says why one of Celery's is not here."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise `ImportError` for a module of Celery's that there is not."""
        home, found, module = fullname.partition(f"{HERE}.")
        why = why_no_module(module) if found and not home else None
        if why is None:
            return None
        raise ImportError(f"cloudq has no celery.{module}: {why}", name=fullname)


def names_of(module: str, name: str) -> NoReturn:
    """Raise `ImportError` for a name of Celery's that a module has not, with the reason.

    Raises `AttributeError` for any other name.
    """
    why = NAMES[module.removeprefix(f"{HERE}.")].get(name)
    if why is not None:
        raise ImportError(f"cloudq has no {name}: {why}", name=module)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def install() -> None:
    """Have imports of Celery's modules that there are not say why."""
    if not any(isinstance(finder, _Missing) for finder in sys.meta_path):
        sys.meta_path.append(_Missing())
