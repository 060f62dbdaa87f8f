"""The rules that leases rest on, checked from outside by the clock of each node."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from consensus.ballot import NEVER, Ballot
from consensus.messages import Alive, Heartbeat, Prepare, Promise
from consensus.replica import Replica
from consensus.simulation.safety import Safety
from consensus.simulation.violation import Violation


class Leases:
    """Checks every message of all nodes. A node's clock outlives its process, and so do the promises of its process.

    ``lease`` in ms; ``clock`` reads a node's clock; ``replicas`` gives those of the processes that run now.
    """

    def __init__(
        self, lease: int, safety: Safety, clock: Callable[[str], int], replicas: Callable[[], Iterator[Replica]]
    ) -> None:
        self._lease = lease
        self._safety = safety
        self._clock = clock
        self._replicas = replicas
        self._heard: dict[tuple[str, Ballot, int], int] = {}
        self._supports: dict[str, dict[Ballot, int]] = {}
        self._released: dict[Ballot, Ballot] = {}

    def received(self, name: str, message: object) -> None:
        """A node is about to receive a message."""
        if isinstance(message, Heartbeat):
            self._heard.setdefault((name, message.ballot, message.round), self._clock(name))

    def sent(self, name: str, message: object) -> None:
        """A node sends a message to another."""
        match message:
            case Alive():
                supports = self._supports.setdefault(name, {})
                until = self._heard[name, message.ballot, message.round] + self._lease
                supports[message.ballot] = max(supports.get(message.ballot, 0), until)
            case Prepare():
                self._released[message.ballot] = message.released
                self._promise(name, message.ballot)
            case Promise():
                self._promise(name, message.ballot)

    def _promise(self, name: str, ballot: Ballot) -> None:
        now, released = self._clock(name), self._released.get(ballot, NEVER)
        won = self._safety.is_won(ballot)
        for supported, until in self._supports.get(name, {}).items():
            # Once a ballot is won, accepting something under it is a promise too, and so it may be promised once more.
            # What a leader was promised binds its own configuration: it knows of the next before all others.
            binds = supported.epoch == ballot.epoch and released < supported < ballot
            if binds and now < until and not won:
                raise Violation(
                    "an acceptor promises nothing while it supports a leader",
                    f"{name} promises {ballot} at {now} by its clock, it supports {supported} until {until}",
                    nodes=[name, supported.node],
                )
        if won:
            self._check_leases(ballot)

    def _check_leases(self, ballot: Ballot) -> None:
        for replica in self._replicas():
            if replica.ballot < ballot and replica.holds_lease(self._clock(replica.node)):
                raise Violation(
                    "while a leader holds a lease no later ballot is won",
                    f"a majority has promised {ballot}, and {replica.node} holds a lease under {replica.ballot}",
                    nodes=[replica.node, ballot.node],
                )
