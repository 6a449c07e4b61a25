"""Feeds mutants of valid bodies to all that reads bodies, and keeps those that reach new code.

`python -m tests.fuzz.campaign --bodies 10000000 --seed 1 --hours 1` prints figures as it goes, and
ends with 1 if a body was handled wrongly.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import threading
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

from tests.fuzz.app_targets import app_targets
from tests.fuzz.arcs import Arcs
from tests.fuzz.mutants import Mutator
from tests.fuzz.recipes import Recipe
from tests.fuzz.targets import LIMIT, Target, Wrong, codec_targets

SLOW = 1.0
"""Seconds of the thread's own time that no body may take."""
PEAK = 80 << 20
"""Bytes that the reading of one body may take at a time, of Python's own."""
_LOOK_AGAIN = 0.03  # seconds after which a body's own time is taken
_TRACED = 200  # of so many bodies one is traced
_MEASURED = 4_000  # of so many bodies the memory of one is measured, of bombs more
_BOMBS_MEASURED = 40
_MOST_KEPT = 3_000  # recipes of one target
_HUNG = 60.0
# Bytes of a body. Parts of parts that are repeated would make a hundred times that.
_LONGEST = 1 << 20
_ROOTS = ("/cloudq/", "/adapters/")


@dataclass(slots=True)
class Corpus:
    """The recipes of one target with their bodies: valid ones, and those that reached new code."""

    target: Target
    recipes: list[Recipe]
    bodies: list[bytes]
    seeds: int
    kept: int = 0
    count: int = 0
    slowest: float = 0.0
    slowest_body: int = 0
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter[str])

    def keep(self, recipe: Recipe, body: bytes, place: int) -> None:
        """Keep a mutant, in place of another one once there are many."""
        self.kept += 1
        if len(self.recipes) < _MOST_KEPT:
            self.recipes.append(recipe)
            self.bodies.append(body)
        else:
            at = self.seeds + place % (len(self.recipes) - self.seeds)
            self.recipes[at], self.bodies[at] = recipe, body


@dataclass(frozen=True, slots=True)
class Finding:
    """A body that was handled wrongly."""

    target: str
    what: str
    where: str
    body: bytes


class Watchdog:
    """Ends the process when one body keeps a thread busy for long, and says which."""

    def __init__(self, say: Any) -> None:
        self.body = b""
        self.name = ""
        self._say = say
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        seen, began = b"", 0.0
        while not self._stop.wait(1.0):
            now = time.clock_gettime(self._clock)
            if self.body is not seen:
                seen, began = self.body, now
            busy = now - began
            if seen and busy > _HUNG:
                self._say({"hung": busy, "target": self.name, "body": repr(self.body[:5000])})
                os._exit(2)


