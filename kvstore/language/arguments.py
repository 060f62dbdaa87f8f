"""The words of one command as its parser takes them, and the definition of a command in the language."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from kvstore.commands import Command, Value
from kvstore.errors import CommandError
from kvstore.language.lexer import Word
from kvstore.language.syntax import EX, EXAT, LIFETIMES, PXAT, Choice, Option, Syntax
from kvstore.values import from_json


class Arguments:
    """The words of one command after its name, taken from left to right. Errors show the command's usage."""

    def __init__(self, words: list[Word], end: int, syntax: Syntax) -> None:
        self._words = words
        self._next = 0
        self._end = end
        self._syntax = syntax

    def __len__(self) -> int:
        return len(self._words) - self._next

    @property
    def usage(self) -> str:
        return self._syntax.usage

    def take(self, meaning: str) -> Word:
        """The next word, which must be there."""
        if not len(self):
            raise CommandError(f"{meaning} is missing: {self.usage}", self._end)
        self._next += 1
        return self._words[self._next - 1]

    def key(self) -> bytes:
        """The next word, a key."""
        return self.take("the key").data

    def peek(self) -> Word | None:
        return self._words[self._next] if len(self) else None

    def integer(self, meaning: str) -> int:
        """The next word, a whole number."""
        return self.integer_of(self.take(meaning), meaning)

    def integer_of(self, word: Word, meaning: str) -> int:
        if not re.fullmatch(rb"[+-]?\d{1,20}", word.data):
            raise CommandError(f"{meaning} must be a whole number, not {word.text!r}: {self.usage}", word.start)
        return int(word.data)

    def rest(self) -> list[Word]:
        taken, self._next = self._words[self._next :], len(self._words)
        return taken

    def finish(self) -> None:
        """Raise CommandError if a word is left."""
        word = self.peek()
        if word is not None:
            raise self._too_many(word)

    def _too_many(self, word: Word) -> CommandError:
        return CommandError(f"{word.text or word.mark!r} is one word too many: {self.usage}", word.start)

    def option(self, choice: Choice) -> Option | None:
        """The next word if it is one of these options."""
        word = self.peek()
        if word is not None and not word.mark:
            for option in choice:
                if option.name == word.capitals:
                    self._next += 1
                    return option
        return None

    def options(self, *, may_repeat: bool = False) -> dict[Option, Word]:
        """The command's options that follow, each with its operand, or with itself if it has none.

        Nothing but options may be left. Raises CommandError for two options of one choice and for the same one twice,
        unless options may repeat: then the last one counts.
        """
        given: dict[Option, Word] = {}
        while (word := self.peek()) is not None:
            found = None if word.mark else self._syntax.option(word.capitals)
            if found is None:
                raise self._too_many(word)
            option, choice = found
            if not may_repeat and any(other in given and other.also != option.name for other in choice):
                raise CommandError(f"{option.name} contradicts an option before it: {self.usage}", word.start)
            self._next += 1
            given[option] = self.take(option.meaning) if option.operand else word
        return given


def value_of(word: Word, as_json: bool) -> Value:
    if not as_json:
        return Value(word.data)
    try:
        return from_json(word.data)
    except CommandError as error:
        raise CommandError(error.message, word.start) from error


class Lifetime(NamedTuple):
    """How long a key lives: a ``ttl`` in ms, or until the time ``expires`` in ms since 1970; 0 where not given."""

    ttl: int = 0
    expires: int = 0


def lifetime_in(unit: Option, number: int) -> Lifetime:
    """The lifetime that a number means after one of ``LIFETIMES``."""
    number *= 1_000 if unit in (EX, EXAT) else 1
    return Lifetime(expires=number) if unit in (EXAT, PXAT) else Lifetime(number)


def lifetime_of(arguments: Arguments, given: dict[Option, Word]) -> Lifetime:
    """The lifetime that one of the given options tells, if one does."""
    for unit in LIFETIMES:
        if unit in given:
            number = arguments.integer_of(given[unit], unit.meaning)
            if number <= 0:
                raise CommandError(f"{unit.meaning} must be 1 or more: {arguments.usage}", given[unit].start)
            return lifetime_in(unit, number)
    return Lifetime()


class Definition(NamedTuple):
    """A command in the language: how it is written, how it is parsed, and what help says about it."""

    syntax: Syntax
    parse: Callable[[Arguments], Command]
    summary: str
    details: str
    examples: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.syntax.name

    @property
    def usage(self) -> str:
        return self.syntax.usage
