"""Writes a Dockerfile, for functions that are too large for a zip or need another system."""

from __future__ import annotations

from pathlib import Path

from cloudq_deploy.aws.package import own_files
from cloudq_deploy.bundle import sources
from cloudq_deploy.bundle.build import Layout, Selection, check_entry, cloudq_files, put
from cloudq_deploy.bundle.lock import Platform, locked

_CONTENTS = "build/image"

_DOCKERFILE = """\
# Written by `cloudq deploy build --image`; build it in this folder.
FROM public.ecr.aws/lambda/python:{python}
COPY {contents}/requirements.lock ./
RUN pip install --no-cache-dir --no-deps --only-binary :all: -r requirements.lock \\
    --target "$LAMBDA_TASK_ROOT"
COPY {contents}/task/ "$LAMBDA_TASK_ROOT"/
CMD ["cloudq_function.handler"]
"""


def write_dockerfile(
    folder: Path, entry: str, selection: Selection, path: Path, layout: Layout
) -> None:
    """Write the Dockerfile to `path`, and into `build/image` the files that it copies.

    An image gets the files that a zip would get, and the same files are refused. Raises
    `ConfigurationError`.
    """
    own = sources.project_files(folder, include=selection.include, exclude=selection.exclude)
    check_entry(entry, own)
    platform = Platform(python=selection.python, architecture=selection.architecture)
    pins = locked(folder, platform, selection.requirements, layout.needed)
    contents = folder / _CONTENTS
    put(contents / "requirements.lock", "".join(f"{line}\n" for line in pins.values()).encode())
    for name, content in cloudq_files(layout.adapter):
        put(contents / "task" / name, content)
    for name, file in own.items():
        put(contents / "task" / name, file.read_bytes())
    for name, content in own_files(entry).items():
        put(contents / "task" / name, content)
    put(path, _DOCKERFILE.format(python=selection.python, contents=_CONTENTS).encode())
