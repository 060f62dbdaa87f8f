"""Text to commands and back: the same command, whatever is in it; and errors that say where and why."""

from __future__ import annotations

import re
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.commands import (
    MAX_KEY_BYTES,
    MAX_TXN_COMMANDS,
    MAX_VALUE_BYTES,
    Append,
    Cas,
    Command,
    Condition,
    Count,
    Delete,
    Expire,
    Get,
    Incr,
    Push,
    Scan,
    Set,
    Txn,
    Value,
)
from kvstore.errors import CommandError, IncompleteCommand
from kvstore.language import lexer
from kvstore.language.canonical import format
from kvstore.language.highlight import tokens
from kvstore.language.lexer import quote, split
from kvstore.language.parser import COMMANDS, parse, parse_words
from tests.unit.strategies import commands, texts

V = Value


@given(commands)
def test_canonical_text_parses_back_to_the_same_command(command: Command) -> None:
    text = format(command)
    assert parse(text) == command
    assert "\n" not in text
    assert format(parse(text)) == text


@given(st.binary(max_size=40))
def test_any_bytes_are_one_word_when_quoted(data: bytes) -> None:
    (word,) = split(quote(data))
    assert (word.data, word.equals) == (data, -1)
    (*_, in_txn, _) = split(f"txn {{ {quote(data)} }}")
    assert (in_txn.data, in_txn.mark) == (data, "")


@pytest.mark.parametrize("data", [bytes(2**20), b"\xff\x00" * 2**19, b"a b\n" * 2**18], ids=["null", "binary", "text"])
def test_a_large_value_is_quoted_quickly(data: bytes) -> None:
    """Compared with looking at each byte in Python, which depends on the machine's load as much."""
    began = process_time()
    for byte in data:
        chr(byte).isprintable()
    looked_at = process_time()
    quote(data)
    assert process_time() - looked_at < 2 * (looked_at - began) + 0.1


@given(st.text(st.sampled_from("set get incr k=v \\'\"{};x1:/.-"), max_size=30) | texts)
def test_the_shortcut_for_plain_commands_means_the_same(text: str) -> None:
    outcomes: list[object] = []
    for parser in (parse, parse_words):
        try:
            outcomes.append(parser(text))
        except CommandError as error:
            outcomes.append((type(error), error.message, error.position))
    assert outcomes[0] == outcomes[1]


@given(st.text(max_size=60))
def test_any_text_gives_a_command_or_an_error_within_it(text: str) -> None:
    try:
        parse(text)
    except CommandError as error:
        assert error.position is None or 0 <= error.position <= len(text)
        assert error.message


