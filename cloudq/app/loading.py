"""From `module:attribute` to an app."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from cloudq.app import CloudQ
from cloudq.errors import ConfigurationError, did_you_mean
from cloudq.settings.sources import WrongSource
from cloudq.text import text_of


def load_app(path: str, overrides: Mapping[str, Any] | None = None) -> CloudQ:
    """Import an app, `shop.tasks:app` or, where a module has just one, `shop.tasks`.

    `overrides` are settings above the app's own, but that their `include` adds to it. The modules
    in its `include` are imported too.
    Raises `ConfigurationError`, caused by the import's own error where there was one.
    """
    module_name, _, attribute = path.partition(":")
    try:
        module = import_module(module_name)
    except (KeyboardInterrupt, WrongSource):  # of the latter the module is right
        raise
    except BaseException as error:  # the user's code runs at import, and may call sys.exit
        raise ConfigurationError(_why(module_name, error)) from error
    apps = {name: value for name, value in vars(module).items() if isinstance(value, CloudQ)}
    if attribute:
        if attribute not in apps:
            found = f"it has {', '.join(apps)}" if apps else "it has none"
            raise ConfigurationError(f"no app {attribute!r} in {module_name}: {found}")
        app = apps[attribute]
    elif len({id(app) for app in apps.values()}) == 1:
        app = next(iter(apps.values()))
    else:
        found = ", ".join(f"{module_name}:{name}" for name in apps)
        raise ConfigurationError(
            f"{module_name} has more than one app, say which: {found}"
            if apps
            else f"{module_name} has no CloudQ app in it: name the module that calls CloudQ(...)"
        )
    if overrides:
        app.configure(**_added(app, overrides))
    app.load()
    app.set_default()
    return app


def _added(app: CloudQ, overrides: Mapping[str, Any]) -> dict[str, Any]:
    if "include" not in overrides:
        return dict(overrides)
    both = [*app.conf.include, *overrides["include"]]
    return {**overrides, "include": list(dict.fromkeys(both))}


def failed(error: BaseException) -> str:
    """Return how the import of a user's module failed, as the end of a sentence."""
    if isinstance(error, SystemExit):
        return (
            f"it ends the program (SystemExit: {error.code}): leave that to what stands under "
            'if __name__ == "__main__"'
        )
    return f"{type(error).__name__}: {text_of(error)}"


def _why(module: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        hint = _near_module(error.name or "") or "is the current directory the project's?"
        return f"there is no module {error.name!r} here, in {Path.cwd()}: {hint}"
    return f"importing {module} failed: {failed(error)}"


def _near_module(name: str) -> str | None:
    """Ask whether a module of the current directory is meant, if one has nearly this name."""
    here = Path.cwd()
    modules = [path.stem for path in here.glob("*.py")]
    packages = [path.parent.name for path in here.glob("*/__init__.py")]
    names = [found for found in sorted((*modules, *packages)) if found.isidentifier()]
    return did_you_mean(name, names) or None
