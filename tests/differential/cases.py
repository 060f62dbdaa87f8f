"""The cases: for each kind of subject, steps drawn from a generator of random numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import TypeAlias

import msgspec

from consensus.messages import Accept, Record
from kvstore.commands import Command, Entry, Get, Opaque, Set, Txn, Value, is_read_only
from kvstore.errors import CommandError, KvstoreError
from kvstore.language.canonical import format
from kvstore.limits import check
from kvstore.node.peer_messages import PeerMessage
from kvstore.resp.table import TABLE
from tests.differential import draws
from tests.fuzz.kinds import KINDS as VALID
from tests.fuzz.sender import packed

Step: TypeAlias = list[object]
Draw: TypeAlias = Callable[[Random], list[Step]]

_pack = msgspec.msgpack.Encoder().encode


# -- the Redis protocol ---------------------------------------------------------------------------------------------

_VALID = ["data", "transaction", "execute", "walks", "talk", "backwards", "far sequences"]
_OPTIONS = (
    b"NX XX GT LT GET EX PX EXAT PXAT KEEPTTL PERSIST IFEQ REPLACE MATCH COUNT TYPE LEN IDX MINMATCHLEN WITHMATCHLEN DB"
    b" LIMIT ASYNC SYNC ON OFF SKIP LIST ID INFO GETNAME SETNAME KILL REPLY AUTH HELP DOCS FILTERBY ADDR 0 1 2 3 *"
).split()
_COMMANDS = sorted(TABLE)


def _argument(random: Random) -> bytes:
    return random.choice(_OPTIONS) if random.random() < 0.25 else draws.data(random)


def _any_request(random: Random) -> list[bytes]:
    """A command with arguments that it may not take."""
    name = random.choice(_COMMANDS)
    if random.random() < 0.1:
        name = random.choice([name.upper(), draws.mutated(random, name), b"", b"nosuch"])
    spec = TABLE.get(name.lower())
    least = abs(spec.arity) - 1 if spec else 1
    count = max(0, least + random.choice([0, 0, 0, 0, 1, 2, 3, -1]))
    return [name, *(_argument(random) for _ in range(count))]


def _range(random: Random) -> list[bytes]:
    """What the ranges of strings are asked for, at all their edges."""
    number = [b"%d" % draws.integer(random) for _ in range(2)]
    name = random.choice([b"getrange", b"substr", b"setrange"])
    key = random.choice([b"a", b"b", b"missing"])
    return [name, key, *number] if name != b"setrange" else [name, key, number[0], draws.data(random)]


def _inline(random: Random) -> bytes:
    return random.choice(
        [b"PING\r\n", b"\r\n", b"SET a 1\n", b'SET a "\\x41', b"*x\r\n", b"$5\r\n", b"*-1\r\n", b"*0\r\n"]
    )


def _redis(random: Random) -> list[Step]:
    steps: list[Step] = []
    for _ in range(random.randrange(1, 12)):
        requests: list[list[bytes]] = []
        for _ in range(random.randrange(1, 6)):
            roll = random.random()
            if roll < 0.2:
                requests += VALID[random.choice(_VALID)].draw(random)[:40]
            elif roll < 0.35:
                requests.append(_range(random))
            else:
                requests.append(_any_request(random))
        # INFO names the process and the build.
        data = b"".join(packed(request) for request in requests if request[0].lower() != b"info")
        roll = random.random()
        if roll < 0.05:
            data = draws.mutated(random, data[:5_000])
        elif roll < 0.08:
            data += _inline(random)
        elif roll < 0.1:
            data = packed([b"AUTH", random.choice([b"secret", b"wrong"])]) + data
        number = random.choice([0, 0, 0, 1, 2])
        cuts = sorted(random.choices(range(len(data) + 1), k=random.choice([0, 0, 0, 1, 3])))
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            if start < end:
                steps.append(["send", number, data[start:end], random.random() < 0.8])
    return steps


# -- commands, entries and the state --------------------------------------------------------------------------------


def _command(random: Random) -> Command:
    """Mostly one that a node takes; the others reach a log only as an older version or another program wrote it."""
    while True:
        command: Command = draws.of(Command, random)  # type: ignore[arg-type]
        with suppress(CommandError):
            if random.random() < 0.98:
                check(command)
            return command


def _entry(random: Random, stamp: int) -> bytes:
    command: Command | Opaque
    roll = random.random()
    if roll < 0.05:
        command = Opaque(msgspec.json.encode(_text(random)) if random.random() < 0.5 else draws.data(random))
    elif roll < 0.3:
        command = Set(random.choice(draws.KEYS[:3]), Value(draws.data(random)))
    else:
        command = _command(random)
    if random.random() < 0.01:
        return _pack(draws.of(Entry, random))
    session = random.choice(["", "", "s", "t", "node:n1", "load-1"])
    sequence = random.choice([1, 2, 3, 4, 5])
    data = _pack(Entry(session, sequence, random.choice([0, sequence, 2]), stamp, command, random.choice([-1, 0, 1])))
    return draws.mutated(random, data) if random.random() < 0.05 else data


_WORDS = re.compile(r"\S+|\s+")


def _text(random: Random) -> str:
    """A command's text, mostly as it should be."""
    try:
        text = format(_command(random))
    except (KvstoreError, UnicodeDecodeError, ValueError):
        text = "get a"
    if random.random() < 0.6:
        return text
    words = _WORDS.findall(text)
    for _ in range(random.randrange(1, 3)):
        at = random.randrange(len(words) + 1)
        word = random.choice(
            [draws.data(random).decode(errors="replace"), random.choice(words or [""]), "{", "}", ";", '"']
        )
        words[at : at + random.randrange(2)] = [word]
    return "".join(words)


