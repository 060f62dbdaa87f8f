"""What a simulated world needs to know about the service that the replicas run, and about its clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from consensus.messages import Record
from consensus.replica import Replica
from consensus.simulation.disk import Disk


class Damaged(Exception):
    """A node has found its disk damaged: it must not vote, and stops for good."""


class ProcessTurn(Protocol):
    """What a process wants to be done: make ``records`` durable and then call ``persisted``; send ``messages``."""

    @property
    def records(self) -> Sequence[Record]: ...

    @property
    def messages(self) -> Sequence[tuple[str, object]]: ...


class Process(Protocol):
    """The process of one node, from its start to its end.

    Every method may raise Damaged, Violation or InvariantViolation.
    """

    @property
    def replica(self) -> Replica: ...

    def receive(self, sender: str, message: object) -> None:
        """A message from another node or from a client."""
        ...

    def tick(self, now: int, wall: int) -> None:
        """Time passes: what the node's two clocks show, in ms."""
        ...

    def turn(self) -> ProcessTurn:
        """End the turn: act on everything that has come in."""
        ...

    def persisted(self) -> None:
        """The records of the last turn that had any are durable."""
        ...

    def storage_failed(self) -> None:
        """There was no room for those records, and nothing of them is stored."""
        ...

    @property
    def waiting(self) -> int:
        """How many requests, proposals and reads it holds in memory."""
        ...

    def reconfigure(self, voters: Sequence[str], first: str) -> bool:
        """It leads: propose a configuration with these voters. Returns whether it did."""
        ...

    def crash(self) -> None:
        """The process ends, and everything that is not durable is lost."""
        ...


class SimulatedClient(Protocol):
    """Something outside the cluster that sends requests to nodes."""

    name: str

    def receive(self, sender: str, message: object) -> None: ...


class ServiceUnderTest(Protocol):
    """The service under test: starts processes, knows its clients, and judges what they saw."""

    clients: Sequence[SimulatedClient]

    def start(self, name: str, disk: Disk, now: int, wall: int) -> Process:
        """Start or restart a node from its disk. Raises Damaged when the disk is not intact."""
        ...

    def encode(self, message: object) -> bytes:
        """A message between nodes, as it goes over the network."""
        ...

    def decode(self, data: bytes) -> object: ...

    def begin(self) -> None:
        """The clients begin."""
        ...

    def stop(self) -> None:
        """The clients begin nothing new, and go on until all their requests are answered."""
        ...

    def probe(self) -> None:
        """Let every node prove that it serves. Called twice, each time once all earlier requests are answered.

        The first time there are only reads: a write can hide that reads wait for something that will never happen.
        """
        ...

    def unfinished(self) -> str:
        """What the clients still wait for, in words; empty if they wait for nothing."""
        ...

    def judge(self) -> None:
        """The run is over: check what the clients saw against what was chosen. Raises Violation."""
        ...
