"""An app with a past, and a browser on its dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.dashboard.access import Access, Password, Role, User, hash_password
from cloudq.dashboard.site import Site
from tests.dashboard.shop import Browser, shop

SECRET = "correct horse"
HASHED = hash_password(SECRET)
USERS = Access(
    passwords=[
        Password(user=User(name="olga", role=Role.OPERATE), hashed=HASHED),
        Password(user=User(name="olaf", role=Role.OPERATE), hashed=HASHED),
        Password(user=User(name="lars", role=Role.LOOK), hashed=HASHED),
    ],
    tokens={"t0ken-of-sixteen-characters": User(name="ci", role=Role.LOOK)},
)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[CloudQ]:
    """An app on SQLite."""
    with shop(f"sqlite:///{tmp_path}/shop.db") as made:
        yield made


@pytest.fixture
def site(app: CloudQ) -> Site:
    """A dashboard without users that looks anew each time."""
    return Site(app, access=Access(), refresh=0.5)


@pytest.fixture
def browser(site: Site) -> Browser:
    """A browser on this machine."""
    return Browser(site.asgi(()))


@pytest.fixture
def guarded(app: CloudQ) -> Site:
    """A dashboard with users: olga and olaf may operate, lars only looks."""
    return Site(app, access=USERS, refresh=0.5)


def signed_in(site: Site, name: str) -> Browser:
    """Return a browser in which somebody has signed in."""
    browser = Browser(site.asgi(()))
    browser.open("/login")
    browser.press("Sign in", name=name, password=SECRET)
    assert browser.status == 200, browser.text
    return browser
