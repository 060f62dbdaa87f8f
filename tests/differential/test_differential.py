"""Some cases of every kind; ``python -m tests.differential`` goes on for hours.

Where nothing is compiled, two processes of the sources that hash differently must agree: replicas hash differently too.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import get_args

import pytest

from consensus.messages import Message
from kvstore.commands import Command
from kvstore.node.peer_messages import PeerMessage
from tests.differential import draws
from tests.differential.cases import CASES, Step
from tests.differential.compare import both_builds, compare
from tests.differential.subjects import SUBJECTS, tried

COUNTS = {"redis": 150, "state": 300, "log": 100, "node": 300, "lines": 8, "simulation": 8}
PARTS = [(kind, part) for kind in COUNTS for part in range(2)]


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_both_builds_answer_alike(kind: str, part: int) -> None:
    first = part * 1_000
    with both_builds() as workers:
        for seed in range(first, first + COUNTS[kind] // 2):
            told = compare(workers, kind, seed)
            assert told is None, str(told)


def test_every_kind_is_compared() -> None:
    assert set(COUNTS) == set(CASES) == set(SUBJECTS)


@pytest.mark.parametrize("kind", CASES)
def test_a_seed_always_draws_the_same_case(kind: str) -> None:
    assert CASES[kind](Random(5)) == CASES[kind](Random(5))


def test_every_command_and_message_is_drawn() -> None:
    random = Random(1)
    for union in (Command, PeerMessage):
        drawn: set[type] = {type(draws.of(union, random)) for _ in range(2_000)}  # type: ignore[arg-type]
        assert drawn == set(get_args(union)) | (set(get_args(Message)) if union is PeerMessage else set())


def test_no_request_meets_a_fault() -> None:
    for seed in range(50):
        assert "could not finish the request" not in str(tried("redis", seed, CASES["redis"](Random(f"redis {seed}"))))


@pytest.mark.parametrize("kind", ["redis", "state", "log", "node"])
def test_most_cases_are_tried_to_their_end(kind: str) -> None:
    """Nothing would be compared behind a step that breaks the subject."""
    cases = [CASES[kind](Random(f"{kind} {seed}")) for seed in range(20)]
    ended = [case for seed, case in enumerate(cases) if len(tried(kind, seed, case)) == len(case) + 1]
    assert len(ended) > 15


class Fake:
    """A worker that echoes, but for one step when it is said to differ."""

    def __init__(self, differs: bool) -> None:
        self._differs = differs

    def give(self, kind: str, seed: int, steps: Sequence[Step]) -> None:
        self._steps = steps

    def answers(self) -> list[object]:
        return ["another" if self._differs and step == self._wrong() else step for step in self._steps]

    def _wrong(self) -> Step:
        return CASES["state"](Random("state 3"))[3]


def test_a_difference_is_told_by_the_fewest_steps() -> None:
    told = compare((Fake(True), Fake(False)), "state", 3)  # type: ignore[arg-type]
    step = CASES["state"](Random("state 3"))[3]
    assert told is not None
    assert (told.steps, told.answers) == ([step], ("another", step))
    assert "seed 3" in str(told)
    assert compare((Fake(False), Fake(False)), "state", 3) is None  # type: ignore[arg-type]
