"""The options that every command has, and the app that they lead to."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from cloudq.app import CloudQ
from cloudq.app.loading import load_app
from cloudq.errors import ConfigurationError

P = ParamSpec("P")

_PANEL = "Which app and where"

AppOption = Annotated[
    str | None,
    typer.Option(
        "-A",
        "--app",
        metavar="MODULE[:NAME]",
        help="The app, as in shop.tasks:app; else CLOUDQ_APP.",
        rich_help_panel=_PANEL,
    ),
]
BrokerOption = Annotated[
    str | None,
    typer.Option(
        "-b", "--broker", metavar="URL", help="In place of the app's.", rich_help_panel=_PANEL
    ),
]
BackendOption = Annotated[
    str | None,
    typer.Option("--backend", metavar="URL", help="In place of the app's.", rich_help_panel=_PANEL),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks.", rich_help_panel=_PANEL)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a command acts on: an app by its path, and URLs in place of the app's own."""

    app: str | None = None
    broker: str | None = None
    backend: str | None = None

    def over(self, other: Target) -> Target:
        """This target, with `other` where it leaves something open."""
        names = [field.name for field in fields(self)]
        return Target(**{name: getattr(self, name) or getattr(other, name) for name in names})

    @property
    def path(self) -> str | None:
        """`module:attribute` of the app, from the option or the environment."""
        return self.app or os.environ.get("CLOUDQ_APP") or None

    @property
    def overrides(self) -> dict[str, str]:
        """The settings that stand above the app's own."""
        given = {"broker": self.broker, "backend": self.backend}
        return {name: value for name, value in given.items() if value is not None}

    def open(self) -> CloudQ:
        """The app, or one without tasks where none is named. Raises `ConfigurationError`."""
        if self.path is None:
            return CloudQ(broker=self.broker, backend=self.backend)
        return self.load()

    def load(self) -> CloudQ:
        """The app with its tasks. Raises `ConfigurationError` also when none is named."""
        if self.path is None:
            raise ConfigurationError(
                "which app? say -A module:attribute (as in -A shop.tasks:app) or set CLOUDQ_APP"
            )
        _check_path(self.path)
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            return load_app(self.path, self.overrides)
        except ConfigurationError as error:
            place = _place(error.__cause__)
            raise ConfigurationError(f"{error}{place}") from (error.__cause__ or error)
        except Exception as error:  # the modules in `include` are the user's, too
            raise ConfigurationError(
                f"loading {self.path} failed: {type(error).__name__}: {error}{_place(error)}"
            ) from error


def common(function: Callable[Concatenate[Target, P], Any]) -> Callable[..., Any]:
    """Give a command the options of every command; it gets them as a `Target`."""
    signature = inspect.signature(function, eval_str=True)
    options = inspect.signature(_options, eval_str=True).parameters
    own = list(signature.parameters.values())[1:]

    @wraps(function)
    def run(
        *args: Any,
        context: typer.Context,
        app: str | None,
        broker: str | None,
        backend: str | None,
        debug: bool,
        **kwargs: Any,
    ) -> Any:
        given = Target(app=app, broker=broker, backend=backend)
        return function(given.over(context.obj), *args, **kwargs)

    parameters = [
        parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in (*own, *options.values())
    ]
    # typer reads the options off the signature, and their types off the annotations.
    run.__dict__["__signature__"] = signature.replace(parameters=parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__dict__["__wrapped__"]
    return run


def _options(
    context: typer.Context,
    app: AppOption = None,
    broker: BrokerOption = None,
    backend: BackendOption = None,
    debug: DebugOption = False,
) -> None:
    """Only its signature is of use."""


def refuse_memory(app: CloudQ) -> None:
    """Raise `ConfigurationError` for a broker or a backend that ends with this very command."""
    urls = (app.conf.broker, app.conf.backend_url)
    inside = next((url for url in urls if url is not None and url.startswith("memory:")), None)
    if inside is not None:
        raise ConfigurationError(
            f"{inside} lives and dies within one process, so no worker would share it with this "
            "command: use a file, as -b sqlite:///cloudq.db"
        )


def chosen_queues(target: Target, app: CloudQ, given: Sequence[str] | None) -> list[str]:
    """The queues given, else the app's; without an app, all those of an embedded broker."""
    if given:
        return list(given)
    default = app.queues()
    if target.path is not None or app.broker.limits(default[0]).billed:
        return default
    with app.broker.asking("list the queues", "*") as admin:
        return list(admin.list()) or default


def _check_path(path: str) -> None:
    module = path.partition(":")[0]
    if module.endswith(".py") or "/" in module:
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigurationError(f"{module} is a file: name its module, as in -A {dotted}")
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigurationError(f"{module!r} is not a module's name: say -A module:attribute")


def _place(error: BaseException | None) -> str:
    """Where in the user's own files an import failed."""
    if error is None or isinstance(error, SyntaxError):
        return ""  # the message of a SyntaxError has the place
    import_files = (import_module.__code__.co_filename, "<frozen importlib._bootstrap>")
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (*import_files, __file__, load_app.__code__.co_filename)
        and not frame.filename.startswith("<frozen")
    ]
    if not own:
        return ""
    file = Path(own[-1].filename)
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    return f" ({shown}, line {own[-1].lineno})"
