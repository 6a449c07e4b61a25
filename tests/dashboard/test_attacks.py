"""Attacks: strangers' text in every field, forged forms, guesses, replays, odd requests."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import MutableMapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from cloudq import CloudQ
from cloudq.dashboard.access import Access, Role, User, access, line_of
from cloudq.dashboard.gate import MOST_BYTES, SECURITY
from cloudq.dashboard.server import Place, check
from cloudq.dashboard.site import Site
from cloudq.dashboard.views import VIEWS
from cloudq.driver import Outgoing
from cloudq.errors import ConfigurationError
from cloudq.messages.message import new_id
from cloudq.monitoring.heartbeats import Heartbeat
from cloudq.operations import audit, queues
from cloudq.operations.audit import Actor
from cloudq.results.record import Record, State
from cloudq.testing import drain
from tests.dashboard.conftest import SECRET, USERS, signed_in
from tests.dashboard.shop import OWN, Browser, fill

EVIL = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> "
    "\u202egnp.exe\u2066 \x1b[2J\x00 {{7*7}}"
)
ACTIONS = ("redrive", "delete-dead", "purge", "pause-queue", "revoke", "run-now", "shutdown")


class _Tags(HTMLParser):
    """Refuses every tag that runs or fetches something, as a browser would understand the page."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            assert not name.startswith("on"), (tag, attrs)
            assert name != "style", (tag, attrs)
            if name in ("src", "href", "action", "formaction", "hx-get", "data-live"):
                assert (value or "").startswith(("/", "#")), (tag, attrs)
                assert not (value or "").startswith("//"), (tag, attrs)
        assert tag not in ("iframe", "object", "embed", "base", "style"), attrs
        assert tag != "script" or dict(attrs)["src"], attrs


def _is_safe(text: str) -> None:
    _Tags().feed(text)
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "\u202e" not in text
    assert "\u2066" not in text
    assert "\x1b" not in text
    assert "\x00" not in text
    assert " 49" not in text


def _hostile(app: CloudQ) -> str:
    """Leave hostile text wherever a stranger can leave any; return the id of the task."""
    backend = app.control.backend
    now = time.time()
    id = f"id-{EVIL}"[:200]
    record = Record(
        id=id,
        state=State.FAILURE,
        task=f"shop.{EVIL}",
        error_type=f"Error{EVIL}",
        error=EVIL,
        traceback=f"Traceback\n  {EVIL}",
        value=EVIL,
        meta=f'{{"current": "{EVIL[:8]}"}}',
        queue=EVIL,
        worker=EVIL,
        started_at=now - 2,
        finished_at=now - 1,
        custom=EVIL[:30],
        parent=EVIL,
        children=f'[[["{EVIL[:8]}", null], null]]',
    )
    backend.store([record])
    backend.note(record)
    app.control.heartbeats.beat(
        Heartbeat(
            hostname=EVIL, app=EVIL, version=EVIL, started=now, seen=now, queues=[EVIL],
            running=1, longest=[[EVIL, EVIL, now]], processes=1, threads=1,
        ),
        first=True,
    )  # fmt: skip
    audit.write(app, Actor(who=EVIL, via=EVIL), EVIL, EVIL, outcome=EVIL)
    body = b'{"v":1,"id":"x","task":"' + EVIL.encode()
    app.broker.driver.send("default", [Outgoing(id=new_id(), body=body)])
    drain(app, ["default"])
    app.send_task(f"no.such.{EVIL[:20]}", [EVIL], {EVIL: EVIL}, queue="mail")
    return id


def test_hostile_text_is_text_on_every_page(browser: Browser, app: CloudQ) -> None:
    id = _hostile(app)
    paths = [view.path for view in VIEWS]
    query = {"id": id, "name": EVIL, "queue": EVIL, "q": EVIL, "error": EVIL, "task": EVIL}
    for path in paths:
        for given in ({}, query, {"name": "mail", "peek": "1"}, {"queue": "default"}):
            answer = browser.client.get(path, params=given)
            assert answer.status_code == 200, path
            _is_safe(answer.text)
            answer = browser.client.get(f"/api/v1/{path.strip('/') or 'overview'}", params=given)
            assert answer.status_code == 200, path
            assert "\x1b" not in answer.text
            assert "\u202e" not in answer.text


