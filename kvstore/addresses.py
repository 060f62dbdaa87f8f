"""HOST:PORT, as people write it and as it is shown to them."""

from __future__ import annotations

import re

from kvstore.errors import CommandError

Address = tuple[str, int]

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:,\[\]]+)):(\d{1,5})")


def addresses(text: str) -> list[Address]:
    """``HOST:PORT[,HOST:PORT...]``. Raises CommandError that names the part which is wrong."""
    found = []
    for part in text.split(","):
        match = _ADDRESS.fullmatch(part.strip())
        if match is None or not 1 <= int(match[3]) <= 65_535:
            raise CommandError(
                f"--connect: {part.strip()!r} must be HOST:PORT with a port from 1 to 65535, IPv6 as [::1]:PORT"
            )
        found.append((match[1] or match[2], int(match[3])))
    return found


def address_text(address: object) -> str:
    """HOST:PORT, with an IPv6 address in brackets."""
    if not isinstance(address, tuple) or len(address) < 2:
        return "?"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
