"""Golden scenarios: text files in ``scenarios/`` that script a cluster and say what happens, line by line.

They are tests, and a tutorial of the protocol: read them in the order of their numbers. A file holds comments (``#``)
and commands. Beneath each command, behind ``----``, stands what the replicas do because of it, up to a blank line, or
``ok`` if there is nothing to see::

    propose n1 a
    ----
    n1 persists 1 = a under 1.n1, chosen up to slot 0

``1 = a under 1.n1`` means: slot 1 holds the value a, accepted under ballot 1.n1, the first ballot of n1. Every replica
is a real one. Nothing happens by itself: messages wait until they are delivered, and clocks stand still until somebody
moves them. A message is shown when it arrives or is lost, and what its receiver does because of it is indented below.

==============================  ================================================================================
``cluster NODE...``             start these nodes
``timeout NODE``                600 ms pass on this node's clock: unless it leads, it asks to lead
``elapse MS NODE...``           this many ms pass on the clocks of these nodes
``deliver``                     let every message arrive, and those sent in answer, until there are no more
``deliver FROM TO``             let the messages arrive that are now under way from one node to another
``lose FROM TO``                lose the messages that are now under way from one node to another
``cut NODE``                    from now on messages to and from this node are lost
``heal``                        no node is cut off any more
``elect NODE``                  ``timeout`` and ``deliver`` in one, without the details
``propose NODE VALUE...``       propose values for the lowest free slots; this node must lead
``propose-at NODE SLOT VALUE``  propose a value for a slot by name; this node must lead
``configure NODE VOTER...``     propose that these are the voters from now on; this node must lead
``read NODE``                   a linearizable read arrives at this node
``slow-disk NODE``              from now on nothing becomes durable on this node until it syncs
``sync NODE``                   all that this node has recorded becomes durable; its disk is slow no longer
``crash NODE``                  the node's process ends; what is not durable is lost
``restart NODE``                a new process starts from what is durable
``status``                      what every node believes about who leads and what is chosen
``log``                         what every node holds, slot by slot, as VALUE@BALLOT; ``*``: it knows this to be chosen
==============================  ================================================================================

Every node waits for 600 ms without a leader before it asks to lead: the longest election time-out.

``python -m tests.consensus.golden --rewrite`` replaces the outputs by what really happens: look at the difference.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from consensus import NEVER, NO_END, NO_OP, Ballot, InvariantViolation, Log, Message, Record, Replica, Role, Run, Stored
from consensus.catchup import one_message
from consensus.messages import (
    STOP,
    Accept,
    Accepted,
    Alive,
    Chosen,
    Fetch,
    Heartbeat,
    Learn,
    Prepare,
    PreVote,
    PreVoteReply,
    Promise,
    ReadIndex,
    ReadIndexReply,
    Reject,
    TakeOver,
    is_stop,
)

DIRECTORY = Path(__file__).parent / "scenarios"
PATIENCE = 600
"""In ms: the longest election time-out, for which every node waits here."""
MAX_DELIVERIES = 500


class ScenarioError(Exception):
    """A scenario that cannot be run as it is written."""


# -- messages and records in words -------------------------------------------------------------------------------------


def values(run: Run) -> str:
    """``1 = a, 2 = no-op``"""
    pairs = enumerate(run.values, run.first)
    return ", ".join(f"{slot} = {text(value)}" for slot, value in pairs)


def text(value: bytes) -> str:
    """A value as people read it. A stop-sign names the voters that follow."""
    if is_stop(value):
        return f"stop: {value[1:].decode()}"
    return "no-op" if value == NO_OP else value.decode()


def under(runs: list[Run]) -> str:
    return "; ".join(f"{values(run)} under {run.ballot}" for run in runs) or "nothing"


def slots(first: int, last: int) -> str:
    return f"slot {first}" if first == last else f"slots {first}..{last}"


def chosen(upto: int, ahead: list[tuple[int, int]]) -> str:
    return " and ".join([f"chosen up to slot {upto}", *(slots(*part) for part in ahead)])


def ballot(number: Ballot) -> str:
    return "nothing" if number == NEVER else str(number)


def describe(message: Message | Record) -> str:
    """One message or record, as it stands in a scenario."""
    match message:
        case PreVote():
            return f"PreVote ballot {message.ballot} from slot {message.first}"
        case PreVoteReply():
            answer = "yes" if message.granted else "no"
            known = f"promised {ballot(message.promised)}, chosen up to slot {message.chosen_upto}"
            return f"PreVoteReply ballot {message.ballot}: {answer}; {known}"
        case Prepare():
            return f"Prepare ballot {message.ballot} from slot {message.first}"
        case Promise():
            return f"Promise ballot {message.ballot} from slot {message.first}: accepted {under(message.accepted)}"
        case Accept():
            run = Run(message.first, message.ballot, message.values)
            return f"Accept ballot {message.ballot}: {values(run)}; chosen up to slot {message.chosen_upto}"
        case Accepted():
            return f"Accepted ballot {message.ballot}: {slots(message.first, message.last)}"
        case Reject():
            known = f"promised {ballot(message.promised)}, chosen up to slot {message.chosen_upto}"
            return f"Reject ballot {message.ballot}: {known}"
        case Heartbeat():
            news = chosen(message.chosen_upto, message.chosen)
            return f"Heartbeat ballot {message.ballot}, round {message.round}; {news}"
        case Alive():
            return f"Alive ballot {message.ballot}, round {message.round}; chosen up to slot {message.chosen_upto}"
        case Chosen():
            return f"Chosen ballot {message.ballot}: {chosen(message.chosen_upto, message.chosen)}"
        case TakeOver():
            return f"TakeOver ballot {message.ballot}"
        case Fetch():
            return f"Fetch {slots(message.first, message.last)}"
        case Learn():
            return f"Learn {under(message.runs)}; chosen up to slot {message.chosen_upto}"
        case ReadIndex():
            return f"ReadIndex for reads up to number {message.read}"
        case ReadIndexReply():
            reads = f"reads up to number {message.read}: once slot {message.index} is applied"
            return f"ReadIndexReply ballot {message.ballot} for {reads}"
        case Stored():
            return f"{under([message.run])}, chosen up to slot {message.chosen_upto}"
        case _:
            return f"the promise of {message.ballot}"


# -- the cluster that is scripted --------------------------------------------------------------------------------------


class Patient(random.Random):
    """In place of chance: always the longest time-out, and the number of the process."""

    def __init__(self, incarnation: int) -> None:
        super().__init__(0)
        self.incarnation = incarnation

    def randint(self, a: int, b: int) -> int:
        return b

    def getrandbits(self, k: int, /) -> int:
        return self.incarnation


class Host:
    """One node: its disk, its clock, and its replica while its process runs."""

    def __init__(self, name: str, names: list[str]) -> None:
        self.name = name
        self.names = names
        self.now = 0
        self.incarnation = 0
        self.promised = NEVER
        self.disk = Log()
        self.is_slow = False
        self.unsynced: list[Record] = []
        self.unsynced_upto = 0
        self.applied = 0
        self.next: list[str] = []
        """The voters of the configuration that is to follow the one that has ended."""
        self.epoch = 0
        self.role = Role.FOLLOWER
        self.replica: Replica | None = None
        self.start()

    def start(self) -> None:
        self.incarnation += 1
        self.role = Role.FOLLOWER
        self.applied = 0
        self.replica = Replica(
            self.name,
            self.names,
            rng=Patient(self.incarnation),
            now=self.now,
            promised=self.promised,
            accepted=self.disk.runs(1, NO_END),
        )

    def begin_next(self) -> None:
        """A stop-sign was applied, and all up to it is durable."""
        self.epoch += 1
        self.names, self.next = self.next, []
        self.role = Role.FOLLOWER
        self.replica = Replica(
            self.name,
            self.names,
            rng=Patient(self.incarnation),
            now=self.now,
            promised=self.promised,
            chosen_upto=self.applied,
            accepted=self.disk.runs(self.applied + 1, NO_END),
            epoch=self.epoch,
        )

    def crash(self) -> None:
        self.replica = None
        self.unsynced.clear()
        self.is_slow = False

    def sync(self) -> list[Record]:
        """Make all that was recorded durable; returns it."""
        records, self.unsynced = self.unsynced, []
        for record in records:
            number = record.run.ballot if isinstance(record, Stored) else record.ballot
            self.promised = max(self.promised, number)
            if isinstance(record, Stored):
                self.disk.put(record.run)
        if self.replica is not None:
            self.replica.persisted(self.unsynced_upto)
        return records


class Script:
    """Executes the commands of one scenario. Each command gives its output, line by line."""

    def __init__(self) -> None:
        self._hosts: dict[str, Host] = {}
        self._on_their_way: list[tuple[str, str, Message]] = []
        self._cut: set[str] = set()
        self._chosen: dict[int, bytes] = {}

    def run(self, command: str) -> list[str]:
        name, *arguments = command.split()
        method = getattr(self, "do_" + name.replace("-", "_"), None)
        if method is None:
            raise ScenarioError(f"there is no command {name}")
        try:
            return list(method(*arguments))
        except InvariantViolation as error:
            return [f"error: {error}"]
        except (TypeError, ValueError, KeyError) as error:
            raise ScenarioError(f"{command}: {type(error).__name__}: {error}") from error

    # -- time --------------------------------------------------------------------------------------------------------

    def do_cluster(self, *names: str) -> Iterator[str]:
        self._hosts = {name: Host(name, list(names)) for name in names}
        return iter(())

    def do_elapse(self, ms: str, *names: str) -> Iterator[str]:
        for name in names:
            host = self._hosts[name]
            host.now += int(ms)
            self._replica(name).tick(host.now)
            yield from self._turn(name)

    def do_timeout(self, name: str) -> Iterator[str]:
        return self.do_elapse(str(PATIENCE), name)

    def do_elect(self, name: str) -> Iterator[str]:
        list(self.do_timeout(name))
        list(self.do_deliver())
        if self._hosts[name].role is not Role.LEADER:
            raise ScenarioError(f"{name} is not elected")
        yield f"{name} leads under {self._replica(name).ballot}"

    # -- messages ----------------------------------------------------------------------------------------------------

    def do_deliver(self, sender: str = "", receiver: str = "") -> Iterator[str]:
        if sender:
            for message in self._take_out(sender, receiver):
                yield from self._arrive(sender, receiver, message)
            return
        for _ in range(MAX_DELIVERIES):
            if not self._on_their_way:
                return
            yield from self._arrive(*self._on_their_way.pop(0))
        raise ScenarioError(f"the nodes still talk after {MAX_DELIVERIES} messages")

    def do_lose(self, sender: str, receiver: str) -> Iterator[str]:
        for message in self._take_out(sender, receiver):
            yield f"{sender} -> {receiver}  (lost) {describe(message)}"

    def do_cut(self, name: str) -> Iterator[str]:
        self._cut.add(self._hosts[name].name)
        return iter(())

    def do_heal(self) -> Iterator[str]:
        self._cut.clear()
        return iter(())

    def _take_out(self, sender: str, receiver: str) -> list[Message]:
        if not {sender, receiver} <= self._hosts.keys():
            raise ScenarioError(f"{sender} and {receiver} are not both nodes of the cluster")
        taken = [message for a, b, message in self._on_their_way if (a, b) == (sender, receiver)]
        self._on_their_way = [wire for wire in self._on_their_way if wire[:2] != (sender, receiver)]
        return taken

    def _arrive(self, sender: str, receiver: str, message: Message) -> Iterator[str]:
        replica = self._hosts[receiver].replica
        if replica is None or self._cut & {sender, receiver}:
            yield f"{sender} -> {receiver}  (lost) {describe(message)}"
            return
        yield f"{sender} -> {receiver}  {describe(message)}"
        replica.receive(sender, message)
        for line in self._turn(receiver):
            yield f"    {line}"

    # -- requests ----------------------------------------------------------------------------------------------------

    def do_propose(self, name: str, *texts: str) -> Iterator[str]:
        self._replica(name).propose([text.encode() for text in texts])
        return self._turn(name)

    def do_propose_at(self, name: str, slot: str, text: str) -> Iterator[str]:
        if not self._replica(name).propose_at(int(slot), text.encode()):
            yield f"refused: slot {slot} is taken"
        yield from self._turn(name)

    def do_configure(self, name: str, *voters: str) -> Iterator[str]:
        self._replica(name).propose_stop(STOP + " ".join(voters).encode())
        return self._turn(name)

    def do_read(self, name: str) -> Iterator[str]:
        yield f"{name} gives it the number {self._replica(name).read()}"
        yield from self._turn(name)

    # -- disks and processes -----------------------------------------------------------------------------------------

    def do_slow_disk(self, name: str) -> Iterator[str]:
        self._hosts[name].is_slow = True
        return iter(())

    def do_sync(self, name: str) -> Iterator[str]:
        host = self._hosts[name]
        host.is_slow = False
        yield from self._persist(host)
        yield from self._turn(name)

    def do_crash(self, name: str) -> Iterator[str]:
        host = self._hosts[name]
        for record in host.unsynced:
            yield f"{name} loses {describe(record)}"
        host.crash()

    def do_restart(self, name: str) -> Iterator[str]:
        host = self._hosts[name]
        host.start()
        yield f"{name} has promised {ballot(host.promised)} and accepted {under(host.disk.runs(1, NO_END))}"

    # -- looking -----------------------------------------------------------------------------------------------------

    def do_status(self) -> Iterator[str]:
        for name, host in self._hosts.items():
            if host.replica is None:
                yield f"{name}  is down"
                continue
            replica = host.replica
            leader = f" of {replica.leader}" if replica.role is Role.FOLLOWER and replica.leader else ""
            yield (
                f"{name}  {replica.role.value + leader:<15} promised {ballot(replica.promised)},"
                f" chosen up to slot {replica.chosen_upto}"
            )

    def do_log(self) -> Iterator[str]:
        rows = [["slot", *self._hosts]]
        highest = max(host.replica.last_slot if host.replica else host.disk.last for host in self._hosts.values())
        for slot in range(1, highest + 1):
            rows.append([str(slot), *(self._cell(host, slot) for host in self._hosts.values())])
        for row in rows:
            yield "".join(f"{cell:<14}" for cell in row).rstrip()

    def _cell(self, host: Host, slot: int) -> str:
        runs = host.replica.accepted(slot, slot) if host.replica else host.disk.runs(slot, slot)
        if not runs:
            return "-"
        value = text(runs[0].values[0])
        known = host.replica is not None and host.replica.is_chosen(slot)
        return f"{value}@{runs[0].ballot}{'*' if known else ''}"

    # -- what a node does --------------------------------------------------------------------------------------------

    def _replica(self, name: str) -> Replica:
        replica = self._hosts[name].replica
        if replica is None:
            raise ScenarioError(f"{name} is down")
        return replica

    def _turn(self, name: str) -> Iterator[str]:
        """Carry out what a replica wants until it wants nothing more."""
        host, replica = self._hosts[name], self._replica(name)
        while True:
            effects = replica.effects()
            yield from self._role(host, replica)
            self._on_their_way += [(name, receiver, message) for receiver, message in effects.messages]
            if effects.records:
                host.unsynced += effects.records
                host.unsynced_upto = effects.upto
            for run in effects.chosen:
                self._apply(host, run)
                yield f"{name} applies {values(run)}"
                if is_stop(run.values[-1]):
                    host.next = run.values[-1][1:].decode().split()
            if effects.reads:
                yield f"{name} serves its reads up to number {effects.reads}"
            for receiver, first, last in effects.fetches:
                replica.supply(receiver, one_message(host.disk.runs(first, last)))
            if host.next and not host.unsynced:
                if name not in host.next:
                    yield f"{name} is not of the cluster any more"
                    return
                host.begin_next()
                replica = self._replica(name)
                yield f"{name} begins the next configuration, of {' '.join(host.names)}"
            if host.is_slow or not host.unsynced:
                if effects.records:
                    yield f"{name} waits for its disk"
                if not (effects.messages or effects.records or effects.chosen or effects.reads or effects.fetches):
                    return
            else:
                yield from self._persist(host)

    def _persist(self, host: Host) -> Iterator[str]:
        for record in host.sync():
            yield f"{host.name} persists {describe(record)}"

    def _role(self, host: Host, replica: Replica) -> Iterator[str]:
        if replica.role is not host.role:
            host.role = replica.role
            words = {
                Role.FOLLOWER: "is a follower now",
                Role.ASKING: "asks who would promise it a ballot",
                Role.PREPARING: f"is a candidate under {replica.promised}",
                Role.LEADER: f"leads under {replica.ballot}",
            }
            yield f"{host.name} {words[replica.role]}"

    def _apply(self, host: Host, run: Run) -> None:
        """Check, whatever the scenario expects, that two nodes never apply different values to a slot."""
        assert run.first == host.applied + 1, f"{host.name} applies slot {run.first} after {host.applied}"
        host.applied = run.last
        for slot, value in enumerate(run.values, run.first):
            assert self._chosen.setdefault(slot, value) == value, f"slot {slot} has two chosen values"


# -- files -------------------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """A comment or a blank line, or a command if ``expected``, its output, is not None. ``number``: its line."""

    number: int
    text: str
    expected: list[str] | None


def parse(text: str) -> list[Block]:
    blocks: list[Block] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if not line or line.startswith("#"):
            blocks.append(Block(at, line, None))
            continue
        number = at
        expected = []
        if at < len(lines) and lines[at] == "----":
            at += 1
            while at < len(lines) and lines[at]:
                expected.append(lines[at])
                at += 1
        blocks.append(Block(number, line, expected))
    return blocks


def run(name: str, text: str) -> str:
    """Execute a scenario; returns its text with the outputs that it really has."""
    script = Script()
    lines: list[str] = []
    for block in parse(text):
        lines.append(block.text)
        if block.expected is not None:
            try:
                output = script.run(block.text)
            except ScenarioError as error:
                raise ScenarioError(f"{name}, line {block.number}: {error}") from error
            lines += ["----", *(output or ["ok"])]
    return "\n".join(lines) + "\n"


def files() -> list[Path]:
    return sorted(DIRECTORY.glob("*.txt"))


def main() -> int:
    changed = 0
    for file in files():
        text = file.read_text()
        now = run(file.name, text)
        if now != text:
            changed += 1
            print(f"{file.name} {'is rewritten' if '--rewrite' in sys.argv[1:] else 'says something else'}")
            if "--rewrite" in sys.argv[1:]:
                file.write_text(now)
    return 0 if "--rewrite" in sys.argv[1:] else min(changed, 1)


if __name__ == "__main__":
    sys.exit(main())
