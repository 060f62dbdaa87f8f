"""Invariants: the rules that the proof relies on, checked where the code relies on them."""

from __future__ import annotations


class InvariantViolation(Exception):
    """A safety rule of Multi-Paxos does not hold: there is a bug here, or the durable state was tampered with.

    The replica that raises it must stop: if it went on, a second value could be chosen for a slot.
    """


def require(holds: bool, rule: str) -> None:
    """Raise :class:`InvariantViolation` naming the rule unless it holds; unlike ``assert``, also under ``-O``."""
    if not holds:
        raise InvariantViolation(rule)
