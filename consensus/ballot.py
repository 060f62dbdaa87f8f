"""Ballots: the numbers that order attempts to lead."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

MAX_NUMBER = 2**62
Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
"""A slot or a ballot's round in a message from another node: small enough that sums of them fit signed 64 bits."""


class Ballot(NamedTuple):
    """One attempt of one node to lead, ordered by round and then by node (*Paxos Made Simple*, section 2.2).

    Two nodes never share a ballot, because the node is part of it. One node never uses a ballot twice: it raises the
    round above everything that it has promised, and makes its own promise durable before it sends the first Prepare.
    """

    round: Number
    node: str

    def __str__(self) -> str:
        return f"{self.round}.{self.node}"


NEVER = Ballot(0, "")
"""Below every ballot that a node can use: nothing has been promised or accepted."""
