"""Which version of kvstore this is, and whether its hot path is compiled."""

from __future__ import annotations

from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


@cache
def own_version() -> str:
    """The installed version; "unknown" where the sources are run without being installed.

    To find it takes half a millisecond and leaves circles of objects.
    """
    try:
        return version("paxos-kvstore")
    except PackageNotFoundError:
        return "unknown"


@cache
def is_compiled() -> bool:
    """Whether the modules that every command passes run as machine code; they are compiled all or none."""
    module = find_spec("consensus.replica")
    origin = module.origin if module else None
    return origin is not None and origin.endswith(tuple(EXTENSION_SUFFIXES))
