"""Builds the zip of a Lambda function: the app, cloudq from this tree, what they need."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement

from cloudq.errors import DISTRIBUTION
from localstack.servers import state

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = (ROOT / "cloudq", ROOT / "adapters" / "cloudq_aws")
# botocore describes four hundred services; the function needs these.
SERVICES = ("sqs", "dynamodb", "sts")


def build(app: Path, target: Path) -> Path:
    """The zip of the app folder; the dependencies in it are packed once and kept."""
    dependencies = _dependencies()
    target.write_bytes(dependencies.read_bytes())
    with zipfile.ZipFile(target, "a") as archive:
        for folder in (*PACKAGES, app):
            root = folder.parent if folder is not app else app
            for file in sorted(folder.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    archive.write(file, file.relative_to(root).as_posix())
        # Entry points are how a broker's URL finds its driver.
        for name in ("METADATA", "entry_points.txt"):
            text = distribution(DISTRIBUTION).read_text(name) or ""
            archive.writestr(f"cloudq_tasks-0.dist-info/{name}", text)
    return target


def _dependencies() -> Path:
    found = sorted(_closure(), key=lambda dist: dist.name)
    pins = "\n".join(f"{dist.name}=={dist.version}" for dist in found)
    target = state() / f"lambda-{hashlib.sha256(pins.encode()).hexdigest()[:10]}.zip"
    if target.exists():
        return target
    draft = target.with_suffix(f".{os.getpid()}")
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for dist in found:
            for path in dist.files or ():
                if _wanted(path):
                    archive.write(Path(str(dist.locate_file(path))), path.as_posix())
    draft.replace(target)
    return target


def _wanted(path: PurePosixPath) -> bool:
    if ".." in path.parts or path.is_absolute() or "__pycache__" in path.parts:
        return False
    inside = path.parts[:2] == ("botocore", "data")
    return not inside or len(path.parts) == 3 or path.parts[2] in SERVICES


def _closure() -> Iterator[Distribution]:
    """All that the extra aws and the runtime client need, as installed here; not cloudq itself."""
    seen: set[str] = set()
    waiting = [Requirement(f"{DISTRIBUTION}[aws]"), Requirement("awslambdaric")]
    while waiting:
        wanted = waiting.pop()
        dist = distribution(wanted.name)
        name = dist.name.lower()
        for text in dist.requires or ():
            needed = Requirement(text)
            extras = wanted.extras or {""}
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                waiting += [] if needed.name.lower() in seen else [needed]
        if name not in seen and name != DISTRIBUTION:
            yield dist
        seen.add(name)
