"""Open pages are live: one look for all of them, and none while there are none."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from cloudq import CloudQ
from cloudq.dashboard.live import MOST_OF_ONE
from cloudq.dashboard.looks import Looks, Watch
from cloudq.dashboard.site import Site
from cloudq.errors import CloudQError
from cloudq.testing import eventually
from tests.dashboard.conftest import signed_in
from tests.dashboard.serving import Stream, served
from tests.dashboard.shop import Browser


def test_a_page_that_is_open_shows_what_has_changed(site: Site, app: CloudQ) -> None:
    with served(site.asgi(())) as port:
        page = Stream(port, "/queues")
        name, data = page.next()
        assert name == "part"
        assert ">mail</a>" in json.loads(data)
        app.send_task("shop.mail", ["x"])
        _, data = page.next()
        assert '<td data-name="Ready" class="num">1</td>' in json.loads(data)
        page.close()


def test_fifty_open_pages_are_one_look(site: Site, app: CloudQ) -> None:
    with served(site.asgi(())) as port:
        pages = [Stream(port, "/") for _ in range(50)]
        eventually(lambda: site.hub.readers == 50)
        app.send_task("shop.mail", ["x"])
        with ThreadPoolExecutor(50) as pool:
            seen = list(pool.map(Stream.next, pages))
        assert len(seen) == 50
        # As many parts as one page has, for each rendering, and no more.
        parts = 5
        assert site.looks.made <= parts * site.hub.renderings
        assert site.hub.renderings <= 10
        for page in pages:
            page.close()
        eventually(lambda: site.hub.readers == 0)


def test_nothing_is_asked_while_no_page_is_open(site: Site) -> None:
    with served(site.asgi(())) as port:
        page = Stream(port, "/")
        page.next()
        page.close()
        eventually(lambda: site.hub.readers == 0)
        before = site.hub.renderings
        other = Stream(port, "/workers")
        other.next()
        assert site.hub.renderings == before + 1, "the page that was left is not rendered"
        other.close()


def test_a_page_ends_when_its_reader_signs_out(guarded: Site, app: CloudQ) -> None:
    with served(guarded.asgi(())) as port:
        olga = signed_in(guarded, "olga")
        cookie = f"cloudq_session={olga.client.cookies['cloudq_session']}"
        page = Stream(port, "/queues", cookie)
        assert page.next()[0] == "part"
        olga.open("/")
        olga.press("Sign out")
        app.send_task("shop.mail", ["x"])
        names = [name for name, _ in page.events()]
        page.close()
        assert names[-1] == "over"
        late = Stream(port, "/queues", cookie)
        late.close()
        assert late.status == 401


def test_what_all_readers_share_has_no_token(guarded: Site) -> None:
    with served(guarded.asgi(())) as port:
        olga = signed_in(guarded, "olga")
        olga.open("/schedules")
        token = olga.csrf()
        page = Stream(port, "/schedules", f"cloudq_session={olga.client.cookies['cloudq_session']}")
        html = json.loads(page.next()[1])
        assert "Run now" in html
        assert token not in html
        page.close()


def test_a_reader_who_only_looks_gets_no_buttons_and_no_arguments(guarded: Site) -> None:
    with served(guarded.asgi(())) as port:
        for name, sees in (("olga", True), ("lars", False)):
            who = signed_in(guarded, name)
            cookie = f"cloudq_session={who.client.cookies['cloudq_session']}"
            page = Stream(port, "/schedules", cookie)
            assert ("Run now" in json.loads(page.next()[1])) is sees
            page.close()


def test_one_user_takes_not_the_places_of_others(guarded: Site) -> None:
    with served(guarded.asgi(())) as port:
        cookies = [
            f"cloudq_session={signed_in(guarded, name).client.cookies['cloudq_session']}"
            for name in ("lars", "lars", "olga")
        ]
        pages = [
            Stream(port, f"/tasks?q={number}", cookies[number % 2]) for number in range(MOST_OF_ONE)
        ]
        assert {page.status for page in pages} == {200}
        one_more, other = Stream(port, "/", cookies[0]), Stream(port, "/", cookies[2])
        assert (one_more.status, other.status) == (503, 200)
        for page in (*pages, one_more, other):
            page.close()
        eventually(lambda: guarded.hub.readers == 0)
        again = Stream(port, "/", cookies[0])
        assert again.status == 200
        again.close()


def test_a_stream_ends_in_time_and_is_asked_for_anew(guarded: Site, app: CloudQ) -> None:
    guarded.hub.longest = 0.1
    with served(guarded.asgi(())) as port:
        olga = signed_in(guarded, "olga")
        page = Stream(port, "/", f"cloudq_session={olga.client.cookies['cloudq_session']}")
        names = [name for name, _ in page.events()]
        assert "over" not in names, "the page opens it again"
        page.close()


def test_whoever_asks_for_the_headers_alone_opens_no_stream(browser: Browser) -> None:
    answer = browser.client.head("/live", params={"view": "/"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")


# ---- looks


def test_a_look_is_made_once_for_all_who_ask(app: CloudQ) -> None:
    looks = Looks(app, refresh=60.0)
    made: list[int] = []
    with ThreadPoolExecutor(20) as pool:
        parts = list(pool.map(lambda _: looks.part("key", made.append, 1), range(20)))
    assert made == [1]
    assert len({id(part) for part in parts}) == 1
    looks.forget()
    looks.part("key", made.append, 2)
    assert made == [1, 2]


def test_who_asks_for_a_slow_look_waits_not_as_long_as_it_takes(app: CloudQ) -> None:
    looks = Looks(app, refresh=60.0)
    looks.patience = 0.05
    begun, over = Event(), Event()

    def slow() -> str:
        begun.set()
        over.wait(60)
        return "seen"

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(looks.part, "key", slow)
        begun.wait(60)
        assert "takes long" in (looks.part("key", slow).error or "")
        over.set()
        assert first.result().value == "seen"
    assert looks.part("key", slow).value == "seen"


def test_an_error_is_a_part_and_is_not_asked_for_again_at_once(app: CloudQ) -> None:
    looks = Looks(app, refresh=60.0)
    tries: list[int] = []

    def fails() -> None:
        tries.append(1)
        raise CloudQError("the store is down")

    watch = Watch(looks)
    for _ in range(3):
        assert watch.part("key", fails).error == "the store is down"
    assert tries == [1]
    assert watch.requests_an_hour == 0
