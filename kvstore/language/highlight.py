"""What the words of a command are, for showing them in colours."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from kvstore.errors import CommandError
from kvstore.language.lexer import split
from kvstore.language.outline import Kind, Outline

_NUMBER = re.compile(rb"-?\d+(\.\d+)?")


class Token(NamedTuple):
    """A word's span in the text, and what it is."""

    start: int
    end: int
    kind: Kind | Literal["number", "error"]


def tokens(text: str) -> list[Token]:
    """The words of a command and their kinds, also of one that is unfinished or wrong."""
    try:
        words = split(text)
    except CommandError as error:
        at = error.position or 0
        return [*(tokens(text[:at]) if at else []), Token(at, len(text), "error")]
    outline = Outline()
    found: list[Token] = []
    for word in words:
        kind = outline.take(word)
        is_number = kind == "value" and _NUMBER.fullmatch(word.data)
        found.append(Token(word.start, word.end, "number" if is_number else kind))
    return found
