"""What a command of the Redis protocol is: its name and arguments, and how it becomes commands of the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from kvstore.commands import (
    NOT_A_NUMBER,
    NOT_AN_INTEGER,
    NOT_TEXT,
    OUT_OF_RANGE,
    OVERFLOW,
    TOO_LARGE,
    Failed,
    Simple,
    SimpleResult,
)
from kvstore.resp.encoding import Error, RespValue, SimpleString


class RequestError(Exception):
    """A request that cannot be understood; its text begins with the error's code."""


SYNTAX = "ERR syntax error"
NOT_INTEGER = "ERR value is not an integer or out of range"
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"

_FAILURES = {
    NOT_AN_INTEGER: NOT_INTEGER,
    OVERFLOW: "ERR increment or decrement would overflow",
    NOT_A_NUMBER: "ERR value is not a valid float",
    OUT_OF_RANGE: "ERR increment would produce NaN or Infinity",
    NOT_TEXT: WRONG_TYPE,
    TOO_LARGE: "ERR string exceeds maximum allowed size (1048576 bytes)",
}
"""What clients know as the reasons why commands fail."""

Render: TypeAlias = Callable[[Sequence[SimpleResult]], RespValue]
"""Raises nothing: it is called while slots are applied, and what it raised would end the node."""


class Compiled(NamedTuple):
    """A request as commands of the store, and what makes its reply of their results."""

    commands: list[Simple]
    render: Render


class Spec(NamedTuple):
    """One command. ``arity`` counts the name, and is negative for a minimum.

    ``keys``: where the keys are, as first, last and step (0 = none). Commands that are about data have ``compile``;
    those about the connection are done by it. ``subcommands``: their arity, name and all, and what they take and do.
    """

    name: str
    arity: int
    flags: tuple[str, ...]
    keys: tuple[int, int, int]
    group: str
    summary: str
    compile: Callable[[list[bytes]], Compiled] | None = None
    subcommands: dict[str, tuple[int, str]] | None = None

    def takes(self, count: int) -> bool:
        """Whether so many arguments, the name among them, are right."""
        return _takes(self.arity, count)

    def complaint(self, request: list[bytes]) -> str:
        """What is wrong with the number of arguments or the subcommand, "" if nothing."""
        if not self.takes(len(request)):
            return f"wrong number of arguments for '{self.name}' command"
        if self.subcommands is None or len(request) < 2:
            return ""
        asked = request[1][:128].decode(errors="replace")
        if asked.upper() not in self.subcommands:
            return f"unknown subcommand '{asked}'. Try {self.name.upper()} HELP."
        arity, _ = self.subcommands[asked.upper()]
        if not _takes(arity, len(request)):
            return f"wrong number of arguments for '{self.name}|{asked.lower()}' command"
        return ""

    def keys_of(self, arguments: list[bytes]) -> list[bytes]:
        """The keys that a request names."""
        first, last, step = self.keys
        if not first:
            return []
        return arguments[first : (last if last >= 0 else len(arguments) + last) + 1 : step]


def _takes(arity: int, count: int) -> bool:
    return count == arity if arity > 0 else count >= -arity


def usage(spec: Spec) -> RespValue:
    """What HELP says about a command with subcommands."""
    assert spec.subcommands is not None
    lines = [f"{spec.name.upper()} <subcommand> [<argument> ...]. Subcommands are:"]
    lines += [f"{name} {text}" for name, (_, text) in spec.subcommands.items()]
    return [SimpleString(line) for line in lines]


def failure(result: Failed) -> Error:
    """A failed command's error, in the words that clients know."""
    return Error(_FAILURES.get(result.reason, f"ERR {result.reason}"))


def rendered(compiled: Compiled, results: Sequence[SimpleResult]) -> RespValue:
    """The reply to a request."""
    for result in results:
        if isinstance(result, Failed):
            return failure(result)
    return compiled.render(results)


def integer(text: bytes, low: int = -(2**63), high: int = 2**63 - 1, error: str = NOT_INTEGER) -> int:
    """An argument as a whole number, in the one form that Redis takes: no ``+1``, no ``01``. Raises RequestError."""
    digits = text.removeprefix(b"-")
    if len(text) <= 20 and digits.isdigit() and (digits[:1] != b"0" or text == b"0") and low <= int(text) <= high:
        return int(text)
    raise RequestError(error)
