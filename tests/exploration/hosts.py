"""One node as a value: a real replica with its disk and host, which takes one step and is compared as a key."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple, cast

import msgspec

from consensus import NEVER, Ballot, Message, Record, Replica, Role, Run, Stored
from consensus.catchup import one_message
from consensus.election import Timing
from consensus.heartbeats import Heartbeats
from consensus.log import NO_END
from consensus.membership import Configuration
from consensus.messages import (
    STOP,
    Accept,
    Accepted,
    Alive,
    Fetch,
    Prepare,
    PreVote,
    PreVoteReply,
    Promise,
    ReadIndex,
    is_stop,
)
from tests.consensus.golden import Patient, describe
from tests.exploration.setups import Setup

NODES = ("n1", "n2", "n3")
NOT_YET = 1_000_000_000
"""In ms: when a timer runs out that runs out only in a step of its own."""


MAX_ROUNDS = 3
"""A leader that has begun so many rounds gets no further questions of others: each copy of one begins a round."""


class Step(NamedTuple):
    """What may happen to one node, besides a message that arrives: see Host.steps. ``number`` is what it is about."""

    kind: str
    number: int = 0


class BrokenRule(Exception):
    """A step has broken a rule that can be seen on one node."""


class Chance:
    """In place of a random generator, and small: the shortest time-out, and the number of the process."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation

    def randint(self, a: int, b: int) -> int:
        return a

    def getrandbits(self, k: int) -> int:
        return self.incarnation


