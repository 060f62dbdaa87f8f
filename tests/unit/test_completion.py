"""Completion and highlighting know what the parser knows: every command, every option, also within transactions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import pytest
from hypothesis import given
from prompt_toolkit.document import Document

from cli.prompt.completion import suggestions
from cli.prompt.session import META
from cli.prompt.terminal import Highlighter
from kvstore.commands import Command, Simple, Tick, Txn
from kvstore.language.arguments import Definition
from kvstore.language.canonical import format as canonical
from kvstore.language.highlight import tokens
from kvstore.language.parser import ALIASES, COMMANDS, parse
from kvstore.language.syntax import Option
from tests.unit.strategies import commands

SAMPLES = {"KEY=VALUE": "k=1", "TIME": "1", "KEY": "k", "TO": "k2", "=|!=": "=", "=|!=|<|<=|>|>=": "<"}
BEGINNINGS = [
    "",
    "txn { ",
    "txn PARTIAL{get a;",
    "txn { if exists a and value b = 1 then ",
    "txn{if missing a then get b else ",
]
OUTSIDE = ("txn", "tick")


def offered(text: str, keys: Iterable[bytes] = ()) -> list[str]:
    return [each.text for each in suggestions(text, lambda prefix: [key for key in keys if key.startswith(prefix)])]


def sample(placeholder: str) -> str:
    return SAMPLES.get(placeholder.strip("[]."), "1")


def operands(definition: Definition) -> str:
    """The command's name and samples of the operands that must be there."""
    needed = [operand.usage for operand in definition.syntax.operands if not operand.is_optional]
    return " ".join([definition.name, *map(sample, needed)])


def with_option(option: Option) -> str:
    return f"{option.name} {sample(option.operand)}" if option.operand else option.name


OPTIONS = [
    (definition, option)
    for definition in COMMANDS.values()
    for choice in definition.syntax.choices
    for option in choice
    if definition.name != "txn"
]


def test_the_language_has_a_word_for_every_command() -> None:
    meant = {type(parse(example)) for definition in COMMANDS.values() for example in definition.examples}
    assert meant == {*get_args(Simple), Txn, Tick}


@given(commands)
def test_nothing_in_a_canonical_text_is_highlighted_as_unknown(command: Command) -> None:
    kinds = {token.kind for token in tokens(canonical(command))}
    assert not kinds & {"unknown", "error"}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_every_command_is_offered(beginning: str) -> None:
    for name in COMMANDS:
        assert (name in offered(beginning)) == (not beginning or name not in OUTSIDE)
        assert (name in offered(beginning + name[:2])) == (not beginning or name not in OUTSIDE)
    assert set(META) <= set(offered(""))
    assert not set(META) & set(offered("txn { "))


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize(("definition", "option"), OPTIONS, ids=lambda each: getattr(each, "name", ""))
def test_every_option_is_parsed_offered_and_highlighted(beginning: str, definition: Definition, option: Option) -> None:
    text = f"{beginning}{operands(definition)} "
    assert option.name in offered(text)
    assert option.name in offered(text + option.name[:1].lower())
    whole = f"{text}{with_option(option)}"
    parse(whole + (" }" if beginning else ""))
    kinds = [token.kind for token in tokens(whole) if whole[token.start : token.end] == option.name]
    assert kinds[-1] == "option"
    if option.operand:
        assert option.name not in offered(f"{text}{option.name} ")
    (choice,) = (choice for choice in definition.syntax.choices if option in choice)
    left = {other.name for other in choice} & set(offered(whole + " "))
    assert left == ({option.also} if option.also else set())


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_keys_are_offered_where_a_key_stands(beginning: str) -> None:
    keys = [b"user:1", b"user:2", b"a b"]
    for definition in COMMANDS.values():
        if definition.syntax.operands and definition.syntax.operands[0].is_key:
            assert offered(f"{beginning}{definition.name} user", keys) == ["user:1", "user:2"]
    for text in ("delete x ", "rename x ", "copy x ", "keys AFTER ", *(f"{name} " for name in ALIASES)):
        assert '"a b"' in offered(beginning + text, keys)
    for text in ("get x ", "set x ", "set x 1 IFEQ ", "expire x EX "):
        assert '"a b"' not in offered(beginning + text, keys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("expire x ", {"EX", "PX", "EXAT", "PXAT"}),
        ("expire x PX 5 ", {"NX", "XX", "GT", "LT"}),
        ("set x=1 ", {"EX", "PX", "EXAT", "PXAT", "KEEPTTL", "NX", "XX", "IFEQ", "GET", "JSON"}),
        ("set x=1 EXAT 5 nx ", {"IFEQ", "GET", "JSON"}),
        ("txn ", {"PARTIAL", "{"}),
        ("txn PARTIAL ", {"{"}),
        ("txn { i", {"if", "incr", "incrbyfloat"}),
        ("txn { get a; i", {"incr", "incrbyfloat"}),
        ("txn { if ", {"value", "version", "slot", "exists", "missing"}),
        ("txn { if value a ", {"=", "!="}),
        ("txn { if slot a ", {"=", "!=", "<", "<=", ">", ">="}),
        ("txn { if value a = 1 ", {"JSON", "and", "then"}),
        ("txn { if value a = 1 and ", {"value", "version", "slot", "exists", "missing"}),
        ("txn { if exists a then rename a b ", {"NX", "else"}),
        ("txn { if exists a then get a else rename a b ", {"NX"}),
        ("txn { get a } ", set()),
        ("explain rename a b ", {"NX"}),
        ("output ", {"table", "json", "csv", "plain"}),
        ("timing ", {"on", "off"}),
        ("get 'a", set()),
        ("nonsense ", set()),
    ],
)
def test_what_is_offered(text: str, words: set[str]) -> None:
    assert set(offered(text)) == words


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("set x=1 EX 5 nx", "command key option number option"),
        ("set x EX ex 5", "command key value option number"),
        ("delete EX NX", "command key key"),
        ("expire x PX 5 GT", "command key option number option"),
        ("rename a b NX", "command key key option"),
        ("cas a 1 x CREATE", "command key number value option"),
        ("keys NX AFTER b COUNT 2", "command key option key option number"),
        ("frobnicate a 1", "unknown key number"),
        (
            "txn PARTIAL { if value a = 1 and exists b then set x 1; get c else incr d 2 }",
            "command option punctuation keyword command key value number keyword command key keyword command key number"
            " punctuation command key keyword command key number punctuation",
        ),
    ],
)
def test_what_is_highlighted(text: str, kinds: str) -> None:
    assert " ".join(token.kind for token in tokens(text)) == kinds
    for first in ("explain ", " EXPLAIN  "):
        styles = "".join(f"{style} " for style, *_ in Highlighter().lex_document(Document(first + text))(0))
        told = [style.removeprefix("class:") for style in dict.fromkeys(styles.split())]
        assert told[0] == "command"
        assert set(told) == {"command", "value", *kinds.split()}
