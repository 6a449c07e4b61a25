"""Run by an interpreter that has the real Celery: prints its modules and their public names."""

from __future__ import annotations

import ast
from pathlib import Path

import celery  # pyright: ignore

HOME = Path(str(celery.__file__)).parent


def public(path: Path) -> list[str]:
    """The names in `__all__` of a module, which is not imported: it may need what is not there."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant)]
    return []


for path in sorted(HOME.rglob("*.py")):
    module = ".".join(["celery", *path.relative_to(HOME).with_suffix("").parts])
    module = module.removesuffix(".__init__")
    print(" ".join([f"{module}:", *sorted(public(path))]))
