"""Change the source of functions while a test runs."""

from __future__ import annotations
import __future__

import importlib
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import NamedTuple


class Edit(NamedTuple):
    """Replace ``old``, which must occur once in the function ``where`` (``module:Class.method``), by ``new``."""

    where: str
    old: str
    new: str


class Mutant(NamedTuple):
    """A bug: what is wrong, in words, and the edits that cause it."""

    bug: str
    edits: tuple[Edit, ...]


def mutant(bug: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(bug, tuple(Edit(*edit) for edit in edits))


@contextmanager
def patched(bug: Mutant) -> Iterator[None]:
    """Inside this context the code has the bug, also for modules that have imported it already."""
    originals: list[tuple[FunctionType, CodeType]] = []
    try:
        for where in dict.fromkeys(edit.where for edit in bug.edits):
            function = _function(where)
            edited = _compiled(function, [edit for edit in bug.edits if edit.where == where])
            originals.append((function, function.__code__))
            function.__code__ = edited
        yield
    finally:
        for function, original in originals:
            function.__code__ = original


def _function(where: str) -> FunctionType:
    module, _, path = where.partition(":")
    found: object = importlib.import_module(module)
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    found = found.fget if isinstance(found, property) else found
    assert isinstance(found, FunctionType), f"{where} is not a function"
    return found


def _compiled(function: FunctionType, edits: Sequence[Edit]) -> CodeType:
    source = textwrap.dedent(inspect.getsource(function))
    for edit in edits:
        assert source.count(edit.old) == 1, f"{edit.where} has {source.count(edit.old)} times: {edit.old}"
        source = source.replace(edit.old, edit.new)
    assert not function.__code__.co_freevars, f"{function.__qualname__} is a closure"
    names: dict[str, object] = {}
    flags = __future__.annotations.compiler_flag
    source = source[source.index("def ") :] if source.startswith("@") else source
    exec(compile(source, f"<{function.__qualname__}>", "exec", flags), function.__globals__, names)
    made = names[function.__name__]
    assert isinstance(made, FunctionType)
    return made.__code__
