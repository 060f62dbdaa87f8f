"""What Tab offers: the words that may come next in a command, and the keys there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from cli.prompt.session import META
from cli.render import OUTPUTS
from kvstore.errors import CommandError
from kvstore.language.lexer import Word, quote, split
from kvstore.language.outline import Expected, Outline
from kvstore.language.parser import COMMANDS

_META_OPERANDS = {"help": (*COMMANDS, *META), "output": OUTPUTS, "timing": ("on", "off")}
_SUMMARIES = {name: each.summary for name, each in COMMANDS.items()} | {n: each.summary for n, each in META.items()}


class Suggestion(NamedTuple):
    """A word that may take the place of the last ``replaces`` characters; ``summary`` says what it does, or is ""."""

    text: str
    replaces: int
    summary: str = ""


def suggestions(text: str, keys: Callable[[bytes], Iterable[bytes]]) -> Iterator[Suggestion]:
    """What may follow the text, or complete its last word; ``keys`` gives some keys that begin with a prefix."""
    try:
        words = split(text)
    except CommandError:
        return  # within quotes
    begun = None if not words or text[-1].isspace() or words[-1].mark else words.pop()
    current = text[begun.start :] if begun else ""
    expected = _expected(words)
    for word in expected.words:
        if word.lower().startswith(current.lower()):
            yield Suggestion(word, len(current), _SUMMARIES.get(word, ""))
    if expected.keys:
        for key in keys(begun.data if begun else b""):
            yield Suggestion(quote(key), len(current))


def _expected(words: list[Word]) -> Expected:
    """What may follow some whole words, the prompt's own commands among them."""
    name = words[0].text.lower() if words else ""
    if name in META:
        if name == "explain":
            return _outline(words[1:]).expected()
        return Expected(_META_OPERANDS.get(name, ()) if len(words) == 1 else ())
    expected = _outline(words).expected()
    return expected if words else expected._replace(words=(*expected.words, *META))


def _outline(words: Iterable[Word]) -> Outline:
    outline = Outline()
    for word in words:
        outline.take(word)
    return outline
