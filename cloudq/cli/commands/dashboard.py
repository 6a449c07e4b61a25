"""`cloudq dashboard`: serves the dashboard, or makes a line for its file of passwords."""

from __future__ import annotations

import getpass
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudq.cli.options import Target, common, missing_at, refuse_memory
from cloudq.cli.output import note, say
from cloudq.errors import ConfigurationError, install_hint

if TYPE_CHECKING:
    from cloudq.dashboard.access import Access
    from cloudq.dashboard.server import Place

_USERS = "Users"
_NEEDED = frozenset({"jinja2", "markupsafe", "starlette", "uvicorn"})

HostOption = Annotated[
    str, typer.Option(help="Address to listen on. One that others reach needs a user.")
]
PortOption = Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 for any free one.")]
AllowedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host", metavar="NAME", help="Name by which browsers call it; repeatable."
    ),
]
RootOption = Annotated[
    str, typer.Option("--root-path", metavar="PATH", help="Path under which a proxy shows it.")
]
RefreshOption = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="Time between two looks of an open page. Default: 2, or 15 where requests are billed.",
    ),
]
PasswordsOption = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        envvar="CLOUDQ_DASHBOARD_PASSWORD_FILE",
        help="Users, a line NAME:ROLE:HASH each.",
        rich_help_panel=_USERS,
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        envvar="CLOUDQ_DASHBOARD_TOKEN",
        help="A token to sign in with, and for the API. Better given by the variable.",
        rich_help_panel=_USERS,
    ),
]
HeaderOption = Annotated[
    str | None,
    typer.Option(
        "--proxy-user-header",
        metavar="NAME",
        help="Header in which a proxy names the user who has signed in there.",
        rich_help_panel=_USERS,
    ),
]
ProxyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--proxy",
        metavar="ADDRESS",
        help="Address or network of the proxy in front, to be believed; repeatable.",
        rich_help_panel=_USERS,
    ),
]
RoleOption = Annotated[
    str | None,
    typer.Option(
        metavar="look|operate",
        help="Role of the token and of a proxy's users (default: look), or of everybody where "
        "there are no users (default: operate).",
        rich_help_panel=_USERS,
    ),
]
AddOption = Annotated[
    str | None,
    typer.Option(
        "--add-user",
        metavar="NAME",
        help="Ask for a password, print a line for the file of passwords, and end.",
        rich_help_panel=_USERS,
    ),
]


@common
def dashboard(
    target: Target,
    host: HostOption = "127.0.0.1",
    port: PortOption = 5555,
    allowed_host: AllowedOption = None,
    root_path: RootOption = "",
    refresh: RefreshOption = None,
    password_file: PasswordsOption = None,
    token: TokenOption = None,
    proxy_user_header: HeaderOption = None,
    proxy: ProxyOption = None,
    role: RoleOption = None,
    add_user: AddOption = None,
) -> None:
    """Show queues, tasks, workers and dead letters in a browser, and act on them.

    Listens on this machine alone unless there are users.
    """
    _require_extra()
    if add_user is not None:
        _add_user(add_user, role)
        return
    access = _module("access").access(
        passwords=password_file,
        token=token,
        proxy_header=proxy_user_header,
        proxies=proxy or (),
        role=role,
    )
    _serve(target, host, port, allowed_host or [], root_path, refresh, access)


def _serve(
    target: Target,
    host: str,
    port: int,
    names: list[str],
    path: str,
    refresh: float | None,
    access: Access,
) -> None:
    server = _module("server")
    place: Place = server.Place(host=host, port=port, hosts=tuple(names), path=_path(path))
    server.check(place, access)
    app = target.open()
    refuse_memory(app)
    # It may be started before all else: the page is there, and a mistyped name is told.
    for missing in dict.fromkeys(map(missing_at, (app.conf.broker, app.conf.backend_url))):
        if missing is not None:
            note(missing)
    with app:
        # The names of tasks and queues are those of the app's modules.
        app.load()
        site = server.made(app, place, access, refresh)
        listener = server.bound(place)
        number = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{number}{place.path}/")
        if access.is_open:
            note(f"everybody on this machine may {access.open_role}: --password-file adds users")
        elif not place.is_loopback:
            note("passwords and pages go unencrypted here: put a proxy with https in front")
        server.run(site, listener, place)


def _add_user(name: str, role: str | None) -> None:
    """Print the line of a user for the file of passwords."""
    access = _module("access")
    if sys.stdin.isatty():
        password = getpass.getpass(f"Password of {name}: ")
        if getpass.getpass("Again: ") != password:
            raise ConfigurationError("the two passwords differ")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    say(access.line_of(name, password, access.role_of(role or "look", "--role")))


def _path(text: str) -> str:
    path = "/" + text.strip("/") if text.strip("/") else ""
    if path != "".join(path.split()) or not path.isprintable() or "//" in path:
        raise ConfigurationError(f"--root-path {text!r}: give a path such as /cloudq")
    return path


def _require_extra() -> None:
    try:
        _module("server")
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        raise ConfigurationError(
            f"`cloudq dashboard` needs the dashboard extra ({error.name}): "
            f"{install_hint('dashboard')}"
        ) from error


def _module(name: str) -> Any:
    # Its libraries are an extra: they are loaded when they are needed, and may be missing.
    return import_module(f"cloudq.dashboard.{name}")


def add_to(program: typer.Typer) -> None:
    """Add `dashboard` to the commands of `cloudq`."""
    program.command()(dashboard)
