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
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent
from types import ModuleType, TracebackType
from typing import Self
from urllib.request import urlopen

from cloudq.app import CloudQ
from cloudq.testing import drain
from cloudq.testing.waiting import PATIENCE

_FENCE = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*) -->\n)?"
    r"^(?P<indent> *)```(?P<language>[a-z]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(r"# ([\w/]+\.py)\n")
# What a test must not do or does otherwise: the demo and the local clouds have tests of their own.
_ELSEWHERE = ("git clone", "pip install", "make ")
_STAYING = {
    "cloudq worker": "tasks  ",
    "cloudq beat": "leads",
    "cloudq events": "",
    "cloudq dashboard": "http://",
    "flask --app": "Running on",
    "uvicorn aweb:web": "Uvicorn running",
}
"""Commands that run until they are stopped, with what they print when they are ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block: its language, its text, and the line that its text starts on.

    A comment on the line above is its mark: `<!-- exit 1 -->` for a command that fails, as the page
    says, and `<!-- not run: it needs an account -->` for a block that no test can run.
    """

    language: str
    text: str
    line: int
    mark: str = ""

    @property
    def file(self) -> str | None:
        """The file that a Python block is: its first line is a comment with the name."""
        found = _FILE.match(self.text)
        return found[1] if found and self.language == "python" else None

    @property
    def why_not(self) -> str | None:
        """The reason why no test runs this block; None if one does."""
        before, _, reason = self.mark.partition("not run: ")
        return reason if reason and not before else None

    @property
    def exit_code(self) -> int:
        """The exit code of each of its commands."""
        return int(self.mark.removeprefix("exit ")) if self.mark.startswith("exit ") else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command of a console block, and the output that the page shows for it."""

    line: str
    output: Sequence[str] = ()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text()
    return [
        Block(
            language=m["language"],
            text=dedent(m["text"]) if m["indent"] else m["text"],
            line=text.count("\n", 0, m.start("text")) + 1,
            mark=m["mark"] or "",
        )
        for m in _FENCE.finditer(text)
    ]


def sections(page: Path) -> list[tuple[str, list[Block]]]:
    """The headings of a page, each with the blocks up to the next heading of any level."""
    text, every = page.read_text(), blocks(page)
    inside = {block.line + n for block in every for n in range(block.text.count("\n"))}
    headings = [
        (number, line.lstrip("#").strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.startswith("#") and number not in inside  # a comment in a block is none
    ]
    ends = [number for number, _ in headings[1:]] + [text.count("\n") + 1]
    return [
        (title, [block for block in every if first < block.line < last])
        for (first, title), last in zip(headings, ends, strict=True)
    ]


def section(page: Path, heading: str) -> list[Block]:
    """The blocks under a heading, up to the next heading of any level."""
    return next(found for title, found in sections(page) if title == heading)


def commands(block: Block) -> list[Command]:
    """The commands of a console block: the lines that start with `$ `."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:].partition("  #")[0].strip(), []))
        elif line.strip():
            found[-1][1].append(line)
    return [Command(line=line, output=output) for line, output in found]


def matches(shown: Sequence[str], printed: str, loosely: bool = False) -> bool:
    """Tell whether a page's output is what was printed; `...` stands for anything.

    Loosely, ids, times, spans and numbers may be others, and columns wider: the page shows a
    system of another size.
    """
    read = _loose if loosely else str.strip
    parts = (re.escape(read(line)).replace(r"\.\.\.", ".*") for line in shown)
    text = "\n".join(read(line) for line in printed.splitlines() if line.strip())
    return re.fullmatch("\n".join(parts), text, re.DOTALL) is not None


_LOOSE = (
    (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "ID"),
    (r"(?:\b[A-Z][a-z]{2} )?\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?: UTC)?", "TIME"),
    (r"\b\d\d:\d\d:\d\d\b", "CLOCK"),
    (r"\b\d+(?:\.\d+)?(?:ms|s|m|h|d)(?: \d+[a-z])?\b", "SPAN"),
    (r"\b\d+(?:,\d{3})*\b", "N"),
    (r"\bN ((?:[a-z]+ )?[a-z]+?)s\b", r"N \1"),  # one message, two messages
    (r"\s+", " "),
)


