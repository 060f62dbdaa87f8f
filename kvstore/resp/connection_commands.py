"""Commands about the connection itself, and about the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvstore.resp.client_command import CLIENT, client, printable
from kvstore.resp.command_command import COMMAND, command
from kvstore.resp.encoding import OK, RespValue, SimpleString
from kvstore.resp.info import REDIS_VERSION, config, info, role
from kvstore.resp.spec import SYNTAX, RequestError, Spec, integer, usage
from kvstore.version import own_version

if TYPE_CHECKING:
    from kvstore.resp.connection import Connection


def _ping(connection: Connection, arguments: list[bytes]) -> RespValue:
    if len(arguments) > 2:
        raise RequestError("ERR wrong number of arguments for 'ping' command")
    return arguments[1] if len(arguments) > 1 else SimpleString("PONG")


def _echo(connection: Connection, arguments: list[bytes]) -> RespValue:
    return arguments[1]


def _select(connection: Connection, arguments: list[bytes]) -> RespValue:
    if integer(arguments[1]) != 0:
        raise RequestError("ERR DB index is out of range")
    return OK


def _auth(connection: Connection, arguments: list[bytes]) -> RespValue:
    if len(arguments) > 3:
        raise RequestError(SYNTAX)
    if len(arguments) == 2 and connection.hub.password is None:
        raise RequestError(
            "ERR AUTH <password> called without any password configured for the default user."
            " Are you sure your configuration is correct?"
        )
    user = arguments[1] if len(arguments) == 3 else b"default"
    return authenticate(connection, user, arguments[-1])


def authenticate(connection: Connection, user: bytes, password: bytes) -> RespValue:
    """Let the client in, or raise RequestError. Without a password to be known any will do."""
    hub = connection.hub
    if user != b"default" or not (hub.password is None or hub.is_password(password)):
        raise RequestError("WRONGPASS invalid username-password pair or user is disabled.")
    connection.authenticated = True
    return OK


def _hello(connection: Connection, arguments: list[bytes]) -> RespValue:
    options = arguments[1:]
    version = connection.version
    if options:
        version = integer(options.pop(0), error="ERR Protocol version is not an integer or out of range")
        if version not in (2, 3):
            raise RequestError("NOPROTO unsupported protocol version")
    name: bytes | None = None
    while options:
        option = options.pop(0)
        match option.upper():
            case b"AUTH" if len(options) >= 2:
                authenticate(connection, options.pop(0), options.pop(0))
            case b"SETNAME" if options:
                name = printable(options.pop(0), "Client names")
            case _:
                raise RequestError(f"ERR Syntax error in HELLO option '{option.decode(errors='replace')}'")
    if not connection.authenticated:
        raise RequestError(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user>"
            " <pass> option can be used to authenticate the client and select the RESP protocol version at the same"
            " time"
        )
    connection.version = version
    connection.name = connection.name if name is None else name
    return {
        "server": "kvstore",
        "version": REDIS_VERSION,
        "kvstore_version": own_version(),
        "proto": version,
        "id": connection.number,
        "mode": "standalone",
        "role": "master",
        "modules": [],
    }


def _config(connection: Connection, arguments: list[bytes]) -> RespValue:
    match arguments[1].upper():
        case b"GET":
            return config(arguments[2:])
        case b"HELP":
            return usage(_CONFIG)
        case _:
            raise RequestError("ERR settings are given when the node is started: see kvstore serve --help")


def _info(connection: Connection, arguments: list[bytes]) -> RespValue:
    return info(connection.service.status(), connection.hub, arguments[1:])


def _time(connection: Connection, arguments: list[bytes]) -> RespValue:
    now = connection.service.clock()
    return [str(now // 1_000), str(now % 1_000 * 1_000)]


def _role(connection: Connection, arguments: list[bytes]) -> RespValue:
    return role(connection.service.status())


def _read_only(wanted: bool) -> Callable[[Connection, list[bytes]], RespValue]:
    def switch(connection: Connection, arguments: list[bytes]) -> RespValue:
        connection.reads_locally = wanted
        return OK

    return switch


def _quit(connection: Connection, arguments: list[bytes]) -> RespValue:
    connection.quit()
    return OK


def _reset(connection: Connection, arguments: list[bytes]) -> RespValue:
    connection.reset()
    return SimpleString("RESET")


def _wait(connection: Connection, arguments: list[bytes]) -> RespValue:
    """Whatever was answered before is on a majority: so many nodes beside one certainly have it."""
    integer(arguments[1])
    if integer(arguments[2], error="ERR timeout is not an integer or out of range") < 0:
        raise RequestError("ERR timeout is negative")
    return len(connection.service.status().status.nodes) // 2


def _spec(name: str, arity: int, flags: str, summary: str, group: str = "connection") -> Spec:
    return Spec(name, arity, tuple(flags.split()), (0, 0, 0), group, summary)


_CONFIG = Spec(
    "config",
    -2,
    ("admin",),
    (0, 0, 0),
    "server",
    "Settings.",
    subcommands={
        "GET": (-3, "<glob> [...] -- settings"),
        "HELP": (2, "-- this text"),
        "SET": (-4, "-- refused: settings are given when the node is started"),
    },
)

CLIENTS: dict[str, tuple[Spec, Callable[[Connection, list[bytes]], RespValue]]] = {
    spec.name: (spec, run)
    for spec, run in (
        (_spec("ping", -1, "fast", "Answers PONG."), _ping),
        (_spec("echo", 2, "fast", "Answers its argument."), _echo),
        (_spec("select", 2, "fast", "Chooses database 0."), _select),
        (_spec("auth", -2, "noauth fast", "Lets a client in."), _auth),
        (_spec("hello", -1, "noauth fast", "Chooses the version of the protocol."), _hello),
        (_spec("quit", -1, "noauth fast", "Ends the connection."), _quit),
        (_spec("reset", 1, "noauth fast", "Puts the connection back to its beginning."), _reset),
        (CLIENT, client),
        (COMMAND, command),
        (_CONFIG, _config),
        (_spec("info", -1, "", "About the server.", "server"), _info),
        (_spec("time", 1, "fast", "The server's clock.", "server"), _time),
        (_spec("role", 1, "fast", "Whether this node leads.", "server"), _role),
        (_spec("wait", 3, "", "How many other nodes hold what was written before.", "generic"), _wait),
        (_spec("readonly", 1, "fast", "Read what this node has applied, however old.", "cluster"), _read_only(True)),
        (_spec("readwrite", 1, "fast", "Read linearizably again.", "cluster"), _read_only(False)),
    )
}
