"""`app.loader`: the imports of an app's modules under the names of Celery's loader."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

# Celery's methods of a loader without a counterpart, and why.
_EVENTS = (
    "init_worker init_worker_process on_process_cleanup on_task_init on_worker_init "
    "on_worker_process_init on_worker_shutdown shutdown_worker"
)
_SETTINGS = "cmdline_config_parser conf config_from_object read_configuration"
REFUSED: dict[str, str] = {
    **dict.fromkeys(_EVENTS.split(), "connect to signals: worker_init, worker_process_init ..."),
    **dict.fromkeys(_SETTINGS.split(), "settings are the app's: app.config_from_object, app.conf"),
}


class Loader:
    """Imports the modules of an app: those of `include`, and those with its tasks."""

    def __init__(self, load: Callable[[], None]) -> None:
        self._load = load

    def import_default_modules(self) -> None:
        """Import all modules of the app, as a worker does."""
        self._load()

    def import_module(self, module: str, package: str | None = None) -> ModuleType:
        """Import a module by its name."""
        return import_module(module, package)

    def import_task_module(self, module: str) -> ModuleType:
        """Import a module with tasks by its name."""
        return import_module(module)

    import_from_cwd = import_task_module

    def __getattr__(self, name: str) -> Any:
        why = f": {REFUSED[name]}" if name in REFUSED else ""
        raise AttributeError(f"app.loader has no {name}{why}")
