"""Large arguments, results and files, with real workers: nothing is lost, and nothing is left."""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloudq import (
    AsyncResult,
    CloudQ,
    File,
    PayloadGone,
    State,
    Task,
    chain,
    chord,
    group,
    wait_for,
)
from cloudq.driver.blobs import BlobAdmin
from cloudq.driver.loader import open_blobs
from cloudq.testing.waiting import PATIENCE, eventually
from localstack.azure import ACCOUNT
from localstack.servers import Endpoint
from tests.servers import unique
from tests.worker import payload_tasks
from tests.worker.conftest import make
from tests.worker.harness import Place, until
from tests.worker.payload_tasks import digest

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
OVER = 65_536


class Payloads:
    """A place with a payload store, and the tasks of `payload_tasks` on it."""

    def __init__(self, place: Place, store: str) -> None:
        self.place = place
        self.blobs = open_blobs(store)
        self.take = self._task(payload_tasks.take)
        self.swallow = self._task(payload_tasks.swallow)
        self.give = self._task(payload_tasks.give)
        self.same = self._task(payload_tasks.same)
        self.measure = self._task(payload_tasks.measure)
        self.third = self._task(payload_tasks.third)
        self.fail = self._task(payload_tasks.fail)
        self.refuse = self._task(payload_tasks.refuse)
        self.shorten = self._task(payload_tasks.shorten)

    def _task(self, task: Task[..., Any]) -> Task[..., Any]:
        declare: Any = self.place.app.task
        return declare(name=task.name, bind=task.bind)(task.function)

    def left(self) -> list[str]:
        """The keys of the blobs that are there."""
        return [blob.key for blob in self.blobs.list(after=None, limit=1000).blobs]

    def kinds(self) -> list[str]:
        return sorted(key.partition("/")[0] for key in self.left())


def steps(*nodes: Any) -> Any:
    """A chain of nodes of any types."""
    made: Any = chain(*nodes)  # pyright: ignore[reportUnknownVariableType]
    return made


def payloads_at(
    folder: Path, broker: str, backend: str, store: str, queue: str = "default", **settings: Any
) -> Payloads:
    """The place of a test, whose workers have its settings."""
    given: dict[str, Any] = {"payload_store": store, "payload_store_over": OVER, **settings}
    app = CloudQ("payloads", broker=broker, backend=backend, task_default_queue=queue, **given)
    place = Place(
        app=app,
        broker=broker,
        backend=backend,
        queue=queue,
        folder=folder,
        tasks="tests.worker.payload_tasks:app",
    )
    root = Path(__file__).parents[2]
    given["task_default_queue"] = queue
    place.environment = {f"CLOUDQ_{name.upper()}": str(value) for name, value in given.items()}
    place.environment["PYTHONPATH"] = str(root)
    return Payloads(place, store)


def made(payloads: Payloads) -> Payloads:
    """Make queue, table and bucket."""
    make(payloads.place)
    assert isinstance(payloads.blobs, BlobAdmin)
    payloads.blobs.create_place(expires=86_400.0)
    return payloads


def sqlite_payloads(folder: Path, **settings: Any) -> Payloads:
    url, store = f"sqlite:///{folder}/cloudq.db", f"file://{folder}/payloads"
    return payloads_at(folder, url, url, store, **settings)


def aws_payloads(folder: Path, request: pytest.FixtureRequest) -> Payloads:
    aws: Endpoint = request.getfixturevalue("aws")
    at = f"endpoint_url={aws.url}"
    urls = (f"sqs://?{at}", f"dynamodb://{unique('drill')}?{at}", f"s3://{unique('payloads')}?{at}")
    return made(payloads_at(folder, *urls, unique("drill")))


def google_payloads(folder: Path, request: pytest.FixtureRequest) -> Payloads:
    pubsub: Endpoint = request.getfixturevalue("pubsub")
    firestore: Endpoint = request.getfixturevalue("firestore")
    storage: Endpoint = request.getfixturevalue("storage")
    urls = (
        f"pubsub://cloudq-local?emulator=127.0.0.1:{pubsub.port}",
        f"firestore://cloudq-local/{unique('drill')}?emulator=127.0.0.1:{firestore.port}",
        f"gs://{unique('payloads')}/shop?emulator={storage.url}&project=cloudq-local",
    )
    return made(payloads_at(folder, *urls, unique("drill")))


