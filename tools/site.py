"""Makes the documentation site out of docs/: what mkdocs.yml calls while it builds.

Pages link to files outside of docs/ (CONTRIBUTING.md, localstack/README.md, examples), as a code
host shows them. Those files become pages of the site, below `project/`, so that it is whole.

Each version lies in a folder of its own, `build/site/0.1`, with `versions.json` beside them: the
layout that the theme's list of versions reads. A build replaces its own version and leaves others.
"""

from __future__ import annotations

import json
import posixpath
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]+)?(?=\))")
_ALWAYS = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
_LANGUAGES = {".py": "python", ".json": "json", ".yml": "yaml", ".toml": "toml"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Build into the folder of this version."""
    config.site_dir = str(Path(config.site_dir) / version())
    config.extra["version"]["default"] = version()
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the files outside of docs/ to which pages link, and those to which these link."""
    docs = Path(config.docs_dir)
    waiting = [*_ALWAYS]
    for file in files.documentation_pages():
        waiting += _outside(docs / file.src_uri)
    while waiting:
        path = waiting.pop()
        if files.get_file_from_path(_uri(path)) is None:
            files.append(File.generated(config, _uri(path), content=_content(path)))
            if path.endswith(".md"):
                waiting += _outside(ROOT / path)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links out of docs/, and those of pages that were added, to pages of the site."""
    del config, files
    uri = page.file.src_uri
    source = ROOT / "docs" / uri
    if page.file.generated_by:
        source = ROOT / uri.removeprefix("project/")

    def turned(link: re.Match[str]) -> str:
        target = _target(source, link[1])
        if target is None:
            return link[0]
        inside = target.removeprefix("docs/") if target.startswith("docs/") else _uri(target)
        return posixpath.relpath(inside, posixpath.dirname(uri) or ".") + (link[2] or "")

    return _LINK.sub(turned, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """List the versions that are there, the newest first, and lead a visitor to it."""
    place = Path(config.site_dir).parent
    found = sorted((each.parent.name for each in place.glob("*/index.html")), key=_order)[::-1]
    listed = [
        {"version": name, "title": name, "aliases": ["latest"] * (name == found[0])}
        for name in found
    ]
    (place / "versions.json").write_text(f"{json.dumps(listed, indent=2)}\n")
    (place / "index.html").write_text(
        '<!doctype html>\n<title>cloudq</title>\n<link rel="icon" href="data:,">\n'
        f'<meta http-equiv="refresh" content="0; url={found[0]}/index.html">\n'
        f'<a href="{found[0]}/index.html">Documentation of cloudq {found[0]}</a>\n'
    )


def version() -> str:
    """The minor version of this checkout, such as `0.1`: its patches share their pages."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return ".".join(str(project["version"]).split(".")[:2])


def _order(name: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", name)]


def _outside(page: Path) -> Iterator[str]:
    """The files outside of docs/ to which a page links, by their path from the top."""
    for link, _ in _LINK.findall(page.read_text()):
        target = _target(page, link)
        if target is not None and not target.startswith("docs/"):
            yield target


def _target(page: Path, link: str) -> str | None:
    """The file that a relative link leads to, by its path from the top; None if there is none."""
    path = (page.parent / link).resolve()
    if path.is_dir() and (path / "README.md").is_file():
        path /= "README.md"
    return str(path.relative_to(ROOT)) if path.is_file() and path.is_relative_to(ROOT) else None


def _uri(path: str) -> str:
    return f"project/{path}" if path.endswith(".md") else f"project/{path}.md"


def _content(path: str) -> str:
    text = (ROOT / path).read_text()
    if path.endswith(".md"):
        return text
    return f"# {path}\n\n```{_LANGUAGES.get(Path(path).suffix, 'text')}\n{text}```\n"
