"""The billed requests of a look at each page are those that the manual tells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cloudq.dashboard.access import Access
from cloudq.dashboard.site import Site
from cloudq.dashboard.views import VIEWS
from cloudq.driver import StoreAdmin
from cloudq.monitoring.heartbeats import Heartbeat
from cloudq.testing import drain
from localstack.servers import Endpoint
from tests.dashboard.shop import Browser, fill, shop
from tests.servers import unique

_MANUAL = Path(__file__).parents[2] / "docs" / "how-to" / "use-the-dashboard.md"


def _told() -> dict[str, tuple[int, str]]:
    rows = re.findall(r"^\| (\w+) \| (\d+) \| ([\w, ]+) \|$", _MANUAL.read_text(), re.MULTILINE)
    return {name: (int(count), hour) for name, count, hour in rows}


def test_the_manual_tells_of_the_pages_that_open_without_more() -> None:
    assert _told().keys() == {view.name for view in VIEWS} - {"worker"}


def test_a_look_makes_the_requests_that_the_manual_says(aws: Endpoint) -> None:
    told = _told()
    prefix, table = unique("looks"), unique("looks")
    broker = f"sqs://?endpoint_url={aws.url}&prefix={prefix}-"
    with shop(broker, backend=f"dynamodb://{table}?endpoint_url={aws.url}") as app:
        for queue in app.queues():
            with app.broker.asking("create", queue) as admin:
                admin.create(queue, lease=60, max_deliveries=12)
        driver = app.control.backend.driver
        assert isinstance(driver, StoreAdmin)
        driver.create_store()
        id = fill(app)
        app.send_task("shop.workflow")
        drain(app, ["default"])
        now = app.runtime.clock()
        beat = Heartbeat(hostname="w", started=now, seen=now, queues=["default"])
        app.control.heartbeats.beat(beat, first=True)
        site = Site(app, access=Access())
        assert site.looks.refresh == pytest.approx(15.0)
        browser = Browser(site.asgi(()))
        rows = browser.client.get("/api/v1/tasks?name=shop.total").json()["data"]["found"]
        queries = {
            "task": f"?id={rows['value']['rows'][0]['id']}",
            "queue": "?name=mail",
            "letter": f"?queue=default&id={id}",
        }
        for name, (count, hour) in told.items():
            site.looks.forget()
            answer = browser.client.get(f"/api/v1/{name}{queries.get(name, '')}").json()
            made = answer["cost"]["requests"]
            assert made == pytest.approx(count), (name, made)
            if hour[0].isdigit():
                assert f"{answer['cost']['requests_an_hour']:,.0f}" == hour, name
            text = browser.open(f"{_path(name)}{queries.get(name, '')}")
            assert browser.status == 200
            assert "billed request" in text


def _path(name: str) -> str:
    return next(view.path for view in VIEWS if view.name == name)