def _loose(line: str) -> str:
    for pattern, kind in _LOOSE:
        line = re.sub(pattern, kind, line)
    return line.strip()


Words = Mapping[str, str]
"""Names and addresses of a test, in place of those that a page has."""


class Shell:
    """A reader at a terminal: remembers what was exported, leaves workers running to the end."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str] | None = None, loosely: bool = False
    ) -> None:
        self.folder = folder
        self.loosely = loosely
        self.typed = ""  # what is typed where a command asks
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "COLUMNS": "200", **(environment or {})}
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in [*self._running]:
            self._stop(name)
        for file in self.folder.rglob("*.pid"):  # of workers in the background, where a test fails
            with suppress(OSError, ValueError):
                os.kill(int(file.read_text()), signal.SIGTERM)

    def read(self, read: Iterable[Block], instead: Words | None = None, add: bool = False) -> None:
        """Do as the blocks say, where `instead` has other words for some of theirs.

        A Python block that names a file becomes that file, or with `add` is written at its end.
        """
        for block in read:
            for shown, meant in (instead or {}).items():
                block = replace(block, text=block.text.replace(shown, meant))
            if block.why_not:
                continue
            if block.file:
                with (self.folder / block.file).open("a" if add else "w") as file:
                    file.write(f"\n\n{block.text}" if add else block.text)
            elif block.language == "python":
                (self.folder / "snippet.py").write_text(block.text)
                self.run(Command(line="python snippet.py"))
            elif block.language == "console":
                for command in commands(block):
                    if not command.line.startswith(_ELSEWHERE):
                        self.run(command, block.exit_code)

    def run(self, command: Command, exit_code: int = 0) -> None:
        """Run one command; fails when it ends or prints otherwise than the page says."""
        words = shlex.split(command.line)
        if words[0] == "export":
            self.environment |= dict(word.split("=", 1) for word in words[1:])
        elif words[0] == "cd":
            self.folder /= words[1]
        elif _name(words) in _STAYING and "--add-user" not in words:
            self._start(words)
        else:
            done = subprocess.run(
                ["bash", "-c", command.line],
                cwd=self.folder,
                env=self.environment,
                input=self.typed,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            said = f"$ {command.line}\n{done.stdout}{done.stderr}"
            assert done.returncode == exit_code, said
            if command.output:
                printed = done.stdout + (done.stderr if exit_code else "")
                assert matches(command.output, printed, self.loosely), said

    def _start(self, words: Sequence[str]) -> None:
        """Start what runs on; one of its kind that runs already is stopped first."""
        name = _name(words)
        self._stop(name)
        if name == "cloudq dashboard" and "--port" not in words:
            words = [*words, "--port", "0"]  # tests at the same time have one each
        log = self.folder / f"{name.replace(' ', '-')}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                words, cwd=self.folder, env=self.environment, stdout=output, stderr=output
            )
        self._running[name] = process, log
        deadline = time.monotonic() + PATIENCE
        while _STAYING[name] not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        if name == "cloudq dashboard":
            _look(re.findall(r"http://\S+", log.read_text())[0])

    def _stop(self, name: str) -> None:
        """Stop a command: cold, since a page has nothing left to run by then."""
        if name not in self._running:
            return
        process, log = self._running.pop(name)
        assert process.poll() is None, f"{name} has ended by itself:\n{log.read_text()}"
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                continue


def _name(words: Sequence[str]) -> str:
    """Return the program and its command; `python manage.py cloudq` is cloudq."""
    of_django = [*words[:3]] == ["python", "manage.py", "cloudq"]
    return " ".join(words[2:4] if of_django else words[:2])


def _look(address: str) -> None:
    """Open a page as a browser does."""
    with urlopen(address, timeout=PATIENCE) as answer:
        assert answer.status == 200
        assert b"<html" in answer.read()


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
        """A worker of one slot in this process, for the app that the page has used by now.

        Until it sends something the page may configure it, as its reader does before a worker runs.
        """
        while not self._stopped.wait(0.01):
            app = getattr(self._module, "app", None)
            if isinstance(app, CloudQ) and app.runtime.is_open:
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
