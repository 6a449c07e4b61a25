"""Each page shows what there is, also where there is nothing, or something is broken."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.dashboard.access import Access
from cloudq.dashboard.site import Site
from cloudq.dashboard.views import VIEWS
from cloudq.testing import drain
from tests.dashboard.serving import served
from tests.dashboard.shop import Browser, fill, shop


@pytest.mark.parametrize("view", VIEWS, ids=[view.name for view in VIEWS])
def test_a_page_of_an_app_that_has_done_nothing_says_what_to_do(
    browser: Browser, view: object
) -> None:
    path = getattr(view, "path", "/")
    text = browser.open(path)
    assert browser.status == 200
    assert "Traceback" not in text
    assert "None" not in text.replace("None are recorded", "")


def test_the_overview_says_that_no_worker_lives(browser: Browser) -> None:
    text = browser.open("/")
    assert "No worker is alive" in text
    assert "cloudq worker -A" in text


def test_the_overview_counts_queues_and_failures(browser: Browser, app: CloudQ) -> None:
    fill(app)
    text = browser.open("/")
    assert "shop.charge" in text
    assert "Failures of shop.charge: 6 in all" in text
    assert 'href="/dead?queue=default">6</a>' in text


def test_tasks_are_found_by_state_name_error_and_id(browser: Browser, app: CloudQ) -> None:
    id = fill(app)
    assert "7 of 7 tasks" in browser.open("/tasks?state=SUCCESS,FAILURE")
    assert "6 of 6 tasks" not in browser.open("/tasks?state=SUCCESS")
    assert "1 of 1 tasks" in browser.open("/tasks?state=SUCCESS")
    assert "6 of 6 tasks" in browser.open("/tasks?state=failed&name=shop.*")
    assert "2 of 2 tasks" in browser.open("/tasks?error=order+1")
    assert "0 of 0 tasks" in browser.open("/tasks?error=nothing+of+the+kind")
    assert id in browser.open(f"/tasks?q={id}")
    assert "1 of 1 tasks" in browser.open(f"/tasks?q={id}")
    assert "0 of 0 tasks" in browser.open("/tasks?queue=mail")
    assert "6 of 6 tasks" in browser.open("/tasks?q=refused")
    assert "1 of 1 tasks" in browser.open("/tasks?q=shop.add")
    assert "1 of 1 tasks" in browser.open("/tasks?q=ADD")
    assert "1 of 1 tasks" in browser.open(f"/tasks?q={id[:-1]}")
    assert "0 of 0 tasks" in browser.open("/tasks?q=nothing")


def test_a_scope_is_said_plainly(browser: Browser, app: CloudQ) -> None:
    for _ in range(60):
        app.send_task("shop.add", [1, 1])
    drain(app, ["default"])
    assert "50 of 60 tasks" in browser.open("/tasks")
    assert "60 of 60 tasks" in browser.open("/tasks?limit=100")


def test_one_task_shows_its_life(browser: Browser, app: CloudQ) -> None:
    id = fill(app)
    text = browser.open(f"/task?id={id}")
    assert "card of order 1 was refused" in text
    assert "Traceback (most recent call last)" in text
    assert "Side St" in text
    assert "STARTED" in text
    assert "FAILURE" in text
    assert "It was dead-lettered" in text


def test_secrets_in_arguments_are_never_shown(browser: Browser, app: CloudQ) -> None:
    id = fill(app)
    for path in (f"/task?id={id}", "/tasks", "/dead", f"/letter?queue=default&id={id}"):
        text = browser.open(path)
        assert browser.status == 200
        assert "k-123456789" not in text, path
        assert "k-123456789" not in browser.client.get(f"/api/v1{path.replace('?', '?')}").text
    assert "***" in browser.open(f"/task?id={id}")


def test_a_workflow_is_drawn_with_its_members(browser: Browser, app: CloudQ) -> None:
    app.send_task("shop.workflow")
    drain(app, ["default"])
    rows = json.loads(browser.client.get("/api/v1/tasks?name=shop.total").text)
    id = rows["data"]["found"]["value"]["rows"][0]["id"]
    text = browser.open(f"/task?id={id}")
    assert '<svg class="graph"' in text
    assert text.count('class="box success') >= 4
    assert "3 members" in text
    assert "3 of 3 members done" in browser.open(f"/workflows?id={id}")


def test_a_queue_is_peeked_only_when_that_is_asked_for(browser: Browser, app: CloudQ) -> None:
    fill(app)
    assert "shop.mail" not in browser.open("/queue?name=mail")
    assert "shop.mail" in browser.open("/queue?name=mail&peek=1")
    assert "a@example.com" in browser.text


def test_a_queue_that_is_not_there_is_told_with_the_one_that_is_meant(browser: Browser) -> None:
    text = browser.open("/queue?name=mial")
    assert "did you mean" in text


def test_dead_letters_are_grouped_and_filtered(browser: Browser, app: CloudQ) -> None:
    fill(app, letters=10)
    text = browser.open("/dead?by=exception")
    assert "10 of 10 dead letters" in text
    assert "ValueError" in text
    browser.open("/dead?error=order+1+was")
    assert "2 of 10 dead letters" in browser.text
    assert "0 of 10 dead letters" in browser.open("/dead?task=shop.mail")
    assert "10 of 10 dead letters" in browser.open("/dead?newer=1h")
    assert "0 of 10 dead letters" in browser.open("/dead?older=1h")


def test_dead_letters_have_pages_that_keep_the_filter(browser: Browser, app: CloudQ) -> None:
    fill(app, letters=70)
    text = browser.open("/dead?task=shop.*")
    assert "page 1 of 2" in text
    assert "task=shop.%2A&amp;page=2" in text
    assert "page 2 of 2" in browser.open("/dead?task=shop.*&page=2")


def test_schedules_are_shown_with_their_next_runs(browser: Browser) -> None:
    text = browser.open("/schedules")
    assert "daily" in text
    assert "shop.mail" in text
    assert "No beat is running" in text


def test_a_store_that_is_missing_is_said(tmp_path: Path) -> None:
    with shop(f"sqlite:///{tmp_path}/shop.db", backend="none") as app:
        browser = Browser(Site(app, access=Access()).asgi(()))
        assert "This app has no result store" in browser.open("/")
        for view in VIEWS:
            browser.open(view.path)
            assert browser.status == 200, view.path


def test_a_store_that_cannot_be_reached_hides_no_queue(tmp_path: Path) -> None:
    store = tmp_path / "gone" / "store.db"
    store.parent.mkdir()
    store.write_bytes(b"no database at all, not in the least" * 100)
    with shop(f"sqlite:///{tmp_path}/shop.db", backend=f"sqlite:///{store}") as app:
        browser = Browser(Site(app, access=Access()).asgi(()))
        text = browser.open("/")
        assert browser.status == 200
        assert "The workers cannot be read" in text
        assert 'href="/queue?name=mail"' in text


def test_the_api_has_the_data_of_each_page_and_a_schema(browser: Browser, app: CloudQ) -> None:
    fill(app)
    schema = json.loads(browser.client.get("/api/v1/schema").text)
    assert schema["openapi"].startswith("3.")
    for view in VIEWS:
        answer = browser.client.get(f"/api/v1/{view.name}")
        assert answer.status_code == 200, view.name
        told = answer.json()
        described = schema["components"]["schemas"][f"{view.name.capitalize()}Data"]
        assert set(told["data"]) == set(described["properties"]), view.name
    assert browser.client.get("/api/v1/nothing").status_code == 404


def test_a_dashboard_works_below_a_path(app: CloudQ) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    fill(app)
    outer = Starlette(routes=[Mount("/ops/cloudq", Site(app, access=Access()).asgi(()))])
    browser = Browser(outer)
    text = browser.open("/ops/cloudq/")
    assert 'href="/ops/cloudq/tasks"' in text
    assert 'href="/ops/cloudq/static/app.css' in text
    assert browser.client.get("/ops/cloudq/static/app.css").status_code == 200
    browser.open("/ops/cloudq/queue?name=mail")
    browser.press("Pause")
    assert "Pause queue mail?" in browser.text
    browser.press("Pause 1 queue")
    assert browser.status == 200
    assert "Queue mail is paused" in browser.text
    assert browser.path.startswith("/ops/cloudq/")


def test_a_proxy_that_takes_a_path_off_is_told_by_root_path(site: Site) -> None:
    with served(site.asgi(()), root_path="/cloudq") as port:
        browser = http.client.HTTPConnection("127.0.0.1", port)
        browser.request("GET", "/queues")
        text = browser.getresponse().read().decode()
        assert 'href="/cloudq/tasks"' in text
        assert 'data-live="/cloudq/live?view=%2Fqueues"' in text
        browser.request("GET", "/static/app.css")
        assert browser.getresponse().read().startswith(b"/*")
        browser.close()


def test_pages_answer_with_a_strict_policy_and_no_script_of_their_own(browser: Browser) -> None:
    for view in VIEWS:
        answer = browser.client.get(view.path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "<script>" not in answer.text
        assert " style=" not in answer.text
        assert " onclick" not in answer.text
        assert answer.headers["cache-control"] == "no-store"
        assert "http://" not in answer.text.replace("http://www.w3.org", "")


def test_a_theme_is_kept(browser: Browser) -> None:
    browser.open("/tasks?state=failed")
    browser.press("Theme: auto")
    assert 'data-theme="light"' in browser.text
    assert browser.path == "/tasks?state=failed"
    browser.press("Theme: light")
    assert 'data-theme="dark"' in browser.text
