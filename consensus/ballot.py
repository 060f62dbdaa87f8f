"""Ballots: the numbers that order attempts to lead."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""A slot, or a ballot's round, as another node may name it: what follows from it by adding fits 64 bits with a sign."""


class Ballot(NamedTuple):
    """One attempt of one node to lead, ordered by round and then by node (*Paxos Made Simple*, section 2.2).

    Two nodes never share a ballot because the node is part of it; one node never uses a ballot twice because it raises
    the round above everything it has promised, durably, before it sends the first Prepare.
    """

    round: Number
    node: str

    def __str__(self) -> str:
        return f"{self.round}.{self.node}"


NEVER = Ballot(0, "")
"""Smaller than every ballot a node can use: nothing promised, nothing accepted."""
