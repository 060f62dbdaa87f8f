"""How commands are written: operands, then options. Usage, parsing, completion and highlighting all follow from it."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class Option(NamedTuple):
    """An option: its name in capitals, and the operand that follows it, as usage shows it, "" if there is none.

    ``meaning`` names that operand in errors. ``also`` is the name of another option of the same choice that may follow.
    """

    name: str
    operand: str = ""
    meaning: str = ""
    also: str = ""

    @property
    def usage(self) -> str:
        """``EX SECONDS``, or ``XX [LT]``."""
        return " ".join(filter(None, [self.name, self.operand, f"[{self.also}]" if self.also else ""]))


Choice: TypeAlias = tuple[Option, ...]
"""Options of which a command takes one."""

EX = Option("EX", "SECONDS", "the time to live")
PX = Option("PX", "MS", "the time to live")
EXAT = Option("EXAT", "TIME", "the time")
PXAT = Option("PXAT", "TIME", "the time")
LIFETIMES: Choice = (EX, PX, EXAT, PXAT)
KEEPTTL = Option("KEEPTTL")
PERSIST = Option("PERSIST")
NX = Option("NX")
XX = Option("XX")
XX_LT = Option("XX", also="LT")
GT = Option("GT")
LT = Option("LT")
IFEQ = Option("IFEQ", "OLD", "the value to compare with")
GET = Option("GET")
JSON = Option("JSON")
CREATE = Option("CREATE")
AFTER = Option("AFTER", "KEY", "the key")
COUNT = Option("COUNT", "N", "the count")
SKIP = Option("SKIP", "N", "the number to skip")
REPLACE = Option("REPLACE")
AT = Option("AT")
PARTIAL = Option("PARTIAL")

_KEYS = {"KEY", "TO", "PREFIX", "PATTERN", "KEY=VALUE"}


class Operand(NamedTuple):
    """An operand: how usage shows it, "[N]" if it may be missing, "KEY..." if there may be several."""

    usage: str

    @property
    def is_optional(self) -> bool:
        return self.usage.startswith("[")

    @property
    def repeats(self) -> bool:
        return self.usage.endswith("...")

    @property
    def is_key(self) -> bool:
        """Whether it is a key, or text that keys begin with."""
        return self.usage.strip("[].") in _KEYS

    @property
    def words(self) -> tuple[str, ...]:
        """The symbols allowed here, as in ``=|!=``; none if it may be any word."""
        return tuple(self.usage.split("|")) if self.usage[0] in "=!<>" else ()


class Syntax:
    """How one command is written: its name, its operands in this order, then at most one option of each choice.

    One of the options ``instead``, with its own operand, may take the place of the last operand. ``form`` replaces what
    usage would show before the options, and ``usage`` replaces all of it.
    """

    def __init__(
        self, name: str, operands: str, *choices: Choice, instead: Choice = (), form: str = "", usage: str = ""
    ) -> None:
        self.name = name
        self.operands = [Operand(text) for text in operands.split()]
        self.choices = choices
        self.instead = instead
        if instead:
            *before, last = operands.split()
            form = f"{' '.join([name, *before])} ({' | '.join([last, *(option.usage for option in instead)])})"
        shown = [form or " ".join([name, *operands.split()])]
        shown += [f"[{' | '.join(option.usage for option in choice)}]" for choice in choices]
        self.usage = usage or " ".join(shown)

    @property
    def required(self) -> int:
        """How many operands have to be there."""
        return sum(not operand.is_optional for operand in self.operands)

    def option(self, name: str) -> tuple[Option, Choice] | None:
        """The option of this name, which is in capitals, with the choice that it belongs to."""
        for choice in self.choices:
            for option in choice:
                if option.name == name:
                    return option, choice
        return None
