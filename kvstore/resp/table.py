"""All commands of the Redis face, by name."""

from __future__ import annotations

from kvstore.resp.connection_commands import CLIENTS
from kvstore.resp.keys import KEYS
from kvstore.resp.kv_commands import OWN
from kvstore.resp.spec import Spec
from kvstore.resp.strings import STRINGS


def _spec(name: str, arity: int, flags: str, summary: str, group: str, keys: tuple[int, int, int] = (0, 0, 0)) -> Spec:
    return Spec(name, arity, tuple(flags.split()), keys, group, summary)


_SPECIAL = [
    _spec("scan", -2, "readonly", "Walk through the keys.", "generic"),
    _spec("randomkey", 1, "readonly", "Some key.", "generic"),
    _spec("multi", 1, "fast", "Begin a transaction.", "transactions"),
    _spec("exec", 1, "", "Execute a transaction as one slot.", "transactions"),
    _spec("discard", 1, "fast", "Forget a transaction.", "transactions"),
    _spec("watch", -2, "fast", "Execute the next transaction only if these keys stay.", "transactions", (1, -1, 1)),
    _spec("unwatch", 1, "fast", "Forget watched keys.", "transactions"),
]
_SPECS = [
    *STRINGS,
    *KEYS,
    *_SPECIAL,
    *(spec for spec, _ in CLIENTS.values()),
    *(spec for spec, _ in OWN.values()),
]
TABLE: dict[bytes, Spec] = {spec.name.encode(): spec for spec in _SPECS}
"""By name in small letters."""


def find(name: bytes) -> Spec | None:
    """The command of this name, however it is written."""
    return TABLE.get(name) or TABLE.get(name.lower())
