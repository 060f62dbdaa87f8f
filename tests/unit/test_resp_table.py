"""The table of Redis commands: what a row says of a command is what the command does."""

from __future__ import annotations

import pytest

from kvstore.commands import Command, is_read_only
from kvstore.resp.hub import Hub
from kvstore.resp.requests import Requests
from kvstore.resp.spec import (
    NEITHER,
    READS,
    WRITES,
    Effect,
    InMulti,
    OnData,
    OnNode,
    OnServer,
    OnTransaction,
    OnWalk,
    Spec,
)
from kvstore.resp.table import TABLE
from tests.unit.resp_client import Client, Node, packed

ON_STORE = [spec for spec in TABLE.values() if isinstance(spec.performer, OnData | OnWalk)]
EXEC, DISCARD = TABLE[b"exec"], TABLE[b"discard"]
OTHERS = [spec for spec in TABLE.values() if spec not in ON_STORE]
# After these a command means something else than with the fewest arguments that it takes.
MORE_ARGUMENTS = {
    "getex": [[b"PERSIST"], [b"EX", b"10"]],
    "set": [[b"GET"]],
    "copy": [[b"REPLACE"]],
    "lcs": [[b"IDX"]],
    "scan": [[b"MATCH", b"a*"]],
}


def samples(spec: Spec) -> list[list[bytes]]:
    """Requests that the command takes: keys that look like numbers are right in every place."""
    fewest = [spec.name.encode(), *(b"%d" % number for number in range(abs(spec.arity) - 1))]
    return [fewest, *(fewest + more for more in MORE_ARGUMENTS.get(spec.name, []))]


@pytest.mark.parametrize("spec", ON_STORE, ids=lambda spec: spec.name)
def test_a_row_says_whether_the_command_writes(spec: Spec) -> None:
    assert isinstance(spec.performer, OnData | OnWalk)
    requests = Requests(Node(), Hub())
    effects: set[Effect] = set()
    for request in samples(spec):
        commands: list[Command] = list(requests.compile(spec.performer, request).commands)
        effect = READS if all(map(is_read_only, commands)) else WRITES
        assert spec.effect_of(request) is effect, request
        effects.add(effect)
    assert spec.effect is (WRITES if WRITES in effects else READS)
    assert (spec.reads_if is not None) == (len(effects) == 2)


@pytest.mark.parametrize("spec", TABLE.values(), ids=lambda spec: spec.name)
def test_flags_agree_with_the_rest_of_the_row(spec: Spec) -> None:
    """As COMMAND INFO shows them, and once each."""
    assert len(spec.flags) == len(set(spec.flags))
    assert ("readonly" in spec.flags) + ("write" in spec.flags) == isinstance(
        spec.performer, OnData | OnWalk | OnNode
    ), "a command on data says what it does, and no other says anything"
    assert "denyoom" not in spec.flags or spec.effect is WRITES
    assert not (spec.is_slow and "fast" in spec.flags)
    assert not spec.is_slow or spec.effect is READS, "writes are executed where the log has them"
    assert spec.reads_if is None or spec.effect is WRITES


@pytest.mark.parametrize("spec", OTHERS, ids=lambda spec: spec.name)
def test_what_is_not_on_data_is_queued_only_where_exec_can_perform_it(spec: Spec) -> None:
    if isinstance(spec.performer, OnNode):
        assert spec.in_multi is InMulti.REFUSED
    elif isinstance(spec.performer, OnTransaction):
        assert spec.in_multi is (InMulti.QUEUED if spec.performer is OnTransaction.UNWATCH else InMulti.AT_ONCE)
        assert (spec.effect is Effect.AS_QUEUED) == (spec.performer is OnTransaction.EXEC)
        assert spec.name == spec.performer.value


@pytest.mark.parametrize("spec", TABLE.values(), ids=lambda spec: spec.name)
def test_a_request_runs_beside_those_that_its_row_allows(spec: Spec) -> None:
    """Sent behind a write and behind a read that are not answered yet."""
    if spec in (EXEC, DISCARD) or isinstance(spec.performer, OnServer) or spec.name == "kv.status":
        return  # they need a transaction, or a server to ask
    for before, effect in (("SET k v", WRITES), ("GET k", READS)):
        client = Client()
        request = samples(spec)[0]
        client.connection.received(packed(before) + packed(b" ".join(request).decode()))
        waits = spec.is_slow or spec.effect_of(request) not in (NEITHER, effect)
        assert (client.connection.client.last_command != spec.name) == waits, (before, request)


@pytest.mark.parametrize("spec", TABLE.values(), ids=lambda spec: spec.name)
def test_multi_does_with_a_request_what_its_row_says(spec: Spec) -> None:
    if spec.subcommands is not None or spec is EXEC:
        return
    client = Client()
    client.ask("MULTI")
    said = client.ask(b" ".join(samples(spec)[0]).decode())
    assert (said == b"+QUEUED\r\n") == (spec.in_multi is InMulti.QUEUED)
    assert (b"is not allowed within MULTI" in said) == (spec.in_multi is InMulti.REFUSED)
