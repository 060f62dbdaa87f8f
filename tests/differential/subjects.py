"""What a case is tried on, in a worker's process: each subject takes steps and tells what came of them."""

from __future__ import annotations

import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

from consensus.invariants import InvariantViolation
from consensus.messages import Record
from consensus.simulation.scenario import Scenario
from kvstore.commands import Command, Entry, is_read_only
from kvstore.errors import KvstoreError
from kvstore.language.canonical import format
from kvstore.language.parser import parse
from kvstore.limits import check, check_session
from kvstore.node.node import Node
from kvstore.node.peer_messages import PeerMessage
from kvstore.node.service import ServerStatus
from kvstore.resp.hub import Hub
from kvstore.simulated.run import new_trace, simulate
from kvstore.state import entries
from kvstore.state.machine import StateMachine
from kvstore.storage.log_store import MemoryLog, SqliteLog
from tests.differential import draws
from tests.unit import resp_client

Step: TypeAlias = list[object]
"""The name of what is to be done, and its arguments as MessagePack knows them."""
Answer: TypeAlias = object

_pack = msgspec.msgpack.Encoder().encode
_command = msgspec.msgpack.Decoder(Command).decode
_message = msgspec.msgpack.Decoder(PeerMessage).decode
_record = msgspec.msgpack.Decoder(Record).decode
EXPECTED = (KvstoreError, msgspec.DecodeError, UnicodeDecodeError, InvariantViolation)
"""What the program raises by design: its words must be the same, too."""
_FOLDER = re.compile(r"/\S*/differential-\w+")


class Subject(Protocol):
    def step(self, name: str, arguments: list[object]) -> Answer: ...

    def end(self) -> Answer:
        """What is left when all steps are done; not called when one of them raised what was not foreseen."""
        ...

    def close(self) -> None: ...


