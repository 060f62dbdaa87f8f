"""How a broken rule is reported."""

from __future__ import annotations

from collections.abc import Iterable


class Violation(Exception):
    """A rule of the system does not hold in this run.

    ``rule`` says in words what should hold, and ``found`` what was found instead. ``nodes`` and ``slots`` are the ones
    it concerns, so that a reader can be shown what matters.
    """

    def __init__(self, rule: str, found: str, *, nodes: Iterable[str] = (), slots: Iterable[int] = ()) -> None:
        super().__init__(f"{rule}: {found}")
        self.rule = rule
        self.found = found
        self.nodes = tuple(nodes)
        self.slots = tuple(slots)
