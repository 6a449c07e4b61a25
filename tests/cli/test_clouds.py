"""The commands on Google's and Azure's services: the same as everywhere, and what each says."""

from __future__ import annotations

import time

import pytest

from cloudq.driver import Item, Key, StoreAdmin
from cloudq.driver import loader as plugins
from tests.servers import SOON, unique


def _google(request: pytest.FixtureRequest) -> tuple[str, str]:
    pubsub = request.getfixturevalue("pubsub")
    firestore = request.getfixturevalue("firestore")
    return (
        f"pubsub://cloudq-local?emulator=127.0.0.1:{pubsub.port}&prefix={unique('q')}-",
        f"firestore://cloudq-local/{unique('c')}?emulator=127.0.0.1:{firestore.port}",
    )


def _azure(request: pytest.FixtureRequest) -> tuple[str, str]:
    broker = request.getfixturevalue("servicebus").environment["CLOUDQ_BROKER"]
    tables = request.getfixturevalue("tables").url
    name = unique("t").replace("-", "")
    return (
        f"{broker}&prefix={unique('q')}-",
        f"aztables://devstoreaccount1/{name}?endpoint={tables}/devstoreaccount1",
    )


CLOUDS = {"google": _google, "azure": _azure}


@pytest.fixture(params=list(CLOUDS))
def where(request) -> list[str]:
    broker, backend = CLOUDS[request.param](request)
    return ["-b", broker, "--backend", backend]


@pytest.fixture
def azure(request) -> list[str]:
    broker, backend = _azure(request)
    return ["-b", broker, "--backend", backend]


def test_a_missing_queue_says_how_to_make_it(command, where):
    for args in (
        ["queues", "stats", "gone"],
        ["dead", "list", "gone"],
        ["queues", "peek", "gone"],
        ["call", "any", "--force", "-Q", "gone"],
    ):
        ran = command(*args, *where)
        assert (ran.code, ran.err.count("\n")) == (2, 1), (args, ran)
        assert "cloudq queues create NAME" in ran.err, (args, ran)


def test_a_missing_table_says_so(command, azure):
    ran = command("result", "x", *azure)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "there is no such table" in ran.err


@pytest.mark.parametrize(
    "url",
    [
        "pubsub://project?emulator=127.0.0.1:9",
        "servicebus://127.0.0.1:9?emulator=true&admin=127.0.0.1:9",
    ],
)
def test_nobody_there_says_what_to_look_at(command, url):
    start = time.monotonic()
    for args in (["queues", "stats", "q"], ["call", "any", "--force"]):
        ran = command(*args, "-b", url)
        assert (ran.code, ran.err.count("\n")) == (1, 1), (args, ran)
        assert "no answer: check the URL" in ran.err, (args, ran)
    assert time.monotonic() - start < 2 * SOON  # not the minutes that an SDK goes on for


@pytest.mark.parametrize(
    ("args", "cure"),
    [
        (("queues", "stats", "q", "-b", "pubsub://project"), "gcloud auth application-default"),
        (("call", "any", "--force", "-b", "pubsub://project"), "GOOGLE_APPLICATION_CREDENTIALS"),
        (("result", "x", "--backend", "firestore://project/c"), "gcloud auth"),
        (("queues", "stats", "q", "-b", "servicebus://ns"), "AZURE_SERVICEBUS_CONNECTION_STRING"),
        (("result", "x", "--backend", "aztables://account/cloudq"), "run `az login`"),
    ],
)
def test_without_credentials_one_line_says_how_to_get_some(command, args, cure):
    ran = command(*args, env={"PATH": "", "HOME": "/nonexistent"})
    assert (ran.code, ran.err.count("\n"), cure in ran.err) == (2, 1, True), ran
    assert len(ran.err) < 400


def test_queues_are_made_called_peeked_and_purged(command, where):
    assert command("queues", "create", "q", "--store", *where).code == 0
    assert command("queues", "list", "--names", *where).lines == ["q"]
    sent = command("call", "any.task", "7", "--force", "-Q", "q", *where)
    assert sent.code == 0, sent
    assert "any.task" in command("queues", "peek", "q", *where).out
    purged = command("queues", "purge", "q", "--yes", *where)
    assert purged.code == 0, purged
    assert "any.task" not in command("queues", "peek", "q", *where).out


def test_doctor_tries_what_it_can(command, where):
    assert command("doctor", "-Q", "q", *where).code == 1
    command("queues", "create", "q", "--store", *where)
    ran = command("doctor", "-Q", "q", "--json", *where)
    statuses = {each["what"]: each["status"] for each in ran.json["checks"]}
    assert (ran.code, statuses["backend write"]) == (0, "ok"), ran


def test_a_sweep_deletes_what_has_expired(command, azure):
    url = azure[-1]
    driver = plugins.open_backend(url)
    assert isinstance(driver, StoreAdmin)
    driver.create_store()
    ends = {"dead": time.time() - 5, "also": time.time() - 5, "live": time.time() + 60}
    assert not driver.put([Item(key=Key(n), fields={}, expires=end) for n, end in ends.items()])
    driver.close()
    ran = command("sweep", "--backend", url)
    assert (ran.code, ran.out) == (0, f"deleted 2 expired items in {url}\n")
    assert command("sweep", "--backend", url, "--json").json == {"backend": url, "deleted": 0}


def test_a_store_that_sweeps_itself_says_so(command, project):
    (project / "r.db").touch()
    ran = command("sweep", "--backend", "sqlite:///r.db")
    assert (ran.code, "deletes expired items itself" in ran.out) == (0, True)
    ran = command("sweep", "--backend", "none")
    assert (ran.code, "no backend" in ran.err) == (2, True)
