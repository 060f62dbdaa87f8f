"""Stands between the SQLite that ``sqlite3`` is linked with and its files.

A VFS is registered as the default one, a copy of the system's own: only opening and deleting come here first. A file
that lies in a watched directory is opened by the system's VFS, and then its methods are replaced by ours, which ask the
directory's watcher before they call the system's. Any other file keeps the system's methods, so that nothing changes
for it. Layouts and codes: https://sqlite.org/c3ref/vfs.html, https://sqlite.org/c3ref/io_methods.html
"""

from __future__ import annotations

import _sqlite3
import atexit
import ctypes
import random
import sqlite3
from ctypes import POINTER, PYFUNCTYPE, Structure, c_char_p, c_int, c_int64, c_void_p
from typing import Protocol, final

from kvstore.errors import KvstoreError

OK = sqlite3.SQLITE_OK
_NAME = b"kvstore-watched"
_VERSIONS = (3, 2)
"""At least these, of the structures of a VFS and of a file's methods: of SQLite 3.7.17 and 3.7.0."""
_CREATE = 0x00000004
_WAL = 0x00080000
_JOURNALS = 0x00000800 | 0x00004000 | _WAL
"""The first sync of a file of these kinds also syncs its directory, when it was opened to be created."""
_SYNC_DIRECTORY = 1
_UNLOCK = 1

_Open = PYFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_Delete = PYFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_OfFile = PYFUNCTYPE(c_int, c_void_p)
_Transfer = PYFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = PYFUNCTYPE(c_int, c_void_p, c_int64)
_WithFlags = PYFUNCTYPE(c_int, c_void_p, c_int)
_Size = PYFUNCTYPE(c_int, c_void_p, c_void_p)
_Randomness = PYFUNCTYPE(c_int, c_void_p, c_int, c_void_p)
_SharedMap = PYFUNCTYPE(c_int, c_void_p, c_int, c_int, c_int, POINTER(c_void_p))
_SharedLock = PYFUNCTYPE(c_int, c_void_p, c_int, c_int, c_int)


class _VfsStruct(Structure):
    _fields_ = (
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", c_void_p),
        ("xDelete", c_void_p),
        *((name, c_void_p) for name in ("xAccess", "xFullPathname", "xDlOpen", "xDlError", "xDlSym", "xDlClose")),
        *((name, c_void_p) for name in ("xRandomness", "xSleep", "xCurrentTime", "xGetLastError")),
        *((name, c_void_p) for name in ("xCurrentTimeInt64", "xSetSystemCall", "xGetSystemCall", "xNextSystemCall")),
    )


class _MethodsStruct(Structure):
    _fields_ = (
        ("iVersion", c_int),
        *((name, c_void_p) for name in ("xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize")),
        *((name, c_void_p) for name in ("xLock", "xUnlock", "xCheckReservedLock", "xFileControl", "xSectorSize")),
        *((name, c_void_p) for name in ("xDeviceCharacteristics", "xShmMap", "xShmLock", "xShmBarrier", "xShmUnmap")),
        *((name, c_void_p) for name in ("xFetch", "xUnfetch")),
    )


class UnreachableSqlite(KvstoreError):
    """The SQLite that ``sqlite3`` uses offers no way to put anything between it and its files."""


class WatchedFile(Protocol):
    """A file in a watched directory. Codes are SQLite's; 0 lets an operation happen."""

    def reading(self, size: int, offset: int) -> int: ...

    def writing(self, size: int, offset: int) -> tuple[int, int]:
        """How many bytes to write, and then the code to return."""
        ...

    def refused(self) -> None:
        """A write ended with a code: what was to be written of it is."""
        ...

    def truncating(self, size: int) -> int: ...

    def syncing(self, with_directory: bool) -> int:
        """The system's sync is not called: it would only cost time."""
        ...

    def mapping(self, size: int) -> int:
        """Shared memory beside the file is wanted; ``size`` is 0 when it must not be made larger."""
        ...

    def mapped(self, handle: int, address: int) -> None:
        """The beginning of the shared memory is there, until ``unmapping``."""
        ...

    def unmapping(self, handle: int, delete: bool) -> None: ...


