"""The command language: text to commands. The other way round is :mod:`kvstore.language.canonical`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import partial

from kvstore.commands import Command, Delete, Exists, Get, Incr, Set, Tick, Ttl, Txn, Value
from kvstore.errors import CommandError
from kvstore.language import transaction
from kvstore.language.arguments import Arguments, Definition
from kvstore.language.keys import KEYS
from kvstore.language.lexer import Word, split
from kvstore.language.strings import STRINGS
from kvstore.language.syntax import Syntax
from kvstore.limits import check_parsed


def _txn(arguments: Arguments) -> Txn:
    return transaction.parse_transaction(arguments, lambda words: _command(words, words[-1].end))


TXN = Definition(
    transaction.SYNTAX,
    _txn,
    "several commands as one slot: all or nothing",
    "Conditions: value KEY = VALUE [JSON], value KEY != VALUE, version KEY OP N, slot KEY OP N, exists KEY,"
    " missing KEY; OP is = != < <= > >=. If a command fails (incr on text), nothing is changed; with"
    " PARTIAL only that command changes nothing.",
    (
        "txn { set a=1; set b=2 }",
        "txn { if value a = 1 and version b > 0 then decr a; incr b else get a }",
    ),
)
TICK = Definition(
    Syntax("tick", ""), lambda arguments: Tick(), "move the log's clock on, so that keys expire", "", ("tick",)
)

COMMANDS: dict[str, Definition] = {definition.name: definition for definition in (*STRINGS, *KEYS, TXN, TICK)}
"""Every command by its name, in the order in which to present them."""
ALIASES = {"del": "delete"}

_BY_NAME: dict[bytes, Definition] = {name.encode(): COMMANDS[ALIASES.get(name, name)] for name in (*COMMANDS, *ALIASES)}


def definition_of(word: Word) -> Definition | None:
    """The command that a word names, if it names one."""
    return None if word.mark else _BY_NAME.get(word.data.lower())


HINTED_LENGTH = 32
"""No command is like a longer word, and to find that out takes the longer the longer it is."""


def _hint(word: str) -> str:
    """What a person may have meant by a word that is no command."""
    close = difflib.get_close_matches(word.lower(), COMMANDS, n=1) if len(word) <= HINTED_LENGTH else []
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"


def _command(words: list[Word], end: int) -> Command:
    """The command that these words mean; there is at least one. ``end`` is the position where their text ends."""
    name = words[0]
    definition = definition_of(name)
    if definition is None:
        word = name.text or name.mark
        shown = word if len(word) <= HINTED_LENGTH else word[:HINTED_LENGTH] + "..."
        raise CommandError(f"unknown command {shown!r}: ", name.start, partial(_hint, word))
    arguments = Arguments(words[1:], end, definition.syntax)
    command = definition.parse(arguments)
    arguments.finish()
    return command


_SIMPLE_SET = re.compile(r"set ([\w.:/-]+)(?:=| )([\w.:/-]+)", re.ASCII)
_SIMPLE_KEY = re.compile(r"(get|incr|ttl|delete|exists) ([\w.:/-]+)", re.ASCII)
_SIMPLE_COMMANDS: dict[str, Callable[[bytes], Command]] = {
    "get": Get,
    "incr": Incr,
    "ttl": Ttl,
    "delete": lambda key: Delete([key]),
    "exists": lambda key: Exists([key]),
}


def parse(text: str) -> Command:
    """The command that a text means, checked against all limits.

    Raises CommandError with the position of what is wrong, IncompleteCommand if more text may complete the command.
    """
    # Nine of ten lines in a file to load look like this, and matching them is five times as fast as splitting words.
    simple = _SIMPLE_SET.fullmatch(text)
    if simple and len(text) < 1_000:
        return Set(simple[1].encode(), Value(simple[2].encode()))
    simple = _SIMPLE_KEY.fullmatch(text)
    if simple and len(text) < 1_000:
        return _SIMPLE_COMMANDS[simple[1]](simple[2].encode())
    return parse_words(text)


def check_end(text: str) -> None:
    """Refuse a ``;`` that a person typed behind a command, as in SQL: it would go into the last word in silence."""
    if text.rstrip().endswith(";"):
        last = split(text)[-1]
        if last.bare and not last.mark:
            raise CommandError("a command ends with its line: leave out the ;, or write \\; to keep it", last.end - 1)


def parse_words(text: str) -> Command:
    """The same as ``parse``, but without the shortcut for plain commands."""
    words = split(text)
    if not words:
        raise CommandError("there is no command", 0)
    command = _command(words, len(text))
    try:
        check_parsed(command)
    except CommandError as error:
        raise CommandError(error.message, words[min(1, len(words) - 1)].start) from error
    return command
