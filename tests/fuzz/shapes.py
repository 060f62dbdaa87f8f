"""Requests drawn from the table of commands alone: a command that is new there is sent without being named here."""

from __future__ import annotations

from random import Random
from typing import TypeAlias

from kvstore.resp.spec import Spec
from kvstore.resp.table import TABLE
from tests.fuzz.values import key, number, size, value

Request: TypeAlias = list[bytes]
RAW = b"\0raw"
"""In the place of a name: what follows is sent as it is."""

SELDOM = {b"flushdb", b"flushall", b"quit", b"auth", b"reset"}
"""Sent as often as others these would leave nothing to work on."""
NOT_DRAWN = {b"client": {b"KILL", b"REPLY"}}
"""Subcommands that end other clients' connections, or answers, by intent: a kind of its own sends these."""
WORDS = (
    b"NX XX GT LT EX PX EXAT PXAT KEEPTTL PERSIST GET MATCH COUNT TYPE REPLACE DB IDX LEN MINMATCHLEN WITHMATCHLEN"
    b" IFEQ IFNE ASYNC SYNC ON NO YES ID LIB-NAME LIB-VER string hash FILTERBY PATTERN MODULE ACLCAT AUTH SETNAME * k*"
).split()
"""What options are named; a word that a command does not know is as good as one that it knows."""


def anything(random: Random) -> Request:
    """Any command, with mostly as many arguments as it takes."""
    while (name := random.choice(NAMES)) in SELDOM and random.random() < 0.95:
        pass
    return shaped(random, TABLE[name])


def shaped(random: Random, spec: Spec) -> Request:
    """A request of this command."""
    name = spec.name.encode()
    request = [random.choice([name, name.upper()])]
    arity = spec.arity
    if spec.subcommands and random.random() < 0.95:
        known = [word for word in spec.subcommands if word.encode() not in NOT_DRAWN.get(name, ())]
        subcommand = random.choice(known)
        request.append(random.choice([subcommand, subcommand.lower()]).encode())
        arity = spec.subcommands[subcommand][0]
    count = arity if arity > 0 else -arity + random.choice([0, 0, 0, 1, 1, 2, 2, 3, 4, size(random, 32)])
    if random.random() < 0.03:
        count += random.choice([-1, 1])
    first, last, step = spec.keys
    while len(request) < count:
        position = len(request)
        is_key = first and position >= first and (last < 0 or position <= last) and (position - first) % step == 0
        request.append(key(random) if is_key and random.random() < 0.98 else argument(random))
    return request


def argument(random: Random) -> bytes:
    match random.randrange(8):
        case 0 | 1:
            return random.choice(WORDS)
        case 2 | 3:
            return b"%d" % number(random)
        case 4:
            return key(random)
        case 5:
            return random.choice([b"", b"0", b"1", b"-1", b"3.14", b"nan", b"inf", b"-inf", b"1e400", b"+1", b"01"])
        case _:
            return value(random, 4_096)


NAMES = sorted(TABLE)