def test_hostile_text_is_text_in_confirmations_and_their_outcomes(
    browser: Browser, app: CloudQ
) -> None:
    _hostile(app)
    browser.open("/dead")
    browser.press("Redrive 1", kwargs='{"<b>x": 1}')
    _is_safe(browser.text)
    browser.open("/dead")
    browser.press("Delete 1")
    _is_safe(browser.text)
    for action in ACTIONS:
        sent = {"csrf": browser.csrf(), "id": EVIL, "name": EVIL, "queue": EVIL, "scope": "all"}
        answer = browser.send(f"/act/{action}", list(sent.items()))
        _is_safe(answer.text)


def test_a_hidden_sign_is_made_visible(browser: Browser, app: CloudQ) -> None:
    _hostile(app)
    text = browser.open("/dead")
    assert "\\u202e" in text or "\\x1b" in text


@pytest.mark.parametrize("action", ACTIONS)
def test_a_form_without_a_token_or_with_another_session_s_is_refused(
    guarded: Site, app: CloudQ, action: str
) -> None:
    fill(app)
    olga, other = signed_in(guarded, "olga"), signed_in(guarded, "olga")
    fields = [("name", "default"), ("queue", "default"), ("scope", "all"), ("confirmed", "1")]
    other.open("/queue?name=default")
    for token in ("", "x", other.csrf()):
        answer = olga.send(f"/act/{action}", [*fields, ("csrf", token), ("once", "1")])
        assert answer.status_code == 403
    assert audit.read(app).entries == []


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://127.0.0.1:5556", "null", "http://127.0.0.1.evil.example:5555"],
)
def test_a_form_of_another_site_is_refused(browser: Browser, app: CloudQ, origin: str) -> None:
    fill(app)
    browser.open("/dead")
    browser.press("Delete all 6", origin=origin)
    assert browser.status == 403


def test_a_form_from_nowhere_or_across_sites_is_refused(browser: Browser, app: CloudQ) -> None:
    browser.open("/queue?name=default")
    data = {"csrf": browser.csrf(), "name": "default"}
    assert browser.client.post("/act/purge", data=data).status_code == 403
    headers = {"origin": OWN, "sec-fetch-site": "cross-site"}
    assert browser.client.post("/act/purge", data=data, headers=headers).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:5555", "127.0.0.1.evil.example",
                                  "localhost@evil.example", "", "[::1", "a/b"])  # fmt: skip
def test_a_name_that_is_not_the_dashboard_s_is_refused(browser: Browser, host: str) -> None:
    assert browser.client.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:5555", "localhost:1", "[::1]:5555", "10.0.0.7"])
def test_addresses_and_the_machine_itself_are_its_names(browser: Browser, host: str) -> None:
    assert browser.client.get("/", headers={"host": host}).status_code == 200


def test_a_role_that_looks_cannot_act_and_sees_no_arguments(guarded: Site, app: CloudQ) -> None:
    id = fill(app)
    lars = signed_in(guarded, "lars")
    for path in (f"/task?id={id}", "/tasks", "/dead", f"/letter?queue=default&id={id}",
                 "/queue?name=mail&peek=1", "/schedules"):  # fmt: skip
        text = lars.open(path)
        assert lars.status == 200
        assert "Side St" not in text
        assert "a@example.com" not in text
        assert not {"Redrive", "Delete", "Purge", "Pause", "Run now", "Revoke"} & (
            set(lars.buttons()) - {"Pause"}
        )
        api = lars.client.get(f"/api/v1{path}").text
        assert "Side St" not in api
        assert "a@example.com" not in api
    for action in ACTIONS:
        fields = {"csrf": lars.csrf(), "name": "mail", "queue": "default", "scope": "all",
                  "confirmed": "6", "once": "x", "id": id}  # fmt: skip
        assert lars.send(f"/act/{action}", list(fields.items())).status_code == 403
    assert lars.send("/download/dead", [("csrf", lars.csrf())]).status_code == 403
    assert lars.send("/stop", [("csrf", lars.csrf())]).status_code == 403
    assert queues.queue(app, "mail").ready == 1
    assert audit.read(app).entries == []


