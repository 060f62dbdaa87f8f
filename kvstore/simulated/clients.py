"""Simulated clients: they send commands, lose patience, try again elsewhere, and remember what they were told."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from consensus.simulation.linearizability import PENDING, Operation
from consensus.simulation.timeline import Schedule
from kvstore.commands import (
    Append,
    Cas,
    Command,
    Condition,
    Delete,
    Exists,
    Expire,
    Get,
    Incr,
    Persist,
    Scan,
    Set,
    Txn,
    Value,
)
from kvstore.simulated.model import FORGOTTEN, UNTOLD, Seen, costs_too_much, seen
from kvstore.simulated.oracle import PLAIN, Oracle, Told
from kvstore.simulated.requests import ClientReply, ClientRequest, SlotClaim, SlotVerdict

KEYS = (b"k:a", b"k:b", b"k:c")
PREFIX = b"k:"
PATIENT = 3_000
"""How long a client waits for an answer, in ms, once all faults are over."""
FADING = (b"t1", b"t2")
"""Keys that expire: what the log says about them is checked, but no history, since the clocks decide."""


class ClientWorld(Protocol):
    """The world, as far as clients see it."""

    @property
    def timeline(self) -> Schedule:
        """Virtual time, in ms."""
        ...

    @property
    def chosen_upto(self) -> int:
        """A slot up to which all are chosen, as far as anybody has seen."""
        ...

    def request(self, client: str, node: str, request: ClientRequest | SlotClaim) -> None:
        """A client sends a request to a node."""
        ...

    def count(self, what: str) -> None:
        """Something worth exercising happened."""
        ...


class Pending(msgspec.Struct):
    """A command on its way: ``called`` in the order of the oracle, ``attempt`` counts from 1, ``node`` has it now."""

    session: str
    since: int
    sequence: int
    command: Command
    called: int
    attempt: int = 0
    node: str = ""


class SessionClient:
    """Sends commands under one session, several at once if its ``window`` allows; each until it has an answer.

    ``nodes``: whom it may ask; ``draw``: its next command, None when there is no more.
    """

    def __init__(
        self,
        name: str,
        world: ClientWorld,
        oracle: Oracle,
        rng: random.Random,
        nodes: Sequence[str],
        draw: Callable[[random.Random], Command | None],
        *,
        window: int = 1,
        pace: int = 50,
        patience: int = PATIENT,
    ) -> None:
        self.name = name
        self.told: list[Told] = []
        self._world = world
        self._oracle = oracle
        self._random = rng
        self._nodes = nodes
        self._draw = draw
        self._window = window
        self._pace = pace
        self._target = rng.choice(nodes)
        self._roams = rng.choice([0.0, 0.3, 1.0])
        self._patience = patience
        self._session = name
        self._since = self._seen_upto = 0
        self._sequence = 0
        self._pending: dict[int, Pending] = {}
        self._done = True

    def begin(self) -> None:
        self._done = False
        self._world.timeline.after(self._random.randint(0, self._pace), self._next)

    def stop(self) -> None:
        """Send no new commands; those under way now get all the time that they need."""
        self._done = True
        self._patience = PATIENT

    def go_on(self, draw: Callable[[random.Random], Command | None]) -> None:
        """Begin once more, with these commands."""
        self._draw = draw
        self._done = False
        self._next()

    def unfinished(self) -> str:
        """What it still waits for, as text; "" if nothing."""
        waits = [f"{pending.sequence} (attempt {pending.attempt})" for pending in self._pending.values()]
        if not waits:
            return "" if self._done else f"{self.name} has not asked for everything yet"
        return f"{self.name} waits for its requests {', '.join(waits)}"

    def _next(self) -> None:
        if self._done:
            return
        if len(self._pending) < self._window:
            command = self._draw(self._random)
            if command is None:
                self._done = True
                return
            self._sequence += 1
            called = self._oracle.called(self._session, self._sequence)
            pending = Pending(self._session, self._since, self._sequence, command, called)
            self._pending[pending.sequence] = pending
            if self._random.random() < self._roams:
                self._target = self._random.choice(self._nodes)
            self._try(pending)
        self._world.timeline.after(self._random.randint(0, 2 * self._pace), self._next)

    def _try(self, pending: Pending) -> None:
        pending.attempt += 1
        if pending.attempt > 1:
            self._world.count("request: tried again")
            # Each node in turn, for each request: chance alone, or the pace of others that are tried again meanwhile,
            # might choose a node that is gone again and again.
            self._target = self._nodes[(self._nodes.index(pending.node) + 1) % len(self._nodes)]
        pending.node = self._target
        acknowledged = next(iter(self._pending))
        request = ClientRequest(
            pending.session,
            pending.sequence,
            acknowledged,
            pending.attempt,
            pending.command,
            self._patience,
            pending.since,
        )
        self._world.request(self.name, self._target, request)
        self._world.timeline.after(self._patience, self._lose_patience, pending.sequence, pending.attempt)

    def _lose_patience(self, sequence: int, attempt: int) -> None:
        pending = self._pending.get(sequence)
        if pending is not None and pending.attempt == attempt:
            self._try(pending)

    def receive(self, sender: str, message: object) -> None:
        assert isinstance(message, ClientReply)
        pending = self._pending.get(message.sequence)
        if pending is None:
            return
        if message.refusal and not message.final:
            if message.attempt == pending.attempt:
                pause = self._random.randint(5, 100)
                self._world.timeline.after(pause, self._lose_patience, pending.sequence, pending.attempt)
            return
        if message.attempt < pending.attempt:
            self._world.count("request: answered to an earlier attempt")
        del self._pending[pending.sequence]
        self._seen_upto = max(self._seen_upto, message.as_of)
        result = seen(message.result)
        if message.final or result in UNTOLD:
            self._give_up(pending, result)
            return
        told = Told(pending.session, pending.sequence, pending.command, message.slot, message.as_of, result)
        self.told.append(told)
        returned = self._oracle.returned(told)
        if not fades(pending.command) and not costs_too_much(message.result):
            operation = Operation(self.name, pending.called, returned, pending.command, (told.result,), told.slot)
            self._oracle.history.append(operation)

    def _give_up(self, pending: Pending, result: Seen) -> None:
        """No result will ever be known: an earlier attempt, or a late copy of one, may have been executed."""
        if result == FORGOTTEN and pending.session == self._session:
            self._since = self._seen_upto
            self._session = f"{self.name}+{self._sequence}"
        if not fades(pending.command):
            operation = Operation(self.name, pending.called, PENDING, pending.command, None)
            self._oracle.doubtful[pending.session, pending.sequence] = operation


class PlainClient:
    """Sends commands without a session, several at once, and never again, as clients of Redis do.

    What it appends says whose it is: the nodes send it on under sessions of their own.
    """

    def __init__(self, name: str, world: ClientWorld, oracle: Oracle, rng: random.Random, nodes: Sequence[str]) -> None:
        self.name = name
        self.told: list[Told] = []
        self._world = world
        self._oracle = oracle
        self._random = rng
        self._nodes = nodes
        self._target = rng.choice(nodes)
        self._pace = rng.choice([2, 10, 40])
        self._patience = rng.choice([100, 300, 1_000])
        self._sequence = 0
        self._pending: dict[int, Command] = {}
        self._done = False

    def begin(self) -> None:
        self._world.timeline.after(self._random.randint(0, self._pace), self._next)

    def stop(self) -> None:
        self._done = True

    def unfinished(self) -> str:
        """Nothing: it waits for no answer for ever."""
        return ""

    def _next(self) -> None:
        if self._done:
            return
        if len(self._pending) < 4:
            self._sequence += 1
            is_read = self._random.random() < 0.2
            command = Get(PLAIN) if is_read else Append(PLAIN, b"%s.%d;" % (self.name.encode(), self._sequence))
            self._pending[self._sequence] = command
            self._oracle.called(self.name, self._sequence)
            request = ClientRequest("", self._sequence, 0, 1, command, self._patience, 0)
            self._world.request(self.name, self._target, request)
            self._world.timeline.after(2 * self._patience, self._lose_patience, self._sequence)
        self._world.timeline.after(self._random.randint(0, 2 * self._pace), self._next)

    def _lose_patience(self, sequence: int) -> None:
        if self._pending.pop(sequence, None) is not None:
            self._target = self._random.choice(self._nodes)

    def receive(self, sender: str, message: object) -> None:
        assert isinstance(message, ClientReply)
        command = self._pending.pop(message.sequence, None)
        if command is None:
            return
        if message.refusal:
            self._target = self._random.choice(self._nodes)
            return
        told = Told(self.name, message.sequence, command, message.slot, message.as_of, seen(message.result))
        self.told.append(told)
        self._oracle.returned(told)


class SlotClient:
    """Claims slots by name, some way ahead of what is chosen: that is how gaps come about."""

    def __init__(
        self,
        name: str,
        world: ClientWorld,
        rng: random.Random,
        nodes: Sequence[str],
        check: Callable[[str, SlotVerdict], None],
    ) -> None:
        self.name = name
        self.told: list[Told] = []
        self._check = check
        self._world = world
        self._random = rng
        self._nodes = nodes
        self._pace = rng.choice([100, 300])
        self._sequence = 0
        self._done = False

    def begin(self) -> None:
        self._world.timeline.after(self._random.randint(0, self._pace), self._next)

    def stop(self) -> None:
        self._done = True

    def unfinished(self) -> str:
        """Nothing: a claim is checked when its answer arrives, and nobody waits for it."""
        return ""

    def _next(self) -> None:
        if self._done:
            return
        rng = self._random
        self._sequence += 1
        slot = max(1, self._world.chosen_upto + rng.choice([-1, 0, 1, 1, 2, 2, 3, 6]))
        value = rng.choice([f'"set s=v{self._sequence}"', f'{{"claim": {self._sequence}}}', '"no command at all"'])
        claim = SlotClaim(self._sequence, slot, value.encode(), rng.choice([500, 2_000]))
        self._world.request(self.name, rng.choice(self._nodes), claim)
        self._world.timeline.after(rng.randint(0, 2 * self._pace), self._next)

    def receive(self, sender: str, message: object) -> None:
        assert isinstance(message, SlotVerdict)
        if not message.refusal:
            self._check(sender, message)


# -- what clients ask for ---------------------------------------------------------------------------------------------


def fades(command: Command) -> bool:
    """Whether a command touches keys that expire, which are not part of the histories."""
    if isinstance(command, Txn):
        return any(fades(part) for part in [*command.then, *command.otherwise])
    return getattr(command, "key", b"") in FADING


def _value(rng: random.Random) -> Value:
    return Value(b"%d" % rng.randrange(1_000_000) if rng.random() < 0.7 else b"v%d" % rng.randrange(20))


def _on_one_key(rng: random.Random) -> Command:
    key, dice = rng.choice(KEYS), rng.random()
    if dice < 0.35:
        return Get(key)
    if dice < 0.55:
        return Set(key, _value(rng), when=rng.choice(["", "", "", "nx", "xx"]))
    if dice < 0.70:
        return Incr(key, rng.randint(-2, 5))
    if dice < 0.80:
        return Append(key, b"%d" % rng.randrange(10))
    if dice < 0.90:
        return Cas(key, Value(b"%d" % rng.randrange(3)), _value(rng), rng.random() < 0.5)
    return Delete([key]) if dice < 0.95 else Exists([key])


def _counting(rng: random.Random) -> Command:
    """Commands by which every execution, and every stale read, can be noticed."""
    key = KEYS[0]
    return Incr(key) if rng.random() < 0.6 else Get(key)


def _reading(rng: random.Random) -> Command:
    """Mostly reads: such a client goes on reading at a leader that was deposed long ago."""
    key = rng.choice(KEYS)
    return Get(key) if rng.random() < 0.97 else Incr(key)


def _fading(rng: random.Random) -> Command:
    key, dice = rng.choice(FADING), rng.random()
    if dice < 0.4:
        return Set(key, _value(rng), ttl=rng.choice([1, 30, 200, 1_500]))
    if dice < 0.5:
        return Expire(key, rng.choice([0, 50, 500]))
    if dice < 0.6:
        return Persist(key)
    if dice < 0.8:
        return Get(key)
    return Txn([Incr(key), Get(key)]) if dice < 0.9 else Txn([Get(key), Exists([FADING[0]]), Set(key, _value(rng))])


def _growing(rng: random.Random) -> Command:
    """Transactions that cost too much if the key has become large since they were proposed."""
    key, dice = FADING[0], rng.random()
    if dice < 0.5:
        return Set(key, Value(b"g" * rng.choice([1, 70])))
    return Txn([Get(key), Exists([key]), Persist(key)])


def _over_keys(rng: random.Random) -> Command:
    dice = rng.random()
    one, other = rng.sample(KEYS[:2], 2)
    if dice < 0.3:
        return Txn([Incr(one, -1), Incr(other, 1)])
    if dice < 0.5:
        condition = Condition("value", one, rng.choice(["=", "!="]), Value(b"%d" % rng.randint(-2, 2)))
        return Txn([Set(other, _value(rng)), Get(one)], [condition], [Delete([one, other])])
    if dice < 0.7:
        return Scan(PREFIX)
    return Get(one) if dice < 0.9 else Set(one, Value(b"%d" % rng.randint(-2, 2)))


def draws(rng: random.Random, whole: bool) -> Callable[[random.Random], Command | None]:
    """The commands that one client sends all the time."""
    if whole:
        return rng.choice([_over_keys, _over_keys, _reading])
    return rng.choice([_on_one_key, _on_one_key, _counting, _counting, _reading, _reading, _fading, _growing])


def nothing(rng: random.Random) -> Command | None:
    """A client that only begins later."""
    return None


def probe(name: bytes, read_only: bool) -> Callable[[random.Random], Command | None]:
    """A read of a key of its own, after a write of it if wanted."""
    commands: list[Command] = [Get(name)] if read_only else [Get(name), Set(name, Value(b"served"))]
    return lambda rng: commands.pop() if commands else None
