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
from kvstore.commands import is_read_only
from kvstore.errors import CommandError, DamagedError, Refusal, StorageFullError, UnavailableError, UnknownOutcomeError
from kvstore.node.node import Node
from kvstore.node.peer_messages import Forward, ForwardSlot, PeerMessage
from kvstore.simulated.model import seen
from kvstore.simulated.oracle import Told
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
    ) -> None:
        self._name = name
        self._state = state
        self._environment = environment
        self._now = now
        self._replies: list[tuple[str, object]] = []
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
        led_by = self.replica.ballot
        self._environment.oracle.asked(client, request.sequence)

        def done(outcome: Reply | Refusal) -> None:
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
                )
        except (CommandError, DamagedError, StorageFullError, UnavailableError) as error:
            done(UnavailableError(str(error)))
        except UnknownOutcomeError as error:
            done(error)

    def _answer(self, client: str, request: ClientRequest, outcome: Reply | Refusal, led_by: Ballot) -> None:
        count = self._environment.note
        if isinstance(outcome, Reply):
            applied_upto = self._node.applied_upto
            told = Told(client, request.sequence, request.command, outcome.slot, applied_upto, seen(outcome.result))
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
                self._environment.oracle.refused(client, request.sequence)
            count("request: answered that it may have happened" if unknown else "request: refused")
            reply = ClientReply(request.sequence, request.attempt, refusal=str(outcome), unknown=unknown)
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
