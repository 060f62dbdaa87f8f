"""A real node in the simulator: its log on a virtual disk, its clients simulated."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from consensus.ballot import Ballot
from consensus.messages import Record
from consensus.replica import Replica
from consensus.simulation.disk import Disk, RottenRecord
from consensus.simulation.service import Damaged
from consensus.simulation.violation import Violation
from kvstore.commands import Configure, Found, Get, Integer, Member, Ttl, is_read_only
from kvstore.errors import CommandError, DamagedError, Refusal, StorageFullError, UnavailableError, UnknownOutcomeError
from kvstore.node.node import Node
from kvstore.node.peer_messages import Forward, ForwardSlot, PeerMessage
from kvstore.simulated.model import seen
from kvstore.simulated.oracle import Earliest, Told
from kvstore.simulated.requests import ClientReply, ClientRequest, SlotClaim, SlotVerdict
from kvstore.simulated.state import NO_ROOM, Environment, SimulatedState
from kvstore.state.machine import StateMachine
from kvstore.store import Reply, SlotReply


class SimulatedTurn(NamedTuple):
    records: Sequence[Record]
    messages: Sequence[tuple[str, object]]


class SimulatedNode:
    """One process: passes clients' requests to the node, and collects its answers as messages."""

    def __init__(
        self,
        name: str,
        disk: Disk,
        state: SimulatedState,
        environment: Environment,
        rng: random.Random,
        now: int,
        wall: int,
        process: int,
    ) -> None:
        self._name = name
        self._process = f"{name} (process {process})"
        self._state = state
        self._environment = environment
        self._now = now
        self._replies: list[tuple[str, object]] = []
        environment.oracle.clock_read(name, wall)
        with _damage():
            disk.open()
            self._node = Node(
                name,
                environment.names,
                disk,
                state.machine,
                rng=rng,
                now=now,
                wall=wall,
                free_bytes=lambda: 0 if disk.full else 1 << 40,
                keep_slots=environment.keep_slots,
                timing=environment.timing,
                background=lambda batch: state.begin(batch, self._now),
                apply=state.apply,
            )

    @property
    def replica(self) -> Replica:
        return self._node.replica

    @property
    def waiting(self) -> int:
        return self._node.waiting

    @property
    def state(self) -> StateMachine:
        return self._state.machine

    def tick(self, now: int, wall: int) -> None:
        self._now = now
        self._environment.oracle.clock_read(self._name, wall)
        ended = self._state.ended(now)
        if ended is not None:
            self._node.committed(*ended)
        self._node.tick(now, wall)

    def turn(self) -> SimulatedTurn:
        with _damage():
            turn = self._node.turn()
            self._node.apply()
        # Replies first: a client may know of a result though nothing else leaves this process any more.
        messages = [*self._replies, *turn.messages]
        self._replies = []
        return SimulatedTurn(turn.records, messages)

    def persisted(self) -> None:
        self._node.persisted()

    def storage_failed(self) -> None:
        self._node.storage_failed(StorageFullError(NO_ROOM))

    def reconfigure(self, voters: Sequence[str], first: str) -> bool:
        known = self._node.configuration
        members = [Member(name, "", votes=known is None or name in voters) for name in self._environment.names]
        return self._node.propose_configuration(Configure(known.number + 1 if known else 1, members, first))

    def crash(self) -> None:
        self._state.close()
        # What it owed refers to it, in a circle that the garbage collector does not see.
        del self._node

    # -- requests -----------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: object) -> None:
        match message:
            case ClientRequest():
                self._request(sender, message)
            case SlotClaim():
                self._claim(sender, message)
            case _:
                self._peer(sender, message)

    def _peer(self, sender: str, message: object) -> None:
        assert isinstance(message, PeerMessage)
        if isinstance(message, Forward | ForwardSlot):
            self._environment.note("request: forwarded to the leader")
        self._node.receive(sender, message)

    def _request(self, client: str, request: ClientRequest) -> None:
        command, deadline = request.command, self._now + request.patience
        led_by, oracle = self.replica.ballot, self._environment.oracle
        if not request.session and not oracle.arrived(client, request.sequence):
            return
        oracle.asked(request.session or client, request.sequence)
        earliest = oracle.earliest()

        def done(outcome: Reply | Refusal) -> None:
            if isinstance(command, Get) and isinstance(outcome, Reply) and isinstance(outcome.result, Found):
                self._judge_time(client, request, outcome, earliest)
            self._answer(client, request, outcome, led_by)

        try:
            if is_read_only(command):
                self._node.query(command, done, deadline)
            else:
                self._node.execute(
                    command,
                    done,
                    deadline,
                    session=request.session,
                    sequence=request.sequence,
                    acknowledged=request.acknowledged,
                    size=100,
                    since=request.since,
                )
                if request.session:
                    oracle.taken(self._process, request.session, request.sequence, request.acknowledged)
        except CommandError as error:
            self._environment.note("cost: refused before it was proposed")
            self._answer(client, request, UnavailableError(str(error)), led_by, final=True)
        except (DamagedError, StorageFullError, UnavailableError) as error:
            done(UnavailableError(str(error)))
        except UnknownOutcomeError as error:  # the same one waits already, for too many
            self._answer(client, request, error, led_by, waits=True)

    def _judge_time(self, client: str, request: ClientRequest, outcome: Reply, since: Earliest) -> None:
        """A read shows a key: could its time be over?"""
        assert isinstance(request.command, Get)
        expires = self.state.query(Ttl(request.command.key, absolute=True), 0)
        if isinstance(expires, Integer) and expires.number > 0:
            upto = self._node.applied_upto
            told = Told(client, request.sequence, request.command, outcome.slot, upto, seen(outcome.result))
            self._environment.oracle.shown(self._name, told, expires.number, since)
            self._environment.note("expiry: a read shows a key that will expire")

    def _answer(
        self,
        client: str,
        request: ClientRequest,
        outcome: Reply | Refusal,
        led_by: Ballot,
        *,
        final: bool = False,
        waits: bool = False,
    ) -> None:
        count = self._environment.note
        if isinstance(outcome, Reply):
            applied_upto = self._node.applied_upto
            told = Told(
                request.session or client,
                request.sequence,
                request.command,
                outcome.slot,
                applied_upto,
                seen(outcome.result),
            )
            self._environment.oracle.told(self._name, told, applied_upto)
            if led_by != self.replica.ballot:
                count(
                    "read: waited through a leader change"
                    if not outcome.slot
                    else "request: waited through a leader change"
                )
            reply = ClientReply(request.sequence, request.attempt, outcome.result, outcome.slot, applied_upto)
        else:
            unknown = isinstance(outcome, UnknownOutcomeError)
            if not unknown:
                self._environment.oracle.refused(request.session or client, request.sequence)
            if request.session and not (waits or is_read_only(request.command)):
                self._environment.oracle.left(self._process, request.session, request.sequence, request.acknowledged)
            count("request: answered that it may have happened" if unknown else "request: refused")
            reply = ClientReply(request.sequence, request.attempt, refusal=str(outcome), unknown=unknown, final=final)
        self._replies.append((client, reply))

    def _claim(self, client: str, claim: SlotClaim) -> None:
        def done(outcome: SlotReply | Refusal) -> None:
            if isinstance(outcome, SlotReply):
                lost = outcome.json != claim.json
                self._environment.note("slot by name: another value was chosen" if lost else "slot by name: chosen")
                verdict = SlotVerdict(claim.sequence, outcome.slot, outcome.json)
            else:
                verdict = SlotVerdict(claim.sequence, claim.slot, b"", str(outcome))
            self._replies.append((client, verdict))

        try:
            self._node.propose_at(claim.slot, claim.json, done, self._now + claim.patience)
        except (CommandError, DamagedError, StorageFullError, UnavailableError) as error:
            done(UnavailableError(str(error)))


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except RottenRecord as error:
        raise Damaged(str(error)) from error
    except DamagedError as error:
        raise Violation("a node whose disk is intact finds its log complete", str(error)) from error
