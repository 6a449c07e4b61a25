"""From a URL to a driver: what is installed, what is near, what is missing."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cloudq
from cloudq import CloudQ, ConfigurationError
from cloudq.driver import Address
from cloudq.driver.loader import installed, open_backend, open_broker, open_scheduler, parse
from cloudq.text import masked


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("memory://", Address(scheme="memory")),
        ("sqlite:///a.db", Address(scheme="sqlite", path="a.db")),
        ("sqlite:////var/a.db", Address(scheme="sqlite", path="/var/a.db")),
        ("sqs://eu-west-1", Address(scheme="sqs", host="eu-west-1")),
        (
            "sqs://eu-west-1/prefix?endpoint=http%3A%2F%2Flocalhost%3A4566&x=",
            Address(
                scheme="sqs",
                host="eu-west-1",
                path="prefix",
                options={"endpoint": "http://localhost:4566", "x": ""},
            ),
        ),
        ("SQS://a%2Fb", Address(scheme="sqs", host="a/b")),
    ],
)
def test_a_url_is_taken_apart(url: str, address: Address) -> None:
    parsed = parse(url)
    assert parsed.url == url
    assert (parsed.scheme, parsed.host, parsed.path, parsed.options) == (
        address.scheme,
        address.host,
        address.path,
        address.options,
    )


@pytest.mark.parametrize(
    "url", ["", "sqs", "mailto:x", "://x", "sqlite:/a.db", "sqs://x?y", "sqs://[", "/a/b.db"]
)
def test_what_is_no_url_is_said_so(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a URL"):
        open_broker(url)


SECRETS = [
    "//u:sesame@h",
    "u:sesame@h",
    "sqs://[u:sesame@h",
    "sqs://AKIA:sesame@",
    "sqs://u:sesame@h:99999/",
    "sqs://u%3Asesame%40h",
    "sqs://?region=u:sesame@h",
    "sqss://u:sesame@h",
    "eventbridge://u:sesame@h",
    "servicebus://u:sesame@h",
    "tables://u:sesame@h/t",
    "sqlite://u:sesame@h/a.db",
    "dynamodb://u:sesame@h/t",
    "dynamodb://u:sesame@h",
    "pubsub://u:sesame@h?emulator=127.0.0.1:1",
    "firestore://u:sesame@h?emulator=127.0.0.1:1",
]


@pytest.mark.parametrize("url", SECRETS)
def test_a_password_in_a_url_is_in_no_message(url: str) -> None:
    for opens in (open_broker, open_backend, open_scheduler):
        with pytest.raises(ConfigurationError) as refused:
            opens(url)
        assert "sesame" not in masked(str(refused.value))


@pytest.mark.parametrize(("wrong", "near"), [("sqss", "sqs"), ("sqllite", "sqlite")])
def test_an_unknown_scheme_suggests_the_near_one(wrong: str, near: str) -> None:
    with pytest.raises(
        ConfigurationError,
        match=rf'no broker for "{wrong}://": did you mean {near}\? installed: .*memory, .*sqs',
    ):
        open_broker(f"{wrong}://")


def test_a_scheme_like_no_other_lists_the_installed() -> None:
    with pytest.raises(ConfigurationError, match=r'no backend for "zz://": installed: .*dynamodb'):
        open_backend("zz://")


def test_the_installed_are_listed_by_name() -> None:
    assert {"memory", "sqlite", "sqs"} <= {entry.name for entry in installed("broker")}
    assert {"memory", "sqlite", "dynamodb"} <= {entry.name for entry in installed("backend")}


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution with brokers of its own, one of whose modules needs what is not there."""
    info = tmp_path / "other_adapter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-adapter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[cloudq.brokers]\n"
        "amqp = other_adapter.needs:open_broker\n"
        "works = other_adapter.works:open_broker\n"
    )
    package = tmp_path / "other_adapter"
    package.mkdir()
    (package / "needs.py").write_text("import sdk_that_is_not_installed")
    (package / "works.py").write_text("def open_broker(address): return address")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_installed_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    class Finder(importlib.metadata.DistributionFinder):
        """Counts how often Python asks it what is installed."""

        def find_distributions(self, context: Any = None) -> Iterator[Any]:
            nonlocal looks
            looks += 1
            return iter(())

        def find_spec(self, *_: object) -> None:
            return None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    monkeypatch.setattr(sys, "path", [*sys.path, "/nowhere/to-be-found"])
    for number in range(5):
        open_broker(f"memory://looked-for-{number}").close()
    assert looks == 1


