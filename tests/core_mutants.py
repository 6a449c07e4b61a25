"""Mutants of ordinary code: one small change each, made in the tree of a module's source."""

from __future__ import annotations

import ast
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

_OTHER: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
# Values by their fields: one left out has its default, which is what was there before it was added.
_VALUES = frozenset({"replace", "copy_of", "unrecorded", "come_back"})
# Nobody counts on what is logged, and no test is to.
_QUIET = ("log.", "logger.", "self.log.", "self._log.", "super().__init__")
# Functions for people who look at a process, not for the process.
_SHOWN = frozenset({"__repr__", "__str__", "__class_getitem__"})
_EMPTY: dict[str, tuple[str, ...]] = {
    "None": ("None",),
    "bool": ("True", "False"),
    "int": ("0",),
    "str": ("''",),
    **dict.fromkeys(("list", "Sequence", "tuple", "Iterable"), ("[]",)),
    **dict.fromkeys(("dict", "Mapping"), ("{}",)),
}

Place = tuple[int | str, ...]
"""The way from the root of a tree to a node: names of fields, and places in lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change: `function` has it, in the lines from `first` to `last`."""

    file: Path
    function: str
    name: str
    first: int
    last: int
    change: Callable[[ast.Module], None] = field(compare=False, repr=False)

    def code(self) -> CodeType:
        """Compile the module with the change, under its own file name."""
        tree = ast.parse(self.file.read_text())
        self.change(tree)
        return compile(ast.fix_missing_locations(tree), str(self.file), "exec", dont_inherit=True)


def mutants(file: Path) -> list[Mutant]:
    """Return every mutant of a module, in the order of its lines, each with a name of its own."""
    tree = ast.parse(file.read_text())
    made: list[Mutant] = []
    counts: Counter[str] = Counter()
    for function, qualname, place in _functions(tree):
        if function.name in _SHOWN:
            continue
        for what, node, change in _changes(function, place):
            name = f"{file.parent.name}.{file.stem}.{qualname}: {what}"
            counts[name] += 1
            if counts[name] > 1:
                name = f"{name} #{counts[name]}"
            first, last = _lines(node)
            made.append(
                Mutant(
                    file=file, function=qualname, name=name, first=first, last=last, change=change
                )
            )
    return made


def sample(found: Sequence[Mutant], count: int | None, *, seed: int) -> list[Mutant]:
    """Choose up to `count` mutants by chance, always the same for a seed; None chooses all."""
    if count is None or len(found) <= count:
        return list(found)
    chance = random.Random(f"{seed} {found[0].file.name}")
    chosen = {mutant.name for mutant in chance.sample(list(found), count)}
    return [mutant for mutant in found if mutant.name in chosen]


def written(file: Path, name: str, old: str, new: str) -> Mutant:
    """Make the mutant that has `new` in place of the text `old`, of as many lines."""
    source = file.read_text()
    assert source.count(old) == 1, f"{name}: {source.count(old)} times in {file.name}: {old}"
    assert old.count("\n") == new.count("\n"), f"{name}: other lines"
    first = source[: source.index(old)].count("\n") + 1
    function = next(
        qualname
        for node, qualname, _ in _functions(ast.parse(source))
        if node.lineno <= first <= (node.end_lineno or 0)
    )

    def change(tree: ast.Module) -> None:
        tree.body = ast.parse(source.replace(old, new)).body

    last = first + old.count("\n")
    return Mutant(file=file, function=function, name=name, first=first, last=last, change=change)


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(tree: ast.Module) -> Iterator[tuple[Function, str, Place]]:
    """Yield the functions of a module and of its classes, but not those within functions."""

    def inside(body: Sequence[ast.stmt], prefix: str, place: Place) -> Iterator[_Found]:
        for number, node in enumerate(body):
            here = (*place, "body", number)
            if isinstance(node, ast.ClassDef):
                yield from inside(node.body, f"{prefix}{node.name}.", here)
            elif isinstance(node, Function):
                yield node, prefix + node.name, here

    yield from inside(tree.body, "", ())


_Found = tuple[Function, str, Place]
Change = tuple[str, ast.AST, Callable[[ast.Module], None]]


def _at(tree: ast.AST, place: Place) -> ast.AST:
    found: Any = tree
    for step in place:
        found = getattr(found, step) if isinstance(step, str) else found[step]
    assert isinstance(found, ast.AST)
    return found


def _put(tree: ast.Module, place: Place, node: object) -> None:
    owner: Any = tree
    for step in place[:-1]:
        owner = getattr(owner, step) if isinstance(step, str) else owner[step]
    last = place[-1]
    if isinstance(last, str):
        setattr(owner, last, node)
    else:
        owner[last] = node


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _lines(node: ast.AST) -> tuple[int, int]:
    first = getattr(node, "lineno", 0)
    return first, getattr(node, "end_lineno", first) or first


def _walk(node: ast.AST, place: Place) -> Iterator[tuple[ast.AST, Place]]:
    """Yield the nodes that run, but no annotations, defaults or decorators."""
    yield node, place
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "args") and isinstance(
            node, Function | ast.AnnAssign
        ):
            continue
        if isinstance(value, ast.AST):
            yield from _walk(value, (*place, name))
        elif isinstance(value, list):
            for number, each in enumerate(value):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
                if isinstance(each, ast.AST):
                    yield from _walk(each, (*place, name, number))


