"""A migration to and from each cloud's queue, killed at the calls that matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cloudq.driver import Limits
from cloudq.driver import loader as plugins
from tests.broker.migration.migrating import Ground, Ids, message
from tests.servers import unique
from tests.support.fuses import Fuse

Request = pytest.FixtureRequest


def _sqs(request: Request) -> str:
    return f"sqs://?endpoint_url={request.getfixturevalue('aws').url}"


def _pubsub(request: Request) -> str:
    return f"pubsub://cloudq-local?emulator=127.0.0.1:{request.getfixturevalue('pubsub').port}"


def _servicebus(request: Request) -> str:
    return request.getfixturevalue("servicebus").environment["CLOUDQ_BROKER"] + "&lock=5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """A kind of queue. `delays` says how long it can delay a message, 0 for not at all."""

    url: Callable[[Request], str]
    suffix: str = ""
    peeks: bool = False
    delays: float = 0.0

    @property
    def groups(self) -> str:
        return "aabaab" if self.suffix else ""


CLOUDS = {
    "sqs": Cloud(url=_sqs, delays=600),
    "sqs.fifo": Cloud(url=_sqs, suffix=".fifo"),
    "pubsub": Cloud(url=_pubsub),
    "servicebus": Cloud(url=_servicebus, peeks=True, delays=3600),
    "servicebus.fifo": Cloud(url=_servicebus, suffix=".fifo", peeks=True, delays=3600),
}


@pytest.fixture(params=list(CLOUDS))
def cloud(request: Request) -> Cloud:
    return CLOUDS[request.param]


@pytest.fixture
def url(cloud: Cloud, request: Request) -> str:
    return cloud.url(request)


@pytest.fixture
def queue(cloud: Cloud, url: str) -> Iterator[str]:
    name = unique() + cloud.suffix
    driver: Any = plugins.open_broker(url)
    driver.create(name, lease=5, max_deliveries=20)
    yield name
    driver.delete(name)
    driver.close()


BEFORE_SENT = Fuse(at=1, only=("send",))
SENT = Fuse(at=1, after=True, only=("send",))
BEFORE_ACKED = Fuse(at=0, only=("ack",))
ACKED = Fuse(at=0, after=True, only=("ack",))


def small(limits: Limits) -> Limits:
    return replace(limits, batch=min(limits.batch, 10))


@pytest.mark.parametrize(
    ("way", "fuse"),
    [
        pytest.param("out", BEFORE_SENT, id="to it, before a batch is sent"),
        pytest.param("out", SENT, id="to it, after a batch is sent"),
        pytest.param("in", BEFORE_ACKED, id="from it, before a batch is acked"),
        pytest.param("in", ACKED, id="from it, after a batch is acked"),
    ],
)
def test_killed_the_same_messages_are_there_in_the_end(
    cloud: Cloud, url: str, queue: str, tmp_path: Path, way: str, fuse: Fuse
) -> None:
    fuse = replace(fuse, calls=[], blown=False)
    local = f"sqlite:///{tmp_path}/a.db"
    urls = (local, url) if way == "out" else (url, local)
    peeks = (True, cloud.peeks) if way == "out" else (cloud.peeks, True)
    messages = [
        *(message(queue=queue) for _ in range(15)),
        *(message(queue=queue, group=group) for group in cloud.groups),
    ]
    with Ground(*urls, tmp_path, lease=2.0, peeks=peeks, limits=(small, small)) as place:
        expected = place.fill(messages, queue)
        late = [message(queue=queue, delay=cloud.delays)] if cloud.delays else []
        late = late if way == "out" or cloud.peeks else []
        expected += place.fill(late, queue)
        assert place.killed(fuse, queues=(queue,))
        report = place.run(queues=(queue,))
        assert report.complete, report
        assert report.queues[0].moved == len(messages) + len(late)
        assert not report.queues[0].uncertain
        target: Any = place.target
        arrived = content(target, queue, expected.total() - len(late))
        assert Counter(arrived) + Counter(_waiting(target, queue, late)) == expected
        for group in set(cloud.groups):
            ids = [each.id for each in messages if each.group == group]
            assert [id for id in arrived if id in ids] == ids
        assert not place.journal.exists()


def _waiting(driver: Any, queue: str, late: list[Any]) -> Ids:
    """The ids of what is delayed there, or how many it counts where it does not show them."""
    if hasattr(driver, "scheduled"):
        return Counter(each.id for each in driver.scheduled(queue, count=10))
    counted = driver.stats(queue).delayed if late else 0
    return Counter(each.id for each in late[:counted])


def content(driver: Any, queue: str, count: int) -> list[str]:
    """The ids of all that can be received, which is acked, in the order of their arrival.

    Where `count` have come it looks once more for what is too many, else it is more patient.
    """
    found: list[str] = []
    limits = driver.limits(queue)
    empty = 0
    while empty < (1 if len(found) >= count else 3):
        wait = min(max(limits.min_wait, 1.0 if limits.billed else 0.0), limits.max_wait)
        deliveries = driver.receive(queue, count=min(limits.batch, 10), wait=wait, lease=30)
        found += [delivery.id for delivery in deliveries]
        if deliveries:
            driver.ack(deliveries)
        empty = 0 if deliveries else empty + 1
    return found