class Campaign:
    """One run of the targets over so many bodies, the same for the same seed."""

    def __init__(
        self, seed: int, targets: Sequence[Target] | None = None, *, out: Any = None
    ) -> None:
        self._random = random.Random(seed)
        self._mutator = Mutator(seed + 1, limit=LIMIT)
        self._arcs = Arcs()
        self._places = places()
        self.found: dict[tuple[str, str, str], Finding] = {}
        self.wrong = 0
        self.peak = 0
        self.memory: list[tuple[int, float]] = []
        self._out = out or sys.stdout
        self.corpora = [self._corpus(each) for each in targets or all_targets()]
        self._weights = list(accumulate(each.target.share for each in self.corpora))
        self.of_seeds = len(self._arcs)
        self._began = time.monotonic()

    @property
    def count(self) -> int:
        """The number of bodies so far."""
        return sum(each.count for each in self.corpora)

    def _corpus(self, target: Target) -> Corpus:
        recipes = list(target.recipes())
        bodies = [recipe.body() for recipe in recipes]
        corpus = Corpus(target, recipes, bodies, len(recipes))
        for body in bodies:
            with suppress(Exception):  # it is said when it is run as one of the others
                self._arcs.new_in(partial(target.run, body))
        return corpus

    def close(self) -> None:
        """Give back what the targets have."""
        for each in self.corpora:
            each.target.close()

    def run(self, count: int, *, until: float = float("inf"), every: float = 30.0) -> None:
        """Run bodies, until a monotonic time at the latest; print figures from time to time."""
        watchdog = Watchdog(self.say)
        next_said = time.monotonic() + every
        step = max(count // 50, 1000)
        try:
            for number in range(count):
                self._one(number, watchdog)
                if number % 256 == 0:
                    now = time.monotonic()
                    if now > until:
                        break
                    if now > next_said:
                        self.say(self.figures())
                        next_said = now + every
                if number % step == 0:
                    self.memory.append((number, resident()))
        finally:
            watchdog.body = b""
            watchdog.close()

    def _one(self, number: int, watchdog: Watchdog) -> None:
        rand = self._random
        [corpus] = rand.choices(self.corpora, cum_weights=self._weights)
        recipe, body = self._mutant(corpus)
        run = partial(corpus.target.run, body)
        watchdog.name, watchdog.body = corpus.target.name, body
        before = time.perf_counter()
        try:
            if number % _MEASURED == 0 or (
                recipe is not None and recipe.squeezed is not None and number % _BOMBS_MEASURED == 0
            ):
                end = self._measured(run, corpus, body)
            else:
                end = run()
            corpus.ends[end] += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._note(corpus, error, body)
        took = time.perf_counter() - before
        corpus.count += 1
        corpus.seconds += took
        if took > _LOOK_AGAIN and took > corpus.slowest and corpus.target.at_once == 1:
            self._time(corpus, run, body)
        if number % _TRACED == 0 and corpus.target.at_once == 1:
            with suppress(BaseException):  # noted above
                if self._arcs.new_in(run) and len(body) < LIMIT:
                    corpus.keep(recipe or Recipe(whole=body), body, rand.randrange(1 << 30))

    def _time(self, corpus: Corpus, run: Any, body: bytes) -> None:
        """Run a body again: the machine may have been busy. What of it was ours?"""
        before = time.thread_time()
        with suppress(Exception):  # noted when it was run first
            run()
        took = time.thread_time() - before
        if took > corpus.slowest:
            corpus.slowest, corpus.slowest_body = took, len(body)
        if took > SLOW:
            self._note(corpus, Wrong(f"it took {took:.1f} s"), body)

    def _mutant(self, corpus: Corpus) -> tuple[Recipe | None, bytes]:
        """Make a mutant; often of a body as it is, which takes a part of the time."""
        rand = self._random
        count = len(corpus.recipes)
        # Those that were found last are the least explored.
        place = (
            rand.randrange(count) if rand.random() < 0.7 else max(0, count - 1 - rand.randrange(60))
        )
        other = rand.randrange(count)
        wrapped = corpus.target.wrapped
        if not wrapped and rand.random() < 0.6:
            return None, self._mutator.spoilt(corpus.bodies[place], corpus.bodies[other])
        made = self._mutator.mutant(corpus.recipes[place], corpus.recipes[other], wrapped=wrapped)
        return made, made.body()[:_LONGEST]

    def _measured(self, run: Any, corpus: Corpus, body: bytes) -> str:
        tracemalloc.start()
        try:
            end: str = run()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.peak = max(self.peak, peak)
        if peak > PEAK and corpus.target.at_once == 1:
            self._note(corpus, Wrong(f"it took {peak:,} bytes of memory"), body)
        return end

    def _note(self, corpus: Corpus, error: BaseException, body: bytes) -> None:
        self.wrong += 1
        frames = traceback.extract_tb(error.__traceback__)
        ours = [each for each in frames if any(root in each.filename for root in _ROOTS)]
        where = f"{ours[-1].filename}:{ours[-1].lineno}" if ours else ""
        given = error.body if isinstance(error, Wrong) and error.body is not None else body
        what = (
            str(error)[:300]
            if isinstance(error, Wrong)
            else f"{type(error).__name__}: {error}"[:300]
        )
        key = (corpus.target.name, where, what[:40])
        if key in self.found or len(self.found) > 200:
            return
        self.found[key] = Finding(corpus.target.name, what, where, given)
        self.say(
            {
                "wrong": what,
                "where": where,
                "target": corpus.target.name,
                "body": repr(given[:3000]),
            }
        )

    # ---- figures

    def figures(self) -> dict[str, Any]:
        """Return what there is to say so far."""
        took = time.monotonic() - self._began
        return {
            "bodies": self.count,
            "seconds": round(took),
            "a second": round(self.count / max(took, 0.001)),
            "wrong": self.wrong,
            "distinct": len(self.found),
            "MB": round(resident()),
            "MB a million": round(self.slope(), 2),
            "peak MB of a body": round(self.peak / 1e6, 1),
            "steps": [self.of_seeds, len(self._arcs)],
            "targets": {
                each.target.name: {
                    "bodies": each.count,
                    "kept": each.kept,
                    "us by the wall": round(each.seconds / max(each.count, 1) * 1e6),
                    "slowest": [round(each.slowest, 3), each.slowest_body],
                    "ends": dict(each.ends.most_common(7)),
                }
                for each in self.corpora
            },
        }

    def slope(self) -> float:
        """Return by how many MB the process has grown a million bodies, in the later half."""
        later = self.memory[len(self.memory) // 2 :]
        if len(later) < 2:
            return 0.0
        middle = sum(x for x, _ in later) / len(later), sum(y for _, y in later) / len(later)
        above = sum((x - middle[0]) * (y - middle[1]) for x, y in later)
        return above / sum((x - middle[0]) ** 2 for x, _ in later) * 1e6

    def left(self) -> tuple[int, int]:
        """Return how many threads and descriptors there are that were not there at the start."""
        threads, descriptors = places()
        return threads - self._places[0], descriptors - self._places[1]

    def say(self, what: dict[str, Any]) -> None:
        """Print a line of JSON."""
        print(json.dumps(what), file=self._out, flush=True)


def all_targets() -> list[Target]:
    """Make all targets."""
    return [*codec_targets(), *app_targets()]


def resident() -> float:
    """Return the memory of this process in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def places() -> tuple[int, int]:
    """Return the numbers of threads and of open descriptors."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


@contextmanager
def silent() -> Iterator[None]:
    """Log nothing: each refused body would have its line."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bodies", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=float, default=float("inf"))
    parser.add_argument("--targets", default="", help="names, with commas between them")
    given = parser.parse_args()
    chosen = [each for each in all_targets() if each.name in given.targets.split(",")]
    with silent():
        campaign = Campaign(given.seed, chosen or None)
        campaign.run(given.bodies, until=time.monotonic() + given.hours * 3600)
        campaign.close()
    campaign.say({"seed": given.seed, **campaign.figures(), "left": campaign.left()})
    return int(bool(campaign.found))


if __name__ == "__main__":
    sys.exit(main())