def test_nobody_sees_anything_without_signing_in(guarded: Site) -> None:
    browser = Browser(guarded.asgi(()))
    for view in VIEWS:
        answer = browser.client.get(view.path, follow_redirects=False)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login")
        assert browser.client.get(f"/api/v1/{view.name}").status_code == 401
    assert browser.client.get("/live?view=/").status_code == 401
    assert browser.client.get("/api/v1/schema").status_code == 401
    assert browser.client.get("/job?id=x", follow_redirects=False).status_code == 303


def test_a_session_is_new_at_sign_in_and_gone_at_sign_out(guarded: Site) -> None:
    browser = Browser(guarded.asgi(()))
    browser.open("/login")
    before = browser.client.cookies["cloudq_session"]
    browser.press("Sign in", name="olga", password=SECRET)
    during = browser.client.cookies["cloudq_session"]
    assert during != before
    assert browser.path == "/"
    browser.press("Sign out")
    for cookie in (before, during):
        fresh = Browser(guarded.asgi(()))
        fresh.client.cookies.set("cloudq_session", cookie)
        answer = fresh.client.get("/tasks", follow_redirects=False)
        assert answer.status_code == 303, "a replayed session is one of nobody"


def test_who_signs_in_again_leaves_no_session_behind(guarded: Site) -> None:
    browser = signed_in(guarded, "olga")
    before = browser.client.cookies["cloudq_session"]
    browser.open("/")
    fields = [("csrf", browser.csrf()), ("name", "lars"), ("password", SECRET)]
    browser.send("/login", fields)
    assert "lars, looks only" in browser.open("/")
    fresh = Browser(guarded.asgi(()))
    fresh.client.cookies.set("cloudq_session", before)
    assert fresh.client.get("/", follow_redirects=False).status_code == 303


def test_a_forged_cookie_is_nobody_s(guarded: Site) -> None:
    olga = signed_in(guarded, "olga")
    good = olga.client.cookies["cloudq_session"]
    id, _, signature = good.partition(".")
    for bad in (id, f"{id}.", f"{id}.{signature[:-1]}0x", f"x{good}", f"{id}.{'0' * 64}", "é.é"):
        fresh = TestClient(guarded.asgi(()), base_url=OWN, client=("127.0.0.1", 1))
        answer = fresh.get(
            "/", headers={"cookie": f"cloudq_session={bad}".encode()}, follow_redirects=False
        )
        assert answer.status_code == 303


def test_a_cookie_is_of_no_use_to_scripts_and_other_sites(guarded: Site) -> None:
    browser = Browser(guarded.asgi(()))
    answer = browser.client.get("/login")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    secure = TestClient(guarded.asgi(()), base_url="https://127.0.0.1", client=("127.0.0.1", 1))
    assert "Secure" in secure.get("/login").headers["set-cookie"]


def test_guesses_are_slowed_down(guarded: Site) -> None:
    browser = Browser(guarded.asgi(()))
    browser.open("/login")
    seen: list[int] = []
    for number in range(8):
        browser.press("Sign in", name="olga", password=f"guess {number}")
        seen.append(browser.status)
    assert seen[:5] == [401] * 5
    assert set(seen[5:]) == {429}
    browser.press("Sign in", name="olga", password=SECRET)
    assert browser.status == 429, "the right one has to wait too, or it would be told apart"


def test_behind_a_proxy_each_browser_is_slowed_down_for_itself(app: CloudQ) -> None:
    ways = Access(passwords=USERS.passwords, proxies=access(proxies=["10.0.0.5"]).proxies)
    browser = Browser(Site(app, access=ways).asgi(()), peer="10.0.0.5")

    def tries(address: str, name: str, password: str) -> int:
        browser.open("/login")
        fields = {"csrf": browser.csrf(), "name": name, "password": password}
        headers = {"origin": OWN, "x-forwarded-for": f"1.2.3.4, {address}"}
        return browser.client.post(
            "/login", data=fields, headers=headers, follow_redirects=False
        ).status_code

    assert [tries("10.7.0.1", f"n{number}", "wrong wrong") for number in range(6)][-1] == 429
    assert tries("10.7.0.2", "olga", SECRET) == 303


