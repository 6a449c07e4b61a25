"""Chromium drives the dashboard, over SQLite and over SQS with DynamoDB, while a worker works."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from cloudq import CloudQ
from cloudq.dashboard.site import Site
from cloudq.operations import audit, dead_letters, queues
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from tests.dashboard.chrome import Chrome
from tests.dashboard.conftest import SECRET, USERS
from tests.dashboard.serving import served
from tests.dashboard.shop import shop
from tests.servers import unique
from tests.worker.harness import Place

pytestmark = [pytest.mark.browser, pytest.mark.slow]

_LETTERS, _CHOSEN = 344, 200
HERE = Path(__file__).parent


@dataclass
class World:
    """An app with a worker, its dashboard on a port, and a browser in which olga has signed in."""

    app: CloudQ
    place: Place
    chrome: Chrome
    gates: Path

    def task(self, name: str, state: str = "SUCCESS") -> str:
        """Wait for the end of a task of this name, and return its id."""
        from cloudq.operations import tasks
        from cloudq.operations.tasks import TaskFilter
        from cloudq.results.record import State

        wanted = TaskFilter(name=name, states=(State(state),))
        return eventually(lambda: tasks.search(self.app, wanted, limit=1).rows)[0].id


@pytest.fixture(scope="module", params=["sqlite", "aws"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("shop")
    gates = folder / "gates"
    gates.mkdir()
    broker = backend = f"sqlite:///{folder}/shop.db"
    if request.param == "aws":
        aws = request.getfixturevalue("aws")
        broker = f"sqs://?endpoint_url={aws.url}&prefix={unique('shop')}-"
        backend = f"dynamodb://{unique('shop')}?endpoint_url={aws.url}"
    app = shop(broker, backend=backend)
    place = Place(
        app=app,
        broker=broker,
        backend=backend,
        queue="default",
        folder=folder,
        tasks="shop_app:app",
        environment={
            "PYTHONPATH": str(HERE),
            "SHOP_GATES": str(gates),
            # The app of a worker is made with a broker that --broker replaces.
            "CLOUDQ_WORKER_HEARTBEAT": "1",
        },
    )
    with closing(place):
        if request.param == "aws":
            _make(app)
        _fill(app)
        place.start("--processes", "1", "--threads", "8", "-n", "worker-1", queues="default")
        site = Site(app, access=USERS, refresh=1.0)
        with served(site.asgi(())) as port:
            chrome = Chrome(f"http://127.0.0.1:{port}")
            try:
                _sign_in(chrome)
                yield World(app=app, place=place, chrome=chrome, gates=gates)
            finally:
                chrome.close()


def _make(app: CloudQ) -> None:
    from cloudq.driver import StoreAdmin

    for queue in app.queues():
        with app.broker.asking("create", queue) as admin:
            admin.create(queue, lease=app.conf.lease, max_deliveries=12)
    driver = app.control.backend.driver
    assert isinstance(driver, StoreAdmin)
    driver.create_store()


def _fill(app: CloudQ) -> None:
    charge = app.tasks["shop.charge"]
    # Of 344 that fail, 200 because of no address, the others because of a card.
    app.publish(
        [charge.prepare(2 * n, address="nowhere") for n in range(_CHOSEN)]
        + [charge.prepare(2 * n + 1) for n in range(_LETTERS - _CHOSEN)]
    )
    for number in range(5):
        app.send_task("shop.mail", [f"{number}@example.com"])


def _sign_in(chrome: Chrome) -> None:
    chrome.open("/tasks?state=failed")
    assert chrome.path.startswith("/login")
    chrome.type("input[name=name]", "olga")
    chrome.type("input[name=password]", "a wrong one")
    chrome.press("Sign in")
    chrome.await_text("do not go together")
    chrome.type("input[name=password]", SECRET)
    chrome.press("Sign in")
    eventually(lambda: chrome.path == "/tasks?state=failed")


def _all_dead(world: World) -> None:
    eventually(lambda: queues.queue(world.app, "default").dead == _LETTERS)


def test_tasks_are_searched(world: World) -> None:
    _all_dead(world)
    chrome = world.chrome
    chrome.open("/")
    chrome.find("body").send_keys("/")
    chrome.find("#find").send_keys("card of order 3", Keys.ENTER)
    eventually(lambda: "q=card" in chrome.path)
    chrome.await_text("was refused")
    assert "no such address" not in chrome.text
    chrome.type("input[name=error]", "")
    chrome.open("/tasks?state=failed&name=shop.charge&since=1h&limit=100")
    chrome.await_text("100 of 344 tasks")
    chrome.find("tbody th a").click()
    chrome.await_text("Traceback (most recent call last)")


def test_a_workflow_is_followed_while_it_runs(world: World) -> None:
    chrome = world.chrome
    id = world.app.send_task("shop.gates").id
    eventually(lambda: world.app.AsyncResult(id).ready())
    chrome.open(f"/task?id={id}")
    chrome.await_text("Live")
    chrome.find("svg.graph")
    eventually(lambda: len(chrome.all(".graph .started")) == 3)
    for number in range(3):
        (world.gates / f"gate-{number}").touch()
        # Of the picture is done: what has started it, and so many of its members.
        eventually(lambda done=number + 2: len(chrome.all(".graph .success")) >= done)
    eventually(lambda: len(chrome.all(".graph .success")) == 5)
    chrome.open(f"/task?id={world.task('shop.total')}")
    chrome.press("Who is missing")
    chrome.await_text("3 of 3 members done")


def test_two_hundred_of_344_are_redriven_by_a_filter_after_a_dry_run(world: World) -> None:
    _all_dead(world)
    chrome = world.chrome
    chrome.open("/dead?by=exception")
    chrome.await_text("344 of 344 dead letters")
    chrome.press("LookupError")
    chrome.await_text("200 of 344 dead letters")
    chrome.press("Redrive all 200")
    chrome.await_text("Redrive 200 dead letters?")
    chrome.await_text("Nothing is done yet")
    _looked_at(chrome, "confirm")
    assert dead_letters.search(world.app, queue="default").matched == _LETTERS
    chrome.press("Redrive 200")
    chrome.await_text("200 dead letters redriven")
    [entry] = audit.read(world.app, action="redrive").entries
    assert (entry.who, entry.count) == ("olga", _CHOSEN)
    # They fail again, for the address is still none.
    _all_dead(world)


def test_a_redrive_at_a_rate_is_watched_and_stopped(world: World) -> None:
    _all_dead(world)
    chrome = world.chrome
    chrome.open("/dead?exception=ValueError")
    chrome.type("form[action='/act/redrive'] input[name=rate]", "2")
    chrome.press("Redrive all 144")
    chrome.press("Redrive 144")
    chrome.await_text("Under way")
    _looked_at(chrome, "job")
    chrome.press("Stop")
    chrome.await_text("Stopped after")
    _all_dead(world)


def _looked_at(chrome: Chrome, name: str) -> None:
    """Look at a page that no path leads to."""
    assert chrome.faults() == []
    folder = os.environ.get("DASHBOARD_PICTURES")
    for dark in (False, True) if folder else ():
        for width in (1440, 390):
            chrome.resize(width, dark=dark)
            shade = "dark" if dark else "light"
            chrome.picture(Path(str(folder)) / f"{name}-{width}-{shade}.png")
    chrome.resize(1440)


def test_arguments_are_changed_and_a_letter_runs(world: World) -> None:
    _all_dead(world)
    chrome = world.chrome
    chrome.open("/dead?exception=LookupError")
    chrome.find("form[data-choose] tbody th a").click()
    field = chrome.find("textarea[name=kwargs]")
    assert "nowhere" in str(field.get_attribute("value"))
    field.clear()
    field.send_keys('{"address": "1 New St"}')
    chrome.press("Redrive with these")
    chrome.await_text("another address")
    chrome.press("Redrive 1")
    chrome.await_text("1 dead letter redriven")
    world.task("shop.charge")


def test_a_task_is_run_again_with_other_arguments(world: World) -> None:
    chrome = world.chrome
    result = world.app.send_task("shop.add", [1, 2])
    assert result.get(timeout=60) == 3
    chrome.open(f"/task?id={result.id}")
    chrome.type("textarea[name=args]", "[20, 22]")
    chrome.press("Run again with these")
    chrome.press("Run 1 task again")
    chrome.await_text("runs again as")
    chrome.await_text("42")


def test_a_queue_is_paused_and_resumed(world: World) -> None:
    chrome, app = world.chrome, world.app
    chrome.open("/queue?name=default")
    chrome.press("Pause")
    chrome.press("Pause 1 queue")
    chrome.await_text("Queue default is paused")
    # A worker heeds it at its next heartbeat, so calls are sent until one stays.
    eventually(lambda: _waits(app))
    chrome.open("/queues")
    chrome.await_text("paused")
    chrome.open("/queue?name=default")
    chrome.press("Resume")
    chrome.press("Resume 1 queue")
    chrome.await_text("Queue default is resumed")
    eventually(lambda: app.send_task("shop.add", [1, 1]).get(timeout=60) == 2)


def _waits(app: CloudQ) -> bool:
    from cloudq.errors import ResultTimeout

    try:
        app.send_task("shop.add", [1, 1]).get(timeout=4)
    except ResultTimeout:
        return True
    return False


def test_a_schedule_is_run_now(world: World) -> None:
    chrome = world.chrome
    before = queues.queue(world.app, "mail").ready or 0
    chrome.open("/schedules")
    chrome.await_text("Live")
    # After the page has renewed itself its forms still are this reader's.
    chrome.press("Run now")
    chrome.press("Run 1 task now")
    chrome.await_text("runs now as")
    eventually(lambda: (queues.queue(world.app, "mail").ready or 0) == before + 1)


def test_a_worker_is_asked(world: World) -> None:
    chrome = world.chrome
    world.app.control.rate_limit("shop.add", "600/s", reply=True, timeout=PATIENCE)
    chrome.open("/workers")
    chrome.press("worker-1")
    chrome.press("Ask it")
    chrome.await_text("Rates and limits in this worker")
    chrome.await_text("600/s")
    chrome.await_text("Memory")


def test_the_keyboard_leads_everywhere(world: World) -> None:
    chrome = world.chrome
    chrome.open("/")
    body = chrome.find("body")
    body.send_keys("?")
    assert chrome.find("#help").is_displayed()
    chrome.find("#help").send_keys(Keys.ESCAPE)
    for key, path in (("t", "/tasks"), ("d", "/dead"), ("w", "/workers")):
        chrome.find("body").send_keys("g", key)
        eventually(lambda path=path: chrome.path == path)
    chrome.open("/tasks")
    chrome.find("tbody tr")
    chrome.find("body").send_keys("j", "j", "k", Keys.ENTER)
    eventually(lambda: chrome.path.startswith("/task?id="))


def test_filters_change_the_page_and_its_address(world: World) -> None:
    chrome = world.chrome
    chrome.open("/dead")
    chrome.type("input[name=error]", "order 3")
    chrome.find("input[name=error]").send_keys(Keys.TAB)
    eventually(lambda: "error=order" in chrome.path)
    chrome.await_text("dead letters: error=")
    shared = chrome.path
    chrome.open("/")
    chrome.open(shared)
    chrome.await_text("dead letters: error=")


_SCREENS = {
    "overview": "/",
    "tasks": "/tasks",
    "failures": "/tasks?state=failed&since=1h",
    "queues": "/queues",
    "queue": "/queue?name=mail&peek=1",
    "dead": "/dead?by=exception",
    "workers": "/workers",
    "worker": "/worker?name=worker-1&ask=1",
    "schedules": "/schedules",
    "workflows": "/workflows",
    "cost": "/cost",
    "audit": "/audit",
    "keys": "/keys",
    "nothing": "/task?id=no-such-task",
}


def test_axe_finds_nothing_and_every_screen_has_its_picture(world: World, tmp_path: Path) -> None:
    chrome, app = world.chrome, world.app
    folder = Path(os.environ.get("DASHBOARD_PICTURES") or tmp_path)
    billed = app.broker.limits("default").billed
    failed, total = world.task("shop.charge", "FAILURE"), world.task("shop.total")
    screens = _SCREENS | {
        "task": f"/task?id={failed}",
        "chord": f"/task?id={total}",
        "workflow": f"/workflows?id={total}",
    }
    letter = dead_letters.search(app, queue="default", limit=1).letters[0]
    screens["letter"] = f"/letter?queue=default&id={letter.peeked.id}"
    chrome.complaints()
    found: list[str] = []
    for dark in (False, True):
        for width in (1440, 390):
            chrome.resize(width, dark=dark)
            for name, path in screens.items():
                chrome.open(path)
                chrome.find("main h1")
                found += [f"{name} {width}: {fault}" for fault in chrome.faults()]
                if (wide := chrome.width()) > width:
                    found.append(f"{name} is {wide} wide in a window of {width}")
                shade = "dark" if dark else "light"
                cloud = "aws" if billed else "sqlite"
                chrome.picture(folder / f"{cloud}-{name}-{width}-{shade}.png")
    chrome.resize(1440)
    assert found == []
    assert [each for each in chrome.complaints() if "404" not in each] == []


def test_the_page_says_what_looking_costs(world: World) -> None:
    chrome = world.chrome
    chrome.open("/")
    if world.app.broker.limits("default").billed:
        chrome.await_text("billed requests a look")
        chrome.await_text("an hour ($")
    else:
        chrome.await_text("no request is billed")


def test_signing_out_ends_the_session(world: World) -> None:
    chrome = world.chrome
    chrome.open("/")
    chrome.press("Sign out")
    eventually(lambda: chrome.path.startswith("/login"))
    _looked_at(chrome, "login")
    chrome.open("/queues")
    assert chrome.path.startswith("/login")