class Watcher(Protocol):
    """Of a directory, and all below it. Paths are absolute, without symbolic links."""

    def opening(self, path: str, may_create: bool) -> int: ...

    def opened(self, path: str) -> WatchedFile: ...

    def deleting(self, path: str) -> int: ...

    def deleted(self, path: str, sync: bool) -> int:
        """``sync``: the directory is to be synced as well."""
        ...


@final
class _Methods:
    """A table of methods of the system's, and those that take its place."""

    def __init__(self, system: _MethodsStruct, live: _MethodsStruct, dead: _MethodsStruct) -> None:
        self.system = ctypes.addressof(system)
        self.live = live
        self.dead = dead
        self.close = _OfFile(system.xClose)
        self.read = _Transfer(system.xRead)
        self.write = _Transfer(system.xWrite)
        self.truncate = _Truncate(system.xTruncate)
        self.map = _SharedMap(system.xShmMap or 0)
        self.lock_shared = _SharedLock(system.xShmLock or 0)
        self.unmap = _WithFlags(system.xShmUnmap or 0)


@final
class _Handle:
    """An open file of SQLite's."""

    def __init__(self, file: WatchedFile, watcher: Watcher, methods: _Methods, is_new_journal: bool) -> None:
        self.file = file
        self.watcher = watcher
        self.methods = methods
        self.must_sync_directory = is_new_journal


