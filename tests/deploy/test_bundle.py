"""The zip: the same for the same files, without secrets, small enough, for the right platform."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from cloudq.cli import main
from cloudq.errors import ConfigurationError
from cloudq_deploy.aws.options import AwsOptions
from cloudq_deploy.aws.package import LAYOUT, LIMIT
from cloudq_deploy.bundle import archive, sources
from cloudq_deploy.bundle.build import build
from cloudq_deploy.bundle.lock import Platform, locked
from cloudq_deploy.bundle.wheels import install
from tests.deploy.conftest import copy

ENTRY = "shop.tasks:app"
ARM = Platform(python="3.13", architecture="arm64")


def test_two_builds_in_two_places_are_one_zip(shop: Path, tmp_path: Path) -> None:
    other = copy(shop, tmp_path / "elsewhere")
    for path in other.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    selection = AwsOptions(services=("sqs", "dynamodb")).selection()
    first = build(shop, ENTRY, selection, tmp_path / "a.zip", LAYOUT, print)
    second = build(other, ENTRY, selection, tmp_path / "b.zip", LAYOUT, print)
    assert first.sha256 == second.sha256
    (other / "shop" / "tasks.py").write_text((other / "shop" / "tasks.py").read_text() + "\n")
    third = build(other, ENTRY, selection, tmp_path / "c.zip", LAYOUT, print)
    assert third.digest != first.digest
    with zipfile.ZipFile(tmp_path / "a.zip") as zipped:
        names = zipped.namelist()
        assert names == sorted(names)
        assert {"shop/tasks.py", "cloudq_function.py", "cloudq_aws/sqs.py"} <= set(names)
        assert not [name for name in names if name.startswith(("tests/", "bin/", "cloudq_gcp"))]
        assert any(name.endswith("orjson.cpython-311-aarch64-linux-gnu.so") for name in names) or (
            any("aarch64" in name and "orjson" in name for name in names)
        )
        everything = b"".join(zipped.read(name) for name in names)
        assert str(tmp_path).encode() not in everything, "no path of this machine"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shop/.env", "looks like a secret"),
        ("shop/server.pem", "looks like a secret"),
        ("shop/data/id_rsa", "looks like a secret"),
        ("shop/.git/config", "may not be packed"),
    ],
)
def test_secrets_are_refused(shop: Path, name: str, said: str) -> None:
    path = shop / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    with pytest.raises(ConfigurationError, match=said):
        sources.project_files(shop)
    assert name not in sources.project_files(shop, exclude=[name, "shop/.git"])


def test_what_lies_beside_the_packages_is_not_packed_unless_it_is_named(shop: Path) -> None:
    (shop / ".env").write_text("KEY=1")
    (shop / "rates.json").write_text("{}")
    (shop / ".git").mkdir()
    found = sources.project_files(shop)
    assert set(found) == {"shop/__init__.py", "shop/tasks.py"}
    assert "rates.json" in sources.project_files(shop, include=["*.json"])
    with pytest.raises(ConfigurationError, match="looks like a secret"):
        sources.project_files(shop, include=[".env"])
    with pytest.raises(ConfigurationError, match=r"include: no file in .* matches"):
        sources.project_files(shop, include=["*.toml.gz"])


def test_links_that_leave_the_project_are_refused(shop: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("x = 1")
    (shop / "shop" / "link.py").symlink_to(outside)
    with pytest.raises(ConfigurationError, match="a link that leaves the project"):
        sources.project_files(shop)
    (shop / "shop" / "link.py").unlink()
    (shop / "shop" / "inside.py").symlink_to(shop / "shop" / "tasks.py")
    assert "shop/inside.py" in sources.project_files(shop)
    (tmp_path / "folder").mkdir()
    (shop / "shop" / "folder").symlink_to(tmp_path / "folder")
    with pytest.raises(ConfigurationError, match="shop/folder is a link"):
        sources.project_files(shop)


def test_a_zip_over_the_limit_says_what_makes_it_big(tmp_path: Path) -> None:
    contents = {"model/weights.bin": bytes(LIMIT.unzipped), "shop/tasks.py": b"x" * 2000}
    with pytest.raises(ConfigurationError, match=r"250.0 MB unzipped.*model 250.0 MB"):
        archive.write(contents, tmp_path / "big.zip", LIMIT)
    assert not (tmp_path / "big.zip").exists()


def test_a_missing_wheel_names_package_and_platform(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    with pytest.raises(ConfigurationError) as error:
        install({"docopt": "docopt==0.6.2"}, ARM, folder)
    assert "no wheel of docopt==0.6.2 for aarch64-manylinux_2_28 and Python 3.13" in str(
        error.value
    )


def test_the_lock_file_stands_above_what_is_installed(shop: Path) -> None:
    (shop / "requirements.lock").write_text(
        "# made by uv\norjson==3.10.0 \\\n    --hash=sha256:00\n"
        "colorama==0.4.6 ; sys_platform == 'win32'\n"
        "cloudq-tasks[aws]==0.1.0\n"
    )
    pins = locked(shop, ARM)
    assert pins["orjson"] == "orjson==3.10.0"
    assert "colorama" not in pins
    assert "boto3" in pins
    assert not [name for name in pins if name.startswith("cloudq")]
    assert "typer" not in pins, "no function runs the command line"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("requests", "line 1: 'requests' is not an exact version"),
        ("requests>=2", "is not an exact version"),
        ("requests==2.*", "is not an exact version"),
        ("-r other.txt", "cannot be packed"),
        ("-e .", "cannot be packed"),
        ("not a requirement", "line 1"),
        ("cloudq[aws]==1.2.0", "is the package of another project: write cloudq-tasks"),
    ],
)
def test_a_lock_file_that_locks_nothing_is_refused(shop: Path, line: str, said: str) -> None:
    (shop / "requirements.txt").write_text(f"{line}\n")
    with pytest.raises(ConfigurationError) as error:
        locked(shop, ARM)
    assert said in str(error.value)


def test_a_dependency_that_is_nowhere_is_named(shop: Path) -> None:
    file = shop / "pyproject.toml"
    file.write_text(file.read_text().replace('[aws]"]', '[aws]", "no-such-thing"]'))
    with pytest.raises(ConfigurationError, match="no-such-thing, which the project needs"):
        locked(shop, ARM)


def test_a_project_that_needs_the_other_cloudq_is_refused(shop: Path) -> None:
    file = shop / "pyproject.toml"
    file.write_text(file.read_text().replace("cloudq-tasks[aws]", "cloudq[aws]"))
    with pytest.raises(ConfigurationError, match=r"pyproject.toml: 'cloudq\[aws\]' is the package"):
        locked(shop, ARM)


@pytest.mark.usefixtures("fresh_modules")
def test_the_dockerfile_copies_what_the_zip_would_have(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", "build", "-A", ENTRY, "--image"]) == 0
    text = (shop / "Dockerfile").read_text()
    assert f"lambda/python:{sys.version_info.major}.{sys.version_info.minor}" in text
    assert (shop / "build/image/task/shop/tasks.py").is_file()
    assert "boto3==" in (shop / "build/image/requirements.lock").read_text()
    assert "docker build" in capsys.readouterr().out