class Host:
    """A node, its disk, and what has ever been seen of it from outside.

    ``slots`` is what a restart finds on the disk; ``votes`` are all (slot, ballot, value) that were ever durable here,
    and ``proposed`` all that this node has proposed as a leader. ``spoke`` is the highest ballot that a message of its
    acceptor has spoken for. ``applied_ever``: how many slots it has ever applied, and may have acknowledged.
    ``floors``: by number of a read that waits, how many slots had been applied anywhere when it arrived.
    """

    def __init__(self, node: str, setup: Setup) -> None:
        self.node = node
        self.writing: list[tuple[list[Record], int]] = []
        self.promised = NEVER
        self.chosen_upto = 0
        self.slots: dict[int, tuple[Ballot, bytes]] = {}
        self.votes: set[tuple[int, Ballot, bytes]] = set()
        self.proposed: set[tuple[int, Ballot, bytes]] = set()
        self.spoke = NEVER
        self.values = 0
        self.crashes = 0
        self.applied: list[bytes] = []
        self.saved = 0
        self.applied_ever = 0
        self.floors: dict[int, int] = {}
        self.replica = self._start(setup, -setup.lease)
        self.replica.tick(0)
        self._settle()

    def _start(self, setup: Setup, now: int, *, is_new: bool = False) -> Replica:
        upto = len(self.applied)
        self.epoch = sum(map(is_stop, self.applied))
        replica = Replica(
            self.node,
            setup.next if self.epoch else NODES,
            epoch=self.epoch,
            is_new=is_new,
            rng=cast(Patient, Chance(self.crashes + 1)),
            now=now,
            promised=self.promised,
            chosen_upto=upto,
            accepted=[Run(slot, *_single(cell)) for slot, cell in sorted(self.slots.items()) if slot > upto],
            timing=Timing(
                heartbeat=NOT_YET, election=(NOT_YET, NOT_YET), resend=NOT_YET, lease=setup.lease, drift=0.25
            ),
        )
        self.replica = replica
        self._settle()
        return replica

    # -- steps ---------------------------------------------------------------------------------------------------------

    def steps(self, setup: Setup, now: int, floor: int) -> Iterator[Step]:
        """What may happen to this node next; a few of these turn out to be impossible, and change nothing."""
        replica = self.replica
        if replica.role is Role.LEADER:
            yield Step("resend")
            if self.values < setup.values and replica.can_propose:
                yield from (Step("propose-at", slot) for slot in range(1, setup.slots + 1) if setup.named)
                yield from [] if setup.named else [Step("propose")]
            if setup.stops and not self.epoch:
                yield Step("stop")
            if setup.heartbeats:
                yield Step("beat")
            if setup.hand_overs:
                yield Step("hand-over")
            if setup.resignations:
                yield Step("resign")
        elif replica.role is not Role.FOLLOWER:
            yield Step("resend")
        if replica.role is not Role.LEADER and self.node in setup.candidates:
            yield Step("ask")
        if setup.reads and self.node in setup.readers:
            yield Step("read", floor)
            if replica.role is not Role.LEADER:
                yield Step("ask-again")
        if self.writing:
            yield Step("write")
        if setup.forgets and replica.log_start <= min(len(self.applied), replica.durable_upto):
            yield Step("forget")
        if setup.crashes and self.node in setup.crashing:
            yield from (Step("crash", batches) for batches in range(len(self.writing) + 1))
            if min(len(self.applied), replica.durable_upto) > max(self.saved, self.chosen_upto):
                yield from (Step("crash-saved", batches) for batches in range(len(self.writing) + 1))
        if setup.lease and now > replica.now:
            yield Step("tick")

    def take(self, step: Step, setup: Setup, now: int) -> list[tuple[str, Message]]:
        """Take a step at this time of the node's clock; returns the messages that leave."""
        replica, kind = self.replica, step.kind
        if kind == "resend":
            replica._next_resend = now
            if replica._phase2:
                for flight in replica._phase2._flights.values():
                    flight.sent_at = now - NOT_YET
            replica.tick(now)
        elif kind in ("propose", "propose-at"):
            self._propose(step.number)
        elif kind == "stop":
            if replica.can_propose:
                replica.propose_stop(STOP + self.node.encode())
        elif kind == "beat":
            replica._heartbeats._next = now
            replica.tick(now)
        elif kind == "hand-over":
            replica.hand_over()
        elif kind == "resign":
            replica._heartbeats._heard_at = dict.fromkeys(NODES, now - NOT_YET)
            replica.tick(now)
        elif kind == "ask":
            self._ask(setup, now)
        elif kind == "read":
            self.floors.setdefault(replica.read(), step.number)
        elif kind == "ask-again":
            replica._queue._next_ask = now
            replica.tick(now)
        elif kind == "write":
            self._write()
        elif kind == "forget":
            replica.forget(len(self.applied))
        elif kind in ("crash", "crash-saved"):
            self._crash(step, setup, now)
        elif kind == "tick":
            replica.tick(now)
        else:
            raise ValueError(kind)
        return self._turn(setup)

    def receive(self, sender: str, message: Message, setup: Setup) -> list[tuple[str, Message]]:
        """A message arrives; returns the messages that leave."""
        rounds = self.replica._heartbeats._rounds.round
        if not (isinstance(message, ReadIndex) and rounds >= MAX_ROUNDS):
            self.replica.receive(sender, message)
        return self._turn(setup)

    def _ask(self, setup: Setup, now: int) -> None:
        replica = self.replica
        replica._election.deadline = now
        replica.tick(now)
        asked = replica._election.asked
        if asked and not setup.pre_votes:
            for other in NODES:
                replica.receive(other, PreVoteReply(asked, True, NEVER, 0))

    def _propose(self, slot: int) -> None:
        replica = self.replica
        value = f"{self.node}.{self.crashes}.{self.values}".encode()
        phase2 = replica._phase2
        assert phase2 is not None
        if slot:
            taken = replica.propose_at(slot, value)
        else:
            replica.propose([value])
            taken = True
        self.values += taken

    def _write(self) -> None:
        records, upto = self.writing.pop(0)
        self._keep(records)
        self.replica.persisted(upto)

    def _keep(self, records: list[Record]) -> None:
        for record in records:
            ballot = record.run.ballot if isinstance(record, Stored) else record.ballot
            self.promised = max(self.promised, ballot)
            if isinstance(record, Stored):
                self.chosen_upto = max(self.chosen_upto, record.chosen_upto)
                for slot, value in enumerate(record.run.values, record.run.first):
                    self.slots[slot] = (record.run.ballot, value)
                    self.slots = dict(sorted(self.slots.items()))
                    self.votes.add((slot, record.run.ballot, value))

    def _crash(self, step: Step, setup: Setup, now: int) -> None:
        """End the process and start the next; the first few of the batches being written just reach the disk."""
        if step.kind == "crash-saved":
            self.saved = min(len(self.applied), self.replica.durable_upto)
        for records, _ in self.writing[: step.number]:
            self._keep(records)
        self.writing.clear()
        self.crashes += 1
        self.values = 0
        self.floors.clear()
        del self.applied[max(self.saved, self.chosen_upto) :]
        self._start(setup, now)

    def _turn(self, setup: Setup) -> list[tuple[str, Message]]:
        """Carry out what the replica wants done, as any host would."""
        sent: list[tuple[str, Message]] = []
        while True:
            effects = self.replica.effects()
            if effects.records:
                self.writing.append((effects.records, effects.upto))
            for run in effects.chosen:
                if run.first != len(self.applied) + 1:
                    raise BrokenRule(f"{self.node} applies slot {run.first} after {len(self.applied)}")
                self.applied.extend(run.values)
            self.applied_ever = max(self.applied_ever, len(self.applied))
            for number in [number for number in self.floors if number <= effects.reads]:
                floor = self.floors.pop(number)
                if len(self.applied) < floor:
                    raise BrokenRule(
                        f"{self.node} serves a read from slot {len(self.applied)}: {floor} was acknowledged"
                    )
            for receiver, first, last in effects.fetches:
                runs = [Run(slot, *_single(self.slots[slot])) for slot in range(first, last + 1)]
                self.replica.supply(receiver, one_message(runs))
            sent += effects.messages
            if self.writing and self.node not in setup.slow_disks:
                self._write()
            elif self.replica.ended_at and not self.writing and self.node in setup.next:
                is_new = self.promised.epoch <= self.epoch
                self._start(setup, self.replica.now, is_new=is_new)
            elif not effects.fetches:
                break
        kept: list[tuple[str, Message]] = []
        for receiver, message in sent:
            self._listen(message)
            if isinstance(message, Fetch) or (isinstance(message, PreVote | PreVoteReply) and not setup.pre_votes):
                continue  # fetches of all slots are always under way
            if type(message).__name__ in setup.lost:
                continue
            if isinstance(message, Accept):
                message = msgspec.structs.replace(message, opened=0)  # only people want to know it
            kept.append((receiver, message))
        self._settle()
        return kept

    def _listen(self, message: Message) -> None:
        """Check a message that leaves against the disk, and against what this node has said before."""
        ballot: Ballot | None = None
        match message:
            case Prepare() | Promise() | Accepted():
                ballot = message.ballot
                if self.promised < ballot:
                    raise BrokenRule(f"{self.node} says {describe(message)}, but its disk has promised {self.promised}")
            case Alive():
                ballot = message.ballot
            case Accept():
                for slot, value in enumerate(message.values, message.first):
                    self.proposed.add((slot, message.ballot, value))
            case _:
                pass
        if ballot is not None and ballot < self.spoke:
            raise BrokenRule(f"{self.node} has promised {self.spoke}, and says {describe(message)}")
        if ballot is not None and not isinstance(message, Alive):
            self.spoke = max(self.spoke, ballot)

    # -- as a value ----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Bring to one form what makes no difference: timers, counters that only grow, and what is no longer used.

        Every timer is stopped: it runs out in a step of its own, at any time. All nodes always have fetches under way,
        so that what one has heard of no longer matters.
        """
        replica = self.replica
        election, journal, learner = replica._election, replica._journal, replica._learner
        election.deadline = replica._next_resend = NOT_YET
        election._heard_at = None
        election._hurried = False
        if election.asked is None:
            election._yeses = set()
        replica._catch_up._fetching, replica._catch_up._fetches, replica._catch_up._fetched_at = True, 0, 0
        replica._queue._next_ask = NOT_YET
        replica._opened.clear()
        if replica._phase2 is None:
            replica._heartbeats = Heartbeats(self.node, replica.configuration, replica.ballot, replica._timing, 0)
            replica.heard_chosen.clear()
        else:
            replica._phase2.first_proposal = None
            for flight in replica._phase2._flights.values():
                flight.sent_at = NOT_YET
        replica._heartbeats._next = NOT_YET
        replica._heartbeats._heard_at = dict.fromkeys(NODES, NOT_YET)
        learner.heard_upto = max(learner.chosen_upto, 0)
        learner._heard_ahead = []
        base = journal._durable
        journal._durable = 0
        journal.recorded -= base
        journal._first_slots = deque((number - base, slot) for number, slot in journal._first_slots)
        held: dict[object, tuple[int, str, Message]] = {}  # the second of two equal messages makes no difference
        for number, receiver, message in journal._held:
            held.setdefault((receiver, canonical(message, {})), (number - base, receiver, message))
        journal._held = deque(held.values())
        self.writing = [(records, upto - base) for records, upto in self.writing]

    def key(self) -> object:
        """Equal for two nodes that behave alike from now on, whatever happens."""
        return canonical(self, {})

    def believed(self) -> Iterator[tuple[int, bytes]]:
        """The slots that this node takes for chosen, with their values."""
        yield from enumerate(self.applied, 1)
        for run in self.replica.accepted(1, NO_END):
            for slot, value in enumerate(run.values, run.first):
                if self.replica.is_chosen(slot):
                    yield slot, value

    def packed(self) -> bytes:
        return pickle.dumps(self, pickle.HIGHEST_PROTOCOL)


def canonical(thing: object, seen: dict[int, int]) -> object:
    """Nested tuples that are equal if and only if the things are; what is shared within a thing is told apart."""
    kind = type(thing)
    if kind in (int, str, bytes, bool, float) or thing is None:
        return thing
    if isinstance(thing, tuple | list | deque):
        return tuple([canonical(part, seen) for part in thing])
    if isinstance(thing, set):
        return tuple(sorted(thing))
    if isinstance(thing, dict):
        return tuple([(canonical(name, seen), canonical(value, seen)) for name, value in thing.items()])
    if isinstance(thing, Enum):
        return thing.value
    if isinstance(thing, msgspec.Struct):
        return (kind.__name__, *[canonical(getattr(thing, field), seen) for field in thing.__struct_fields__])
    if id(thing) in seen:
        return "seen", seen[id(thing)]
    seen[id(thing)] = len(seen)
    if isinstance(thing, Configuration | Timing | Chance):
        return ()
    return (kind.__name__, *[canonical(value, seen) for value in vars(thing).values()])


def unpacked(blob: bytes) -> Host:
    host = pickle.loads(blob)
    assert isinstance(host, Host)
    return host


def _single(cell: tuple[Ballot, bytes]) -> tuple[Ballot, list[bytes]]:
    return cell[0], [cell[1]]
