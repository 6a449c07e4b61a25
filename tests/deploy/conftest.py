"""Apps and projects to deploy, and an AWS that enforces its policies."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.cli import main
from cloudq_deploy.aws.options import AwsOptions, own_architecture
from cloudq_deploy.aws.plan import Plan
from cloudq_deploy.aws.planner import plan_of
from localstack.aws import MINISTACK
from localstack.servers import Endpoint
from tests.servers import serving


@pytest.fixture
def planned() -> Callable[..., Plan]:
    """Plans an app of one task with these options, and a target with those."""

    def make(
        target: dict[str, object] | None = None, /, name: str = "shop", **task: object
    ) -> Plan:
        app = CloudQ(name)
        app.task(name="shop.add", **task)(lambda: None)  # type: ignore[call-overload]
        return plan_of(
            app, "shop.tasks:app", AwsOptions(**({"region": "eu-west-1"} | (target or {})))
        )

    return make


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_modules: None) -> Path:
    """A new project called shop, as `cloudq init` makes it; the current directory."""
    folder = tmp_path / "shop"
    assert main(["init", "shop", "--in", str(folder)]) == 0
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    file = folder / "pyproject.toml"
    file.write_text(file.read_text().replace("arm64", own_architecture()))
    return folder


@pytest.fixture(scope="session")
def guarded_aws(isolated: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An AWS where every call needs a policy that allows it, those of functions too."""
    settings = MINISTACK.settings
    spec = replace(
        MINISTACK, settings=lambda ports, folder: {**settings(ports, folder), "AUTH": "true"}
    )
    with serving(spec) as endpoint:
        yield endpoint


@pytest.fixture
def own_aws(isolated: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An AWS with nothing in it that any other test has made."""
    with serving(MINISTACK) as endpoint:
        yield endpoint


@pytest.fixture
def fresh_modules() -> Iterator[None]:
    """Modules of a project are imported anew by each test."""
    import sys

    def forget() -> None:
        for name in [name for name in sys.modules if name == "shop" or name.startswith("shop.")]:
            del sys.modules[name]

    forget()
    yield
    forget()


def copy(project: Path, target: Path) -> Path:
    """The project once more, elsewhere."""
    shutil.copytree(project, target)
    return target
