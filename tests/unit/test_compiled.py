"""The modules that a wheel may hold compiled mean the same compiled: what the compiler takes otherwise is not in them.

``.ci/compiled`` compiles them and runs all tests on the result, but for those that ``conftest.SOURCES_ONLY`` names.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from kvstore.version import is_compiled
from tests.conftest import SOURCES_ONLY

ROOT = Path(__file__).parents[2]
CONSUMERS = {
    *("all", "any", "join", "max", "min", "next", "sum"),
    *("dict", "extend", "list", "set", "sorted", "tuple", "update"),
}
"""They take all of a generator; or, as ``next``, are compiled to a loop."""


def modules() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found: list[str] = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"]
    return found


def complaints(tree: ast.Module) -> Iterator[str]:
    """What the compiler would take for something else, without a word or only when it runs."""
    consumed = {
        argument
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and name_of(call.func) in CONSUMERS
        for argument in call.args
    }
    starred = {node.value for node in ast.walk(tree) if isinstance(node, ast.Starred)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.keywords:
            yield f"the options of class {node.name} would be dropped"
        if isinstance(node, ast.GeneratorExp) and node not in consumed | starred and node not in at_import(tree):
            yield f"the generator in line {node.lineno} would be a list"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = [part for part in ast.walk(node) if isinstance(part, ast.FunctionDef) and part is not node]
            for function in inner:
                yield f"{function.name} within {node.name} would be part of a circle"
            handlers = [part for part in ast.walk(node) if isinstance(part, ast.ExceptHandler)]
            names = [handler.name for handler in handlers if handler.name]
            if len(names) != len(set(names)):
                yield f"the errors that {node.name} names alike would have to be of one type"


def at_import(tree: ast.Module) -> set[ast.AST]:
    return {node for statement in tree.body if isinstance(statement, ast.Assign) for node in ast.walk(statement)}


def name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""


@pytest.mark.parametrize("module", modules())
def test_nothing_in_it_means_something_else_when_compiled(module: str) -> None:
    assert list(complaints(ast.parse((ROOT / module).read_text()))) == []


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("class A(Struct, frozen=True): ...", "the options of class A would be dropped"),
        (
            "def f(x):\n  def g(): return x\n  return g",
            "g within f would be part of a circle",
        ),
        ("def f(x):\n  keys = (k for k in x)\n  return keys", "the generator in line 2 would be a list"),
        (
            "def f():\n  try: g()\n  except A as e: h(e)\n  except B as e: h(e)",
            "the errors that f names alike would have to be of one type",
        ),
    ],
)
def test_what_would_mean_something_else_is_found(source: str, complaint: str) -> None:
    assert list(complaints(ast.parse(source))) == [complaint]


def test_all_of_them_are_compiled_or_none() -> None:
    names = [module.removesuffix(".py").replace("/", ".") for module in modules()]
    specs = [find_spec(name) for name in names]
    kinds = {Path(spec.origin).suffix if spec and spec.origin else "nowhere" for spec in specs}
    assert kinds == ({".so"} if is_compiled() else {".py"})


def test_processes_run_the_build_that_is_tested() -> None:
    done = subprocess.run([sys.executable, "-m", "kvstore", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert ("(compiled)" in done.stdout) == is_compiled(), done


@pytest.mark.parametrize("test", SOURCES_ONLY)
def test_what_is_not_tested_compiled_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_no_other_module_subclasses_what_is_compiled() -> None:
    """An interpreted class cannot have a compiled one for its base."""
    compiled = {ROOT / module for module in modules()}
    paths = [path for package in ("consensus", "kvstore", "cli") for path in (ROOT / package).rglob("*.py")]
    assert compiled < set(paths)
    classes = {
        path: [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef)] for path in paths
    }
    names = {node.name for path in compiled for node in classes[path]}
    bases = {name_of(base) for path in paths if path not in compiled for node in classes[path] for base in node.bases}
    assert names & bases == set()
