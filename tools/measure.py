"""Measures the structure of the source and holds it against its ceilings.

    python tools/measure.py [--root DIRECTORY]

Prints a row a figure and exits with 1 if one is over its ceiling; `make check` calls it. With
`--root` another checkout is measured, so that two states can be compared.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("cloudq", "adapters", "deploy")
PROSE = (*SOURCES, "localstack", "tests", "tools", "benchmarks", "examples")
RIDDLES = ("What", "Which", "Who", "Where", "How", "Whether")
"""First words of a docstring that say what it is about and not what the thing does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One source file: its dotted name, its syntax tree, and its number of lines."""

    name: str
    path: Path
    tree: ast.Module
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measure with its ceiling; `examples` names the places that count."""

    name: str
    value: int
    ceiling: int
    examples: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Tell whether the figure is above its ceiling."""
        return self.value > self.ceiling


def modules(root: Path, *folders: str) -> list[Module]:
    """Read the Python files below some folders of a checkout."""
    found: list[Module] = []
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            text = path.read_text()
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            for prefix in ("adapters.", "deploy."):  # source roots of their own
                name = name.removeprefix(prefix)
            found.append(Module(name=name, path=path, tree=ast.parse(text), lines=text.count("\n")))
    return found


def figures(root: Path) -> Iterator[Figure]:
    """Measure a checkout."""
    core, every = modules(root, "cloudq"), modules(root, *SOURCES)
    top = root / "cloudq"
    yield Figure(name="files at the top of cloudq/", value=len([*top.glob("*.py")]), ceiling=8)
    folders = [path for path in top.iterdir() if (path / "__init__.py").is_file()]
    yield Figure(name="folders at the top of cloudq/", value=len(folders), ceiling=18)
    yield _layers(root)
    yield _count("Protocols outside driver/ and testing/", protocols(core), 6)
    yield _count("lambdas in cloudq/", lambdas(core), 49)
    yield _count("casts in cloudq/", casts(core), 59)
    yield _count("import cycles, of types too", cycles(every), 0)
    yield _count("files over 400 lines", long_files(every), 0)
    yield _count("functions over 60 lines", long_functions(every), 0)
    prose = modules(root, *(folder for folder in PROSE if (root / folder).is_dir()))
    yield _count("docstrings that begin with a riddle", riddles(prose), 0)
    yield from journey(root)


def _count(name: str, places: Iterator[str], ceiling: int) -> Figure:
    found = tuple(places)
    return Figure(name=name, value=len(found), ceiling=ceiling, examples=found)


def _layers(root: Path) -> Figure:
    linter = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = next(each for each in linter["contracts"] if each["type"] == "layers")
    excepted = tuple(contract.get("ignore_imports", ()))
    # An exception is a layer that does not hold.
    value = len(contract["layers"]) + len(excepted)
    return Figure(name="layers, exceptions added", value=value, ceiling=12, examples=excepted)


def protocols(found: list[Module]) -> Iterator[str]:
    """Name the Protocol classes outside the two rooms that are made of them."""
    for module in found:
        if module.name.startswith(("cloudq.driver", "cloudq.testing")):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and any(
                "Protocol" in ast.unparse(base) for base in node.bases
            ):
                yield f"{module.name}.{node.name}"


def lambdas(found: list[Module]) -> Iterator[str]:
    """Name the place of each lambda."""
    for module in found:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Lambda):
                yield f"{module.name}:{node.lineno}"


def casts(found: list[Module]) -> Iterator[str]:
    """Name the place of each `cast`."""
    for module in found:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("cast", "typing.cast"):
                yield f"{module.name}:{node.lineno}"


def long_files(found: list[Module]) -> Iterator[str]:
    """Name the files over 400 lines."""
    for module in found:
        if module.lines > 400:
            yield f"{module.name} ({module.lines})"


def long_functions(found: list[Module]) -> Iterator[str]:
    """Name the functions over 60 lines."""
    for module in found:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    yield f"{module.name}.{node.name} ({length})"


def riddles(found: list[Module]) -> Iterator[str]:
    """Name the docstrings whose first word says what the thing is about."""
    for module in found:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = (ast.get_docstring(node) or "").split(maxsplit=1)
                if first and first[0].rstrip(":,") in RIDDLES:
                    yield f"{module.path.name}:{getattr(node, 'lineno', 1)}"


def cycles(found: list[Module]) -> Iterator[str]:
    """Name the groups of modules that import each other, imports for types included."""
    graph = _imports(found)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[list[str]]:
        """Find strongly connected components, by Tarjan's algorithm (1972)."""
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                yield from visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                yield component

    for name in sorted(graph):
        if name not in index:
            for component in visit(name):
                yield " <-> ".join(sorted(component))


def _imports(found: list[Module]) -> Mapping[str, set[str]]:
    """Return the modules that each module imports at its top, also only for type checkers."""
    names = {module.name for module in found}
    graph: dict[str, set[str]] = {module.name: set() for module in found}
    for module in found:
        for node in _top_level(module.tree.body):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                base = node.module or ""
                full = [f"{base}.{alias.name}" for alias in node.names]
                targets = [each if each in names else base for each in full]
            graph[module.name] |= {each for each in targets if each in names}
        graph[module.name].discard(module.name)
    return graph


def _top_level(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If):
            yield from _top_level(node.body)
            yield from _top_level(node.orelse)
        elif isinstance(node, ast.Try):
            yield from _top_level(node.body)


# Runs one call in memory; prints the frames from `delay` to the driver, and the files visited.
_JOURNEY = """
import sys, traceback
from pathlib import Path
root = Path(sys.argv[1])
sys.path[:0] = [str(root), str(root / "adapters")]
from cloudq import CloudQ
from cloudq.testing import drain
app = CloudQ("journey", broker="memory://journey", backend="memory://journey")
@app.task(name="add")
def add(x, y): return x + y
add.delay(1, 1); drain(app)
kind = type(app.broker.driver)
plain, frames = kind.send, []
def send(*args, **kwargs):
    names = [frame.name for frame in traceback.extract_stack()]
    frames.append(len(names) - names.index("delay"))
    return plain(*args, **kwargs)
kind.send = send
add.delay(2, 3)
kind.send = plain
drain(app)
files = set()
def visit(frame, event, argument):
    name = frame.f_code.co_filename
    if event == "call" and name.startswith((str(root / "cloudq"), str(root / "adapters"))):
        files.add(name)
sys.setprofile(visit)
result = add.delay(2, 3); drain(app); result.get(1)
sys.setprofile(None)
print(frames[0], len(files))
"""


def journey(root: Path) -> Iterator[Figure]:
    """Run one call, and count its frames up to the driver and the files it visits."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", _JOURNEY, str(root)],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    frames, files = map(int, done.stdout.split())
    yield Figure(name="frames from delay to the driver", value=frames, ceiling=5)
    yield Figure(name="files that one call visits", value=files, ceiling=34)


def main() -> int:
    """Print the figures; 1 if one is over its ceiling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to measure")
    parser.add_argument("--all", action="store_true", help="name every place that counts")
    options = parser.parse_args()
    over = False
    for figure in figures(options.root.resolve()):
        mark = "over" if figure.is_over else "ok"
        print(f"{figure.name:42} {figure.value:5}   at most {figure.ceiling:3}   {mark}")
        if figure.is_over or options.all:
            for example in figure.examples:
                print(f"    {example}")
        over = over or figure.is_over
    return int(over)


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Shows the module's docstring as it is written."""


if __name__ == "__main__":
    sys.exit(main())