def _changes(function: Function, place: Place) -> Iterator[Change]:
    yield from _returns(function, place)
    for node, here in _walk(function, place):
        yield from _of_tests(node, here)
        yield from _of_values(node, here)
        yield from _of_blocks(node, here)


def _replacing(here: Place, new: ast.AST) -> Callable[[ast.Module], None]:
    return lambda tree: _put(tree, here, deepcopy(new))


def _of_tests(node: ast.AST, here: Place) -> Iterator[Change]:
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        test = node.test
        no = ast.UnaryOp(op=ast.Not(), operand=test)
        yield f"negate {_text(test)}", test, _replacing((*here, "test"), no)
    elif isinstance(node, ast.comprehension):
        for number, test in enumerate(node.ifs):
            no = ast.UnaryOp(op=ast.Not(), operand=test)
            yield f"negate {_text(test)}", test, _replacing((*here, "ifs", number), no)
    elif isinstance(node, ast.Compare):
        for number, op in enumerate(node.ops):
            other = _OTHER[type(op)]()
            changed = deepcopy(node)
            changed.ops[number] = other
            yield f"{_text(node)} as {_text(changed)}", node, _replacing(here, changed)
    elif isinstance(node, ast.BoolOp):
        other_op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        changed_op = ast.BoolOp(op=other_op, values=node.values)
        word = "or" if isinstance(node.op, ast.And) else "and"
        yield f"{word} in {_text(node)}", node, _replacing(here, changed_op)


def _of_values(node: ast.AST, here: Place) -> Iterator[Change]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            new = ast.Constant(value=not node.value)
            yield f"{node.value} as {new.value}", node, _replacing(here, new)
        elif isinstance(node.value, int | float):
            for step in (1, -1):
                moved = ast.Constant(value=node.value + step)
                yield f"{node.value} as {moved.value}", node, _replacing(here, moved)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        if isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
            return
        op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        if isinstance(node.left, ast.List) or isinstance(node.right, ast.List):
            return
        other = ast.BinOp(left=node.left, op=op, right=node.right)
        yield f"{_text(node)} as {_text(other)}", node, _replacing(here, other)
    elif isinstance(node, ast.Call):
        called = _text(node.func)
        if called not in _VALUES and not called[:1].isupper():
            return
        for number, keyword in enumerate(node.keywords):
            if keyword.arg is None:
                continue
            less = deepcopy(node)
            del less.keywords[number]
            yield f"no {keyword.arg} in {called}", keyword.value, _replacing(here, less)


def _of_blocks(node: ast.AST, here: Place) -> Iterator[Change]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if not isinstance(block, list):
            continue
        statements = [each for each in block if isinstance(each, ast.stmt)]  # pyright: ignore[reportUnknownVariableType]
        for number, statement in enumerate(statements):
            at = (*here, name, number)
            if _goes(statement):
                yield f"drop {_text(statement)}", statement, _replacing(at, ast.Pass())
            after = statements[number + 1] if number + 1 < len(statements) else None
            if after is not None and _acts(statement) and _acts(after):
                yield (
                    f"swap {_text(statement)} and {_text(after)}",
                    statement,
                    _swapping(at, (*here, name, number + 1)),
                )


def _swapping(one: Place, other: Place) -> Callable[[ast.Module], None]:
    def change(tree: ast.Module) -> None:
        first, second = _at(tree, one), _at(tree, other)
        _put(tree, one, second)
        _put(tree, other, first)

    return change


def _acts(statement: ast.stmt) -> bool:
    """Tell whether a statement is a call that is made for its effect."""
    if not isinstance(statement, ast.Expr):
        return False
    value = statement.value.value if isinstance(statement.value, ast.Await) else statement.value
    return isinstance(value, ast.Call) and not _text(value).startswith(_QUIET)


def _goes(statement: ast.stmt) -> bool:
    """Tell whether the code runs on without a statement."""
    if isinstance(statement, ast.Raise | ast.AugAssign | ast.Delete | ast.Continue | ast.Break):
        return True
    if isinstance(statement, ast.Assign):
        return not any(isinstance(target, ast.Name | ast.Tuple) for target in statement.targets)
    return _acts(statement)


def _returns(function: Function, place: Place) -> Iterator[Change]:
    """Have a function return at once, with nothing, or with a value of its kind."""
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(function)):
        return
    said = ast.unparse(function.returns) if function.returns is not None else "None"
    values = _EMPTY.get(said.partition("[")[0].strip("'"), ())
    if said.endswith("| None"):
        values = ("None",)
    if function.name == "__init__" or len(function.body) == 0:
        return
    begins = 1 if ast.get_docstring(function) is not None else 0
    body = function.body[begins:]
    if not body or (len(body) == 1 and isinstance(body[0], ast.Expr | ast.Pass)):
        return
    for value in values:
        if isinstance(body[0], ast.Return) and _text(body[0]) == f"return {value}":
            continue
        early = ast.parse(f"return {value}").body[0]
        at = (*place, "body", begins)
        yield f"return {value} at once", body[0], _replacing(at, early)
