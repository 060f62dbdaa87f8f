"""Invariants: what the proof relies on, checked where the code relies on it."""

from __future__ import annotations


class InvariantViolation(Exception):
    """A safety rule of Multi-Paxos does not hold: a bug here, or state that was tampered with.

    The replica that meets one must stop: going on could choose a second value for a slot.
    """


def require(holds: bool, rule: str) -> None:
    """Raise :class:`InvariantViolation` naming the rule unless it holds; unlike ``assert``, also under ``-O``."""
    if not holds:
        raise InvariantViolation(rule)