def _state(random: Random) -> list[Step]:
    steps: list[Step] = []
    stamp = 0
    for _ in range(random.randrange(5, 60)):
        stamp += random.choice([0, 0, 1, 5, 1_000])
        roll = random.random()
        if roll < 0.5:
            steps.append(["apply", [_entry(random, stamp) for _ in range(random.choice([1, 1, 2, 8]))]])
        elif roll < 0.6:
            steps.append(["text", _text(random)])
        elif roll < 0.7:
            steps.append(["query", _pack(_query(random)), stamp + random.choice([0, 1, 10**6])])
        elif roll < 0.78:
            steps.append(["check", _pack(_command(random))])
        elif roll < 0.86:
            steps.append(["cost", _pack(_command(random)), abs(draws.integer(random)) % 2**40])
        elif roll < 0.9:
            steps.append(["shown", _entry(random, stamp)])
        elif roll < 0.93:
            numbers = [draws.wide(random) % 2**63 for _ in range(3)]
            steps.append(["session", random.choice(draws.NAMES), *numbers])
        elif roll < 0.96:
            steps.append(["keys", random.choice(draws.KEYS[:4]), random.choice([0, 1, 2, 1_000])])
        else:
            steps.append(["commit"])
    return steps


def _query(random: Random) -> Command:
    while True:
        command = _command(random)
        if is_read_only(command):
            return command
        if random.random() < 0.2:
            return Txn([Get(b"a"), Get(b"b")])


# -- the log in its file --------------------------------------------------------------------------------------------


def _log(random: Random) -> list[Step]:
    steps: list[Step] = []
    for _ in range(random.randrange(3, 12)):
        roll = random.random()
        if roll < 0.5:
            records = [_pack(draws.of(Record, random)) for _ in range(random.randrange(1, 4))]  # type: ignore[arg-type]
            steps.append(["append", records])
        elif roll < 0.75:
            steps.append(["read", *(random.choice([1, 2, 3, 8, draws.wide(random) % 2**62]) for _ in range(2))])
        elif roll < 0.85:
            steps.append(["tail", random.choice([0, 1, 2, draws.wide(random) % 2**62])])
        elif roll < 0.95:
            steps.append(["reopen"])
        else:
            column = random.choice(["first", "last", "round", "node", "chosen_upto", "slots", "checksum"])
            value: object = random.choice([draws.wide(random) % 2**63, draws.data(random), "text", None, 1.5])
            steps.append(["rot", column, value, random.randrange(1, 4)])
    return steps


