"""Moves queued tasks from one broker to another, so that a kill at any moment costs nothing.

Each message is journaled, then sent, then deleted at the source. After a kill the same command
reads the journal: messages that were sent are deleted at the source and not sent again. If the
kill came between journal and send, the message is looked for in the target.

Stop the workers of both queues first: whether a message that is no longer in the target was
consumed there, or never arrived, cannot be known. If the target is consumed meanwhile, a kill can
make one batch repeat. Each message keeps its id, so a task that has ended is acked without running
again.
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
