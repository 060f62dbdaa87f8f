"""CLIENT: which clients are connected, and what each says about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from kvstore import clocks
from kvstore.resp.encoding import OK, Bulk, RespValue, Verbatim
from kvstore.resp.errors import SYNTAX, RequestError, quoted
from kvstore.resp.hub import Client
from kvstore.resp.spec import NEITHER, OnClient, Spec, integer, usage, word

_SUBCOMMANDS = {
    "GETNAME": (2, "-- this connection's name"),
    "HELP": (2, "-- this text"),
    "ID": (2, "-- this connection's number"),
    "INFO": (2, "-- a line about this connection"),
    "KILL": (
        -3,
        "<ip:port> | [ID <id>] [TYPE normal] [USER default] [ADDR <ip:port>] [LADDR <ip:port>] [SKIPME yes|no]",
    ),
    "LIST": (-2, "[TYPE normal | ID <id> ...] -- a line about each connection"),
    "NO-EVICT": (3, "ON|OFF -- nothing is ever evicted"),
    "NO-TOUCH": (3, "ON|OFF -- nothing depends on when a key was read"),
    "REPLY": (3, "ON|OFF|SKIP -- whether requests are answered"),
    "SETINFO": (4, "LIB-NAME|LIB-VER <text> -- which library this is"),
    "SETNAME": (3, "<name> -- give this connection a name"),
}
MAX_NAME_BYTES = 128
LINE_BYTES = 1_024
"""More than a line of CLIENT LIST has, so that the list of all clients is counted before it is made."""
_Filter: TypeAlias = Callable[[Client], bool]


def _run(client: Client, arguments: list[bytes]) -> RespValue:
    rest = arguments[2:]
    match word(arguments[1]):
        case b"ID":
            return client.number
        case b"GETNAME":
            return client.name or None
        case b"SETNAME":
            client.name = printable(rest[0], "Client names")
            return OK
        case b"SETINFO":
            name = quoted(rest[0]).lower()
            if name not in ("lib-name", "lib-ver"):
                raise RequestError(f"ERR Unrecognized option '{name}'")
            client.library[name] = printable(rest[1], name)
            return OK
        case b"INFO":
            return Verbatim(client.describe() + "\n")
        case b"LIST":
            wanted = _listed(rest)
            found = [one for one in client.hub.clients.values() if wanted(one)]
            lines = (f"{one.describe()}\n".encode() for one in found)
            return Bulk(lines, LINE_BYTES * len(found), is_text=True)
        case b"KILL":
            return _kill(client, rest)
        case b"REPLY":
            client.connection.set_reply_mode(_one_of(rest[0], b"ON", b"OFF", b"SKIP"))
            return OK
        case b"HELP":
            return usage("client", _SUBCOMMANDS)
        case _:
            _one_of(rest[0], b"ON", b"OFF")
            return OK


def printable(text: bytes, what: str) -> bytes:
    """Return the text if CLIENT LIST can show it. Raises RequestError."""
    if len(text) > MAX_NAME_BYTES:
        raise RequestError(f"ERR {what} have at most {MAX_NAME_BYTES:,} bytes, and this has {len(text):,}: shorten it")
    if any(not 33 <= byte <= 126 for byte in text):
        raise RequestError(f"ERR {what} cannot contain spaces, newlines or special characters.")
    return text


def _one_of(text: bytes, *allowed: bytes) -> bytes:
    if word(text) not in allowed:
        raise RequestError(SYNTAX)
    return word(text)


def _listed(filters: list[bytes]) -> _Filter:
    match filters:
        case []:
            return lambda one: True
        case [kind, name] if word(kind) == b"TYPE":
            return _of_type(name)
        case [kind, *numbers] if word(kind) == b"ID" and numbers:
            wanted = {integer(number, error="ERR Invalid client ID") for number in numbers}
            return lambda one: one.number in wanted
        case _:
            raise RequestError(SYNTAX)


def _of_type(name: bytes) -> _Filter:
    """Everybody who connects here is an ordinary client: nodes have a protocol and a port of their own."""
    if word(name) not in (b"NORMAL", b"MASTER", b"REPLICA", b"SLAVE", b"PUBSUB"):
        raise RequestError(f"ERR Unknown client type '{quoted(name)}'")
    is_normal = word(name) == b"NORMAL"
    return lambda one: is_normal


def _kill(client: Client, arguments: list[bytes]) -> RespValue:
    """End the connections for which all filters hold; this one only with SKIPME no, or by its address.

    Of filters of one kind the last one counts, as in Redis.
    """
    if len(arguments) == 1:
        address = quoted(arguments[0])
        if not _end(client, [lambda one: one.peer == address]):
            raise RequestError("ERR No such client")
        return OK
    if len(arguments) % 2:
        raise RequestError(SYNTAX)
    skips_me = True
    filters: dict[bytes, _Filter] = {}
    for kind, value in zip(arguments[::2], arguments[1::2], strict=True):
        if word(kind) == b"SKIPME":
            skips_me = _one_of(value, b"YES", b"NO") == b"YES"
        else:
            filters[word(kind)] = _filter(word(kind), value)
    return _end(client, [*filters.values(), *([lambda one: one is not client] if skips_me else [])])


def _filter(kind: bytes, value: bytes) -> _Filter:
    text = quoted(value)
    match kind:
        case b"ID":
            number = integer(value, 1, error="ERR client-id should be greater than 0")
            return lambda one: one.number == number
        case b"ADDR":
            return lambda one: one.peer == text
        case b"LADDR":
            return lambda one: one.local == text
        case b"TYPE":
            return _of_type(value)
        case b"USER":
            if text != "default":
                raise RequestError(f"ERR No such user '{text}'")
            return lambda one: True
        case _:
            raise RequestError(SYNTAX)


def _end(client: Client, filters: list[_Filter]) -> int:
    found = [one for one in client.hub.clients.values() if all(holds(one) for holds in filters)]
    if client in found:
        client.connection.leave()  # which answers this request first
    _Ending(client, [one for one in found if one is not client]).carry_on()
    return len(found)


class _Ending:
    """Ends clients, as many as there is time for in a share of a turn."""

    last_command = "client|kill"

    def __init__(self, client: Client, others: list[Client]) -> None:
        self._shares = client.hub.shares
        self._left = others[::-1]

    def carry_on(self) -> None:
        """End some more."""
        ends = clocks.seconds() + self._shares.share_seconds
        while self._left:
            self._left.pop().connection.kill()
            if self._left and clocks.seconds() > ends:
                self._shares.wait(self)
                return


CLIENT = Spec(
    *("client", -2, NEITHER, (), "connection", "About connections.", OnClient(_run)),
    subcommands=_SUBCOMMANDS,
    not_in_multi=("LIST",),
)
