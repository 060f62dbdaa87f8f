"""Commands as MessagePack from strangers are read only as far as a request may go."""

from __future__ import annotations

import time
from typing import cast

import msgspec
import pytest
from hypothesis import given

from kvstore.commands import Command, Condition, Delete, Exists, Get, Incr, SetMany, Txn, Value
from kvstore.errors import CommandError
from kvstore.node.service import Service
from kvstore.resp import kv_commands, packed_commands
from kvstore.resp.errors import RequestError
from kvstore.resp.packed_commands import unpack
from tests.examples import examples
from tests.unit.strategies import simple, with_transactions

V = Value(b"v")
_pack = msgspec.msgpack.Encoder().encode


@given(with_transactions(simple))
@examples(400)
def test_a_command_is_what_it_was(command: Command) -> None:
    assert unpack(_pack(command)) == command


@pytest.mark.parametrize(
    "command",
    [
        Delete([b"k"] * 70_000),
        Exists([b"k"] * 70_000),
        SetMany([b"k"] * 70_000, [V] * 70_000),
        SetMany([b"k"], [V] * 70_000),
        Txn([Get(b"k")] * 17_000),
        Txn([], [Condition("slot", b"k", "=", number=1)] * 17_000),
        Txn([], [], [Get(b"k")] * 17_000),
    ],
    ids=lambda command: type(command).__name__,
)
def test_a_list_that_is_too_long_is_not_read(command: Command) -> None:
    with pytest.raises(msgspec.ValidationError, match="Expected `array` of length <="):
        unpack(_pack(command))


def test_the_parts_of_a_transaction_are_read_until_they_name_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    real = packed_commands._decode_part

    def counting(raw: msgspec.Raw) -> object:
        nonlocal read
        read += 1
        return real(raw)

    monkeypatch.setattr(packed_commands, "_decode_part", counting)
    some = SetMany([b"k"] * 1_000, [V] * 1_000)
    values = SetMany([], [V] * 1_000)
    for command in (Txn([some] * 200), Txn([some] * 40, [], [some] * 160), Txn([values] * 200)):
        read = 0
        with pytest.raises(CommandError, match="names at most 65,536 keys"):
            unpack(_pack(command))
        assert read == 66


def test_no_text_is_made_of_bytes_that_are_too_many_to_be_one() -> None:
    """To show a megabyte that is no text took 145 ms, and a request has up to 64."""
    service = cast(Service, None)
    many = b"\xff" * 16_000_000
    command = msgspec.msgpack.encode(Incr(b"x"))
    began = time.process_time()
    with pytest.raises(CommandError, match="name has 16,000,000 bytes, at most 200 are allowed"):
        kv_commands._execute(service, [b"", many, b"1", b"0", command], print)
    with pytest.raises(RequestError, match="the value would have over 1,048,576 bytes as JSON"):
        kv_commands._as_json(many[:1_000_000])
    assert time.process_time() - began < 0.2
