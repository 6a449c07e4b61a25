"""A secret argument is seen by its task, and nowhere else."""

from __future__ import annotations

import base64
import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from cloudq import CloudQ, InvalidArguments, chain, chord
from cloudq.dashboard.access import Access
from cloudq.dashboard.site import Site
from cloudq.dashboard.views import VIEWS
from cloudq.testing import eventually
from tests.dashboard.shop import Browser
from tests.support.forge import Forge

MARK = "4111-canary"
CARD = f'it\'s "{MARK}"\\\n{MARK}-ü/ends'
HERE = Path(__file__).parent
KEY = base64.b64encode(bytes(32)).decode()

Run = Callable[..., str]


@pytest.fixture(params=["plain", "encrypted"])
def vault(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """The module of the app, on a file of its own."""
    monkeypatch.setenv("VAULT", str(tmp_path))
    if request.param == "encrypted":
        pytest.importorskip("cryptography")
        monkeypatch.setenv("VAULT_KEY", KEY)
    found = importlib.util.spec_from_file_location("vault", HERE / "vault.py")
    assert found is not None
    assert found.loader is not None
    made: Any = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "vault", made)
    found.loader.exec_module(made)
    yield made
    made.app.close()


@pytest.fixture
def run(vault: Any, forge: Forge) -> Run:
    """Runs a command, and returns all that it prints."""

    def command(*words: str) -> str:
        done = forge.run([*words, "-A", "vault:app"], cwd=HERE, env=os.environ)
        return done.stdout + done.stderr

    return command


def send_all(vault: Any) -> list[Any]:
    """Send a call of each kind; return the results of those that end."""
    app: CloudQ = vault.app
    calls: list[Any] = [
        vault.pay.delay(1, CARD),
        vault.pay.delay(1, card=CARD),
        vault.fail.apply_async((1, CARD), link_error=vault.told.s()),
        vault.again.delay(card=CARD),
        vault.spent.delay(CARD),
        vault.many.delay("short", CARD),
        vault.named.delay(a=1, b={"c": [CARD]}),
        vault.key.delay(SecretStr(CARD)),
        vault.loose.delay({"in": [SecretStr(CARD)]}),
        vault.order.delay(vault.Order(card=CARD)),
        vault.config.delay({"database": [{"Password_1": CARD}]}),
        vault.buried.delay(CARD),
        vault.refused.delay(CARD),
        vault.logs.delay(CARD),
        vault.fail.apply_async((1, CARD), expires=datetime(2001, 1, 1, tzinfo=UTC)),
        chain(vault.pay.s(1), vault.fail.s(CARD)).delay(),
        chord([vault.pay.s(n, CARD) for n in range(2)], vault.joined.s(CARD)).delay(),
        vault.fail.starmap([(1, CARD), (2, CARD)]).delay(),
        vault.many.map([CARD]).delay(),
        *app.publish(vault.fail.prepare(n, CARD) for n in range(3)),
    ]
    # What its own program would never send.
    with CloudQ("vault", broker=app.conf.broker, **keys_of(app)) as other:
        sent = other.send_task("checked", (CARD,))
        calls.append(app.AsyncResult(sent.id))
        sent = other.send_task("order", ({"card": CARD, "amount": "none"},))
        calls.append(app.AsyncResult(sent.id))
        other.send_task("unknown", kwargs={"password_x": CARD})
    vault.fail.apply_async((1, CARD), countdown=9999)
    revoked = vault.fail.apply_async((1, CARD), countdown=0.5)
    revoked.revoke()
    return [*calls, revoked]


def keys_of(app: CloudQ) -> dict[str, Any]:
    return {"encryption_keys": app.conf.encryption_keys} if app.conf.encryption_keys else {}


def looks(vault: Any, run: Run, ids: list[str]) -> str:
    """Return all that the command line and the dashboard show."""
    texts = [
        run("dead", "list", "default"),
        run("dead", "export", "default"),
        run("tasks", "list", "--args", "--json"),
        run("tasks", "show", ids[2], "--args"),
        run("result", ids[2], "--traceback"),
        run("call", "checked", CARD),
        run("call", "pay", "1", "2", "3", f"card={CARD}"),
    ]
    browser = Browser(Site(vault.app, access=Access(), refresh=0.5).asgi(()))
    for view in VIEWS:
        texts += [browser.open(view.path), browser.open(f"/api{view.path}")]
    for id in ids:
        texts += [browser.open(f"/task?id={id}"), browser.open(f"/api/task?id={id}")]
    return "\n".join(texts)


