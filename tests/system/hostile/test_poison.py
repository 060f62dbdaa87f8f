"""Requests that ended a node, at once or at every start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.hostile.harness import nobody_is_hurt, say
from tests.system.servers import Servers, running


@pytest.fixture(params=[1, 3])
def servers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Servers]:
    with running(tmp_path, request.param) as servers:
        yield servers


def test_a_range_that_ends_before_it_starts_is_empty(servers: Servers) -> None:
    ranges = [("GETRANGE", "r", 5, 3), ("GETRANGE", "r", -2, 0), ("SUBSTR", "r", 5, 3)]
    with nobody_is_hurt(servers):
        for name in servers.names:
            answers = say(servers, name, ("SET", "r", "0123456789"), *ranges, ("MULTI",), ranges[0], ("EXEC",))
            assert answers == [b"OK", b"", b"", b"", b"OK", b"QUEUED", [b""]]


def test_json_nested_deeply_is_refused(servers: Servers) -> None:
    """By KV.PROPOSE, which takes JSON as it is."""
    with nobody_is_hurt(servers):
        for name in servers.names:
            say(servers, name, ("KV.PROPOSE", 5, "[" * 100_000 + "]" * 100_000), ("PING",))


def test_a_moderate_pipeline_of_requests_without_data_keeps_nobody_waiting(servers: Servers) -> None:
    """Larger ones do, until turns are bounded."""
    with nobody_is_hurt(servers):
        assert len(say(servers, servers.names[0], *([("PING",)] * 20_000))) == 20_000
