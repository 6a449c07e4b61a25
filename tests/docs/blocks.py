"""Reads the code blocks of a Markdown page, and runs them in order as a reader would."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self

from cloudq.app import CloudQ
from cloudq.testing import drain
from cloudq.testing.waiting import PATIENCE

_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w/]+\.py)\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block: its language, its text, and the line that its text starts on."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that a Python block is: its first line is a comment with the name."""
        found = _FILE.match(self.text)
        return found[1] if found and self.language == "python" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command of a console block, and the output that the page shows for it."""

    line: str
    output: Sequence[str] = ()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text()
    return [
        Block(language=m[1], text=m[2], line=text.count("\n", 0, m.start()) + 2)
        for m in _FENCE.finditer(text)
    ]


def section(page: Path, heading: str) -> list[Block]:
    """The blocks under a heading, up to the next heading of any level."""
    text = page.read_text()
    inside = {block.line + n for block in blocks(page) for n in range(block.text.count("\n"))}
    headings = [
        (number, line.lstrip("#").strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.startswith("#") and number not in inside  # a comment in a block is none
    ]
    first = next(number for number, title in headings if title == heading)
    last = next((number for number, _ in headings if number > first), text.count("\n") + 1)
    return [block for block in blocks(page) if first < block.line < last]


def commands(block: Block) -> list[Command]:
    """The commands of a console block: the lines that start with `$ `."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:].partition("  #")[0].strip(), []))
        elif line.strip():
            found[-1][1].append(line)
    return [Command(line=line, output=output) for line, output in found]


def matches(shown: Sequence[str], printed: str) -> bool:
    """Tell whether a page's output is what was printed; `...` stands for anything."""
    parts = (re.escape(line.strip()).replace(r"\.\.\.", ".*") for line in shown)
    text = "\n".join(line.strip() for line in printed.strip().splitlines())
    return re.fullmatch("\n".join(parts), text, re.DOTALL) is not None


class Shell:
    """A reader at a terminal: remembers what was exported, leaves workers running to the end."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "COLUMNS": "200", **(environment or {})}
        self._workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_workers()

    def run(self, command: Command) -> None:
        """Run one command; fails when it fails, or prints other things than the page says."""
        words = shlex.split(command.line)
        if words[0] == "export":
            self.environment |= dict(word.split("=", 1) for word in words[1:])
        elif words[:2] == ["cloudq", "worker"]:
            self._start_worker(words)
        else:
            done = subprocess.run(
                ["bash", "-c", command.line],
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == 0, f"$ {command.line}\n{done.stdout}{done.stderr}"
            if command.output:
                assert matches(command.output, done.stdout), f"$ {command.line}\n{done.stdout}"

    def _start_worker(self, words: Sequence[str]) -> None:
        self.stop_workers()
        log = self.folder / "worker.log"
        with log.open("wb") as output:
            worker = subprocess.Popen(
                words, cwd=self.folder, env=self.environment, stdout=output, stderr=output
            )
        self._workers.append(worker)
        deadline = time.monotonic() + PATIENCE
        while b"tasks  " not in log.read_bytes():
            assert worker.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)

    def stop_workers(self) -> None:
        """Stop the workers: cold, since a page has nothing left to run by then."""
        for worker in self._workers:
            while worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
                try:
                    worker.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
        self._workers.clear()


class Session:
    """The state that a page's Python blocks share; their calls to `app` run in the background."""

    def __init__(self, name: str) -> None:
        self._module = ModuleType(name)
        self._stopped = threading.Event()
        self._running = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=f"work-{name}")

    def run(self, block: Block, page: Path) -> None:
        """Run a block. One that has a worker of its own is the only one to take messages."""
        # Padded, so that a traceback shows the line of the page.
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        if "with worker(" in block.text:
            with self._running:
                exec(code, vars(self._module))
        else:
            exec(code, vars(self._module))

    def __enter__(self) -> Self:
        sys.modules[self._module.__name__] = self._module
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        del sys.modules[self._module.__name__]

    def _work(self) -> None:
        """A worker of one slot in this process, for the app that the page has made by now."""
        while not self._stopped.wait(0.01):
            app = getattr(self._module, "app", None)
            if isinstance(app, CloudQ):
                with self._running:
                    drain(app)


@contextmanager
def session(name: str, folder: Path) -> Generator[Session]:
    """A session whose blocks can import the files of `folder`, which are forgotten afterwards."""
    sys.path.insert(0, str(folder))
    before = set(sys.modules)
    try:
        with Session(name) as made:
            yield made
    finally:
        sys.path.remove(str(folder))
        for loaded in set(sys.modules) - before:
            if str(folder) in (getattr(sys.modules[loaded], "__file__", None) or ""):
                del sys.modules[loaded]
