"""Do all replicas apply the same? Their checksums after the same slots are compared; only a majority is believed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

KEPT = 64
"""So many of a node's checksums are kept until this node has come as far."""


class Divergence:
    """What one node knows of the checksums of all. A checksum covers all slots before it too.

    ``diverged``: why this node's state is wrong, for good. ``doubt``: why nobody knows whether it is. One that agrees
    with a majority has neither, whatever others have.
    """

    def __init__(self, node: str, voters: Iterable[str]) -> None:
        self.diverged = ""
        self.doubt = ""
        self._node = node
        self._voters = list(voters)
        self._quorum = len(self._voters) // 2 + 1
        self._told: dict[str, dict[int, int]] = {name: {} for name in self._voters if name != node}
        self.outcasts: set[str] = set()
        """Nodes that differ from a majority which this one belongs to."""

    def hear(self, name: str, marks: Mapping[int, int]) -> None:
        """Another node has these checksums, by slot."""
        told = self._told[name]
        told.update(marks)
        while len(told) > KEPT:
            del told[min(told)]

    def compare(self, marks: Mapping[int, int]) -> None:
        """With those of this node."""
        self.doubt = ""
        if self.diverged:
            return
        for slot in sorted(marks):
            votes: dict[int, list[str]] = {marks[slot]: [self._node]}
            for name, told in self._told.items():
                if slot in told and name not in self.outcasts:
                    votes.setdefault(told[slot], []).append(name)
            agree = votes.pop(marks[slot])
            others = [name for names in votes.values() for name in names]
            if any(len(names) >= self._quorum for names in votes.values()):
                self.diverged = (
                    f"up to slot {slot} this node has not applied the same as {', '.join(others)}: its state is wrong."
                    " Start it again, which makes its state anew from its log"
                )
                return
            if len(agree) >= self._quorum:
                self.doubt = ""
                self.outcasts.update(others)
            elif others:
                self.doubt = (
                    f"up to slot {slot} this node has not applied the same as {', '.join(others)}, and no majority says"
                    " which of them is right: start the other nodes"
                )
