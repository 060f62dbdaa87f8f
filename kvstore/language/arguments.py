"""The words of one command as its parser takes them, and what a command's help consists of."""

from __future__ import annotations

import re
from typing import NamedTuple

from kvstore.commands import Value
from kvstore.errors import CommandError
from kvstore.language.lexer import Word
from kvstore.values import from_json


class Help(NamedTuple):
    """What the prompt and the documentation say about a command."""

    name: str
    usage: str
    summary: str
    details: str
    examples: tuple[str, ...]


class Words:
    """The words of one command, taken from left to right; knows the command's usage for its errors."""

    def __init__(self, words: list[Word], end: int) -> None:
        self._words = words
        self._next = 0
        self._end = end
        self.usage = ""

    def __len__(self) -> int:
        return len(self._words) - self._next

    def take(self, what: str) -> Word:
        """The next word, which must be there."""
        if not len(self):
            raise CommandError(f"{what} is missing: {self.usage}", self._end)
        self._next += 1
        return self._words[self._next - 1]

    def peek(self) -> Word | None:
        return self._words[self._next] if len(self) else None

    def option(self, *names: str) -> str:
        """The next word as one of these options, in capitals; "" when it is none or there is no word left."""
        word = self.peek()
        if word is None or word.mark or word.text.upper() not in names:
            return ""
        self._next += 1
        return word.text.upper()

    def integer(self, what: str) -> int:
        word = self.take(what)
        if not re.fullmatch(rb"[+-]?\d{1,20}", word.data):
            raise CommandError(f"{what} must be a whole number, not {word.text!r}: {self.usage}", word.start)
        return int(word.data)

    def finish(self) -> None:
        """Nothing may be left."""
        word = self.peek()
        if word is not None:
            raise CommandError(f"{word.text or word.mark!r} is one word too many: {self.usage}", word.start)

    def rest(self) -> list[Word]:
        taken, self._next = self._words[self._next :], len(self._words)
        return taken


def key_of(words: Words) -> bytes:
    return words.take("the key").data


def value_of(word: Word, as_json: bool) -> Value:
    if not as_json:
        return Value(word.data)
    try:
        return from_json(word.data)
    except CommandError as error:
        raise CommandError(error.message, word.start) from error


Lifetime = tuple[int, int]
"""A ttl in ms and a time in ms since 1970, of which one is 0."""
LIFETIMES = ("EX", "PX", "EXAT", "PXAT")


def lifetime_of(words: Words, unit: str, at: Word | None) -> Lifetime:
    """The number that follows one of ``LIFETIMES``."""
    number = words.integer("the time" if unit.endswith("AT") else "the time to live")
    if number <= 0:
        raise CommandError(f"the time to live must be 1 or more: {words.usage}", at.start if at else None)
    number *= 1_000 if unit.startswith("EX") else 1
    return (0, number) if unit.endswith("AT") else (number, 0)
