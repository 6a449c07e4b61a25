"""Steps of this process before a command begins: its folder, its log, its user."""

from __future__ import annotations

import grp
import os
import pwd
import sys
from collections.abc import Mapping
from pathlib import Path

from cloudq.cli.celery.values import in_file_name
from cloudq.cli.output import note
from cloudq.errors import ConfigurationError


def move(steps: Mapping[str, str]) -> None:
    """Obey `--workdir` and `--no-color`. Raises `ConfigurationError`."""
    if "no_color" in steps:
        os.environ["NO_COLOR"] = "1"
    if "workdir" in steps:
        try:
            os.chdir(steps["workdir"])
        except OSError as error:
            raise ConfigurationError(f"--workdir {steps['workdir']}: {error.strerror}") from error


def is_parent(steps: Mapping[str, str], hostname: str) -> bool:
    """Become what the options say: log file, umask, background, user.

    Returns True in the process that only started the one in the background. Raises
    `ConfigurationError`.
    """
    if "umask" in steps:
        os.umask(_umask(steps["umask"]))
    log = _log(steps, hostname)
    # Nothing was loaded yet, so no thread is lost by the fork.
    if "detach" in steps and os.fork():
        return True
    if "detach" in steps:
        os.setsid()
        _point(os.open(os.devnull, os.O_RDWR), 0)
    if log is not None:
        sys.stdout.flush()
        _point(log, 1, 2)
    _become(steps)
    return False


def _log(steps: Mapping[str, str], hostname: str) -> int | None:
    """Open the log; in the background without one, nothing is kept, as Celery does."""
    if "logfile" in steps:
        file = Path(in_file_name(steps["logfile"], hostname))
    elif "detach" in steps:
        file = Path(os.devnull)
    else:
        return None
    try:
        return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise ConfigurationError(f"--logfile {file}: {error.strerror}") from error


def _point(file: int, *descriptors: int) -> None:
    for descriptor in descriptors:
        os.dup2(file, descriptor)
    os.close(file)


def _umask(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError as error:
        raise ConfigurationError(f"--umask {text}: give an octal number, such as 022") from error


def _become(steps: Mapping[str, str]) -> None:
    """Run as this user and group from now on. Raises `ConfigurationError`."""
    uid, gid = steps.get("uid"), steps.get("gid")
    if uid is None and gid is None:
        return
    if os.geteuid() != 0:
        note("--uid and --gid are ignored: only root can become another user")
        return
    user = None if uid is None else _user(uid)
    group = _group(gid) if gid is not None else user.pw_gid if user is not None else os.getgid()
    os.setgid(group)
    if user is not None:
        os.initgroups(user.pw_name, group)
        os.setuid(user.pw_uid)


def _user(text: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except KeyError as error:
        raise ConfigurationError(f"--uid {text}: there is no such user") from error


def _group(text: str) -> int:
    try:
        return int(text) if text.isdecimal() else grp.getgrnam(text).gr_gid
    except KeyError as error:
        raise ConfigurationError(f"--gid {text}: there is no such group") from error