def test_an_unknown_name_and_a_wrong_password_read_alike(guarded: Site) -> None:
    texts: list[str] = []
    for name in ("olga", "nobody"):
        browser = Browser(guarded.asgi(()))
        browser.open("/login")
        browser.press("Sign in", name=name, password="wrong wrong")
        texts.append(re.sub(r'value="[^"]*"', "", browser.text))
    assert texts[0] == texts[1]


def test_wrong_tokens_are_slowed_down_and_a_right_one_reads(guarded: Site) -> None:
    client = TestClient(guarded.asgi(()), base_url=OWN, client=("127.0.0.1", 1))
    right = {"authorization": "Bearer t0ken-of-sixteen-characters"}
    assert client.get("/api/v1/queues", headers=right).status_code == 200
    assert client.get("/queues", headers=right, follow_redirects=False).status_code == 303
    answers = [
        client.get("/api/v1/queues", headers={"authorization": f"Bearer {n}"}).status_code
        for n in range(7)
    ]
    assert answers[:5] == [401] * 5
    assert answers[5:] == [429] * 2


@pytest.mark.parametrize("path", ["//evil.example", "https://evil.example", "/\\evil.example",
                                  "javascript:alert(1)", "/\r\nset-cookie: x=1", ""])  # fmt: skip
def test_nobody_is_led_elsewhere(guarded: Site, path: str) -> None:
    browser = Browser(guarded.asgi(()))
    browser.open("/login")
    fields = [("csrf", browser.csrf()), ("name", "olga"), ("password", SECRET), ("next", path)]
    answer = browser.client.post(
        "/login", data=dict(fields), headers={"origin": OWN}, follow_redirects=False
    )
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize(
    "path",
    ["/static/../access.py", "/static/..%2faccess.py", "/static/%2e%2e/access.py", "/static/",
     "/static/app.css/../../x", "/static//etc/passwd", "/static/htmx.LICENSE.txt", "/../../etc"],
)  # fmt: skip
def test_no_path_reaches_a_file(browser: Browser, path: str) -> None:
    answer = browser.client.get(path)
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_what_is_too_large_or_odd_is_refused(browser: Browser) -> None:
    browser.open("/queue?name=default")
    csrf, own = browser.csrf(), {"origin": OWN}
    big = {"csrf": csrf, "name": "x" * (MOST_BYTES + 1)}
    assert browser.client.post("/act/purge", data=big, headers=own).status_code == 413
    form = {**own, "content-type": "application/x-www-form-urlencoded"}
    many = "&".join(f"id={n}" for n in range(13_000)) + f"&csrf={csrf}"
    assert browser.client.post("/act/redrive", content=many, headers=form).status_code == 400
    wrong = {**own, "content-type": "application/json"}
    assert browser.client.post("/act/purge", content="{}", headers=wrong).status_code == 415
    assert browser.client.get(f"/tasks?q={'x' * 9000}").status_code == 414
    assert browser.client.put("/act/purge").status_code == 405
    assert browser.client.delete("/").status_code == 405
    assert browser.client.get("/act/purge").status_code == 404
    assert browser.client.get("/tasks?limit=99999999999&since=-1&state=%00&until=1e400").is_success
    assert browser.client.get("/dead?page=99999&older=nan&by=nothing").is_success
    bad = {"csrf": csrf, "name": "default"}
    assert browser.client.post("/act/no-such", data=bad, headers=own).status_code == 404


def test_a_body_of_no_told_length_is_not_read_to_its_end(site: Site) -> None:
    read: list[int] = []

    async def receive() -> dict[str, Any]:
        read.append(1)
        return {"type": "http.request", "body": b"x" * 100_000, "more_body": len(read) < 1000}

    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    names = {"host": "127.0.0.1", "origin": "http://127.0.0.1"}
    names["content-type"] = "application/x-www-form-urlencoded"
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/act/purge",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in names.items()],
        "client": ("127.0.0.1", 1),
    }
    asyncio.run(site.asgi(())(scope, receive, send))  # pyright: ignore[reportArgumentType]
    assert sent[0]["status"] == 413
    assert len(read) < 20


