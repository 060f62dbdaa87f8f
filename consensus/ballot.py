"""Ballots: the numbers that order attempts to lead."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

MAX_NUMBER = 2**62
Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
"""A slot or a ballot's round in a message from another node: small enough that sums of them fit signed 64 bits."""


EPOCH_ROUNDS = 2**40
"""So many rounds are of one epoch."""


class Ballot(NamedTuple):
    """One attempt of one node to lead, ordered by round and then by node (*Paxos Made Simple*, section 2.2).

    Every configuration of the cluster but the first begins a new epoch, whose rounds are above those of all earlier
    ones: so a ballot tells which configuration it is of, and no ballot of an earlier one is ever taken for it.

    Two nodes never share a ballot, because the node is part of it. One node never uses a ballot twice: it raises the
    round above everything that it has promised, and makes its own promise durable before it sends the first Prepare.
    """

    round: Number
    node: str

    @property
    def epoch(self) -> int:
        """How many configurations came before the one that this ballot is of."""
        return self.round // EPOCH_ROUNDS

    def __str__(self) -> str:
        epoch, number = divmod(self.round, EPOCH_ROUNDS)
        return f"{epoch}:{number}.{self.node}" if epoch else f"{number}.{self.node}"


def beginning(epoch: int) -> Ballot:
    """Below every ballot that a node can use in this epoch, and above all of earlier ones."""
    return Ballot(epoch * EPOCH_ROUNDS, "")


NEVER = Ballot(0, "")
"""Below every ballot that a node can use: nothing has been promised or accepted."""
