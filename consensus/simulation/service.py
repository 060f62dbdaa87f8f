"""What a simulated world needs to know of the service that the replicas run, and of its clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from consensus.messages import Record
from consensus.replica import Replica
from consensus.simulation.disk import Disk


class Damaged(Exception):
    """A node found its disk damaged: it must not vote, and stops for good."""


class ProcessTurn(Protocol):
    """What a process wants done: ``records`` made durable, then ``persisted`` called; ``messages`` sent."""

    @property
    def records(self) -> Sequence[Record]: ...

    @property
    def messages(self) -> Sequence[tuple[str, object]]: ...


class Process(Protocol):
    """The process of one node, from its start to its end. Times are in ms by the node's own clocks.

    Every method may raise Damaged, Violation or InvariantViolation.
    """

    @property
    def replica(self) -> Replica: ...

    def receive(self, sender: str, message: object) -> None:
        """A message from another node or from a client."""
        ...

    def tick(self, now: int, wall: int) -> None: ...

    def turn(self) -> ProcessTurn: ...

    def persisted(self) -> None: ...

    def storage_failed(self) -> None: ...

    @property
    def waiting(self) -> int:
        """How many requests, proposals and reads it holds in memory."""
        ...

    def crash(self) -> None:
        """It is gone, with everything that was not durable."""
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
        """A message between nodes, as it goes over the wire."""
        ...

    def decode(self, data: bytes) -> object: ...

    def begin(self) -> None:
        """The clients begin."""
        ...

    def stop(self) -> None:
        """The clients begin nothing new, but go on until everything they asked for is answered."""
        ...

    def probe(self) -> None:
        """Every node is to prove that it serves: called twice, once all that was asked before is answered.

        The first time by reads alone, since a write can hide that reads wait for something that will never happen.
        """
        ...

    def unfinished(self) -> str:
        """What the clients still wait for, in words; empty when there is nothing."""
        ...

    def judge(self) -> None:
        """The run is over: check what the clients saw against what was chosen. Raises Violation."""
        ...
