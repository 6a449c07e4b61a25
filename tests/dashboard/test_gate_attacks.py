"""Attacks on the gate: headers sent twice, URLs that are none, bodies that never end."""

from __future__ import annotations

import socket
import time

import pytest
from starlette.testclient import TestClient

from cloudq import CloudQ
from cloudq.dashboard.access import Access, access
from cloudq.dashboard.connections import Connection
from cloudq.dashboard.site import Site
from cloudq.dashboard.throttle import Guess
from cloudq.testing import eventually
from tests.dashboard.conftest import SECRET, USERS
from tests.dashboard.serving import Stream, served
from tests.dashboard.shop import OWN, Browser

BAD_URLS = ["//[", "http://[::1", "//a\u2100b", "http://127.0.0.1:99999999/", "/x\u202ey"]


@pytest.mark.parametrize("url", BAD_URLS)
def test_what_is_no_url_is_answered_and_leads_nowhere(guarded: Site, url: str) -> None:
    browser = Browser(guarded.asgi(()))
    browser.open("/login")
    fields = {"csrf": browser.csrf(), "name": "olga", "password": SECRET, "next": url}
    answer = browser.client.post(
        "/login", data=fields, headers={"origin": OWN}, follow_redirects=False
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert browser.client.get("/live", params={"view": url}).status_code == 404
    sent = browser.client.post("/logout", headers=[(b"origin", url.encode())])
    assert sent.status_code == 403
    assert "content-security-policy" in sent.headers


def test_of_a_list_of_addresses_the_proxy_s_own_word_counts(app: CloudQ) -> None:
    """A proxy that adds a header of its own leaves the one that the browser has made up."""
    ways = Access(passwords=USERS.passwords, proxies=access(proxies=["10.0.0.5"]).proxies)
    browser = Browser(Site(app, access=ways).asgi(()), peer="10.0.0.5")
    seen: list[int] = []
    for number in range(7):
        browser.open("/login")
        fields = {"csrf": browser.csrf(), "name": f"n{number}", "password": "wrong wrong"}
        claimed = [("origin", OWN), ("x-forwarded-for", f"10.1.1.{number}")]
        headers = [*claimed, ("x-forwarded-for", "10.7.0.1")]
        seen.append(browser.client.post("/login", data=fields, headers=headers).status_code)
    assert seen[:5] == [401] * 5
    assert seen[5:] == [429] * 2


def test_a_name_that_is_said_twice_is_that_of_nobody(app: CloudQ) -> None:
    ways = access(proxy_header="X-User", proxies=["10.0.0.5"], role="operate")
    client = TestClient(Site(app, access=ways).asgi(()), base_url=OWN, client=("10.0.0.5", 1))
    assert client.get("/", headers=[("x-user", "lars")]).status_code == 200
    for names in (("olga", "lars"), ("lars", "olga"), ("olga", "")):
        headers = [("x-user", name) for name in names]
        assert client.get("/", headers=headers).status_code == 403


# ---- guesses


def _tries(site: Site, name: str, password: str, peer: str, browser: Browser | None = None) -> int:
    browser = browser or Browser(site.asgi(()), peer=peer)
    browser.open("/login")
    fields = [("csrf", browser.csrf()), ("name", name), ("password", password)]
    data = dict(fields)
    answer = browser.client.post(
        "/login", data=data, headers={"origin": OWN}, follow_redirects=False
    )
    return answer.status_code


def test_a_sign_in_of_one_s_own_makes_no_guess_at_others_free(guarded: Site) -> None:
    seen: list[int] = []
    for number in range(6):
        seen.append(_tries(guarded, f"olga{number}", "wrong wrong", "10.0.0.1"))
        _tries(guarded, "lars", SECRET, "10.0.0.1")
    assert seen == [401] * 5 + [429]


def test_who_mistypes_before_a_right_one_waits_no_longer_for_it(guarded: Site) -> None:
    for _ in range(3):
        for _ in range(4):
            assert _tries(guarded, "olga", "wrong wrong", "10.0.0.1") == 401
        assert _tries(guarded, "olga", SECRET, "10.0.0.1") == 303


def test_the_addresses_of_one_network_are_one(guarded: Site) -> None:
    seen = [_tries(guarded, f"n{n}", "wrong wrong", f"2001:db8::{n:x}") for n in range(6)]
    assert seen == [401] * 5 + [429]
    assert _tries(guarded, "olga", SECRET, "2001:db8:0:1::1") == 303
    assert _tries(guarded, "olga", SECRET, "::ffff:10.0.0.1") == 303


def test_whoever_guesses_at_a_name_keeps_its_owner_s_browser_not_out(guarded: Site) -> None:
    own = Browser(guarded.asgi(()))
    assert _tries(guarded, "olga", SECRET, "", own) == 303
    own.open("/")
    own.press("Sign out")
    for number in range(120):
        guarded.throttle.wrong(Guess(address=f"10.1.0.{number}", name="olga"))
    for _ in range(20):  # as where a proxy is not named, and all have its address
        guarded.throttle.wrong(Guess(address="127.0.0.1", name="olga"))
    assert _tries(guarded, "olga", SECRET, "10.2.0.1") == 429
    assert _tries(guarded, "lars", SECRET, "", own) == 429, "it is known for its owner alone"
    assert _tries(guarded, "olga", SECRET, "", own) == 303
    seen = [_tries(guarded, "olga", "wrong wrong", "", own) for _ in range(6)]
    assert seen == [401] * 5 + [429], "it does not guess for free"


def test_what_is_typed_for_a_name_is_not_logged(
    guarded: Site, caplog: pytest.LogCaptureFixture
) -> None:
    _tries(guarded, "my very password", "olga", "10.0.0.1")
    _tries(guarded, "olga", "wrong wrong", "10.0.0.1")
    assert "very password" not in caplog.text
    assert "name olga, from 10.0.0.1" in caplog.text


def test_no_other_site_of_the_domain_sets_the_cookie_of_a_secure_one(guarded: Site) -> None:
    client = TestClient(guarded.asgi(()), base_url="https://127.0.0.1", client=("127.0.0.1", 1))
    given = client.get("/login").headers["set-cookie"]
    assert given.startswith("__Host-cloudq_session=")
    assert "Path=/;" in given
    session = given.partition("=")[2].partition(";")[0]
    forged = TestClient(guarded.asgi(()), base_url="https://127.0.0.1", client=("127.0.0.1", 1))
    answer = forged.get("/login", headers={"cookie": f"cloudq_session={session}"})
    assert "set-cookie" in answer.headers, "it begins a session of its own"
    answer = forged.get("/login", headers={"cookie": f"__Host-cloudq_session={session}"})
    assert "set-cookie" not in answer.headers


# ---- requests that never end


class _Hasty(Connection):
    patience = 0.5
    most = 20


def _asked(port: int, start: bytes) -> socket.socket:
    asked = socket.create_connection(("127.0.0.1", port), timeout=10)
    asked.sendall(start)
    return asked


def _answers(port: int) -> bool:
    with _asked(port, b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n") as asked:
        return asked.recv(100).startswith(b"HTTP/1.1 200")


HEAD = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow:"
FORM = (
    b"POST /login HTTP/1.1\r\nhost: 127.0.0.1\r\norigin: http://127.0.0.1\r\n"
    b"content-type: application/x-www-form-urlencoded\r\ncontent-length: 900\r\n\r\na"
)
SECOND = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" + HEAD


@pytest.mark.parametrize("start", [b"", HEAD, FORM, SECOND])
def test_a_request_that_does_not_end_is_not_waited_for(guarded: Site, start: bytes) -> None:
    with served(guarded.asgi(()), connection=_Hasty) as port, _asked(port, start) as slow:
        began = time.monotonic()

        def is_closed() -> bool:
            try:
                slow.send(b"x")  # a byte now and then does not prolong it
                slow.setblocking(False)
                return not slow.recv(10_000)
            except BlockingIOError:
                return False
            except OSError:
                return True
            finally:
                slow.setblocking(True)

        eventually(is_closed)
        assert time.monotonic() - began < 5


def test_who_opens_many_connections_and_says_nothing_keeps_nobody_out(guarded: Site) -> None:
    class Patient(_Hasty):
        patience = 600.0

    with served(guarded.asgi(()), connection=Patient) as port:
        held = [_asked(port, start) for start in (b"", HEAD, FORM) * 20]
        try:
            assert _answers(port)
            assert _answers(port)
        finally:
            for each in held:
                each.close()


def test_an_open_page_is_no_slow_request(site: Site) -> None:
    with served(site.asgi(()), connection=_Hasty) as port:
        stream = Stream(port, "/")
        began = time.monotonic()
        assert stream.next()[0] == "part"
        while time.monotonic() - began < 2 * _Hasty.patience:
            assert _answers(port)
        held = [_asked(port, HEAD) for _ in range(40)]
        site.app.send_task("shop.mail", ["a@example.com"])
        assert stream.next()[0] == "part", "it goes on"
        stream.close()
        for each in held:
            each.close()


def test_who_has_not_signed_in_sends_short_forms_alone(guarded: Site) -> None:
    browser = Browser(guarded.asgi(()))
    browser.open("/login")
    fields = [("csrf", browser.csrf()), ("name", "x" * 20_000), ("password", SECRET)]
    assert browser.send("/login", fields).status_code == 413