def test_a_stream_is_one_of_a_known_page(browser: Browser) -> None:
    for view in ("", "/nope", "//evil.example/", "http://evil.example/", "/audit", "/live"):
        assert browser.client.get("/live", params={"view": view}).status_code == 404


def test_every_answer_has_the_headers_of_safety(guarded: Site) -> None:
    client = TestClient(guarded.asgi(()), base_url=OWN, client=("127.0.0.1", 1))
    for path in ("/", "/login", "/nope", "/static/app.css", "/api/v1/queues", "/healthz"):
        headers = client.get(path, follow_redirects=False).headers
        assert SECURITY.items() <= dict(headers).items(), path
    refused = client.get("/", headers={"host": "evil.example"})
    assert SECURITY.items() <= dict(refused.headers).items()


# ---- the ways in


def test_no_user_no_start_off_loopback() -> None:
    for host in ("0.0.0.0", "10.1.2.3", "::", "shop.example"):
        with pytest.raises(ConfigurationError, match="has no user"):
            check(Place(host=host), Access())
    for host in ("127.0.0.1", "localhost", "::1"):
        check(Place(host=host), Access())
    check(Place(host="0.0.0.0"), USERS)


def test_an_open_dashboard_serves_its_own_machine_alone(site: Site) -> None:
    for peer in ("10.0.0.9", "testclient", "2001:db8::1"):
        assert Browser(site.asgi(()), peer=peer).client.get("/").status_code == 403
    near = Browser(site.asgi(()))
    for proxied in ("x-forwarded-for", "x-real-ip", "forwarded", "via"):
        assert near.client.get("/", headers={proxied: "10.0.0.9"}).status_code == 403


def _proxied(role: str = "operate") -> Access:
    return access(proxy_header="X-User", proxies=["10.0.0.5", "10.9.0.0/16"], role=role)


def test_a_header_is_believed_from_the_named_proxy_alone(app: CloudQ) -> None:
    site = Site(app, access=_proxied())
    given = {"x-user": "olga"}
    for peer in ("10.0.0.5", "10.9.3.4"):
        answer = Browser(site.asgi(()), peer=peer).client.get("/", headers=given)
        assert answer.status_code == 200
        assert "olga, may operate" in answer.text
    for peer in ("10.0.0.6", "127.0.0.1", "testclient"):
        assert Browser(site.asgi(()), peer=peer).client.get("/", headers=given).status_code == 403
    proxy = Browser(site.asgi(()), peer="10.0.0.5").client
    assert proxy.get("/").status_code == 403
    assert proxy.get("/", headers={"x-user": "<script>"}).status_code == 403


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"proxy_header": "X-User"}, "named proxy"),
        ({"proxy_header": "X-User", "proxies": ["nowhere"]}, "no address"),
        ({"token": "short"}, "16 at least"),
        ({"role": "root"}, "no role"),
        ({"passwords": Path("/nonexistent/users")}, "there is no file of passwords"),
    ],
)
def test_wrong_ways_in_are_told(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        access(**given)


def test_a_file_of_passwords_is_read_and_its_faults_are_told(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(f"# who may\n\n{line_of('olga', SECRET, Role.OPERATE)}\n")
    made = access(passwords=file)
    assert made.by_password("olga", SECRET) == User(name="olga", role=Role.OPERATE)
    assert made.by_password("olga", SECRET.upper()) is None
    assert made.by_password("lars", SECRET) is None
    for line in ("olga", "olga:operate:plain-password", "olga:root:" + "x",
                 "olga:look:scrypt$1$1$1$AA==$AA==", "ol ga:look:scrypt$"):  # fmt: skip
        file.write_text(line)
        with pytest.raises(ConfigurationError, match="line 1"):
            access(passwords=file)
    file.write_text("# nobody\n")
    with pytest.raises(ConfigurationError, match="names no user"):
        access(passwords=file)


def test_passwords_are_kept_as_salted_hashes() -> None:
    one, other = (line_of("olga", SECRET, Role.LOOK) for _ in range(2))
    assert one != other
    assert SECRET not in one
    with pytest.raises(ConfigurationError, match="8 characters"):
        line_of("olga", "short", Role.LOOK)
    with pytest.raises(ConfigurationError, match="no name"):
        line_of("ol:ga", SECRET, Role.LOOK)
