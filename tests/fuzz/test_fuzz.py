"""Half a minute of the fuzzer against one node and against three; ``python -m tests.fuzz`` goes on for hours."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from kvstore.resp.table import TABLE
from tests.fuzz.kinds import KINDS
from tests.fuzz.run import fuzz
from tests.system.servers import running

SECONDS = 20
LONGEST_WAIT = 5.0  # generous: CI's cores have other work, and a change of leader takes a second
MEMORY = 600  # MiB


@pytest.mark.parametrize("nodes", [1, 3])
def test_valid_requests_hurt_nobody_else(tmp_path: Path, nodes: int) -> None:
    kinds = [name for name, kind in KINDS.items() if not kind.harmful]
    with running(tmp_path, nodes) as servers:
        outcome = fuzz(servers, nodes, SECONDS, kinds)
    assert outcome.complaints == []
    assert outcome.longest_wait < LONGEST_WAIT
    assert max(outcome.memory.values()) < MEMORY
    assert outcome.healthy > 10 * nodes


def test_a_seed_always_draws_the_same_requests() -> None:
    for kind in KINDS.values():
        assert kind.draw(Random(5)) == kind.draw(Random(5))


def test_every_command_of_the_redis_face_is_drawn() -> None:
    drawn = {
        request[0].lower()
        for kind in KINDS.values()
        for seed in range(100 if kind.weight > 1 else 3)
        for request in kind.draw(Random(seed))
    }
    left_out = {b"auth", b"quit"}  # AUTH needs a password; whoever quits is a client that leaves
    assert set(TABLE) - drawn == left_out
