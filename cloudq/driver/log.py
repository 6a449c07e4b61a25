"""Writes cloudq's own log: its texts are safe to show, and what handlers raise stops nothing."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from cloudq.driver.ends import pass_ends
from cloudq.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from cloudq.text import block, hidden, masked, one_line, text_of

# The kinds of errors that this process has told of.
_told: set[str] = set()
# The longest text in a record, in characters.
_LONGEST = 100_000


class Log(logging.LoggerAdapter[logging.Logger]):
    """The logger of this name, for cloudq's own records: a call of it raises nothing.

    Handlers, filters, formatters and record factories are the user's. Were their errors raised
    where cloudq logs, they would end its threads, and make it do again what is done. The first
    of each kind is told on standard error. A task's time limit passes.

    The formatters are the user's too, or those of a function's platform. So the texts in a record
    are one line each, without control characters and secrets, before any of them sees it; the
    lines of a traceback are indented, so that none passes for a record.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})
        self.logger.addFilter(_TRACES)  # adding it again has no effect

    def log(self, level: int, msg: object, *args: object, **more: Any) -> None:
        """Log a record, as all other methods do through this one."""
        try:
            if self.logger.isEnabledFor(level):
                # This method is not the place that logs, its caller is.
                more["stacklevel"] = more.get("stacklevel", 1) + 1
                extra: Mapping[str, object] | None = more.get("extra")
                if extra:
                    more["extra"] = {name: _field(extra[name]) for name in extra}
                # With arguments the message is a format of ours.
                self.logger.log(level, msg if args else _safe(msg), *map(_safe, args), **more)
        except (SoftTimeLimitExceeded, TimeLimitExceeded):
            raise
        except BaseException as error:
            pass_ends(error)
            _tell(error)


class _Shown:
    """A value in a record, whose text and repr are made safe when a handler asks for them."""

    __slots__ = ("text", "value")

    def __init__(self, value: object, text: str | None = None) -> None:
        self.value = value
        self.text = text  # made once, for however many handlers

    def __str__(self) -> str:
        if self.text is None:
            self.text = _line(text_of(self.value))
        return self.text

    def __repr__(self) -> str:
        return _line(repr(self.value))


def _line(text: str) -> str:
    text = hidden(text)
    if len(text) > _LONGEST:  # to look for secrets in a megabyte takes a second
        text = f"{text[:_LONGEST]} ... ({len(text):,} characters)"
    return one_line(masked(text))


def _safe(value: object) -> object:
    """Return what is to stand in a record for a value: numbers and safe texts are themselves."""
    if isinstance(value, int | float) or value is None:
        return value
    if type(value) is not str:
        return _Shown(value)
    line = _line(value)
    return value if line == value else _Shown(value, line)


def _field(value: object) -> object:
    return _line(value) if isinstance(value, str) else value


class _Traces(logging.Filter):
    """Gives a record the text of its traceback, which formatters show in place of their own."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and not record.exc_text:
            try:
                text = logging.Formatter().formatException(record.exc_info)
            except (SoftTimeLimitExceeded, TimeLimitExceeded):
                raise
            except BaseException as error:  # one of the user's that cannot be shown
                pass_ends(error)
                text = f"a traceback that cannot be made: {type(error).__name__}"
            record.exc_text = block(masked(text), indent="  ")
        return True


_TRACES = _Traces()


def _tell(error: BaseException) -> None:
    """Say once for each kind of error that the user's logging raises it."""
    try:
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        if kind in _told:
            return
        _told.add(kind)
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{kind}: {error} ({place.filename}, line {place.lineno}, in {place.name})"
        line = f"cloudq: logging raised {text}; records are missing from the log"
        sys.stderr.write(one_line(masked(line)) + "\n")
        sys.stderr.flush()
    except BaseException as broken:  # it has no text, or nobody reads what is written
        pass_ends(broken)
