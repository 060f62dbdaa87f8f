"""A replicated key-value store; what Python programs use of it can be imported from here.

A store lives in a directory of this machine, which one process at a time has open::

    >>> import kvstore
    >>> with kvstore.open_store("data") as store:
    ...     store.execute(kvstore.parse("set greeting hello")).result
    ...     store.execute(kvstore.Incr(b"visits", 2)).result
    ...     store.execute(kvstore.Get(b"greeting")).result.value.data
    Done()
    Integer(number=2)
    b'hello'

Every write is on disk when its call returns. A condition that is not met and a key that does not exist are results;
errors are of the class KvstoreError, and say whether the command may have happened::

    >>> with kvstore.open_store("data") as store:
    ...     store.execute(kvstore.Get(b"nobody")).result
    ...     try:
    ...         store.execute(kvstore.Set(b"", kvstore.Value(b"a key has at least one byte")))
    ...     except kvstore.CommandError:
    ...         "nothing was proposed"
    Missing()
    'nothing was proposed'

Anybody may look at the directory meanwhile, as far as it is on disk::

    >>> with kvstore.open_read_only("data") as store:
    ...     store.sql("SELECT key, value FROM kv ORDER BY key")
    (['key', 'value'], [('greeting', 'hello'), ('visits', '2')])

``kvstore.connect("127.0.0.1:6401,127.0.0.1:6402")`` gives a store on a cluster. It has the same methods, those of
:class:`kvstore.Store`, and turns to another of these nodes when one does not answer.

Nothing is imported before it is used, so that ``import kvstore`` costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # that of typing would have to be imported
if TYPE_CHECKING:
    from kvstore.commands import (
        Append,
        Cas,
        Clear,
        Command,
        Comparison,
        Condition,
        Copy,
        Count,
        Delete,
        Done,
        Early,
        Exists,
        Expire,
        Expired,
        Failed,
        Forgotten,
        Found,
        Get,
        GetDelete,
        GetExpire,
        Incr,
        IncrFloat,
        Integer,
        Keys,
        Missing,
        NotACommand,
        NotMet,
        Outcomes,
        Persist,
        Push,
        Rename,
        Result,
        Row,
        Rows,
        Scan,
        Set,
        SetMany,
        SetRange,
        Subject,
        Tick,
        Ttl,
        Txn,
        Unkept,
        Value,
        Walk,
    )
    from kvstore.errors import (
        CommandError,
        DamagedError,
        DataDirError,
        KvstoreError,
        StorageFullError,
        UnavailableError,
        UnknownOutcomeError,
    )
    from kvstore.handles.embedded import EmbeddedStore
    from kvstore.handles.opening import connect, open_read_only, open_store
    from kvstore.handles.read_only import ReadOnlyStore
    from kvstore.handles.remote import RemoteStore
    from kvstore.language.parser import parse
    from kvstore.store import LogRow, Reply, Status, Store

_HOMES = {
    "kvstore.handles.opening": "connect open_read_only open_store",
    "kvstore.handles.embedded": "EmbeddedStore",
    "kvstore.handles.read_only": "ReadOnlyStore",
    "kvstore.handles.remote": "RemoteStore",
    "kvstore.store": "LogRow Reply Status Store",
    "kvstore.language.parser": "parse",
    "kvstore.commands": (
        "Append Cas Clear Command Comparison Condition Copy Count Delete Done Early Exists Expire Expired Failed "
        "Forgotten Found Get GetDelete GetExpire Incr IncrFloat Integer Keys Missing NotACommand NotMet Outcomes "
        "Persist Push Rename Result Row Rows Scan Set SetMany SetRange Subject Tick Ttl Txn Unkept Value Walk"
    ),
    "kvstore.errors": (
        "CommandError DamagedError DataDirError KvstoreError StorageFullError UnavailableError UnknownOutcomeError"
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Append",
    "Cas",
    "Clear",
    "Command",
    "CommandError",
    "Comparison",
    "Condition",
    "Copy",
    "Count",
    "DamagedError",
    "DataDirError",
    "Delete",
    "Done",
    "Early",
    "EmbeddedStore",
    "Exists",
    "Expire",
    "Expired",
    "Failed",
    "Forgotten",
    "Found",
    "Get",
    "GetDelete",
    "GetExpire",
    "Incr",
    "IncrFloat",
    "Integer",
    "Keys",
    "KvstoreError",
    "LogRow",
    "Missing",
    "NotACommand",
    "NotMet",
    "Outcomes",
    "Persist",
    "Push",
    "ReadOnlyStore",
    "RemoteStore",
    "Rename",
    "Reply",
    "Result",
    "Row",
    "Rows",
    "Scan",
    "Set",
    "SetMany",
    "SetRange",
    "Status",
    "StorageFullError",
    "Store",
    "Subject",
    "Tick",
    "Ttl",
    "Txn",
    "UnavailableError",
    "Unkept",
    "UnknownOutcomeError",
    "Value",
    "Walk",
    "connect",
    "open_read_only",
    "open_store",
    "parse",
]

if not TYPE_CHECKING:  # a type checker knows all names, and is to complain of others

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
