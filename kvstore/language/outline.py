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
    """What may come next: one of ``words``, or, with ``keys``, a key; nothing is expected of other operands."""

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
                if option.name == word.text.upper():
                    return option
        found = self._syntax.option(word.text) if self.is_complete else None
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


class Outline:
    """A whole command, or a transaction with its conditions and commands, as far as its words are there."""

    def __init__(self) -> None:
        self._clause: _Clause | None = None
        self._is_transaction = False
        self._is_partial = False
        self._is_open = False
        self._is_closed = False
        self._may_begin_if = False
        self._in_conditions = False
        self._may_say_else = False

    def take(self, word: Word) -> Kind:
        """What part the next word plays."""
        if word.mark:
            self._mark(word.mark)
            return "punctuation"
        if self._is_transaction and not self._is_open:
            self._is_partial = is_keyword(word, PARTIAL.name.lower())
            return "option" if self._is_partial else "unknown"
        if self._is_open and self._keyword(word):
            return "keyword"
        if self._clause is not None:
            return self._clause.take(word)
        return self._begin(word)

    def _mark(self, mark: str) -> None:
        self._clause = None
        self._is_closed = mark == "}"
        if mark == "{":
            self._is_open = self._may_begin_if = True

    def _keyword(self, word: Word) -> bool:
        if self._may_begin_if and is_keyword(word, IF):
            self._in_conditions = True
        elif self._in_conditions and is_keyword(word, THEN):
            self._in_conditions, self._may_say_else = False, True
        elif not (self._in_conditions and is_keyword(word, AND)):
            if self._in_conditions or not is_keyword(word, ELSE):
                return False
            self._may_say_else = False
        self._clause, self._may_begin_if = None, False
        return True

    def _begin(self, word: Word) -> Kind:
        self._may_begin_if = False
        if self._in_conditions:
            syntax = CONDITIONS.get(word.text.lower())
        else:
            definition = definition_of(word)
            syntax = definition.syntax if definition else None
            if not self._is_open and word.bare and syntax is transaction.SYNTAX:
                self._is_transaction = True
                return "command"
        self._clause = _Clause(syntax or _UNKNOWN)
        return "command" if syntax else "unknown"

    def expected(self) -> Expected:
        """What may come next."""
        if self._is_closed:
            return Expected()
        if self._is_transaction and not self._is_open:
            return Expected(("{",) if self._is_partial else (PARTIAL.name, "{"))
        if self._clause is None:
            return Expected(self._beginnings())
        expected = self._clause.expected()
        if self._is_open and self._clause.is_complete:
            return expected._replace(words=expected.words + self._continuations())
        return expected

    def _beginnings(self) -> tuple[str, ...]:
        if self._in_conditions:
            return tuple(CONDITIONS)
        if not self._is_open:
            return tuple(COMMANDS)
        return _WITHIN_TRANSACTIONS + ((IF,) if self._may_begin_if else ())

    def _continuations(self) -> tuple[str, ...]:
        if self._in_conditions:
            return (AND, THEN)
        return (ELSE,) if self._may_say_else else ()
