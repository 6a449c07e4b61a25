"""The documentation site builds without a warning, holds every page, and asks no other server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from tests.dashboard.chrome import Chrome, window

ROOT = Path(__file__).resolve().parents[2]
_ASKED = re.compile(
    r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?(?P<tag>[^\"'\s>]+)"
    r"|url\([\"']?(?P<css>[^)\"']+)"
    r"|@import\s+[\"'](?P<imported>[^\"']+)"
)
"""Matches the addresses that a browser fetches by itself, and no link that a reader clicks."""


def build(place: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Build the site into a folder, as `make site` does into build/site."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)],
        cwd=root,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built site, beside two versions that were built before."""
    place = tmp_path_factory.mktemp("site")
    for earlier in ("0.0.9", "0.0.10"):
        (place / earlier).mkdir()
        (place / earlier / "index.html").write_text("an earlier version")
    done = build(place)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = {file.relative_to(ROOT / "docs") for file in (ROOT / "docs").rglob("*.md")}
    built = {file.relative_to(site / "0.1") for file in (site / "0.1").rglob("*.html")}
    named = {p.with_name("index.html") if p.name == "README.md" else p for p in pages}
    assert {page.with_suffix(".html") for page in named} - built == set()


def test_pages_outside_of_docs_are_in_the_site_with_their_links(site: Path) -> None:
    contributing = (site / "0.1" / "project" / "CONTRIBUTING.html").read_text()
    assert 'href="../architecture.html"' in contributing
    aws = (site / "0.1" / "how-to" / "run-on-aws.html").read_text()
    assert "../project/localstack/index.html" in aws
    example = site / "0.1" / "project" / "examples" / "lambda_app" / "app.py.html"
    assert "lambda_handler" in example.read_text()


def test_a_reader_without_a_network_misses_nothing(site: Path) -> None:
    asked: set[str] = set()
    for file in (site / "0.1").rglob("*"):
        if file.suffix in {".html", ".css"}:
            asked |= {m[m.lastgroup or 0] for m in _ASKED.finditer(file.read_text())}
    elsewhere = {address for address in asked if re.match(r"(?:https?:)?//", address)}
    assert len(asked) > 10
    assert elsewhere == set()


def test_a_browser_is_told_to_ask_no_other_server(site: Path) -> None:
    """The theme has a few scripts that would ask other servers for what no page here needs."""
    for page in (site / "0.1").rglob("*.html"):
        policy = re.search(
            r'http-equiv="Content-Security-Policy" content="([^"]+)"', page.read_text()
        )
        assert policy, page
        assert policy[1].startswith("default-src 'self'")
        assert "http" not in policy[1]


def test_it_can_be_searched(site: Path) -> None:
    index = json.loads((site / "0.1" / "search" / "search_index.json").read_text())
    found = {entry["location"] for entry in index["docs"] if "dead letters" in entry["text"]}
    assert any(location.startswith("how-to/operate-in-production.html") for location in found)


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("docs/glossary.md", "how-to/nowhere.md"),
        ("docs/glossary.md", "design.md#no-such-heading"),
        ("docs/glossary.md", "../tools/nothing.md"),
        ("SECURITY.md", "NOTHING.md"),
    ],
)
def test_a_link_that_leads_nowhere_fails_the_build(page: str, link: str, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    for folder in ("docs", "tools", "examples", "localstack"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (*ROOT.glob("*.md"), ROOT / "mkdocs.yml", ROOT / "pyproject.toml"):
        shutil.copy(file, root)
    (root / page).write_text(f"{(ROOT / page).read_text()}\n[there]({link})\n")
    done = build(tmp_path / "site", root)
    assert done.returncode == 1
    assert link.partition("#")[0] in done.stderr


def test_versions_stay_beside_each_other_and_the_newest_is_shown(site: Path) -> None:
    listed = json.loads((site / "versions.json").read_text())
    assert [each["version"] for each in listed] == ["0.1", "0.0.10", "0.0.9"]
    assert [each["aliases"] for each in listed] == [["latest"], [], []]
    assert (site / "0.0.9" / "index.html").read_text() == "an earlier version"
    assert "url=0.1/index.html" in (site / "index.html").read_text()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def browser(site: Path) -> Iterator[Chrome]:
    """Chromium on a web server that has nothing but the site's files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield from window(lambda: f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_a_reader_finds_a_page_by_a_word(browser: Chrome) -> None:
    browser.open("/")
    eventually(lambda: browser.path == "/0.1/index.html")
    browser.type("input.md-search__input", "poison message")
    browser.find(".md-search-result__item a")
    assert "Runbooks" in browser.find(".md-search-result__list").text
    assert "0.1" in browser.find(".md-version").text
    # A script that asked another server would be told of the page's policy here.
    assert browser.complaints() == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [1440, 390])
def test_pages_fit_the_window(browser: Chrome, width: int) -> None:
    browser.resize(width)
    for page in ("index", "how-to/runbooks", "explanation/cloudq-beside-others"):
        browser.open(f"/0.1/{page}.html")
        browser.find(".md-content h1")
        assert browser.width() <= width, page
