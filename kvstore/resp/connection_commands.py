"""Commands about the connection itself, and about the server."""

from __future__ import annotations

from collections.abc import Callable

from kvstore.node.service import Service
from kvstore.resp.client_command import CLIENT, printable
from kvstore.resp.encoding import OK, RespValue, SimpleString
from kvstore.resp.errors import SYNTAX, RequestError, WrongPasswordError, quoted
from kvstore.resp.hub import Client
from kvstore.resp.info import REDIS_VERSION, config, info, role
from kvstore.resp.spec import NEITHER, READS, Effect, InMulti, OnClient, OnServer, Spec, integer, usage, word
from kvstore.version import own_version


def _ping(client: Client, arguments: list[bytes]) -> RespValue:
    if len(arguments) > 2:
        raise RequestError("ERR wrong number of arguments for 'ping' command")
    return arguments[1] if len(arguments) > 1 else SimpleString("PONG")


def _echo(client: Client, arguments: list[bytes]) -> RespValue:
    return arguments[1]


def _select(client: Client, arguments: list[bytes]) -> RespValue:
    if integer(arguments[1]) != 0:
        raise RequestError("ERR DB index is out of range")
    return OK


def _auth(client: Client, arguments: list[bytes]) -> RespValue:
    if len(arguments) > 3:
        raise RequestError(SYNTAX)
    if len(arguments) == 2 and client.hub.password is None:
        raise RequestError(
            "ERR AUTH <password> called without any password configured for the default user."
            " Are you sure your configuration is correct?"
        )
    user = arguments[1] if len(arguments) == 3 else b"default"
    return authenticate(client, user, arguments[-1])


def authenticate(client: Client, user: bytes, password: bytes) -> RespValue:
    """Let the client in. Raises RequestError for a wrong password; where none is configured any is right."""
    hub = client.hub
    wait = hub.guesses.wait(client.peer)
    if wait and hub.password is not None:
        hub.guesses.note(client.peer)
        raise WrongPasswordError(
            f"WRONGPASS too many wrong passwords came from this address: none is looked at for {wait:.1f} s: try later"
        )
    if user != b"default" or not (hub.password is None or hub.is_password(password)):
        hub.guesses.note(client.peer)
        raise WrongPasswordError("WRONGPASS invalid username-password pair or user is disabled.")
    client.authenticated = True
    return OK


def _hello(client: Client, arguments: list[bytes]) -> RespValue:
    options = arguments[1:]
    version = client.version
    if options:
        version = integer(options.pop(0), error="ERR Protocol version is not an integer or out of range")
        if version not in (2, 3):
            raise RequestError("NOPROTO unsupported protocol version")
    name: bytes | None = None
    while options:
        option = options.pop(0)
        match word(option):
            case b"AUTH" if len(options) >= 2:
                authenticate(client, options.pop(0), options.pop(0))
            case b"SETNAME" if options:
                name = printable(options.pop(0), "Client names")
            case _:
                raise RequestError(f"ERR Syntax error in HELLO option '{quoted(option)}'")
    if not client.authenticated:
        raise RequestError(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user>"
            " <pass> option can be used to authenticate the client and select the RESP protocol version at the same"
            " time"
        )
    client.version = version
    client.name = client.name if name is None else name
    return {
        "server": "kvstore",
        "version": REDIS_VERSION,
        "kvstore_version": own_version(),
        "proto": version,
        "id": client.number,
        "mode": "standalone",
        "role": "master" if client.hub.leads() else "replica",
        "modules": [],
    }


def _config(client: Client, arguments: list[bytes]) -> RespValue:
    match word(arguments[1]):
        case b"GET":
            return config(arguments[2:], client.hub)
        case b"HELP":
            return usage("config", _CONFIG)
        case _:
            raise RequestError("ERR settings are given when the node is started: see kvstore serve --help")


def _info(client: Client, service: Service, arguments: list[bytes]) -> RespValue:
    return info(service.status(), client.hub, service.expiring(), arguments[1:])


def _time(client: Client, service: Service, arguments: list[bytes]) -> RespValue:
    now = service.clock()
    return [str(now // 1_000), str(now % 1_000 * 1_000)]


def _role(client: Client, service: Service, arguments: list[bytes]) -> RespValue:
    return role(service.status())


def _read_only(wanted: bool) -> Callable[[Client, list[bytes]], RespValue]:
    def switch(client: Client, arguments: list[bytes]) -> RespValue:
        client.reads_locally = wanted
        return OK

    return switch


def _quit(client: Client, arguments: list[bytes]) -> RespValue:
    client.connection.leave()
    return OK


def _reset(client: Client, arguments: list[bytes]) -> RespValue:
    client.reset()
    return SimpleString("RESET")


def _wait(client: Client, service: Service, arguments: list[bytes]) -> RespValue:
    """Every write answered so far is on at least this many other nodes."""
    integer(arguments[1])
    if integer(arguments[2], error="ERR timeout is not an integer or out of range") < 0:
        raise RequestError("ERR timeout is negative")
    return len(service.status().status.nodes) // 2


_CONFIG = {
    "GET": (-3, "<glob> [...] -- settings"),
    "HELP": (2, "-- this text"),
    "SET": (-4, "-- refused: settings are given when the node is started"),
}


def _spec(
    name: str,
    arity: int,
    traits: str,
    summary: str,
    performer: OnClient | OnServer,
    group: str = "connection",
    effect: Effect = NEITHER,
    in_multi: InMulti = InMulti.QUEUED,
) -> Spec:
    return Spec(name, arity, effect, tuple(traits.split()), group, summary, performer, in_multi=in_multi)


CONNECTION_COMMANDS: list[Spec] = [
    _spec("ping", -1, "fast", "Answers PONG.", OnClient(_ping)),
    _spec("echo", 2, "fast", "Answers its argument.", OnClient(_echo)),
    _spec("select", 2, "fast", "Chooses database 0.", OnClient(_select)),
    _spec("auth", -2, "no_auth fast", "Authenticates the client.", OnClient(_auth)),
    _spec("hello", -1, "no_auth fast", "Chooses the version of the protocol.", OnClient(_hello)),
    _spec("quit", -1, "no_auth fast", "Ends the connection.", OnClient(_quit), in_multi=InMulti.AT_ONCE),
    _spec(
        "reset",
        1,
        "no_auth fast",
        "Resets the connection.",
        OnClient(_reset),
        in_multi=InMulti.AT_ONCE,
    ),
    CLIENT,
    Spec("config", -2, NEITHER, ("admin",), "server", "Settings.", OnClient(_config), subcommands=_CONFIG),
    _spec("info", -1, "", "Facts about the server.", OnServer(_info), "server", READS),
    _spec("time", 1, "fast", "The time of the server's clock.", OnServer(_time), "server"),
    _spec("role", 1, "fast", "Whether this node leads.", OnServer(_role), "server", READS),
    _spec("wait", 3, "", "How many other nodes hold what was written before.", OnServer(_wait), "generic", READS),
    _spec(
        "readonly",
        1,
        "fast",
        "Let reads see what this node has applied.",
        OnClient(_read_only(True)),
        "cluster",
    ),
    _spec("readwrite", 1, "fast", "Let reads be linearizable again.", OnClient(_read_only(False)), "cluster"),
]
