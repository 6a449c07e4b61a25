"""Writes cloudq's own log, in which what the user's handlers raise stops nothing."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

from cloudq.driver.ends import pass_ends
from cloudq.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from cloudq.text import masked, one_line

# The kinds of errors that this process has told of.
_told: set[str] = set()


class Log(logging.LoggerAdapter[logging.Logger]):
    """The logger of this name, for cloudq's own records: a call of it raises nothing.

    Handlers, filters, formatters and record factories are the user's. Were their errors raised
    where cloudq logs, they would end its threads, and make it do again what is done. The first
    of each kind is told on standard error. A task's time limit passes.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def log(self, level: int, msg: object, *args: object, **more: Any) -> None:
        """Log a record, as all other methods do through this one."""
        try:
            if self.logger.isEnabledFor(level):
                # This method is not the place that logs, its caller is.
                more["stacklevel"] = more.get("stacklevel", 1) + 1
                self.logger.log(level, msg, *args, **more)
        except (SoftTimeLimitExceeded, TimeLimitExceeded):
            raise
        except BaseException as error:
            pass_ends(error)
            _tell(error)


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
