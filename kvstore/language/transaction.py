"""Transactions as text: ``txn { if value a = 1 then set a=2; incr b else get a }``."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast, get_args

from kvstore.commands import Command, Comparison, Condition, Simple, Subject, Tick, Txn
from kvstore.errors import CommandError, IncompleteCommand
from kvstore.language.arguments import Arguments, value_of
from kvstore.language.lexer import Word
from kvstore.language.syntax import JSON, PARTIAL, Syntax

NAME = "txn"
SYNTAX = Syntax(
    NAME,
    "",
    (PARTIAL,),
    usage=f"{NAME} [{PARTIAL.usage}] {{ [if CONDITION [and CONDITION]... then] COMMAND; COMMAND..."
    " [else COMMAND; ...] }",
)
IF, THEN, AND, ELSE = "if", "then", "and", "else"

_EQUALITY = "=|!="
_ORDER = "|".join(get_args(Comparison))
CONDITIONS = {
    syntax.name: syntax
    for syntax in (
        Syntax("value", f"KEY {_EQUALITY} VALUE", (JSON,)),
        Syntax("version", f"KEY {_ORDER} N"),
        Syntax("slot", f"KEY {_ORDER} N"),
        Syntax("exists", "KEY"),
        Syntax("missing", "KEY"),
    )
}


def parse_transaction(arguments: Arguments, parse_command: Callable[[list[Word]], Command]) -> Txn:
    """The words after ``txn``; ``parse_command`` parses those of one command."""
    is_partial = arguments.option((PARTIAL,)) is not None
    opening = arguments.take("{")
    if opening.mark != "{":
        raise CommandError(f"a transaction is written in braces: {arguments.usage}", opening.start)
    inside = arguments.rest()
    if not inside or inside[-1].mark != "}":
        closing = next((word for word in inside if word.mark == "}"), None)
        if closing is None:
            raise IncompleteCommand("the { of the transaction is not closed", opening.start)
        raise CommandError("nothing may follow the } of a transaction", inside[-1].start)
    stray = next((word for word in inside[:-1] if word.mark in ("{", "}")), None)
    if stray is not None:
        raise CommandError(f"a {stray.mark} within a transaction must be quoted", stray.start)
    body, end = inside[:-1], inside[-1].start
    if body and body[0].mark == "\n":
        body = body[1:]
    conditions: list[Condition] = []
    if body and is_keyword(body[0], IF):
        then_at = _find(body, THEN)
        if then_at == len(body):
            raise CommandError(f"the conditions must end with {THEN}: {arguments.usage}", end)
        tests = [word for word in body[1:then_at] if word.mark != "\n"]
        parts = _divide(tests, lambda word: is_keyword(word, AND))
        conditions = [_condition(part, arguments.usage) for part in parts]
        body = body[then_at + 1 :]
    else_at = _find(body, ELSE)
    if else_at < len(body) and not conditions:
        raise CommandError("else needs an if before it; as a key or value it must be quoted", body[else_at].start)
    then, otherwise = _branch(body[:else_at], parse_command), _branch(body[else_at + 1 :], parse_command)
    return Txn(then, conditions, otherwise, is_partial)


def is_keyword(word: Word, name: str) -> bool:
    return word.bare and len(word.data) == len(name) and word.data.lower() == name.encode()


def _find(words: list[Word], keyword: str) -> int:
    """Where a keyword stands first, or the number of words."""
    return next((i for i, word in enumerate(words) if is_keyword(word, keyword)), len(words))


def _divide(words: list[Word], separates: Callable[[Word], bool]) -> list[list[Word]]:
    parts: list[list[Word]] = [[]]
    for word in words:
        if separates(word):
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _branch(words: list[Word], parse_command: Callable[[list[Word]], Command]) -> list[Simple]:
    commands: list[Simple] = []
    for part in _divide(words, lambda word: word.mark in (";", "\n")):
        if part:
            command = parse_command(part)
            if isinstance(command, Txn | Tick):
                raise CommandError(f"{part[0].text} cannot stand within a transaction", part[0].start)
            commands.append(command)
    return commands


def _condition(part: list[Word], usage: str) -> Condition:
    end = part[-1].end if part else 0
    if not part:
        raise CommandError(f"a condition is missing: {usage}", end)
    syntax = CONDITIONS.get(part[0].small)
    if syntax is None:
        *names, last = CONDITIONS
        raise CommandError(f"a condition is about {', '.join(names)} or {last}, not {part[0].text!r}", part[0].start)
    arguments = Arguments(part[1:], end, Syntax(syntax.name, "", *syntax.choices, usage=usage))
    condition = _on_key(syntax, arguments)
    arguments.finish()
    return condition


def _on_key(syntax: Syntax, arguments: Arguments) -> Condition:
    key = arguments.key()
    if len(syntax.operands) == 1:
        return Condition("version", key, ">" if syntax.name == "exists" else "=")
    sign = arguments.take("a comparison")
    allowed = syntax.operands[1].words
    if sign.text not in allowed:
        raise CommandError(f"{syntax.name} is compared by {' '.join(allowed)}, not {sign.text!r}", sign.start)
    comparison = cast(Comparison, sign.text)
    if syntax.name == "value":
        operand = arguments.take("the value to compare with")
        return Condition("value", key, comparison, value_of(operand, JSON in arguments.options()))
    return Condition(cast(Subject, syntax.name), key, comparison, None, arguments.integer("the number"))
