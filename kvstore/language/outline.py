"""Follows an unfinished command word by word: what part each word plays, and what may come next."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from kvstore.language import transaction
from kvstore.language.lexer import Word
from kvstore.language.parser import COMMANDS, definition_of
from kvstore.language.syntax import PARTIAL, Operand, Option, Syntax
from kvstore.language.transaction import AND, CONDITIONS, ELSE, IF, THEN, is_keyword

Kind: TypeAlias = Literal["command", "unknown", "key", "value", "option", "keyword", "punctuation"]

_UNKNOWN = Syntax("", "KEY VALUE...")
_WITHIN_TRANSACTIONS = tuple(name for name in COMMANDS if name not in (transaction.NAME, "tick"))


class Expected(NamedTuple):
    """What may come next: one of ``words`` and, with ``keys``, any key. Nothing is suggested for other operands."""

    words: tuple[str, ...] = ()
    keys: bool = False


class _Clause:
    """A command after its name, or a condition after its subject."""

    def __init__(self, syntax: Syntax) -> None:
        self._syntax = syntax
        self._taken = 0
        self._given: list[Option] = []
        self._awaited: Operand | None = None

    def take(self, word: Word) -> Kind:
        if self._awaited is not None:
            operand, self._awaited = self._awaited, None
            return "key" if operand.is_key else "value"
        option = self._option(word)
        if option is not None:
            self._given.append(option)
            self._awaited = Operand(option.operand) if option.operand else None
            if option in self._syntax.instead:
                self._taken += 1
            return "option"
        next_operand = self._operand
        self._taken += 2 if next_operand is not None and self._syntax.name == "set" and word.equals >= 0 else 1
        return "key" if next_operand is not None and next_operand.is_key else "value"

    def _option(self, word: Word) -> Option | None:
        if not word.bare:
            return None
        if self._is_at_last:
            for option in self._syntax.instead:
                if option.name == word.capitals:
                    return option
        found = self._syntax.option(word.capitals) if self.is_complete else None
        return found[0] if found else None

    @property
    def is_complete(self) -> bool:
        """Whether nothing more has to come."""
        return self._taken >= self._syntax.required and self._awaited is None

    @property
    def _is_at_last(self) -> bool:
        return self._taken == len(self._syntax.operands) - 1

    @property
    def _operand(self) -> Operand | None:
        operands = self._syntax.operands
        if self._taken < len(operands):
            return operands[self._taken]
        return operands[-1] if operands and operands[-1].repeats else None

    def expected(self) -> Expected:
        operand = self._awaited or (None if self._given and self.is_complete else self._operand)
        words = list(operand.words) if operand is not None else []
        if self._awaited is None and self._is_at_last:
            words += [option.name for option in self._syntax.instead]
        if self.is_complete:
            for choice in self._syntax.choices:
                given = [option for option in self._given if option in choice]
                words += [given[-1].also] if given else [option.name for option in choice]
        return Expected(tuple(filter(None, words)), operand is not None and operand.is_key)


_Stage: TypeAlias = Literal["command", "before {", "after {", "conditions", "then", "else", "commands", "closed"]
_KEYWORDS: dict[tuple[_Stage, str], _Stage] = {
    ("after {", IF): "conditions",
    ("conditions", AND): "conditions",
    ("conditions", THEN): "then",
    ("then", ELSE): "else",
}
"""The keywords that may stand at each stage, with the stage that each one begins."""


class Outline:
    """A whole command, or a transaction with its conditions and commands, as far as its words are there.

    The stages of a transaction are "before {", "after {", then either "commands", or "conditions", "then" and perhaps
    "else", and at last "closed"; any other command has the stage "command" only.
    """

    def __init__(self) -> None:
        self._stage: _Stage = "command"
        self._is_partial = False
        self._clause: _Clause | None = None

    def take(self, word: Word) -> Kind:
        """What part the next word plays."""
        if word.mark == "\n" and self._stage in ("after {", "conditions"):
            return "punctuation"
        if word.mark:
            self._clause = None
            if word.mark == "{":
                self._stage = "after {"
            elif word.mark == "}":
                self._stage = "closed"
            return "punctuation"
        if self._stage == "before {":
            self._is_partial = is_keyword(word, PARTIAL.name.lower())
            return "option" if self._is_partial else "unknown"
        following = _KEYWORDS.get((self._stage, word.small)) if word.bare else None
        if following is not None:
            self._stage, self._clause = following, None
            return "keyword"
        if self._clause is not None:
            return self._clause.take(word)
        return self._begin(word)

    def _begin(self, word: Word) -> Kind:
        """The first word of a command or condition."""
        if self._stage == "conditions":
            syntax = CONDITIONS.get(word.small)
        else:
            definition = definition_of(word)
            syntax = definition.syntax if definition else None
            if self._stage == "command" and word.bare and syntax is transaction.SYNTAX:
                self._stage = "before {"
                return "command"
            if self._stage == "after {":
                self._stage = "commands"
        self._clause = _Clause(syntax or _UNKNOWN)
        return "command" if syntax else "unknown"

    def expected(self) -> Expected:
        """What may come next."""
        if self._stage == "closed":
            return Expected()
        if self._stage == "before {":
            return Expected(("{",) if self._is_partial else (PARTIAL.name, "{"))
        keywords = tuple(keyword for stage, keyword in _KEYWORDS if stage == self._stage)
        if self._clause is None:
            return Expected(self._beginnings() + (keywords if self._stage == "after {" else ()))
        expected = self._clause.expected()
        return expected._replace(words=expected.words + keywords) if self._clause.is_complete else expected

    def _beginnings(self) -> tuple[str, ...]:
        if self._stage == "conditions":
            return tuple(CONDITIONS)
        return tuple(COMMANDS) if self._stage == "command" else _WITHIN_TRANSACTIONS