class Serving(resp_client.Node):
    """What clients talk to, with a status of numbers that no server has."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._status: ServerStatus = draws.of(ServerStatus, random.Random(seed))

    def status(self) -> ServerStatus:
        return self._status


class Redis:
    """Three clients of the Redis protocol, and a state machine behind them."""

    def __init__(self, seed: int) -> None:
        random.seed(seed)
        self._node = Serving(seed)
        hub = Hub("secret" if seed % 5 == 0 else None)
        self._clients = [resp_client.Client(self._node, hub=hub, peer=f"1.2.3.{n}:5") for n in range(3)]

    def step(self, name: str, arguments: list[object]) -> Answer:
        number, data, answered = arguments
        assert isinstance(number, int) and isinstance(data, bytes)
        client = self._clients[number]
        if not client.closed:
            client.connection.received(data)
        if answered:
            client.turn()
        return self._news()

    def _news(self) -> Answer:
        said = [(client.said, client.closed, client.paused) for client in self._clients]
        started = self._node.started
        for client in self._clients:
            client.said = b""
        self._node.started = []
        return [said, started]

    def end(self) -> Answer:
        self._clients[0].turn()
        return [self._news(), self._node.state.digest()]

    def close(self) -> None:
        self._node.state.close()


class State:
    """A state machine: entries, reads and estimates of costs, commands as text."""

    def __init__(self, seed: int) -> None:
        self._state = StateMachine(None)

    def step(self, name: str, arguments: list[object]) -> Answer:
        state = self._state
        match name, arguments:
            case "apply", [list(values)]:
                applied = state.apply(state.applied_upto + 1, [value for value in values if isinstance(value, bytes)])
                return [_pack(applied), state.clock, state.next_expiry, state.uncommitted_bytes]
            case "text", [str(text)]:
                command = parse(text)
                canonical = format(command)
                check(command)
                applied = state.apply(state.applied_upto + 1, [entries.encode(Entry("", 0, 0, 0, command))])
                return [canonical, _pack(command), _pack(applied)]
            case "query", [bytes(data), int(now)]:
                return _pack(state.query(_command(data), now))
            case "check", [bytes(data)]:
                command = _command(data)
                check(command)
                return [is_read_only(command), format(command)]
            case "session", [str(session), int(sequence), int(acknowledged), int(since)]:
                check_session(session, sequence, acknowledged, since)
                return state.executed_upto(session)
            case "cost", [bytes(data), int(size)]:
                return state.changed_bytes(_command(data), size)
            case "shown", [bytes(data)]:
                return entries.as_json(data)
            case "keys", [bytes(prefix), int(limit)]:
                return state.keys(prefix, limit)
            case "commit", []:
                state.commit()
                return [state.committed_upto, state.uncommitted_bytes]
        raise NotImplementedError(name)

    def end(self) -> Answer:
        results = self._state.results(1, 1_000)
        return [self._state.digest(), self._state.count(), sorted(results.items())]

    def close(self) -> None:
        self._state.close()


class Stored:
    """The log in a file, which rots between two openings."""

    def __init__(self, seed: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="differential-")
        self._path = Path(self._folder.name) / "log.db"
        self._log = self._open()

    def _open(self) -> SqliteLog:
        return SqliteLog(self._path, node_id="n1", nodes=["n1", "n2"])

    def step(self, name: str, arguments: list[object]) -> Answer:
        match name, arguments:
            case "append", [list(records)]:
                self._log.append([_record(record) for record in records if isinstance(record, bytes)])
                return self._log.last
            case "read", [int(first), int(last)]:
                return _pack(list(self._log.read(first, last)))
            case "tail", [int(after)]:
                return _pack(self._log.tail(after))
            case "rot", [str(column), value, int(row)]:
                self._log.close()
                with sqlite3.connect(self._path) as connection:
                    connection.execute(f"UPDATE records SET {column} = ? WHERE id = ?", (value, row))
                connection.close()
                self._log = self._open()
                return None
            case "reopen", []:
                self._log.close()
                self._log = self._open()
                return [self._log.promised, self._log.chosen_upto, self._log.last]
        raise NotImplementedError(name)

    def end(self) -> Answer:
        self._log.close()
        self._log = self._open()
        return [self._log.promised, self._log.chosen_upto, self._log.last]

    def close(self) -> None:
        self._log.close()
        self._folder.cleanup()


class Lone:
    """One node of a cluster of one or three, which hears what the others might say, and what they never would."""

    def __init__(self, seed: int) -> None:
        names = ["n1"] if seed % 3 == 0 else ["n1", "n2", "n3"]
        rng = random.Random(seed)
        self._node = Node("n1", names, MemoryLog(), StateMachine(None), rng=rng, now=0, wall=0)
        self._now = 0
        self._heard: list[Answer] = []

    def step(self, name: str, arguments: list[object]) -> Answer:
        node = self._node
        match name, arguments:
            case "tick", [int(milliseconds)]:
                self._now += milliseconds
                node.tick(self._now, self._now)
                return self._turn()
            case "receive", [str(sender), bytes(data)]:
                node.receive(sender, _message(data))
                return self._turn()
            case "execute", [bytes(data), str(session), int(sequence), int(acknowledged), int(since), int(size)]:
                node.execute(
                    _command(data),
                    self._hear,
                    self._now + 500,
                    session=session,
                    sequence=sequence,
                    acknowledged=acknowledged,
                    since=since,
                    size=size,
                )
                return self._turn()
            case "query", [bytes(data)]:
                node.query(_command(data), self._hear, self._now + 500)
                return self._turn()
            case "propose", [int(slot), bytes(json)]:
                node.propose_at(slot, json, self._hear, self._now + 500)
                return self._turn()
            case "look", []:
                rows = [tuple(row) for row in node.slot_rows()]
                return [rows, _pack(node.status("")), _pack(list(node.log(1, None)))]
            case "campaign", []:
                node.campaign()
                return self._turn()
            case "leave", []:
                node.hand_over()
                return self._turn()
        raise NotImplementedError(name)

    def _hear(self, outcome: object) -> None:
        self._heard.append([type(outcome).__name__, str(outcome)])

    def _turn(self) -> Answer:
        """One turn, and the next ones as long as there is something to store."""
        done: list[Answer] = []
        for _ in range(20):
            turn = self._node.turn()
            self._node.apply()
            done.append([_pack(turn.records), [(to, _pack(message)) for to, message in turn.messages]])
            if not turn.records:
                break
            self._node.append(turn.records)
            self._node.persisted()
        heard, self._heard = self._heard, []
        return [done, heard]

    def end(self) -> Answer:
        return [self._node.applied_upto, _pack(list(self._node.log(1, None))), str(self._node.ballot)]

    def close(self) -> None:
        return None


class Lines:
    """A whole process: lines to the node on standard input, one step for all of them."""

    def __init__(self, seed: int) -> None:
        self._lines: list[bytes] = []

    def step(self, name: str, arguments: list[object]) -> Answer:
        (line,) = arguments
        assert isinstance(line, bytes)
        self._lines.append(line)
        return None

    def end(self) -> Answer:
        build = os.environ["KVSTORE_TESTED_BUILD"]
        program = (
            f"from tests.differential import builds; builds.use({build!r})\n"
            "import sys; from kvstore.maelstrom import host; sys.exit(host.run(None))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], input=b"\n".join(self._lines) + b"\n", capture_output=True, timeout=120
        )
        return [done.returncode, done.stdout, done.stderr]

    def close(self) -> None:
        return None


class Simulated:
    """A whole simulated cluster, event by event."""

    def __init__(self, seed: int) -> None:
        pass

    def step(self, name: str, arguments: list[object]) -> Answer:
        seed, nodes, time, preset = arguments
        assert isinstance(seed, int) and isinstance(nodes, int) and isinstance(time, int) and isinstance(preset, str)
        trace = new_trace()
        outcome = simulate(Scenario(seed, nodes, time, preset), trace)
        hashed = sha256()
        for line in trace.lines():
            hashed.update(line.encode(errors="surrogatepass"))
        return [outcome.events, outcome.counts, outcome.rule, outcome.found, hashed.hexdigest()]

    def end(self) -> Answer:
        return None

    def close(self) -> None:
        return None


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "redis": Redis,
    "state": State,
    "log": Stored,
    "node": Lone,
    "lines": Lines,
    "simulation": Simulated,
}


def tried(kind: str, seed: int, steps: list[Step]) -> list[Answer]:
    """What came of each step, and at last of the whole; fewer when a step raised what was not foreseen."""
    subject = SUBJECTS[kind](seed)
    answers: list[Answer] = []
    calls = [lambda step=step: subject.step(str(step[0]), step[1:]) for step in steps]
    for call in [*calls, subject.end]:
        try:
            answers.append(call())
        except EXPECTED as error:
            answers.append([type(error).__name__, _FOLDER.sub("", str(error))])
        except Exception as error:
            # What it says may differ: "expected int" is the compiler's wording.
            answers.append(["unforeseen", type(error).__name__])
            traceback.print_exc()
            break
    with suppress(Exception):
        subject.close()
    return answers