class WatchingVfs:
    """The VFS. There is one in a process, which lives as long, since connections keep a pointer to it.

    An exception of a watcher can't pass through SQLite: every operation fails from then on, and ``check`` raises it.
    """

    def __init__(self) -> None:
        self._library = _library()
        self._watchers: dict[str, Watcher] = {}
        self._handles: dict[int, _Handle] = {}
        self._tables: dict[int, _Methods] = {}
        self._failure: BaseException | None = None
        self._system = found = _VfsStruct.from_address(self._library.sqlite3_vfs_find(None))
        if found.iVersion < _VERSIONS[0]:
            raise UnreachableSqlite(f"SQLite's own VFS is of version {found.iVersion}, {_VERSIONS[0]} is needed")
        self._system_open = _Open(found.xOpen)
        self._system_delete = _Delete(found.xDelete)
        self._callbacks = _Callbacks(self)
        self._struct = _VfsStruct.from_buffer_copy(found)
        self._struct.zName = _NAME
        self._struct.xOpen = _pointer(self._callbacks.open)
        self._struct.xDelete = _pointer(self._callbacks.delete)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._struct))  # connections may outlive all else of Python
        atexit.register(self._let_go)

    def watch(self, directory: str, watcher: Watcher) -> None:
        """From now on this is asked about what SQLite does below a directory."""
        if not self._watchers:
            self._library.sqlite3_vfs_register(ctypes.addressof(self._struct), 1)
        self._watchers[directory + "/"] = watcher

    def unwatch(self, directory: str) -> None:
        """Files that are still open there fail from now on."""
        self.abandon(self._watchers.pop(directory + "/"))
        if not self._watchers:
            self._library.sqlite3_vfs_unregister(ctypes.addressof(self._struct))

    def abandon(self, watcher: Watcher) -> None:
        """The process that has these files open has died: whatever is done with them fails, and changes nothing."""
        for address, handle in self._handles.items():
            if handle.watcher is watcher:
                c_void_p.from_address(address).value = ctypes.addressof(handle.methods.dead)

    def check(self) -> None:
        """Raise what went wrong within a watcher."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def seed(self, rng: random.Random) -> None:
        """SQLite's random numbers, as the salts of WALs, follow from this, while any directory is watched."""

        def fill(vfs: int, size: int, data: int) -> int:
            ctypes.memmove(data, rng.randbytes(size), size)
            return size

        self._randomness = _Randomness(fill)
        self._struct.xRandomness = _pointer(self._randomness)
        self._library.sqlite3_randomness(0, None)  # forget what it has, and ask

    # -- what SQLite calls --------------------------------------------------------------------------------------------

    def open(self, vfs: int, name: int | None, file: int, flags: int, out_flags: int | None) -> int:
        if not name or (found := self._watcher(path := ctypes.string_at(name).decode())) is None:
            return int(self._system_open(vfs, name, file, flags, out_flags))
        c_void_p.from_address(file).value = None
        try:
            if code := self._failed() or found.opening(path, bool(flags & _CREATE)):
                return code
            if code := self._system_open(vfs, name, file, flags, out_flags):
                return int(code)
            methods = self._methods(c_void_p.from_address(file).value or 0)
            is_new_journal = bool(flags & _CREATE and flags & _JOURNALS)
            self._handles[file] = _Handle(found.opened(path), found, methods, is_new_journal)
            c_void_p.from_address(file).value = ctypes.addressof(methods.live)
        except BaseException as error:
            return self._keep(error)
        return OK

    def delete(self, vfs: int, name: bytes, flags: int) -> int:
        if (found := self._watcher(path := name.decode())) is None:
            return int(self._system_delete(vfs, name, flags))
        try:
            if code := self._failed() or found.deleting(path):
                return code
            return int(self._system_delete(vfs, name, 0)) or found.deleted(path, bool(flags & _SYNC_DIRECTORY))
        except BaseException as error:
            return self._keep(error)

    def close(self, file: int) -> int:
        return int(self._handles.pop(file).methods.close(file))

    def read(self, file: int, data: int, size: int, offset: int) -> int:
        try:
            handle = self._handles[file]
            return self._failed() or handle.file.reading(size, offset) or handle.methods.read(file, data, size, offset)
        except BaseException as error:
            return self._keep(error)

    def write(self, file: int, data: int, size: int, offset: int) -> int:
        try:
            handle = self._handles[file]
            if code := self._failed():
                return code
            written, code = handle.file.writing(size, offset)
            if written and (failed := handle.methods.write(file, data, written, offset)):
                raise OSError(f"the real disk below a simulated one took no write (SQLite's code {failed})")
            if code:
                handle.file.refused()
            return code
        except BaseException as error:
            return self._keep(error)

    def truncate(self, file: int, size: int) -> int:
        try:
            handle = self._handles[file]
            return self._failed() or handle.file.truncating(size) or handle.methods.truncate(file, size)
        except BaseException as error:
            return self._keep(error)

    def sync(self, file: int, flags: int) -> int:
        try:
            handle = self._handles[file]
            if code := self._failed() or handle.file.syncing(handle.must_sync_directory):
                return code
            handle.must_sync_directory = False
        except BaseException as error:
            return self._keep(error)
        return OK

    def map(self, file: int, region: int, size: int, extend: int, address: ctypes._Pointer[c_void_p]) -> int:
        try:
            handle = self._handles[file]
            if code := self._failed() or handle.file.mapping(size if extend else 0):
                return code
            if code := handle.methods.map(file, region, size, extend, address):
                return int(code)
            if region == 0 and (found := address.contents.value):
                handle.file.mapped(file, found)
        except BaseException as error:
            return self._keep(error)
        return OK

    def unmap(self, file: int, delete: int) -> int:
        try:
            handle = self._handles[file]
            handle.file.unmapping(file, bool(delete))
            return int(handle.methods.unmap(file, delete))
        except BaseException as error:
            return self._keep(error)

    # A process that has died holds its locks no longer, and takes none.

    def lock_shared_dead(self, file: int, offset: int, count: int, flags: int) -> int:
        if not flags & _UNLOCK:
            return sqlite3.SQLITE_IOERR_SHMLOCK
        return int(self._handles[file].methods.lock_shared(file, offset, count, flags))

    def unmap_dead(self, file: int, delete: int) -> int:
        return int(self._handles[file].methods.unmap(file, 0))

    def _let_go(self) -> None:
        """Python ends: what is still open is the system's, since our functions are about to go."""
        for name in ("xOpen", "xDelete", "xRandomness"):
            setattr(self._struct, name, getattr(self._system, name))
        for address, handle in self._handles.items():
            c_void_p.from_address(address).value = handle.methods.system

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _watcher(self, path: str) -> Watcher | None:
        for directory, watcher in self._watchers.items():
            if path.startswith(directory):
                return watcher
        return None

    def _failed(self) -> int:
        return OK if self._failure is None else sqlite3.SQLITE_IOERR

    def _keep(self, error: BaseException) -> int:
        self._failure = self._failure or error
        return sqlite3.SQLITE_IOERR

    def _methods(self, address: int) -> _Methods:
        """Ours in place of a table of the system's."""
        known = self._tables.get(address)
        if known is not None:
            return known
        system = _MethodsStruct.from_address(address)
        if system.iVersion < _VERSIONS[1]:
            raise UnreachableSqlite(f"SQLite's files have methods of version {system.iVersion}, not {_VERSIONS[1]}")
        known = self._callbacks.methods(system)
        self._tables[address] = known
        return known


