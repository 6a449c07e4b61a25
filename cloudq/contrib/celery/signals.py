"""cloudq's signals under the names of `celery.signals`; missing ones raise the reason."""

from __future__ import annotations

from typing import Any

from cloudq import signals
from cloudq.contrib.celery.logging_signals import (
    after_setup_logger,
    after_setup_task_logger,
    setup_logging,
)

__all__ = ["after_setup_logger", "after_setup_task_logger", "setup_logging"]

_BEAT = "connect to the app's on_after_configure; a beat has no state that a program could change"
_OTHERS = "only threads, processes and greenlets of the worker's own run tasks"

# Celery's signals without a counterpart, and why.
REFUSED = {
    "beat_init": _BEAT,
    "beat_embedded_init": _BEAT,
    "celeryd_init": "use worker_init",
    "celeryd_after_setup": "use worker_ready; queues are named with -Q",
    "eventlet_pool_apply": _OTHERS,
    "eventlet_pool_postshutdown": _OTHERS,
    "eventlet_pool_preshutdown": _OTHERS,
    "eventlet_pool_started": _OTHERS,
    "heartbeat_sent": "a heartbeat is a write to the result store: see `cloudq status`",
    "import_modules": "name modules in include, or app.autodiscover_tasks()",
    "task_internal_error": "what the store refuses is logged, and the message comes back",
    "task_sent": "use after_task_publish",
    "user_preload_options": "the command line takes no more options",
    "worker_before_create_process": "use worker_process_init, in the new process",
}


def __getattr__(name: str) -> Any:
    if name in REFUSED:
        raise ImportError(f"cloudq has no signal {name}: {REFUSED[name]}")
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(signals, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
