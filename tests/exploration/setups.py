"""What is explored: how small the cluster's world is, and what may go wrong in it."""

from __future__ import annotations

from typing import NamedTuple


class Setup(NamedTuple):
    """A cluster of three nodes n1, n2, n3. Numbers are how often something may happen in one run at most.

    Messages may be lost, repeated, late and out of order as often as they like. ``candidates`` may ask to lead, and
    a process that leads proposes up to ``values`` values, for the lowest free slot or, if ``named``, for any slot by
    name. ``slow_disks``: there records become durable any time later, batch by batch, and a crash may lose them.
    ``pre_votes``: nodes ask before they use a ballot; otherwise as if everybody had said yes. ``clock``: how many ms
    pass, with leases of ``lease`` ms.
    ``lost``: kinds of messages that never arrive, where what they bring about would be too much to explore.
    ``stops``: so many stop-signs may be proposed; one that is chosen makes ``next`` the voters.
    """

    name: str
    candidates: tuple[str, ...] = ("n1", "n2")
    elections: int = 2
    slots: int = 1
    values: int = 1
    named: bool = False
    slow_disks: tuple[str, ...] = ()
    pre_votes: bool = False
    crashes: int = 0
    crashing: tuple[str, ...] = ("n1", "n2", "n3")
    forgets: int = 0
    heartbeats: int = 0
    reads: int = 0
    readers: tuple[str, ...] = ("n1", "n2")
    hand_overs: int = 0
    resignations: int = 0
    lease: int = 0
    clock: int = 0
    lost: tuple[str, ...] = ()
    stops: int = 0
    next: tuple[str, ...] = ()


QUIET = ("Heartbeat",)
"""Heartbeats, and so their answers, are lost where they would bring nothing but more states."""
LEASED = ("Chosen", "Reject", "ReadIndex", "ReadIndexReply", "Heartbeat")
"""What is lost beside heartbeats where leases and clocks bring many states by themselves."""

SMALL = [
    Setup("two leaders", lost=QUIET),
    Setup("two leaders, slots by name", slots=2, named=True, lost=QUIET),
    Setup("two leaders, pre-votes", pre_votes=True, lost=QUIET),
    Setup("two leaders, slots leave memory", forgets=1, lost=QUIET),
    Setup("two leaders, an acceptor crashes", crashes=1, crashing=("n3",), lost=QUIET),
    Setup("a leader with a read of another node", elections=1, heartbeats=1, reads=1, readers=("n2",)),
    Setup("a leader hands over", elections=1, hand_overs=1, lost=QUIET),
    Setup(
        "a leader hands over, with leases and a read",
        candidates=("n1",),
        elections=1,
        reads=1,
        readers=("n1",),
        hand_overs=1,
        lease=4,
        clock=1,
        lost=LEASED,
    ),
    Setup("two leaders, one gives up", resignations=1, lost=QUIET),
    Setup(
        "an acceptor with a slow disk crashes",
        elections=1,
        slow_disks=("n3",),
        crashes=1,
        crashing=("n3",),
        lost=QUIET,
    ),
    Setup("a configuration of all nodes follows", slots=3, stops=1, next=("n1", "n2", "n3"), lost=QUIET),
    Setup("a configuration without one node follows", slots=3, stops=1, next=("n2", "n3"), lost=QUIET),
]
"""What the tests explore: all of it in a minute and a half on one core."""
STATES = {
    "two leaders": 46_288,
    "two leaders, slots by name": 72_209,
    "two leaders, pre-votes": 114_747,
    "two leaders, slots leave memory": 205_594,
    "two leaders, an acceptor crashes": 243_569,
    "a leader with a read of another node": 69_122,
    "a leader hands over": 33_273,
    "a leader hands over, with leases and a read": 241_808,
    "two leaders, one gives up": 149_483,
    "an acceptor with a slow disk crashes": 1_442,
}
"""How many states each of these has. One that has far fewer has lost something that may happen."""

LARGE = [
    Setup("two leaders, heartbeats"),
    Setup("one election and a hand-over", elections=1, hand_overs=1),
    Setup("three elections", elections=3, lost=("Heartbeat", "Chosen", "Reject")),
    Setup("two leaders, any node crashes, slots leave memory", crashes=1, forgets=1, lost=QUIET),
]