def test_what_is_installed_while_a_process_runs_is_found(adapter: Path) -> None:
    info = adapter / "other_adapter-1.0.dist-info"
    written = (info / "entry_points.txt").read_text()
    (info / "entry_points.txt").write_text("")
    with pytest.raises(ConfigurationError, match='no broker for "works://"'):
        open_broker("works://here")
    (info / "entry_points.txt").write_text(written)
    assert str(open_broker("works://here").url) == "works://here"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("sqs://eu-west-1", "botocore.exceptions", "aws"),
        ("pubsub://project", "google.pubsub_v1.types", "gcp"),
        ("servicebus://namespace", "azure.servicebus", "azure"),
    ],
)
def test_a_missing_sdk_names_the_extra_to_install(url: str, package: str, extra: str) -> None:
    said = fresh(
        f"import sys; sys.modules[{package!r}] = None\n"
        "from cloudq.driver import loader as plugins\n"
        f"try: plugins.open_broker({url!r})\n"
        "except Exception as error: print(error)"
    )
    assert said.endswith(f'needs the package {package}: pip install "cloudq-tasks[{extra}]"')


@pytest.mark.usefixtures("adapter")
def test_a_missing_package_of_anyone_is_named() -> None:
    with pytest.raises(ConfigurationError, match="pip install sdk_that_is_not_installed"):
        open_broker("amqp://host")


@pytest.mark.usefixtures("adapter")
def test_an_adapter_of_anyone_is_found_by_its_entry_point() -> None:
    opened: object = open_broker("works://host/path")
    assert isinstance(opened, Address)
    assert (opened.host, opened.path) == ("host", "path")


def test_a_driver_refuses_options_it_does_not_know() -> None:
    with pytest.raises(ConfigurationError, match="memory:// has no option 'speed'"):
        open_broker("memory://x?speed=9")


def test_nothing_is_opened_before_it_is_used() -> None:
    app = CloudQ(broker="nowhere://", backend="nowhere://")
    app.task(name="t")(lambda: 1)
    with pytest.raises(ConfigurationError, match='no broker for "nowhere://"'):
        _ = app.broker


def test_a_closed_app_opens_again_at_the_next_use() -> None:
    app = CloudQ(broker="memory://again")
    first = app.broker
    app.close()
    assert app.broker is not first
    app.close()


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "use",
    [
        "",
        "cloudq.CloudQ(broker='sqs://eu-west-1', backend='dynamodb://t').task(lambda: 1)",
    ],
)
def test_import_cloudq_loads_no_cloud_and_no_adapter(use: str) -> None:
    loaded = fresh(
        f"import sys, cloudq; {use}\n"
        # A namespace that a package's .pth file makes is no import of anybody's.
        "real = {name for name, module in sys.modules.items() if getattr(module, '__file__', 0)}\n"
        "roots = {name.partition('.')[0] for name in real}\n"
        "print(sorted(r for r in roots if r.startswith(('boto', 'google', 'azure', 'cloudq_'))"
        " or r in ('aws_lambda_powertools', 'typer', 'rich', 'psutil', 'starlette', 'pytest')))"
    )
    assert loaded == "[]"


def test_the_memory_broker_loads_no_cloud() -> None:
    loaded = fresh(
        "import sys, cloudq\n"
        "app = cloudq.CloudQ(broker='memory://'); app.broker; app.backend; app.close()\n"
        "print([n for n in sys.modules if n.startswith(('boto', 'cloudq_aws'))])"
    )
    assert loaded == "[]"


def test_every_public_name_is_there() -> None:
    assert sorted(cloudq.__all__) == sorted(set(cloudq.__all__))
    for name in cloudq.__all__:
        assert hasattr(cloudq, name)


@pytest.mark.parametrize(
    "url", ["sqlite:///a#b.db", "sqs://eu-west-1#key=hunter2", "sqs://h#hunter2"]
)
def test_what_stands_after_a_number_sign_is_not_left_out_silently(url: str) -> None:
    with pytest.raises(ConfigurationError, match='has a "#": write it as %23') as raised:
        parse(url)
    assert "hunter2" not in str(raised.value)
