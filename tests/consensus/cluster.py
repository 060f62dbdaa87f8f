"""A cluster of replicas in virtual time. How its network and disks misbehave is drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

from consensus.ballot import NEVER, Ballot
from consensus.catchup import one_message
from consensus.messages import Message, Promised, Record, Run, Stored
from consensus.replica import Replica, Role


class Disk:
    """A node's log store: its durable records, and those that are being written."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.writing: list[tuple[int, list[Record], int]] = []

    def restore(self) -> tuple[Ballot, int, dict[int, tuple[Ballot, bytes]]]:
        promised, chosen_upto = NEVER, 0
        slots: dict[int, tuple[Ballot, bytes]] = {}
        for record in self.records:
            if isinstance(record, Promised):
                promised = max(promised, record.ballot)
            else:
                promised = max(promised, record.run.ballot)
                chosen_upto = max(chosen_upto, record.chosen_upto)
                for slot, value in enumerate(record.run.values, record.run.first):
                    slots[slot] = (record.run.ballot, value)
        return promised, chosen_upto, slots


class Cluster:
    """Delivers, delays, loses, repeats and reorders messages; crashes and restarts nodes; checks what is chosen.

    ``chosen`` maps slots to their values, as seen from outside over all nodes and incarnations; no entry ever changes.
    ``saved`` is how far each node's state is on disk. Now and then it catches up with what is applied, but it never
    passes the node's durable log.
    """

    def __init__(self, seed: int, nodes: int = 3, *, keep: int = 1_000_000) -> None:
        self.random = random.Random(seed)
        self.now = 0
        self.names = [f"n{i + 1}" for i in range(nodes)]
        self.disks = {name: Disk() for name in self.names}
        self.applied: dict[str, int] = dict.fromkeys(self.names, 0)
        self.saved: dict[str, int] = dict.fromkeys(self.names, 0)
        self.reads: dict[str, int] = dict.fromkeys(self.names, 0)
        self.chosen: dict[int, bytes] = {}
        self.replicas: dict[str, Replica] = {}
        self.wires: list[tuple[int, int, str, str, Message]] = []
        self.cut: set[tuple[str, str]] = set()
        self.loss = self.duplication = 0.0
        self.delay = (1, 1)
        self.disk_delay = (0, 0)
        self.stuck: set[str] = set()
        """The nodes whose disks stand still."""
        self.keep = keep
        self.ballots: dict[Ballot, str] = {}
        self.trace: list[str] = []
        self.on_drop: Callable[[str, str, Message], bool] | None = None
        self._count = 0
        for name in self.names:
            self.start(name)

    # -- faults -----------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        promised, chosen_upto, slots = self.disks[name].restore()
        chosen_upto = max(chosen_upto, self.saved[name])
        runs = [Run(slot, ballot, [value]) for slot, (ballot, value) in sorted(slots.items()) if slot > chosen_upto]
        self.applied[name] = chosen_upto
        self.reads[name] = 0
        self.replicas[name] = Replica(
            name,
            self.names,
            rng=random.Random(self.random.random()),
            now=self.now,
            promised=promised,
            chosen_upto=chosen_upto,
            accepted=runs,
        )

    def crash(self, name: str) -> None:
        """Lose what is in memory, and all of the writes under way but a first part, which just reaches the disk."""
        del self.replicas[name]
        disk = self.disks[name]
        pending = [record for _, records, _ in disk.writing for record in records]
        disk.records += pending[: self.random.randint(0, len(pending))]
        disk.writing = []

    def partition(self, *pairs: tuple[str, str]) -> None:
        self.cut = set(pairs)

    def isolate(self, name: str) -> None:
        self.cut = {pair for other in self.names for pair in ((name, other), (other, name))}

    def heal(self) -> None:
        self.cut = set()
        self.loss = self.duplication = 0.0

    # -- running ----------------------------------------------------------------------------------------------------

    def run(self, ms: int, until: Callable[[], bool] | None = None) -> bool:
        """Let this much time pass, but return True as soon as the condition holds."""
        for _ in range(ms):
            if until is not None and until():
                return True
            self.step()
        return until is not None and until()

    def step(self) -> None:
        self.now += 1
        due = [wire for wire in self.wires if wire[0] <= self.now]
        self.wires = [wire for wire in self.wires if wire[0] > self.now]
        for _, _, sender, receiver, message in sorted(due, key=lambda wire: wire[:2]):
            if receiver in self.replicas and (sender, receiver) not in self.cut:
                self.trace.append(f"{self.now} {sender}->{receiver} {message}")
                self.replicas[receiver].receive(sender, message)
        for name in self.names:
            if name in self.replicas:
                self.replicas[name].tick(self.now)
                self.turn(name)

    def turn(self, name: str) -> None:
        replica, disk = self.replicas[name], self.disks[name]
        while disk.writing and disk.writing[0][0] <= self.now and name not in self.stuck:
            _, records, upto = disk.writing.pop(0)
            disk.records += records
            replica.persisted(upto)
        effects = replica.effects()
        if effects.records:
            disk.writing.append((self.now + self.random.randint(*self.disk_delay), effects.records, effects.upto))
        for run in effects.chosen:
            assert run.first == self.applied[name] + 1, "chosen slots are delivered in order"
            for slot, value in enumerate(run.values, run.first):
                assert self.chosen.setdefault(slot, value) == value, f"slot {slot} has two chosen values"
            self.applied[name] = run.last
        if self.random.random() < 0.05:
            self.saved[name] = max(self.saved[name], min(self.applied[name], replica.durable_upto))
        self.reads[name] = max(self.reads[name], effects.reads)
        for receiver, first, last in effects.fetches:
            slots = disk.restore()[2]
            runs = [Run(slot, *_single(slots[slot])) for slot in range(first, last + 1)]
            replica.supply(receiver, one_message(runs))
        for receiver, message in effects.messages:
            self.send(name, receiver, message)
        if replica.role is Role.LEADER:
            assert self.ballots.setdefault(replica.ballot, name) == name, "two nodes lead under one ballot"
            replica.forget(self.applied[name] - self.keep)

    def send(self, sender: str, receiver: str, message: Message) -> None:
        if (sender, receiver) in self.cut or (self.on_drop and self.on_drop(sender, receiver, message)):
            return
        copies = 1 + (self.random.random() < self.duplication)
        for _ in range(copies):
            if self.random.random() >= self.loss:
                self._count += 1
                due = self.now + self.random.randint(*self.delay)
                self.wires.append((due, self._count, sender, receiver, message))

    # -- looking ----------------------------------------------------------------------------------------------------

    def leaders(self) -> list[str]:
        return [name for name, replica in self.replicas.items() if replica.role is Role.LEADER]

    def leader(self) -> Replica:
        """Wait for a leader that a quorum follows."""
        assert self.run(5_000, lambda: bool(self.leaders())), "no leader within 5 s"
        return max((self.replicas[name] for name in self.leaders()), key=lambda replica: replica.ballot)

    def settled(self) -> bool:
        """Whether every node runs, and has applied all that any node knows to be chosen."""
        highest = max(self.chosen, default=0)
        return len(self.replicas) == len(self.names) and all(upto >= highest for upto in self.applied.values())

    def records(self, name: str) -> list[Record]:
        return self.disks[name].records

    def stored(self, name: str, slot: int) -> list[Stored]:
        """The records on a node's disk that gave this slot a value."""
        return [
            record
            for record in self.records(name)
            if isinstance(record, Stored) and record.run.first <= slot <= record.run.last
        ]


def _single(cell: tuple[Ballot, bytes]) -> tuple[Ballot, list[bytes]]:
    return cell[0], [cell[1]]
