"""Attacks on the gate: headers sent twice, URLs that are none, bodies that never end."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from cloudq import CloudQ
from cloudq.dashboard.access import Access, access
from cloudq.dashboard.site import Site
from tests.dashboard.conftest import SECRET, USERS
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
    sent = browser.client.post("/logout", headers={"origin": url.encode()})
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
