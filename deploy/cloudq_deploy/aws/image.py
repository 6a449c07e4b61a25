"""A Dockerfile for functions that are too large for a zip, or want another system."""

from __future__ import annotations

from pathlib import Path

from cloudq_deploy.aws.options import Target
from cloudq_deploy.bundle import sources
from cloudq_deploy.bundle.build import ENTRY, check_entry, cloudq_files, entry_text, put
from cloudq_deploy.bundle.lock import Platform, locked

_ROOM = "build/image"

_DOCKERFILE = """\
# Written by `cloudq deploy build --image`; build it in this folder.
FROM public.ecr.aws/lambda/python:{python}
COPY {room}/requirements.lock ./
RUN pip install --no-cache-dir --no-deps --only-binary :all: -r requirements.lock \\
    --target "$LAMBDA_TASK_ROOT"
COPY {room}/task/ "$LAMBDA_TASK_ROOT"/
CMD ["cloudq_function.handler"]
"""


def dockerfile(folder: Path, entry: str, target: Target, path: Path) -> None:
    """Write the Dockerfile, and beside it in `build/image` what it copies.

    The same files are packed and refused as for a zip. Raises `ConfigurationError`.
    """
    own = sources.project_files(folder, include=target.include, exclude=target.exclude)
    check_entry(entry, own)
    platform = Platform(python=target.python, architecture=target.architecture)
    pins = locked(folder, platform, target.requirements)
    room = folder / _ROOM
    put(room / "requirements.lock", "".join(f"{line}\n" for line in pins.values()).encode())
    for name, content in cloudq_files():
        put(room / "task" / name, content)
    for name, file in own.items():
        put(room / "task" / name, file.read_bytes())
    put(room / "task" / ENTRY, entry_text(entry))
    put(path, _DOCKERFILE.format(python=target.python, room=_ROOM).encode())
