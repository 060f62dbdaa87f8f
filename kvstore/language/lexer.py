"""Splits text into words with their positions, quoted as in a shell; both parsing and highlighting start from them."""

from __future__ import annotations

import re
from itertools import product
from typing import NamedTuple

from kvstore.errors import CommandError, IncompleteCommand
from kvstore.values import shown_text

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}
_CODES = {"x": 2, "u": 4, "U": 8}
_HEX = re.compile(r"[0-9a-fA-F]+")
_SPACES = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""What separates words. Spelt out, since text in the log is split on every replica, and versions of Python differ in
what they know of Unicode."""
_OPENINGS = {"".join(letters) + "{" for letters in product("tT", "xX", "nN")}
_PLAIN = re.compile(f"[^{_SPACES}'\"\\\\;{{}}=]+")
_PLAIN_QUOTED = re.compile(r'[^"\\]+')


class Word(NamedTuple):
    """One word: its bytes, where it stands in the text, and where in the bytes its first unquoted ``=`` is, or -1.

    ``bare``: nothing in the word was quoted or escaped. ``mark`` is ";", "{" or "}" for such a sign of a transaction,
    or a newline for the end of a line within its braces. Such a word has no bytes.
    """

    data: bytes
    start: int
    end: int
    equals: int = -1
    bare: bool = True
    mark: str = ""

    @property
    def text(self) -> str:
        return shown_text(self.data)

    @property
    def capitals(self) -> str:
        """Its text with capitals for the letters of ASCII only: versions of Python differ in what else has any."""
        return shown_text(self.data.upper())

    @property
    def small(self) -> str:
        return shown_text(self.data.lower())


def split(text: str) -> list[Word]:
    """All words of a command. If the first word is ``txn``, each ``;``, ``{`` and ``}`` after it is a word of its own.

    So is each line's end between such braces.

    Raises CommandError for a bad escape, IncompleteCommand if the text ends within quotes.
    """
    words: list[Word] = []
    position = 0
    in_txn = False
    within = False  # the braces of a transaction
    while True:
        while position < len(text) and text[position] in _SPACES:
            if within and text[position] == "\n" and words[-1].mark != "\n":
                words.append(Word(b"", position, position + 1, mark="\n"))
            position += 1
        if position == len(text):
            return words
        if in_txn and text[position] in ";{}":
            words.append(Word(b"", position, position + 1, mark=text[position]))
            within = text[position] == "{" or (within and text[position] == ";")
            position += 1
            continue
        opens_txn = not words and text[position : position + 4] in _OPENINGS
        word = _word(text, position, ";{}" if in_txn or opens_txn else "")
        if not words:
            in_txn = word.bare and word.data.lower() == b"txn"
        words.append(word)
        position = word.end


def _word(text: str, start: int, stops: str) -> Word:
    data = bytearray()
    equals = -1
    bare = True
    position = start
    while position < len(text):
        plain = _PLAIN.match(text, position)
        if plain:
            data += _encode(plain[0], position)
            position = plain.end()
            continue
        character = text[position]
        if character in _SPACES or character in stops:
            break
        if character == "'":
            bare = False
            end = text.find("'", position + 1)
            if end < 0:
                raise IncompleteCommand("a ' is not closed", position)
            data += _encode(text[position + 1 : end], position + 1)
            position = end + 1
        elif character == '"':
            bare = False
            position = _quoted(text, position, data)
        elif character == "\\":
            bare = False
            position = _escape(text, position, data)
        else:
            if character == "=" and equals < 0:
                equals = len(data)
            data += _encode(character, position)
            position += 1
    return Word(bytes(data), start, position, equals, bare)


def _quoted(text: str, start: int, data: bytearray) -> int:
    position = start + 1
    while position < len(text):
        if text[position] == '"':
            return position + 1
        if text[position] == "\\":
            position = _escape(text, position, data)
        else:
            plain = _PLAIN_QUOTED.match(text, position)
            assert plain is not None
            data += _encode(plain[0], position)
            position = plain.end()
    raise IncompleteCommand('a " is not closed', start)


def _escape(text: str, start: int, data: bytearray) -> int:
    """Append what the escape at ``start`` stands for; returns the position after it."""
    if start + 1 == len(text):
        raise IncompleteCommand("a \\ at the end escapes nothing", start)
    character = text[start + 1]
    if character in _CODES:
        digits = text[start + 2 : start + 2 + _CODES[character]]
        if len(digits) < _CODES[character] or not _HEX.fullmatch(digits):
            raise CommandError(f"\\{character} takes {_CODES[character]} hexadecimal digits", start)
        code = int(digits, 16)
        if character == "x":
            data.append(code)
        elif code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise CommandError(f"\\{character}{digits} is not a Unicode character", start)
        else:
            data += chr(code).encode()
        return start + 2 + len(digits)
    if character.isascii() and character.isalnum() and character not in _ESCAPES:
        raise CommandError(
            f"\\{character} is not an escape: there are \\n \\t \\r \\0 \\xNN \\uNNNN, and \\\\ for a backslash", start
        )
    data += _encode(_ESCAPES.get(character, character), start + 1)
    return start + 2


def _encode(text: str, position: int) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise CommandError("this is not valid Unicode: write binary as \\xNN", position + error.start) from error


_KEYWORDS = {"if", "then", "and", "else"}


def quote(data: bytes) -> str:
    """A word that means these bytes: without quotes if that is safe anywhere in a command, else in double quotes."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return '"' + data.decode(errors="surrogateescape").translate(_SHOWN) + '"'
    plain = _PLAIN.fullmatch(text)
    if plain and text.isprintable() and text.lower() not in _KEYWORDS:
        return text
    return '"' + text.translate(_SHOWN) + '"'


_NAMES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def _shown(character: str) -> str:
    if character in _NAMES:
        return _NAMES[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class _Shown(dict[int, str]):
    """How a character is written in quotes, by its number; a lone surrogate stands for a byte that is not UTF-8.

    Looked up in C for every character of a value: a loop in Python takes a second for a MiB.
    """

    def __missing__(self, code: int) -> str:
        shown = _shown(chr(code))
        if code < 0x10000:  # all others together would take 100 MB
            self[code] = shown
        return shown


_SHOWN = _Shown()
