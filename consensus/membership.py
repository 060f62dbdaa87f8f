"""Which nodes take part, and how many of them make a quorum."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

MAX_NODES = 7
MAX_LEARNERS = 8


class Configuration:
    """A fixed set of 1 to 7 voters. A quorum is a majority of them, so that any two quorums have a node in common.

    Learners hear and keep all that voters do, and their votes do not count.
    """

    def __init__(self, nodes: Iterable[str], learners: Iterable[str] = ()) -> None:
        self.nodes = tuple(sorted(set(nodes)))
        """The voters."""
        self.learners = tuple(sorted(set(learners) - set(self.nodes)))
        self.everyone = self.nodes + self.learners
        if not 1 <= len(self.nodes) <= MAX_NODES:
            raise ValueError(f"a cluster has 1 to {MAX_NODES} nodes, not {len(self.nodes)}")
        if len(self.learners) > MAX_LEARNERS:
            raise ValueError(f"a cluster has at most {MAX_LEARNERS} learners, not {len(self.learners)}")
        self.quorum = len(self.nodes) // 2 + 1

    def is_quorum(self, votes: Collection[str]) -> bool:
        """Whether the members among these nodes are a majority."""
        return sum(node in votes for node in self.nodes) >= self.quorum

    def reached_by_quorum(self, marks: Mapping[str, int]) -> int:
        """The greatest number that a majority has reached; a node that ``marks`` does not name counts as -1."""
        return sorted((marks.get(node, -1) for node in self.nodes), reverse=True)[self.quorum - 1]
