"""Commands about the connection itself, and about the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvstore.resp.encoding import OK, Error, Reply, Status
from kvstore.resp.info import REDIS_VERSION, command_docs, command_info, config, info, own_version, role
from kvstore.resp.spec import SYNTAX, RequestError, Spec, integer

if TYPE_CHECKING:
    from kvstore.resp.connection import Connection


def _ping(connection: Connection, arguments: list[bytes]) -> Reply:
    return arguments[1] if len(arguments) > 1 else Status("PONG")


def _echo(connection: Connection, arguments: list[bytes]) -> Reply:
    return arguments[1]


def _select(connection: Connection, arguments: list[bytes]) -> Reply:
    if integer(arguments[1], error="ERR invalid DB index") != 0:
        raise RequestError("ERR DB index is out of range: there is database 0 only")
    return OK


def _auth(connection: Connection, arguments: list[bytes]) -> Reply:
    if len(arguments) > 3:
        raise RequestError(SYNTAX)
    user = arguments[1] if len(arguments) == 3 else b"default"
    return authenticate(connection, user, arguments[-1])


def authenticate(connection: Connection, user: bytes, password: bytes) -> Reply:
    """Let the client in, or raise RequestError."""
    hub = connection.hub
    if hub.password is None and user == b"default":
        raise RequestError(
            "ERR AUTH <password> called without any password configured for the default user."
            " Are you sure your configuration is correct?"
        )
    if user != b"default" or not hub.is_password(password):
        raise RequestError("WRONGPASS invalid username-password pair or user is disabled.")
    connection.authenticated = True
    return OK


def _hello(connection: Connection, arguments: list[bytes]) -> Reply:
    options = arguments[1:]
    version = connection.version
    if options:
        if options[0] not in (b"2", b"3"):
            raise RequestError("NOPROTO unsupported protocol version")
        version = int(options.pop(0))
    name: bytes | None = None
    while options:
        match options.pop(0).upper():
            case b"AUTH" if len(options) >= 2:
                authenticate(connection, options.pop(0), options.pop(0))
            case b"SETNAME" if options:
                name = _name(options.pop(0))
            case _:
                raise RequestError(SYNTAX)
    if not connection.authenticated:
        raise RequestError("NOAUTH HELLO must be called with the client already authenticated: HELLO 3 AUTH user pass")
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


def _name(text: bytes) -> bytes:
    if any(not 33 <= byte <= 126 for byte in text):
        raise RequestError("ERR Client names cannot contain spaces, newlines or special characters.")
    return text


def _client(connection: Connection, arguments: list[bytes]) -> Reply:
    name = arguments[1].upper()
    rest = arguments[2:]
    match name, rest:
        case b"ID", []:
            return connection.number
        case b"GETNAME", []:
            return connection.name or None
        case b"SETNAME", [text]:
            connection.name = _name(text)
            return OK
        case b"SETINFO", [attribute, text] if attribute.upper() in (b"LIB-NAME", b"LIB-VER"):
            connection.library[attribute.lower().decode()] = _name(text)
            return OK
        case b"INFO", []:
            return connection.describe() + "\n"
        case b"LIST", _:
            return "".join(client.describe() + "\n" for client in connection.hub.clients.values())
        case b"KILL", [address]:
            return OK if _kill(connection, b"ADDR", address) else _raise("ERR No such client")
        case b"KILL", [*filters] if len(filters) % 2 == 0 and filters:
            return _kill_all(connection, filters)
        case ((b"NO-EVICT" | b"NO-TOUCH"), [switch]) if switch.upper() in (b"ON", b"OFF"):
            return OK
        case b"REPLY", [mode] if mode.upper() in (b"ON", b"OFF", b"SKIP"):
            return connection.set_reply_mode(mode.upper())
        case _:
            asked = name.decode(errors="replace").lower()
            raise RequestError(f"ERR unknown subcommand or wrong number of arguments for 'client|{asked}' command")


def _raise(text: str) -> Reply:
    raise RequestError(text)


def _kill_all(connection: Connection, filters: list[bytes]) -> Reply:
    killed = 0
    for kind, value in zip(filters[::2], filters[1::2], strict=True):
        if kind.upper() not in (b"ID", b"ADDR", b"LADDR", b"SKIPME", b"TYPE", b"USER"):
            raise RequestError(SYNTAX)
        if kind.upper() in (b"ID", b"ADDR", b"LADDR"):
            killed += _kill(connection, kind.upper(), value)
    return killed


def _kill(connection: Connection, kind: bytes, value: bytes) -> int:
    """End the connections that match; how many there were."""
    killed = 0
    for client in list(connection.hub.clients.values()):
        own = {b"ID": str(client.number), b"ADDR": client.peer, b"LADDR": client.own}[kind]
        if own.encode() == value:
            client.end()
            killed += 1
    return killed


def _command(connection: Connection, arguments: list[bytes]) -> Reply:
    from kvstore.resp.table import TABLE, find

    name = arguments[1].upper() if len(arguments) > 1 else b""
    specs = {spec.name: spec for spec in TABLE.values()}
    wanted = [found.name for found in map(find, arguments[2:]) if found] if len(arguments) > 2 else list(specs)
    match name:
        case b"COUNT":
            return len(specs)
        case b"" | b"LIST":
            return [command_info(spec) for spec in specs.values()] if not name else list[Reply](specs)
        case b"INFO":
            asked = [find(each) for each in arguments[2:]] or list(specs.values())
            return [None if found is None else command_info(found) for found in asked]
        case b"DOCS":
            return {each: command_docs(specs[each]) for each in wanted}
        case b"GETKEYS" if len(arguments) > 2:
            found = find(arguments[2])
            if found is None or not found.takes(len(arguments) - 2):
                raise RequestError("ERR Invalid command specified, or wrong number of arguments")
            keys = found.keys_of(arguments[2:])
            return list[Reply](keys) if keys else Error("ERR The command has no key arguments")
        case _:
            raise RequestError(f"ERR unknown subcommand '{name.decode(errors='replace')}'. Try COMMAND LIST.")


def _config(connection: Connection, arguments: list[bytes]) -> Reply:
    match arguments[1].upper():
        case b"GET" if len(arguments) > 2:
            return config(arguments[2:])
        case b"RESETSTAT":
            return OK
        case b"SET":
            raise RequestError("ERR settings are given when the node is started: see kvstore serve --help")
        case _:
            raise RequestError("ERR unknown subcommand or wrong number of arguments for 'config' command")


def _info(connection: Connection, arguments: list[bytes]) -> Reply:
    return info(connection.service.status(), connection.hub, arguments[1:])


def _time(connection: Connection, arguments: list[bytes]) -> Reply:
    now = connection.service.clock()
    return [str(now // 1_000), str(now % 1_000 * 1_000)]


def _role(connection: Connection, arguments: list[bytes]) -> Reply:
    return role(connection.service.status())


def _read_only(wanted: bool) -> Callable[[Connection, list[bytes]], Reply]:
    def switch(connection: Connection, arguments: list[bytes]) -> Reply:
        connection.reads_locally = wanted
        return OK

    return switch


def _quit(connection: Connection, arguments: list[bytes]) -> Reply:
    connection.quit()
    return OK


def _reset(connection: Connection, arguments: list[bytes]) -> Reply:
    connection.reset()
    return Status("RESET")


def _wait(connection: Connection, arguments: list[bytes]) -> Reply:
    """Whatever was answered before is on a majority: so many nodes beside one certainly have it."""
    integer(arguments[1])
    integer(arguments[2], 0)
    return len(connection.service.status().status.nodes) // 2


def _spec(name: str, arity: int, flags: str, summary: str, group: str = "connection") -> Spec:
    return Spec(name, arity, tuple(flags.split()), (0, 0, 0), group, summary)


CLIENTS: dict[str, tuple[Spec, Callable[[Connection, list[bytes]], Reply]]] = {
    spec.name: (spec, run)
    for spec, run in (
        (_spec("ping", -1, "fast", "Answers PONG."), _ping),
        (_spec("echo", 2, "fast", "Answers its argument."), _echo),
        (_spec("select", 2, "fast", "Chooses database 0."), _select),
        (_spec("auth", -2, "noauth fast", "Lets a client in."), _auth),
        (_spec("hello", -1, "noauth fast", "Chooses the version of the protocol."), _hello),
        (_spec("quit", -1, "noauth fast", "Ends the connection."), _quit),
        (_spec("reset", 1, "noauth fast", "Puts the connection back to its beginning."), _reset),
        (_spec("client", -2, "", "About connections."), _client),
        (_spec("command", -1, "", "About commands.", "server"), _command),
        (_spec("config", -2, "admin", "Settings.", "server"), _config),
        (_spec("info", -1, "", "About the server.", "server"), _info),
        (_spec("time", 1, "fast", "The server's clock.", "server"), _time),
        (_spec("role", 1, "fast", "Whether this node leads.", "server"), _role),
        (_spec("wait", 3, "", "How many other nodes hold what was written before.", "generic"), _wait),
        (_spec("readonly", 1, "fast", "Read what this node has applied, however old.", "cluster"), _read_only(True)),
        (_spec("readwrite", 1, "fast", "Read linearizably again.", "cluster"), _read_only(False)),
    )
}