@final
class _Callbacks:
    """The functions that C calls, which must stay as long as it may call them."""

    def __init__(self, vfs: WatchingVfs) -> None:
        self.open = _Open(vfs.open)
        self.delete = _Delete(vfs.delete)
        shared: dict[str, ctypes._CFunctionType] = {"xShmMap": _SharedMap(vfs.map), "xShmUnmap": _WithFlags(vfs.unmap)}
        self._live: dict[str, ctypes._CFunctionType] = {
            "xClose": _OfFile(vfs.close),
            "xRead": _Transfer(vfs.read),
            "xWrite": _Transfer(vfs.write),
            "xTruncate": _Truncate(vfs.truncate),
            "xSync": _WithFlags(vfs.sync),
            **shared,
        }
        self._dead: dict[str, ctypes._CFunctionType] = {
            "xClose": self._live["xClose"],
            "xRead": _Transfer(lambda *_: sqlite3.SQLITE_IOERR_READ),
            "xWrite": _Transfer(lambda *_: sqlite3.SQLITE_IOERR_WRITE),
            "xTruncate": _Truncate(lambda *_: sqlite3.SQLITE_IOERR_TRUNCATE),
            "xSync": _WithFlags(lambda *_: sqlite3.SQLITE_IOERR_FSYNC),
            "xFileSize": _Size(lambda *_: sqlite3.SQLITE_IOERR_FSTAT),
            "xLock": _WithFlags(lambda *_: sqlite3.SQLITE_IOERR_LOCK),
            "xCheckReservedLock": _Size(lambda *_: sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK),
            "xShmMap": _SharedMap(lambda *_: sqlite3.SQLITE_IOERR_SHMMAP),
            "xShmLock": _SharedLock(vfs.lock_shared_dead),
            "xShmUnmap": _WithFlags(vfs.unmap_dead),
        }

    def methods(self, system: _MethodsStruct) -> _Methods:
        """A table of the system's with ours; what it does not offer, as shared memory of some files, stays missing."""
        tables = []
        for ours in (self._live, self._dead):
            table = _MethodsStruct.from_buffer_copy(system)
            for name, callback in ours.items():
                if getattr(system, name):
                    setattr(table, name, _pointer(callback))
            tables.append(table)
        return _Methods(system, *tables)


def _pointer(callback: ctypes._CFunctionType) -> int:
    return ctypes.cast(callback, c_void_p).value or 0


def _library() -> ctypes.CDLL:
    """The SQLite that ``sqlite3`` is linked with. Raises UnreachableSqlite."""
    try:
        library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
        library.sqlite3_vfs_find.argtypes = (c_char_p,)
        library.sqlite3_vfs_find.restype = c_void_p
        library.sqlite3_vfs_register.argtypes = (c_void_p, c_int)
        library.sqlite3_vfs_unregister.argtypes = (c_void_p,)
        library.sqlite3_randomness.argtypes = (c_int, c_void_p)
        library.sqlite3_libversion.restype = c_char_p
    except (OSError, AttributeError) as error:
        raise UnreachableSqlite(
            f"the SQLite of this Python shows none of its functions ({error}): use a Python that is linked with a"
            " shared libsqlite3"
        ) from error
    version = library.sqlite3_libversion().decode()
    if version != sqlite3.sqlite_version:
        raise UnreachableSqlite(f"Python uses SQLite {sqlite3.sqlite_version}, but {version} was found")
    return library
