"""What consensus itself costs: three replicas in one process, without a codec, a network or a disk."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from consensus.messages import Message
from consensus.replica import Replica, Role
from tests.benchmarks.registry import VALUE_BYTES, Body, benchmark

NAMES = ("n1", "n2", "n3")
KEEP_SLOTS = 4_096
SETTLE_MS = 1_000
"""The last news of what is chosen reaches everybody long before."""


class Cluster:
    """Delivers every message at once, and has every record durable at once; a batch takes a millisecond."""

    def __init__(self) -> None:
        self.now = 0
        self.replicas = {name: Replica(name, NAMES, rng=random.Random(name), now=0) for name in NAMES}
        while not self.leaders():
            self.step()
        self.leader = self.leaders()[0]
        self.leader.urgent_upto = 0  # as a server has it, which answers its own clients

    def leaders(self) -> list[Replica]:
        return [replica for replica in self.replicas.values() if replica.role is Role.LEADER]

    def step(self) -> None:
        self.now += 1
        for replica in self.replicas.values():
            replica.tick(self.now)
        self.settle()

    def settle(self) -> None:
        """Turn every replica until none has anything left to do."""
        busy = True
        while busy:
            busy = False
            for name, replica in self.replicas.items():
                effects = replica.effects()
                if effects.records:
                    replica.persisted(effects.upto)
                replica.forget(replica.chosen_upto - KEEP_SLOTS)
                busy |= bool(effects.records or effects.messages)
                for receiver, message in effects.messages:
                    self.deliver(name, receiver, message)

    def deliver(self, sender: str, receiver: str, message: Message) -> None:
        self.replicas[receiver].receive(sender, message)


def _choose(units: int, batch: int) -> Body:
    cluster = Cluster()
    values = [b"v" * VALUE_BYTES] * batch
    wanted = cluster.leader.chosen_upto + units // batch * batch

    def body() -> None:
        for _ in range(units // batch):
            cluster.leader.propose(values)
            cluster.step()
        for _ in range(SETTLE_MS):
            if min(replica.chosen_upto for replica in cluster.replicas.values()) >= wanted:
                return
            cluster.step()
        raise AssertionError(f"not chosen everywhere within {SETTLE_MS} ms")

    return body


@benchmark("core/chosen by 3 replicas, 1 at a time", unit="value", units=2_000)
def one(units: int, directory: Path) -> Iterator[Body]:
    yield _choose(units, 1)


@benchmark("core/chosen by 3 replicas, 100 at a time", unit="value", units=50_000)
def hundred(units: int, directory: Path) -> Iterator[Body]:
    yield _choose(units, 100)
