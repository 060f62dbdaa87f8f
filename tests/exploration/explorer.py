"""Breadth-first through all states of a cluster, whose nodes' steps are each carried out once by the real replica.

A state is what the three nodes are in, the messages ever sent, and how often what may still happen. Nodes and messages
are interned, so that a state is five whole numbers, and what a node does in a step is looked up after the first time.

**The network keeps every message for good.** Any of them may arrive at any time, again and again: that covers every
order, delay and repetition, and a loss is a message that does not arrive.

**Answers are sent at once.** A step that leaves its node as it was and only sends messages is taken as soon as it can
be. It takes nothing away from what may happen, since nothing is ever taken from the network: every run without it is
also a run with it. For the same reason a state is left out where one with the same nodes has all its messages and more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from consensus import Ballot, InvariantViolation, Message
from consensus.messages import Fetch
from tests.consensus.golden import describe
from tests.exploration.hosts import NODES, BrokenRule, Host, Step, canonical, unpacked
from tests.exploration.setups import Setup

State = tuple[int, int, int, int, int]
"""The interned nodes n1, n2, n3, the messages as a set of bits, and the budgets and clocks in four bits each."""

Vote = tuple[int, Ballot, bytes]
"""A slot, and what was accepted or proposed for it under a ballot."""
Belief = tuple[int, bytes]
"""A slot, and the value that a node takes for chosen there."""
Thing = TypeVar("Thing", Vote, Belief)

BUDGETS = {
    "ask": 0,
    "crash": 1,
    "crash-saved": 1,
    "forget": 2,
    "beat": 3,
    "read": 4,
    "hand-over": 5,
    "resign": 6,
    "stop": 7,
}
"""The place of what a step spends."""
TIME, CLOCKS = 8, 9


class Seen(NamedTuple):
    """What the rules of the whole cluster look at in one node: sets of bits, and how many slots it ever applied."""

    votes: int
    proposed: int
    believed: int
    applied: int
    broken: str


class Outcome(NamedTuple):
    """``complete``: everything was seen, unless a rule was broken. ``path``: the fewest steps to that, in words."""

    states: int
    transitions: int
    nodes: int
    messages: int
    complete: bool
    broken: str
    path: list[str]
    seconds: float


Move = tuple[int, int, int, int, Step | int]
"""A change of one node: what it spends, the mask of that, the node after, messages sent, and the step or message."""


class Explorer:
    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._names: dict[object, int] = {}
        self._blobs: list[bytes] = []
        self._seen: list[Seen] = []
        self._bits: dict[object, int] = {}
        """By vote (slot, ballot, value) or belief (slot, value): its bit, each kind numbered by itself."""
        self._votes: list[Vote] = []
        self._beliefs: list[Belief] = []
        self._messages: dict[object, int] = {}
        self._posts: list[tuple[int, int, Message]] = []
        self._to = [0, 0, 0]
        self._received: dict[tuple[int, int], tuple[int, int]] = {}
        self._inboxes: dict[tuple[int, int], tuple[list[Move], int]] = {}
        self._own: dict[tuple[int, int, int], tuple[list[Move], int]] = {}
        self._verdicts: dict[tuple[int, int, int], str] = {}
        self._clocked = bool(setup.lease)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _node(self, host: Host, broken: str = "") -> int:
        key = (host.key(), broken)
        known = self._names.get(key)
        if known is None:
            known = self._names[key] = len(self._blobs)
            self._blobs.append(host.packed())
            self._seen.append(
                Seen(
                    self._marked(host.votes, self._votes),
                    self._marked(host.proposed | host.votes, self._votes),
                    self._marked(set(host.believed()), self._beliefs),
                    host.applied_ever,
                    broken,
                )
            )
        return known

    def _marked(self, things: set[Thing], table: list[Thing]) -> int:
        marks = 0
        for thing in sorted(things):
            if thing not in self._bits:
                self._bits[thing] = len(table)
                table.append(thing)
            marks |= 1 << self._bits[thing]
        return marks

    def _post(self, sender: int, sent: list[tuple[str, Message]]) -> int:
        bits = 0
        for name, message in sent:
            receiver = NODES.index(name)
            key = (sender, receiver, canonical(message, {}))
            number = self._messages.get(key)
            if number is None:
                number = self._messages[key] = len(self._posts)
                self._posts.append((sender, receiver, message))
                self._to[receiver] |= 1 << number
            bits |= 1 << number
        return bits

    def _take(self, node: int, what: Step | int, now: int) -> tuple[int, int]:
        """The node after a step, or after the message with this number has arrived, and the messages it sends."""
        host = unpacked(self._blobs[node])
        sent: list[tuple[str, Message]] = []
        broken = ""
        try:
            if isinstance(what, Step):
                sent = host.take(what, self.setup, now)
            else:
                sender, _, message = self._posts[what]
                sent = host.receive(NODES[sender], message, self.setup)
        except BrokenRule as error:
            broken = str(error)
        except InvariantViolation as error:
            broken = f"{host.node} stops: {error}"
        return self._node(host, broken), self._post(NODES.index(host.node), sent)

    def _arrivals(self, node: int, inbox: int) -> tuple[list[Move], int]:
        """What the messages that may arrive at a node change in it, and what it sends for those that change nothing."""
        moves: list[Move] = []
        echo = 0
        rest = inbox
        while rest:
            bit = rest & -rest
            rest ^= bit
            number = bit.bit_length() - 1
            known = self._received.get((node, number))
            if known is None:
                known = self._received[node, number] = self._take(node, number, 0)
            after, sent = known
            if after != node:
                moves.append((0, 0, after, sent, number))
            else:
                echo |= sent
        self._inboxes[node, inbox] = found = (moves, echo)
        return found

    def _steps(self, node: int, now: int, floor: int) -> tuple[list[Move], int]:
        """What a node may do by itself, and what it sends by steps that change nothing."""
        moves: list[Move] = []
        echo = 0
        for step in unpacked(self._blobs[node]).steps(self.setup, now, floor):
            after, sent = self._take(node, step, now)
            place = BUDGETS.get(step.kind)
            if place is not None:
                if after != node or sent:
                    moves.append((1 << 4 * place, 15 << 4 * place, after, sent, step))
            elif after != node:
                moves.append((0, 0, after, sent, step))
            else:
                echo |= sent
        self._own[node, now, floor] = found = (moves, echo)
        return found

    # -- states --------------------------------------------------------------------------------------------------------

    def start(self) -> State:
        setup = self.setup
        nodes = [self._node(Host(name, setup)) for name in NODES]
        messages = 0
        for sender in range(3):
            fetches = [(name, Fetch(1, setup.slots)) for name in NODES if name != NODES[sender]]
            messages |= self._post(sender, [(name, fetch) for name, fetch in fetches])
        counts = (
            setup.elections,
            setup.crashes,
            setup.forgets,
            setup.heartbeats,
            setup.reads,
            setup.hand_overs,
            setup.resignations,
            setup.stops,
            setup.clock,
        )
        left = sum(count << 4 * place for place, count in enumerate(counts))
        return self._with_answers(nodes[0], nodes[1], nodes[2], messages, left)

    def _now(self, left: int, which: int) -> int:
        return left >> 4 * (CLOCKS + which) & 15 if self._clocked else 0

    def _floor(self, a: int, b: int, c: int) -> int:
        seen = self._seen
        return max(seen[a].applied, seen[b].applied, seen[c].applied) if self.setup.reads else 0

    def _with_answers(self, a: int, b: int, c: int, messages: int, left: int) -> State:
        """The state once every step has been taken that only sends messages."""
        floor = self._floor(a, b, c)
        inboxes, own, to = self._inboxes, self._own, self._to
        before = -1
        while before != messages:
            before = messages
            for which, node in enumerate((a, b, c)):
                inbox = messages & to[which]
                messages |= (inboxes.get((node, inbox)) or self._arrivals(node, inbox))[1]
                key = (node, self._now(left, which), floor)
                messages |= (own.get(key) or self._steps(*key))[1]
        return a, b, c, messages, left

    def successors(self, state: State) -> Iterator[tuple[State, int, Step | int]]:
        """The states after one step; with it which node took it, and which step or message it was."""
        a, b, c, messages, left = state
        floor = self._floor(a, b, c)
        for which, node in enumerate((a, b, c)):
            arrivals = self._inboxes[node, messages & self._to[which]][0]
            own = self._own[node, self._now(left, which), floor][0]
            for moves in (arrivals, own):
                for cost, mask, after, sent, what in moves:
                    if mask and not left & mask:
                        continue
                    after_all = [a, b, c]
                    after_all[which] = after
                    yield (
                        self._with_answers(after_all[0], after_all[1], after_all[2], messages | sent, left - cost),
                        which,
                        what,
                    )
        if left >> 4 * TIME & 15:
            ticks = [1 << 4 * (CLOCKS + which) for which in range(3)]
            yield self._with_answers(a, b, c, messages, left - (1 << 4 * TIME) + sum(ticks)), -1, 0

    def broken(self, state: State) -> str:
        """The rule that does not hold in this state, in words; nothing if all hold."""
        a, b, c = self._seen[state[0]], self._seen[state[1]], self._seen[state[2]]
        if a.broken or b.broken or c.broken:
            return a.broken or b.broken or c.broken
        chosen = a.votes & b.votes | a.votes & c.votes | b.votes & c.votes
        if self.setup.stops:
            chosen = chosen & ~self._later() | self._chosen_later(a.votes, b.votes, c.votes)
        key = (chosen, a.proposed | b.proposed | c.proposed, a.believed | b.believed | c.believed)
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = self._verdicts[key] = self._judge(*key)
        return verdict

    def _later(self) -> int:
        """The votes of the second configuration, as bits."""
        return sum(1 << bit for bit, (_, ballot, _) in enumerate(self._votes) if ballot.epoch)

    def _chosen_later(self, *votes: int) -> int:
        """What the voters of the second configuration have chosen."""
        voters = [held & self._later() for name, held in zip(NODES, votes, strict=True) if name in self.setup.next]
        if len(voters) == 2:
            return voters[0] & voters[1]
        a, b, c = voters
        return a & b | a & c | b & c

    def _judge(self, chosen: int, proposed: int, believed: int) -> str:
        winners: dict[int, tuple[Ballot, bytes]] = {}
        for bit, (slot, ballot, value) in enumerate(self._votes):
            if chosen >> bit & 1:
                other = winners.setdefault(slot, (ballot, value))
                if other[1] != value:
                    return f"slot {slot} has two chosen values: {value!r} under {ballot}, {other[1]!r} under {other[0]}"
        for bit, (slot, ballot, value) in enumerate(self._votes):
            if proposed >> bit & 1 and slot in winners and winners[slot][1] != value:
                first = min(b for n, (s, b, v) in enumerate(self._votes) if chosen >> n & 1 and s == slot)
                if ballot > first:
                    return f"{ballot} proposes {value!r} for slot {slot}, where {winners[slot][1]!r} is chosen"
        for bit, (slot, value) in enumerate(self._beliefs):
            if believed >> bit & 1 and (slot not in winners or winners[slot][1] != value):
                return f"a node takes {value!r} for chosen in slot {slot}, and no quorum has accepted it"
        return ""

    # -- the search ----------------------------------------------------------------------------------------------------

    def explore(self, max_states: int = 10_000_000, seconds: float = 1e9) -> Outcome:
        """Look at every state, nearest first, until a rule is broken or there are no more, or one of the bounds."""
        began = time.process_time()
        first = self.start()
        came_from: dict[State, State | None] = {first: None}
        transitions = 0
        complete = True
        found: State | None = first if self.broken(first) else None
        widest: dict[tuple[int, int, int, int], list[int]] = {}
        level = [first]
        while level and found is None and complete:
            nearby: list[State] = []
            for state in level:
                if state[3] not in widest.get((state[0], state[1], state[2], state[4]), (state[3],)):
                    continue
                for after, _, _ in self.successors(state):
                    transitions += 1
                    if after in came_from:
                        continue
                    known = widest.setdefault((after[0], after[1], after[2], after[4]), [])
                    messages = after[3]
                    if any(messages | other == other for other in known):
                        continue
                    known[:] = [other for other in known if messages | other != messages]
                    known.append(messages)
                    came_from[after] = state
                    nearby.append(after)
                    if self.broken(after):
                        found = after
                        break
                if found is not None:
                    break
                if len(came_from) >= max_states or time.process_time() - began > seconds:
                    complete = False
                    break
            level = nearby
        path = self._path(found, came_from) if found is not None else []
        return Outcome(
            len(came_from),
            transitions,
            len(self._blobs),
            len(self._posts),
            complete,
            self.broken(found) if found is not None else "",
            path,
            time.process_time() - began,
        )

    def _path(self, state: State, came_from: dict[State, State | None]) -> list[str]:
        steps: list[str] = []
        before = came_from[state]
        while before is not None:
            after, which, what = next(step for step in self.successors(before) if step[0] == state)
            news = after[3] & ~before[3]
            lines = [self._words(which, what)]
            lines += [f"    sent: {self._letter(number)}" for number in range(len(self._posts)) if news >> number & 1]
            steps[:0] = lines
            state, before = before, came_from[before]
        return steps

    def _letter(self, number: int) -> str:
        sender, receiver, message = self._posts[number]
        return f"{NODES[sender]} -> {NODES[receiver]} {describe(message)}"

    def _words(self, which: int, what: Step | int) -> str:
        if which < 0:
            return "1 ms passes"
        if isinstance(what, int):
            return f"arrives: {self._letter(what)}"
        return f"{NODES[which]}: {what.kind} {what.number or ''}".rstrip()
