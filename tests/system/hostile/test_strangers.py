"""Who has not given the password, and guesses at it or talks without end: those who have it are served."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import hiredis
import pytest

from tests.fuzz.judge import judge
from tests.fuzz.outcome import Outcome
from tests.system.hostile.harness import healthy_clients, say
from tests.system.servers import HOST, Servers, running


@pytest.fixture(scope="module", params=[1, 3], ids=["one node", "three nodes"])
def servers(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Servers]:
    root: Path = tmp_path_factory.mktemp("strangers")
    (root / "password").write_text("secret")
    with running(root, request.param, ["--password-file", str(root / "password")], password="secret") as servers:
        yield servers
        outcome = Outcome()
        judge(servers, outcome)
        assert outcome.complaints == []


def test_b1_many_requests_before_the_password(servers: Servers) -> None:
    with healthy_clients(servers, 5.0):
        answers = say(servers, servers.names[-1], *([("PING",)] * 100_000), seconds=60)
    assert all(isinstance(answer, hiredis.ReplyError) and str(answer).startswith("NOAUTH") for answer in answers)


def test_c5_guesses(servers: Servers) -> None:
    """A guess takes a while, one after the other, and however many connections there are.

    Who guesses too often is not listened to any more, and neither is anybody else at that address.
    """
    source = "127.0.0.2" if sys.platform == "linux" else HOST
    name, answered = servers.names[-1], list[int]()

    def guess() -> None:
        for number in range(2):
            with pytest.raises((TimeoutError, OSError)):
                say(servers, name, *[("AUTH", f"wrong{number}")] * 1_000, seconds=2, source=source)
            answered.append(number)

    with healthy_clients(servers, 5.0):
        guessing = [threading.Thread(target=guess) for _ in range(8)]
        for thread in guessing:
            thread.start()
        for thread in guessing:
            thread.join()
    assert len(answered) == 16  # nobody got a thousand answers in two seconds
    assert "wrong_password" in servers.log(name)