@given(st.text(st.sampled_from("txn {if value a = 1 then set x=1;get y else}'\"\\"), max_size=60))
def test_highlighting_covers_any_text_without_overlap(text: str) -> None:
    end = 0
    for token in tokens(text):
        assert end <= token.start <= token.end <= len(text)
        end = token.end


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("set x=1", Set(b"x", V(b"1"))),
        ("set x 1", Set(b"x", V(b"1"))),
        ("SET x 1", Set(b"x", V(b"1"))),
        ("set x=", Set(b"x", V(b""))),
        ("set x=a=b", Set(b"x", V(b"a=b"))),
        ("set x a=b", Set(b"x", V(b"a=b"))),
        ("set 'a=b' c", Set(b"a=b", V(b"c"))),
        ("set a\\=b c", Set(b"a=b", V(b"c"))),
        ('set "a b"="c d" EX 10', Set(b"a b", V(b"c d"), 10_000)),
        ("set x 'it''s' PX 5 nx", Set(b"x", V(b"its"), 5, "nx")),
        ("set x new IFEQ old", Set(b"x", V(b"new"), ifeq=V(b"old"))),
        ('set x "a\\nb\\t\\x00\\xff\\u00e9"', Set(b"x", V(b"a\nb\t\x00\xff\xc3\xa9"))),
        ("set x '{\"a\": 1}' JSON", Set(b"x", V(b'{"a": 1}', True))),
        ("set x '\"1\"' JSON", Set(b"x", V(b'"1"', True))),
        ("set x 1 JSON", Set(b"x", V(b"1"))),
        ("set x '\"a\"' JSON", Set(b"x", V(b"a"))),
        ("set x b;c", Set(b"x", V(b"b;c"))),
        ("del a b", Delete([b"a", b"b"])),
        ("cas x 1 2", Cas(b"x", V(b"1"), V(b"2"))),
        ("cas x 1 2 JSON CREATE", Cas(b"x", V(b"1"), V(b"2"), True)),
        ("decr x 3", Incr(b"x", -3)),
        ("append x ' y'", Append(b"x", b" y")),
        ("push q null JSON", Push(b"q", V(b"null", True))),
        ("scan", Scan()),
        ("scan user: 10", Scan(b"user:", 10)),
        ("count a", Count(b"a")),
        ("expire x 10", Expire(b"x", 10_000)),
        ("expire x px 10", Expire(b"x", 10)),
        ("txn{set a=1;}", Txn([Set(b"a", V(b"1"))])),
        ("txn\n{\n  incr a\n\n  incr b;\n}\n", Txn([Incr(b"a"), Incr(b"b")])),
        ("txn { set a 'x\ny' }", Txn([Set(b"a", V(b"x\ny"))])),
        (
            "txn PARTIAL {\nif exists a\n and exists b\nthen\n incr a\r\nelse\n incr b\n}",
            Txn(
                [Incr(b"a")],
                [Condition("version", b"a", ">", None, 0), Condition("version", b"b", ">", None, 0)],
                [Incr(b"b")],
                True,
            ),
        ),
        (
            "txn { if value a = 1 and version b >= 2 and missing c then incr a else get b; get c }",
            Txn(
                [Incr(b"a")],
                [
                    Condition("value", b"a", "=", V(b"1")),
                    Condition("version", b"b", ">=", None, 2),
                    Condition("version", b"c", "=", None, 0),
                ],
                [Get(b"b"), Get(b"c")],
            ),
        ),
    ],
)
def test_what_a_text_means(text: str, command: Command) -> None:
    assert parse(text) == command


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 0, "no command"),
        ("sett x 1", 0, "did you mean set"),
        ("set", 3, "the key is missing: set KEY=VALUE"),
        ("set x", 5, "the value is missing"),
        ("set x 1 2", 8, "'2' is one word too many"),
        ("set x 1 EX", 10, "time to live is missing"),
        ("set x 1 EX 0", 11, "1 or more"),
        ("set x 1 EX ten", 11, "whole number, not 'ten'"),
        ("set x 1 NX XX", 11, "XX contradicts"),
        ("set x {a JSON", 6, "not valid JSON"),
        ("set x a\\qb", 7, "\\q is not an escape"),
        ("set x \\xg1", 6, "2 hexadecimal digits"),
        ("incr x 1.5", 7, "whole number"),
        ("get a b", 6, "one word too many"),
        ("txn set a=1", 4, "in braces"),
        ("txn { frobnicate }", 6, "unknown command"),
        ("txn { set\na 1 }", 9, "the key is missing"),
        ("txn {\nset a=1\n}\nx", 16, "nothing may follow the }"),
        ("txn { if a then get a }", 9, "a condition is about"),
        ("txn { if value a > 1 then get a }", 17, "value is compared by = !="),
        ("txn { get a else get b }", 12, "else needs an if"),
        ("txn { }", 4, "at least one command"),
        ("txn { txn { get a } }", 10, "must be quoted"),
        ("txn { get a } b", 14, "nothing may follow"),
    ],
)
def test_errors_say_where_and_why(text: str, position: int, words: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse(text)
    assert words in caught.value.message
    assert caught.value.position == position
    assert not isinstance(caught.value, IncompleteCommand)


@pytest.mark.parametrize("text", ["set x 'a", 'set x "a', "set x a\\", "txn { set a=1", "txn { set a='b; }", "txn {"])
def test_an_open_quote_or_brace_waits_for_more(text: str) -> None:
    with pytest.raises(IncompleteCommand):
        parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"get {'k' * (MAX_KEY_BYTES + 1)}", "1025 bytes, it must have 1 to 1,024"),
        ("get ''", "0 bytes"),
        (f"set k {'v' * (MAX_VALUE_BYTES + 1)}", "1,048,577 bytes, at most 1,048,576"),
        (f"incr k {2**63}", "it must be from"),
        ("txn { " + "get a; " * (MAX_TXN_COMMANDS + 1) + "}", f"{MAX_TXN_COMMANDS + 1:,} commands"),
    ],
)
def test_limits(text: str, words: str) -> None:
    with pytest.raises(CommandError, match=re.escape(words)):
        parse(text)


def test_the_limits_themselves_are_allowed() -> None:
    parse(f"get {'k' * MAX_KEY_BYTES}")
    parse(f"set k {'v' * MAX_VALUE_BYTES}")
    parse("txn { " + "get a; " * MAX_TXN_COMMANDS + "}")


def test_every_example_parses() -> None:
    for entry in COMMANDS.values():
        assert entry.examples
        for example in entry.examples:
            assert example.startswith(entry.name)
            parse(example)


def test_the_reference_shows_every_command_and_its_examples_parse() -> None:
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    examples = [line for block in re.findall(r"```kvstore\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(examples) > 20
    for example in examples:
        parse(example)
    entries = page.partition("## Commands\n")[2]
    assert re.findall(r"^### (.+)$", entries, re.MULTILINE) == list(COMMANDS)
    for entry in COMMANDS.values():
        text = f"{entry.summary[0].upper()}{entry.summary[1:]}. {entry.details}".strip()
        assert f"### {entry.name}\n\n    {entry.usage}\n\n{text}\n" in entries


def test_how_text_is_split_does_not_depend_on_the_version_of_python() -> None:
    """Proposed text is parsed while its slot is applied: no class of characters may come from a table of Unicode."""
    source = (Path(lexer.__file__)).read_text()
    parsing = source[: source.index("_KEYWORDS =")]
    assert not re.search(r"\.is(space|printable|digit|alpha|decimal|numeric)\(|\\[sSdDwWbB][^A-Za-z]?[\]+*?)]", parsing)
    for space in lexer._SPACES:
        assert parse(f"set{space}a{space}b") == Set(b"a", Value(b"b"))
    assert parse("set \u200b\u180e a") == Set("\u200b\u180e".encode(), Value(b"a"))
    assert {chr(code) for code in range(0x3100) if chr(code).isspace()} == set(lexer._SPACES)
