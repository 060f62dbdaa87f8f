"""The rooms of the house: imports run one way, no files import each other in a circle, and a name has one meaning."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = [
    {"consensus"},
    {"consensus.simulation"},
    {"kvstore"},
    {"kvstore.language", "kvstore.storage"},
    {"kvstore.state"},
    {"kvstore.node"},
    {"kvstore.handles", "kvstore.maelstrom", "kvstore.resp", "kvstore.simulated"},
    {"kvstore.server"},
    {"kvstore.whole"},
    {"cli", "cli.clusters", "cli.loading", "cli.prompt"},
]
"""From the ground up. A room imports from lower floors only; those of ``cli`` also from each other."""
FACES = {"consensus", "kvstore", "kvstore.__main__"}
"""They hand out what the rooms hold, for programs that use the packages."""


def imported(tree: ast.AST) -> set[str]:
    """The modules, or names of modules, that a file imports anywhere: also in a function, also for types only."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TREES = {
    module_name(path): ast.parse(path.read_text())
    for package in ("consensus", "kvstore", "cli")
    for path in (ROOT / package).rglob("*.py")
}
PACKAGES = {module_name(path.parent / "__init__.py") for path in ROOT.rglob("*/__init__.py")}
IMPORTS = {name: imported(tree) & TREES.keys() - {name} for name, tree in TREES.items()}


def room(module: str) -> str:
    return module if module in PACKAGES else module.rpartition(".")[0]


FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def test_every_room_has_its_floor() -> None:
    assert {room(module) for module in TREES} == FLOOR.keys()


def test_the_design_tells_what_every_room_is_for() -> None:
    house = (ROOT / "docs" / "design.md").read_text().partition("## The house")[2].partition("\n## ")[0]
    told = {line.split("/ ", 1)[0].replace("/", ".") for line in house.splitlines() if "/  " in line}
    assert told == FLOOR.keys()


def test_imports_run_one_way() -> None:
    wrong = [
        f"{module} imports {other}"
        for module in TREES.keys() - FACES
        for other in IMPORTS[module]
        if room(module) != room(other)
        and FLOOR[room(other)] >= FLOOR[room(module)]
        and not (module.startswith("cli") and other.startswith("cli"))
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    # A package is imported before its modules, which is no circle.
    files = {name: {other for other in others if other not in PACKAGES} for name, others in IMPORTS.items()}
    try:
        TopologicalSorter(files).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_name_has_one_meaning() -> None:
    places = defaultdict(list)
    for module, tree in TREES.items():
        for node in ast.iter_child_nodes(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
            elif isinstance(node, ast.Assign | ast.AnnAssign):  # a type's name
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                for name in names:
                    if name[:1].isupper() and not name.isupper():
                        places[name].append(module)
    shared = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert shared == {}
