"""A minute of the fuzzer against one node and against three in CI; ``python -m tests.fuzz`` goes on for hours."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from kvstore.resp.parser import split_line
from kvstore.resp.table import TABLE
from tests.examples import LONG
from tests.fuzz.judge import faults, memory_figure
from tests.fuzz.kinds import KINDS
from tests.fuzz.outcome import Outcome
from tests.fuzz.run import Plan, fuzz, shrink
from tests.fuzz.sender import Sender, answers, typed
from tests.fuzz.shapes import Request, anything
from tests.system.servers import free_ports, patience, running

SECONDS = 20 if LONG else 10
LONGEST_WAIT = 5.0  # generous: CI's cores have other work, and a change of leader takes a second
LONGEST_TURN = 1_500  # ms; likewise: a process that is not run has a long turn too


@pytest.mark.parametrize("nodes", [1, 3])
def test_valid_requests_hurt_nobody_else(tmp_path: Path, nodes: int) -> None:
    with running(tmp_path, nodes) as servers:
        outcome = fuzz(servers, Plan(nodes, SECONDS))
    assert outcome.complaints == []
    assert outcome.longest_wait < patience(LONGEST_WAIT)
    assert outcome.longest_turn[0] < patience(LONGEST_TURN), outcome.longest_turn
    assert max(outcome.memory.values()) < memory_figure()
    assert outcome.healthy > nodes


def test_nodes_that_end_and_come_back_beside_it(tmp_path: Path) -> None:
    with running(tmp_path, 3) as servers:
        outcome = fuzz(servers, Plan(7, 12, outages=3, crowd=0))
    assert outcome.complaints == []
    assert max(outcome.memory.values()) < memory_figure()


def test_a_seed_always_draws_the_same_requests() -> None:
    for kind in KINDS.values():
        assert kind.draw(Random(5)) == kind.draw(Random(5))


def test_every_command_of_the_redis_face_is_drawn() -> None:
    random = Random(1)
    drawn = {anything(random)[0].lower() for _ in range(100 * len(TABLE))}
    assert set(TABLE) == drawn


def test_a_typed_request_is_the_same_request() -> None:
    for seed in range(200):
        request = anything(Random(seed))
        line = typed(request)
        assert line[:1] == b"*" or split_line(line.removesuffix(b"\r\n")) == request


def test_requests_that_are_not_answered_are_not_waited_for() -> None:
    ping, off, on, skip = [b"PING"], *([b"CLIENT", b"REPLY", mode] for mode in (b"OFF", b"ON", b"SKIP"))
    assert answers([ping, off, ping, on, ping, skip, ping, ping]) == 4


def test_a_client_of_the_fuzzer_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(random: Random) -> list[Request]:
        raise ZeroDivisionError

    monkeypatch.setitem(KINDS, "data", KINDS["data"]._replace(draw=fails))
    outcome = Outcome()
    with pytest.raises(ZeroDivisionError):
        Sender(1, 1, free_ports(1), ["data"], outcome).run(lambda: False)
    assert "ZeroDivisionError" in outcome.complaints[0]


def test_a_fault_in_a_log_is_a_finding() -> None:
    assert faults('21:21:49.521 error   request_failed request=get trace="..."\n')
    assert faults("21:21:49.521 error   bug trace=x\n")
    assert faults("some line\nTraceback (most recent call last):\n")
    assert not faults("21:21:49.521 info    role role=leader leader=bug\n")


def test_a_finding_shrinks_to_what_it_takes() -> None:
    whole = Plan(1, 1.0, most=1_000)

    def finds(plan: Plan) -> bool:
        return 3 in plan.clients and {"sql", "log"} <= set(plan.kinds) and plan.most >= 200

    smallest = shrink(whole, finds)
    assert (smallest.clients, set(smallest.kinds), smallest.most) == ((3,), {"sql", "log"}, 250)
