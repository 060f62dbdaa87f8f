"""The rules that the proof of Multi-Paxos rests on, checked from outside.

They are checked on what is durable and on what is sent, never on what a node believes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from consensus.ballot import NEVER, Ballot
from consensus.log import NO_END
from consensus.messages import (
    Accept,
    Accepted,
    Alive,
    Chosen,
    Heartbeat,
    Learn,
    Prepare,
    Promise,
    Record,
    Run,
    Stored,
    is_stop,
)
from consensus.simulation.disk import Disk
from consensus.simulation.violation import Violation


class Safety:
    """Checks every durable record, every message and every applied slot of all nodes, in all their incarnations.

    A value is *chosen* here by definition: a majority of disks holds it for its slot under one ballot. ``chosen`` maps
    slots to values, and ``chosen_in`` maps them to that ballot; no entry ever changes.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.chosen: dict[int, bytes] = {}
        self.chosen_in: dict[int, Ballot] = {}
        self.chosen_upto = 0
        self.highest = 0
        self.accepted: dict[int, dict[Ballot, int]] = {}
        """For each slot and ballot the acceptors whose disks hold the value, one bit each."""
        self._values: dict[tuple[int, Ballot], bytes] = {}
        self._bits = {name: 1 << number for number, name in enumerate(names)}
        self._voters = [self._mask(names)]
        """The voters of each epoch, one bit each."""
        self._stops: list[int] = []
        """The stop-signs chosen so far."""
        self.voters_of: Callable[[bytes], Sequence[str]] = lambda value: names
        """Who the voters are that a stop-sign names."""
        self._owners: dict[Ballot, tuple[str, int]] = {}
        self._promised: dict[Ballot, int] = {}
        self._told = dict.fromkeys(names, NEVER)
        self._applied = dict.fromkeys(names, 0)

    def _mask(self, names: Sequence[str]) -> int:
        return sum(self._bits[name] for name in names)

    def _is_quorum(self, name: str, ballot: Ballot, votes: int) -> bool:
        """Whether these are a majority of the configuration that the ballot is of."""
        if ballot.epoch >= len(self._voters):
            raise Violation(
                "a configuration begins once the stop-sign of the one before is chosen",
                f"{name} takes part in {ballot}",
                nodes=[name],
            )
        voters = self._voters[ballot.epoch]
        return (votes & voters).bit_count() > voters.bit_count() // 2

    # -- what is durable ----------------------------------------------------------------------------------------------

    def durable(self, name: str, record: Record) -> None:
        """A record has become durable on a node's disk."""
        bit = self._bits[name]
        if not isinstance(record, Stored):
            if record.ballot.node == name:
                self._promised[record.ballot] = bit
            return
        run = record.run
        ballot, accepted = run.ballot, self.accepted
        self._propose(name, run)
        for slot, value in enumerate(run.values, run.first):
            votes_of = accepted.setdefault(slot, {})
            votes = votes_of[ballot] = votes_of.get(ballot, 0) | bit
            if self._is_quorum(name, ballot, votes):
                self._choose(name, slot, ballot, value)

    def _choose(self, name: str, slot: int, ballot: Ballot, value: bytes) -> None:
        known = self.chosen.setdefault(slot, value)
        if known != value:
            raise Violation(
                "one value per slot for ever",
                f"slot {slot}: {known!r} was chosen under {self.chosen_in[slot]}, now {value!r} under {ballot}",
                nodes=[name],
                slots=[slot],
            )
        if slot not in self.chosen_in:
            self._choose_within(name, slot, ballot, value)
            self.chosen_in[slot] = ballot
            self.highest = max(self.highest, slot)
            while self.chosen_upto + 1 in self.chosen:
                self.chosen_upto += 1

    def _choose_within(self, name: str, slot: int, ballot: Ballot, value: bytes) -> None:
        """A slot is chosen for the first time: it lies between the stop-signs before and behind its configuration."""
        epoch, stops = ballot.epoch, self._stops
        first = stops[epoch - 1] + 1 if epoch else 1
        last = stops[epoch] if epoch < len(stops) else slot
        if is_stop(value) and epoch == len(stops):
            stops.append(slot)
            self._voters.append(self._mask(self.voters_of(value)))
            last = slot
            beyond = [other for other, under in self.chosen_in.items() if other > slot and under.epoch == epoch]
        else:
            beyond = []
        if not first <= slot <= last or beyond:
            raise Violation(
                "nothing is chosen beyond the stop-sign of its configuration, or before it",
                f"slot {slot} is chosen under {ballot}, whose slots are {first}..{last}; chosen beyond: {beyond}",
                nodes=[name],
                slots=[slot, *beyond],
            )

    def _propose(self, name: str, run: Run) -> None:
        """A ballot proposes one value for each slot, and the chosen one if the slot is chosen already (P2b)."""
        ballot, values = run.ballot, self._values
        for slot, value in enumerate(run.values, run.first):
            if values.setdefault((slot, ballot), value) != value:
                raise Violation(
                    "a ballot proposes one value per slot",
                    f"slot {slot} under {ballot}: {values[slot, ballot]!r} and {value!r}",
                    nodes=[name],
                    slots=[slot],
                )
            chosen_in = self.chosen_in.get(slot)
            if chosen_in is not None and chosen_in < ballot and self.chosen[slot] != value:
                raise Violation(
                    "above the ballot that chose a value no other value is proposed",
                    f"slot {slot}: {self.chosen[slot]!r} was chosen under {chosen_in}, {ballot} proposes {value!r}",
                    nodes=[name],
                    slots=[slot],
                )

    def is_won(self, ballot: Ballot) -> bool:
        """Whether a majority has promised this ballot."""
        return self._is_quorum("somebody", ballot, self._promised.get(ballot, 0))

    # -- what is sent -------------------------------------------------------------------------------------------------

    def sent(self, name: str, incarnation: int, disk: Disk, message: object) -> None:
        """A node sends a message to another."""
        match message:
            case Prepare():
                self._own(name, incarnation, message.ballot)
                self._require_durable(name, disk, message.ballot, "a Prepare")
            case Promise():
                self._promise(name, disk, message)
            case Accept():
                self._own(name, incarnation, message.ballot)
                self._require_promises(name, message.ballot)
                self._propose(name, Run(message.first, message.ballot, message.values))
                self._require_chosen(name, message.chosen_upto)
            case Accepted():
                self._keep_promise(name, message.ballot, f"accepts slots {message.first}..{message.last}")
                self._require_accepted(name, disk, message)
            case Alive():
                self._keep_promise(name, message.ballot, "confirms the leader")
            case Heartbeat() | Chosen():
                self._own(name, incarnation, message.ballot)
                self._require_chosen(name, message.chosen_upto)
            case Learn():
                self._learn(name, message)

    def _own(self, name: str, incarnation: int, ballot: Ballot) -> None:
        owner = self._owners.setdefault(ballot, (name, incarnation))
        if owner != (name, incarnation) or ballot.node != name:
            raise Violation(
                "a ballot belongs to one incarnation of one node",
                f"{name}, incarnation {incarnation}, uses {ballot} of {owner[0]}, incarnation {owner[1]}",
                nodes=[name, owner[0]],
            )

    def _require_durable(self, name: str, disk: Disk, ballot: Ballot, what: str) -> None:
        if disk.durable_promised < ballot:
            raise Violation(
                "what a message says is durable before it is sent",
                f"{name} sends {what} of {ballot}, its disk has promised {disk.durable_promised}",
                nodes=[name],
            )

    def _require_promises(self, name: str, ballot: Ballot) -> None:
        promises = self._promised.get(ballot, 0)
        if not self._is_quorum(name, ballot, promises):
            raise Violation(
                "a ballot is used once a majority has promised it",
                f"{name} proposes under {ballot}, which {promises.bit_count()} nodes have promised",
                nodes=[name],
            )

    def _keep_promise(self, name: str, ballot: Ballot, what: str) -> None:
        if ballot < self._told[name]:
            raise Violation(
                "a promise is never broken",
                f"{name} {what} under {ballot}, after it promised {self._told[name]}",
                nodes=[name],
            )

    def _promise(self, name: str, disk: Disk, promise: Promise) -> None:
        self._require_durable(name, disk, promise.ballot, "a Promise")
        self._keep_promise(name, promise.ballot, "promises")
        self._told[name] = promise.ballot
        self._promised[promise.ballot] = self._promised.get(promise.ballot, 0) | self._bits[name]
        reported = {slot: run.ballot for run in promise.accepted for slot in range(run.first, run.last + 1)}
        for run in disk.log.runs(promise.first, NO_END):
            if run.ballot.epoch < promise.ballot.epoch:
                continue  # it lies beyond the stop-sign, and was not chosen
            for slot in range(run.first, run.last + 1):
                # A chosen value may have been learned, not accepted, since the promise was written down.
                if slot not in self.chosen and reported.get(slot, NEVER) < run.ballot < promise.ballot:
                    raise Violation(
                        "a promise reports everything that was accepted",
                        f"{name} promises {promise.ballot} and hides that it accepted slot {slot} under {run.ballot}",
                        nodes=[name],
                        slots=[slot],
                    )

    def _require_accepted(self, name: str, disk: Disk, accepted: Accepted) -> None:
        self._require_durable(name, disk, accepted.ballot, "an Accepted")
        self._told[name] = max(self._told[name], accepted.ballot)
        stored = {
            slot
            for run in disk.log.runs(accepted.first, accepted.last)
            if run.ballot >= accepted.ballot
            for slot in range(run.first, run.last + 1)
        }
        for slot in range(accepted.first, accepted.last + 1):
            # A chosen slot may be held here under an older ballot, but its value is settled.
            if slot not in stored and slot not in self.chosen:
                raise Violation(
                    "what a message says is durable before it is sent",
                    f"{name} says it accepted slots {accepted.first}..{accepted.last} under {accepted.ballot}, its disk"
                    f" lacks slot {slot}",
                    nodes=[name],
                    slots=[slot],
                )

    def _require_chosen(self, name: str, upto: int) -> None:
        if upto > self.chosen_upto:
            raise Violation(
                "a slot is called chosen when a majority of disks holds its value",
                f"{name} says slots up to {upto} are chosen, slot {self.chosen_upto + 1} is not",
                nodes=[name],
                slots=[self.chosen_upto + 1],
            )

    def _learn(self, name: str, learn: Learn) -> None:
        for run in learn.runs:
            for slot, value in enumerate(run.values, run.first):
                if self.chosen.get(slot) != value:
                    raise Violation(
                        "what is taught as chosen is chosen",
                        f"{name} teaches {value!r} for slot {slot}, chosen is {self.chosen.get(slot)!r}",
                        nodes=[name],
                        slots=[slot],
                    )

    # -- what is applied ----------------------------------------------------------------------------------------------

    def applied(self, name: str, slot: int, value: bytes, restarted: bool) -> None:
        """A node executes a slot. ``restarted``: it is the first one of a process, which begins anywhere."""
        if not restarted and slot != self._applied[name] + 1:
            raise Violation(
                "slots are applied in order, without a gap",
                f"{name} applies slot {slot} after slot {self._applied[name]}",
                nodes=[name],
                slots=[slot],
            )
        self._applied[name] = slot
        if slot not in self.chosen:
            raise Violation(
                "only what is chosen is applied",
                f"{name} applies slot {slot}, which no majority accepted",
                nodes=[name],
                slots=[slot],
            )
        if self.chosen[slot] != value:
            raise Violation(
                "one value per slot for ever",
                f"{name} applies {value!r} in slot {slot}, chosen is {self.chosen[slot]!r}",
                nodes=[name],
                slots=[slot],
            )