def azure_payloads(folder: Path, request: pytest.FixtureRequest) -> Payloads:
    servicebus: Endpoint = request.getfixturevalue("servicebus")
    tables: Endpoint = request.getfixturevalue("tables")
    blobs: Endpoint = request.getfixturevalue("blobs")
    table = unique("drill").replace("-", "")
    urls = (
        servicebus.environment["CLOUDQ_BROKER"],
        tables.environment["CLOUDQ_BACKEND"].replace("/cloudq?", f"/{table}?"),
        f"azblob://{ACCOUNT}/{unique('payloads')}?endpoint={blobs.url}/{ACCOUNT}",
    )
    return made(payloads_at(folder, *urls, unique("drill")))


CLOUDS: Mapping[str, Callable[[Path, pytest.FixtureRequest], Payloads]] = {
    "aws": aws_payloads,
    "google": google_payloads,
    "azure": azure_payloads,
}


@pytest.fixture
def payloads(tmp_path: Path) -> Iterator[Payloads]:
    made = sqlite_payloads(tmp_path)
    with closing(made.place):
        yield made


@pytest.fixture(params=["embedded", "aws"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Payloads]:
    """On SQLite and files, and on SQS, DynamoDB and S3."""
    embedded = request.param == "embedded"
    at = sqlite_payloads(tmp_path) if embedded else aws_payloads(tmp_path, request)
    with closing(at.place):
        yield at


@pytest.mark.parametrize("cloud", CLOUDS)
def test_on_every_cloud(cloud: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Values above the limits of queue and store go to the payload store by themselves."""
    payloads = CLOUDS[cloud](tmp_path, request)
    with closing(payloads.place):
        data = secrets.token_bytes(1_500_000)
        taken = payloads.take.delay(1, data)
        value = {"a": [data[:700_000]] * 2, "b": "é" * 500_000}
        carried: AsyncResult[Any] = steps(payloads.same.s(value), payloads.same.s()).delay()
        file = payloads.shorten.delay(File.from_bytes(data, "all.bin"), 1_000_000)
        assert "files" in payloads.kinds()
        assert payloads.kinds().count("messages") >= 2
        payloads.place.start()
        assert taken.get(timeout=PATIENCE) == f"1 {digest(data)}"
        assert carried.get(timeout=PATIENCE) == value
        assert file.get(timeout=PATIENCE).read() == data[:1_000_000]
        eventually(lambda: "messages" not in payloads.kinds())
        carried.forget()
        carried.parent.forget()
        assert set(payloads.kinds()) == {"files"}


def test_arguments_and_results_go_and_come_back(payloads: Payloads) -> None:
    data = secrets.token_bytes(3_000_000)
    result = payloads.take.delay(1, data)
    assert payloads.kinds() == ["messages"]
    payloads.place.start()
    assert result.get(timeout=PATIENCE) == f"1 {digest(data)}"
    value = {"a": ["é" * 1000] * 1000, "b": [data[:500_000]], "c": {"d": 10**30}}
    stored = payloads.same.delay(value)
    assert stored.get(timeout=PATIENCE) == value
    assert payloads.same.delay("ü" * OVER).get(timeout=PATIENCE) == "ü" * OVER
    assert payloads.give.delay(2_000_000).get(timeout=PATIENCE) == payload_tasks.give(2_000_000)
    assert payloads.same.delay("small").get(timeout=PATIENCE) == "small"
    eventually(lambda: payloads.kinds() == ["results"] * 3)
    stored.forget()
    assert payloads.kinds() == ["results"] * 2


def test_a_result_that_is_not_kept(payloads: Payloads) -> None:
    data = secrets.token_bytes(200_000)
    payloads.swallow.delay(1, data)
    payloads.place.start()
    eventually(lambda: payloads.place.entries() == [f"1 {digest(data)}"])
    eventually(lambda: not payloads.left())


def test_workflows_carry_them_on(payloads: Payloads) -> None:
    data = secrets.token_bytes(200_000)
    first: AsyncResult[Any] = steps(
        payloads.same.s(data), payloads.same.s(), payloads.measure.s()
    ).delay()
    later: AsyncResult[Any] = steps(
        payloads.same.s(1), payloads.measure.si(data, data + data)
    ).delay()
    joined = chord([payloads.same.s(data), payloads.give.s(300_000)])(payloads.measure.s())
    many = group(payloads.measure.s(data, "x" * n) for n in (1, 100_000)).delay()
    linked = payloads.same.apply_async(["x"], link=payloads.take.si(7, data))
    payloads.place.start()
    assert first.get(timeout=PATIENCE) == [200_000]
    assert later.get(timeout=PATIENCE) == [200_000, 400_000]
    assert joined.get(timeout=PATIENCE) == [200_000, 300_000]
    assert many.get(timeout=PATIENCE) == [[200_000, 1], [200_000, 100_000]]
    assert linked.get(timeout=PATIENCE) == "x"
    eventually(lambda: "7" in payloads.place.entries())
    eventually(lambda: "messages" not in payloads.kinds())


def test_a_retry_has_what_its_first_try_had(payloads: Payloads) -> None:
    data = secrets.token_bytes(200_000)
    payloads.place.start()
    assert payloads.third.delay(data).get(timeout=PATIENCE) == digest(data)
    assert payloads.place.entries() == [digest(data)] * 3
    eventually(lambda: not payloads.left())


def test_failures_leave_nothing(payloads: Payloads) -> None:
    data = secrets.token_bytes(200_000)
    payloads.place.start()
    failed: AsyncResult[Any] = steps(
        payloads.fail.s(data), payloads.take.si(1, data + b"x")
    ).delay()
    with pytest.raises(ValueError, match="200000 bytes are of no use"):
        failed.get(timeout=PATIENCE)
    eventually(lambda: not payloads.left())


def test_a_revoked_and_an_expired_call_leave_nothing(payloads: Payloads) -> None:
    data = secrets.token_bytes(200_000)
    payloads.take.delay(1, data).revoke()
    payloads.take.apply_async([2, data], expires=0.01)
    assert payloads.kinds() == ["messages"] * 2
    payloads.place.start()
    eventually(lambda: not payloads.left())
    assert not payloads.place.entries()


def test_a_dead_letter_keeps_its_own(payloads: Payloads) -> None:
    data = secrets.token_bytes(200_000)
    payloads.place.start()
    rejected = payloads.refuse.delay(data)
    with pytest.raises(Exception, match="not now"):
        rejected.get(timeout=PATIENCE)
    admin = payloads.place.app.broker.admin
    [dead] = eventually(lambda: admin.peek_dead("default", count=5))
    assert payloads.kinds() == ["messages"]
    payloads.place.let_go()
    assert not admin.redrive("default", [dead])
    eventually(lambda: payloads.place.entries() == [digest(data)] * 2)
    eventually(lambda: not payloads.left())


def test_one_that_is_gone_fails_with_the_reason(payloads: Payloads) -> None:
    result = payloads.take.delay(1, bytes(200_000))
    payloads.blobs.delete(payloads.left())
    payloads.place.start()
    with pytest.raises(PayloadGone, match=r"is not in file:.* any more: it was deleted, or has"):
        result.get(timeout=PATIENCE)
    assert not payloads.place.entries()


def test_one_that_is_gone_may_be_waited_for(tmp_path: Path) -> None:
    payloads = sqlite_payloads(tmp_path, payload_gone="wait")
    with closing(payloads.place):
        payloads.take.delay(1, bytes(200_000))
        payloads.blobs.delete(payloads.left())
        worker = payloads.place.start()
        until(lambda: "any more" in worker.log(), what="it says why it waits")
        admin = payloads.place.app.broker.admin
        eventually(lambda: admin.stats("default").delayed == 1)
        assert not payloads.place.entries()


def test_files_are_streamed_both_ways(payloads: Payloads, tmp_path: Path) -> None:
    data = secrets.token_bytes(5_000_000)
    (tmp_path / "picture.png").write_bytes(data)
    payloads.place.start()
    short = payloads.shorten.delay(File.from_path(tmp_path / "picture.png"), 3_000_000)
    made = short.get(timeout=PATIENCE)
    assert (made.name, made.content_type, made.size) == (
        "short-picture.png",
        "image/png",
        3_000_000,
    )
    assert made.read() == data[:3_000_000]
    assert made.save(tmp_path / "saved.png").read_bytes() == data[:3_000_000]
    again = payloads.shorten.delay(made, 5).get(timeout=PATIENCE)
    assert again.read() == data[:5]
    in_a_list = payloads.same.delay([made, {"x": again}]).get(timeout=PATIENCE)
    assert in_a_list[1]["x"].read() == data[:5]
    for each in (made, again):
        each.delete()
    assert payloads.kinds() == ["files"], "the first is there until it expires"


def test_encrypted_ones_go_and_come_back(tmp_path: Path) -> None:
    """With encryption nothing of them is in the clear, in the queue, the store or the blobs."""
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    payloads = sqlite_payloads(tmp_path)
    payloads.place.app.configure(encryption_keys={"k1": key})
    payloads.place.environment["CLOUDQ_ENCRYPTION_KEYS"] = json.dumps({"k1": key})
    with closing(payloads.place):
        result = payloads.same.delay(["the marker", "x" * 100_000])
        file = payloads.shorten.delay(File.from_bytes(b"the marker" * 10, "a.txt"), 20)
        payloads.place.start()
        assert result.get(timeout=PATIENCE) == ["the marker", "x" * 100_000]
        assert file.get(timeout=PATIENCE).read() == b"the marker" * 2
        assert {"files", "results"} <= set(payloads.kinds())
        for path in tmp_path.rglob("*"):
            if path.is_file() and "log" not in path.name:
                with suppress(FileNotFoundError):  # an argument goes once its message has gone
                    assert b"marker" not in path.read_bytes(), path


@pytest.mark.drill
@pytest.mark.timeout(1800)
def test_killed_at_random_nothing_is_lost_and_none_is_left(either: Payloads) -> None:
    count, kills, size = (1000, 20, 2_000_000) if FULL else (120, 4, 300_000)
    payloads = either
    place, dice = payloads.place, random.Random(5)
    contents = [dice.randbytes(size) for _ in range(8)]
    results = [payloads.take.delay(n, contents[n % 8]) for n in range(count)]
    worker = place.start("--processes", "2", "--threads", "4", "--lease", "3")
    for number in range(kills):
        reached = count * (number + 1) // (kills + 2)
        until(
            lambda reached=reached: len(place.counts()) >= reached,
            what=f"{reached} tasks done: {worker.log()[-2000:]}",
        )
        children = worker.children()
        if children and dice.random() < 0.5:
            dice.choice(children).kill()
        else:
            worker.kill()
            worker = place.start("--processes", "2", "--threads", "4", "--lease", "3", ready=False)
    records = wait_for(results, timeout=4 * PATIENCE)
    assert [record.state for record in records] == [State.SUCCESS] * count
    for n, result in enumerate(results):
        assert result.get() == f"{n} {digest(contents[n % 8])}"
    eventually(lambda: not payloads.left())


@pytest.mark.drill
@pytest.mark.timeout(1800)
def test_the_worker_s_memory_stays_flat(either: Payloads) -> None:
    count, size = (1000, 20_000_000) if FULL else (40, 20_000_000)
    payloads = either
    place = payloads.place
    data = random.Random(6).randbytes(size)
    worker = place.start("--processes", "1", "--threads", "2")

    def memory() -> float:
        family = [psutil.Process(worker.process.pid), *worker.children()]
        return sum(process.memory_info().rss for process in family) / 1e6

    highest: list[float] = []
    for start in range(0, count, 10):
        results = [payloads.take.delay(n, data) for n in range(start, start + 10)]
        wait_for(results, timeout=4 * PATIENCE)
        highest.append(memory())
    print(f"{count} calls of {size:,} bytes: MB after ten each: {[round(m) for m in highest]}")
    assert max(highest) < highest[1] + 3 * size / 1e6
    eventually(lambda: not payloads.left())