# -- one node and what it hears -------------------------------------------------------------------------------------


def _node(random: Random) -> list[Step]:
    steps: list[Step] = []
    for _ in range(random.randrange(5, 60)):
        roll = random.random()
        if roll < 0.2:
            steps.append(["tick", random.choice([0, 1, 10, 100, 400, 3_000])])
        elif roll < 0.6:
            message: PeerMessage = draws.of(PeerMessage, random)  # type: ignore[arg-type]
            if isinstance(message, Accept) and random.random() < 0.8:
                message = msgspec.structs.replace(message, values=[_entry(random, 0) for _ in message.values])
            steps.append(["receive", random.choice(["n2", "n3", "n2", "n3", "n1", "n9"]), _pack(message)])
        elif roll < 0.8:
            session, sequence = random.choice(["", "", "s", "t"]), random.choice([1, 2, 3, 4])
            low, size = random.choice([0, sequence]), random.choice([0, 10, 10**6])
            steps.append(["execute", _pack(_command(random)), session, sequence, low, random.choice([0, 1]), size])
        elif roll < 0.86:
            steps.append(["query", _pack(_query(random))])
        elif roll < 0.92:
            steps.append(["propose", random.choice([1, 2, 3, draws.wide(random)]), draws.data(random)])
        else:
            steps.append([random.choice(["look", "look", "campaign", "leave"])])
    return steps


# -- the node on standard input -------------------------------------------------------------------------------------


def _json(random: Random) -> bytes:
    roll = random.random()
    if roll < 0.5:
        return random.choice([b"1", b"2", b'"x"', b'"a"', b"null", b"[1]", b'{"a":1}'])
    if roll < 0.9:
        return b"%d" % draws.integer(random) if roll < 0.7 else draws.data(random)
    return msgspec.json.encode(_text(random))


_OPERATIONS = (b'["r",%b,null]', b'["w",%b,%b]', b'["append",%b,%b]', b'["x",%b,%b]')


def _operation(random: Random) -> bytes:
    form = random.choice(_OPERATIONS)
    return form % tuple(_json(random) for _ in range(form.count(b"%b")))


_BODIES: list[Callable[[Random], bytes]] = [
    lambda random: b'"type":"multi_paxos_propose","slot":%b,"value":%b' % (_json(random), _json(random)),
    lambda random: b'"type":"multi_paxos_propose","slot":%d,"value":%b' % (random.randrange(1, 9), _json(random)),
    lambda random: b'"type":"multi_paxos_log"',
    lambda random: b'"type":"read","key":%b' % _json(random),
    lambda random: b'"type":"write","key":%b,"value":%b' % (_json(random), _json(random)),
    lambda random: b'"type":"cas","key":%b,"from":%b,"to":%b' % (_json(random), _json(random), _json(random)),
    lambda random: b'"type":"txn","txn":[%b]' % b",".join(_operation(random) for _ in range(random.randrange(4))),
    lambda random: b'"type":"echo","echo":%b' % _json(random),
    lambda random: b'"type":%b' % _json(random),
]


def _lines(random: Random) -> list[Step]:
    start = b'{"src":"c0","dest":"n1","body":{"type":"init","msg_id":1,"node_id":"n1","node_ids":["n1"]}}'
    lines: list[bytes] = [start]
    for number in range(random.randrange(1, 80)):
        source = random.choice([b"c1", b"c1", b"c2", b"n1"])
        body = random.choice(_BODIES)(random)
        line = b'{"src":"%b","dest":"n1","body":{"msg_id":%d,%b}}' % (source, number + 2, body)
        lines.append(draws.mutated(random, line) if random.random() < 0.1 else line)
    return [["line", line] for line in lines]


def _simulation(random: Random) -> list[Step]:
    preset = random.choice(["all", "all", "all", "none", "network"])
    return [["run", random.randrange(10**9), random.choice([0, 0, 1, 3, 5]), 3_000, preset]]


CASES: dict[str, Draw] = {
    "redis": _redis,
    "state": _state,
    "log": _log,
    "node": _node,
    "lines": _lines,
    "simulation": _simulation,
}
"""By the name of the subject in ``subjects.SUBJECTS``."""
