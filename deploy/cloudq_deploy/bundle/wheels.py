"""Installs pinned wheels for another platform into a folder, with uv."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cloudq.errors import ConfigurationError, install_hint
from cloudq_deploy.bundle.lock import Pins, Platform

_NO_WHEEL = re.compile(
    r"no usable wheels|no wheels|no matching distribution|building .* disabled|source distribution",
    re.I,
)


def install(pins: Pins, platform: Platform, folder: Path) -> None:
    """Install the pins into the folder.

    Raises `ConfigurationError` that names a package without a wheel for the platform.
    """
    lock = folder.parent / "requirements.lock"
    lock.write_text("".join(f"{line}\n" for line in pins.values()))
    command = [
        *(_uv(), "pip", "install", "--quiet", "--no-deps"),
        # Files are taken away from the folder, and added, but none is changed.
        *("--target", str(folder), "--link-mode", "hardlink", "--requirements", str(lock)),
        *("--python-platform", platform.wheels, "--python-version", platform.python),
        *("--only-binary", ":all:", "--python", sys.executable),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigurationError(explain(done.stderr, pins, platform))


def _uv() -> str:
    # `pip install uv` puts it beside this Python; otherwise it is searched on the path.
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")
    if found is None:
        raise ConfigurationError(f"building needs uv: {install_hint('deploy')}")
    return found


def explain(output: str, pins: Pins, platform: Platform) -> str:
    """Explain in one line why uv failed, with the package and the platform."""
    flat = " ".join(output.split())
    named = [
        line
        for name, line in pins.items()
        if re.search(rf"\b{re.escape(name)}\b", flat.replace("_", "-"), re.I)
    ]
    if named and _NO_WHEEL.search(flat):
        return (
            f"no wheel of {named[0]} for {platform.wheels} and Python {platform.python}: choose a "
            'version that has one, another --architecture or --runtime, or package = "image" in '
            "[tool.cloudq.deploy]; "
            f"uv says: {flat}"
        )
    return f"the dependencies cannot be installed: {flat}"
