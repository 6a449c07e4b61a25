"""The options shared by all commands, and loading the app that they name."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import wraps
from importlib import import_module
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from cloudq.amounts import shown
from cloudq.app import CloudQ
from cloudq.app.loading import failed, load_app
from cloudq.cli.finding import Found, app_of
from cloudq.cli.output import note
from cloudq.clock import patience
from cloudq.driver.loader import missing_file
from cloudq.errors import ConfigurationError, near

P = ParamSpec("P")

_MOST = 10**12
_PANEL = "App and services"
_CLOUDQ = Path(__file__).parents[1]

AppOption = Annotated[
    str | None,
    typer.Option(
        "-A",
        "--app",
        metavar="MODULE[:NAME]",
        help="The app, such as shop.tasks:app. Default: CLOUDQ_APP, [tool.cloudq] app of "
        "pyproject.toml, tasks.py or app.py.",
        rich_help_panel=_PANEL,
    ),
]
BrokerOption = Annotated[
    str | None,
    typer.Option(
        "-b",
        "--broker",
        metavar="URL",
        help="Use this broker instead of the app's.",
        rich_help_panel=_PANEL,
    ),
]
BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="URL",
        help="Use this result backend instead of the app's.",
        rich_help_panel=_PANEL,
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_PANEL)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The app that a command acts on, by its path, and URLs that replace the app's own.

    So do the `settings`, which no option gives but those of Celery's command line.
    """

    app: str | None = None
    broker: str | None = None
    backend: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def over(self, other: Target) -> Target:
        """Return this target, with the values of `other` where it has none."""
        names = [field.name for field in fields(self)]
        return Target(**{name: getattr(self, name) or getattr(other, name) for name in names})

    @property
    def path(self) -> str | None:
        """The app's `module:attribute`: the option's, the environment's, or the folder's."""
        found = self._found
        return self._named or (found.path if found is not None else None)

    @property
    def opened(self) -> str | None:
        """The path of the app that `open` loads; None if it makes one without tasks."""
        found = self._found
        guessed = found is not None and found.is_guessed
        return None if guessed and self.broker is not None else self.path

    @property
    def _named(self) -> str | None:
        return self.app or os.environ.get("CLOUDQ_APP") or None

    @property
    def _found(self) -> Found | None:
        return None if self._named else app_of(Path.cwd())

    @property
    def words(self) -> str:
        """The options that name this target, with a space before each, for advice to copy."""
        given = {"-A": self.app, "-b": self.broker, "--backend": self.backend}
        return "".join(f" {name} {quote(value)}" for name, value in given.items() if value)

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings that override the app's own."""
        given = {"broker": self.broker, "backend": self.backend}
        urls = {name: value for name, value in given.items() if value is not None}
        return {**self.settings, **urls}

    def open(self) -> CloudQ:
        """Load the app, or make one without tasks if there is none. Raises `ConfigurationError`.

        With a broker the command needs no app, so none is guessed.
        """
        path = self.opened
        if path is None:
            return CloudQ(broker=self.broker, backend=self.backend)
        return self._load(path)

    def load(self) -> CloudQ:
        """Load the app with its tasks. Raises `ConfigurationError`, also when none is named."""
        path, found = self.path, self._found
        if path is None:
            raise ConfigurationError(
                "no app given: use -A MODULE:NAME, such as -A shop.tasks:app, or set CLOUDQ_APP; a "
                "tasks.py or app.py that makes one is found by itself"
            )
        if found is not None and found.is_guessed:
            note(f"using the app in {found.file} (-A names another)")
        return self._load(path)

    def _load(self, path: str) -> CloudQ:
        _check_path(path)
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            return load_app(path, self.overrides)
        except ConfigurationError as error:
            place = _place(error.__cause__)
            raise ConfigurationError(f"{error}{place}") from (error.__cause__ or error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # of the user's modules, those in `include` too
            raise ConfigurationError(
                f"loading {path} failed: {failed(error)}{_place(error)}"
            ) from error


def common(function: Callable[Concatenate[Target, P], Any]) -> Callable[..., Any]:
    """Add the shared options to a command, which receives them as a `Target`."""
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
        for name, value in kwargs.items():
            _check_number(name, value)
        return function(given.over(context.obj), *args, **kwargs)

    parameters = [
        parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in (*own, *options.values())
    ]
    # typer reads the options from the signature, and their types from the annotations.
    run.__dict__["__signature__"] = signature.replace(parameters=parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__dict__["__wrapped__"]
    run.__doc__ = _paragraphs(function)
    return run


# Options that are fractions of numbers and not of seconds.
_COUNTS = frozenset({"reads"})


def _check_number(name: str, value: Any) -> None:
    """Refuse the numbers that typer lets through and that no command can use."""
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, float):
        if patience(value, option) is None and name != "wait":
            asked = "a number" if name in _COUNTS else "seconds, a century at most"
            raise ConfigurationError(f"{option} is {value:g}: give {asked}")
    elif isinstance(value, int) and value > _MOST:
        raise ConfigurationError(f"{option} is {shown(value)}: it must be {_MOST:,} at most")


def _paragraphs(function: Callable[..., Any]) -> str:
    """Return a docstring with each paragraph on one line: typer would keep its line breaks."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _options(
    context: typer.Context,
    app: AppOption = None,
    broker: BrokerOption = None,
    backend: BackendOption = None,
    debug: DebugOption = False,
) -> None:
    """Declare the shared options; only the signature is used."""


def refuse_memory(app: CloudQ) -> None:
    """Raise `ConfigurationError` for a broker or backend in this process's memory."""
    urls = (app.conf.broker, app.conf.backend_url)
    inside = next((url for url in urls if url is not None and url.startswith("memory:")), None)
    if inside is not None:
        raise ConfigurationError(
            f"{inside} exists only within one process, so this command cannot share it with a "
            "worker: use a file, such as -b sqlite:///cloudq.db"
        )


def require_file(app: CloudQ) -> None:
    """Raise `ConfigurationError` if a file of the app is not there: to read must not make it."""
    for url in (app.conf.broker, app.conf.backend_url):
        refuse_missing(url)


def refuse_missing(url: str | None) -> None:
    """Raise `ConfigurationError` if the file that a URL names is not there."""
    missing = missing_at(url)
    if missing is not None:
        raise ConfigurationError(missing)


def missing_at(url: str | None) -> str | None:
    """Say that the file that a URL names is not there, and what to do; None if it is.

    Also None where its folder is missing: to open it says so.
    """
    file = None if url is None else missing_file(url)
    if file is None or not file.parent.is_dir():
        return None
    close = near(file.name, [each.name for each in file.parent.glob(f"*{file.suffix}")])
    meant = f"is {close} meant? " if close else ""
    return (
        f"there is no file {file}: {meant}the first call, a worker or "
        "`cloudq queues create NAME` makes it"
    )


def chosen_queues(target: Target, app: CloudQ, given: Sequence[str] | None) -> list[str]:
    """Return the queues given, else the app's; without an app, all of an embedded broker."""
    if given:
        return list(given)
    default = app.queues()
    if target.opened is not None or app.broker.limits(default[0]).billed:
        return default
    with app.broker.asking("list the queues that match", "*") as admin:
        return list(admin.list()) or default


def _check_path(path: str) -> None:
    module = path.partition(":")[0]
    if module.endswith(".py") or "/" in module:
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigurationError(f"{module} is a file: give its module, such as -A {dotted}")
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigurationError(f"{module!r} is not a module name: use -A module:attribute")


def _place(error: BaseException | None) -> str:
    """Return the file and line of the user's code where an import failed, or nothing."""
    if error is None or isinstance(error, SyntaxError):
        return ""  # its message already names the place
    # What cloudq refuses is raised in cloudq, but mended where the user's code called it.
    users = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != import_module.__code__.co_filename
        and not frame.filename.startswith("<frozen")
        and "pydantic" not in Path(frame.filename).parts  # it calls what refuses a setting
        and _CLOUDQ not in Path(frame.filename).parents
    ]
    if not users:  # no line of theirs is wrong: the message names the setting
        return ""
    last = users[-1]
    file = Path(last.filename)
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    return f" ({shown}, line {last.lineno})"
