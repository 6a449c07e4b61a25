"""Sorts the calls of a bundle as deliveries of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cloudq.driver import Delivery
from cloudq.errors import BackendError, KeyServiceError
from cloudq.execution.bundles import Parcel, Part
from cloudq.execution.outcomes import Job, Outcomes
from cloudq.execution.plain_bundles import PlainParcel
from cloudq.execution.settlement import Action, Settled, Settlement, unrecorded
from cloudq.execution.unstarted import own_word
from cloudq.results.backend import Backend
from cloudq.results.record import Record


@dataclass(slots=True, kw_only=True)
class Opened:
    """Deliveries sorted into jobs and settlements; the store has refused those that wait.

    `plain` are bundles of which all calls may run, where these were asked for.
    """

    jobs: list[Job] = field(default_factory=list[Job])
    settled: list[Settled] = field(default_factory=list[Settled])
    waiting: list[Delivery] = field(default_factory=list[Delivery])
    plain: list[PlainParcel] = field(default_factory=list[PlainParcel])
    error: BackendError | None = None

    def wait(self, jobs: Sequence[Job], error: BackendError) -> None:
        """Let jobs wait, because of this error."""
        self.waiting += [job.delivery for job in jobs]
        self.error = error

    def keep(self, delivery: Delivery, error: BackendError) -> None:
        """Let a delivery wait that nobody can read now, because of this error."""
        self.waiting.append(delivery)
        self.error = error

    def holds_back(self, job: Job) -> bool:
        """Tell whether an earlier message of the job's group waits."""
        place = (job.delivery.queue, job.delivery.group)
        return place[1] is not None and any((d.queue, d.group) == place for d in self.waiting)


def unpacked(
    parcel: Parcel,
    parts: Iterable[tuple[Part, Job | Settlement | Parcel | KeyServiceError]],
    opened: Opened,
    outcomes: Outcomes,
    backend: Backend | None,
) -> list[Job]:
    """Return the calls of a bundle that may run; none of them if another delivery has it by now."""
    jobs: list[Job] = []
    for part, found in parts:
        if isinstance(found, Job):
            jobs.append(found)
        elif isinstance(found, Settlement):
            opened.settled.append((part, found))
    if backend is None or parcel.whole.attempts == 1:
        return jobs
    if all(outcomes.ignores_result(job.message) for job in jobs):
        return jobs
    try:
        standing = backend.bundles.claim(parcel.name, parcel.delivered)
    except BackendError as error:
        opened.wait(jobs, error)
        return []
    if standing is not None:
        return jobs
    for job in jobs:
        gone = unrecorded(job.message, Action.NOTHING, reason="a later delivery has its bundle")
        opened.settled.append((job.delivery, gone))
    return []


def parted(jobs: Sequence[Job], outcomes: Outcomes) -> tuple[list[Job], list[Job]]:
    """Part the calls that come in their bundle, of which nothing but an end can be recorded.

    One that is tried again in its place is not among them: its states are recorded apart. Nor is
    one whose caller gave ids: what is recorded of it before its end, say that it is revoked, is
    apart from the end of an earlier call of its id.
    """
    parts: list[Job] = []
    others: list[Job] = []
    stays: dict[Parcel, bool] = {}
    for job in jobs:
        part = job.delivery
        if not isinstance(part, Part) or job.message.call is not None:
            others.append(job)
            continue
        if part.parcel not in stays:
            stays[part.parcel] = outcomes.stays_in_place(part)
        (others if stays[part.parcel] else parts).append(job)
    return parts, others


def find_first(jobs: Sequence[Job], records: Mapping[str, Record]) -> None:
    """Note for each bundle the first call without an end."""
    for job in jobs:
        record = own_word(records.get(job.message.id), job.message)
        part = job.delivery
        if isinstance(part, Part) and part.parcel.first is None:
            part.parcel.first = None if record is not None and record.terminal else part
