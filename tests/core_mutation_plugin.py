"""A pytest plugin that runs the tests of a core target against its mutants, each in a fork.

`CLOUDQ_MUTANTS` names the JSON file of the work: the lines of each mutant, and where the verdicts
go. Tests are collected once. A first fork runs them all, to see which lines each of them runs, and
how long it takes. Then each mutant has a fork of its own, in which its functions get changed code,
and the tests that run its lines are run, the quickest first, up to the first red one.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import core_targets
import pytest
from core_mutants import ROOT, Mutant
from hypothesis import Phase, settings

# Seconds that a mutant may take beyond ten times what its tests take: it may never end.
_BEYOND = 20.0
# Seconds that the tests of one mutant may take, as they were measured.
_MOST = float(os.environ.get("CLOUDQ_MUTANT_SECONDS", "60"))


@dataclass
class Seen:
    """The lines that a test has run, in the modules of a target, and how long it took."""

    seconds: float = 0.0
    lines: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])


class Plugin:
    """Runs the session's tests once for each mutant."""

    def __init__(self, work: Path) -> None:
        given = json.loads(work.read_text())
        self.target = core_targets.by_name(given["target"])
        self.at_once: int = given["at_once"]
        self.short: bool = given.get("short", False)
        self.verdicts = Path(given["verdicts"])
        self.mutants = core_targets.chosen(self.target, **given["choice"])
        self.files = {str(file) for file in self.target.files()}
        self.functions: dict[tuple[str, str, int], list[FunctionType]] = {}
        self.failed: str | None = None
        self.why = ""
        self.seen: dict[str, Seen] = {}

    # ---- hooks

    def pytest_collection(self) -> None:
        """Let chance play no part, and keep nothing of what the mutants break."""
        quiet = settings(database=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
        settings.register_profile("mutants", parent=quiet)
        settings.load_profile("mutants")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self) -> None:
        """Find the functions of the modules, before the collector passes over them."""
        for file in self.target.files():  # one that is loaded when it is needed, too
            import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
        for each in gc.get_objects():
            if type(each) is FunctionType and each.__code__.co_filename in self.files:
                code = each.__code__
                key = (code.co_filename, code.co_qualname, code.co_firstlineno)
                self.functions.setdefault(key, []).append(each)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.failed is None:
            self.failed = report.nodeid
            self.why = report.longreprtext

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        if self.short or self.target.written:
            self.try_known(items)
            return True
        sound = self.in_fork(lambda: self.watched(session.items), 3600.0)
        # To be watched makes a test slow, and a few go by the time. These notice no mutant.
        slow = [items[name] for name in sound["red"]] if sound else []
        again = self.in_fork(lambda: self.passed(slow), 3600.0) if slow else {"failed": None}
        if sound is None or again is None or again["failed"]:
            self.tell({"red": f"{again['failed']}\n{again['why']}" if again else "(it ends)"})
            return True
        for name, (seconds, lines) in sound["seen"].items():
            self.seen[name] = Seen(seconds, {(file, line) for file, line in lines})
        self.tell({"tests": len(items), "seconds": sum(s.seconds for s in self.seen.values())})
        running: list[Child] = []
        for mutant in self.mutants:
            while len(running) >= self.at_once:
                running = [child for child in running if not self.ended(child)]
                time.sleep(0.01)
            running.append(self.started(mutant, items))
        while running:
            running = [child for child in running if not self.ended(child)]
            time.sleep(0.01)
        return True

    def try_known(self, items: dict[str, pytest.Item]) -> None:
        """Run the one test for each known mutant, first without it: no line need be watched."""
        sound: dict[str, dict[str, Any] | None] = {}
        chosen = {mutant.name: mutant for mutant in self.mutants}
        for name, test in self.target.known.items():
            if (mutant := chosen.get(name)) is None:
                continue
            own = [items[id] for id in items if id.removeprefix("tests/").startswith(test)]
            if test not in sound:
                sound[test] = self.in_fork(partial(self.passed, own), 3600.0)
            found = sound[test]
            if not own or found is None or found["failed"]:
                why = found["why"] if own and found else "it is not there"
                self.tell({"red": f"{test}: {why}"})
                return
            told = {"mutant": name, "line": mutant.first, "tests": len(own), "run": len(own)}
            child = self.fork(partial(self.tried, mutant, own), 900.0, told)
            while not self.ended(child):
                time.sleep(0.01)

    # ---- the tests without a mutant

    def watched(self, items: Sequence[pytest.Item]) -> dict[str, Any]:
        """Run all tests and watch the lines that they run."""
        found: dict[str, Seen] = {}
        red: list[str] = []
        lines: set[tuple[str, int]] = set()
        files = self.files

        def line(frame: FrameType, event: str, _: Any) -> Any:
            lines.add((frame.f_code.co_filename, frame.f_lineno))
            return line

        def called(frame: FrameType, event: str, _: Any) -> Any:
            if frame.f_code.co_filename not in files:
                return None
            return line(frame, event, None)

        for number, item in enumerate(items):
            lines = set()
            began = time.monotonic()
            threading.settrace(called)
            sys.settrace(called)
            try:
                self.run(item, items[number + 1] if number + 1 < len(items) else None)
            finally:
                sys.settrace(None)
                threading.settrace(None)  # type: ignore[arg-type]
            if self.failed is not None:
                red.append(item.nodeid)
                self.failed = None
            else:
                found[item.nodeid] = Seen(time.monotonic() - began, lines)
        seen = {name: (each.seconds, sorted(each.lines)) for name, each in found.items()}
        return {"red": red, "seen": seen}

    def passed(self, items: Sequence[pytest.Item]) -> dict[str, Any]:
        """Run tests up to the first red one."""
        for number, item in enumerate(items):
            self.run(item, items[number + 1] if number + 1 < len(items) else None)
            if self.failed is not None:
                break
        return {"failed": self.failed, "why": self.why}

    def run(self, item: pytest.Item, after: pytest.Item | None) -> None:
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)

    # ---- a mutant

    def started(self, mutant: Mutant, items: dict[str, pytest.Item]) -> Child:
        """Start the tests of a mutant in a fork."""
        places = {(str(mutant.file), line) for line in range(mutant.first, mutant.last + 1)}
        names = [name for name, seen in self.seen.items() if places & seen.lines]
        names.sort(key=lambda name: self.seen[name].seconds)
        chosen: list[str] = []
        seconds = 0.0
        for name in names:
            if chosen and seconds + self.seen[name].seconds > _MOST:
                break
            chosen.append(name)
            seconds += self.seen[name].seconds

        told = {"mutant": mutant.name, "line": mutant.first, "tests": len(names)}
        told |= {"run": len(chosen)}
        if not chosen:
            return Child(told=told, done={"failed": None})
        work = partial(self.tried, mutant, [items[name] for name in chosen])
        return self.fork(work, _BEYOND + 10 * seconds, told)

    def tried(self, mutant: Mutant, items: Sequence[pytest.Item]) -> dict[str, Any]:
        """Run tests with a mutant in place of the code."""
        if not self.change(mutant):
            return {"failed": None, "run": 0}
        return {"failed": self.passed(items)["failed"]}

    def change(self, mutant: Mutant) -> bool:
        """Give the functions of this process the code of a mutant; False if none can have it."""
        changed = 0
        for code in _codes(mutant.code()):
            key = (str(mutant.file), code.co_qualname, code.co_firstlineno)
            for function in self.functions.get(key, ()):
                if code.co_qualname != mutant.function:
                    continue
                if len(code.co_freevars) != len(function.__code__.co_freevars):
                    return False
                function.__code__ = code
                changed += 1
        return changed > 0

    # ---- forks

    def in_fork(self, work: Callable[[], dict[str, Any]], within: float) -> dict[str, Any] | None:
        child = self.fork(work, within, {})
        while not child.has_ended():
            time.sleep(0.01)
        return child.done

    def fork(
        self, work: Callable[[], dict[str, Any]], within: float, told: dict[str, Any]
    ) -> Child:
        answer = self.verdicts.with_name(f"{self.verdicts.name}-{time.monotonic_ns()}")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setpgid(0, 0)
                nothing = os.open(os.devnull, os.O_RDWR)
                for number in (0, 1, 2):
                    os.dup2(nothing, number)
                answer.write_text(json.dumps(work()))
                status = 0
            finally:
                os._exit(status)
        return Child(told=told, pid=pid, answer=answer, until=time.monotonic() + within)

    def ended(self, child: Child) -> bool:
        if not child.has_ended():
            return False
        done = child.done or {"failed": "(it ends its process, or never)"}
        self.tell({**child.told, **done, "seconds": round(time.monotonic() - child.began, 2)})
        return True

    def tell(self, verdict: dict[str, Any]) -> None:
        with self.verdicts.open("a") as file:
            file.write(json.dumps(verdict) + "\n")


@dataclass
class Child:
    """A fork, what it has to do, and what it has answered."""

    told: dict[str, Any]
    done: dict[str, Any] | None = None
    pid: int = 0
    answer: Path | None = None
    until: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def has_ended(self) -> bool:
        """Tell whether the fork has ended; one that lasts for too long is killed."""
        if not self.pid:
            return True
        if time.monotonic() > self.until:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        elif os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            return False
        self.pid = 0
        if self.answer is not None and self.answer.exists():
            text = self.answer.read_text()
            self.answer.unlink()
            self.done = json.loads(text) if text else None
        return True


def _codes(code: CodeType) -> Iterable[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)


def pytest_configure(config: pytest.Config) -> None:
    """Stand in for the loop that runs the tests."""
    config.pluginmanager.register(Plugin(Path(os.environ["CLOUDQ_MUTANTS"])), "core-mutants")
