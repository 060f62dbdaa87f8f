"""What is declared of each command holds when it is executed."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cli.prompt.explain import explain
from consensus.ballot import Ballot
from kvstore.commands import (
    Command,
    Entry,
    Failed,
    Fallible,
    Infallible,
    Read,
    Result,
    Simple,
    Tick,
    Txn,
    is_read_only,
    keys_written,
    may_fail,
)
from kvstore.language.parser import parse
from kvstore.state import entries
from kvstore.state.machine import StateMachine
from kvstore.store import Status
from tests.examples import examples
from tests.unit.strategies import colliding_commands, simple_by_type

EVERY = set(get_args(Simple))
NOW = 1_000_000
"""The log's clock in ms: it stands still, so that no key expires by itself."""
Contents = dict[object, tuple[object, ...]]


def execute(state: StateMachine, command: Command) -> Result:
    value = entries.encode(Entry("", 0, 0, NOW, command))
    result = state.apply(state.applied_upto + 1, [value])[0].result
    assert result is not None
    return result


def contents(state: StateMachine) -> Contents:
    _, rows = state.sql("SELECT CAST(key AS BLOB), * FROM kv")
    return {key: tuple(columns) for key, *columns in rows}


def test_each_command_is_a_read_or_may_fail_or_never_fails() -> None:
    kinds = [set(get_args(kind)) for kind in (Read, Fallible, Infallible)]
    assert set.union(*kinds) == EVERY
    assert sum(map(len, kinds)) == len(EVERY)


def test_the_strategies_of_the_tests_know_every_command() -> None:
    assert set(simple_by_type) == EVERY


@examples(300)
@given(st.lists(colliding_commands, max_size=12))
def test_commands_change_and_fail_only_as_declared(commands: list[Command]) -> None:
    state = StateMachine(None)
    for command in commands:
        before = contents(state)
        result = execute(state, command)
        after = contents(state)
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert may_fail(command) or not isinstance(result, Failed)
        written: set[object] = set()
        for part in (*command.then, *command.otherwise) if isinstance(command, Txn) else (command,):
            if not isinstance(part, Read | Tick):
                keys = keys_written(part)
                written.update(changed if keys is None else keys)
        assert changed <= written
        assert not (is_read_only(command) and changed)
    state.close()


STATUS = Status(
    node_id="n1",
    nodes=["n1"],
    role="leader",
    leader="n1",
    ballot=Ballot(1, "n1"),
    promised=Ballot(1, "n1"),
    chosen_upto=7,
    applied_upto=7,
    last_slot=7,
    gaps=[],
    keys=0,
    log_bytes=0,
    state_bytes=0,
    data_dir="",
)


@pytest.mark.parametrize(
    ("role", "leader", "phase"),
    [
        ("leader", "n1", "skipped if"),
        ("follower", "n2", "a matter of n2, which leads"),
        ("follower", None, "run first"),
    ],
)
def test_explain_says_who_runs_phase_1(role: str, leader: str | None, phase: str) -> None:
    told = list(explain("set a 1", replace(STATUS, role=role, leader=leader)))
    assert any(line.startswith("phase 1") and phase in line for line in told)


@pytest.mark.parametrize(
    ("text", "slot", "meaning"),
    [
        ("get a", "none", "a linearizable read"),
        ("txn { get a; exists b }", "none", "a linearizable read: 2 commands that all see the same state"),
        ("txn { get a; set b 1 }", "8, the", "a transaction: 2 commands in one slot, all or nothing"),
        ("set a 1", "8, the", "a write"),
        ("tick", "8, the", "a write"),
    ],
)
def test_explain_says_whether_a_command_takes_a_slot(text: str, slot: str, meaning: str) -> None:
    told = dict(line.split(maxsplit=1) for line in explain(text, STATUS))
    assert told["slot"].startswith(slot)
    assert told["meaning"].startswith(meaning)
    assert is_read_only(parse(text)) == (slot == "none")
