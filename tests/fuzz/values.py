"""Keys, values and numbers as the fuzzer draws them."""

from __future__ import annotations

from random import Random

import msgspec


def key(random: Random) -> bytes:
    """Mostly one of few, so that clients meet; now and then one of the shortest or longest allowed."""
    if random.random() < 0.95:
        return b"k%d" % random.randrange(300)
    return bytes(random.choices(range(256), k=random.choice([1, 2, 300, 1_023, 1_024])))


def size(random: Random, most: int = 65_536) -> int:
    """Mostly small, and as often near one power of two as near another."""
    return min(most, max(0, (1 << random.randrange(most.bit_length())) + random.choice([-1, 0, 1])))


def value(random: Random, most: int = 65_536) -> bytes:
    match random.randrange(5):
        case 0:
            return b"%d" % number(random)
        case 1:
            return msgspec.json.encode([random.randrange(9) for _ in range(size(random, 64))])
        case _:
            return random.randbytes(8) * (size(random, most) // 8)


def number(random: Random) -> int:
    edges = [0, 1, -1, 2**31, -(2**31), 2**53, 2**62, 2**63 - 1, -(2**63)]
    return random.choice(edges) if random.random() < 0.2 else random.randint(-1_000, 1_000)
