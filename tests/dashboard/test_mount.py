"""The programs of the manual: a dashboard under FastAPI, and beside Django."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import django
import pytest
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import path
from starlette.testclient import TestClient

from cloudq import CloudQ
from tests.dashboard.shop import Browser
from tests.docs.blocks import section

_PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-the-dashboard.md"
_TOKEN = "a-token-of-some-length"


def _hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello of Django")


urlpatterns = [path("hello", _hello)]


@pytest.fixture
def program(app: CloudQ, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The names that the first block of the page makes."""
    monkeypatch.setenv("DASHBOARD_TOKEN", _TOKEN)
    module = ModuleType("shop.tasks")
    module.__dict__["app"] = app
    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.tasks", module)
    made: dict[str, object] = {}
    first, _ = (b for b in section(_PAGE, "Mount it in an application") if b.language == "python")
    exec(first.text, made)
    return made


def _signs_in(asgi: object) -> None:
    browser = Browser(asgi, peer="10.0.0.9", base="https://ops.example.com")
    browser.open("/cloudq/")
    assert browser.path.startswith("/cloudq/login")
    browser.press("Sign in", password=_TOKEN)
    assert browser.status == 200
    assert browser.path == "/cloudq/"
    assert 'href="/cloudq/dead"' in browser.text
    assert "token, may operate" in browser.text
    assert "Path=/cloudq" in browser.client.get("/cloudq/login").headers.get(
        "set-cookie", "Path=/cloudq"
    )
    browser.open("/cloudq/schedules")
    browser.press("Pause")
    browser.press("Pause 1 schedule")
    assert "Schedule daily is paused" in browser.text
    elsewhere = TestClient(asgi, base_url="https://evil.example")  # pyright: ignore[reportArgumentType]
    assert elsewhere.get("/cloudq/").status_code == 421


def test_it_is_mounted_under_fastapi(program: dict[str, object]) -> None:
    _signs_in(program["app"])


def test_it_stands_beside_django(program: dict[str, object]) -> None:
    if not settings.configured:
        settings.configure(
            ROOT_URLCONF=__name__,
            ALLOWED_HOSTS=["*"],
            SECRET_KEY="x" * 50,
            # For tests that come later in this process, which has configured Django by then.
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        )
        django.setup()
    settings.ROOT_URLCONF = __name__
    settings.ALLOWED_HOSTS = ["*"]
    blocks = [b for b in section(_PAGE, "Mount it in an application") if b.language == "python"]
    exec(blocks[1].text, program)
    _signs_in(program["application"])
    client = TestClient(program["application"], base_url="https://ops.example.com")  # pyright: ignore[reportArgumentType]
    assert client.get("/hello").text == "hello of Django"


def test_without_users_a_mounted_one_is_for_its_own_machine(app: CloudQ) -> None:
    from cloudq import dashboard

    panel = dashboard.asgi(app, hosts=["ops.example.com"])
    far = TestClient(panel, base_url="https://ops.example.com", client=("10.0.0.9", 1))
    assert far.get("/").status_code == 403
