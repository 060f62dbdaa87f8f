"""HOST:PORT, as people write it and as it is shown to them."""

from __future__ import annotations

import re

from kvstore.errors import CommandError

Address = tuple[str, int]

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:,\[\]]+)):(\d{1,5})")


def addresses(text: str, source: str = "--connect") -> list[Address]:
    """``HOST:PORT[,HOST:PORT...]``. Raises CommandError that names ``source`` and the part which is wrong."""
    found = []
    for part in text.split(","):
        match = _ADDRESS.fullmatch(part.strip())
        if match is None or not 1 <= int(match[3]) <= 65_535:
            raise CommandError(
                f"{source}: {part.strip()!r} must be HOST:PORT with a port from 1 to 65535, IPv6 as [::1]:PORT"
            )
        host = match[1] or match[2]
        if not is_host(host):
            raise CommandError(f"{source}: {host!r} is not a host name: its parts have 1 to 63 characters")
        found.append((host, int(match[3])))
    return found


def is_host(name: str) -> bool:
    """Whether this can be looked up at all; what cannot ends a look-up with an error of its own kind."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def address_text(address: object) -> str:
    """HOST:PORT, with an IPv6 address in brackets."""
    if not isinstance(address, tuple) or len(address) < 2:
        return "?"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