def test_a_secret_is_seen_by_its_task_alone(
    vault: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: CloudQ = vault.app
    results = send_all(vault)
    before = run("queues", "peek", "default") + run("queues", "peek", "default", "--json")
    monkeypatch.setenv("VAULT_TRACES", "1")
    command = ["worker", "-A", "vault:app", "--log-level", "debug", "--processes", "1"]
    with (tmp_path / "worker.log").open("w") as said:
        worker = subprocess.Popen(
            [sys.executable, "-m", "cloudq", *command], cwd=HERE, stdout=said, stderr=said
        )
        try:
            eventually(lambda: all(each.ready() for each in results), within=120)
            inspected = run("inspect", "scheduled", "--json")
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)
    if app.conf.encryption_keys:
        _check_file(app, tmp_path)
        return
    seen = {
        "before": before,
        "after": looks(vault, run, [each.id for each in results]),
        "inspected": inspected,
        **{name: (tmp_path / name).read_text() for name in ("worker.log", "mails.txt")},
        "spans": (tmp_path / "spans.txt").read_text(),
        "reprs": repr([each.get(propagate=False) for each in results]),
    }
    for place, text in seen.items():
        assert "***" in text, place
        at = text.find(MARK)
        assert at < 0, (place, text[max(0, at - 300) : at + 100])
    states = {each.state for each in results}
    assert states == {"SUCCESS", "FAILURE", "REVOKED", "REJECTED"}
    _check_file(app, tmp_path)


def _check_file(app: CloudQ, folder: Path) -> None:
    app.close()
    if app.conf.encryption_keys:
        for path in folder.glob("vault.db*"):
            assert MARK.encode() not in path.read_bytes(), path.name
        return
    store = sqlite3.connect(folder / "vault.db")
    names = [row[0] for row in store.execute("select name from sqlite_master where type='table'")]
    for table in names:
        for row in store.execute(f"select * from {table}"):
            if table in ("messages", "dead"):  # their bodies are bytes
                row = [each for each in row if not isinstance(each, bytes)]
            if MARK in repr(row):  # a call that a join keeps for later
                assert str(row[0]).startswith("join#"), (table, row)
    store.close()


def test_a_wrong_name_is_an_error_at_the_decorator() -> None:
    from cloudq import ConfigurationError

    app: Any = CloudQ("names", broker="memory://names")

    def pay(card: str) -> None: ...

    wrong: Any
    for wrong in (["crad"], "card", [1], 5):
        with pytest.raises(ConfigurationError, match="secret"):
            app.task(name="pay", secret=wrong)(pay)
    for option in ("unique", "group_key", "dedup_key", "concurrency"):
        with pytest.raises(ConfigurationError, match="a key is shown"):
            app.task(name="pay", secret=["card"], **{option: "card:{card}"})(pay)


def test_errors_of_wrong_arguments_have_no_secrets() -> None:
    app = CloudQ("wrong", broker="memory://wrong")

    @app.task(name="pay", secret=["card"])
    def pay(amount: int, card: str = MARK) -> None: ...

    @app.task(name="numbers", secret=["number"], pydantic=True)
    def numbers(number: int) -> None: ...

    for call in (lambda: pay.delay(), lambda: numbers.delay(MARK)):  # type: ignore
        with pytest.raises(InvalidArguments) as raised:
            call()
        assert MARK not in str(raised.value)
        assert raised.value.__cause__ is None
        assert MARK not in repr(raised.value)


def test_texts_of_calls_have_no_secrets() -> None:
    app = CloudQ("texts", broker="memory://texts", redact=["*token*"])

    @app.task(name="pay", secret=["card"])
    def pay(amount: int, card: str, tokens: object = None) -> None: ...

    texts: list[Any] = []
    texts += (
        pay.s(1, MARK),
        pay.s(MARK),  # after the value of another task it is the card
        pay.si(1, card=MARK),
        chain(pay.s(1, MARK), pay.s(MARK)),
        chord([pay.s(1, MARK)], pay.s(MARK)),
        pay.starmap([(1, MARK)]),
        pay.s(1, "", {"x": MARK}),
        pay.s(1, "", tokens={"x": MARK}),
        app.signature("elsewhere", kwargs={"TOKEN": MARK, "x": {"my_token_1": [MARK]}}),
        app.signature("elsewhere", (SecretStr(MARK),)),
        pay.prepare(1, MARK),
        pay.apply((1, MARK)),
        [pay.prepare(1, card=MARK)],
    )
    for shown in texts:
        assert MARK not in repr(shown)
        assert MARK not in str(shown)
    assert repr(pay.si(1, MARK)) == "pay(1, '***')"
