"""The tests of `make quick`: memory and SQLite only, without servers and processes, none slow.

With `--quick`, modules that import a cloud's adapter or library are not collected, and tests with
a marker `drill` or `slow` are deselected. A test that asks for a server or starts a process is
skipped when it does. So there is no list of quick tests to keep.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import SERVER

MARKERS = ("drill", "slow")

# What Python itself reports before it starts a process.
_PROCESSES = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})
_CLOUDS = re.compile(
    r"^\s*(?:from|import) "
    r"(?:cloudq_(?:aws|gcp|azure|deploy)|boto3|botocore|moto|google|azure|localstack(?!\.servers))\b",
    re.MULTILINE,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--quick`."""
    parser.addoption(
        "--quick",
        action="store_true",
        help="memory and SQLite only: no cloud, no server, no process, nothing slow",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the tests of a quick run."""
    if config.getoption("quick"):
        # A test that is skipped in its middle leaves open what it had opened. The whole suite
        # skips none so, and there each such warning is an error.
        config.addinivalue_line("filterwarnings", "ignore::ResourceWarning")
        config.pluginmanager.register(Quick(), "cloudq-quick")


class Quick:
    """Leaves out what says that it is not quick, and skips what turns out not to be."""

    def __init__(self) -> None:
        self._running = False
        # An audit hook cannot be taken away: it stays for as long as the interpreter does.
        sys.addaudithook(self._audit)

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Leave out the modules that test a cloud, without importing them."""
        if collection_path.name.startswith("test_") and collection_path.suffix == ".py":
            return is_of_a_cloud(collection_path.read_text()) or None
        return None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Deselect the tests that are marked as drills or as slow."""
        left_out = [item for item in items if any(map(item.get_closest_marker, MARKERS))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        """Note that a test runs: what pytest does between tests is not the tests' doing."""
        self._running = True
        try:
            return (yield)
        finally:
            self._running = False

    def _audit(self, event: str, _arguments: tuple[object, ...]) -> None:
        if self._running and event == SERVER:
            pytest.skip("not quick: needs a server")
        if self._running and event in _PROCESSES:
            pytest.skip("not quick: starts a process")


def is_of_a_cloud(source: str) -> bool:
    """Tell whether the source of a test module imports a cloud's adapter or library."""
    return _CLOUDS.search(source) is not None
