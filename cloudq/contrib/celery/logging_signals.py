"""Celery's signals about logging, sent in workers and beats once the app is imported."""

from __future__ import annotations

import logging

from cloudq.signals import Signal

_GIVEN = ("loglevel", "logfile", "format", "colorize")

setup_logging = Signal("setup_logging", *_GIVEN)
after_setup_logger = Signal("after_setup_logger", "logger", *_GIVEN)
after_setup_task_logger = Signal("after_setup_task_logger", "logger", *_GIVEN)


def set_up_logging() -> None:
    """Have receivers set up logging, in a process that has that of a worker or a beat.

    With a receiver of `setup_logging` that of cloudq is taken away first, as in Celery.
    """
    if not (setup_logging or after_setup_logger or after_setup_task_logger):
        return
    from cloudq.worker.logs import JsonLines, Lines  # programs that publish need no worker

    root = logging.root
    ours = [each for each in root.handlers if isinstance(each.formatter, JsonLines | Lines)]
    if not ours or "told" in vars(ours[0]):  # the app is loaded again
        return
    vars(ours[0])["told"] = True
    given = {"loglevel": root.level, "logfile": None, "format": "", "colorize": False}
    if setup_logging:
        for handler in ours:
            root.removeHandler(handler)
        setup_logging.send(None, **given)
        return
    after_setup_logger.send(None, logger=root, **given)
    after_setup_task_logger.send(None, logger=logging.getLogger("celery.task"), **given)
