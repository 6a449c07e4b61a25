"""Jobs in a child: single ones, and the plain calls of a bundle, which share almost all."""

from __future__ import annotations

from collections.abc import Sequence

from cloudq.driver import Delivery
from cloudq.execution.executor import Executor
from cloudq.execution.outcomes import Job
from cloudq.execution.plain_run import PlainSuccess
from cloudq.execution.settlement import Settlement
from cloudq.messages.plain_calls import PlainCalls
from cloudq.worker.in_flight import Ended
from cloudq.worker.pool import pipe


class PlainJobs:
    """The calls of an order, by the numbers that they have in the supervisor."""

    __slots__ = ("_run", "_start", "first", "numbers")

    def __init__(self, packed: pipe.PackedCut, executor: Executor) -> None:
        self.first = packed.first  # the number of call 0, which may be in another order
        self._start = packed.first + packed.start
        self.numbers = range(self._start, self._start + len(packed.rows))
        delivery = Delivery(
            queue=packed.queue,
            id=packed.id,
            body=b"",
            receipt=self._start,
            attempts=1,
            lease=0.0,
            group=None,
            sent_at=packed.sent_at,
        )
        calls = PlainCalls(packed.bundle, packed.fields, packed.rows)
        self._run = executor.plain_run(calls, delivery)

    def job(self, number: int) -> Job:
        """Make the job of a call, as that of any call."""
        return self._run.job(number - self._start)

    def run(self, number: int) -> Settlement | PlainSuccess:
        """Run a call; whatever raises, return its outcome."""
        return self._run.run(number - self._start)

    def ends(self, ends: list[Ended]) -> pipe.PackedEnds:
        """Pack successes of these calls."""
        return pipe.PackedEnds(self.first, self._start - self.first, ends)


Numbered = tuple[int, Job | PlainJobs]
"""A job with its number in the supervisor."""

Outcome = pipe.PackedSettlement | tuple[PlainJobs, Ended]
"""The outcome of a job, and that of a plain call which has succeeded."""


def jobs_in(batch: Sequence[pipe.Message], executor: Executor) -> list[Numbered]:
    """Return the jobs in a batch of orders, with their numbers."""
    jobs: list[Numbered] = []
    for message in batch:
        if isinstance(message, pipe.PackedJob):
            jobs.append((message.number, pipe.unpack_job(message)))
        elif isinstance(message, pipe.PackedCut):
            plain = PlainJobs(message, executor)
            jobs += [(number, plain) for number in plain.numbers]
    return jobs


def job_of(numbered: Numbered) -> Job:
    """Return a job; that of a plain call is made for it."""
    number, job = numbered
    return job.job(number) if isinstance(job, PlainJobs) else job


def by_shape(batch: Sequence[Outcome]) -> list[Sequence[pipe.Message]]:
    """Return outcomes as the batches that are sent: of single jobs, and of plain calls."""
    single = [each for each in batch if isinstance(each, pipe.PackedSettlement)]
    ends: dict[PlainJobs, list[Ended]] = {}
    if len(single) < len(batch):
        for each in batch:
            if not isinstance(each, pipe.PackedSettlement):
                ends.setdefault(each[0], []).append(each[1])
    plain = [jobs.ends(each) for jobs, each in ends.items()]
    # Of two outcomes of one call the first counts, which is a success if any of them is.
    return [outcomes for outcomes in (plain, single) if outcomes]
