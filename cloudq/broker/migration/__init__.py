"""Moves queued tasks from one broker to another, so that a kill at any moment costs nothing.

What is about to be sent is journaled first, then sent, then deleted at the source. After a kill
the same command reads the journal: what was sent is deleted at the source and not sent again, and
where the kill came between the two, the message is looked for in the target.

What cannot be known: whether a message that is no longer in the target was consumed there or
never came. So stop the workers of both queues first. If the target is consumed meanwhile, a kill
can make one batch repeat: each message keeps its id, and a task that has ended is acked without
running again.
"""

from cloudq.broker.migration.endpoint import Endpoint
from cloudq.broker.migration.journal import Journal
from cloudq.broker.migration.migration import Migration, Options, journal_file
from cloudq.broker.migration.preview import Preview
from cloudq.broker.migration.report import Moved, Report

__all__ = [
    "Journal",
    "Migration",
    "Moved",
    "Options",
    "Preview",
    "Report",
    "Endpoint",
    "journal_file",
]
